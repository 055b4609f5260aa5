use super::*;

/// Advantages against the mean of the group.
fn scaled(rewards: &[Option<f32>], num_generations: usize, scale_rewards: ScaleRewards) -> Result<GroupSignal> {
    let config = AdvantageConfig { scale_rewards, ..AdvantageConfig::default() };
    group_advantages(rewards, &[], num_generations, config)
}

/// Advantages against the base.
fn over_base(rewards: &[Option<f32>], bases: &[Option<f32>], scale_rewards: ScaleRewards) -> GroupSignal {
    let config = AdvantageConfig { baseline: Baseline::Base, scale_rewards, ..AdvantageConfig::default() };
    group_advantages(rewards, bases, 4, config).unwrap()
}

#[test]
fn advantages_equal_trls_formula_in_each_scaling_with_missing_rewards() {
    let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/grpo.json"));
    let golden = &serde_json::from_str::<serde_json::Value>(text).unwrap()["advantages"];
    let rewards: Vec<Option<f32>> = serde_json::from_value(golden["rewards"].clone()).unwrap();
    for case in golden["cases"].as_array().unwrap() {
        let scale: ScaleRewards = serde_json::from_value(case["scale_rewards"].clone()).unwrap();
        let right: Vec<f32> = serde_json::from_value(case["advantages"].clone()).unwrap();
        let found = scaled(&rewards, 4, scale).unwrap();
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
        let found = scaled(&residue, 4, scale).unwrap();
        assert_eq!(found.advantages, [0.0; 4]);
        assert_eq!(found.informative, [false]);
    }
    let large = [1e6f32, 1e6 + 0.0625, 1e6, 1e6].map(Some);
    assert_eq!(scaled(&large, 4, ScaleRewards::Group).unwrap().advantages, [0.0; 4]);
}

#[test]
fn small_but_real_differences_are_a_signal() {
    let found = scaled(&[Some(0.5), Some(0.5001)], 2, ScaleRewards::Group).unwrap();
    assert_eq!(found.informative, [true]);
    assert!(found.advantages[0] < 0.0 && found.advantages[1] > 0.0);
}

#[test]
fn a_batch_in_which_every_request_failed_is_dropped_whole() {
    let found = scaled(&[None; 4], 2, ScaleRewards::Batch).unwrap();
    assert_eq!((found.advantages, found.dropped), (vec![0.0; 4], vec![true; 4]));
    assert_eq!((found.reward, found.reward_std, found.frac_reward_zero_std), (0.0, 0.0, 1.0));
}

#[test]
fn broken_groups_and_infinite_rewards_are_refused() {
    assert!(scaled(&[Some(1.0); 5], 2, ScaleRewards::Group).unwrap_err().to_string().contains("5 rewards"));
    assert!(scaled(&[Some(1.0); 5], 0, ScaleRewards::Group).is_err());
    assert!(scaled(&[Some(f32::NAN), Some(1.0)], 2, ScaleRewards::Group).is_err());
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
        assert_eq!(term_credit(TWO_TOKENS, &[0.5], std::slice::from_ref(&case), 1.0).unwrap(), [0.5, 0.5], "{case:?}");
    }
}

#[test]
fn a_term_outside_its_completion_is_refused() {
    let stray = Counterfactual { reward: Some(1.0), terms: vec![term(0..1, 0.0), term(5..9, 1.0)] };
    assert!(term_credit(TWO_TOKENS, &[0.0], &[stray], 1.0).unwrap_err().to_string().contains("5..9"));
    assert!(term_credit(TWO_TOKENS, &[], &[], 1.0).is_err());
}

fn near(found: &[f32], right: &[f32]) {
    assert!(found.len() == right.len() && found.iter().zip(right).all(|(f, r)| (f - r).abs() < 2e-3), "{found:?}");
}

#[test]
fn what_earns_as_much_as_the_base_has_no_advantage_beside_a_better_completion() {
    let rewards = [0.5, 0.5, 0.5, 0.9].map(Some);
    let group = scaled(&rewards, 4, ScaleRewards::Group).unwrap();
    near(&group.advantages, &[-0.5, -0.5, -0.5, 1.5]);
    let base = over_base(&rewards, &[Some(0.5)], ScaleRewards::Group);
    near(&base.advantages, &[0.0, 0.0, 0.0, 2.0]);
    assert_eq!(base.advantages[..3], [0.0; 3]);
    near(&over_base(&rewards, &[Some(0.5)], ScaleRewards::None).advantages, &[0.0, 0.0, 0.0, 0.4]);
}

#[test]
fn a_group_of_equal_rewards_has_a_signal_where_the_base_earns_another_and_none_where_it_earns_as_much() {
    let found = over_base(&[Some(0.2); 8], &[Some(0.5), Some(0.2)], ScaleRewards::Group);
    assert_eq!(found.informative, [true, false]);
    near(&found.advantages, &[-1.0, -1.0, -1.0, -1.0, 0.0, 0.0, 0.0, 0.0]);
    // Where the base has no reward, nothing can be said, and a single reward can be compared with a base that has one.
    let rewards = [Some(0.2), Some(0.9), Some(0.1), Some(0.3), Some(0.7), None, None, None];
    let found = over_base(&rewards, &[None, Some(0.5)], ScaleRewards::Group);
    assert_eq!((found.informative, &found.advantages[..4]), (vec![false, true], &[0.0; 4][..]));
    near(&found.advantages[4..], &[1.0, 0.0, 0.0, 0.0]);
}

#[test]
fn over_the_batch_gains_are_divided_by_their_root_mean_square_whatever_the_queries_earn_without_a_model() {
    let rewards = [0.1, 0.1, 0.1, 0.3, 0.9, 0.9, 0.9, 0.7].map(Some);
    let found = over_base(&rewards, &[Some(0.1), Some(0.9)], ScaleRewards::Batch);
    near(&found.advantages, &[0.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0, -2.0]);
    let group = scaled(&rewards, 4, ScaleRewards::Batch).unwrap();
    assert!(group.advantages[3] < 0.5, "the difficulty of queries drowns it: {:?}", group.advantages);
}

#[test]
fn differences_below_a_floor_are_not_blown_up_and_groups_below_a_range_have_no_signal() {
    // Two rewards that differ by the cost of a word.
    let rewards = [0.500, 0.498, 0.500, 0.498, 0.5, 0.4, 0.5, 0.4].map(Some);
    let with = |min_group_range, min_reward_std, baseline| {
        let config = AdvantageConfig { baseline, min_group_range, min_reward_std, ..AdvantageConfig::default() };
        group_advantages(&rewards, &[Some(0.5), Some(0.5)], 4, config).unwrap()
    };
    let free = with(0.0, 0.0, Baseline::Group);
    near(&[free.advantages[0], free.advantages[4]], &[0.796, 0.864]);
    for baseline in [Baseline::Group, Baseline::Base] {
        let floored = with(0.0, 0.05, baseline);
        assert!(floored.advantages[..4].iter().all(|a| a.abs() < 0.05), "{:?}", floored.advantages);
        assert!(floored.advantages[1] < 0.0 && floored.advantages[5] < -0.8);
        let ranged = with(0.01, 0.0, baseline);
        assert_eq!(ranged.informative, [false, true]);
        assert_eq!(ranged.advantages[..4], [0.0; 4]);
        assert_eq!(ranged.frac_reward_zero_std, 0.5);
    }
}

#[test]
fn bases_that_are_not_one_a_group_are_refused() {
    let config = AdvantageConfig { baseline: Baseline::Base, ..AdvantageConfig::default() };
    let refused = |bases: &[Option<f32>]| group_advantages(&[Some(1.0); 4], bases, 2, config).unwrap_err().to_string();
    assert!(refused(&[Some(1.0)]).starts_with("bases: 1 for 2 groups"));
    assert!(refused(&[Some(1.0), Some(f32::NAN)]).starts_with("rewards"));
}

/// The probabilities of a softmax.
fn softmax(logits: &[f64]) -> Vec<f64> {
    let sum: f64 = logits.iter().map(|l| l.exp()).sum();
    logits.iter().map(|l| l.exp() / sum).collect()
}

#[test]
fn the_expected_gradient_against_the_base_is_that_of_the_expected_reward() {
    let (logits, rewards, base) = ([0.3, -0.4, 1.1], [0.9, 0.1, 0.4], 0.6);
    let expected = |logits: &[f64]| softmax(logits).iter().zip(rewards).map(|(p, r)| p * f64::from(r)).sum::<f64>();
    let policy = softmax(&logits);
    for i in 0..3 {
        let (mut above, mut below) = (logits, logits);
        above[i] += 1e-4;
        below[i] -= 1e-4;
        let right = (expected(&above) - expected(&below)) / 2e-4;
        // The sum over all actions of p(a) A(a) d log p(a) / d logit.
        let found: f64 = (0..3)
            .map(|action| {
                let signal = over_base(&[Some(rewards[action]); 4], &[Some(base)], ScaleRewards::None);
                policy[action] * f64::from(signal.advantages[0]) * (f64::from(u8::from(action == i)) - policy[i])
            })
            .sum();
        assert!((found - right).abs() < 1e-6, "logit {i}: {found} is not {right}");
    }
}
