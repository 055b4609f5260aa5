//! `[warm_start]`

use serde::{Deserialize, Serialize};

use crate::schedule::{Schedule, ScheduleConfig, SchedulerType};
use querywright_types::{Error, Result};

/// `[warm_start]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WarmStartConfig {
    /// Supervised steps; they are the first ones of `train.max_steps`. Default 0: none.
    pub steps: u64,
    /// Examples of a step. Default 16.
    pub batch_size: usize,
    /// The highest learning rate: reached after a tenth of the steps; it falls linearly to 0. Default 1e-3.
    pub learning_rate: f64,
    /// Words of a rewrite that is searched for, at most. Default 6.
    pub max_words: usize,
    /// How much a word must add to the measure. Default 0.02.
    pub margin: f64,
    /// Words that are tried for a query: its own and those of its relevant documents. Default 24.
    pub candidates: usize,
    /// Training queries that are searched for, at most. Default 4096.
    pub max_queries: usize,
    /// Examples of "nothing" for each other one, at most, where no word is an answer: with `prompt.vocabulary`. From
    /// 0 to 1. Default 0.25.
    pub nothing: f64,
}

impl Default for WarmStartConfig {
    fn default() -> Self {
        Self {
            steps: 0,
            batch_size: 16,
            learning_rate: 1e-3,
            max_words: 6,
            margin: 0.02,
            candidates: 24,
            max_queries: 4096,
            nothing: 0.25,
        }
    }
}

impl WarmStartConfig {
    /// The folder of a run with the adapter after the warm start, where GRPO went on from it.
    pub const FOLDER: &str = "warm_start";

    /// Whether there is none: then nothing is written of it.
    pub(in crate::config) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    pub(in crate::config) fn validate(&self, max_steps: u64) -> Result<()> {
        let refuse = |key: &str, found: String, remedy: &str| {
            Err(Error::argument(format!("warm_start.{key}"), format!("found {found}"), remedy))
        };
        if self.steps > max_steps {
            let found = format!("{} of {max_steps} steps", self.steps);
            return refuse("steps", found, "they are among train.max_steps: give no more than these");
        }
        let counts = [
            ("batch_size", self.batch_size),
            ("max_words", self.max_words),
            ("candidates", self.candidates),
            ("max_queries", self.max_queries),
        ];
        if let Some((key, _)) = counts.into_iter().find(|(_, count)| *count == 0) {
            return refuse(key, "0".into(), "give at least 1; warm_start.steps = 0 switches it off");
        }
        if !(self.margin.is_finite() && self.margin >= 0.0) {
            return refuse("margin", self.margin.to_string(), "give 0 or a number such as 0.02");
        }
        if !(0.0..=1.0).contains(&self.nothing) {
            return refuse("nothing", self.nothing.to_string(), "give a share from 0 to 1");
        }
        Schedule::new(&self.schedule(), self.steps.max(1)).map(drop)
    }

    /// Its learning rates.
    pub(crate) fn schedule(&self) -> ScheduleConfig {
        ScheduleConfig {
            learning_rate: self.learning_rate,
            lr_scheduler_type: SchedulerType::Linear,
            warmup_steps: 0,
            warmup_ratio: 0.1,
        }
    }
}
