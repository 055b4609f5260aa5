//! Compiled plugins on disk: machine code that this process will run. So the folder is the user's alone, and an entry is
//! used only if this installation wrote it for the key that is asked for.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sha2::{Digest, Sha256};

use querywright_types::{Error, Result};

/// Bytes of all entries together. The oldest go first.
const MOST_BYTES: u64 = 4 << 30;

/// The first bytes of an entry: what it is, and the version of its layout.
const MAGIC: &[u8; 8] = b"qwcode\0\x02";

/// Bytes of a key and of a tag.
const WORD: usize = 32;

/// The file of the secret.
const SECRET: &str = "installation.key";

/// A folder of compiled plugins that nobody else can read or write.
///
/// An entry is `MAGIC`, a tag, and the machine code. The tag is the HMAC of key and code under a secret that lies in the
/// folder. So an entry that was changed, cut, written by somebody else or renamed to that of another plugin is not found.
#[derive(Debug, Clone)]
pub(super) struct Cache {
    folder: PathBuf,
    secret: [u8; WORD],
    most_bytes: u64,
}

impl Cache {
    /// Opens a folder, and creates it and its secret if they are missing.
    ///
    /// # Errors
    /// If it cannot be created, or if others can read or write it, own it, or can exchange a folder above it.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        let mut builder = DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(folder).map_err(|e| Error::write(folder, e))?;
        #[cfg(unix)]
        own::check(folder)?;
        let path = folder.join(SECRET);
        if !path.exists() {
            create_secret(folder, &path).map_err(|e| Error::write(&path, e))?;
        }
        #[cfg(unix)]
        own::check_file(&path)?;
        let mut secret = [0; WORD];
        let read = File::open(&path).and_then(|mut file| file.read_exact(&mut secret));
        read.map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                let found = format!("{} is shorter than a secret", path.display());
                Error::argument("cache", found, "remove it: a new one is made, and plugins are compiled again")
            }
            _ => Error::read(&path, e),
        })?;
        Ok(Self { folder: folder.to_owned(), secret, most_bytes: MOST_BYTES })
    }

    fn path(&self, key: &str) -> PathBuf {
        self.folder.join(format!("{key}.compiled"))
    }

    fn tag(&self, key: &str, code: &[u8]) -> [u8; WORD] {
        hmac(&self.secret, &[&(key.len() as u64).to_le_bytes(), key.as_bytes(), code])
    }

    /// The bytes under a key. None if there are none, or if they are not those that this installation wrote under it.
    pub(super) fn get(&self, key: &str) -> Option<Vec<u8>> {
        let mut bytes = std::fs::read(self.path(key)).ok()?;
        let head = MAGIC.len() + WORD;
        let (start, code) = (bytes.get(..head)?, bytes.get(head..)?);
        let tag = self.tag(key, code);
        let differs = start[MAGIC.len()..].iter().zip(tag).fold(0, |differs, (one, two)| differs | (one ^ two));
        if !start.starts_with(MAGIC) || differs != 0 {
            return None;
        }
        bytes.drain(..head);
        Some(bytes)
    }

    /// Writes bytes in one step: a reader at the same time finds nothing or all of them. Then the oldest entries are
    /// deleted until all together are within the bound. A failure to write is ignored, because the plugin is then
    /// compiled again next time.
    pub(super) fn put(&self, key: &str, code: &[u8]) {
        if code.len() as u64 > self.most_bytes {
            return;
        }
        let write = || -> std::io::Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
            file.write_all(MAGIC)?;
            file.write_all(&self.tag(key, code))?;
            file.write_all(code)?;
            file.as_file().sync_all()?;
            file.persist(self.path(key)).map_err(|e| e.error)?;
            self.delete_oldest()
        };
        drop(write());
    }

    fn delete_oldest(&self) -> std::io::Result<()> {
        let mut entries: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let entry = entry?;
            // Another process may have deleted it meanwhile.
            let Ok(found) = entry.metadata() else { continue };
            // A file without this extension is the secret, or is being written or was left by a process that died.
            if found.is_file() && entry.file_name() != SECRET {
                entries.push((found.modified()?, found.len(), entry.path()));
            }
        }
        entries.sort();
        let mut bytes: u64 = entries.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, size, path) in entries {
            if bytes <= self.most_bytes {
                break;
            }
            drop(std::fs::remove_file(path));
            bytes -= size;
        }
        Ok(())
    }
}

/// Writes a new secret, unless another process has written one in the meantime.
fn create_secret(folder: &Path, path: &Path) -> std::io::Result<()> {
    // Temporary files have the mode 0600.
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(&random()?)?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(path) {
        Err(e) if e.error.kind() != std::io::ErrorKind::AlreadyExists => Err(e.error),
        _ => Ok(()),
    }
}

/// Bytes that nobody can guess.
fn random() -> std::io::Result<[u8; WORD]> {
    let mut bytes = [0; WORD];
    if cfg!(unix) {
        OpenOptions::new().read(true).open("/dev/urandom")?.read_exact(&mut bytes)?;
        return Ok(bytes);
    }
    // The keys of the standard library's hash maps come from the system's generator: 128 bits of it, spread over all.
    use std::hash::{BuildHasher, RandomState};
    let keys = RandomState::new();
    for (nth, part) in (0u64..).zip(bytes.chunks_mut(8)) {
        part.copy_from_slice(&keys.hash_one(nth).to_le_bytes());
    }
    Ok(bytes)
}

/// HMAC-SHA256 (RFC 2104) of the parts one after the other.
fn hmac(key: &[u8; WORD], parts: &[&[u8]]) -> [u8; WORD] {
    let pad = |byte: u8| {
        let mut block = [byte; 64];
        block.iter_mut().zip(key).for_each(|(pad, key)| *pad ^= key);
        block
    };
    let mut inner = Sha256::new_with_prefix(pad(0x36));
    parts.iter().for_each(|part| inner.update(part));
    Sha256::new_with_prefix(pad(0x5c)).chain_update(inner.finalize()).finalize().into()
}

/// Whose a folder is, and who else can change it.
#[cfg(unix)]
mod own {
    use std::fs::Metadata;
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    use querywright_types::{Error, Result};

    const ROOT: u32 = 0;
    /// The owner of files whose user is not known inside a container.
    const UNKNOWN: u32 = 65534;

    /// Refuses a folder that is not this user's alone, or whose path somebody else can exchange.
    pub(super) fn check(folder: &Path) -> Result<()> {
        let found = std::fs::symlink_metadata(folder).map_err(|e| Error::read(folder, e))?;
        if !found.is_dir() {
            return Err(refused(format!("{} is a link or a file", folder.display()), "give a folder".into()));
        }
        let me = user(folder)?;
        alone(folder, &found, me)?;
        let real = folder.canonicalize().map_err(|e| Error::read(folder, e))?;
        for above in real.ancestors().skip(1) {
            let found = std::fs::metadata(above).map_err(|e| Error::read(above, e))?;
            // In a folder such as /tmp, with the sticky bit, nobody can rename what is another's.
            let exchangeable = found.mode() & 0o002 != 0 && found.mode() & 0o1000 == 0;
            if exchangeable || ![ROOT, UNKNOWN, me].contains(&found.uid()) {
                let found = format!("others can exchange what lies in {}", above.display());
                return Err(refused(found, "give a folder below one of your own".into()));
            }
        }
        Ok(())
    }

    /// Refuses a file that is not this user's alone.
    pub(super) fn check_file(path: &Path) -> Result<()> {
        let found = std::fs::symlink_metadata(path).map_err(|e| Error::read(path, e))?;
        if !found.is_file() {
            let remedy = format!("delete it; a new one is made: rm {}", path.display());
            return Err(refused(format!("{} is no plain file", path.display()), remedy));
        }
        alone(path, &found, user(path.parent().unwrap_or(path))?)
    }

    fn alone(path: &Path, found: &Metadata, me: u32) -> Result<()> {
        let shown = path.display();
        if found.uid() != me {
            let found = format!("{shown} belongs to user {}, and this is user {me}", found.uid());
            return Err(refused(found, "give a folder of your own".into()));
        }
        if found.mode() & 0o077 != 0 {
            // What lies in it may have been written by somebody else by now, so it is not enough to close it.
            let found = format!("others can read or write {shown} (mode {:o})", found.mode() & 0o777);
            return Err(refused(found, format!("delete it, or give a new folder: rm -r {shown}")));
        }
        Ok(())
    }

    /// The user that files of this process belong to.
    fn user(folder: &Path) -> Result<u32> {
        let file = tempfile::NamedTempFile::new_in(folder).map_err(|e| Error::write(folder, e))?;
        Ok(file.as_file().metadata().map_err(|e| Error::read(folder, e))?.uid())
    }

    fn refused(found: String, remedy: String) -> Error {
        Error::argument("the cache of compiled plugins", found, remedy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(folder: &tempfile::TempDir) -> Cache {
        Cache::open(&folder.path().join("own")).unwrap()
    }

    #[test]
    fn an_entry_that_was_changed_on_disk_is_not_found() {
        let folder = tempfile::tempdir().unwrap();
        let cache = open(&folder);
        let key = "key";
        assert!(cache.get(key).is_none());
        cache.put(key, b"machine code");
        assert_eq!(open(&folder).get(key).unwrap(), b"machine code", "the secret is kept");
        let path = cache.path(key);
        let whole = std::fs::read(&path).unwrap();
        for place in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[place] ^= 1;
            std::fs::write(&path, &bytes).unwrap();
            assert!(cache.get(key).is_none(), "byte {place}");
            std::fs::write(&path, &whole[..place]).unwrap();
            assert!(cache.get(key).is_none(), "cut at {place}");
        }
        cache.put(key, b"machine code");
        assert_eq!(cache.get(key).unwrap(), b"machine code");
    }

    #[test]
    fn two_entries_cannot_be_exchanged_and_one_of_another_installation_is_not_found() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (cache, foreign) = (open(&one), open(&other));
        cache.put("a", b"code of a");
        cache.put("b", b"code of b");
        std::fs::copy(cache.path("a"), cache.path("b")).unwrap();
        assert!(cache.get("b").is_none(), "the entry of a under the key of b");
        foreign.put("a", b"code of somebody else");
        std::fs::copy(foreign.path("a"), cache.path("a")).unwrap();
        assert!(cache.get("a").is_none(), "written under another secret");
        // The layout before this one: a digest that anyone can compute.
        let old = [Sha256::digest(b"code").as_slice(), b"code"].concat();
        std::fs::write(cache.path("a"), old).unwrap();
        assert!(cache.get("a").is_none());
    }

    #[test]
    fn the_oldest_entries_are_deleted_beyond_the_bound() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache { most_bytes: 400, ..open(&folder) };
        for (age, key) in [(30, "a"), (20, "b"), (10, "c")] {
            cache.put(key, &[0; 100]);
            let when = SystemTime::now() - std::time::Duration::from_secs(age);
            OpenOptions::new().write(true).open(cache.path(key)).unwrap().set_modified(when).unwrap();
        }
        cache.put("d", &[0; 60]);
        let kept = ["a", "b", "c", "d"].map(|key| cache.get(key).is_some());
        assert_eq!(kept, [false, true, true, true]);
        cache.put("e", &[0; 500]);
        assert!(cache.get("e").is_none() && cache.get("d").is_some(), "one that alone is beyond the bound");
        assert!(open(&folder).get("d").is_some(), "the secret is never deleted");
    }

    #[test]
    fn the_tag_is_hmac_sha256() {
        // RFC 4231, test case 1, with its key of 20 bytes filled up with zeros, as HMAC does.
        let mut key = [0; WORD];
        key[..20].fill(0x0b);
        let hex: String = hmac(&key, &[b"Hi ", b"There"]).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_that_is_not_this_users_alone_is_refused_and_not_closed() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let folder = tempfile::tempdir().unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let own = folder.path().join("a").join("own");
        Cache::open(&own).unwrap();
        assert_eq!((mode(&own), mode(&own.join(SECRET))), (0o700, 0o600));
        for loose in [0o777, 0o770, 0o750, 0o701] {
            std::fs::set_permissions(&own, PermissionsExt::from_mode(loose)).unwrap();
            let error = Cache::open(&own).unwrap_err().to_string();
            assert!(error.contains("others can read or write") && mode(&own) == loose, "{error}");
        }
        std::fs::set_permissions(&own, PermissionsExt::from_mode(0o700)).unwrap();
        std::fs::set_permissions(own.join(SECRET), PermissionsExt::from_mode(0o644)).unwrap();
        assert!(Cache::open(&own).unwrap_err().to_string().contains(SECRET));
        std::fs::remove_file(own.join(SECRET)).unwrap();
        symlink("/dev/zero", own.join(SECRET)).unwrap();
        assert!(Cache::open(&own).unwrap_err().to_string().contains("is no plain file"));
        symlink(&own, folder.path().join("link")).unwrap();
        assert!(Cache::open(&folder.path().join("link")).unwrap_err().to_string().contains("is a link"));
        // Whoever can write to the folder above can put another one in its place.
        let above = folder.path().join("a");
        std::fs::remove_file(own.join(SECRET)).unwrap();
        std::fs::set_permissions(&above, PermissionsExt::from_mode(0o777)).unwrap();
        assert!(Cache::open(&own).unwrap_err().to_string().contains("others can exchange"));
        std::fs::set_permissions(&above, PermissionsExt::from_mode(0o1777)).unwrap();
        Cache::open(&own).unwrap();
    }
}
