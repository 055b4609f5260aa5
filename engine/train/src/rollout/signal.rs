//! The learning signal of a step's rewards, as the configuration asks for it.

use super::super::advantage::{Aggregation, GroupSignal, Objectives, group_advantages, objective_advantages};
use super::super::config::TrainConfig;
use super::super::reward::{Reward, RewardFunction};
use querywright_types::Result;

/// The advantages of completions that lie group by group, `num_generations` to a group; `bases` are what their queries earn
/// without a model.
pub(super) fn signal(
    rewards: &[Option<&Reward>],
    bases: &[Option<f32>],
    num_generations: usize,
    config: &TrainConfig,
) -> Result<GroupSignal> {
    if config.train.multi_objective_aggregation == Aggregation::SumThenNormalize {
        let values: Vec<Option<f32>> = rewards.iter().map(|reward| reward.map(|r| r.value)).collect();
        return group_advantages(&values, bases, num_generations, config.advantages());
    }
    let (names, weights): (Vec<String>, Vec<f64>) =
        RewardFunction::new(&config.reward)?.objectives().into_iter().unzip();
    let objectives = |reward: &Reward| Objectives {
        reward: reward.value,
        values: names.iter().zip(&weights).map(|(name, weight)| reward.objective(name, *weight)).collect(),
    };
    let rewards: Vec<Option<Objectives>> = rewards.iter().map(|reward| reward.map(objectives)).collect();
    objective_advantages(&rewards, &weights, num_generations, config.train.min_group_range)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// A reward with these parts.
    fn reward(parts: &[(&str, f32)]) -> Reward {
        let parts: BTreeMap<String, f32> = parts.iter().map(|(name, part)| ((*name).to_owned(), *part)).collect();
        Reward { value: parts.values().sum(), parts }
    }

    fn config(settings: &[&str]) -> TrainConfig {
        let text = "[model]\nname = \"tiny\"\n[data]\nname = \"shop\"\n";
        TrainConfig::parse(text, &settings.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>(), "x.toml").unwrap()
    }

    #[test]
    fn one_by_one_a_measure_of_a_small_weight_is_heard_as_its_weight_says_and_a_broken_format_stands_apart() {
        // A tenth of recall costs a hundredth of the reward: summed up, recall decides next to nothing.
        let measures = "reward.measures={\"nDCG@10\"=1, \"R@100\"=0.5}";
        let rewards = [
            reward(&[("nDCG@10", 0.5), ("R@100", 0.01)]),
            reward(&[("nDCG@10", 0.6), ("R@100", 0.005)]),
            reward(&[("nDCG@10", 0.5), ("R@100", 0.01)]),
            reward(&[("format", -1.0)]),
        ];
        let given: Vec<Option<&Reward>> = rewards.iter().map(Some).chain([None; 4]).collect();
        let of = |aggregation: &str| {
            let aggregation = format!("train.multi_objective_aggregation={aggregation}");
            signal(&given, &[None, None], 4, &config(&[measures, &aggregation])).unwrap()
        };
        let (summed, apart) = (of("sum_then_normalize"), of("normalize_then_sum"));
        let gap = |advantages: &[f32]| advantages[1] - advantages[0];
        assert!(gap(&summed.advantages) > 0.0 && gap(&apart.advantages) < gap(&summed.advantages), "{apart:?}");
        assert!(apart.advantages[3] < -1.0 && apart.advantages[..3].iter().all(|a| *a > 0.0), "{apart:?}");
        assert_eq!(
            (apart.informative, apart.dropped[3..].to_vec()),
            (vec![true, false], vec![false, true, true, true, true])
        );
        assert!((apart.reward - summed.reward).abs() < 1e-9, "what is logged is the weighted sum");
    }

    #[test]
    fn ranks_say_which_is_better_and_not_by_how_much() {
        let rewards = [0.0, 0.5, 0.501, 0.5].map(|value| reward(&[("nDCG@10", value)]));
        let given: Vec<Option<&Reward>> = rewards.iter().map(Some).collect();
        let found = signal(&given, &[None], 4, &config(&["train.scale_rewards=rank"])).unwrap();
        // Ranks 0, 1.5, 3 and 1.5, whose standard deviation is 1.2247.
        let right = [-1.2247, 0.0, 1.2247, 0.0];
        assert!(found.advantages.iter().zip(right).all(|(f, r)| (f - r).abs() < 1e-3), "{found:?}");
        let far = [0.0, 0.5, 9.0, 0.5].map(|value| reward(&[("nDCG@10", value)]));
        let far: Vec<Option<&Reward>> = far.iter().map(Some).collect();
        let found_far = signal(&far, &[None], 4, &config(&["train.scale_rewards=rank"])).unwrap();
        assert_eq!(found.advantages, found_far.advantages);
        let equal = [0.5, 0.5 + 1e-8, 0.5, 0.5].map(|value| reward(&[("nDCG@10", value)]));
        let equal: Vec<Option<&Reward>> = equal.iter().map(Some).collect();
        assert_eq!(signal(&equal, &[None], 4, &config(&["train.scale_rewards=rank"])).unwrap().informative, [false]);
        let failed = [Some(&rewards[0]), None, Some(&rewards[2]), None];
        let found = signal(&failed, &[None], 4, &config(&["train.scale_rewards=rank"])).unwrap();
        assert!((found.advantages[2] - 0.707).abs() < 1e-3 && found.advantages[0] == -found.advantages[2], "{found:?}");
    }
}
