//! Parquet files of plain columns, row by row.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;

use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, RowGroupReader};
use parquet::file::serialized_reader::SerializedFileReader;
use querywright_types::{Error, Result, nearest, quietly};

use super::encoding;
use super::lines::{Faults, Line, NAMED, quoted};

/// How a file begins.
const MAGIC: &[u8] = b"PAR1";
/// How many rows are decoded at once.
const BATCH: usize = 4096;

/// A row: the columns that were asked for, in that order.
pub(super) struct Row<'a> {
    /// Its number, counted from 1, for errors.
    pub(super) line: Line<'a>,
    columns: &'a [Column],
    at: usize,
}

/// Values of a column, as many as rows; none where they are null.
enum Column {
    Texts(Vec<Option<ByteArray>>),
    Numbers(Vec<Option<i64>>),
}

impl<'a> Row<'a> {
    /// A text, empty where it is null.
    ///
    /// # Errors
    /// When it is no UTF-8.
    pub(super) fn text(&self, column: usize) -> Result<&'a str> {
        let Some(Column::Texts(values)) = self.columns.get(column) else { return Ok("") };
        let Some(Some(value)) = values.get(self.at) else { return Ok("") };
        let refuse = |_| self.line.refuse("a text is not UTF-8", "write the file again with texts in UTF-8");
        std::str::from_utf8(value.data()).map_err(refuse)
    }

    /// A whole number; none where it is null.
    pub(super) fn number(&self, column: usize) -> Option<i64> {
        match self.columns.get(column) {
            Some(Column::Numbers(values)) => values.get(self.at).copied().flatten(),
            _ => None,
        }
    }
}

/// What a column must hold.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Holds {
    Texts,
    Numbers,
}

/// Hands every row of a file to `take`, with the columns of these names. Rows that it refuses make one error at the end,
/// which names the first ten by their numbers and says how many there are.
///
/// # Errors
/// That error; at once where the file is no Parquet, is damaged, lacks a column, or holds something else in it.
pub(super) fn each(path: &Path, columns: &[(&str, Holds)], mut take: impl FnMut(Row<'_>) -> Result<()>) -> Result<()> {
    let mut file = File::open(path).map_err(|e| Error::read(path, e))?;
    let mut head = [0; encoding::HEAD];
    let read = file.read(&mut head).and_then(|n| file.rewind().map(|()| n)).map_err(|e| Error::read(path, e))?;
    if let Some((found, remedy)) = encoding::foreign(&head[..read]).filter(|_| !head.starts_with(MAGIC)) {
        return Err(Error::data(path, None, found, remedy));
    }
    // The crate asserts in places what a damaged file does not hold to.
    let read = quietly(|| {
        let reader = SerializedFileReader::new(file).map_err(|e| damaged(path, &e))?;
        let places = places(path, &reader, columns)?;
        let mut faults = Faults::new(NAMED);
        let mut number = 0;
        for group in 0..reader.num_row_groups() {
            let group = reader.get_row_group(group).map_err(|e| damaged(path, &e))?;
            read_group(path, &*group, (&places, columns), &mut |columns, at| {
                number += 1;
                faults.note(take(Row { line: Line::at(path, number, ""), columns, at }))
            })?;
        }
        match number {
            0 => Err(Error::data(path, None, "the file has no rows", "fetch it again")),
            _ => faults.finish(),
        }
    });
    read.unwrap_or_else(|panic| Err(Error::data(path, None, format!("the file is damaged: {panic}"), "fetch it again")))
}

fn damaged(path: &Path, error: &ParquetError) -> Error {
    Error::data(
        path,
        None,
        format!("the file is no Parquet that can be read: {error}"),
        "fetch it again where it is cut off; values may be compressed by snappy alone, or not at all",
    )
}

/// Where the columns are.
fn places(path: &Path, reader: &SerializedFileReader<File>, columns: &[(&str, Holds)]) -> Result<Vec<usize>> {
    let schema = reader.metadata().file_metadata().schema_descr();
    let names: Vec<String> = schema.columns().iter().map(|column| column.path().string()).collect();
    let place = |(name, _): &(&str, Holds)| {
        names.iter().position(|known| known == name).ok_or_else(|| {
            let near = nearest(name, names.iter().map(String::as_str));
            let hint = near.map_or(String::new(), |near| format!(" (is it {near}?)"));
            let found = format!("there is no column {name} among {}", names.join(", "));
            Error::data(path, None, found, format!("name the column {name}{hint}"))
        })
    };
    columns.iter().map(place).collect()
}

type Visit<'v> = dyn FnMut(&[Column], usize) -> Result<()> + 'v;

fn read_group(
    path: &Path,
    group: &dyn RowGroupReader,
    (places, columns): (&[usize], &[(&str, Holds)]),
    visit: &mut Visit<'_>,
) -> Result<()> {
    let mut readers = Vec::with_capacity(places.len());
    for (place, (name, holds)) in places.iter().zip(columns) {
        let reader = group.get_column_reader(*place).map_err(|e| damaged(path, &e))?;
        let fits = match reader {
            ColumnReader::ByteArrayColumnReader(_) => *holds == Holds::Texts,
            ColumnReader::Int64ColumnReader(_) | ColumnReader::Int32ColumnReader(_) => *holds == Holds::Numbers,
            _ => false,
        };
        if !fits {
            let wanted = if *holds == Holds::Texts { "texts" } else { "whole numbers" };
            let found = format!("the column {} holds something else than {wanted}", quoted(name));
            return Err(Error::data(path, None, found, "write the column as its authors do"));
        }
        readers.push((reader, group.metadata().schema_descr().column(*place).max_def_level()));
    }
    let rows = usize::try_from(group.metadata().num_rows())
        .map_err(|_| Error::data(path, None, "a group of rows has a negative length", "fetch the file again"))?;
    let mut done = 0;
    while done < rows {
        let count = BATCH.min(rows - done);
        let read = |(reader, nullable): &mut (ColumnReader, i16)| batch(path, reader, *nullable, count);
        let batch = readers.iter_mut().map(read).collect::<Result<Vec<Column>>>()?;
        for at in 0..count {
            visit(&batch, at)?;
        }
        done += count;
    }
    Ok(())
}

/// The next `count` values of a column.
fn batch(path: &Path, reader: &mut ColumnReader, nullable: i16, count: usize) -> Result<Column> {
    match reader {
        ColumnReader::ByteArrayColumnReader(reader) => {
            Ok(Column::Texts(values::<ByteArrayType>(path, reader, nullable, count)?))
        }
        ColumnReader::Int64ColumnReader(reader) => {
            Ok(Column::Numbers(values::<Int64Type>(path, reader, nullable, count)?))
        }
        ColumnReader::Int32ColumnReader(reader) => {
            let values = values::<Int32Type>(path, reader, nullable, count)?;
            Ok(Column::Numbers(values.into_iter().map(|value| value.map(i64::from)).collect()))
        }
        _ => Err(Error::bug("parquet", "a column of a kind that was refused")),
    }
}

fn values<T: DataType>(
    path: &Path,
    reader: &mut ColumnReaderImpl<T>,
    nullable: i16,
    count: usize,
) -> Result<Vec<Option<T::T>>> {
    let (mut values, mut levels) = (Vec::with_capacity(count), Vec::with_capacity(count));
    let read = reader.read_records(count, Some(&mut levels), None, &mut values);
    let (rows, ..) = read.map_err(|e| damaged(path, &e))?;
    let mut values = values.into_iter();
    let made: Vec<Option<T::T>> = match nullable {
        0 => values.map(Some).collect(),
        whole => levels.iter().map(|level| if *level == whole { values.next() } else { None }).collect(),
    };
    match rows == count && made.len() == count {
        true => Ok(made),
        false => Err(Error::data(
            path,
            None,
            format!("a column ends after {} of {count} rows", made.len()),
            "fetch the file again: it is damaged",
        )),
    }
}
