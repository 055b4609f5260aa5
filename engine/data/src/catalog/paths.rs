//! The files of a data folder and their names.

use std::path::{Path, PathBuf};

use querywright_types::{Error, Result};

/// The name of a data set: that of its folder.
pub(super) fn name_of(folder: &Path) -> String {
    let real = folder.canonicalize();
    let named = real.as_deref().unwrap_or(folder).file_name();
    named.map_or_else(|| "data".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// The files of a folder with this extension, sorted by name. Hidden files do not count.
pub(super) fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|e| Error::read(folder, e))? {
        let path = entry.map_err(|e| Error::read(folder, e))?.path();
        if path.extension().is_some_and(|e| e == extension) && !stem(&path).starts_with('.') && path.is_file() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The name of a file without its extension.
pub(super) fn stem(file: &Path) -> String {
    file.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned())
}
