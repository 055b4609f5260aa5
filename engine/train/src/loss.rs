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
//! A completion that the policy did not sample (`off_policy`: injected, replayed) has ratio 1 in the first update, so that
//! its gradient is that of a supervised step, the larger the less likely the token. With `off_policy_gamma` = γ its first
//! summand is instead that of LUFFY (arXiv 2504.14945, policy shaping, there with γ = 0.1), at `p = exp(logp)`:
//!
//! ```text
//! -p / (p + γ) * A        with the derivative  -A * γ p / (p + γ)²  with respect to logp
//! ```
//!
//! which weighs a token most where its probability is γ (by 1/4), and little where the policy has no idea of it.
//!
//! The second summand is the k3 estimator of KL(policy || reference): never negative, and *added*, so that minimising
//! the loss pulls towards the reference. Names, defaults and values are those of TRL's `GRPOConfig`.

mod config;
mod preference;
#[cfg(test)]
mod tests;

use std::ops::Range;

pub use config::{ImportanceLevel, LossConfig, LossType};
pub use preference::{PreferenceMetrics, preference_loss};

use querywright_types::{Error, Result};

impl LossConfig {
    /// The loss of a token that was not sampled, and its derivative with respect to its log-probability: policy shaping.
    fn shaped(&self, logp: f64, advantage: f64) -> (f64, f64) {
        let (p, gamma) = (logp.exp(), self.off_policy_gamma);
        (-advantage * p / (p + gamma), -advantage * gamma * p / (p + gamma).powi(2))
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
    /// Whether each completion has no reward because the environment failed: it counts nowhere, as if it had not been sampled.
    pub dropped: &'a [bool],
    /// Whether each completion is one that the policy did not sample.
    pub off_policy: &'a [bool],
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
        for (range, masked, _) in self.kept(config) {
            totals.completions += 1;
            totals.tokens += if masked { 0 } else { range.len() };
        }
        totals
    }

    /// The completions that were not dropped, each with whether it is masked, and whether policy shaping rules it.
    fn kept<'b>(&'b self, config: &'b LossConfig) -> impl Iterator<Item = (Range<usize>, bool, bool)> + 'b {
        let flags = self.truncated.iter().zip(self.off_policy);
        let kept = self.completions.iter().zip(flags).zip(self.dropped).filter(|(_, dropped)| !**dropped);
        kept.map(|((range, (truncated, off_policy)), _)| {
            let masked = *truncated && config.mask_truncated_completions;
            (range.clone(), masked, *off_policy && config.off_policy_gamma > 0.0)
        })
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
            ("off_policy", self.off_policy.len(), self.completions.len()),
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

/// A loss, its gradients, and metrics.
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
    /// Mean log-probability per token.
    pub logp: f64,
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
    /// What pairs have instead of ratios; none for a policy loss.
    pub preference: Option<PreferenceMetrics>,
}

/// The loss of a batch and its gradients. Sums run in double precision, in the order of the tokens. A batch whose
/// every completion is dropped or masked has loss 0 and gradients 0.
///
/// # Errors
/// When the slices of the batch do not fit each other, or `beta` wants a reference that is not there.
pub fn policy_loss(config: &LossConfig, batch: &Batch<'_>) -> Result<LossOutput> {
    batch.validate(config)?;
    let mut sums = Sums::new(config, batch);
    for (range, masked, shaped) in batch.kept(config) {
        if masked || range.is_empty() {
            sums.clips.skip();
        } else if shaped {
            sums.shaped(range);
        } else {
            sums.completion(range);
        }
    }
    Ok(sums.finish())
}

/// What [`policy_loss`] sums up, completion by completion.
struct Sums<'a> {
    config: &'a LossConfig,
    batch: &'a Batch<'a>,
    local: Totals,
    totals: Totals,
    /// The gradient of the log-probabilities in double precision.
    dlogp: Vec<f64>,
    /// Loss, entropy gradient and largest ratio so far.
    out: LossOutput,
    clips: Clips,
    kl: f64,
    entropy: f64,
    logp: f64,
    ratio: f64,
}

impl<'a> Sums<'a> {
    fn new(config: &'a LossConfig, batch: &'a Batch<'a>) -> Self {
        let local = batch.totals(config);
        let dentropy = vec![0f32; batch.entropy.len()];
        Self {
            config,
            batch,
            local,
            totals: batch.totals.unwrap_or(local),
            dlogp: vec![0f64; batch.logp.len()],
            out: LossOutput { dentropy, tokens: local.tokens, ..LossOutput::default() },
            clips: Clips::default(),
            kl: 0.0,
            entropy: 0.0,
            logp: 0.0,
            ratio: 0.0,
        }
    }

    /// The weight of each token of a completion of this length.
    fn weight(&self, length: usize) -> f64 {
        let completions = self.totals.completions.max(1) as f64;
        match self.config.loss_type {
            LossType::Grpo => 1.0 / (length as f64 * completions),
            LossType::DrGrpo => 1.0 / (completions * self.config.max_completion_length as f64),
            LossType::Bnpo => 1.0 / (self.local.tokens as f64 * self.totals.micro_batches.max(1) as f64),
            LossType::Dapo => 1.0 / self.totals.tokens.max(1) as f64,
        }
    }

    fn log_ratio(&self, t: usize) -> f64 {
        f64::from(self.batch.logp[t]) - f64::from(self.batch.old_logp[t])
    }

    fn completion(&mut self, range: Range<usize>) {
        let length = range.len();
        let weight = self.weight(length);
        let of_sequence = match self.config.importance_sampling_level {
            ImportanceLevel::Token => None,
            ImportanceLevel::Sequence => Some(range.clone().map(|t| self.log_ratio(t)).sum::<f64>() / length as f64),
        };
        // Sum of the derivatives with respect to the completion's own log ratio; every token has 1/length of it.
        let mut through_sequence = 0.0;
        let (mut low, mut high) = (0usize, 0usize);
        for t in range.clone() {
            let ratio = of_sequence.unwrap_or_else(|| self.log_ratio(t)).exp();
            let surrogate = self.config.surrogate(ratio, f64::from(self.batch.advantages[t]));
            let derivative = self.token(t, surrogate, ratio, weight);
            match of_sequence {
                None => self.dlogp[t] += weight * derivative,
                Some(_) => through_sequence += derivative,
            }
            let advantage = f64::from(self.batch.advantages[t]);
            let measured = bounded(ratio, self.config.delta);
            low += usize::from(measured < 1.0 - self.config.epsilon && advantage < 0.0);
            high += usize::from(measured > 1.0 + self.config.upper_epsilon() && advantage > 0.0);
        }
        if of_sequence.is_some() {
            range.for_each(|t| self.dlogp[t] += weight * through_sequence / length as f64);
        }
        self.clips.add(low, high, length);
    }

    /// A completion that was not sampled, under policy shaping: token by token, without a clip.
    fn shaped(&mut self, range: Range<usize>) {
        let (length, weight) = (range.len(), self.weight(range.len()));
        for t in range {
            let (logp, advantage) = (f64::from(self.batch.logp[t]), f64::from(self.batch.advantages[t]));
            let ratio = self.log_ratio(t).exp();
            let derivative = self.token(t, self.config.shaped(logp, advantage), ratio, weight);
            self.dlogp[t] += weight * derivative;
        }
        self.clips.add(0, 0, length);
    }

    /// Adds the loss of one token, whose surrogate's value and derivative are given, with the gradient of its KL and
    /// entropy terms. Returns the derivative of its loss with respect to the logarithm of the ratio.
    fn token(&mut self, t: usize, (mut value, mut derivative): (f64, f64), ratio: f64, weight: f64) -> f64 {
        let (config, batch) = (self.config, self.batch);
        if let Some(reference) = batch.ref_logp {
            let d = f64::from(reference[t]) - f64::from(batch.logp[t]);
            let correction = if config.use_bias_correction_kl { ratio } else { 1.0 };
            let kl = (d.exp_m1() - d) * correction;
            self.kl += kl;
            if config.beta != 0.0 {
                value += config.beta * kl;
                derivative += if config.use_bias_correction_kl { config.beta * kl } else { 0.0 };
                self.dlogp[t] -= weight * config.beta * d.exp_m1() * correction;
            }
        }
        let per_entropy = 1.0 / self.totals.tokens.max(1) as f64;
        self.out.loss += weight * value;
        self.out.loss -= config.entropy_coef * per_entropy * f64::from(batch.entropy[t]);
        self.out.dentropy[t] = (-config.entropy_coef * per_entropy) as f32;
        self.entropy += f64::from(batch.entropy[t]);
        self.logp += f64::from(batch.logp[t]);
        self.ratio += ratio;
        self.out.ratio_max = self.out.ratio_max.max(ratio);
        derivative
    }

    fn finish(self) -> LossOutput {
        let tokens = self.local.tokens.max(1) as f64;
        let mut out = self.out;
        out.dlogp = self.dlogp.into_iter().map(|g| g as f32).collect();
        out.kl = self.batch.ref_logp.map(|_| self.kl / tokens);
        out.entropy = self.entropy / tokens;
        out.logp = self.logp / tokens;
        out.ratio_mean = self.ratio / tokens;
        self.clips.finish(self.config.importance_sampling_level, &mut out);
        out
    }
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
