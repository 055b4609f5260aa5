//! Files that take long to make and are kept: one process makes a file, others wait for it, and nobody sees half of one.
//!
//! ```text
//! FOLDER/NAME.KIND                  the file
//! FOLDER/.NAME.KIND.PROCESS-N.part  one that is being written, or was when its process died
//! FOLDER/.lock-NAME                 locked by who makes it; empty, and stays
//! ```

use std::fs::{self, File};
use std::io;
use std::path::Path;

use querywright_types::{Error, Result, write_beside};

/// The right to make something, held until it is dropped. The system gives it back however its process ends.
#[derive(Debug)]
pub struct Maker {
    /// Holds the lock until it is closed.
    _file: File,
    alone: bool,
}

impl Maker {
    /// Waits until no other thread or process holds the lock at `path`, an empty file that is created where there is none.
    ///
    /// # Errors
    /// Those of opening it.
    pub fn wait(path: &Path) -> io::Result<Self> {
        let file = File::options().create(true).truncate(false).write(true).open(path)?;
        loop {
            match file.lock() {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                locked => return Ok(Self { _file: file, alone: locked.is_ok() }),
            }
        }
    }

    /// Whether nobody else makes the same. Some file systems have no locks; there several may.
    pub const fn is_alone(&self) -> bool {
        self.alone
    }
}

/// Where something is kept: `FOLDER/NAME.KIND`.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The folder, which is created where there is none.
    pub folder: &'a Path,
    /// The name without its kind. It holds the key of all that shapes the content.
    pub name: &'a str,
    /// What stands behind the last point.
    pub kind: &'a str,
}

/// Reads what is kept at a place; where `read` finds nothing whole, makes it and keeps it.
///
/// # Errors
/// Those of `read` (which answers nothing where a file is missing, damaged or of another key, and fails where the file
/// cannot be read: long work is not done again for a permission), of `make`, and of writing, with the file.
pub fn read_or_make<T>(
    place: Place<'_>,
    read: impl Fn(&Path) -> Result<Option<T>>,
    make: impl FnOnce() -> Result<T>,
    write: impl FnOnce(&T, &mut File) -> io::Result<()>,
) -> Result<T> {
    let Place { folder, name, kind } = place;
    let path = folder.join(format!("{name}.{kind}"));
    if let Some(kept) = read(&path)? {
        return Ok(kept);
    }
    fs::create_dir_all(folder).map_err(|e| Error::write(folder, e))?;
    let lock = folder.join(format!(".lock-{name}"));
    let maker = Maker::wait(&lock).map_err(|e| Error::write(&lock, e))?;
    // Somebody else may have made it in the meantime.
    if let Some(kept) = read(&path)? {
        return Ok(kept);
    }
    if maker.is_alone() {
        remove_dead(folder, &format!(".{name}.{kind}."));
    }
    let made = make()?;
    write_beside(&path, |file| write(&made, file)).map_err(|e| Error::write(&path, e))?;
    Ok(made)
}

/// Removes what processes left behind that died while they wrote. Best effort: the work at hand does not depend on it.
fn remove_dead(folder: &Path, prefix: &str) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn read(path: &Path) -> Result<Option<String>> {
        match fs::read_to_string(path) {
            Ok(text) => Ok(text.strip_suffix("whole").map(ToOwned::to_owned)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::read(path, e)),
        }
    }

    fn opened(folder: &Path, made: &AtomicUsize) -> Result<String> {
        let make = || Ok(format!("{}", made.fetch_add(1, Ordering::SeqCst)));
        let place = Place { folder, name: "a-key", kind: "text" };
        read_or_make(place, read, make, |text, file| write!(file, "{text}whole"))
    }

    #[test]
    fn one_of_many_makes_it_and_all_read_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let (place, made) = (folder.path().join("new"), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            let all: Vec<_> = (0..8).map(|_| scope.spawn(|| opened(&place, &made).unwrap())).collect();
            assert!(all.into_iter().all(|one| one.join().unwrap() == "0"));
        });
        assert_eq!(made.load(Ordering::SeqCst), 1);
        assert_eq!(fs::read_dir(&place).unwrap().count(), 2, "the file and its lock");
    }

    #[test]
    fn what_is_damaged_is_made_anew_and_what_died_is_removed() {
        let (folder, made) = (tempfile::tempdir().unwrap(), AtomicUsize::new(7));
        let [place, dead, other] =
            ["a-key.text", ".a-key.text.1-0.part", ".b-key.text.1-0.part"].map(|name| folder.path().join(name));
        for path in [&place, &dead, &other] {
            fs::write(path, "7who").unwrap();
        }
        assert_eq!(opened(folder.path(), &made).unwrap(), "7");
        assert_eq!(fs::read_to_string(&place).unwrap(), "7whole");
        assert_eq!((dead.exists(), other.exists()), (false, true), "of others, some may be at work");
    }

    #[test]
    fn a_failure_leaves_nothing_and_a_file_that_cannot_be_read_is_no_reason_to_make_it_again() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place { folder: folder.path(), name: "a-key", kind: "text" };
        let failed = read_or_make(place, read, || Err(Error::bug("test", "no")), |_: &String, _| Ok(()));
        assert!(failed.unwrap_err().to_string().contains("no"));
        let full = |_: &String, _: &mut File| Err(io::Error::from(io::ErrorKind::StorageFull));
        let failed = read_or_make(place, read, || Ok("7".to_owned()), full).unwrap_err().to_string();
        assert!(failed.contains("a-key.text"), "{failed}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "the lock alone");
        fs::create_dir(folder.path().join("a-key.text")).unwrap();
        assert!(opened(folder.path(), &AtomicUsize::new(0)).is_err());
    }
}
