//! Credit rank by rank, for completions that are lists (Rank-GRPO, arXiv 2510.20150).
//!
//! A completion's tokens are cut into items: each term with what stands before it, and at last what comes after the last
//! term, its end. For the item at rank k, the return is what the completion earns more than the list that ends before it,
//! so no term gets credit for those before it:
//!
//! ```text
//! G_k = reward of the whole list - reward of its first k - 1 terms
//! A_k = (G_k - mean(G_k)) / (std(G_k) + 1e-4)
//! ```
//!
//! with mean and standard deviation over the completions of the group at the same rank. The end has a return of 0, and so
//! has every rank behind it: a list that stopped before others gained has a negative advantage there.

use std::ops::Range;

use super::{AdvantageConfig, Counterfactual, ScaleRewards, divisor, equal, mean_and_std, standings};
use querywright_types::{Error, Result};

/// The advantage of each token, and the number of the item that it belongs to within its completion.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RankCredit {
    /// One a token.
    pub advantages: Vec<f32>,
    /// One a token, ascending within a completion.
    pub items: Vec<u32>,
}

/// The items of a completion: their tokens, and their returns, none where the environment failed.
type Items = Vec<(Range<usize>, Option<f64>)>;

/// Advantages rank by rank. `groups` are the numbers of completions of each group. In a counterfactual, `reward_without`
/// is here the reward of the list that ends before the term. A completion without a reward counts nowhere; one whose
/// terms are unknown is one item without an advantage.
///
/// # Errors
/// When the lists do not fit each other, or a term lies outside its completion.
pub fn rank_credit(
    completions: &[Range<usize>],
    counterfactuals: &[Counterfactual],
    groups: &[usize],
    config: AdvantageConfig,
) -> Result<RankCredit> {
    if counterfactuals.len() != completions.len() || groups.iter().sum::<usize>() != completions.len() {
        let found = format!(
            "{} for {} completions in groups of {} together",
            counterfactuals.len(),
            completions.len(),
            groups.iter().sum::<usize>()
        );
        return Err(Error::argument("counterfactuals", found, "give one for each completion of each group"));
    }
    let tokens = completions.iter().map(|r| r.end).max().unwrap_or(0);
    let mut credit = RankCredit { advantages: vec![0.0; tokens], items: vec![0; tokens] };
    let items: Vec<Items> = completions.iter().zip(counterfactuals).map(|(c, f)| items(c, f)).collect::<Result<_>>()?;
    let mut parted = Vec::with_capacity(groups.len());
    let mut rest = items.as_slice();
    for size in groups {
        let (group, after) = rest.split_at(*size);
        rest = after;
        let ranks = group.iter().map(Vec::len).max().unwrap_or(0);
        parted.push((group, (0..ranks).map(|rank| returns(group, rank)).collect::<Vec<_>>()));
    }
    let all: Vec<f64> = parted.iter().flat_map(|(_, returns)| returns).flatten().flatten().copied().collect();
    let batch_spread = mean_and_std(&all).1;
    for (group, returns) in parted {
        for (rank, returns) in returns.iter().enumerate() {
            for (items, advantage) in group.iter().zip(scaled(returns, batch_spread, config)) {
                let Some((tokens, _)) = items.get(rank) else { continue };
                credit.items[tokens.clone()].fill(rank as u32);
                credit.advantages[tokens.clone()].fill(advantage as f32);
            }
        }
    }
    Ok(credit)
}

/// The items of a completion; none where it has no reward.
fn items(completion: &Range<usize>, counterfactual: &Counterfactual) -> Result<Items> {
    let Some(reward) = counterfactual.reward.map(f64::from) else { return Ok(Vec::new()) };
    let mut items = Items::with_capacity(counterfactual.terms.len() + 1);
    let mut start = completion.start;
    for term in &counterfactual.terms {
        let within = |range: &&Range<usize>| range.start >= completion.start && range.end <= completion.end;
        let Some(tokens) = term.tokens.first().filter(within) else {
            let found = format!("a term at tokens {:?} of the completion at {completion:?}", term.tokens);
            return Err(Error::argument("counterfactuals", found, "keep terms within their completion"));
        };
        let end = tokens.end.max(start);
        items.push((start..end, term.reward_without.map(|before| reward - f64::from(before))));
        start = end;
    }
    let unknown = items.is_empty();
    items.push((start..completion.end.max(start), (!unknown).then_some(0.0)));
    Ok(items)
}

/// What each completion of a group earns from a rank on; none where it is unknown, or the completion has no reward.
fn returns(group: &[Items], rank: usize) -> Vec<Option<f64>> {
    let of = |items: &Items| match items.get(rank) {
        Some((_, value)) => *value,
        None => (!items.is_empty()).then_some(0.0),
    };
    group.iter().map(of).collect()
}

/// The advantages at one rank; 0 where the return is unknown, and where all are equal.
fn scaled(returns: &[Option<f64>], batch_spread: f64, config: AdvantageConfig) -> Vec<f64> {
    let mut values: Vec<f64> = returns.iter().flatten().copied().collect();
    if equal(&values) {
        return vec![0.0; returns.len()];
    }
    if config.scale_rewards == ScaleRewards::Rank {
        values = standings(&values);
    }
    let (mean, std) = mean_and_std(&values);
    let divisor = divisor(config, std, batch_spread);
    let mut values = values.into_iter();
    let advantage = |value: &Option<f64>| match value.and_then(|_| values.next()) {
        Some(value) => (value - mean) / divisor,
        None => 0.0,
    };
    returns.iter().map(advantage).collect()
}

#[cfg(test)]
mod tests {
    use super::super::CounterfactualTerm;
    use super::*;

    /// A completion of words of one token each, with its reward and the rewards of the lists that end before each word;
    /// its last token ends it.
    fn list(reward: f32, before: &[f32]) -> Counterfactual {
        let term = |(at, before): (usize, &f32)| CounterfactualTerm {
            tokens: std::iter::once(at..at + 1).collect(),
            reward_without: Some(*before),
        };
        Counterfactual { reward: Some(reward), terms: before.iter().enumerate().map(term).collect() }
    }

    /// Lists behind each other in one token list.
    fn laid_out(lists: &mut [Counterfactual], ends: &[usize]) -> Vec<Range<usize>> {
        let mut start = 0;
        let mut completions = Vec::new();
        for (list, end) in lists.iter_mut().zip(ends) {
            for range in list.terms.iter_mut().flat_map(|term| &mut term.tokens) {
                *range = range.start + start..range.end + start;
            }
            completions.push(start..start + end);
            start += end;
        }
        completions
    }

    fn credit(mut lists: Vec<Counterfactual>, scale_rewards: ScaleRewards) -> RankCredit {
        let ends: Vec<usize> = lists.iter().map(|list| list.terms.len() + 1).collect();
        let completions = laid_out(&mut lists, &ends);
        let config = AdvantageConfig { scale_rewards, ..AdvantageConfig::default() };
        rank_credit(&completions, &lists, &[completions.len()], config).unwrap()
    }

    #[test]
    fn a_term_has_the_advantage_of_what_comes_from_it_on_and_none_of_what_stood_before() {
        // The first word finds everything, and the second one loses half of it again; the other list does nothing.
        let found = credit(vec![list(0.5, &[0.0, 1.0]), list(0.0, &[0.0])], ScaleRewards::None);
        assert_eq!(found.items, [0, 1, 2, 0, 1]);
        // Rank 1: 0.5 and 0; rank 2: -0.5 and, ended, 0; rank 3: both ended.
        assert_eq!(found.advantages, [0.25, -0.25, 0.0, -0.25, 0.25]);
    }

    #[test]
    fn a_list_that_ends_before_others_gain_is_told_so_at_its_end() {
        let found = credit(vec![list(0.2, &[0.0]), list(1.0, &[0.0, 0.2])], ScaleRewards::None);
        assert!(found.advantages[1] < -0.3, "the end of the short one: {found:?}");
        assert!(found.advantages[3] > 0.3, "the word that it left out");
        assert_eq!(found.advantages[4], 0.0, "the end of the long one: nobody goes on");
    }

    #[test]
    fn each_scaling_is_over_the_completions_at_one_rank_and_batch_over_all() {
        let lists = || vec![list(0.9, &[0.0, 0.3]), list(0.1, &[0.0, 0.0]), list(0.0, &[0.0, 0.0])];
        let group = credit(lists(), ScaleRewards::Group);
        // Rank 2: returns of 0.6, 0.1 and 0; unbiased standard deviation 0.3215.
        assert!((group.advantages[1] - (0.6 - 0.7 / 3.0) / 0.3216).abs() < 2e-3, "{group:?}");
        let ranks = credit(lists(), ScaleRewards::Rank);
        assert!((ranks.advantages[1] - 1.0).abs() < 1e-3 && ranks.advantages[4].abs() < 1e-6, "{ranks:?}");
        let (batch, plain) = (credit(lists(), ScaleRewards::Batch), credit(lists(), ScaleRewards::None));
        let ratio = batch.advantages[0] / plain.advantages[0];
        assert!(batch.advantages.iter().zip(&plain.advantages).all(|(b, p)| (b - ratio * p).abs() < 1e-5));
    }

    #[test]
    fn what_failed_has_no_advantage_and_moves_nobody_elses() {
        let whole = credit(vec![list(1.0, &[0.0, 0.5]), list(0.0, &[0.0, 0.0])], ScaleRewards::None);
        let dropped = Counterfactual { reward: None, terms: Vec::new() };
        let unknown = Counterfactual { reward: Some(9.0), terms: Vec::new() };
        let lists = vec![list(1.0, &[0.0, 0.5]), list(0.0, &[0.0, 0.0]), dropped];
        let beside = credit(lists, ScaleRewards::None);
        assert_eq!(beside.advantages[..6], whole.advantages[..]);
        assert_eq!(beside.advantages[6], 0.0);
        let beside = credit(vec![list(1.0, &[0.0]), unknown, list(0.5, &[0.0])], ScaleRewards::None);
        assert_eq!(beside.advantages, [0.25, 0.0, 0.0, -0.25, 0.0]);
        let mut half = list(1.0, &[0.0, 0.5]);
        half.terms[1].reward_without = None;
        let found = credit(vec![half, list(0.0, &[0.0, 0.0])], ScaleRewards::None);
        assert_eq!((found.advantages[0], found.advantages[1]), (0.5, 0.0));
    }

    #[test]
    fn groups_do_not_meet_and_lists_that_do_not_fit_are_refused() {
        let mut lists = vec![list(1.0, &[0.0]), list(0.0, &[0.0]), list(9.0, &[0.0]), list(9.0, &[0.0])];
        let completions = laid_out(&mut lists, &[2, 2, 2, 2]);
        let config = AdvantageConfig::default();
        let found = rank_credit(&completions, &lists, &[2, 2], config).unwrap();
        assert!(found.advantages[0] > 0.5 && found.advantages[4..] == [0.0; 4], "{found:?}");
        assert!(rank_credit(&completions, &lists, &[2, 3], config).is_err());
        assert!(rank_credit(&completions[..3], &lists, &[2, 2], config).is_err());
        lists[0].terms[0].tokens[0] = 1..5;
        assert!(rank_credit(&completions, &lists, &[2, 2], config).unwrap_err().to_string().contains("1..5"));
    }
}
