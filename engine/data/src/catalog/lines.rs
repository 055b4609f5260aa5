//! Text files, one line at a time.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;

use super::encoding;
use querywright_types::{Error, Result};

/// The longest line that is read: no file may fill the memory because it lacks line ends.
const LONGEST_LINE: u64 = 64 << 20;
/// The largest file that is read as a whole.
const LARGEST_WHOLE: u64 = 1 << 30;
/// How many bad lines of a file an error names.
pub(super) const NAMED: usize = 10;
/// How many it names where everything doubtful is to be refused and named.
pub(super) const NAMED_STRICTLY: usize = 1000;

/// Reads a file line by line. Blank lines are passed over, a byte order mark and `\r` are taken off; gzip is unpacked.
pub(super) struct Lines {
    path: PathBuf,
    reader: Box<dyn BufRead>,
    gzip: bool,
    buffer: Vec<u8>,
    /// The line in UTF-8, where it was Latin-1.
    decoded: String,
    latin1: bool,
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
    /// A part of a file that was read as a whole, or a row of one that has no lines.
    pub(super) fn at(path: &'a Path, number: u64, text: &'a str) -> Self {
        Self { text, number, path }
    }

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
    /// Opens a file, compressed by gzip or not; `expected` says what each of its lines should be, for the sentence about
    /// an empty file. What is no UTF-8 text as a whole is refused here.
    pub(super) fn open(path: &Path, expected: &'static str) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::read(path, e))?;
        let mut reader: Box<dyn BufRead> = Box::new(BufReader::with_capacity(64 << 10, file));
        let head = reader.fill_buf().map_err(|e| Error::read(path, e))?;
        let gzip = head.starts_with(encoding::GZIP);
        if !gzip && path.extension().is_some_and(|extension| extension == "gz") {
            let remedy = "rename it where it is plain text, else fetch it again";
            return Err(Error::data(path, None, "the file is named .gz and is no gzip file", remedy));
        }
        if gzip {
            reader = Box::new(BufReader::with_capacity(64 << 10, MultiGzDecoder::new(reader)));
        }
        let mut lines = Self {
            path: path.to_path_buf(),
            reader,
            gzip,
            buffer: Vec::new(),
            decoded: String::new(),
            latin1: false,
            number: 0,
            any: false,
            expected,
        };
        let head = match lines.reader.fill_buf() {
            Ok(head) => head.get(..encoding::HEAD).unwrap_or(head).to_vec(),
            Err(e) => return Err(lines.broken(e)),
        };
        match encoding::foreign(&head) {
            Some((found, remedy)) => Err(Error::data(path, None, found, remedy)),
            None => Ok(lines),
        }
    }

    /// Reads so many bytes at most.
    pub(super) fn until(self, bytes: u64) -> Self {
        Self { reader: Box::new(BufReader::new(self.reader.take(bytes))), ..self }
    }

    /// Takes lines that are no UTF-8 as Latin-1, in which older files are written.
    pub(super) fn or_latin1(mut self) -> Self {
        self.latin1 = true;
        self
    }

    /// The whole file.
    ///
    /// # Errors
    /// When it cannot be read, is empty, no UTF-8, or larger than 1 GiB.
    pub(super) fn whole(mut self) -> Result<String> {
        let mut bytes = Vec::new();
        let read = (&mut self.reader).take(LARGEST_WHOLE + 1).read_to_end(&mut bytes);
        read.map_err(|e| self.broken(e))?;
        let refuse = |found: String| Error::data(&self.path, None, found, format!("expected {}", self.expected));
        if bytes.len() as u64 > LARGEST_WHOLE {
            return Err(refuse(format!("the file is larger than {} MiB", LARGEST_WHOLE >> 20)));
        }
        let text = String::from_utf8(bytes).map_err(|e| refuse(format!("{e}")))?;
        if text.trim().is_empty() {
            return Err(refuse("the file is empty".to_owned()));
        }
        Ok(match text.strip_prefix('\u{feff}') {
            Some(rest) => rest.to_owned(),
            None => text,
        })
    }

    /// Hands every line that is not blank to `take`. Lines that it refuses, and those that are no text, are passed over
    /// and make one error at the end, which names the first `named` of them and says how many there are.
    ///
    /// # Errors
    /// That error; at once what concerns the whole file.
    pub(super) fn each(mut self, named: usize, mut take: impl FnMut(Line<'_>) -> Result<()>) -> Result<()> {
        let mut faults = Faults::new(named);
        loop {
            match self.next() {
                Ok(None) => return faults.finish(),
                Ok(Some(line)) => faults.note(take(line))?,
                Err(error) => faults.note(Err(error))?,
            }
        }
    }

    /// The next line that is not blank. A file without any is an error. After an error that names a line, the next line
    /// may be asked for.
    pub(super) fn next(&mut self) -> Result<Option<Line<'_>>> {
        self.next_record(|_| false)
    }

    /// The same for records that may take several lines: as long as `open` says so of what was read since it was last
    /// asked, the line that follows belongs to the record. The number is that of its first line.
    pub(super) fn next_record(&mut self, mut open: impl FnMut(&[u8]) -> bool) -> Result<Option<Line<'_>>> {
        loop {
            self.buffer.clear();
            if !self.append()? {
                return match self.any {
                    true => Ok(None),
                    false => {
                        Err(Error::data(&self.path, None, "the file is empty", format!("expected {}", self.expected)))
                    }
                };
            }
            if !self.buffer.iter().all(u8::is_ascii_whitespace) {
                break;
            }
        }
        self.any = true;
        let (number, mut from) = (self.number, 0);
        while open(&self.buffer[from..]) {
            from = self.buffer.len();
            self.buffer.push(b'\n');
            if !self.append()? {
                let found = "a quote is opened and not closed up to the end of the file";
                return Err(Error::data(
                    &self.path,
                    Some(number),
                    found,
                    "close it; a quote in a quoted value is doubled",
                ));
            }
        }
        match std::str::from_utf8(&self.buffer) {
            Err(_) if self.latin1 => self.decoded = self.buffer.iter().map(|byte| char::from(*byte)).collect(),
            Err(e) => {
                return Err(Error::data(
                    &self.path,
                    Some(number),
                    format!("byte {} of the line is not UTF-8", e.valid_up_to() + 1),
                    "convert the file, such as with: iconv -f latin1 -t utf-8",
                ));
            }
            Ok(text) => return Ok(Some(Line { text, number, path: &self.path })),
        }
        Ok(Some(Line { text: &self.decoded, number, path: &self.path }))
    }

    /// Reads a line behind what the buffer holds, without its end. False where the file has ended.
    fn append(&mut self) -> Result<bool> {
        let before = self.buffer.len();
        let mut limited = (&mut self.reader).take(LONGEST_LINE.saturating_sub(before as u64).max(1));
        let read = limited.read_until(b'\n', &mut self.buffer);
        if read.map_err(|e| self.broken(e))? == 0 {
            return Ok(false);
        }
        self.number += 1;
        if self.buffer.len() as u64 >= LONGEST_LINE && self.buffer.last() != Some(&b'\n') {
            self.any = true;
            self.reader.skip_until(b'\n').map_err(|e| self.broken(e))?;
            let found = format!("the line is longer than {} MiB", LONGEST_LINE >> 20);
            return Err(Error::data(&self.path, Some(self.number), found, format!("expected {}", self.expected)));
        }
        if self.number == 1 && self.buffer.starts_with(b"\xEF\xBB\xBF") {
            self.buffer.drain(..3);
        }
        while self.buffer.len() > before && self.buffer.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
            self.buffer.pop();
        }
        Ok(true)
    }

    /// What the reader refused.
    fn broken(&self, error: std::io::Error) -> Error {
        let damaged =
            matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::InvalidData | ErrorKind::UnexpectedEof);
        match self.gzip && damaged {
            true => Error::data(
                &self.path,
                None,
                format!("the gzip file is cut off or damaged after line {}: {error}", self.number),
                "fetch it again, or compress it again",
            ),
            false => Error::read(&self.path, error),
        }
    }
}

/// The bad lines of a file.
pub(super) struct Faults {
    named: usize,
    first: Option<Error>,
    more: Vec<String>,
    count: usize,
}

impl Faults {
    /// Of which the first `named` are named.
    pub(super) fn new(named: usize) -> Self {
        Self { named, first: None, more: Vec::new(), count: 0 }
    }

    /// Keeps an error that names a line; passes on any other.
    pub(super) fn note(&mut self, result: Result<()>) -> Result<()> {
        match result {
            Ok(()) => return Ok(()),
            Err(error @ Error::Data { line: Some(_), .. }) if self.first.is_none() => self.first = Some(error),
            Err(Error::Data { line: Some(line), found, .. }) => {
                if self.more.len() + 1 < self.named {
                    self.more.push(format!("{line}: {found}"));
                }
            }
            Err(other) => return Err(other),
        }
        self.count += 1;
        Ok(())
    }

    /// The error that names them; nothing where there are none.
    pub(super) fn finish(self) -> Result<()> {
        match self.first {
            None => Ok(()),
            Some(Error::Data { path, line, found, remedy, .. }) if self.count > 1 => {
                let listed = if self.count - 1 > self.more.len() { ", the first of them" } else { "" };
                let lines = if self.count == 2 { "line" } else { "lines" };
                let more = format!("{} more {lines}{listed} {}", self.count - 1, self.more.join("; "));
                Err(Error::data(path, line, format!("{found} (and {more})"), remedy))
            }
            Some(only) => Err(only),
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
