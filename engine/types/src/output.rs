//! Files that are written whole or not at all.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Error, Result};

/// A file that is to be written after long work. Opening it finds out whether it can be written; what was there stays
/// until everything is written beside it, and then is replaced in one step. Until then nothing new lies in the folder.
#[derive(Debug)]
pub struct Output {
    /// As the user wrote it, for errors.
    path: PathBuf,
    target: Target,
}

#[derive(Debug)]
enum Target {
    /// The file is written beside this place, with the permissions of what it replaces, and moved there.
    Beside { place: PathBuf, permissions: Option<Permissions> },
    /// The file is written in its place: a device or a pipe, or a file in a folder that takes no new ones.
    Place(File),
}

impl Output {
    /// Makes sure that the file can be written.
    ///
    /// # Errors
    /// When it cannot: the folder is missing, it is a folder itself, or the user may not write there.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let fail = |e| Error::write(path, e);
        let known = fs::metadata(path).ok();
        if path.as_os_str().is_empty() || known.as_ref().is_some_and(fs::Metadata::is_dir) {
            return Err(fail(std::io::Error::from(ErrorKind::IsADirectory)));
        }
        // What a process has open already (/dev/stdout) is not exchanged under it.
        let special = known.as_ref().is_some_and(|known| !known.is_file())
            || ["/dev", "/proc"].iter().any(|folder| path.starts_with(folder));
        // What is written over is read first.
        let in_place = |file: bool| OpenOptions::new().write(true).read(file).open(path).map_err(fail);
        let output = |target| Self { path: path.to_path_buf(), target };
        if special {
            return Ok(output(Target::Place(in_place(false)?)));
        }
        if known.is_some() {
            // A file that may not be written is not replaced either.
            OpenOptions::new().append(true).open(path).map_err(fail)?;
        }
        // Through a link, so that the link stays one.
        let place = behind(path).map_err(fail)?;
        match Temporary::beside(&place) {
            // Gone at once: a process that is killed at its work leaves nothing behind.
            Ok((temporary, _)) => drop(temporary),
            Err(error) if error.kind() == ErrorKind::PermissionDenied && known.is_some() => {
                return Ok(output(Target::Place(in_place(true)?)));
            }
            Err(error) => return Err(fail(error)),
        }
        Ok(output(Target::Beside { place, permissions: known.map(|known| known.permissions()) }))
    }

    /// The path, as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes all of the file and puts it in its place.
    ///
    /// # Errors
    /// When the system refuses. What was in the place is then still there.
    pub fn write(self, content: &[u8]) -> Result<()> {
        Self::write_together([(self, content)])
    }

    /// Writes files that belong together. Each is written beside its place, and none is moved there before all of them are
    /// written: where one cannot be, what was in all the places is still there.
    ///
    /// # Errors
    /// When the system refuses, with the file that it refused.
    pub fn write_together<'a>(files: impl IntoIterator<Item = (Self, &'a [u8])>) -> Result<()> {
        let mut staged = Vec::new();
        for (output, content) in files {
            let ready = match output.target {
                Target::Beside { place, permissions } => beside_in_full(&place, permissions, content)
                    .map(|temporary| Staged::Beside { temporary, place })
                    .map_err(|e| Error::write(&output.path, e))?,
                Target::Place(file) => Staged::Place { file, content },
            };
            staged.push((output.path, ready));
        }
        staged.into_iter().try_for_each(|(path, ready)| ready.commit().map_err(|e| Error::write(path, e)))
    }
}

/// A file whose content is written, or can only be written in its place.
enum Staged<'a> {
    Beside { temporary: Temporary, place: PathBuf },
    Place { file: File, content: &'a [u8] },
}

impl Staged<'_> {
    fn commit(self) -> std::io::Result<()> {
        let (temporary, place) = match self {
            Self::Place { file, content } => return overwrite(file, content),
            Self::Beside { temporary, place } => (temporary, place),
        };
        fs::rename(&temporary.0, &place)?;
        match place.parent().filter(|_| cfg!(unix)) {
            // The move lasts through a power cut, too. A folder that may not be read cannot be synced; the file is there.
            Some(folder) => File::open(folder).and_then(|folder| folder.sync_all()).or(Ok(())),
            None => Ok(()),
        }
    }
}

/// Writes a file beside its place.
fn beside_in_full(place: &Path, permissions: Option<Permissions>, content: &[u8]) -> std::io::Result<Temporary> {
    let (temporary, mut file) = Temporary::beside(place)?;
    file.write_all(content)?;
    if let Some(permissions) = permissions {
        fs::set_permissions(&temporary.0, permissions)?;
    }
    file.sync_all()?;
    Ok(temporary)
}

/// Writes a file beside its place, with `write`, and moves it there once all of it is on disk. What was there stays until
/// then. The name beside a place `FOLDER/NAME` begins with `.NAME.` and ends with `.part`.
///
/// # Errors
/// Those of the system, and of `write`; the file beside is then removed.
pub fn write_beside(place: &Path, write: impl FnOnce(&mut File) -> std::io::Result<()>) -> std::io::Result<()> {
    let (temporary, mut file) = Temporary::beside(place)?;
    write(&mut file)?;
    file.sync_all()?;
    fs::rename(&temporary.0, place)?;
    place.parent().map_or(Ok(()), sync_folder)
}

/// Makes renames in a folder last through a power cut. Only Unix can sync folders; on other systems renames are durable in
/// the order in which they were made.
///
/// # Errors
/// Those of opening and syncing.
pub fn sync_folder(folder: &Path) -> std::io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// Writes a file from its beginning. Only a file has an end to cut off; devices and pipes refuse. Where a file cannot be
/// written to the end, what was in it is put back: that needs no more room than it had.
fn overwrite(mut file: File, content: &[u8]) -> std::io::Result<()> {
    let known = file.metadata()?;
    if !known.is_file() {
        file.write_all(content)?;
        return file.flush();
    }
    let mut before = Vec::new();
    (&file).take(content.len() as u64).read_to_end(&mut before)?;
    file.rewind()?;
    let written = file.write_all(content).and_then(|()| file.set_len(content.len() as u64));
    if written.is_err() {
        file.rewind()?;
        file.write_all(&before)?;
        file.set_len(known.len())?;
    }
    written
}

/// A file under a name of its own, removed when it is dropped; after a move there is nothing left under the name.
struct Temporary(PathBuf);

impl Temporary {
    fn beside(place: &Path) -> std::io::Result<(Self, File)> {
        let path = beside(place);
        let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        Ok((Self(path), file))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Where a path leads through links, also where nothing is there yet.
fn behind(path: &Path) -> std::io::Result<PathBuf> {
    let mut place = path.to_path_buf();
    // As many links as Linux follows.
    for _ in 0..40 {
        match fs::canonicalize(&place) {
            Err(error) if error.kind() == ErrorKind::NotFound && place.is_symlink() => {
                let target = fs::read_link(&place)?;
                place = place.parent().unwrap_or(Path::new("")).join(target);
            }
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(place),
            found => return found,
        }
    }
    Err(std::io::Error::other("too many links"))
}

/// Bytes of a name that are kept in the name beside it, which is longer.
const MOST_OF_A_NAME: usize = 200;

/// A name beside a file that no other thread or process uses.
fn beside(place: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = place.file_name().unwrap_or_default().to_string_lossy();
    let name = name.get(..name.floor_char_boundary(MOST_OF_A_NAME)).unwrap_or_default();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    place.with_file_name(format!(".{name}.{}-{count}.part", std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn what_was_there_stays_until_all_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.run");
        fs::write(&path, "old").unwrap();
        drop(Output::open(&path).unwrap());
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), names(folder.path()).len()), ("old", 1));
        let output = Output::open(&path).unwrap();
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), names(folder.path()).len()), ("old", 1));
        output.write(b"new").unwrap();
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), names(folder.path()).len()), ("new", 1));
    }

    #[test]
    fn files_that_belong_together_are_exchanged_when_all_are_written_and_not_before() {
        let folder = tempfile::tempdir().unwrap();
        let [one, two] = ["one", "two"].map(|name| folder.path().join(name));
        let open = |path: &Path| Output::open(path).unwrap();
        fs::write(&one, "old").unwrap();
        // The second place is gone after it was opened: writing beside it fails.
        let inner = folder.path().join("inner");
        fs::create_dir(&inner).unwrap();
        let lost = open(&inner.join("two"));
        fs::remove_dir(&inner).unwrap();
        let error = Output::write_together([(open(&one), &b"new"[..]), (lost, b"new")]).unwrap_err().to_string();
        assert!(error.contains("inner"), "{error}");
        assert_eq!((fs::read_to_string(&one).unwrap().as_str(), names(folder.path()).len()), ("old", 1));
        Output::write_together([(open(&one), &b"1"[..]), (open(&two), b"2")]).unwrap();
        assert_eq!([&one, &two].map(|path| fs::read_to_string(path).unwrap()), ["1", "2"]);
        assert_eq!(names(folder.path()).len(), 2);
    }

    #[test]
    fn a_place_that_cannot_be_written_is_refused_when_it_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        for path in [folder.path().join("no/such/folder/x.run"), folder.path().to_path_buf(), PathBuf::new()] {
            let error = Output::open(&path).unwrap_err().to_string();
            assert!(error.starts_with("cannot write"), "{error}");
        }
        Output::open("/dev/null").unwrap().write(b"gone").unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn a_link_stays_a_link_and_its_file_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&file, "old").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        Output::open(&link).unwrap().write(b"new").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
    }

    #[cfg(unix)]
    #[test]
    fn a_link_to_nothing_stays_one_and_its_file_is_made_and_a_loop_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let [link, further, place, around] =
            ["link", "further", "place", "around"].map(|name| folder.path().join(name));
        std::os::unix::fs::symlink("further", &link).unwrap();
        std::os::unix::fs::symlink(&place, &further).unwrap();
        std::os::unix::fs::symlink("around", &around).unwrap();
        Output::open(&link).unwrap().write(b"new").unwrap();
        assert_eq!(fs::read_to_string(&place).unwrap(), "new");
        assert!(link.is_symlink() && further.is_symlink() && !place.is_symlink());
        assert!(Output::open(&around).is_err() && around.is_symlink());
    }

    #[test]
    fn a_name_may_be_as_long_as_the_system_allows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("é".repeat(127));
        Output::open(&path).unwrap().write(b"new").unwrap();
        assert_eq!(fs::read_to_string(path).unwrap(), "new");
    }

    #[test]
    fn what_is_written_in_place_is_as_long_as_its_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let opened = || OpenOptions::new().read(true).write(true).open(&path).unwrap();
        fs::write(&path, "much longer").unwrap();
        overwrite(opened(), b"new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        overwrite(opened(), b"longer again").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "longer again");
        // A file that cannot be written keeps what it had.
        assert!(overwrite(File::open(&path).unwrap(), b"x").is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "longer again");
    }
}
