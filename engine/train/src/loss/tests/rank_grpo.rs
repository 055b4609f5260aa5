//! Rank by rank: advantages, losses and gradients against those of the authors of Rank-GRPO.

use super::*;
use crate::advantage::{Counterfactual, CounterfactualTerm, ScaleRewards, rank_credit};

#[derive(serde::Deserialize)]
struct Ranked {
    /// Tokens of each item of each completion, the last one its end.
    items: Vec<Vec<usize>>,
    group: usize,
    max_completion_length: usize,
    logp: Vec<f32>,
    old_logp: Vec<f32>,
    ref_logp: Vec<f32>,
    reward: Vec<f32>,
    before: Vec<Vec<f32>>,
    cases: Vec<RankedCase>,
}

#[derive(serde::Deserialize)]
struct RankedCase {
    scale_rewards: ScaleRewards,
    options: LossConfig,
    advantages: Vec<f32>,
    loss: f64,
    dlogp: Vec<f32>,
}

impl Ranked {
    /// The completions, and what each list earns with all of its terms and up to each of them.
    fn completions(&self) -> (Vec<Range<usize>>, Vec<Counterfactual>) {
        let mut start = 0;
        let mut completion = |((items, reward), before): ((&Vec<usize>, &f32), &Vec<f32>)| {
            let (first, mut terms) = (start, Vec::new());
            for (length, before) in items.iter().zip(before) {
                // The last token of an item is the term, what stands before it belongs to it.
                let end = start + length;
                let tokens = std::iter::once(end - 1..end).collect();
                terms.push(CounterfactualTerm { tokens, reward_without: Some(*before) });
                start = end;
            }
            start += items.last().unwrap();
            (first..start, Counterfactual { reward: Some(*reward), terms })
        };
        self.items.iter().zip(&self.reward).zip(&self.before).map(&mut completion).unzip()
    }
}

#[test]
fn advantages_losses_and_gradients_rank_by_rank_equal_those_of_rank_grpo() {
    let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/rank-grpo.json"));
    let golden: Ranked = serde_json::from_str(text).unwrap();
    let (completions, counterfactuals) = golden.completions();
    assert_eq!((golden.cases.len(), completions.last().unwrap().end), (24, golden.logp.len()));
    for (i, case) in golden.cases.iter().enumerate() {
        let config = AdvantageConfig { scale_rewards: case.scale_rewards, ..AdvantageConfig::default() };
        let groups = vec![golden.group; completions.len() / golden.group];
        let credit = rank_credit(&completions, &counterfactuals, &groups, config).unwrap();
        for (t, (found, right)) in credit.advantages.iter().zip(&case.advantages).enumerate() {
            assert_close((*found).into(), (*right).into(), &format!("case {i}, advantage of token {t}"));
        }
        let config = LossConfig { max_completion_length: golden.max_completion_length, ..case.options.clone() };
        let flags = vec![false; completions.len()];
        let batch = Batch {
            logp: &golden.logp,
            old_logp: &golden.old_logp,
            ref_logp: Some(&golden.ref_logp),
            entropy: &vec![1.0; golden.logp.len()],
            advantages: &credit.advantages,
            items: Some(&credit.items),
            completions: &completions,
            truncated: &flags,
            dropped: &flags,
            off_policy: &flags,
            totals: None,
        };
        let out = policy_loss(&config, &batch).unwrap();
        assert_close(out.loss, case.loss, &format!("case {i}, loss"));
        for (t, (found, right)) in out.dlogp.iter().zip(&case.dlogp).enumerate() {
            assert_close((*found).into(), (*right).into(), &format!("case {i}, dlogp of token {t}"));
        }
    }
}
