//! The cache folder: things are made beside it, checked, synced and moved in by one rename.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

use querywright_types::{Error, Result, hex};

/// What a killed process left in the staging folder is removed after this time.
const ABANDONED_AFTER: Duration = Duration::from_secs(24 * 3600);

/// A cache folder.
pub(super) struct Cache {
    root: PathBuf,
}

impl Cache {
    pub(super) fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// `$QUERYWRIGHT_CACHE`, else `querywright` in the user's cache folder.
    pub(super) fn from_environment() -> Result<Self> {
        match variable("QUERYWRIGHT_CACHE") {
            Some(root) => Ok(Self::at(root)),
            None => Ok(Self::at(user_cache()?.join("querywright"))),
        }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// A fresh folder on the cache's own file system, removed when it is dropped.
    pub(super) fn stage(&self, name: &str) -> Result<Staging> {
        let parent = self.root.join(".staging");
        fs::create_dir_all(&parent).map_err(|e| Error::write(&parent, e))?;
        sweep(&parent);
        let path = parent.join(format!("{name}-{}", unique()));
        fs::create_dir(&path).map_err(|e| Error::write(&path, e))?;
        Ok(Staging { path })
    }

    /// Moves the complete folder `from` to `to` below the cache. Where another process was faster, its folder
    /// stays: it passed the same checks.
    pub(super) fn commit(&self, from: &Path, to: &Path) -> Result<()> {
        sync_tree(from)?;
        let to = self.root.join(to);
        let parent = to.parent().unwrap_or(&self.root).to_path_buf();
        fs::create_dir_all(&parent).map_err(|e| Error::write(&parent, e))?;
        match fs::rename(from, &to) {
            Ok(()) => sync_folder(&parent),
            Err(_) if to.exists() => Ok(()),
            Err(source) => Err(Error::write(&to, source)),
        }
    }
}

/// A folder for work in progress.
pub(super) struct Staging {
    path: PathBuf,
}

impl Staging {
    /// An empty folder of this name in it.
    pub(super) fn folder(&self, name: &str) -> Result<PathBuf, String> {
        let path = self.path.join(name);
        fs::create_dir_all(&path).map_err(|e| Error::write(&path, e).to_string())?;
        Ok(path)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What cannot be removed now is swept by a later pull.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// A non-empty environment variable.
pub(super) fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// The user's cache folder by the XDG rules (a relative `XDG_CACHE_HOME` does not count).
pub(super) fn user_cache() -> Result<PathBuf> {
    if let Some(folder) = variable("XDG_CACHE_HOME").map(PathBuf::from).filter(|folder| folder.is_absolute()) {
        return Ok(folder);
    }
    match std::env::home_dir().filter(|home| !home.as_os_str().is_empty()) {
        Some(home) => Ok(home.join(".cache")),
        None => Err(Error::argument(
            "QUERYWRIGHT_CACHE",
            "not set, and there is no home folder to put a cache in",
            "set it to a folder that can be written",
        )),
    }
}

/// A name part that no other thread or process uses.
pub(super) fn unique() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
    format!("{}-{nanos}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// The SHA-256 of a file, in lower-case hexadecimal.
pub(super) fn sha256(path: &Path) -> std::io::Result<String> {
    let mut hasher = Sha256::new();
    std::io::copy(&mut File::open(path)?, &mut hasher)?;
    Ok(hex(hasher.finalize()))
}

/// An error unless the file has this digest.
pub(super) fn verify(path: &Path, expected: &str) -> Result<(), String> {
    let found = sha256(path).map_err(|e| Error::read(path, e).to_string())?;
    if found == expected {
        return Ok(());
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    Err(format!("{name} has the sha256 {found}, and {expected} is the right one: the download was cut off or altered"))
}

/// Syncs every file and folder of a tree, the leaves first.
fn sync_tree(path: &Path) -> Result<()> {
    let fail = |e| Error::write(path, e);
    if path.is_dir() {
        for entry in fs::read_dir(path).map_err(fail)? {
            sync_tree(&entry.map_err(fail)?.path())?;
        }
        return sync_folder(path);
    }
    File::open(path).and_then(|file| file.sync_all()).map_err(fail)
}

/// Makes a rename in this folder last through a power cut.
pub(super) fn sync_folder(path: &Path) -> Result<()> {
    querywright_types::sync_folder(path).map_err(|e| Error::write(path, e))
}

/// Removes what killed processes left. Best effort: the work at hand does not depend on it.
fn sweep(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|t| t.elapsed().ok());
        if age.is_some_and(|age| age > ABANDONED_AFTER) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
