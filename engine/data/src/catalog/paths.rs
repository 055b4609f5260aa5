//! The files of a data folder and their names.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::warning::{Warning, WarningKind, Warnings};
use querywright_types::{Error, Result};

/// The ending of a file that is compressed.
const COMPRESSED: &str = "gz";

/// The name of a data set: that of its folder.
pub(super) fn name_of(folder: &Path) -> String {
    let real = folder.canonicalize();
    let named = real.as_deref().unwrap_or(folder).file_name();
    named.map_or_else(|| "data".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// The file of this name, plain or compressed (`corpus.jsonl.gz`). Of two the plain one, with a warning.
pub(super) fn find(folder: &Path, name: &str, warnings: &mut Warnings) -> Option<PathBuf> {
    let (plain, compressed) = (folder.join(name), folder.join(format!("{name}.{COMPRESSED}")));
    match (plain.exists(), compressed.exists()) {
        (true, true) => {
            warnings.add(twin(folder, &compressed));
            Some(plain)
        }
        (true, false) => Some(plain),
        (false, true) => Some(compressed),
        (false, false) => None,
    }
}

/// The files of a folder with this extension, compressed ones too, sorted by name. Hidden files do not count. Of a plain
/// and a compressed file of one name the plain one, with a warning.
pub(super) fn files(folder: &Path, extension: &str, warnings: &mut Warnings) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|e| Error::read(folder, e))? {
        let path = entry.map_err(|e| Error::read(folder, e))?.path();
        if has_extension(&path, extension) && !stem(&path).starts_with('.') && path.is_file() {
            found.push(path);
        }
    }
    found.sort();
    // Sorted, `a.tsv` stands before `a.tsv.gz`.
    found.dedup_by(|later, kept| {
        let same = stem(later) == stem(kept);
        if same {
            warnings.add(twin(folder, later));
        }
        same
    });
    Ok(found)
}

fn twin(folder: &Path, compressed: &Path) -> Warning {
    let name = compressed.file_name().unwrap_or_default().to_string_lossy();
    Warning::new(WarningKind::CompressedTwin, folder, name)
}

/// Whether a file has this extension, compressed or not.
pub(super) fn has_extension(file: &Path, extension: &str) -> bool {
    uncompressed(file).extension() == Some(OsStr::new(extension))
}

/// The name of a file without its extension, and without that of its compression.
pub(super) fn stem(file: &Path) -> String {
    uncompressed(file).file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned())
}

/// The path without the ending of its compression.
fn uncompressed(file: &Path) -> PathBuf {
    match file.extension() == Some(OsStr::new(COMPRESSED)) {
        true => file.with_extension(""),
        false => file.to_path_buf(),
    }
}
