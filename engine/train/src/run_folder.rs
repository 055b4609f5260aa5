//! The folder of a run: one trainer at a time, and nothing of anybody else's in it is touched.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Seek, Write};
use std::path::Path;

use super::{checkpoint, spending};
use querywright_data::catalog::Output;
use querywright_types::{Error, Result};

/// Locked by the trainer at work, and names it. It stays; the system takes the lock back however a process ends.
const LOCK: &str = "run.lock";
/// What a run is known by: it is written before anything else of [`OWN`].
pub(super) const MARK: &str = "run.json";
/// What a trainer writes over.
const OWN: [&str; 12] = [
    MARK,
    LOCK,
    "config.toml",
    "metrics.jsonl",
    "completions.jsonl",
    spending::FILE,
    "best",
    "report",
    "tuned.toml",
    "warm_start.jsonl",
    "warm_start",
    "retriever-2",
];

/// Refuses a folder that a run could not be kept in, without changing anything: another trainer is at work there, it holds
/// a run and is not to be resumed, it holds files that no run wrote, or it cannot be written. Costs nothing: call it before
/// a model is fetched.
///
/// # Errors
/// [`Error::Argument`] for `train.output_dir`, and [`Error::Io`] for what cannot be written.
pub fn require_usable(run: &Path, resume: bool) -> Result<()> {
    let there = nearest_folder(run);
    if !there.is_dir() {
        return Err(Error::write(there, std::io::Error::from(std::io::ErrorKind::NotADirectory)));
    }
    match File::open(run.join(LOCK)) {
        Ok(file) if matches!(file.try_lock(), Err(TryLockError::WouldBlock)) => return Err(in_use(run)),
        _ => {}
    }
    if !resume {
        checkpoint::require_none(run)?;
    }
    if checkpoint::list(run)?.is_empty() {
        require_own(run, &OWN)?;
    }
    require_writable(run)
}

/// Refuses to write over files of these names where no run wrote them.
///
/// # Errors
/// [`Error::Argument`] for `train.output_dir`, naming the files.
pub fn require_own(run: &Path, names: &[&str]) -> Result<()> {
    let foreign: Vec<&str> = names.iter().copied().filter(|name| run.join(name).symlink_metadata().is_ok()).collect();
    if foreign.is_empty() || is_marked(run) {
        return Ok(());
    }
    let found =
        format!("{} holds {}, which no run wrote, and a run would write over", run.display(), foreign.join(", "));
    Err(Error::argument("train.output_dir", found, "choose another folder, as runs/NAME"))
}

/// What is there of a path: itself, or what it will be made in.
fn nearest_folder(run: &Path) -> &Path {
    let there = run.ancestors().find(|folder| folder.as_os_str().is_empty() || folder.symlink_metadata().is_ok());
    there.filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes the folder of a run where it is missing, and marks it: what is written from then on is the run's own.
///
/// # Errors
/// Those of [`require_usable`], and what cannot be written.
pub fn mark(run: &Path, resume: bool) -> Result<()> {
    require_usable(run, resume)?;
    fs::create_dir_all(run).map_err(|e| Error::write(run, e))?;
    if is_marked(run) {
        return Ok(());
    }
    let about = serde_json::json!({ "querywright": env!("CARGO_PKG_VERSION") });
    Output::open(run.join(MARK))?.write(format!("{about}\n").as_bytes())
}

/// Whether a run of this program wrote the folder's `run.json`.
fn is_marked(run: &Path) -> bool {
    let about = fs::read(run.join(MARK)).ok().and_then(|text| serde_json::from_slice::<serde_json::Value>(&text).ok());
    about.is_some_and(|about| about.get("querywright").is_some())
}

/// Tries what is written to: the files of a run, or the nearest folder that is there.
///
/// # Errors
/// What cannot be written.
pub fn require_writable(run: &Path) -> Result<()> {
    if !run.exists() {
        return Output::open(nearest_folder(run).join(".querywright")).map(drop).map_err(|error| match error {
            Error::Io { source, .. } => Error::write(run, std::io::Error::from(source.kind())),
            error => error,
        });
    }
    for folder in ["checkpoints", "best", "report"].map(|name| run.join(name)) {
        if folder.exists() && !folder.is_dir() {
            return Err(Error::write(folder, std::io::Error::from(std::io::ErrorKind::NotADirectory)));
        }
    }
    let files = [MARK, "config.toml", "metrics.jsonl", "completions.jsonl"].map(|name| run.join(name));
    let pages = ["index.html", "curves.svg"].map(|name| run.join("report").join(name));
    let pages = pages.into_iter().filter(|page| page.parent().is_some_and(Path::is_dir));
    files.into_iter().chain(pages).try_for_each(|path| Output::open(path).map(drop))
}

/// A run's folder that is this trainer's until the value is dropped.
#[derive(Debug)]
pub(super) struct RunFolder {
    /// Holds the lock until it is closed. None where the file system has no locks.
    _lock: Option<File>,
}

impl RunFolder {
    /// Makes the folder where it is missing, locks it, and clears up after killed writers.
    ///
    /// # Errors
    /// Those of [`require_usable`].
    pub(super) fn claim(run: &Path, resume: bool) -> Result<Self> {
        mark(run, resume)?;
        let path = run.join(LOCK);
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(|e| Error::write(&path, e))?;
        let lock = match file.try_lock() {
            Ok(()) => Some(sign(file).map_err(|e| Error::write(&path, e))?),
            Err(TryLockError::WouldBlock) => return Err(in_use(run)),
            Err(TryLockError::Error(_)) => None,
        };
        checkpoint::recover(run)?;
        Ok(Self { _lock: lock })
    }
}

/// Writes into the lock whose it is.
fn sign(mut lock: File) -> std::io::Result<File> {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = Some(host.trim()).filter(|host| !host.is_empty()).map(|host| format!(" on {host}")).unwrap_or_default();
    lock.set_len(0)?;
    lock.rewind()?;
    writeln!(lock, "process {}{host}", std::process::id())?;
    Ok(lock)
}

fn in_use(run: &Path) -> Error {
    // A system may keep others from reading what is locked.
    let who = fs::read_to_string(run.join(LOCK)).unwrap_or_default();
    let who = Some(who.trim()).filter(|who| !who.is_empty() && who.len() < 200);
    let found = format!("another trainer is at work in {}: {}", run.display(), who.unwrap_or("it did not say which"));
    Error::argument("train.output_dir", found, "let it end, or choose another folder")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_trainer_is_refused_by_the_first_ones_process_until_that_ends() {
        let home = tempfile::tempdir().unwrap();
        let run = home.path().join("run");
        let first = RunFolder::claim(&run, false).unwrap();
        for refused in [RunFolder::claim(&run, true).map(drop), require_usable(&run, true)] {
            let error = refused.unwrap_err().to_string();
            assert!(error.starts_with("train.output_dir: another trainer is at work in"), "{error}");
            assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        }
        drop(first);
        require_usable(&run, false).unwrap();
        drop(RunFolder::claim(&run, false).unwrap());
    }

    #[test]
    fn files_that_no_run_wrote_are_not_written_over() {
        let home = tempfile::tempdir().unwrap();
        for name in OWN {
            let run = home.path().join(name);
            fs::create_dir(&run).unwrap();
            fs::write(run.join("notes.txt"), "mine").unwrap();
            require_usable(&run, false).unwrap();
            fs::write(run.join(name), "mine").unwrap();
            for resume in [false, true] {
                let error = RunFolder::claim(&run, resume).unwrap_err().to_string();
                assert!(error.contains(&format!("holds {name}, which no run wrote")), "{error}");
            }
            assert_eq!(fs::read_to_string(run.join(name)).unwrap(), "mine");
            assert_eq!(fs::read_dir(&run).unwrap().count(), 2, "refused before anything is written");
        }
        // What an earlier run left is its own.
        let run = home.path().join("config.toml");
        fs::write(run.join(MARK), "{\"querywright\": \"0.1.0\"}").unwrap();
        require_usable(&run, false).unwrap();
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_refused_and_asking_leaves_nothing() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("file"), "").unwrap();
        for run in ["file", "file/run", "file/a/run"].map(|name| home.path().join(name)) {
            let error = require_usable(&run, false).unwrap_err().to_string();
            assert!(error.starts_with("cannot write") && error.contains("file"), "{error}");
        }
        require_usable(&home.path().join("a/b/run"), false).unwrap();
        let run = home.path().join("run");
        fs::create_dir_all(run.join("report/index.html")).unwrap();
        fs::write(run.join(MARK), "{\"querywright\": \"0.1.0\"}").unwrap();
        let error = require_usable(&run, true).unwrap_err().to_string();
        assert!(error.contains("index.html"), "a report that cannot be written is known before the work: {error}");
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 2);
    }
}
