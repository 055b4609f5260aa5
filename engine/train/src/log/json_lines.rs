//! Records as JSON lines, one or more a step, appended.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use querywright_types::{Error, Result, printable_json};

/// An append-only file of records of the type `T`, each with a `step` key; steps never fall from line to line.
#[derive(Debug)]
pub struct JsonLines<T> {
    path: PathBuf,
    file: File,
    record: PhantomData<fn(&T)>,
}

/// The one key that every record has.
#[derive(serde::Deserialize)]
struct Stamp {
    step: u64,
}

impl<T> JsonLines<T> {
    /// Opens a file for appending, and creates it if need be. Of what it holds, the records up to the step
    /// `keep_through` stay (None: nothing stays); later ones and a half-written last line are cut off.
    ///
    /// # Errors
    /// When the file cannot be read or written, or a line that is not the last one is no record.
    pub fn open(path: impl Into<PathBuf>, keep_through: Option<u64>) -> Result<Self> {
        let path = path.into();
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = options.map_err(|e| Error::write(&path, e))?;
        let mut kept = 0;
        if let Some(last) = keep_through {
            each_line(&path, &file, |line: Stamp, bytes| {
                let keep = line.step <= last;
                kept += if keep { bytes } else { 0 };
                keep
            })?;
        }
        file.set_len(kept).and_then(|()| file.seek(SeekFrom::End(0))).map_err(|e| Error::write(&path, e))?;
        Ok(Self { path, file, record: PhantomData })
    }
}

impl<T: Serialize> JsonLines<T> {
    /// Appends records, all in one write.
    ///
    /// # Errors
    /// When the file cannot be written (a full disk, say).
    pub fn append(&mut self, records: &[T]) -> Result<()> {
        let mut lines = String::new();
        for record in records {
            let line = serde_json::to_string(record).map_err(|e| Error::write(&self.path, e.into()))?;
            // People look at logs in terminals, and a completion may hold anything.
            lines += &printable_json(&line);
            lines.push('\n');
        }
        self.file.write_all(lines.as_bytes()).map_err(|e| Error::write(&self.path, e))
    }
}

impl<T: DeserializeOwned> JsonLines<T> {
    /// Reads all records of a file; a half-written last line is passed over.
    ///
    /// # Errors
    /// When the file cannot be read, or a line that is not the last one is no record.
    pub fn read(path: impl AsRef<Path>) -> Result<Vec<T>> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|e| Error::read(path, e))?;
        let mut records = Vec::new();
        each_line(path, &file, |record, _| {
            records.push(record);
            true
        })?;
        Ok(records)
    }
}

/// Gives each line's value and its length in bytes to `take` until that says stop. A last line that is cut off or
/// unreadable is what a crash leaves behind; anywhere else it is an error.
fn each_line<V: DeserializeOwned>(path: &Path, file: &File, mut take: impl FnMut(V, u64) -> bool) -> Result<()> {
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let bytes = reader.read_until(b'\n', &mut line).map_err(|e| Error::read(path, e))?;
        if !line.ends_with(b"\n") {
            return Ok(());
        }
        match serde_json::from_slice(&line) {
            Ok(value) => {
                if !take(value, bytes as u64) {
                    return Ok(());
                }
            }
            Err(_) if reader.fill_buf().map_err(|e| Error::read(path, e))?.is_empty() => return Ok(()),
            Err(e) => {
                let found = format!("not a record of this log ({e})");
                return Err(Error::data(path, Some(number), found, "remove the line, or move the file away"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, serde::Deserialize)]
    struct Record {
        step: u64,
        text: String,
    }

    fn record(step: u64) -> Record {
        Record { step, text: format!("line\n{step} \u{1F600}") }
    }

    fn steps(path: &Path) -> Vec<u64> {
        JsonLines::<Record>::read(path).unwrap().iter().map(|r| r.step).collect()
    }

    #[test]
    fn resuming_cuts_off_what_came_after_the_checkpoint() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        let mut log = JsonLines::open(&path, None).unwrap();
        for step in 1..=5 {
            log.append(&[record(step), record(step)]).unwrap();
        }
        drop(log);
        let mut log = JsonLines::open(&path, Some(3)).unwrap();
        assert_eq!(steps(&path), [1, 1, 2, 2, 3, 3]);
        log.append(&[record(4)]).unwrap();
        assert_eq!(steps(&path), [1, 1, 2, 2, 3, 3, 4]);
        assert_eq!(JsonLines::<Record>::read(&path).unwrap()[6], record(4));
        JsonLines::<Record>::open(&path, None).unwrap();
        assert!(steps(&path).is_empty());
    }

    #[test]
    fn a_write_that_a_crash_cut_off_at_any_byte_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        JsonLines::open(&path, None).unwrap().append(&[record(1), record(2), record(3)]).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let complete = whole[..length].iter().filter(|b| **b == b'\n').count() as u64;
            assert_eq!(steps(&path), (1..=complete).collect::<Vec<_>>());
            JsonLines::open(&path, Some(9)).unwrap().append(&[record(9)]).unwrap();
            assert_eq!(steps(&path), (1..=complete).chain([9]).collect::<Vec<_>>());
        }
        std::fs::write(&path, [&whole[..], b"\0\0\0\n"].concat()).unwrap();
        assert_eq!(steps(&path), [1, 2, 3]);
    }

    #[test]
    fn no_record_brings_a_control_character_into_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        let record = Record { step: 1, text: "a\u{9b}31m\u{202e}b\u{7f}".into() };
        JsonLines::open(&path, None).unwrap().append(std::slice::from_ref(&record)).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "{\"step\":1,\"text\":\"a\\u009b31m\\u202eb\\u007f\"}\n");
        assert_eq!(JsonLines::<Record>::read(&path).unwrap(), [record]);
    }

    #[test]
    fn a_broken_line_in_the_middle_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        std::fs::write(&path, "{\"step\":1,\"text\":\"\"}\nnonsense\n{\"step\":2,\"text\":\"\"}\n").unwrap();
        let error = JsonLines::<Record>::open(&path, Some(9)).unwrap_err().to_string();
        assert!(error.contains("log.jsonl:2"), "{error}");
        let missing = JsonLines::<Record>::read(folder.path().join("none")).unwrap_err().to_string();
        assert!(missing.contains("cannot read"), "{missing}");
    }
}
