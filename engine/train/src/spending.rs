//! What a run spent, kept in its folder as `cost.json` and carried on when it is resumed.
//!
//! It is no part of a checkpoint: time, memory and energy are those of this machine on this day, and no step depends on
//! them.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::log::{StepMetrics, name};
use querywright_data::catalog::Output;
use querywright_data::cost::{CostConfig, Meter, Spent};
use querywright_types::{Error, Result};

/// The file.
pub(super) const FILE: &str = "cost.json";

/// What a run cost, as its file holds it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RunCost {
    /// Time, tokens, memory and energy, over all sessions of the run.
    pub spent: Spent,
    /// That in money, by these prices; none where there are none.
    pub money: Option<f64>,
    /// The prices of the configuration.
    pub prices: CostConfig,
    /// Why no energy was measured; none where it was.
    pub without_energy: Option<String>,
}

/// Watches a run.
#[derive(Debug)]
pub(super) struct Spending {
    path: PathBuf,
    prices: CostConfig,
    meter: Meter,
    spent: Spent,
}

impl Spending {
    /// Begins, or goes on with what a resumed run spent before.
    ///
    /// # Errors
    /// A file of a resumed run that cannot be read: a total must not begin anew in silence.
    pub(super) fn open(folder: &Path, resumed: bool, prices: &CostConfig, on_gpu: bool) -> Result<Self> {
        let path = folder.join(FILE);
        let mut spent = match std::fs::read(&path) {
            _ if !resumed => Spent::default(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Spent::default(),
            text => {
                let kept: RunCost = serde_json::from_slice(&text.map_err(|e| Error::read(&path, e))?).map_err(|e| {
                    let remedy = "restore it, or remove it: then only what follows is counted";
                    Error::data(&path, None, e.to_string(), remedy)
                })?;
                kept.spent
            }
        };
        spent.on_gpu = on_gpu;
        Ok(Self { path, prices: prices.clone(), meter: Meter::start(), spent })
    }

    /// Counts a step, with all that happened since the last one.
    pub(super) fn step(&mut self, metrics: &StepMetrics) {
        let tokens = |name: &str| metrics.get(name).map_or(0, |tokens| tokens as u64);
        self.meter.add_to(&mut self.spent, tokens(name::PROMPT_TOKENS), tokens(name::COMPLETION_TOKENS));
    }

    /// Writes the file, and gives what was spent so far.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub(super) fn write(&mut self) -> Result<RunCost> {
        self.meter.add_to(&mut self.spent, 0, 0);
        let cost = RunCost {
            spent: self.spent,
            money: self.prices.of(&self.spent),
            prices: self.prices.clone(),
            without_energy: self.meter.without_energy().map(str::to_owned),
        };
        let text = serde_json::to_string_pretty(&cost).map_err(|e| Error::write(&self.path, e.into()))?;
        Output::open(&self.path)?.write((text + "\n").as_bytes())?;
        Ok(cost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resumed_run_goes_on_with_what_it_spent_and_a_new_one_begins_at_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let prices =
            CostConfig { currency: Some("USD".into()), million_prompt_tokens: Some(2.0), ..CostConfig::default() };
        let mut metrics = StepMetrics::new(1);
        metrics.set(name::PROMPT_TOKENS, 500_000.0).set(name::COMPLETION_TOKENS, 7.0);
        let open = |resumed, on_gpu| Spending::open(folder.path(), resumed, &prices, on_gpu);
        let mut first = open(false, false).unwrap();
        first.step(&metrics);
        assert_eq!(first.write().unwrap().spent.prompt_tokens, 500_000);
        let mut second = open(true, false).unwrap();
        second.step(&metrics);
        let spent = second.write().unwrap().spent;
        assert_eq!((spent.prompt_tokens, spent.completion_tokens), (1_000_000, 14));
        let kept: RunCost = serde_json::from_slice(&std::fs::read(folder.path().join(FILE)).unwrap()).unwrap();
        assert_eq!((kept.money, kept.spent.prompt_tokens), (Some(2.0), 1_000_000));
        assert_eq!(kept.without_energy.is_none(), kept.spent.joules.is_some());
        let mut on_gpu = Spent::default();
        on_gpu.on_gpu = true;
        assert_eq!(open(false, true).unwrap().spent, on_gpu);
        std::fs::write(folder.path().join(FILE), "{").unwrap();
        assert!(open(true, false).unwrap_err().to_string().contains("cost.json"), "no total begins anew in silence");
        std::fs::remove_file(folder.path().join(FILE)).unwrap();
        assert_eq!(open(true, false).unwrap().spent, Spent::default());
    }
}
