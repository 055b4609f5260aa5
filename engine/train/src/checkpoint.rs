//! Checkpoints: complete, atomic, resumable.
//!
//! A checkpoint is a folder `checkpoints/step-00000042` that holds the adapter (as PEFT reads it), the optimiser's
//! moments and `state.json`. It is written under a temporary name, every file and then the folder synced, and renamed:
//! a folder with the right name is complete. [`recover`] clears up after a killed writer. Random streams
//! are derived from seed and step, so no generator's state needs to be kept.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::curriculum::Curriculum;
use super::optimizer::{AdamW, AdamWConfig, Moments};
use super::replay::Replay;
use super::schedule::EntropyControl;
use querywright_model::{Adapter, ModelConfig};
use querywright_types::{Error, Result};

/// Everything besides weights and moments that a run needs to resume.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    /// The version of this program that wrote it.
    pub version: String,
    /// Digest of everything that decides the run's numbers: configuration, model, data, retriever.
    pub digest: String,
    /// The steps that the run was planned for; none in checkpoints of before this was kept.
    #[serde(default)]
    pub max_steps: Option<u64>,
    /// Steps made.
    pub step: u64,
    /// Updates of the optimiser.
    pub updates: u64,
    /// The optimiser's settings.
    pub optimizer: AdamWConfig,
    /// The entropy controller, where there is one.
    pub entropy: Option<EntropyControl>,
    /// Headroom and signal of the training queries.
    pub curriculum: Curriculum,
    /// Completions of earlier steps; absent where none is kept, as in checkpoints of before there were any.
    #[serde(default, skip_serializing_if = "Replay::is_empty")]
    pub replay: Replay,
    /// The same for each further retriever of the run; absent where there is one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<QueryState>,
    /// Tokens of prompts and completions seen so far.
    pub num_tokens: u64,
    /// Seconds spent so far.
    pub seconds: f64,
    /// The best score on the development queries and its step.
    pub best: Option<(f64, u64)>,
}

/// What a run knows of the training queries in front of one of its retrievers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QueryState {
    /// Headroom and signal.
    pub curriculum: Curriculum,
    /// Completions of earlier steps.
    #[serde(default, skip_serializing_if = "Replay::is_empty")]
    pub replay: Replay,
}

impl RunState {
    /// Those of the retriever with this number.
    pub(super) fn queries(&self, number: usize) -> Result<(&Curriculum, &Replay)> {
        match number.checked_sub(1) {
            None => Ok((&self.curriculum, &self.replay)),
            Some(at) => self.also.get(at).map(|own| (&own.curriculum, &own.replay)).ok_or_else(|| no_retriever(number)),
        }
    }

    /// See [`Self::queries`].
    pub(super) fn queries_mut(&mut self, number: usize) -> Result<(&mut Curriculum, &mut Replay)> {
        match number.checked_sub(1) {
            None => Ok((&mut self.curriculum, &mut self.replay)),
            Some(at) => {
                let own = self.also.get_mut(at).ok_or_else(|| no_retriever(number))?;
                Ok((&mut own.curriculum, &mut own.replay))
            }
        }
    }
}

fn no_retriever(number: usize) -> Error {
    Error::bug("train::checkpoint", format!("nothing is known of retriever {}", number + 1))
}

/// A checkpoint that was read.
#[derive(Debug)]
pub struct Checkpoint {
    /// The state.
    pub state: RunState,
    /// The adapter.
    pub adapter: Adapter,
    /// The optimiser.
    pub optimizer: AdamW,
}

/// Writes a folder atomically: `write` fills a temporary folder beside `target`, which is synced and renamed.
/// A `target` that exists is replaced, and there is no moment without one where the system can exchange two folders (Linux
/// and macOS, on most file systems). Elsewhere a writer that is killed between two renames leaves the old one set aside,
/// and [`recover`] puts it back.
pub fn write_folder(target: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let name = target.file_name().and_then(|n| n.to_str()).unwrap_or("folder");
    let parent = target.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(|e| Error::write(parent, e))?;
    let temporary = parent.join(format!(".{name}.{}.tmp", std::process::id()));
    let clear = |path: &Path| match fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::write(path, e)),
        _ => Ok(()),
    };
    clear(&temporary)?;
    fs::create_dir_all(&temporary).map_err(|e| Error::write(&temporary, e))?;
    let filled = write(&temporary).and_then(|()| sync_folder(&temporary));
    if let Err(error) = filled {
        // A half-written folder must not take space on a full disk.
        let _ = fs::remove_dir_all(&temporary);
        return Err(error);
    }
    let old = parent.join(format!(".{name}.{}.old", std::process::id()));
    if target.exists() {
        if exchange(&temporary, target).is_ok() {
            sync(parent)?;
            return clear(&temporary);
        }
        clear(&old)?;
        fs::rename(target, &old).map_err(|e| Error::write(target, e))?;
    }
    fs::rename(&temporary, target).map_err(|e| Error::write(target, e))?;
    sync(parent)?;
    clear(&old)
}

/// Exchanges two folders in one step.
#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
fn exchange(one: &Path, other: &Path) -> std::io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?)
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
fn exchange(_: &Path, _: &Path) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

/// Clears up after killed writers in a run's folder: an old version that was moved aside for a new one is restored
/// where the new one never arrived, everything else temporary is removed. No other process may be writing to the run.
pub fn recover(run: &Path) -> Result<()> {
    let further = fs::read_dir(run).into_iter().flatten().flatten().map(|entry| entry.path());
    let further = further.filter(|path| {
        path.is_dir() && path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("retriever-"))
    });
    for folder in [run.to_path_buf(), run.join("checkpoints")].into_iter().chain(further) {
        let entries = match fs::read_dir(&folder) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            entries => entries.map_err(|e| Error::read(&folder, e))?,
        };
        for entry in entries {
            let path = entry.map_err(|e| Error::read(&folder, e))?.path();
            if is_half_written(&path) {
                fs::remove_file(&path).map_err(|e| Error::write(&path, e))?;
            }
            let Some((name, ending)) = temporary_name(&path) else { continue };
            let target = folder.join(name);
            if ending == "old" && !target.exists() {
                fs::rename(&path, &target).map_err(|e| Error::write(&target, e))?;
            } else {
                fs::remove_dir_all(&path).map_err(|e| Error::write(&path, e))?;
            }
        }
    }
    Ok(())
}

/// `.best.4711.old` is a version of `best`, set aside by the process 4711.
fn temporary_name(path: &Path) -> Option<(&str, &str)> {
    let (rest, ending) = path.file_name()?.to_str()?.strip_prefix('.')?.rsplit_once('.')?;
    let (name, process) = rest.rsplit_once('.')?;
    (matches!(ending, "tmp" | "old") && process.parse::<u32>().is_ok() && path.is_dir()).then_some((name, ending))
}

/// `.run.json.4711-0.part` is what the process 4711 had written of `run.json`.
fn is_half_written(path: &Path) -> bool {
    let parts = || {
        let rest = path.file_name()?.to_str()?.strip_prefix('.')?.strip_suffix(".part")?;
        let (process, count) = rest.rsplit_once('.')?.1.split_once('-')?;
        Some(process.parse::<u32>().is_ok() && count.parse::<u64>().is_ok())
    };
    path.is_file() && parts().unwrap_or(false)
}

fn sync_folder(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(|e| Error::read(folder, e))? {
        sync(&entry.map_err(|e| Error::read(folder, e))?.path())?;
    }
    sync(folder)
}

fn sync(path: &Path) -> Result<()> {
    File::open(path).and_then(|f| f.sync_all()).map_err(|e| Error::write(path, e))
}

/// Saves a checkpoint of a run and removes all but the newest `keep`.
pub fn save(
    run: &Path,
    state: &RunState,
    adapter: &Adapter,
    optimizer: &AdamW,
    base_model: &str,
    keep: usize,
) -> Result<PathBuf> {
    let target = run.join("checkpoints").join(format!("step-{:08}", state.step));
    write_folder(&target, |folder| {
        adapter.save(folder, base_model)?;
        write_moments(&folder.join("optimizer.safetensors"), optimizer)?;
        let path = folder.join("state.json");
        let text = serde_json::to_vec_pretty(state).map_err(|e| Error::write(&path, e.into()))?;
        File::create(&path).and_then(|mut f| f.write_all(&text)).map_err(|e| Error::write(&path, e))
    })?;
    let mut all = list(run)?;
    let surplus = all.len().saturating_sub(keep.max(1));
    for (step, old) in all.drain(..surplus) {
        // It is renamed first: a folder that is half removed is no checkpoint.
        let gone = old.with_file_name(format!(".step-{step:08}.{}.tmp", std::process::id()));
        fs::rename(&old, &gone).map_err(|e| Error::write(&old, e))?;
        fs::remove_dir_all(&gone).map_err(|e| Error::write(&gone, e))?;
    }
    Ok(target)
}

/// The complete checkpoints of a run, oldest first.
pub fn list(run: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let folder = run.join("checkpoints");
    let entries = match fs::read_dir(&folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|e| Error::read(&folder, e))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| Error::read(&folder, e))?;
        let name = entry.file_name();
        let step = name.to_str().and_then(|n| n.strip_prefix("step-")).and_then(|n| n.parse().ok());
        found.extend(step.map(|step| (step, entry.path())));
    }
    found.sort_unstable();
    Ok(found)
}

/// Refuses a folder that already holds a run. Costs nothing: call it before a model is fetched.
///
/// # Errors
/// [`Error::Argument`] for `train.output_dir`.
pub fn require_none(run: &Path) -> Result<()> {
    if list(run)?.is_empty() {
        return Ok(());
    }
    let found = format!("{} already holds a run", run.display());
    Err(Error::argument("train.output_dir", found, "continue it with --resume, or choose another folder"))
}

/// The newest checkpoint of a run and its state; none when there is none yet.
pub(super) fn latest(run: &Path) -> Result<Option<(PathBuf, RunState)>> {
    let Some((_, folder)) = list(run)?.pop() else { return Ok(None) };
    let path = folder.join("state.json");
    let text = fs::read(&path).map_err(|e| Error::read(&path, e))?;
    let state: RunState = serde_json::from_slice(&text).map_err(|e| {
        let remedy = format!("remove {} to resume from the one before, or start a new run", folder.display());
        Error::model(&path, format!("is no run state of this version: {e}"), remedy)
    })?;
    Ok(Some((folder, state)))
}

/// The checkpoint in a folder, whose state was read.
pub(super) fn load(folder: &Path, state: RunState, model: &ModelConfig) -> Result<Checkpoint> {
    let adapter = Adapter::load(folder, model)?;
    let optimizer = read_moments(&folder.join("optimizer.safetensors"), &state)?;
    Ok(Checkpoint { state, adapter, optimizer })
}

fn write_moments(path: &Path, optimizer: &AdamW) -> Result<()> {
    let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let tensors: Vec<(String, usize, Vec<u8>)> = optimizer
        .state
        .moments
        .iter()
        .flat_map(|(name, moments)| {
            [("m", &moments.m), ("v", &moments.v)]
                .map(|(part, values)| (format!("{name}.{part}"), values.len(), bytes(values)))
        })
        .collect();
    let failed = |e: safetensors::SafeTensorError| Error::write(path, std::io::Error::other(e));
    let views = tensors
        .iter()
        .map(|(name, len, bytes)| {
            let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![*len], bytes);
            view.map(|v| (name.as_str(), v))
        })
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(failed)?;
    fs::write(path, safetensors::serialize(views, None).map_err(failed)?).map_err(|e| Error::write(path, e))
}

fn read_moments(path: &Path, state: &RunState) -> Result<AdamW> {
    let bytes = fs::read(path).map_err(|e| Error::read(path, e))?;
    let bad = |found: String| Error::model(path, found, "remove this checkpoint to resume from the one before");
    let file = safetensors::SafeTensors::deserialize(&bytes).map_err(|e| bad(e.to_string()))?;
    let values = |name: &str| -> Result<Vec<f32>> {
        let view = file.tensor(name).map_err(|e| bad(e.to_string()))?;
        Ok(view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
    };
    let mut optimizer = AdamW::new(state.optimizer);
    optimizer.state.step = state.updates;
    for name in file.names() {
        if let Some(parameter) = name.strip_suffix(".m") {
            let moments = Moments { m: values(name)?, v: values(&format!("{parameter}.v"))? };
            optimizer.state.moments.insert(parameter.to_owned(), moments);
        }
    }
    Ok(optimizer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_fails_while_being_written_leaves_the_old_one_in_place() {
        let parent = tempfile::tempdir().unwrap();
        let target = parent.path().join("best");
        write_folder(&target, |f| fs::write(f.join("a"), "1").map_err(|e| Error::write(f, e))).unwrap();
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let error = write_folder(&target, |f| Err(Error::write(f, full))).unwrap_err();
        assert!(error.to_string().contains("free some space"), "{error}");
        assert_eq!(fs::read_to_string(target.join("a")).unwrap(), "1");
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1, "nothing half-written stays behind");
        write_folder(&target, |f| fs::write(f.join("a"), "2").map_err(|e| Error::write(f, e))).unwrap();
        assert_eq!(fs::read_to_string(target.join("a")).unwrap(), "2");
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn there_is_no_moment_without_a_folder_that_is_replaced() {
        let parent = tempfile::tempdir().unwrap();
        let target = parent.path().join("best");
        let write = |n: usize| {
            write_folder(&target, |f| fs::write(f.join("a"), n.to_string()).map_err(|e| Error::write(f, e))).unwrap();
        };
        write(0);
        let done = std::sync::atomic::AtomicBool::new(false);
        let missing = std::thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                let mut missing = 0;
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    missing += usize::from(!target.is_dir());
                }
                missing
            });
            (1..=300).for_each(write);
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            watcher.join().unwrap()
        });
        assert_eq!(missing, 0);
        assert_eq!(fs::read_to_string(target.join("a")).unwrap(), "300");
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
    }

    #[test]
    fn leftovers_of_a_killed_writer_are_cleared_up() {
        let run = tempfile::tempdir().unwrap();
        let make = |name: &str, text: &str| {
            fs::create_dir_all(run.path().join(name)).unwrap();
            fs::write(run.path().join(name).join("a"), text).unwrap();
        };
        // Killed between the two renames of `best`, while a checkpoint was written, while another was removed.
        make(".best.4711.old", "old");
        make(".best.4711.tmp", "new");
        make("checkpoints/step-00000002", "2");
        make("checkpoints/.step-00000001.4711.tmp", "1");
        make("checkpoints/.step-00000003.4712.tmp", "half");
        make("retriever-2/.best.4711.tmp", "new");
        make("retriever-2/.best.4711.old", "old");
        // Killed while run.json was written.
        fs::write(run.path().join(".run.json.4711-0.part"), "{").unwrap();
        // Files of the user's.
        make(".notes.old", "mine");
        recover(run.path()).unwrap();
        assert_eq!(fs::read_to_string(run.path().join("retriever-2/best/a")).unwrap(), "old");
        assert_eq!(fs::read_dir(run.path().join("retriever-2")).unwrap().count(), 1);
        fs::remove_dir_all(run.path().join("retriever-2")).unwrap();
        let names = |folder: &Path| {
            let mut names: Vec<String> =
                fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        assert_eq!(names(run.path()), [".notes.old", "best", "checkpoints"]);
        assert_eq!(names(&run.path().join("checkpoints")), ["step-00000002"]);
        assert_eq!(fs::read_to_string(run.path().join("best/a")).unwrap(), "old");
        // Killed after the renames, before the old one was removed.
        make(".best.4711.old", "older");
        recover(run.path()).unwrap();
        assert_eq!(fs::read_to_string(run.path().join("best/a")).unwrap(), "old");
        assert_eq!(names(run.path()), [".notes.old", "best", "checkpoints"]);
        recover(&run.path().join("absent")).unwrap();
    }
}
