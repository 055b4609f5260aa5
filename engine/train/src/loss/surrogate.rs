//! The policy's term of a token's loss: one formula for each `loss_type`.

use std::ops::Range;

use super::{Batch, ImportanceLevel, LossConfig, LossType};

/// The importance weights of a completion's tokens.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weight {
    /// The importance ratio: of the token, of its item, or of its completion.
    pub(super) ratio: f64,
    /// The logarithm of the whole completion's probability ratio, as `vespo` bounds it.
    pub(super) log_completion: f64,
}

/// The policy's term of a token's loss.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Surrogate {
    pub(super) value: f64,
    /// Its derivative with respect to the logarithm of the importance ratio.
    pub(super) through_ratio: f64,
    /// Its derivative with respect to the token's own log-probability, where the importance weight counts as a constant.
    pub(super) direct: f64,
    /// Whether the ratio was clipped from below at a negative advantage.
    pub(super) low: bool,
    /// Whether the ratio was clipped from above at a positive advantage.
    pub(super) high: bool,
    /// The weight that `vespo` gives the completion.
    pub(super) phi: f64,
}

/// The smallest importance weight that `vespo` tells from 0, and the largest log ratio of a token or a completion.
const VESPO_BOUNDS: (f64, f64) = (1e-8, 20.0);

impl LossConfig {
    /// The policy's term of a token with log-probability `logp`.
    pub(super) fn surrogate(&self, weight: Weight, logp: f64, advantage: f64) -> Surrogate {
        match self.loss_type {
            LossType::Cispo => self.clipped_weight(weight.ratio, logp, advantage),
            LossType::Sapo => self.gated(weight.ratio, advantage),
            LossType::Vespo => self.gamma_weighted(weight.log_completion, logp, advantage),
            LossType::Grpo | LossType::DrGrpo | LossType::Bnpo | LossType::Dapo | LossType::Luspo => {
                self.clipped(weight.ratio, advantage)
            }
        }
    }

    /// The term of a token that was not sampled: policy shaping.
    pub(super) fn shaped(&self, logp: f64, advantage: f64) -> Surrogate {
        let (p, gamma) = (logp.exp(), self.off_policy_gamma);
        let through_ratio = -advantage * gamma * p / (p + gamma).powi(2);
        Surrogate { value: -advantage * p / (p + gamma), through_ratio, ..Surrogate::default() }
    }

    /// The clipped surrogate. At a tie of the two branches each counts half, as in PyTorch.
    fn clipped(&self, ratio: f64, advantage: f64) -> Surrogate {
        let (low, high) = (1.0 - self.epsilon, 1.0 + self.upper_epsilon());
        let bounded = self.delta.map_or(ratio, |delta| ratio.min(delta));
        let within = self.delta.is_none_or(|delta| ratio <= delta);
        let open = (bounded * advantage, if within { ratio * advantage } else { 0.0 });
        let inside = (low..=high).contains(&ratio);
        let clipped = (ratio.clamp(low, high) * advantage, if inside { ratio * advantage } else { 0.0 });
        let (value, through_ratio) = if open.0 < clipped.0 {
            (-open.0, -open.1)
        } else if clipped.0 < open.0 {
            (-clipped.0, -clipped.1)
        } else {
            (-open.0, -0.5 * (open.1 + clipped.1))
        };
        Surrogate {
            value,
            through_ratio,
            low: bounded < low && advantage < 0.0,
            high: bounded > high && advantage > 0.0,
            ..Surrogate::default()
        }
    }

    /// CISPO: `-min(ratio, epsilon_high) * A * logp`, where the weight is a constant.
    fn clipped_weight(&self, ratio: f64, logp: f64, advantage: f64) -> Surrogate {
        let most = self.upper_epsilon();
        let direct = -ratio.min(most) * advantage;
        Surrogate { value: direct * logp, direct, high: ratio > most && advantage > 0.0, ..Surrogate::default() }
    }

    /// SAPO: `-A * sigmoid(tau * (ratio - 1)) * 4 / tau`, with one tau for positive advantages and one for the others.
    fn gated(&self, ratio: f64, advantage: f64) -> Surrogate {
        let tau = if advantage > 0.0 { self.sapo_temperature_pos } else { self.sapo_temperature_neg };
        let gate = 1.0 / (1.0 + (-tau * (ratio - 1.0)).exp());
        let slope = gate * (1.0 - gate);
        // Where the gate is shut or wide open, the ratio may be infinite.
        let through_ratio = if slope > 0.0 { -advantage * 4.0 * slope * ratio } else { 0.0 };
        Surrogate { value: -advantage * 4.0 * gate / tau, through_ratio, ..Surrogate::default() }
    }

    /// VESPO: `-phi(w) * A * logp` with `phi(w) = e^lambda w^k e^(-lambda w)`, w the completion's importance weight and a
    /// constant, and one pair of k and lambda for advantages from 0 on, one for the others.
    fn gamma_weighted(&self, log_weight: f64, logp: f64, advantage: f64) -> Surrogate {
        let (k, lambda) = match advantage >= 0.0 {
            true => (self.vespo_k_pos, self.vespo_lambda_pos),
            false => (self.vespo_k_neg, self.vespo_lambda_neg),
        };
        let lambda = lambda.max(1e-4);
        let phi = (lambda + k * log_weight - lambda * log_weight.exp()).exp();
        let phi = if phi.is_finite() { phi } else { 0.0 };
        let direct = -phi * advantage;
        Surrogate { value: direct * logp, direct, phi, ..Surrogate::default() }
    }
}

impl Batch<'_> {
    pub(super) fn log_ratio(&self, t: usize) -> f64 {
        f64::from(self.logp[t]) - f64::from(self.old_logp[t])
    }

    /// The logarithm of the whole completion's probability ratio, token by token and as a sum within the bounds of `vespo`.
    pub(super) fn bounded_log_ratio(&self, completion: Range<usize>) -> f64 {
        let (least, most) = (VESPO_BOUNDS.0.ln(), VESPO_BOUNDS.1);
        completion.map(|t| self.log_ratio(t).clamp(-most, most)).sum::<f64>().clamp(least, most)
    }

    /// The parts of a completion whose tokens share one importance ratio: none where each token has its own.
    pub(super) fn shared_ratios(&self, level: ImportanceLevel, completion: Range<usize>) -> Vec<Range<usize>> {
        match level {
            ImportanceLevel::Token => Vec::new(),
            ImportanceLevel::Sequence => std::iter::once(completion).collect(),
            ImportanceLevel::Item => {
                let items = self.items.and_then(|items| items.get(completion.clone())).unwrap_or_default();
                let mut start = completion.start;
                let part = |same: &[u32]| {
                    start += same.len();
                    start - same.len()..start
                };
                items.chunk_by(|a, b| a == b).map(part).collect()
            }
        }
    }

    /// The mean log ratio over a part of a completion: the logarithm of the geometric mean of its tokens' ratios.
    pub(super) fn mean_log_ratio(&self, part: Range<usize>) -> f64 {
        let length = part.len() as f64;
        part.map(|t| self.log_ratio(t)).sum::<f64>() / length
    }

    /// Whether the policy has left a completion too far behind to learn from its failure: a negative advantage, and a mean
    /// of `old_logp - logp` above the threshold. Token by token, where advantages are.
    pub(super) fn is_stale(&self, config: &LossConfig, completion: Range<usize>, t: usize) -> bool {
        config.off_policy_mask_threshold.is_some_and(|threshold| {
            self.advantages.get(t).is_some_and(|advantage| *advantage < 0.0)
                && -self.mean_log_ratio(completion) > threshold
        })
    }
}

/// The tokens with the highest entropies among `tokens`: those at or above the quantile `1 - share`, which is that of
/// PyTorch: interpolated between two values, in single precision.
pub(super) fn high_entropy(entropy: &[f32], tokens: &[usize], share: f64) -> Vec<bool> {
    let mut high = vec![false; entropy.len()];
    let mut sorted: Vec<f32> = tokens.iter().filter_map(|t| entropy.get(*t)).copied().collect();
    sorted.sort_by(f32::total_cmp);
    let rank = (1.0 - share) as f32 * sorted.len().saturating_sub(1) as f32;
    let (below, weight) = (rank.floor() as usize, rank.fract());
    let Some(low) = sorted.get(below) else { return high };
    let up = sorted.get(rank.ceil() as usize).unwrap_or(low);
    let threshold = match weight < 0.5 {
        true => low + weight * (up - low),
        false => up - (up - low) * (1.0 - weight),
    };
    for t in tokens {
        high[*t] = entropy[*t] >= threshold;
    }
    high
}
