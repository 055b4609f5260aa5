//! Compiled plugins on disk: found by a digest of everything that made them, checked before they are used.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use querywright_types::{Error, Result};

/// A folder of compiled plugins that nobody else can write to.
#[derive(Debug, Clone)]
pub(super) struct Cache(PathBuf);

impl Cache {
    /// Opens a folder, and creates it if it is missing.
    ///
    /// # Errors
    /// If it cannot be created, or if others can write to it: its files are run as machine code.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(|e| Error::write(folder, e))?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::{MetadataExt, PermissionsExt};
            let found = std::fs::symlink_metadata(folder).map_err(|e| Error::read(folder, e))?;
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

    /// The bytes under a key. None if there are none, or if they are not those that were written.
    pub(super) fn get(&self, key: &str) -> Option<Vec<u8>> {
        let mut bytes = std::fs::read(self.path(key)).ok()?;
        let digest: [u8; 32] = Sha256::digest(bytes.get(32..)?).into();
        if bytes[..32] != digest {
            return None;
        }
        bytes.drain(..32);
        Some(bytes)
    }

    /// Writes bytes in one step: a reader at the same time finds nothing or all of them. A failure to write is ignored,
    /// because the plugin is then compiled again next time.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_that_was_changed_on_disk_is_not_found() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(&folder.path().join("own")).unwrap();
        let key = "key";
        assert!(cache.get(key).is_none());
        cache.put(key, b"machine code");
        assert_eq!(cache.get(key).unwrap(), b"machine code");
        let path = cache.path(key);
        let mut bytes = std::fs::read(&path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert!(cache.get(key).is_none(), "a flipped bit");
        std::fs::write(&path, &bytes[..20]).unwrap();
        assert!(cache.get(key).is_none(), "a cut");
        cache.put(key, b"machine code");
        assert_eq!(cache.get(key).unwrap(), b"machine code");
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
