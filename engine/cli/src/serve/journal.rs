//! Documents that came and went while an engine was served: a file that is only added to, a request a line.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use querywright::catalog::DocumentChanges;
use querywright::{Error, Result};

/// An engine's journal. No other process writes it while it is open.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    /// Locked.
    file: File,
    changes: DocumentChanges,
    /// Whether a line that failed could not be taken back.
    broken: bool,
}

impl Journal {
    /// Opens a journal, or makes an empty one. What a process that was killed left of a line goes.
    ///
    /// # Errors
    /// When it cannot be read and written, another process has it, or it holds something else.
    pub fn open(path: &Path) -> Result<Self> {
        if path.extension().is_some_and(|extension| extension == "gz") {
            let found = format!("{} is the name of a compressed file", path.display());
            return Err(Error::argument("changes", found, "it is written as text: name it .jsonl"));
        }
        let fresh = !path.exists();
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = file.map_err(|e| Error::write(path, e))?;
        file.try_lock().map_err(|_| {
            let found = format!("{} is in use", path.display());
            Error::argument("changes", found, "give each engine of each server a file of its own")
        })?;
        let changes = DocumentChanges::read(path)?;
        let mut journal = Self { path: path.to_owned(), file, changes, broken: false };
        let ready = |journal: &mut Self| {
            journal.end_at_a_line()?;
            // The file's name outlasts the machine, too.
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            if fresh { File::open(folder)?.sync_all() } else { Ok(()) }
        };
        ready(&mut journal).map_err(|e| Error::write(path, e))?;
        Ok(journal)
    }

    /// All changes so far.
    pub fn changes(&self) -> &DocumentChanges {
        &self.changes
    }

    /// Adds a request that was checked, so that it outlasts the process and the machine.
    pub fn append(&mut self, line: &str, all: DocumentChanges) -> Result<()> {
        let fail = |error| Error::write(&self.path, error);
        if self.broken {
            return Err(fail(std::io::Error::other("an earlier line could not be taken back; start the server anew")));
        }
        let before = self.file.seek(SeekFrom::End(0)).map_err(fail)?;
        let write = |file: &mut File| {
            file.write_all(format!("{}\n", line.trim()).as_bytes())?;
            file.sync_data()
        };
        if let Err(error) = write(&mut self.file) {
            // Who asked is told that it failed: it must not come back.
            self.broken = self.file.set_len(before).and_then(|()| self.file.sync_data()).is_err();
            return Err(Error::write(&self.path, error));
        }
        self.changes = all;
        Ok(())
    }

    fn end_at_a_line(&mut self) -> std::io::Result<()> {
        let text = std::fs::read(&self.path)?;
        let end = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        if end < text.len() {
            self.file.set_len(end as u64)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_under_which_it_could_not_be_read_again_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Journal::open(&folder.path().join("changes.jsonl.gz")).unwrap_err().to_string().contains(".jsonl"));
    }

    #[test]
    fn what_was_appended_is_there_after_a_restart_and_half_a_line_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("changes.jsonl");
        let add = |journal: &mut Journal, line: &str| {
            let mut all = journal.changes().clone();
            all.push(line).unwrap();
            journal.append(line, all)
        };
        let mut journal = Journal::open(&path).unwrap();
        assert!(journal.changes().is_empty());
        add(&mut journal, r#"{"add":[{"id":"a"}]}"#).unwrap();
        add(&mut journal, r#"{"delete":["b"]}"#).unwrap();
        assert!(Journal::open(&path).unwrap_err().to_string().contains("is in use"));
        let right = journal.changes().clone();
        drop(journal);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, [&whole[..], b"{\"add\":[{\"id\":"].concat()).unwrap();
        let mut journal = Journal::open(&path).unwrap();
        assert_eq!(journal.changes(), &right);
        assert_eq!(std::fs::read(&path).unwrap(), whole);
        add(&mut journal, r#"{"delete":["c"]}"#).unwrap();
        let all = journal.changes().clone();
        drop(journal);
        assert_eq!(Journal::open(&path).unwrap().changes(), &all);
    }
}
