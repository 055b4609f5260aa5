//! The vectors of a catalogue, and the graph between them, on disk: [made once](querywright_data::made_once), checked when
//! they are read.
//!
//! ```text
//! FOLDER/dense-KEY.vectors  KEY is the digest of all that shapes them
//! FOLDER/dense-KEY.hnsw     the graph; KEY is the digest of the vectors' own and of the settings
//! ```
//!
//! A file is a line of JSON (the whole key, rows, width, SHA-256 of what follows) and words of 4 bytes, the lowest byte
//! first: values in single precision, or numbers of nodes.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use querywright_data::made_once::{Place, read_or_make};
use querywright_types::{Error, Result, hex};

/// A change of what is written, or of what a vector is, is a new version: files of older ones are not read.
pub(crate) const FORMAT_VERSION: u32 = 2;

/// Bytes of the first line, at most.
const HEADER_LIMIT: u64 = 4096;

/// A word of a file.
pub(crate) trait Word: Copy {
    fn bytes(self) -> [u8; 4];
    fn of(bytes: [u8; 4]) -> Self;
}

impl Word for f32 {
    fn bytes(self) -> [u8; 4] {
        self.to_le_bytes()
    }

    fn of(bytes: [u8; 4]) -> Self {
        Self::from_le_bytes(bytes)
    }
}

impl Word for u32 {
    fn bytes(self) -> [u8; 4] {
        self.to_le_bytes()
    }

    fn of(bytes: [u8; 4]) -> Self {
        Self::from_le_bytes(bytes)
    }
}

/// What is kept.
#[derive(Clone, Copy)]
pub(crate) struct Kept<'a> {
    /// What stands behind the point of its name.
    pub(crate) kind: &'a str,
    /// The digest of all that shapes it.
    pub(crate) key: &'a str,
    /// Words of a row.
    pub(crate) width: usize,
    /// Rows; none where the key alone decides.
    pub(crate) rows: Option<usize>,
}

/// Values that are turned into bytes at once.
const PIECE: usize = 1 << 16;

#[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
struct Header {
    key: String,
    rows: usize,
    width: usize,
    sha256: String,
}

/// Reads the words of a key from `folder`, or makes them with `make` and keeps them there. Where several processes need
/// the same ones, one makes them and the others wait.
pub(crate) fn open_or_make<W: Word>(
    folder: &Path,
    kept: Kept<'_>,
    make: impl FnOnce() -> Result<Vec<W>>,
) -> Result<Vec<W>> {
    let Kept { kind, key, width, rows } = kept;
    let name = format!("dense-{}", key.get(..16).unwrap_or(key));
    let make = || {
        let words = make()?;
        if !words.len().is_multiple_of(width.max(1)) || rows.is_some_and(|rows| words.len() != rows * width) {
            return Err(Error::bug("dense store", format!("{} words for rows of {width}", words.len())));
        }
        Ok(words)
    };
    let read = |path: &Path| read_whole(path, kept);
    read_or_make(Place { folder, name: &name, kind }, read, make, |words, file| write(file, kept, words))
}

/// The words; none where the file is missing, or is cut off, altered or of another key, and is to be made anew: a damaged one
/// would give wrong rankings without a word. One that cannot be read is an error: hours of work are not done again for a
/// permission.
fn read_whole<W: Word>(place: &Path, kept: Kept<'_>) -> Result<Option<Vec<W>>> {
    use io::ErrorKind::{InvalidData, NotFound, Other, UnexpectedEof};
    match read(place, kept) {
        Ok(words) => Ok(Some(words)),
        Err(e) if matches!(e.kind(), NotFound | Other | UnexpectedEof | InvalidData) => Ok(None),
        Err(e) => Err(Error::read(place, e)),
    }
}

fn read<W: Word>(place: &Path, kept: Kept<'_>) -> io::Result<Vec<W>> {
    let Kept { key, width, .. } = kept;
    let wrong = |what: &str| io::Error::other(what.to_owned());
    let mut file = BufReader::with_capacity(4 * PIECE, File::open(place)?);
    let mut line = Vec::new();
    file.by_ref().take(HEADER_LIMIT).read_until(b'\n', &mut line)?;
    let header: Header = serde_json::from_slice(&line)?;
    let rows = kept.rows.unwrap_or(header.rows);
    let bytes = rows.checked_mul(width).and_then(|values| values.checked_mul(4)).ok_or_else(|| wrong("too many"))?;
    if (header.key.as_str(), header.rows, header.width) != (key, rows, width) {
        return Err(wrong("of another key"));
    }
    // The length is looked at before the memory for it is taken.
    if file.get_ref().metadata()?.len() != (line.len() + bytes) as u64 {
        return Err(wrong("cut off"));
    }
    let (mut hasher, mut words) = (Sha256::new(), Vec::with_capacity(rows * width));
    let mut piece = vec![0_u8; 4 * PIECE];
    let mut left = bytes;
    while left > 0 {
        let now = left.min(piece.len());
        let part = piece.get_mut(..now).ok_or_else(|| wrong("no room"))?;
        file.read_exact(part)?;
        hasher.update(&*part);
        words.extend(part.as_chunks().0.iter().map(|bytes| W::of(*bytes)));
        left -= now;
    }
    if hex(hasher.finalize()) != header.sha256 { Err(wrong("damaged")) } else { Ok(words) }
}

fn write<W: Word>(file: &mut File, kept: Kept<'_>, words: &[W]) -> io::Result<()> {
    let bytes = |piece: &[W]| piece.iter().flat_map(|word| word.bytes()).collect::<Vec<u8>>();
    let mut hasher = Sha256::new();
    words.chunks(PIECE).for_each(|piece| hasher.update(bytes(piece)));
    let (rows, width) = (words.len() / kept.width.max(1), kept.width);
    let header = Header { key: kept.key.to_owned(), rows, width, sha256: hex(hasher.finalize()) };
    let mut line = serde_json::to_vec(&header)?;
    line.push(b'\n');
    file.write_all(&line)?;
    words.chunks(PIECE).try_for_each(|piece| file.write_all(&bytes(piece)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const KEY: &str = "0123456789abcdef0123";

    const fn vectors(key: &str) -> Kept<'_> {
        Kept { kind: "vectors", key, width: 2, rows: Some(3) }
    }

    fn opened(folder: &Path, key: &str, made: &mut usize) -> Vec<f32> {
        open_or_make(folder, vectors(key), || {
            *made += 1;
            Ok(vec![1.0, -2.5, 3.0, 0.25, f32::MIN_POSITIVE, 6.0])
        })
        .unwrap()
    }

    #[test]
    fn vectors_are_made_once_and_read_again_bit_for_bit() {
        let folder = tempfile::tempdir().unwrap();
        let mut made = 0;
        let first = opened(folder.path(), KEY, &mut made);
        assert_eq!(first, opened(folder.path(), KEY, &mut made));
        assert_eq!(made, 1);
        // Another key whose file has the same name is another catalogue.
        opened(folder.path(), "0123456789abcdef9999", &mut made);
        assert_eq!(made, 2);
        let left: Vec<String> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .filter(|name| name.starts_with(".building"))
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }

    #[test]
    fn a_file_that_was_cut_off_or_altered_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let mut made = 0;
        let right = opened(folder.path(), KEY, &mut made);
        let place = folder.path().join(format!("dense-{}.vectors", &KEY[..16]));
        let whole = fs::read(&place).unwrap();
        let mut altered = whole.clone();
        *altered.last_mut().unwrap() ^= 1;
        let longer = [whole.as_slice(), &[0]].concat();
        let pieces: [&[u8]; 5] = [&whole[..whole.len() - 1], &whole[..10], &[], &altered, &longer];
        for (at, bytes) in pieces.into_iter().enumerate() {
            fs::write(&place, bytes).unwrap();
            assert_eq!(opened(folder.path(), KEY, &mut made), right);
            assert_eq!(made, at + 2, "damage {at} was seen");
            assert_eq!(fs::read(&place).unwrap(), whole, "and mended");
        }
    }

    #[test]
    fn words_of_any_number_are_kept_beside_the_vectors_of_the_same_key() {
        let folder = tempfile::tempdir().unwrap();
        let mut made = 0;
        opened(folder.path(), KEY, &mut made);
        let graph = Kept { kind: "hnsw", key: KEY, width: 1, rows: None };
        let mut links = |words: &[u32]| {
            open_or_make(folder.path(), graph, || {
                made += 1;
                Ok(words.to_vec())
            })
            .unwrap()
        };
        assert_eq!(links(&[7, u32::MAX, 0]), [7, u32::MAX, 0]);
        assert_eq!(links(&[1]), [7, u32::MAX, 0], "read again");
        let place = folder.path().join(format!("dense-{}.hnsw", &KEY[..16]));
        let whole = fs::read(&place).unwrap();
        fs::write(&place, &whole[..whole.len() - 4]).unwrap();
        assert_eq!(links(&[5, 6]), [5, 6], "a whole number of words is not enough");
        assert_eq!((made, fs::read_dir(folder.path()).unwrap().count()), (3, 3), "two files and a lock");
    }
}
