//! Text files, one line at a time.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use querywright_types::{Error, Result};

/// The longest line that is read: no file may fill the memory because it lacks line ends.
const LONGEST_LINE: u64 = 64 << 20;

/// Reads a file line by line. Blank lines are passed over, a byte order mark and `\r` are taken off.
pub(super) struct Lines {
    path: PathBuf,
    reader: BufReader<File>,
    buffer: Vec<u8>,
    number: u64,
    any: bool,
    expected: &'static str,
}

/// One line of a file.
#[derive(Clone, Copy)]
pub(super) struct Line<'a> {
    /// Its text, without the line end.
    pub(super) text: &'a str,
    /// Its number, counted from 1.
    pub(super) number: u64,
    path: &'a Path,
}

impl<'a> Line<'a> {
    /// The file.
    pub(super) fn path(&self) -> &'a Path {
        self.path
    }

    /// An error that names this line.
    pub(super) fn refuse(&self, found: impl Into<String>, remedy: impl Into<String>) -> Error {
        Error::data(self.path, Some(self.number), found, remedy)
    }
}

impl Lines {
    /// Opens a file; `expected` says what each of its lines should be, for the sentence about an empty file.
    pub(super) fn open(path: &Path, expected: &'static str) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::read(path, e))?;
        let reader = BufReader::with_capacity(64 << 10, file);
        Ok(Self { path: path.to_path_buf(), reader, buffer: Vec::new(), number: 0, any: false, expected })
    }

    /// The next line that is not blank. A file without any is an error.
    pub(super) fn next(&mut self) -> Result<Option<Line<'_>>> {
        loop {
            self.buffer.clear();
            let mut limited = (&mut self.reader).take(LONGEST_LINE);
            let read = limited.read_until(b'\n', &mut self.buffer).map_err(|e| Error::read(&self.path, e))?;
            if read == 0 {
                return if self.any {
                    Ok(None)
                } else {
                    Err(Error::data(&self.path, None, "the file is empty", format!("expected {}", self.expected)))
                };
            }
            self.number += 1;
            if read as u64 == LONGEST_LINE && self.buffer.last() != Some(&b'\n') {
                let found = format!("the line is longer than {} MiB", LONGEST_LINE >> 20);
                return Err(Error::data(&self.path, Some(self.number), found, format!("expected {}", self.expected)));
            }
            if self.number == 1 && self.buffer.starts_with(b"\xEF\xBB\xBF") {
                self.buffer.drain(..3);
            }
            while self.buffer.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
                self.buffer.pop();
            }
            if !self.buffer.iter().all(u8::is_ascii_whitespace) {
                break;
            }
        }
        self.any = true;
        match std::str::from_utf8(&self.buffer) {
            Ok(text) => Ok(Some(Line { text, number: self.number, path: &self.path })),
            Err(e) => Err(Error::data(
                &self.path,
                Some(self.number),
                format!("byte {} of the line is not UTF-8", e.valid_up_to() + 1),
                "convert the file, such as with: iconv -f latin1 -t utf-8",
            )),
        }
    }
}

/// `text` in quotes, cut to what fits in a sentence.
pub(super) fn quoted(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("\"{}…\"", &text[..end]),
        None => format!("\"{text}\""),
    }
}
