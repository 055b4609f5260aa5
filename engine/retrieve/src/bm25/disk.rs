//! Indexes on disk: built in a temporary folder, published in one step, checked when opened.
//!
//! ```text
//! FOLDER/bm25-KEY/               an index; KEY is the digest of all that shapes it
//!     manifest.json              written last: the key, and size and SHA-256 of every other file
//!     …                          Tantivy's files
//! FOLDER/.building-KEY-RANDOM/   holds one that is being built, or was when its process died
//! FOLDER/.lock-KEY               locked by who builds; empty, and stays
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use rayon::prelude::*;
use sha2::{Digest, Sha256};
use tantivy::directory::MmapDirectory;
use tantivy::directory::error::{OpenReadError, OpenWriteError};
use tantivy::{Index, TantivyError};

use super::index::{self, FORMAT_VERSION, TextIndex};
use querywright_data::catalog::Catalog;
use querywright_data::digest::sha256_of;
use querywright_data::made_once::Maker;
use querywright_text::analysis::{ANALYSIS_VERSION, Analyzer};
use querywright_types::{Error, Result, hex, sync_folder};

const MANIFEST: &str = "manifest.json";
const BUILDING: &str = ".building-";
const LOCK: &str = ".lock-";
const FRESH: &str = "index";

/// How often an index is built where others that build it, too, keep moving it away.
const ATTEMPTS: usize = 3;

/// An index that is unfinished after this time was abandoned.
const ABANDONED_AFTER: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
struct Manifest {
    key: String,
    /// File name to size in bytes.
    files: BTreeMap<String, u64>,
    /// File name to SHA-256. An index of before these were kept has none, and is held to its sizes alone.
    #[serde(default)]
    sha256: BTreeMap<String, String>,
}

/// Opens the index of a catalogue with `open`, after building it when there is no complete one.
pub(super) fn open_or_build(
    folder: &Path,
    catalog: &Catalog,
    analyzer: Analyzer,
    open: impl Fn(&Index) -> tantivy::Result<TextIndex>,
) -> Result<TextIndex> {
    let key = sha256_of(&[&FORMAT_VERSION.to_string(), ANALYSIS_VERSION, catalog.digest()]);
    let name = key.get(..16).unwrap_or(&key);
    let place = folder.join(format!("bm25-{name}"));
    let opened = || is_complete(&place, &key).then(|| open_at(&place, &open).ok()).flatten();
    if let Some(index) = opened() {
        return Ok(index);
    }
    fs::create_dir_all(folder).map_err(|e| Error::write(folder, e))?;
    let lock = folder.join(format!("{LOCK}{name}"));
    let maker = Maker::wait(&lock).map_err(|e| Error::write(&lock, e))?;
    let mut first = None;
    // Under a lock the first attempt counts. Without one another process may move an index away as soon as it is there.
    for _ in 0..ATTEMPTS {
        // Somebody else may have built it in the meantime.
        if let Some(index) = opened() {
            return Ok(index);
        }
        remove_dead(folder, name, &maker);
        let prefix = format!("{BUILDING}{name}-");
        let built = tempfile::Builder::new().prefix(&prefix).tempdir_in(folder).and_then(|temporary| {
            build_in(&temporary.path().join(FRESH), &key, catalog, analyzer)?;
            publish(temporary.path(), &place)
        });
        first = first.or(built.err());
    }
    opened().ok_or_else(|| match first {
        Some(e) => Error::write(&place, e),
        None => Error::read(&place, io::Error::other("the index does not open although it was just built")),
    })
}

fn open_at(place: &Path, open: impl Fn(&Index) -> tantivy::Result<TextIndex>) -> io::Result<TextIndex> {
    let directory = MmapDirectory::open(place).map_err(|e| into_io(e.into()))?;
    Index::open(directory).and_then(|index| open(&index)).map_err(into_io)
}

/// Whether a manifest for this key is there and every file has the size and the digest that it names. All of the index is
/// read: postings that are damaged would give wrong rankings without a word.
fn is_complete(place: &Path, key: &str) -> bool {
    let Ok(text) = fs::read(place.join(MANIFEST)) else { return false };
    let Ok(manifest) = serde_json::from_slice::<Manifest>(&text) else { return false };
    let same_sizes = || sizes(place).is_ok_and(|found| manifest.files.iter().all(|f| found.get(f.0) == Some(f.1)));
    let same = |(name, right): (&String, &String)| sha256(&place.join(name)).is_ok_and(|found| found == *right);
    manifest.key == key && same_sizes() && manifest.sha256.par_iter().all(same)
}

fn sha256(path: &Path) -> io::Result<String> {
    let mut hasher = Sha256::new();
    io::copy(&mut File::open(path)?, &mut hasher)?;
    Ok(hex(hasher.finalize()))
}

/// The files of an index and their sizes, without hidden ones (locks) and the manifest.
fn sizes(place: &Path) -> io::Result<BTreeMap<String, u64>> {
    let mut sizes = BTreeMap::new();
    for entry in fs::read_dir(place)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') && !name.starts_with(MANIFEST) {
            sizes.insert(name, entry.metadata()?.len());
        }
    }
    Ok(sizes)
}

fn build_in(temporary: &Path, key: &str, catalog: &Catalog, analyzer: Analyzer) -> io::Result<()> {
    fs::create_dir_all(temporary)?;
    let directory = MmapDirectory::open(temporary).map_err(|e| into_io(e.into()))?;
    index::build(Box::new(directory), catalog, analyzer).map_err(into_io)?;
    let files = sizes(temporary)?;
    let sha256 = files.par_iter().map(|(name, _)| Ok((name.clone(), sha256(&temporary.join(name))?)));
    let sha256 = sha256.collect::<io::Result<_>>()?;
    let manifest = Manifest { key: key.to_owned(), files, sha256 };
    let (draft, name) = (temporary.join(format!("{MANIFEST}.draft")), temporary.join(MANIFEST));
    let mut file = File::create(&draft)?;
    file.write_all(&serde_json::to_vec_pretty(&manifest)?)?;
    file.sync_all()?;
    fs::rename(draft, name)?;
    sync_folder(temporary)
}

/// Moves a finished index to its place. What is there is truncated or damaged; it is moved away first by one rename, so
/// that no process sees half of it.
fn publish(temporary: &Path, place: &Path) -> io::Result<()> {
    match fs::rename(place, temporary.join("replaced")) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    fs::rename(temporary.join(FRESH), place)?;
    place.parent().map_or(Ok(()), sync_folder)
}

/// Removes what processes left behind that died while they built. The index at hand does not depend on it.
fn remove_dead(folder: &Path, name: &str, maker: &Maker) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let ours = format!("{BUILDING}{name}-");
    for entry in entries.flatten() {
        let found = entry.file_name().to_string_lossy().into_owned();
        let age = entry.metadata().and_then(|m| m.modified()).map(|t| t.elapsed().unwrap_or_default());
        let abandoned = found.starts_with(BUILDING) && age.is_ok_and(|age| age > ABANDONED_AFTER);
        // The holder of the lock knows that earlier builders of this index are dead. Those of other indexes may still
        // be running.
        if abandoned || (maker.is_alone() && found.starts_with(&ours)) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// The system's error inside Tantivy's, so that a full disk is reported as one.
fn into_io(error: TantivyError) -> io::Error {
    let kind = match &error {
        TantivyError::IoError(e) => e.kind(),
        TantivyError::OpenWriteError(OpenWriteError::IoError { io_error, .. }) => io_error.kind(),
        TantivyError::OpenReadError(OpenReadError::IoError { io_error, .. }) => io_error.kind(),
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}
