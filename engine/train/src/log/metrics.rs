//! The metrics of a step, under TRL's names, to `metrics.jsonl` and to TensorBoard.

use std::collections::BTreeMap;
use std::path::Path;

use super::{EventFile, JsonLines};
use querywright_types::{Error, Result};

/// The names of metrics. Those of TRL's GRPO trainer where it has one.
pub mod name {
    /// Mean reward.
    pub const REWARD: &str = "reward";
    /// Unbiased standard deviation of the rewards of the step.
    pub const REWARD_STD: &str = "reward_std";
    /// Mean of the main measure over what the same queries score without the model. Not in TRL.
    pub const GAIN: &str = "reward/gain_over_base";
    /// Share of zero-variance groups: their rewards are all equal, and they have no learning signal.
    pub const FRAC_REWARD_ZERO_STD: &str = "frac_reward_zero_std";
    /// Mean KL estimate per token.
    pub const KL: &str = "kl";
    /// Mean entropy per token, in nats.
    pub const ENTROPY: &str = "entropy";
    /// The coefficient of the entropy bonus; negative where it is a penalty.
    pub const ENTROPY_COEF: &str = "entropy_coef";
    /// Share of tokens clipped from below.
    pub const CLIP_LOW_MEAN: &str = "clip_ratio/low_mean";
    /// Share of tokens clipped from above.
    pub const CLIP_HIGH_MEAN: &str = "clip_ratio/high_mean";
    /// Share of tokens clipped either way.
    pub const CLIP_REGION_MEAN: &str = "clip_ratio/region_mean";
    /// The smallest share clipped from below in any completion.
    pub const CLIP_LOW_MIN: &str = "clip_ratio/low_min";
    /// The largest share clipped from above in any completion.
    pub const CLIP_HIGH_MAX: &str = "clip_ratio/high_max";
    /// Mean length of the completions, in tokens.
    pub const MEAN_LENGTH: &str = "completions/mean_length";
    /// Shortest completion.
    pub const MIN_LENGTH: &str = "completions/min_length";
    /// Longest completion.
    pub const MAX_LENGTH: &str = "completions/max_length";
    /// Mean number of terms that a completion has. Not in TRL.
    pub const MEAN_TERMS: &str = "completions/mean_terms";
    /// Groups with a completion of an earlier step. Not in TRL.
    pub const REPLAYED_GROUPS: &str = "curriculum/replayed_groups";
    /// Share of completions that ran into the length limit.
    pub const CLIPPED_RATIO: &str = "completions/clipped_ratio";
    /// The loss.
    pub const LOSS: &str = "loss";
    /// Norm of the gradient before clipping.
    pub const GRAD_NORM: &str = "grad_norm";
    /// The learning rate.
    pub const LEARNING_RATE: &str = "learning_rate";
    /// Tokens seen so far, prompts and completions.
    pub const NUM_TOKENS: &str = "num_tokens";
    /// Tokens of the step's prompts, once for each completion. Not in TRL.
    pub const PROMPT_TOKENS: &str = "cost/prompt_tokens";
    /// Tokens of the step's completions. Not in TRL.
    pub const COMPLETION_TOKENS: &str = "cost/completion_tokens";
    /// Seconds that the step took.
    pub const STEP_TIME: &str = "step_time";
    /// The retriever that the step learned from, counted from 1; only where a run has several. Not in TRL.
    pub const RETRIEVER: &str = "environment/retriever";
    /// Requests that the environment failed for good; their samples are dropped. Not in TRL.
    pub const FAULTS: &str = "environment/faults";
    /// Updates skipped because a gradient was not finite. Not in TRL.
    pub const SKIPPED_UPDATES: &str = "skipped_updates";
    /// Mean absolute difference between the log-probabilities of sampling and of training.
    pub const LOGP_DIFFERENCE: &str = "sampling/sampling_logp_difference/mean";
    /// Mean implicit reward of preferred completions.
    pub const REWARDS_CHOSEN: &str = "rewards/chosen";
    /// The same of the others.
    pub const REWARDS_REJECTED: &str = "rewards/rejected";
    /// Share of pairs in which the first is larger.
    pub const REWARDS_ACCURACIES: &str = "rewards/accuracies";
    /// Mean of their difference.
    pub const REWARDS_MARGINS: &str = "rewards/margins";
    /// Mean log-probability of preferred completions.
    pub const LOGPS_CHOSEN: &str = "logps/chosen";
    /// The same of the others.
    pub const LOGPS_REJECTED: &str = "logps/rejected";
    /// Pairs of a step of preferences. Not in TRL.
    pub const PAIRS: &str = "preference/pairs";
    /// Queries of which a round of rejection sampling kept a completion. Not in TRL.
    pub const KEPT_EXAMPLES: &str = "rejection/kept";
    /// Rows of the backward pass that the sampler had recorded.
    pub const RECORDED_ROWS: &str = "sampling/recorded_rows";
}

/// The metrics of one step: one JSON object, `{"step": 3, "entropy": 1.2, …}`.
#[derive(Debug, Clone, PartialEq, Default, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct StepMetrics {
    /// The step, counted from 1; 0 is what was measured before the first.
    pub step: u64,
    /// The values by name. None (JSON `null`) stands for what is not a finite number.
    #[serde(flatten)]
    pub values: BTreeMap<String, Option<f64>>,
}

impl StepMetrics {
    /// No metrics yet.
    pub fn new(step: u64) -> Self {
        Self { step, values: BTreeMap::new() }
    }

    /// Sets a metric.
    pub fn set(&mut self, name: impl Into<String>, value: f64) -> &mut Self {
        self.values.insert(name.into(), value.is_finite().then_some(value));
        self
    }

    /// A metric, where it was measured and is finite.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.values.get(name).copied().flatten()
    }
}

/// Writes metrics to both places.
#[derive(Debug)]
pub struct MetricsLog {
    lines: JsonLines<StepMetrics>,
    events: EventFile,
}

impl MetricsLog {
    /// Opens `metrics.jsonl` and a new event file in the run's folder, which must exist. A run that resumes from the
    /// checkpoint of a step gives that step; a fresh one gives none, and what an earlier run left in `metrics.jsonl`
    /// is cut off.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn open(folder: &Path, resume_from: Option<u64>) -> Result<Self> {
        if !folder.is_dir() {
            return Err(Error::read(folder, std::io::Error::from(std::io::ErrorKind::NotFound)));
        }
        let lines = JsonLines::open(folder.join("metrics.jsonl"), resume_from)?;
        let events = EventFile::create(folder, resume_from)?;
        Ok(Self { lines, events })
    }

    /// Appends the metrics of a step. In TensorBoard a name is put under `train/`, and `eval_x` becomes `eval/x`, as
    /// transformers does.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn record(&mut self, metrics: &StepMetrics) -> Result<()> {
        self.lines.append(std::slice::from_ref(metrics))?;
        let tag = |name: &String| match name.strip_prefix("eval_") {
            Some(rest) => format!("eval/{rest}"),
            None => format!("train/{name}"),
        };
        let scalars: Vec<(String, f32)> =
            metrics.values.iter().map(|(name, value)| (tag(name), value.map_or(f32::NAN, |v| v as f32))).collect();
        self.events.scalars(metrics.step, &scalars)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_flat_json_and_come_back() {
        let mut metrics = StepMetrics::new(3);
        metrics.set(name::REWARD, 0.25).set(name::KL, f64::NAN).set(name::MEAN_LENGTH, 12.0);
        let text = serde_json::to_string(&metrics).unwrap();
        assert_eq!(text, r#"{"step":3,"completions/mean_length":12.0,"kl":null,"reward":0.25}"#);
        assert_eq!(serde_json::from_str::<StepMetrics>(&text).unwrap(), metrics);
        assert_eq!((metrics.get("reward"), metrics.get("kl"), metrics.get("loss")), (Some(0.25), None, None));
    }

    #[test]
    fn a_resumed_log_reads_as_if_the_run_had_never_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let step = |step: u64| {
            let mut metrics = StepMetrics::new(step);
            metrics.set(name::LOSS, 1.0 / step as f64);
            metrics
        };
        let mut log = MetricsLog::open(folder.path(), None).unwrap();
        (1..=6).for_each(|s| log.record(&step(s)).unwrap());
        let straight = std::fs::read(&path).unwrap();
        let mut log = MetricsLog::open(folder.path(), Some(4)).unwrap();
        (5..=6).for_each(|s| log.record(&step(s)).unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), straight);
        assert!(MetricsLog::open(&folder.path().join("absent"), None).is_err());
    }
}
