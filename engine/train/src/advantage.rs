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
//! Against the base (`baseline = "base"`), where b is the reward of what the query is without a model:
//!
//! ```text
//! A = (r - b) / (rms(r - b) + 1e-4)
//! ```
//!
//! with the root mean square over the group, the batch, or no division. A baseline that no completion decides leaves the
//! policy gradient unbiased (Williams 1992); one that a system without exploration reaches is that of self-critical
//! training (arXiv 1612.00563), and here the system is the base. What it changes: a completion that earns what the base
//! earns has advantage 0, whatever stands beside it. Against the group's mean such completions are pushed down as soon
//! as one better completion is in the group. Where that one was injected, the policy leaves what it likes for words that
//! it hardly ever writes, and its entropy rises: it does where log-probability and advantage go against each other
//! (arXiv 2505.22617).
//!
//! A spread below `min_reward_std` divides as if it were that large, so that differences next to nothing stay small.
//!
//! Within a completion ([`term_credit`]), for the marginal contribution m = reward - reward without the term:
//!
//! ```text
//! A_token = A + coef * (m - mean(m)) / (scale + 1e-4)
//! ```
//!
//! where the mean runs over the tokens of the completion's terms, and the scale is the root mean square of the centred
//! contributions over the terms of the batch that contribute anything. Centring by tokens means that the credits of a
//! completion sum to 0: its total advantage stays that of the group, credit only moves it from term to term. Where
//! completions are lists, [`rank_credit`] is the other way to tell terms apart.

mod objectives;
mod ranks;

use std::ops::Range;

pub use objectives::{Objectives, objective_advantages};
pub use ranks::{RankCredit, rank_credit};

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
    /// What is compared are not the rewards but their ranks within the group, divided by their standard deviation: how far
    /// apart two rewards are counts for nothing. Not in TRL; evolution strategies shape fitness so (arXiv 1703.03864).
    Rank,
}

/// What is summed up first where a reward has several objectives: TRL's `multi_objective_aggregation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Aggregation {
    /// The weighted objectives make one reward, which is normalised.
    #[default]
    SumThenNormalize,
    /// Each objective is normalised within the group, then their weighted sum over the batch ([`objective_advantages`]).
    NormalizeThenSum,
}

/// What a reward is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Baseline {
    /// The mean of the group.
    #[default]
    Group,
    /// The reward of the base: of the query as it is without a model.
    Base,
}

/// How rewards become advantages.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct AdvantageConfig {
    /// What they are compared with.
    pub baseline: Baseline,
    /// What the difference is divided by.
    pub scale_rewards: ScaleRewards,
    /// The range of a group's rewards (and the base's, where that is the baseline) below which it has no signal.
    pub min_group_range: f32,
    /// The least that a difference is divided by, where it is divided by a spread.
    pub min_reward_std: f32,
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
/// `bases` are the rewards of the base, one a group; they are only read where they are the baseline. A group whose base
/// has no reward has no signal then.
///
/// # Errors
/// When the rewards do not fill whole groups, the bases are not one a group, or one of them is not finite.
pub fn group_advantages(
    rewards: &[Option<f32>],
    bases: &[Option<f32>],
    num_generations: usize,
    config: AdvantageConfig,
) -> Result<GroupSignal> {
    check(rewards, bases, num_generations, config.baseline)?;
    let (reward, reward_std) = mean_and_std(&present(rewards));
    let groups = || rewards.chunks(num_generations).zip(bases.iter().chain(std::iter::repeat(&None)));
    let batch_spread = match config.baseline {
        Baseline::Group => reward_std,
        Baseline::Base => {
            root_mean_square(&groups().flat_map(|(group, base)| gains(&present(group), *base)).collect::<Vec<_>>())
        }
    };
    let mut signal = GroupSignal { reward, reward_std, ..GroupSignal::default() };
    for (group, base) in groups() {
        let mut values = present(group);
        let places = (config.scale_rewards == ScaleRewards::Rank).then(|| standings(&values));
        let (mean, std) = mean_and_std(places.as_ref().unwrap_or(&values));
        let (baseline, spread, compared) = match config.baseline {
            Baseline::Group => (Some(mean), std, values.len() > 1),
            Baseline::Base => (base.map(f64::from), root_mean_square(&gains(&values, *base)), !values.is_empty()),
        };
        if config.baseline == Baseline::Base {
            values.extend(base.map(f64::from));
        }
        let divisor = divisor(config, spread, batch_spread);
        let enough = !equal(&values) && range(&values) >= f64::from(config.min_group_range);
        let baseline = baseline.filter(|_| compared && enough);
        signal.informative.push(baseline.is_some());
        let mut places = places.into_iter().flatten();
        for reward in group {
            signal.dropped.push(reward.is_none());
            let value = reward.map(|r| places.next().unwrap_or(f64::from(r)));
            signal.advantages.push(match (value, baseline) {
                (Some(value), Some(baseline)) => ((value - baseline) / divisor) as f32,
                _ => 0.0,
            });
        }
    }
    let zero_variance = signal.informative.iter().filter(|i| !**i).count();
    signal.frac_reward_zero_std = zero_variance as f64 / signal.informative.len().max(1) as f64;
    Ok(signal)
}

fn check(rewards: &[Option<f32>], bases: &[Option<f32>], num_generations: usize, baseline: Baseline) -> Result<()> {
    if num_generations == 0 || !rewards.len().is_multiple_of(num_generations) {
        let found = format!("{} rewards for groups of {num_generations}", rewards.len());
        return Err(Error::argument("num_generations", found, "give a whole number of groups"));
    }
    if baseline == Baseline::Base && bases.len() * num_generations != rewards.len() {
        let found = format!("{} for {} groups", bases.len(), rewards.len() / num_generations);
        return Err(Error::argument("bases", found, "give one for each group"));
    }
    match rewards.iter().chain(bases).flatten().find(|r| !r.is_finite()) {
        Some(bad) => {
            let remedy = "a reward must be a finite number; use none for a fault";
            Err(Error::argument("rewards", format!("{bad}"), remedy))
        }
        None => Ok(()),
    }
}

fn present(rewards: &[Option<f32>]) -> Vec<f64> {
    rewards.iter().flatten().map(|r| f64::from(*r)).collect()
}

/// How much more than the base each reward is; none where the base has no reward.
fn gains(rewards: &[f64], base: Option<f32>) -> Vec<f64> {
    base.map_or_else(Vec::new, |base| rewards.iter().map(|r| r - f64::from(base)).collect())
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

/// What differences are divided by.
fn divisor(config: AdvantageConfig, group_spread: f64, batch_spread: f64) -> f64 {
    match config.scale_rewards {
        ScaleRewards::Group | ScaleRewards::Rank => group_spread.max(f64::from(config.min_reward_std)) + EPSILON,
        ScaleRewards::Batch => batch_spread.max(f64::from(config.min_reward_std)) + EPSILON,
        ScaleRewards::None => 1.0,
    }
}

/// The rank of each value, from 0 for the smallest; values that are equal share the mean of their ranks.
fn standings(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut standings = vec![0.0; values.len()];
    let mut first = 0;
    for tied in order.chunk_by(|a, b| equal(&[values[*a], values[*b]])) {
        let mean = first as f64 + (tied.len() - 1) as f64 / 2.0;
        tied.iter().for_each(|place| standings[*place] = mean);
        first += tied.len();
    }
    standings
}

/// 0 of nothing.
fn root_mean_square(values: &[f64]) -> f64 {
    (values.iter().map(|v| v * v).sum::<f64>() / values.len().max(1) as f64).sqrt()
}

/// The smallest and the largest.
fn ends(values: &[f64]) -> (f64, f64) {
    values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(*v), h.max(*v)))
}

fn range(values: &[f64]) -> f64 {
    let (low, high) = ends(values);
    high - low
}

/// Whether values differ by no more than float residue.
fn equal(values: &[f64]) -> bool {
    let (low, high) = ends(values);
    high - low <= RESIDUE * low.abs().max(high.abs()).max(1.0)
}

#[cfg(test)]
mod tests;
