//! Advantages: how much better a completion is than the others of its group, and, within a completion, how much
//! better one of its terms is than the others.
//!
//! Between completions ([`group_advantages`]), for rewards r of the completions of one prompt:
//!
//! ```text
//! A = (r - mean(r)) / (std(r) + 1e-4)
//! ```
//!
//! with the unbiased standard deviation of the group (`scale_rewards = "group"`), of the whole batch (`"batch"`, the
//! mean stays that of the group) or no division (`"none"`): TRL's formula and names.
//!
//! Within a completion ([`term_credit`]), for the marginal contribution m = reward - reward without the term:
//!
//! ```text
//! A_token = A + coef * (m - mean(m)) / (scale + 1e-4)
//! ```
//!
//! where the mean runs over the tokens of the completion's terms, and the scale is the root mean square of the centred
//! contributions over the terms of the batch that contribute anything. Centring by tokens means that the credits of a
//! completion sum to 0: its total advantage stays that of the group, credit only moves it from term to term.

use std::ops::Range;

use querywright_types::{Error, Result};

/// TRL's guard against division by zero.
const EPSILON: f64 = 1e-4;

/// Rewards that differ by less than this, relative to their size (absolute below 1), are equal: what is left is the
/// residue of single precision, and a standard deviation must not blow it up into a signal.
const RESIDUE: f64 = 1e-6;

/// What rewards are divided by: TRL's `scale_rewards`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ScaleRewards {
    /// The standard deviation of the group.
    #[default]
    Group,
    /// The standard deviation of the whole batch.
    Batch,
    /// Nothing (Dr. GRPO): queries that are too easy or too hard are not weighted up.
    None,
}

/// The learning signal of the groups of a batch.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GroupSignal {
    /// The advantage of each completion; 0 where its reward is missing or its group has no signal.
    pub advantages: Vec<f32>,
    /// Whether each completion's reward is missing, so that it must be dropped from the loss.
    pub dropped: Vec<bool>,
    /// Whether each group has a learning signal: at least two rewards, not all equal. Dynamic sampling replaces the
    /// others, the zero-variance groups.
    pub informative: Vec<bool>,
    /// Mean of the rewards that are there (`reward`); 0 when there is none.
    pub reward: f64,
    /// Unbiased standard deviation of all rewards that are there (`reward_std`).
    pub reward_std: f64,
    /// Share of zero-variance groups (`frac_reward_zero_std`).
    pub frac_reward_zero_std: f64,
}

/// The advantages of completions that lie group by group, `num_generations` to a group. A missing reward (None: the
/// environment failed) enters neither mean nor standard deviation, and its completion is marked as dropped.
///
/// # Errors
/// When the rewards do not fill whole groups, or one is not finite.
pub fn group_advantages(rewards: &[Option<f32>], num_generations: usize, scale: ScaleRewards) -> Result<GroupSignal> {
    if num_generations == 0 || !rewards.len().is_multiple_of(num_generations) {
        let found = format!("{} rewards for groups of {num_generations}", rewards.len());
        return Err(Error::argument("num_generations", found, "give a whole number of groups"));
    }
    if let Some(bad) = rewards.iter().flatten().find(|r| !r.is_finite()) {
        return Err(Error::argument(
            "rewards",
            format!("{bad}"),
            "a reward must be a finite number; use none for a fault",
        ));
    }
    let present = |rewards: &[Option<f32>]| -> Vec<f64> { rewards.iter().flatten().map(|r| f64::from(*r)).collect() };
    let (reward, reward_std) = mean_and_std(&present(rewards));
    let mut signal = GroupSignal { reward, reward_std, ..GroupSignal::default() };
    for group in rewards.chunks(num_generations) {
        let values = present(group);
        let (mean, std) = mean_and_std(&values);
        let divisor = match scale {
            ScaleRewards::Group => std + EPSILON,
            ScaleRewards::Batch => reward_std + EPSILON,
            ScaleRewards::None => 1.0,
        };
        let informative = values.len() > 1 && !equal(&values);
        signal.informative.push(informative);
        for reward in group {
            signal.dropped.push(reward.is_none());
            signal.advantages.push(match reward {
                Some(r) if informative => ((f64::from(*r) - mean) / divisor) as f32,
                _ => 0.0,
            });
        }
    }
    let zero_variance = signal.informative.iter().filter(|i| !**i).count();
    signal.frac_reward_zero_std = zero_variance as f64 / signal.informative.len().max(1) as f64;
    Ok(signal)
}

/// One advantage a completion, given to each of its tokens. The result is as long as the last range reaches.
///
/// # Errors
/// When there is not one advantage for each completion, or a range ends before it starts.
pub fn broadcast(completions: &[Range<usize>], advantages: &[f32]) -> Result<Vec<f32>> {
    if completions.len() != advantages.len() {
        let found = format!("{} for {} completions", advantages.len(), completions.len());
        return Err(Error::argument("advantages", found, "give one for each completion"));
    }
    let tokens = completions.iter().map(|r| r.end).max().unwrap_or(0);
    let mut broadcast = vec![0.0; tokens];
    for (range, advantage) in completions.iter().zip(advantages) {
        let Some(slots) = broadcast.get_mut(range.clone()) else {
            return Err(Error::argument("completions", format!("the token range {range:?}"), "start before the end"));
        };
        slots.fill(*advantage);
    }
    Ok(broadcast)
}

/// One generated term and the reward without it.
#[derive(Debug, Clone, PartialEq)]
pub struct CounterfactualTerm {
    /// The tokens that spell the term, in the batch's flat token list; several ranges where it was written several times.
    pub tokens: Vec<Range<usize>>,
    /// The reward of the same completion without the term. None where the environment failed: no credit either way.
    pub reward_without: Option<f32>,
}

/// What counterfactual retrieval found about one completion.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Counterfactual {
    /// The completion's reward with all its terms. None where the environment failed.
    pub reward: Option<f32>,
    /// Its terms; empty where the format was broken or nothing can be taken away.
    pub terms: Vec<CounterfactualTerm>,
}

/// Per-token advantages: each completion's own (`advantages`, broadcast) plus `coef` times the credit of the term that
/// the token spells (see the module's formula). Tokens outside terms, completions without a reward, and completions
/// with fewer than two known contributions get no credit. A completion of a group without signal still learns which of
/// its terms helped.
///
/// # Errors
/// When the three lists do not have one entry for each completion, or a term lies outside its completion.
pub fn term_credit(
    completions: &[Range<usize>],
    advantages: &[f32],
    counterfactuals: &[Counterfactual],
    coef: f64,
) -> Result<Vec<f32>> {
    let mut per_token = broadcast(completions, advantages)?;
    if counterfactuals.len() != completions.len() {
        let found = format!("{} for {} completions", counterfactuals.len(), completions.len());
        return Err(Error::argument("counterfactuals", found, "give one for each completion"));
    }
    let mut credits: Vec<(&CounterfactualTerm, f64)> = Vec::new();
    let (mut squares, mut contributing) = (0.0, 0usize);
    for (completion, counterfactual) in completions.iter().zip(counterfactuals) {
        let Some(reward) = counterfactual.reward else { continue };
        let known: Vec<(&CounterfactualTerm, f64)> = counterfactual
            .terms
            .iter()
            .filter_map(|term| Some((term, f64::from(reward) - f64::from(term.reward_without?))))
            .collect();
        for range in known.iter().flat_map(|(term, _)| &term.tokens) {
            if range.start < completion.start || range.end > completion.end || range.start > range.end {
                let found = format!("a term at tokens {range:?} of the completion at {completion:?}");
                return Err(Error::argument("counterfactuals", found, "keep terms within their completion"));
            }
        }
        let contributions: Vec<f64> = known.iter().map(|(_, m)| *m).collect();
        let tokens: usize = known.iter().map(|(term, _)| length(term)).sum();
        if known.len() < 2 || tokens == 0 || equal(&contributions) {
            continue;
        }
        let mean = known.iter().map(|(term, m)| length(term) as f64 * m).sum::<f64>() / tokens as f64;
        for (term, contribution) in known {
            let centred = contribution - mean;
            if contribution.abs() > RESIDUE {
                squares += centred * centred;
                contributing += 1;
            }
            credits.push((term, centred));
        }
    }
    let scale = (squares / contributing.max(1) as f64).sqrt() + EPSILON;
    for (term, centred) in credits {
        let credit = (coef * centred / scale) as f32;
        for token in term.tokens.iter().cloned().flatten() {
            let Some(slot) = per_token.get_mut(token) else {
                return Err(Error::bug("train::advantage", format!("credit for token {token}, which is not there")));
            };
            *slot += credit;
        }
    }
    Ok(per_token)
}

fn length(term: &CounterfactualTerm) -> usize {
    term.tokens.iter().map(ExactSizeIterator::len).sum()
}

/// Mean and unbiased standard deviation; (0, 0) of nothing, standard deviation 0 of one value.
fn mean_and_std(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n.max(1.0);
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    (mean, if values.len() > 1 { (squares / (n - 1.0)).sqrt() } else { 0.0 })
}

/// Whether values differ by no more than float residue.
fn equal(values: &[f64]) -> bool {
    let (low, high) = values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(*v), h.max(*v)));
    high - low <= RESIDUE * low.abs().max(high.abs()).max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advantages_equal_trls_formula_in_each_scaling_with_missing_rewards() {
        let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/grpo.json"));
        let golden = &serde_json::from_str::<serde_json::Value>(text).unwrap()["advantages"];
        let rewards: Vec<Option<f32>> = serde_json::from_value(golden["rewards"].clone()).unwrap();
        for case in golden["cases"].as_array().unwrap() {
            let scale: ScaleRewards = serde_json::from_value(case["scale_rewards"].clone()).unwrap();
            let right: Vec<f32> = serde_json::from_value(case["advantages"].clone()).unwrap();
            let found = group_advantages(&rewards, 4, scale).unwrap();
            for (f, r) in found.advantages.iter().zip(&right) {
                assert!((f - r).abs() < 1e-6, "{scale:?}: {f} is not {r}");
            }
            assert!((found.reward - golden["reward"].as_f64().unwrap()).abs() < 1e-9);
            assert!((found.reward_std - golden["reward_std"].as_f64().unwrap()).abs() < 1e-6);
            // The last group has a single reward: zero variance.
            assert_eq!(found.informative, [true, true, true, false]);
            assert_eq!(found.frac_reward_zero_std, 0.25);
            assert_eq!(found.dropped, rewards.iter().map(Option::is_none).collect::<Vec<_>>());
        }
    }

    #[test]
    fn equal_rewards_up_to_float_residue_give_exactly_zero() {
        let residue = [0.1f32 + 0.2, 0.3, 0.300_000_04, 0.299_999_98].map(Some);
        for scale in [ScaleRewards::Group, ScaleRewards::Batch, ScaleRewards::None] {
            let found = group_advantages(&residue, 4, scale).unwrap();
            assert_eq!(found.advantages, [0.0; 4]);
            assert_eq!(found.informative, [false]);
        }
        let large = [1e6f32, 1e6 + 0.0625, 1e6, 1e6].map(Some);
        assert_eq!(group_advantages(&large, 4, ScaleRewards::Group).unwrap().advantages, [0.0; 4]);
    }

    #[test]
    fn small_but_real_differences_are_a_signal() {
        let found = group_advantages(&[Some(0.5), Some(0.5001)], 2, ScaleRewards::Group).unwrap();
        assert_eq!(found.informative, [true]);
        assert!(found.advantages[0] < 0.0 && found.advantages[1] > 0.0);
    }

    #[test]
    fn a_batch_in_which_every_request_failed_is_dropped_whole() {
        let found = group_advantages(&[None; 4], 2, ScaleRewards::Batch).unwrap();
        assert_eq!((found.advantages, found.dropped), (vec![0.0; 4], vec![true; 4]));
        assert_eq!((found.reward, found.reward_std, found.frac_reward_zero_std), (0.0, 0.0, 1.0));
    }

    #[test]
    fn broken_groups_and_infinite_rewards_are_refused() {
        assert!(
            group_advantages(&[Some(1.0); 5], 2, ScaleRewards::Group).unwrap_err().to_string().contains("5 rewards")
        );
        assert!(group_advantages(&[Some(1.0); 5], 0, ScaleRewards::Group).is_err());
        assert!(group_advantages(&[Some(f32::NAN), Some(1.0)], 2, ScaleRewards::Group).is_err());
    }

    /// One completion of two tokens.
    const TWO_TOKENS: &[Range<usize>] = &[Range { start: 0, end: 2 }];

    fn term(tokens: Range<usize>, reward_without: impl Into<Option<f32>>) -> CounterfactualTerm {
        CounterfactualTerm { tokens: vec![tokens], reward_without: reward_without.into() }
    }

    #[test]
    fn a_term_that_hurts_gets_a_lower_advantage_than_one_that_helps_in_the_same_completion() {
        // Token 0 and 7 are outside terms; without the first term the reward falls, without the second it rises.
        let terms = vec![term(1..3, 0.2), term(3..6, 0.9), term(6..7, 0.5)];
        let counterfactual = Counterfactual { reward: Some(0.5), terms };
        let found = term_credit(&[Range { start: 0, end: 8 }], &[0.25], &[counterfactual], 0.5).unwrap();
        assert!(found[1] > found[6] && found[6] > found[3], "{found:?}");
        assert_eq!((found[0], found[7]), (0.25, 0.25));
        assert_eq!((found[1], found[3]), (found[2], found[5]));
        let sum: f32 = found.iter().sum();
        assert!((sum - 8.0 * 0.25).abs() < 1e-5, "credit must not change the completion's total: {sum}");
        let spread = found.iter().fold(0f32, |m, a| m.max((a - 0.25).abs()));
        assert!(spread > 0.1 && spread < 1.0, "credits are of the order of coef: {spread}");
    }

    #[test]
    fn credit_is_scaled_by_the_batch_so_that_a_small_contribution_stays_small() {
        let large = Counterfactual { reward: Some(1.0), terms: vec![term(0..1, 0.0), term(1..2, 1.0)] };
        let small = Counterfactual { reward: Some(1.0), terms: vec![term(2..3, 0.99), term(3..4, 1.0)] };
        let found = term_credit(&[0..2, 2..4], &[0.0, 0.0], &[large, small], 1.0).unwrap();
        assert!(found[0] > 0.9 && found[2] > 0.0 && found[2] < 0.02, "{found:?}");
    }

    #[test]
    fn faults_lone_terms_and_equal_contributions_give_no_credit() {
        let cases = [
            Counterfactual { reward: None, terms: vec![term(0..1, 0.0), term(1..2, 1.0)] },
            Counterfactual { reward: Some(1.0), terms: vec![term(0..1, 0.0), term(1..2, None)] },
            Counterfactual { reward: Some(0.3), terms: vec![term(0..1, 0.1 + 0.2), term(1..2, 0.3)] },
            Counterfactual::default(),
        ];
        for case in cases {
            assert_eq!(
                term_credit(TWO_TOKENS, &[0.5], std::slice::from_ref(&case), 1.0).unwrap(),
                [0.5, 0.5],
                "{case:?}"
            );
        }
    }

    #[test]
    fn a_term_outside_its_completion_is_refused() {
        let stray = Counterfactual { reward: Some(1.0), terms: vec![term(0..1, 0.0), term(5..9, 1.0)] };
        assert!(term_credit(TWO_TOKENS, &[0.0], &[stray], 1.0).unwrap_err().to_string().contains("5..9"));
        assert!(term_credit(TWO_TOKENS, &[], &[], 1.0).is_err());
    }
}
