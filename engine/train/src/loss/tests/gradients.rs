//! Gradients of every loss against finite differences.

use super::*;

/// The weight of these counts as a constant: a derivative is one with the ratio held.
fn holds_ratio(loss_type: LossType) -> bool {
    matches!(loss_type, LossType::Cispo | LossType::Vespo)
}

/// The options whose bits are set.
fn config(loss_type: LossType, importance_sampling_level: ImportanceLevel, options: u32) -> LossConfig {
    let on = |bit: u32| options & (1 << bit) != 0;
    LossConfig {
        loss_type,
        importance_sampling_level,
        beta: if on(0) { 0.1 } else { 0.0 },
        // With the ratio held, what the correction adds to the derivative cannot be seen.
        use_bias_correction_kl: on(1) && !holds_ratio(loss_type),
        epsilon_high: on(2).then_some(if loss_type == LossType::Cispo { 1.1 } else { 0.28 }),
        delta: on(3).then_some(1.5),
        mask_truncated_completions: on(4),
        // A penalty where completions are shaped.
        entropy_coef: if on(6) { -0.05 } else { 0.05 },
        off_policy_gamma: if on(6) { 0.1 } else { 0.0 },
        top_entropy_quantile: if on(7) { 0.4 } else { 1.0 },
        off_policy_mask_threshold: on(7).then_some(0.01),
        max_completion_length: 6,
        ..LossConfig::default()
    }
}

/// Checks a combination against finite differences; how many derivatives were compared.
fn check(config: &LossConfig, mut owned: Owned) -> usize {
    owned.off_policy = vec![false, true, false, true];
    let out = policy_loss(config, &owned.batch()).unwrap();
    for t in 0..owned.logp.len() {
        let derivative = |change: &dyn Fn(&mut Owned, f32)| {
            let (mut above, mut below) = (owned.clone(), owned.clone());
            change(&mut above, 1e-3);
            change(&mut below, -1e-3);
            let width = f64::from(above.logp[t] + above.entropy[t]) - f64::from(below.logp[t] + below.entropy[t]);
            let loss = |o: &Owned| policy_loss(config, &o.batch()).unwrap().loss;
            (loss(&above) - loss(&below)) / width
        };
        let dlogp = derivative(&|o, by| {
            o.logp[t] += by;
            o.old_logp[t] += if holds_ratio(config.loss_type) { by } else { 0.0 };
        });
        let dentropy = derivative(&|o, by| o.entropy[t] += by);
        // Two numbers that are moved together are rounded apart, and a ratio sees that.
        let near = if holds_ratio(config.loss_type) { 1e-4 } else { 2e-5 };
        assert!((dlogp - f64::from(out.dlogp[t])).abs() < near, "{config:?}, logp {t}: {dlogp} {}", out.dlogp[t]);
        assert!((dentropy - f64::from(out.dentropy[t])).abs() < 2e-5, "{config:?}, entropy {t}: {dentropy}");
    }
    owned.logp.len()
}

#[test]
fn gradients_agree_with_finite_differences_for_every_combination_of_options() {
    let golden = golden();
    let mut checked = 0;
    for loss_type in [LossType::Grpo, LossType::DrGrpo, LossType::Bnpo, LossType::Dapo] {
        for level in [ImportanceLevel::Token, ImportanceLevel::Sequence] {
            for options in 0..128u32 {
                let owned = Owned::new(&golden, options & (1 << 5) != 0);
                checked += check(&config(loss_type, level, options), owned);
            }
        }
    }
    assert_eq!(checked, 4 * 2 * 128 * 13);
}

#[test]
fn gradients_of_the_newer_losses_and_of_every_level_agree_with_finite_differences() {
    use LossType::{Bnpo, Cispo, Dapo, DrGrpo, Grpo, Luspo, Sapo, Vespo};
    let golden = golden();
    for loss_type in [Grpo, DrGrpo, Bnpo, Dapo, Cispo, Sapo, Luspo, Vespo] {
        for level in [ImportanceLevel::Token, ImportanceLevel::Sequence, ImportanceLevel::Item] {
            // Each bit in half of them, with all sorts of others.
            for options in (0..40u32).map(|i| i * 73 % 256) {
                check(&config(loss_type, level, options), Owned::new(&golden, options & (1 << 5) != 0));
            }
        }
    }
}

#[test]
fn a_part_of_one_token_and_a_part_of_all_are_the_levels_token_and_sequence() {
    let golden = golden();
    let of = |level, items: fn(usize, &Range<usize>) -> u32| {
        let mut owned = Owned::new(&golden, true);
        owned.items =
            owned.completions.iter().flat_map(|c| c.clone().map(|t| items(t, c)).collect::<Vec<_>>()).collect();
        let config = LossConfig { beta: 0.1, ..config(LossType::Grpo, level, 0) };
        policy_loss(&config, &owned.batch()).unwrap()
    };
    let alone = of(ImportanceLevel::Item, |t, c| (t - c.start) as u32);
    let token = of(ImportanceLevel::Token, |_, _| 0);
    assert!((alone.loss - token.loss).abs() < 1e-12 && (alone.clip_region_mean - token.clip_region_mean).abs() < 1e-12);
    assert!(alone.dlogp.iter().zip(&token.dlogp).all(|(a, b)| (a - b).abs() < 1e-7));
    let together = of(ImportanceLevel::Item, |_, _| 0);
    let sequence = of(ImportanceLevel::Sequence, |_, _| 0);
    assert_eq!((together.loss, &together.dlogp), (sequence.loss, &sequence.dlogp));
    let owned = Owned::new(&golden, true);
    let without = Batch { items: None, ..owned.batch() };
    let level = config(LossType::Grpo, ImportanceLevel::Item, 0);
    assert!(policy_loss(&level, &without).unwrap_err().to_string().starts_with("items: none"));
}

#[test]
fn micro_batches_of_the_newer_losses_add_up_to_the_loss_of_the_step() {
    let golden = golden();
    for loss_type in [LossType::Cispo, LossType::Sapo, LossType::Luspo, LossType::Vespo] {
        let config = LossConfig { loss_type, epsilon_high: Some(1.2), beta: 0.1, ..LossConfig::default() };
        let whole = Owned::new(&golden, false);
        let parts = [whole.part(0..1), whole.part(1..4)];
        let totals: Totals = parts.iter().map(|p| p.batch().totals(&config)).sum();
        let right = policy_loss(&config, &whole.batch()).unwrap();
        let of = |part: &Owned| policy_loss(&config, &Batch { totals: Some(totals), ..part.batch() }).unwrap();
        let found = parts.each_ref().map(of);
        assert!((found.iter().map(|o| o.loss).sum::<f64>() - right.loss).abs() < 1e-9);
        let gradients: Vec<f32> = found.iter().flat_map(|o| &o.dlogp).copied().collect();
        assert_eq!(gradients, right.dlogp);
    }
}

#[test]
fn the_entropy_bonus_of_micro_batches_is_a_mean_over_the_tokens_that_count() {
    let golden = golden();
    let config = LossConfig { entropy_coef: 0.1, top_entropy_quantile: 0.4, ..LossConfig::default() };
    let whole = Owned::new(&golden, false);
    let out = policy_loss(&config, &whole.batch()).unwrap();
    assert!(out.bonus_entropy > out.entropy + 0.1, "the tokens of the highest entropies: {out:?}");
    let counted = out.dentropy.iter().filter(|d| **d != 0.0).count();
    assert_eq!(counted, 5);
    let all = policy_loss(&LossConfig { top_entropy_quantile: 1.0, ..config.clone() }, &whole.batch()).unwrap();
    assert_eq!(all.bonus_entropy, all.entropy);
    let parts = [whole.part(0..1), whole.part(1..4)];
    let totals: Totals = parts.iter().map(|p| p.batch().totals(&config)).sum();
    let of = |part: &Owned| policy_loss(&config, &Batch { totals: Some(totals), ..part.batch() }).unwrap();
    let weight: f64 = parts.iter().flat_map(|p| of(p).dentropy).map(f64::from).sum();
    assert!((weight + config.entropy_coef).abs() < 1e-7, "it has the weight of the coefficient: {weight}");
}

#[test]
fn settings_without_a_meaning_for_their_loss_are_refused_and_defaults_are_not_written() {
    let of = |text: &str| toml::from_str::<LossConfig>(text).unwrap().validate();
    for (text, start) in [
        ("loss_type = \"cispo\"", "epsilon_high: absent"),
        ("loss_type = \"luspo\"", "importance_sampling_level: Token"),
        ("loss_type = \"vespo\"\nimportance_sampling_level = \"sequence\"", "importance_sampling_level: Sequence"),
        ("loss_type = \"sapo\"\ndelta = 2.0", "delta: 2, and"),
        ("top_entropy_quantile = 1.5", "top_entropy_quantile: 1.5"),
        ("off_policy_mask_threshold = 0.0", "off_policy_mask_threshold: 0"),
        ("sapo_temperature_pos = 0.0", "sapo_temperature_pos: 0"),
        ("vespo_k_neg = -1.0", "vespo_k_neg: -1"),
    ] {
        let error = of(text).unwrap_err().to_string();
        assert!(error.starts_with(start), "{text}: {error}");
    }
    for text in [
        "loss_type = \"cispo\"\nepsilon_high = 5.0",
        "loss_type = \"luspo\"\nimportance_sampling_level = \"sequence\"",
        "loss_type = \"sapo\"\nsapo_temperature_neg = 2.0",
        "loss_type = \"vespo\"",
        "loss_type = \"grpo\"\nimportance_sampling_level = \"sequence\"\ntop_entropy_quantile = 0.2",
    ] {
        of(text).unwrap();
    }
    let written = toml::to_string(&LossConfig::default()).unwrap();
    assert!(["sapo", "vespo", "quantile", "threshold"].iter().all(|key| !written.contains(key)), "{written}");
}
