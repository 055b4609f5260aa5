//! Direct preference optimisation (DPO, arXiv 2305.18290) as a pure function.
//!
//! The completions of a batch stand in pairs, the preferred one first. With `π` and `ρ` the log-probabilities of a whole
//! completion under the policy and under the reference, sums over its tokens, the implicit rewards are `β(π - ρ)`, and the
//! loss of a pair is TRL's `sigmoid`:
//!
//! ```text
//! margin = β(π_chosen - ρ_chosen) - β(π_rejected - ρ_rejected)
//! loss   = -log sigmoid(margin)                with the derivative  ∓β sigmoid(-margin)  with respect to each token
//! ```
//!
//! The mean over all pairs of the optimiser step is taken, as TRL does over its batch. Policy ratios, advantages and the
//! entropy bonus have no part in it.

use std::ops::Range;

use super::{Batch, LossConfig, LossOutput};
use querywright_types::{Error, Result};

/// Metrics of pairs: means, under TRL's names.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct PreferenceMetrics {
    /// How many pairs: the weight of the means.
    pub pairs: usize,
    /// The implicit reward of the preferred completions (`rewards/chosen`).
    pub chosen_reward: f64,
    /// That of the others (`rewards/rejected`).
    pub rejected_reward: f64,
    /// Share of the pairs in which the first is larger (`rewards/accuracies`).
    pub accuracy: f64,
    /// Their difference (`rewards/margins`).
    pub margin: f64,
    /// Log-probability of the preferred completions (`logps/chosen`).
    pub chosen_logp: f64,
    /// That of the others (`logps/rejected`).
    pub rejected_logp: f64,
}

impl PreferenceMetrics {
    /// The means over the pairs of several batches; none without a pair.
    pub(crate) fn mean(parts: &[Self]) -> Option<Self> {
        let pairs: usize = parts.iter().map(|part| part.pairs).sum();
        let mean = |f: fn(&Self) -> f64| parts.iter().map(|p| f(p) * p.pairs as f64).sum::<f64>() / pairs as f64;
        (pairs > 0).then(|| Self {
            pairs,
            chosen_reward: mean(|p| p.chosen_reward),
            rejected_reward: mean(|p| p.rejected_reward),
            accuracy: mean(|p| p.accuracy),
            margin: mean(|p| p.margin),
            chosen_logp: mean(|p| p.chosen_logp),
            rejected_logp: mean(|p| p.rejected_logp),
        })
    }
}

/// The loss of a batch of pairs and its gradient with respect to each log-probability. The weight of the implicit rewards
/// is `config.beta`. Sums run in double precision, in the order of the tokens.
///
/// # Errors
/// When the slices of the batch do not fit each other, there is no reference, or a completion has no partner.
pub fn preference_loss(config: &LossConfig, batch: &Batch<'_>) -> Result<LossOutput> {
    batch.validate(config)?;
    let Some(reference) = batch.ref_logp else {
        return Err(Error::argument("ref_logp", "none", "give the reference's log-probabilities"));
    };
    let (pairs, rest) = batch.completions.as_chunks::<2>();
    if !rest.is_empty() || batch.dropped.contains(&true) {
        let found = format!("{} completions, of which some have no partner", batch.completions.len());
        return Err(Error::bug("train::loss::preference", found));
    }
    // All completions of the step, two a pair.
    let all = batch.totals.map_or(2 * pairs.len(), |totals| totals.completions).max(2) as f64 / 2.0;
    let sum = |values: &[f32], range: &Range<usize>| range.clone().map(|t| f64::from(values[t])).sum::<f64>();
    let mut out = LossOutput {
        dlogp: vec![0.0; batch.logp.len()],
        dentropy: vec![0.0; batch.entropy.len()],
        ..LossOutput::default()
    };
    let mut metrics = Vec::with_capacity(pairs.len());
    let (mut logp, mut entropy) = (0.0, 0.0);
    for [chosen, rejected] in pairs {
        let policy = [chosen, rejected].map(|range| sum(batch.logp, range));
        let base = [chosen, rejected].map(|range| sum(reference, range));
        let rewards = [config.beta * (policy[0] - base[0]), config.beta * (policy[1] - base[1])];
        let margin = rewards[0] - rewards[1];
        out.loss += softplus(-margin) / all;
        let slope = (config.beta * sigmoid(-margin) / all) as f32;
        out.dlogp[chosen.clone()].fill(-slope);
        out.dlogp[rejected.clone()].fill(slope);
        out.tokens += chosen.len() + rejected.len();
        logp += policy[0] + policy[1];
        entropy += sum(batch.entropy, chosen) + sum(batch.entropy, rejected);
        metrics.push(PreferenceMetrics {
            pairs: 1,
            chosen_reward: rewards[0],
            rejected_reward: rewards[1],
            accuracy: f64::from(u8::from(rewards[0] > rewards[1])),
            margin,
            chosen_logp: policy[0],
            rejected_logp: policy[1],
        });
    }
    let tokens = out.tokens.max(1) as f64;
    (out.logp, out.entropy) = (logp / tokens, entropy / tokens);
    out.preference = PreferenceMetrics::mean(&metrics);
    Ok(out)
}

fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 { 1.0 / (1.0 + (-x).exp()) } else { x.exp() / (1.0 + x.exp()) }
}

/// `log(1 + exp(x))`, of any x without an overflow.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Golden {
        lengths: Vec<usize>,
        logp: Vec<f32>,
        ref_logp: Vec<f32>,
        entropy: Vec<f32>,
        cases: Vec<Case>,
    }

    #[derive(serde::Deserialize)]
    struct Case {
        beta: f64,
        loss: f64,
        dlogp: Vec<f64>,
        metrics: std::collections::BTreeMap<String, f64>,
    }

    fn golden() -> Golden {
        let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/preference.json"));
        serde_json::from_str(text).unwrap()
    }

    impl Golden {
        fn completions(&self) -> Vec<Range<usize>> {
            let mut end = 0;
            let range = |length: &usize| {
                end += length;
                end - length..end
            };
            self.lengths.iter().map(range).collect()
        }

        /// The loss of the completions in `part`, as a share of `totals` of them.
        fn loss(&self, beta: f64, part: Range<usize>, totals: Option<usize>) -> Result<LossOutput> {
            let (completions, no) = (self.completions(), vec![false; part.len()]);
            let tokens = completions[part.start].start..completions[part.end - 1].end;
            let own: Vec<Range<usize>> =
                completions[part].iter().map(|r| r.start - tokens.start..r.end - tokens.start).collect();
            let config = LossConfig { beta, preference: true, ..LossConfig::default() };
            let logp = &self.logp[tokens.clone()];
            let advantages = vec![0.0; logp.len()];
            let batch = Batch {
                items: None,
                logp,
                old_logp: logp,
                ref_logp: Some(&self.ref_logp[tokens.clone()]),
                entropy: &self.entropy[tokens],
                advantages: &advantages,
                completions: &own,
                truncated: &no,
                dropped: &no,
                off_policy: &no,
                totals: totals.map(|completions| crate::loss::Totals { completions, ..Default::default() }),
            };
            preference_loss(&config, &batch)
        }
    }

    fn close(found: f64, right: f64, what: &str) {
        assert!((found - right).abs() <= 1e-6 * (1.0 + right.abs()), "{what}: {found} is not {right}");
    }

    #[test]
    fn losses_gradients_and_metrics_are_those_of_trl() {
        let golden = golden();
        for case in &golden.cases {
            let out = golden.loss(case.beta, 0..golden.lengths.len(), None).unwrap();
            close(out.loss, case.loss, "loss");
            out.dlogp.iter().zip(&case.dlogp).for_each(|(found, right)| close(f64::from(*found), *right, "dlogp"));
            let found = out.preference.unwrap();
            for (name, right) in &case.metrics {
                let found = match name.as_str() {
                    "rewards/chosen" => found.chosen_reward,
                    "rewards/rejected" => found.rejected_reward,
                    "rewards/accuracies" => found.accuracy,
                    "rewards/margins" => found.margin,
                    "logps/chosen" => found.chosen_logp,
                    "logps/rejected" => found.rejected_logp,
                    "entropy" => out.entropy,
                    other => panic!("a metric without a counterpart: {other}"),
                };
                close(found, *right, name);
            }
        }
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        let golden = golden();
        let all = 0..golden.lengths.len();
        for beta in [0.05, 0.5, 2.0] {
            let out = golden.loss(beta, all.clone(), None).unwrap();
            for t in 0..golden.logp.len() {
                let at = |by: f32| {
                    let mut moved = super::tests::golden();
                    moved.logp[t] += by;
                    (moved.loss(beta, all.clone(), None).unwrap().loss, f64::from(moved.logp[t]))
                };
                let ((above, high), (below, low)) = (at(1e-3), at(-1e-3));
                let derivative = (above - below) / (high - low);
                assert!((derivative - f64::from(out.dlogp[t])).abs() < 1e-5, "token {t} at beta {beta}: {derivative}");
            }
        }
    }

    #[test]
    fn micro_batches_add_up_and_their_metrics_are_weighed_by_pairs() {
        let golden = golden();
        let count = golden.lengths.len();
        let whole = golden.loss(0.1, 0..count, None).unwrap();
        let parts = [0..2, 2..count].map(|part| golden.loss(0.1, part, Some(count)).unwrap());
        close(parts.iter().map(|p| p.loss).sum(), whole.loss, "loss");
        assert_eq!(parts.iter().flat_map(|p| p.dlogp.clone()).collect::<Vec<_>>(), whole.dlogp);
        let metrics = PreferenceMetrics::mean(&parts.map(|p| p.preference.unwrap())).unwrap();
        close(metrics.margin, whole.preference.unwrap().margin, "margin");
        assert_eq!((metrics.pairs, PreferenceMetrics::mean(&[])), (count / 2, None));
    }

    #[test]
    fn margins_of_any_size_give_numbers_and_a_completion_without_a_partner_none() {
        let mut golden = golden();
        for (by, least, most) in [(1e4f32, 0.0, 1e-9), (-1e4, 1e2, f64::INFINITY)] {
            golden.logp[..golden.lengths[0]].fill(by);
            let out = golden.loss(0.1, 0..2, None).unwrap();
            assert!(out.loss >= least && out.loss <= most && out.dlogp.iter().all(|d| d.is_finite()), "{out:?}");
        }
        assert!(golden.loss(0.1, 0..3, None).unwrap_err().to_string().contains("no partner"));
    }
}
