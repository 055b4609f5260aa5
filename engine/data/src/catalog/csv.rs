//! Comma-separated values under a header, as RFC 4180 and pandas write them: values in quotes may hold commas, line ends
//! and doubled quotes.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use super::lines::{Faults, Line, Lines, NAMED, quoted};
use querywright_types::{Error, Result, nearest};

/// A file of comma-separated values.
pub(super) struct Table {
    path: PathBuf,
    lines: Lines,
    names: Vec<String>,
    /// The first row, where the file has no header.
    first: Option<(u64, Vec<String>)>,
}

/// One row.
pub(super) struct Row<'a> {
    /// Its line, for errors.
    pub(super) line: Line<'a>,
    values: Vec<Cow<'a, str>>,
}

impl Row<'_> {
    /// The value of a column of the [`Table`].
    pub(super) fn get(&self, column: usize) -> &str {
        self.values.get(column).map_or("", |value| value.as_ref())
    }
}

impl Table {
    /// Opens a file and reads its header. `expected` says what the header should be. Where the first row holds none of the
    /// names of `unnamed` and has at most as many values, the file has no header, and these are the names.
    pub(super) fn open(path: &Path, expected: &'static str, unnamed: &[&str]) -> Result<Self> {
        let mut lines = Lines::open(path, expected)?;
        let header = record(&mut lines)?;
        let (number, names) = match header {
            Some((line, values)) => (line.number, values.into_iter().map(|v| v.trim().to_owned()).collect::<Vec<_>>()),
            None => (1, Vec::new()),
        };
        if names.len() <= unnamed.len() && !names.iter().any(|name| unnamed.contains(&name.as_str())) {
            let given = unnamed.iter().take(names.len()).map(|name| (*name).to_owned()).collect();
            return Ok(Self { path: path.to_path_buf(), lines, names: given, first: Some((number, names)) });
        }
        if let Some((_, twice)) = names.iter().enumerate().find(|(at, name)| names[..*at].contains(name)) {
            let found = format!("the column {} stands twice", quoted(twice));
            return Err(Error::data(path, Some(number), found, "name every column once"));
        }
        Ok(Self { path: path.to_path_buf(), lines, names, first: None })
    }

    /// The place of a column.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|known| known == name)
    }

    /// The place of a column that must be there.
    pub(super) fn column(&self, name: &str) -> Result<usize> {
        self.find(name).ok_or_else(|| {
            let near = nearest(name, self.names.iter().map(String::as_str));
            let hint = near.map_or(String::new(), |near| format!(" (is it {near}?)"));
            let found = format!("there is no column {name} among {}", self.names.join(", "));
            Error::data(&self.path, Some(1), found, format!("name the column {name}{hint}"))
        })
    }

    /// Hands every row to `take`. Rows that it refuses make one error at the end, which names the first ten and says how
    /// many there are.
    pub(super) fn each(mut self, mut take: impl FnMut(Row<'_>) -> Result<()>) -> Result<()> {
        let mut faults = Faults::new(NAMED);
        if let Some((number, values)) = self.first.take() {
            let line = Line::at(&self.path, number, "");
            faults.note(take(Row { line, values: values.into_iter().map(Cow::Owned).collect() }))?;
        }
        loop {
            match record(&mut self.lines) {
                Ok(None) => return faults.finish(),
                Ok(Some((line, values))) if values.len() != self.names.len() => {
                    let found = format!("found {} columns", values.len());
                    let remedy = format!("expected {} with commas between: {}", self.names.len(), self.names.join(","));
                    faults.note(Err(line.refuse(found, remedy)))?;
                }
                Ok(Some((line, values))) => faults.note(take(Row { line, values }))?,
                Err(error) => faults.note(Err(error))?,
            }
        }
    }
}

/// The next record.
fn record(lines: &mut Lines) -> Result<Option<(Line<'_>, Vec<Cow<'_, str>>)>> {
    let mut quotes = Quotes::default();
    let Some(line) = lines.next_record(|bytes| quotes.open_after(bytes))? else { return Ok(None) };
    match split(line.text) {
        Some(values) => Ok(Some((line, values))),
        None => Err(line.refuse(
            format!("text stands behind a closing quote in {}", quoted(line.text)),
            "double the quotes that belong to a quoted value, as in \"a 5\"\" pipe\"",
        )),
    }
}

/// Where in a value the reader is.
#[derive(Clone, Copy, Default, PartialEq)]
enum Quotes {
    #[default]
    Before,
    Plain,
    Within,
    /// Behind a quote that closes the value, unless another one follows.
    Closed,
}

impl Quotes {
    /// Whether a quoted value is open after these further bytes.
    fn open_after(&mut self, bytes: &[u8]) -> bool {
        for byte in bytes {
            *self = match (*self, byte) {
                (Self::Before | Self::Closed, b'"') => Self::Within,
                (Self::Within, b'"') => Self::Closed,
                (Self::Within, _) => Self::Within,
                (_, b',') => Self::Before,
                _ => Self::Plain,
            };
        }
        *self == Self::Within
    }
}

/// The values of a record; none where text stands behind a closing quote.
fn split(text: &str) -> Option<Vec<Cow<'_, str>>> {
    let mut values = Vec::new();
    let mut rest = text;
    loop {
        let value;
        (value, rest) = match rest.strip_prefix('"') {
            Some(inside) => within_quotes(inside)?,
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                (Cow::Borrowed(&rest[..end]), &rest[end..])
            }
        };
        values.push(value);
        match rest.strip_prefix(',') {
            Some(next) => rest = next,
            None => return rest.is_empty().then_some(values),
        }
    }
}

/// A value up to its closing quote, and what follows.
fn within_quotes(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let mut from = 0;
    loop {
        let at = from + text[from..].find('"')?;
        if !text[at + 1..].starts_with('"') {
            let value = &text[..at];
            let value = if from == 0 { Cow::Borrowed(value) } else { Cow::Owned(value.replace("\"\"", "\"")) };
            return Some((value, &text[at + 1..]));
        }
        from = at + 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &str, unnamed: &[&str]) -> Result<Vec<(u64, Vec<String>)>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let mut found = Vec::new();
        Table::open(file.path(), "a header", unnamed)?.each(|row| {
            found.push((row.line.number, row.values.iter().map(|value| value.to_string()).collect()));
            Ok(())
        })?;
        Ok(found)
    }

    #[test]
    fn values_in_quotes_hold_commas_line_ends_and_doubled_quotes() {
        // Written by Python's csv module, as pandas writes it.
        let text = "a,b\r\n1,\"x, \"\"y\"\"\"\r\n2,\"first\n\n  second\"\n3,5\" pipe\n\"\",\"\"\"\"\n";
        let row = |number, values: [&str; 2]| (number, values.map(str::to_owned).to_vec());
        assert_eq!(
            rows(text, &[]).unwrap(),
            [
                row(2, ["1", "x, \"y\""]),
                row(3, ["2", "first\n\n  second"]),
                row(6, ["3", "5\" pipe"]),
                row(7, ["", "\""])
            ]
        );
    }

    #[test]
    fn a_first_row_without_any_known_name_is_a_row() {
        let names = ["user_id", "item_id", "rating"];
        assert_eq!(rows("u1,i1,5\nu2,i2,4\n", &names).unwrap().len(), 2);
        assert_eq!(rows("user_id,item_id,rating\nu2,i2,4\n", &names).unwrap().len(), 1);
    }

    #[test]
    fn bad_rows_are_named_by_their_first_line() {
        for (text, words) in [
            ("a,b\n1,2\n1\n", ":3: found 1 columns; expected 2"),
            ("a,b\n\"x\"y,2\n", ":2: text stands behind a closing quote"),
            ("a,b\n1,\"x\n\n2,3\n", ":2: a quote is opened and not closed"),
            ("a,a\n", ":1: the column \"a\" stands twice"),
        ] {
            let error = rows(text, &[]).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        let error = rows("a,b\n1\n1,2\n1,2,3\n", &[]).unwrap_err().to_string();
        assert!(error.contains(":2: found 1 columns (and 1 more line 4: found 3 columns"), "{error}");
    }
}
