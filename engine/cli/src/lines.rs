//! Lines of standard input: each gets an answer of its own, whatever it holds.

use std::io::{BufRead, Read};

use querywright::{Error, Result};

/// A longer line is refused without being read into memory whole.
pub const LONGEST_LINE: u64 = 1 << 20;

/// Reads lines of another process.
pub struct Lines<R> {
    input: R,
    line: Vec<u8>,
    first: bool,
}

impl<R: BufRead> Lines<R> {
    pub fn new(input: R) -> Self {
        Self { input, line: Vec::new(), first: true }
    }

    /// The next line without its end; the inner error is about this line alone. None at the end of the input.
    ///
    /// # Errors
    /// When the input cannot be read.
    pub fn next(&mut self) -> Result<Option<Result<&[u8]>>> {
        self.line.clear();
        let fail = |e| Error::read("standard input", e);
        let read = (&mut self.input).take(LONGEST_LINE).read_until(b'\n', &mut self.line).map_err(fail)?;
        if read == 0 {
            return Ok(None);
        }
        if self.line.last() != Some(&b'\n') && read as u64 >= LONGEST_LINE {
            self.input.skip_until(b'\n').map_err(fail)?;
            let found = "the line is longer than 1 MiB";
            return Ok(Some(Err(Error::argument("request", found, "send a shorter query"))));
        }
        let mut line = self.line.as_slice();
        if std::mem::take(&mut self.first) {
            line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        }
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        Ok(Some(Ok(line.strip_suffix(b"\r").unwrap_or(line))))
    }
}

/// The text of a line.
///
/// # Errors
/// When it is not UTF-8, or has the zeros of a text whose characters have two bytes: in ASCII these are valid UTF-8.
pub fn text(line: &[u8]) -> Result<&str> {
    if line.contains(&0) || line.starts_with(b"\xff\xfe") || line.starts_with(b"\xfe\xff") {
        let found = "the line is text in UTF-16, or holds zeros";
        return Err(Error::argument("request", found, "convert the input, such as with: iconv -f UTF-16 -t UTF-8"));
    }
    std::str::from_utf8(line).map_err(|e| {
        let found = format!("byte {} of the line is not UTF-8", e.valid_up_to() + 1);
        Error::argument("request", found, "convert the input, such as with: iconv -f latin1 -t utf-8")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_in_utf_16_is_refused_with_its_encoding_although_its_bytes_may_be_utf_8() {
        for line in [&b"t\0e\0a\0"[..], b"\0t\0e\0a", b"\xff\xfet\0", b"\xfe\xff\0t"] {
            assert!(text(line).unwrap_err().to_string().contains("iconv -f UTF-16"), "{line:?}");
        }
        assert!(text(b"t\xe9").unwrap_err().to_string().contains("iconv -f latin1"));
        assert_eq!(text("thé".as_bytes()).unwrap(), "thé");
    }
}
