//! Compiled plugins on disk: found by the digests of all that made them, checked before they are used.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::hex;
use crate::error::{Error, Result};

/// A folder of compiled plugins that nobody else can write to.
#[derive(Debug, Clone)]
pub(super) struct Cache(PathBuf);

impl Cache {
    /// Opens a folder, made if it is missing.
    ///
    /// # Errors
    /// When it cannot be made, or others can write to it: what lies there is run as machine code.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(|e| Error::write(folder, e))?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::{MetadataExt, PermissionsExt};
            let found = std::fs::symlink_metadata(folder).map_err(|e| Error::read(folder, e))?;
            // A folder made just now has what the user's mask left; only the owner needs anything here.
            let mode = found.permissions().mode();
            let own = std::fs::metadata("/proc/self").map(|me| me.uid()).unwrap_or(found.uid());
            if !found.is_dir() || found.uid() != own || mode & 0o022 != 0 {
                return Err(Error::argument(
                    "the cache of compiled plugins",
                    format!("others can write to {}", folder.display()),
                    format!("give a folder of your own, or run: chmod 700 {}", folder.display()),
                ));
            }
        }
        Ok(Self(folder.to_owned()))
    }

    fn path(&self, key: &str) -> PathBuf {
        self.0.join(format!("{key}.compiled"))
    }

    /// What is kept under a key; none where there is nothing, or not what was written.
    pub(super) fn get(&self, key: &str) -> Option<Vec<u8>> {
        let mut bytes = std::fs::read(self.path(key)).ok()?;
        let digest: [u8; 32] = Sha256::digest(bytes.get(32..)?).into();
        if bytes[..32] != digest {
            return None;
        }
        bytes.drain(..32);
        Some(bytes)
    }

    /// Keeps something, in one step: whoever looks at the same time finds nothing or all of it. What cannot be kept is
    /// made anew next time.
    pub(super) fn put(&self, key: &str, bytes: &[u8]) {
        let write = || -> std::io::Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(&self.0)?;
            std::io::Write::write_all(&mut file, &Sha256::digest(bytes))?;
            std::io::Write::write_all(&mut file, bytes)?;
            file.as_file().sync_all()?;
            file.persist(self.path(key)).map_err(|e| e.error)?;
            Ok(())
        };
        drop(write());
    }
}

/// A key from all that decides what is kept under it.
pub(super) fn key(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hex(&hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_changed_on_disk_is_not_found() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(&folder.path().join("own")).unwrap();
        let key = key(&[b"a", b"b"]);
        assert!(cache.get(&key).is_none());
        cache.put(&key, b"machine code");
        assert_eq!(cache.get(&key).unwrap(), b"machine code");
        let path = cache.path(&key);
        let mut bytes = std::fs::read(&path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert!(cache.get(&key).is_none(), "a flipped bit");
        std::fs::write(&path, &bytes[..20]).unwrap();
        assert!(cache.get(&key).is_none(), "a cut");
        cache.put(&key, b"machine code");
        assert_eq!(cache.get(&key).unwrap(), b"machine code");
    }

    #[test]
    fn parts_of_a_key_do_not_run_into_each_other() {
        assert_ne!(key(&[b"ab", b"c"]), key(&[b"a", b"bc"]));
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_that_others_can_write_to_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let error = Cache::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("chmod 700"), "{error}");
    }
}
