//! Several rewards normalised one by one (GDPO, arXiv 2601.05242), TRL's `normalize_then_sum`.
//!
//! A weighted sum hides an objective whose values are small or seldom differ behind the others. Here each of them is
//! normalised within the group first:
//!
//! ```text
//! s = sum_k weight_k * (r_k - mean(r_k)) / (std(r_k) + 1e-4)
//! A = (s - mean(s)) / (std(s) + 1e-4)
//! ```
//!
//! with the mean and the unbiased standard deviation of the group in the first line, of the batch in the second.

use super::{EPSILON, GroupSignal, equal, mean_and_std, range};
use querywright_types::{Error, Result};

/// What a completion earned: its whole reward, and the value of each objective without its weight.
#[derive(Debug, Clone, PartialEq)]
pub struct Objectives {
    /// The weighted sum, for the metrics.
    pub reward: f32,
    /// As many as there are weights.
    pub values: Vec<f64>,
}

/// The advantages of completions that lie group by group, from several objectives with these weights. None: the
/// environment failed. A group has a signal where one of its objectives with a weight differs, and the rewards' range is
/// at least `min_group_range`.
///
/// # Errors
/// When the rewards do not fill whole groups, or a completion has not one finite value for each weight.
pub fn objective_advantages(
    rewards: &[Option<Objectives>],
    weights: &[f64],
    num_generations: usize,
    min_group_range: f32,
) -> Result<GroupSignal> {
    if num_generations == 0 || !rewards.len().is_multiple_of(num_generations) {
        let found = format!("{} rewards for groups of {num_generations}", rewards.len());
        return Err(Error::argument("num_generations", found, "give a whole number of groups"));
    }
    let broken = |o: &&Objectives| o.values.len() != weights.len() || !o.values.iter().all(|v| v.is_finite());
    if let Some(broken) = rewards.iter().flatten().find(broken) {
        let found = format!("the values {:?} for {} weights", broken.values, weights.len());
        return Err(Error::argument("rewards", found, "give a finite number for each weight"));
    }
    let present: Vec<f64> = rewards.iter().flatten().map(|o| f64::from(o.reward)).collect();
    let (reward, reward_std) = mean_and_std(&present);
    let mut signal = GroupSignal { reward, reward_std, ..GroupSignal::default() };
    let mut sums: Vec<Option<f64>> = Vec::with_capacity(rewards.len());
    for group in rewards.chunks(num_generations) {
        let earned: Vec<f64> = group.iter().flatten().map(|o| f64::from(o.reward)).collect();
        let of_group = weighted_sums(group, weights);
        let differs = of_group.is_some() && earned.len() > 1 && range(&earned) >= f64::from(min_group_range);
        signal.informative.push(differs);
        let of_group = of_group.unwrap_or_else(|| vec![0.0; earned.len()]);
        let mut of_group = of_group.into_iter();
        sums.extend(group.iter().map(|o| o.as_ref().and_then(|_| of_group.next())));
    }
    let (mean, std) = mean_and_std(&sums.iter().flatten().copied().collect::<Vec<_>>());
    for (group, informative) in sums.chunks(num_generations).zip(&signal.informative) {
        for sum in group {
            signal.dropped.push(sum.is_none());
            let advantage = |sum: &f64| ((sum - mean) / (std + EPSILON)) as f32;
            signal.advantages.push(sum.as_ref().filter(|_| *informative).map_or(0.0, advantage));
        }
    }
    let zero_variance = signal.informative.iter().filter(|i| !**i).count();
    signal.frac_reward_zero_std = zero_variance as f64 / signal.informative.len().max(1) as f64;
    Ok(signal)
}

/// The sums of a group's normalised values, one for each completion with a reward; none where no objective differs.
fn weighted_sums(group: &[Option<Objectives>], weights: &[f64]) -> Option<Vec<f64>> {
    let present: Vec<&Objectives> = group.iter().flatten().collect();
    let mut sums: Option<Vec<f64>> = None;
    for (objective, weight) in weights.iter().enumerate() {
        let values: Vec<f64> = present.iter().filter_map(|o| o.values.get(objective)).copied().collect();
        // A residue of single precision must not be blown up to a unit.
        if *weight == 0.0 || equal(&values) {
            continue;
        }
        let (mean, std) = mean_and_std(&values);
        let sums = sums.get_or_insert_with(|| vec![0.0; present.len()]);
        sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += weight * (value - mean) / (std + EPSILON));
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    fn earned(values: &[f64], weights: &[f64]) -> Option<Objectives> {
        let reward = values.iter().zip(weights).map(|(v, w)| v * w).sum::<f64>() as f32;
        Some(Objectives { reward, values: values.to_vec() })
    }

    #[test]
    fn advantages_equal_trls_normalize_then_sum_with_missing_rewards_and_a_group_without_a_signal() {
        let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/grpo.json"));
        let golden = &serde_json::from_str::<serde_json::Value>(text).unwrap()["advantages"]["objectives"];
        let rewards: Vec<Vec<Option<f64>>> = serde_json::from_value(golden["rewards"].clone()).unwrap();
        let cases = golden["cases"].as_array().unwrap();
        assert_eq!(cases.len(), 3);
        for case in cases {
            let weights: Vec<f64> = serde_json::from_value(case["weights"].clone()).unwrap();
            let right: Vec<f32> = serde_json::from_value(case["advantages"].clone()).unwrap();
            let given: Vec<Option<Objectives>> = rewards
                .iter()
                .map(|row| row.iter().copied().collect::<Option<Vec<f64>>>().and_then(|row| earned(&row, &weights)))
                .collect();
            let found = objective_advantages(&given, &weights, 4, 0.0).unwrap();
            for (f, r) in found.advantages.iter().zip(&right) {
                assert!((f - r).abs() < 1e-6, "{weights:?}: {f} is not {r}");
            }
            assert_eq!(found.informative, [true, true, false]);
            assert_eq!(found.dropped.iter().filter(|d| **d).count(), 1);
        }
    }

    #[test]
    fn an_objective_of_small_differences_counts_as_much_as_its_weight_says() {
        let weights = [1.0, 1.0];
        // The second objective goes the other way, a hundred times smaller.
        // In another group both go the same way.
        let values = [[0.0, 0.01], [1.0, 0.0], [0.0, 0.0], [1.0, 1.0]];
        let groups: Vec<Option<Objectives>> = values.iter().map(|v| earned(v, &weights)).collect();
        let found = objective_advantages(&groups, &weights, 2, 0.0).unwrap();
        assert!(found.advantages[..2].iter().all(|a| a.abs() < 0.05), "they cancel: {found:?}");
        assert!(found.advantages[3] > 1.0, "{found:?}");
        let found = objective_advantages(&groups, &[2.0, 1.0], 2, 0.0).unwrap();
        assert!((0.2..0.6).contains(&found.advantages[1]), "{found:?}");
        assert_eq!(objective_advantages(&groups, &weights, 2, 1.5).unwrap().informative, [false, true]);
    }

    #[test]
    fn values_that_do_not_fit_the_weights_and_broken_groups_are_refused() {
        let group = [earned(&[0.0, 1.0], &[1.0, 1.0]), earned(&[f64::NAN, 1.0], &[1.0, 1.0])];
        assert!(objective_advantages(&group, &[1.0, 1.0], 2, 0.0).is_err());
        assert!(objective_advantages(&group[..1], &[1.0], 1, 0.0).is_err());
        assert!(objective_advantages(&group[..1], &[1.0, 1.0], 2, 0.0).is_err());
    }
}
