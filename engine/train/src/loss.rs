//! The policy-gradient losses of GRPO and its relatives, as pure functions.
//!
//! A decoder gives one log-probability and one entropy per completion token; [`policy_loss`] gives back the loss and
//! its analytic gradient with respect to each of them. The trainer then back-propagates
//! `sum(dlogp * logp + dentropy * entropy)` through the model. Prompt tokens never enter: they are not in the slices.
//!
//! With `ratio = exp(logp - old_logp)` (its geometric mean over the completion at sequence level, over each of its items
//! at item level), advantage `A` and `d = ref_logp - logp`, the loss of a token is
//!
//! ```text
//! -min(min(ratio, delta) * A, clip(ratio, 1 - epsilon, 1 + epsilon_high) * A)  +  beta * (exp(d) - d - 1)
//! ```
//!
//! The loss types `cispo`, `sapo` and `vespo` have another first summand (`surrogate.rs`). With
//! `top_entropy_quantile` below 1 it counts for the tokens of the highest entropies alone, and the entropy bonus as well.
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
//! The second summand is the k3 estimator of KL(policy || reference) (`kl.rs`): never negative, and *added*, so that minimising
//! the loss pulls towards the reference. Names, defaults and values are those of TRL's `GRPOConfig`.

mod config;
mod kl;
mod preference;
mod surrogate;
#[cfg(test)]
mod tests;

use std::ops::Range;

pub use config::{ImportanceLevel, LossConfig, LossType};
pub use preference::{PreferenceMetrics, preference_loss};

use kl::k3;
use querywright_types::{Error, Result};
use surrogate::{Surrogate, Weight, high_entropy};

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
    /// The number of the item that each token belongs to, ascending within a completion. Needed at item level.
    pub items: Option<&'a [u32]>,
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
        let items = self.items.map_or(tokens, <[u32]>::len);
        let lengths = [
            ("old_logp", self.old_logp.len(), tokens),
            ("ref_logp", reference, tokens),
            ("entropy", self.entropy.len(), tokens),
            ("advantages", self.advantages.len(), tokens),
            ("items", items, tokens),
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
        if config.importance_sampling_level == ImportanceLevel::Item && self.items.is_none() {
            let remedy = "give the item of each token, or another importance_sampling_level";
            return Err(Error::argument("items", "none", remedy));
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
    /// Mean entropy of the tokens that the entropy bonus counts for: another one where `top_entropy_quantile` is below 1.
    pub bonus_entropy: f64,
    /// Mean log-probability per token.
    pub logp: f64,
    /// Share of tokens (completions, at sequence level) clipped from below at a negative advantage
    /// (`clip_ratio/low_mean`).
    pub clip_low_mean: f64,
    /// The same from above at a positive advantage (`clip_ratio/high_mean`, `cispo_clip_ratio`).
    pub clip_high_mean: f64,
    /// Both together (`clip_ratio/region_mean`).
    pub clip_region_mean: f64,
    /// The smallest share clipped from below in any completion (`clip_ratio/low_min`).
    pub clip_low_min: f64,
    /// The largest share clipped from above in any completion (`clip_ratio/high_max`).
    pub clip_high_max: f64,
    /// The mean weight that `vespo` gives a completion (`vespo/phi_seq_mean`); 0 for other losses.
    pub phi_mean: f64,
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
    /// The tokens that the policy's term and the entropy bonus count for; none: all.
    high_entropy: Option<Vec<bool>>,
    /// The weight of a token's entropy in the mean that the bonus is taken of.
    per_entropy: f64,
    /// The gradient of the log-probabilities in double precision.
    dlogp: Vec<f64>,
    /// Loss, entropy gradient and largest ratio so far.
    out: LossOutput,
    clips: Clips,
    kl: f64,
    entropy: f64,
    /// Sum and count over the tokens that the entropy bonus counts for.
    bonus_entropy: (f64, usize),
    logp: f64,
    ratio: f64,
}

impl<'a> Sums<'a> {
    fn new(config: &'a LossConfig, batch: &'a Batch<'a>) -> Self {
        let local = batch.totals(config);
        let totals = batch.totals.unwrap_or(local);
        let mut per_entropy = 1.0 / totals.tokens.max(1) as f64;
        let high_entropy = (config.top_entropy_quantile < 1.0).then(|| {
            let counted = batch.kept(config).filter(|(_, masked, _)| !masked).flat_map(|(range, ..)| range);
            high_entropy(batch.entropy, &counted.collect::<Vec<_>>(), config.top_entropy_quantile)
        });
        if let Some(high) = &high_entropy {
            // Each micro-batch has the share of its tokens in the step, and spreads it over those that count.
            let counted = high.iter().filter(|high| **high).count();
            per_entropy *= local.tokens as f64 / counted.max(1) as f64;
        }
        Self {
            config,
            batch,
            local,
            totals,
            high_entropy,
            per_entropy,
            dlogp: vec![0f64; batch.logp.len()],
            out: LossOutput {
                dentropy: vec![0f32; batch.entropy.len()],
                tokens: local.tokens,
                ..LossOutput::default()
            },
            clips: Clips::default(),
            kl: 0.0,
            entropy: 0.0,
            bonus_entropy: (0.0, 0),
            logp: 0.0,
            ratio: 0.0,
        }
    }

    /// The weight of each token of a completion of this length.
    fn weight(&self, length: usize) -> f64 {
        let completions = self.totals.completions.max(1) as f64;
        match self.config.loss_type {
            LossType::Grpo | LossType::Sapo => 1.0 / (length as f64 * completions),
            LossType::DrGrpo => 1.0 / (completions * self.config.max_completion_length as f64),
            LossType::Bnpo => 1.0 / (self.local.tokens as f64 * self.totals.micro_batches.max(1) as f64),
            LossType::Dapo | LossType::Cispo | LossType::Vespo => 1.0 / self.totals.tokens.max(1) as f64,
            LossType::Luspo => 1.0 / completions,
        }
    }

    /// Whether the policy's term and the entropy bonus count for a token.
    fn counts(&self, t: usize) -> bool {
        self.high_entropy.as_ref().is_none_or(|high| high.get(t).is_some_and(|high| *high))
    }

    fn completion(&mut self, range: Range<usize>) {
        let level = self.config.importance_sampling_level;
        let (batch, length, weight) = (self.batch, range.len(), self.weight(range.len()));
        let log_completion = match self.config.loss_type {
            LossType::Vespo => batch.bounded_log_ratio(range.clone()),
            _ => 0.0,
        };
        let mut clipped = Clipped { length, ..Clipped::default() };
        if level == ImportanceLevel::Token {
            for t in range.clone() {
                let weights = Weight { ratio: batch.log_ratio(t).exp(), log_completion };
                let (derivative, direct) = self.sampled(t, range.clone(), weights, weight, &mut clipped);
                self.dlogp[t] += weight * (derivative + direct);
            }
        }
        for part in batch.shared_ratios(level, range.clone()) {
            let weights = Weight { ratio: batch.mean_log_ratio(part.clone()).exp(), log_completion };
            // Sum of the derivatives with respect to the part's log ratio; every token has 1/length of it.
            let mut through_part = 0.0;
            for t in part.clone() {
                let (derivative, direct) = self.sampled(t, range.clone(), weights, weight, &mut clipped);
                through_part += derivative;
                self.dlogp[t] += weight * direct;
            }
            let length = part.len() as f64;
            part.for_each(|t| self.dlogp[t] += weight * through_part / length);
        }
        self.clips.completions.push(clipped);
    }

    /// Adds a sampled token; the derivatives of its loss with respect to the logarithm of its ratio, and to its own
    /// log-probability where the importance weight is a constant.
    fn sampled(
        &mut self,
        t: usize,
        completion: Range<usize>,
        weights: Weight,
        weight: f64,
        clipped: &mut Clipped,
    ) -> (f64, f64) {
        let (logp, advantage) = (f64::from(self.batch.logp[t]), f64::from(self.batch.advantages[t]));
        let term = self.config.surrogate(weights, logp, advantage);
        clipped.low += usize::from(term.low);
        clipped.high += usize::from(term.high);
        clipped.phi += term.phi;
        let counts = self.counts(t) && !self.batch.is_stale(self.config, completion, t);
        let term = if counts { term } else { Surrogate::default() };
        (self.token(t, term, weights.ratio, weight), term.direct)
    }

    /// A completion that was not sampled, under policy shaping: token by token, without a clip.
    fn shaped(&mut self, range: Range<usize>) {
        let (length, weight) = (range.len(), self.weight(range.len()));
        for t in range {
            let (logp, advantage) = (f64::from(self.batch.logp[t]), f64::from(self.batch.advantages[t]));
            let ratio = self.batch.log_ratio(t).exp();
            let term = if self.counts(t) { self.config.shaped(logp, advantage) } else { Surrogate::default() };
            let derivative = self.token(t, term, ratio, weight);
            self.dlogp[t] += weight * derivative;
        }
        self.clips.completions.push(Clipped { length, ..Clipped::default() });
    }

    /// Adds the loss of one token, whose policy term is given, with the gradient of its KL and entropy terms. Returns the
    /// derivative of its loss with respect to the logarithm of the ratio.
    fn token(&mut self, t: usize, term: Surrogate, ratio: f64, weight: f64) -> f64 {
        let (config, batch) = (self.config, self.batch);
        let (mut value, mut derivative) = (term.value, term.through_ratio);
        if let Some(reference) = batch.ref_logp {
            let (estimate, slope) = k3(f64::from(batch.logp[t]), f64::from(reference[t]));
            let correction = if config.use_bias_correction_kl { ratio } else { 1.0 };
            let kl = estimate * correction;
            self.kl += kl;
            if config.beta != 0.0 {
                value += config.beta * kl;
                derivative += if config.use_bias_correction_kl { config.beta * kl } else { 0.0 };
                self.dlogp[t] += weight * config.beta * slope * correction;
            }
        }
        let entropy = f64::from(batch.entropy[t]);
        self.out.loss += weight * value;
        if self.counts(t) {
            self.out.loss -= config.entropy_coef * self.per_entropy * entropy;
            self.out.dentropy[t] = (-config.entropy_coef * self.per_entropy) as f32;
            self.bonus_entropy = (self.bonus_entropy.0 + entropy, self.bonus_entropy.1 + 1);
        }
        self.entropy += entropy;
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
        out.bonus_entropy = self.bonus_entropy.0 / self.bonus_entropy.1.max(1) as f64;
        out.logp = self.logp / tokens;
        out.ratio_mean = self.ratio / tokens;
        self.clips.finish(self.config, &mut out);
        out
    }
}

/// What was clipped in a completion.
#[derive(Default)]
struct Clipped {
    /// Tokens clipped from below.
    low: usize,
    /// Tokens clipped from above.
    high: usize,
    /// All tokens.
    length: usize,
    /// The sum of the weights that `vespo` gives them.
    phi: f64,
}

/// Counts of clipped tokens, completion by completion.
#[derive(Default)]
struct Clips {
    /// Those in the loss.
    completions: Vec<Clipped>,
    /// Completions that are masked: they count in means over completions, as in TRL.
    masked: usize,
}

impl Clips {
    fn skip(&mut self) {
        self.masked += 1;
    }

    fn finish(&self, config: &LossConfig, out: &mut LossOutput) {
        let level = config.importance_sampling_level;
        let share = |c: &Clipped| (c.low as f64 / c.length as f64, c.high as f64 / c.length as f64);
        let shares = || self.completions.iter().map(share);
        let all = (self.completions.len() + self.masked) as f64;
        let (low, high, count) = match level {
            ImportanceLevel::Token | ImportanceLevel::Item => {
                let add =
                    |s: (f64, f64, f64), c: &Clipped| (s.0 + c.low as f64, s.1 + c.high as f64, s.2 + c.length as f64);
                self.completions.iter().fold((0.0, 0.0, 0.0), add)
            }
            ImportanceLevel::Sequence => {
                let sum = shares().fold((0.0, 0.0), |s, c| (s.0 + c.0, s.1 + c.1));
                (sum.0, sum.1, all)
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
        if config.loss_type == LossType::Vespo {
            // A masked completion has the weight 1.
            let phi: f64 = self.completions.iter().map(|c| c.phi / c.length as f64).sum();
            out.phi_mean = (phi + self.masked as f64) / all.max(1.0);
        }
    }
}
