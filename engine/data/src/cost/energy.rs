//! The energy counters of processors (RAPL), as Linux shows them below `/sys/class/powercap`.

use std::fs;
use std::path::{Path, PathBuf};

/// Where the counters lie.
pub(super) const POWERCAP: &str = "/sys/class/powercap";

/// The counters of all processors and of their memory.
#[derive(Debug)]
pub(super) struct Energy {
    counters: Vec<Counter>,
}

#[derive(Debug)]
struct Counter {
    path: PathBuf,
    /// Microjoules at which it begins again.
    range: u64,
    last: u64,
}

impl Energy {
    /// Opens the counters of a folder.
    ///
    /// # Errors
    /// Why there are none to read, as a sentence.
    pub(super) fn open(folder: &Path) -> Result<Self, String> {
        let entries = fs::read_dir(folder).map_err(|e| format!("{} cannot be read ({e})", folder.display()))?;
        let mut zones: Vec<PathBuf> =
            entries.flatten().map(|entry| entry.path()).filter(|path| is_counted(path)).collect();
        zones.sort();
        if zones.is_empty() {
            return Err(format!("{} has no counters of processors", folder.display()));
        }
        let counters = zones.into_iter().map(|zone| {
            let path = zone.join("energy_uj");
            // Most systems let nobody but root read them.
            let last = number(&path).map_err(|e| format!("{} cannot be read ({e})", path.display()))?;
            let limit = zone.join("max_energy_range_uj");
            let range = number(&limit).map_err(|e| format!("{} cannot be read ({e})", limit.display()))?;
            Ok(Counter { path, range, last })
        });
        Ok(Self { counters: counters.collect::<Result<_, String>>()? })
    }

    /// Joules since the last call, or since they were opened; none where a counter cannot be read.
    pub(super) fn since_last(&mut self) -> Option<f64> {
        self.counters.iter_mut().try_fold(0.0, |sum, counter| {
            let now = number(&counter.path).ok()?;
            let passed = match now.checked_sub(counter.last) {
                Some(passed) => passed,
                None => counter.range.saturating_sub(counter.last).saturating_add(now),
            };
            counter.last = now;
            Some(sum + passed as f64 / 1e6)
        })
    }
}

/// Packages, and the memory beside them. What lies within a package (core, uncore), and the whole platform (psys), would count
/// twice.
fn is_counted(zone: &Path) -> bool {
    let name = fs::read_to_string(zone.join("name")).unwrap_or_default();
    let is_rapl = zone.file_name().is_some_and(|file| file.to_string_lossy().starts_with("intel-rapl:"));
    is_rapl && (name.starts_with("package") || name.trim() == "dram")
}

fn number(path: &Path) -> std::io::Result<u64> {
    fs::read_to_string(path)?.trim().parse().map_err(|_| std::io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(folder: &Path, file: &str, name: &str, energy: u64) -> PathBuf {
        let zone = folder.join(file);
        fs::create_dir_all(&zone).unwrap();
        fs::write(zone.join("name"), format!("{name}\n")).unwrap();
        fs::write(zone.join("energy_uj"), format!("{energy}\n")).unwrap();
        fs::write(zone.join("max_energy_range_uj"), "1000000\n").unwrap();
        zone
    }

    #[test]
    fn packages_and_memory_are_summed_over_a_counter_that_began_again() {
        let folder = tempfile::tempdir().unwrap();
        let package = zone(folder.path(), "intel-rapl:0", "package-0", 900_000);
        let memory = zone(folder.path(), "intel-rapl:0:1", "dram", 0);
        for (file, name) in [("intel-rapl:0:0", "core"), ("intel-rapl:1", "psys"), ("intel-rapl-mmio:0", "package-0")] {
            zone(folder.path(), file, name, 77);
        }
        let mut energy = Energy::open(folder.path()).unwrap();
        assert_eq!((energy.counters.len(), energy.since_last()), (2, Some(0.0)));
        fs::write(package.join("energy_uj"), "400000\n").unwrap();
        fs::write(memory.join("energy_uj"), "250000\n").unwrap();
        assert_eq!(energy.since_last(), Some(0.5 + 0.25));
        fs::remove_file(memory.join("energy_uj")).unwrap();
        assert_eq!(energy.since_last(), None, "a part of the sum is missing");
    }

    #[test]
    fn where_there_are_no_counters_the_reason_is_said() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Energy::open(&folder.path().join("absent")).unwrap_err().contains("cannot be read"));
        assert!(Energy::open(folder.path()).unwrap_err().contains("no counters"));
        let package = zone(folder.path(), "intel-rapl:0", "package-0", 1);
        fs::write(package.join("energy_uj"), "many\n").unwrap();
        assert!(Energy::open(folder.path()).unwrap_err().contains("energy_uj cannot be read"));
    }
}
