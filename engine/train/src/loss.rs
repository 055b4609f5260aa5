//! The policy-gradient losses of GRPO and its relatives, as pure functions.
//!
//! A decoder gives one log-probability and one entropy per completion token; [`policy_loss`] gives back the loss and
//! its analytic gradient with respect to each of them. The trainer then back-propagates
//! `sum(dlogp * logp + dentropy * entropy)` through the model. Prompt tokens never enter: they are not in the slices.
//!
//! With `ratio = exp(logp - old_logp)` (its geometric mean over the completion at sequence level), advantage `A` and
//! `d = ref_logp - logp`, the loss of a token is
//!
//! ```text
//! -min(min(ratio, delta) * A, clip(ratio, 1 - epsilon, 1 + epsilon_high) * A)  +  beta * (exp(d) - d - 1)
//! ```
//!
//! The second summand is the k3 estimator of KL(policy || reference): never negative, and *added*, so that minimising
//! the loss pulls towards the reference. Names, defaults and values are those of TRL's `GRPOConfig`.

use std::ops::Range;

use crate::error::{Error, Result};

#[cfg(test)]
mod tests;

/// How the losses of tokens are summed up: TRL's `loss_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossType {
    /// Mean over each completion's tokens, then over completions (DeepSeekMath): short completions weigh more a token.
    Grpo,
    /// Sum over tokens / (completions x `max_completion_length`): no length bias (Dr. GRPO).
    DrGrpo,
    /// Mean over the tokens of the micro-batch.
    Bnpo,
    /// Mean over the tokens of the whole optimiser step (DAPO). TRL's default.
    #[default]
    Dapo,
}

/// What one importance weight stands for: TRL's `importance_sampling_level`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImportanceLevel {
    /// A ratio for each token.
    #[default]
    Token,
    /// One ratio for a completion, the geometric mean over its tokens (GSPO).
    Sequence,
}

/// The settings of the loss, under TRL's names.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LossConfig {
    /// Default `dapo`.
    pub loss_type: LossType,
    /// Lower clip range of the ratio, and the upper one where `epsilon_high` is absent. Default 0.2.
    pub epsilon: f64,
    /// Upper clip range of the ratio; DAPO recommends 0.28. Default: `epsilon`.
    pub epsilon_high: Option<f64>,
    /// Upper bound of the unclipped ratio (two-sided clipping, INTELLECT-2); above `1 + epsilon_high`. Default: none.
    pub delta: Option<f64>,
    /// Weight of the KL divergence to the reference; 0 needs no reference. Default 0.
    pub beta: f64,
    /// Whether the KL estimate is multiplied by the importance ratio, which makes its gradient unbiased when the
    /// completions come from older weights. Default true.
    pub use_bias_correction_kl: bool,
    /// Default `token`.
    pub importance_sampling_level: ImportanceLevel,
    /// Weight of the entropy bonus: the mean entropy per token, times this, is subtracted from the loss. Default 0.
    pub entropy_coef: f64,
    /// Whether completions that ran into the length limit are left out of the loss. Default false.
    pub mask_truncated_completions: bool,
    /// The length limit in tokens, the constant divisor of `dr_grpo`. Not a key of a configuration: the trainer takes
    /// it from the sampling settings.
    #[serde(skip)]
    pub max_completion_length: usize,
}

impl Default for LossConfig {
    fn default() -> Self {
        Self {
            loss_type: LossType::Dapo,
            epsilon: 0.2,
            epsilon_high: None,
            delta: None,
            beta: 0.0,
            use_bias_correction_kl: true,
            importance_sampling_level: ImportanceLevel::Token,
            entropy_coef: 0.0,
            mask_truncated_completions: false,
            max_completion_length: 512,
        }
    }
}

impl LossConfig {
    /// Refuses values that make no loss.
    pub fn validate(&self) -> Result<()> {
        let high = self.upper_epsilon();
        let checks = [
            ("epsilon", self.epsilon, self.epsilon > 0.0 && self.epsilon < 1.0, "a number between 0 and 1, as 0.2"),
            ("epsilon_high", high, high > 0.0, "a number above 0, as 0.28"),
            ("beta", self.beta, self.beta >= 0.0, "0 (no KL term) or a small number, as 0.001"),
            ("entropy_coef", self.entropy_coef, true, "a number, as 0 or 0.01"),
        ];
        for (name, value, ok, right) in checks {
            if !(ok && value.is_finite()) {
                return Err(Error::argument(name, format!("{value}"), format!("give {right}")));
            }
        }
        if let Some(delta) = self.delta.filter(|d| !d.is_finite() || *d <= 1.0 + high) {
            let right = format!("give a number above 1 + epsilon_high = {}, or leave it out", 1.0 + high);
            return Err(Error::argument("delta", format!("{delta}"), right));
        }
        if self.max_completion_length == 0 {
            return Err(Error::argument(
                "max_completion_length",
                "0",
                "give the number of tokens a completion may have",
            ));
        }
        Ok(())
    }

    fn upper_epsilon(&self) -> f64 {
        self.epsilon_high.unwrap_or(self.epsilon)
    }

    /// The clipped surrogate's loss of a token and its derivative with respect to the logarithm of the ratio. At a tie
    /// of the two branches each counts half, as in PyTorch.
    fn surrogate(&self, ratio: f64, advantage: f64) -> (f64, f64) {
        let (low, high) = (1.0 - self.epsilon, 1.0 + self.upper_epsilon());
        let open =
            (bounded(ratio, self.delta) * advantage, if within(ratio, self.delta) { ratio * advantage } else { 0.0 });
        let inside = (low..=high).contains(&ratio);
        let clipped = (ratio.clamp(low, high) * advantage, if inside { ratio * advantage } else { 0.0 });
        if open.0 < clipped.0 {
            (-open.0, -open.1)
        } else if clipped.0 < open.0 {
            (-clipped.0, -clipped.1)
        } else {
            (-open.0, -0.5 * (open.1 + clipped.1))
        }
    }
}

/// The tokens of one forward pass. All token slices run over the same flat list of completion tokens.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// Log-probability of each token under the policy that is trained.
    pub logp: &'a [f32],
    /// The same under the weights that sampled it. A constant.
    pub old_logp: &'a [f32],
    /// The same under the reference model. Needed where `beta` is not 0; otherwise it only feeds the `kl` metric.
    pub ref_logp: Option<&'a [f32]>,
    /// Entropy of the policy's distribution at each token, in nats.
    pub entropy: &'a [f32],
    /// Advantage of each token ([`super::advantage::broadcast`] makes them from one advantage a completion).
    pub advantages: &'a [f32],
    /// The token range of each completion; ranges do not overlap.
    pub completions: &'a [Range<usize>],
    /// Whether each completion ran into the length limit.
    pub truncated: &'a [bool],
    /// Whether each completion has no reward because the environment failed: it counts nowhere, as if never drawn.
    pub dropped: &'a [bool],
    /// The sizes of the whole optimiser step, where this batch is one micro-batch of it. None: the batch is the step.
    pub totals: Option<Totals>,
}

/// How much one optimiser step holds. Summed over its micro-batches, then given to each of them, it makes the losses
/// of the micro-batches add up to the loss of the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Completions that were not dropped; truncated ones count even where they are masked, as in TRL.
    pub completions: usize,
    /// Tokens that are in the loss.
    pub tokens: usize,
    /// Micro-batches (the divisor that `bnpo` needs besides its own tokens).
    pub micro_batches: usize,
}

impl std::iter::Sum for Totals {
    fn sum<I: Iterator<Item = Self>>(totals: I) -> Self {
        totals.fold(Self::default(), |a, b| Self {
            completions: a.completions + b.completions,
            tokens: a.tokens + b.tokens,
            micro_batches: a.micro_batches + b.micro_batches,
        })
    }
}

impl Batch<'_> {
    /// What this batch alone holds under `config`.
    pub fn totals(&self, config: &LossConfig) -> Totals {
        let mut totals = Totals { micro_batches: 1, ..Totals::default() };
        for (range, masked) in self.kept(config) {
            totals.completions += 1;
            totals.tokens += if masked { 0 } else { range.len() };
        }
        totals
    }

    /// The completions that were not dropped, each with whether it is masked.
    fn kept<'b>(&'b self, config: &'b LossConfig) -> impl Iterator<Item = (Range<usize>, bool)> + 'b {
        let flags = self.truncated.iter().zip(self.dropped);
        self.completions
            .iter()
            .zip(flags)
            .filter(|(_, (_, dropped))| !**dropped)
            .map(|(range, (truncated, _))| (range.clone(), *truncated && config.mask_truncated_completions))
    }

    fn validate(&self, config: &LossConfig) -> Result<()> {
        let tokens = self.logp.len();
        let reference = self.ref_logp.map_or(tokens, <[f32]>::len);
        let lengths = [
            ("old_logp", self.old_logp.len(), tokens),
            ("ref_logp", reference, tokens),
            ("entropy", self.entropy.len(), tokens),
            ("advantages", self.advantages.len(), tokens),
            ("truncated", self.truncated.len(), self.completions.len()),
            ("dropped", self.dropped.len(), self.completions.len()),
        ];
        for (name, found, right) in lengths {
            if found != right {
                return Err(Error::argument(name, format!("{found} values"), format!("give {right}")));
            }
        }
        if config.beta != 0.0 && self.ref_logp.is_none() {
            return Err(Error::argument(
                "ref_logp",
                "none",
                "give the reference's log-probabilities, or set beta to 0",
            ));
        }
        match self.completions.iter().find(|r| r.start > r.end || r.end > tokens) {
            Some(range) => {
                let right = format!("keep the ranges within the batch's {tokens} tokens");
                Err(Error::argument("completions", format!("the token range {range:?}"), right))
            }
            None => Ok(()),
        }
    }
}

/// A loss, its gradients, and what the metrics want to know.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LossOutput {
    /// The loss (of this micro-batch's share, where [`Batch::totals`] was given).
    pub loss: f64,
    /// Derivative of the loss with respect to each log-probability; 0 for tokens that are not in the loss.
    pub dlogp: Vec<f32>,
    /// Derivative of the loss with respect to each entropy.
    pub dentropy: Vec<f32>,
    /// How many tokens are in the loss: the weight of this batch's means.
    pub tokens: usize,
    /// Mean KL estimate per token (`kl`); none without a reference.
    pub kl: Option<f64>,
    /// Mean entropy per token (`entropy`).
    pub entropy: f64,
    /// Share of tokens (completions, at sequence level) clipped from below at a negative advantage
    /// (`clip_ratio/low_mean`).
    pub clip_low_mean: f64,
    /// The same from above at a positive advantage (`clip_ratio/high_mean`).
    pub clip_high_mean: f64,
    /// Both together (`clip_ratio/region_mean`).
    pub clip_region_mean: f64,
    /// The smallest share clipped from below in any completion (`clip_ratio/low_min`).
    pub clip_low_min: f64,
    /// The largest share clipped from above in any completion (`clip_ratio/high_max`).
    pub clip_high_max: f64,
    /// Mean importance ratio per token: 1 while the sampling weights are the trained ones.
    pub ratio_mean: f64,
    /// Largest importance ratio of any token.
    pub ratio_max: f64,
}

/// The loss of a batch and its gradients. Sums run in double precision, in the order of the tokens. A batch whose
/// every completion is dropped or masked has loss 0 and gradients 0.
///
/// # Errors
/// When the slices of the batch do not fit each other, or `beta` wants a reference that is not there.
pub fn policy_loss(config: &LossConfig, batch: &Batch<'_>) -> Result<LossOutput> {
    batch.validate(config)?;
    let local = batch.totals(config);
    let totals = batch.totals.unwrap_or(local);
    let mut dlogp = vec![0f64; batch.logp.len()];
    let mut out =
        LossOutput { dentropy: vec![0f32; batch.entropy.len()], tokens: local.tokens, ..LossOutput::default() };
    let mut clips = Clips::default();
    let (mut kl_sum, mut entropy_sum, mut ratio_sum) = (0.0, 0.0, 0.0);
    let per_entropy = 1.0 / totals.tokens.max(1) as f64;

    for (range, masked) in batch.kept(config) {
        let length = range.len();
        if masked || length == 0 {
            clips.skip();
            continue;
        }
        let weight = match config.loss_type {
            LossType::Grpo => 1.0 / (length as f64 * totals.completions.max(1) as f64),
            LossType::DrGrpo => 1.0 / (totals.completions.max(1) as f64 * config.max_completion_length as f64),
            LossType::Bnpo => 1.0 / (local.tokens as f64 * totals.micro_batches.max(1) as f64),
            LossType::Dapo => 1.0 / totals.tokens.max(1) as f64,
        };
        let log_ratio = |t: usize| f64::from(batch.logp[t]) - f64::from(batch.old_logp[t]);
        let of_sequence = match config.importance_sampling_level {
            ImportanceLevel::Token => None,
            ImportanceLevel::Sequence => Some(range.clone().map(log_ratio).sum::<f64>() / length as f64),
        };
        // Sum of the derivatives with respect to the completion's own log ratio; every token has 1/length of it.
        let mut through_sequence = 0.0;
        let (mut low, mut high) = (0usize, 0usize);
        for t in range.clone() {
            let ratio = of_sequence.unwrap_or_else(|| log_ratio(t)).exp();
            let advantage = f64::from(batch.advantages[t]);
            let (mut value, mut slope) = config.surrogate(ratio, advantage);
            if let Some(reference) = batch.ref_logp {
                let d = f64::from(reference[t]) - f64::from(batch.logp[t]);
                let correction = if config.use_bias_correction_kl { ratio } else { 1.0 };
                let kl = (d.exp_m1() - d) * correction;
                kl_sum += kl;
                if config.beta != 0.0 {
                    value += config.beta * kl;
                    slope += if config.use_bias_correction_kl { config.beta * kl } else { 0.0 };
                    dlogp[t] -= weight * config.beta * d.exp_m1() * correction;
                }
            }
            match of_sequence {
                None => dlogp[t] += weight * slope,
                Some(_) => through_sequence += slope,
            }
            out.loss += weight * value;
            out.loss -= config.entropy_coef * per_entropy * f64::from(batch.entropy[t]);
            out.dentropy[t] = (-config.entropy_coef * per_entropy) as f32;
            entropy_sum += f64::from(batch.entropy[t]);
            ratio_sum += ratio;
            out.ratio_max = out.ratio_max.max(ratio);
            let measured = bounded(ratio, config.delta);
            low += usize::from(measured < 1.0 - config.epsilon && advantage < 0.0);
            high += usize::from(measured > 1.0 + config.upper_epsilon() && advantage > 0.0);
        }
        if of_sequence.is_some() {
            range.for_each(|t| dlogp[t] += weight * through_sequence / length as f64);
        }
        clips.add(low, high, length);
    }

    let tokens = local.tokens.max(1) as f64;
    out.dlogp = dlogp.into_iter().map(|g| g as f32).collect();
    out.kl = batch.ref_logp.map(|_| kl_sum / tokens);
    out.entropy = entropy_sum / tokens;
    out.ratio_mean = ratio_sum / tokens;
    clips.finish(config.importance_sampling_level, &mut out);
    Ok(out)
}

/// Counts of clipped tokens, completion by completion.
#[derive(Default)]
struct Clips {
    /// (clipped from below, clipped from above, tokens) of each completion in the loss.
    completions: Vec<(f64, f64, f64)>,
    /// Completions that are masked: they count in means over completions, as in TRL.
    masked: usize,
}

impl Clips {
    fn add(&mut self, low: usize, high: usize, length: usize) {
        self.completions.push((low as f64, high as f64, length as f64));
    }

    fn skip(&mut self) {
        self.masked += 1;
    }

    fn finish(&self, level: ImportanceLevel, out: &mut LossOutput) {
        let shares = || self.completions.iter().map(|(low, high, n)| (low / n, high / n));
        let (low, high, count) = match level {
            ImportanceLevel::Token => {
                self.completions.iter().fold((0.0, 0.0, 0.0), |s, c| (s.0 + c.0, s.1 + c.1, s.2 + c.2))
            }
            ImportanceLevel::Sequence => {
                let sum = shares().fold((0.0, 0.0), |s, c| (s.0 + c.0, s.1 + c.1));
                (sum.0, sum.1, (self.completions.len() + self.masked) as f64)
            }
        };
        let count = count.max(1.0);
        out.clip_low_mean = low / count;
        out.clip_high_mean = high / count;
        out.clip_region_mean = (low + high) / count;
        out.clip_low_min = shares().map(|s| s.0).reduce(f64::min).unwrap_or(0.0);
        out.clip_high_max = shares().map(|s| s.1).reduce(f64::max).unwrap_or(0.0);
        // At sequence level a masked completion has ratio 1 and is not clipped.
        if level == ImportanceLevel::Sequence && self.masked > 0 {
            out.clip_low_min = 0.0;
        }
    }
}

fn bounded(ratio: f64, delta: Option<f64>) -> f64 {
    delta.map_or(ratio, |d| ratio.min(d))
}

fn within(ratio: f64, delta: Option<f64>) -> bool {
    delta.is_none_or(|d| ratio <= d)
}
