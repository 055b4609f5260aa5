mod gradients;
mod rank_grpo;

use super::*;
use crate::advantage::{AdvantageConfig, Baseline, group_advantages};

#[derive(serde::Deserialize)]
struct Golden {
    losses: Losses,
}

#[derive(serde::Deserialize)]
struct Losses {
    lengths: Vec<usize>,
    batch: Tokens,
    cases: Vec<Case>,
}

#[derive(serde::Deserialize)]
struct Tokens {
    logp: Vec<f32>,
    old_logp: Vec<f32>,
    ref_logp: Vec<f32>,
    entropy: Vec<f32>,
    advantages: Vec<f32>,
    token_advantages: Vec<f32>,
    truncated: Vec<bool>,
}

#[derive(serde::Deserialize)]
struct Case {
    max_completion_length: usize,
    advantages_per_token: bool,
    loss: f64,
    dlogp: Vec<f32>,
    dentropy: Vec<f32>,
    metrics: std::collections::BTreeMap<String, f64>,
    /// TRL's options, which are the keys of a configuration.
    #[serde(flatten)]
    options: serde_json::Map<String, serde_json::Value>,
}

impl Case {
    fn config(&self) -> LossConfig {
        let config: LossConfig = serde_json::from_value(self.options.clone().into()).unwrap();
        LossConfig { max_completion_length: self.max_completion_length, ..config }
    }
}

fn golden() -> Losses {
    let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/grpo.json"));
    serde_json::from_str::<Golden>(text).unwrap().losses
}

/// Everything a [`Batch`] borrows.
#[derive(Clone)]
struct Owned {
    logp: Vec<f32>,
    old_logp: Vec<f32>,
    ref_logp: Vec<f32>,
    entropy: Vec<f32>,
    advantages: Vec<f32>,
    items: Vec<u32>,
    completions: Vec<Range<usize>>,
    truncated: Vec<bool>,
    dropped: Vec<bool>,
    off_policy: Vec<bool>,
}

impl Owned {
    fn new(losses: &Losses, per_token: bool) -> Self {
        let mut start = 0;
        let mut completions = Vec::new();
        for length in &losses.lengths {
            completions.push(start..start + length);
            start += length;
        }
        let tokens = &losses.batch;
        let advantages = match per_token {
            true => tokens.token_advantages.clone(),
            false => crate::advantage::broadcast(&completions, &tokens.advantages).unwrap(),
        };
        Self {
            logp: tokens.logp.clone(),
            old_logp: tokens.old_logp.clone(),
            ref_logp: tokens.ref_logp.clone(),
            entropy: tokens.entropy.clone(),
            advantages,
            // Two tokens an item.
            items: completions.iter().flat_map(|c| c.clone().map(|t| ((t - c.start) / 2) as u32)).collect(),
            dropped: vec![false; completions.len()],
            off_policy: vec![false; completions.len()],
            completions,
            truncated: tokens.truncated.clone(),
        }
    }

    fn batch(&self) -> Batch<'_> {
        Batch {
            logp: &self.logp,
            old_logp: &self.old_logp,
            ref_logp: Some(&self.ref_logp),
            entropy: &self.entropy,
            advantages: &self.advantages,
            items: Some(&self.items),
            completions: &self.completions,
            truncated: &self.truncated,
            dropped: &self.dropped,
            off_policy: &self.off_policy,
            totals: None,
        }
    }

    /// The completions `which` alone, as a micro-batch.
    fn part(&self, which: Range<usize>) -> Self {
        let tokens = self.completions[which.start].start..self.completions[which.end - 1].end;
        let shift = |r: &Range<usize>| r.start - tokens.start..r.end - tokens.start;
        Self {
            logp: self.logp[tokens.clone()].to_vec(),
            old_logp: self.old_logp[tokens.clone()].to_vec(),
            ref_logp: self.ref_logp[tokens.clone()].to_vec(),
            entropy: self.entropy[tokens.clone()].to_vec(),
            advantages: self.advantages[tokens.clone()].to_vec(),
            items: self.items[tokens.clone()].to_vec(),
            completions: self.completions[which.clone()].iter().map(shift).collect(),
            truncated: self.truncated[which.clone()].to_vec(),
            dropped: self.dropped[which.clone()].to_vec(),
            off_policy: self.off_policy[which].to_vec(),
        }
    }
}

fn assert_close(found: f64, right: f64, what: &str) {
    assert!((found - right).abs() <= 1e-6 * (1.0 + right.abs()), "{what}: {found} is not {right}");
}

#[test]
fn losses_gradients_and_metrics_equal_those_of_trl() {
    let golden = golden();
    assert!(golden.cases.len() >= 100);
    for (i, case) in golden.cases.iter().enumerate() {
        let owned = Owned::new(&golden, case.advantages_per_token);
        let out = policy_loss(&case.config(), &owned.batch()).unwrap();
        assert_close(out.loss, case.loss, &format!("case {i}, loss"));
        for t in 0..out.dlogp.len() {
            assert_close(out.dlogp[t].into(), case.dlogp[t].into(), &format!("case {i}, dlogp of token {t}"));
            assert_close(out.dentropy[t].into(), case.dentropy[t].into(), &format!("case {i}, dentropy of token {t}"));
        }
        for (name, right) in &case.metrics {
            // With one advantage a token TRL counts padding too at sequence level; ours are shares of tokens.
            if case.advantages_per_token && (name.contains("clip_ratio") || name.starts_with("vespo")) {
                continue;
            }
            let found = match name.as_str() {
                "kl" => out.kl.unwrap(),
                "entropy" => out.entropy,
                "clip_ratio/low_mean" => out.clip_low_mean,
                "clip_ratio/high_mean" => out.clip_high_mean,
                "clip_ratio/region_mean" => out.clip_region_mean,
                "clip_ratio/low_min" => out.clip_low_min,
                "clip_ratio/high_max" => out.clip_high_max,
                "cispo_clip_ratio" => out.clip_high_mean,
                "vespo/phi_seq_mean" => out.phi_mean,
                other => panic!("a metric without a counterpart: {other}"),
            };
            assert_close(found, *right, &format!("case {i}, {name}"));
        }
    }
}

/// One token, advantage 0, on-policy: what is left of the loss is beta * KL.
fn only_kl(logp: f32, reference: f32, correct: bool) -> LossOutput {
    let config = LossConfig { beta: 0.5, use_bias_correction_kl: correct, ..LossConfig::default() };
    let batch = Batch {
        logp: &[logp],
        old_logp: &[logp],
        ref_logp: Some(&[reference]),
        entropy: &[0.0],
        advantages: &[0.0],
        items: None,
        completions: &[Range { start: 0, end: 1 }],
        truncated: &[false],
        dropped: &[false],
        off_policy: &[false],
        totals: None,
    };
    policy_loss(&config, &batch).unwrap()
}

#[test]
fn the_kl_term_is_added_and_its_gradient_pulls_towards_the_reference() {
    // p = 1/2 and q = 1/4: d = ln(q/p) = -ln 2, so k3 = 1/2 + ln 2 - 1.
    let (p, q) = (0.5f32.ln(), 0.25f32.ln());
    let out = only_kl(p, q, false);
    let k3 = 0.5 + std::f64::consts::LN_2 - 1.0;
    assert_close(out.kl.unwrap(), k3, "kl");
    assert_close(out.loss, 0.5 * k3, "loss");
    // Descent lowers a log-probability that is above the reference's, and lifts one that is below.
    assert_close(out.dlogp[0].into(), 0.5 * (1.0 - 0.5), "gradient above the reference");
    assert!(only_kl(q, p, false).dlogp[0] < 0.0);
    assert_eq!(only_kl(p, p, true).loss, 0.0);
    assert_eq!(only_kl(p, p, true).dlogp, [0.0]);
}

#[test]
fn the_expected_kl_estimate_over_the_policy_is_the_analytic_divergence() {
    let policy = [0.5f64, 0.3, 0.2];
    let reference = [0.2f64, 0.2, 0.6];
    let exact: f64 = policy.iter().zip(&reference).map(|(p, q)| p * (p / q).ln()).sum();
    let estimate: f64 =
        policy.iter().zip(&reference).map(|(p, q)| p * only_kl(p.ln() as f32, q.ln() as f32, false).kl.unwrap()).sum();
    assert_close(estimate, exact, "expected k3");
}

#[test]
fn a_dropped_completion_counts_nowhere() {
    let golden = golden();
    let config = LossConfig { beta: 0.1, entropy_coef: 0.1, ..LossConfig::default() };
    for loss_type in [LossType::Grpo, LossType::DrGrpo, LossType::Bnpo, LossType::Dapo] {
        let config = LossConfig { loss_type, ..config.clone() };
        let mut all = Owned::new(&golden, false);
        all.dropped[3] = true;
        let without = all.part(0..3);
        let (found, right) =
            (policy_loss(&config, &all.batch()).unwrap(), policy_loss(&config, &without.batch()).unwrap());
        assert_eq!(found.loss, right.loss);
        assert_eq!(found.dlogp[..9], right.dlogp[..]);
        assert_eq!(found.dlogp[9..], [0.0; 4]);
        assert_eq!(found.dentropy[9..], [0.0; 4]);
    }
}

#[test]
fn micro_batches_add_up_to_the_loss_of_the_step() {
    let golden = golden();
    for loss_type in [LossType::Grpo, LossType::DrGrpo, LossType::Dapo] {
        let config = LossConfig { loss_type, beta: 0.1, entropy_coef: 0.1, ..LossConfig::default() };
        let whole = Owned::new(&golden, false);
        let parts = [whole.part(0..1), whole.part(1..4)];
        let totals: Totals = parts.iter().map(|p| p.batch().totals(&config)).sum();
        let right = policy_loss(&config, &whole.batch()).unwrap();
        let found = parts.iter().map(|p| {
            let batch = Batch { totals: Some(totals), ..p.batch() };
            policy_loss(&config, &batch).unwrap()
        });
        let (losses, gradients): (Vec<f64>, Vec<Vec<f32>>) = found.map(|o| (o.loss, o.dlogp)).unzip();
        assert_close(losses.iter().sum(), right.loss, "loss");
        assert_eq!(gradients.concat(), right.dlogp);
    }
}

#[test]
fn nothing_in_the_loss_gives_loss_zero_and_not_nan() {
    let golden = golden();
    for loss_type in [LossType::Grpo, LossType::DrGrpo, LossType::Bnpo, LossType::Dapo] {
        let config = LossConfig { loss_type, entropy_coef: 0.1, ..LossConfig::default() };
        let mut owned = Owned::new(&golden, false);
        owned.dropped.fill(true);
        let out = policy_loss(&config, &owned.batch()).unwrap();
        assert_eq!((out.loss, out.tokens), (0.0, 0));
        assert!(out.dlogp.iter().chain(&out.dentropy).all(|g| *g == 0.0));
    }
}

#[test]
fn slices_of_wrong_length_are_refused_by_name() {
    let golden = golden();
    let owned = Owned::new(&golden, false);
    let config = LossConfig::default();
    let short = Batch { entropy: &owned.entropy[1..], ..owned.batch() };
    assert!(policy_loss(&config, &short).unwrap_err().to_string().starts_with("entropy: 12 values; give 13"));
    let none = Batch { logp: &[], old_logp: &[], entropy: &[], advantages: &[], ..owned.batch() };
    let outside = Batch { ref_logp: None, items: None, ..none };
    assert!(policy_loss(&config, &outside).unwrap_err().to_string().contains("0..5"));
    let unreferenced = Batch { ref_logp: None, ..owned.batch() };
    let config = LossConfig { beta: 0.1, ..config };
    assert!(policy_loss(&config, &unreferenced).unwrap_err().to_string().starts_with("ref_logp"));
}

#[test]
fn settings_have_trls_names_and_values_without_meaning_are_refused() {
    let text = r#"{"loss_type": "dr_grpo", "importance_sampling_level": "sequence", "epsilon_high": 0.28}"#;
    let config: LossConfig = serde_json::from_str(text).unwrap();
    assert_eq!(config.loss_type, LossType::DrGrpo);
    assert!(config.validate().is_ok());
    assert!(serde_json::from_str::<LossConfig>(r#"{"epsilom": 0.1}"#).is_err());
    let bad = LossConfig { epsilon: 1.5, ..LossConfig::default() };
    assert!(bad.validate().unwrap_err().to_string().starts_with("epsilon: 1.5"));
    let bad = LossConfig { delta: Some(1.1), ..LossConfig::default() };
    assert!(bad.validate().unwrap_err().to_string().starts_with("delta: 1.1"));
}

/// One token that was not sampled, advantage 1.
fn only_off_policy(p: f64, gamma: f64) -> LossOutput {
    let config = LossConfig { off_policy_gamma: gamma, ..LossConfig::default() };
    let logp = [p.ln() as f32];
    let batch = Batch {
        logp: &logp,
        old_logp: &logp,
        ref_logp: None,
        entropy: &[0.0],
        advantages: &[1.0],
        items: None,
        completions: &[Range { start: 0, end: 1 }],
        truncated: &[false],
        dropped: &[false],
        off_policy: &[true],
        totals: None,
    };
    policy_loss(&config, &batch).unwrap()
}

#[test]
fn an_injected_token_weighs_most_where_its_probability_is_gamma_and_without_gamma_as_in_a_supervised_step() {
    for p in [0.5, 0.1, 1e-3] {
        assert_eq!(only_off_policy(p, 0.0).dlogp, [-1.0], "ratio 1");
        let out = only_off_policy(p, 0.1);
        // LUFFY's f(p) = p / (p + 0.1).
        assert_close(out.loss, -p / (p + 0.1), "loss");
        assert_close(out.dlogp[0].into(), -0.1 * p / (p + 0.1).powi(2), "gradient");
    }
    assert_close(only_off_policy(0.1, 0.1).dlogp[0].into(), -0.25, "at gamma");
    assert!(only_off_policy(1e-3, 0.1).dlogp[0] > -0.01, "no idea, next to no step");
}

#[test]
fn shaping_leaves_what_was_sampled_as_it_is() {
    let golden = golden();
    let mut owned = Owned::new(&golden, false);
    owned.off_policy[1] = true;
    let [free, shaped] = [0.0, 0.1].map(|off_policy_gamma| {
        policy_loss(&LossConfig { off_policy_gamma, ..LossConfig::default() }, &owned.batch()).unwrap()
    });
    let own = owned.completions[1].clone();
    for t in 0..owned.logp.len() {
        assert_eq!(free.dlogp[t] == shaped.dlogp[t], !own.contains(&t), "token {t}");
    }
}

/// The probabilities of a softmax.
fn softmax(logits: &[f64]) -> Vec<f64> {
    let sum: f64 = logits.iter().map(|l| l.exp()).sum();
    logits.iter().map(|l| l.exp() / sum).collect()
}

fn entropy_of(policy: &[f64]) -> f64 {
    policy.iter().map(|p| -p * p.ln()).sum()
}

/// How much the entropy of a policy over 64 words rises in 40 steps, each of one group: three completions of likely words
/// that earn what the base earns, and one better one that was injected, another word every time. So most groups of the
/// default settings were on a set where words do not repeat.
fn rise(baseline: Baseline, off_policy_gamma: f64, entropy_coef: f64) -> f64 {
    let mut logits: Vec<f64> = (0..64).map(|w| if w < 4 { 4.0 } else { 0.0 }).collect();
    let config = LossConfig { off_policy_gamma, entropy_coef, ..LossConfig::default() };
    let advantages = AdvantageConfig { baseline, ..AdvantageConfig::default() };
    let rewards = [0.3, 0.3, 0.3, 0.5].map(Some);
    let advantages = group_advantages(&rewards, &[Some(0.3)], 4, advantages).unwrap().advantages;
    let start = entropy_of(&softmax(&logits));
    for step in 0..40 {
        let policy = softmax(&logits);
        let entropy = entropy_of(&policy);
        let words = [step % 4, (step + 1) % 4, (step + 2) % 4, 4 + step];
        let logp = words.map(|w: usize| policy[w].ln() as f32);
        let batch = Batch {
            logp: &logp,
            old_logp: &logp,
            ref_logp: None,
            entropy: &[entropy as f32; 4],
            advantages: &advantages,
            items: None,
            completions: &[0..1, 1..2, 2..3, 3..4],
            truncated: &[false; 4],
            dropped: &[false; 4],
            off_policy: &[false, false, false, true],
            totals: None,
        };
        let out = policy_loss(&config, &batch).unwrap();
        for (w, logit) in logits.iter_mut().enumerate() {
            let of_words = words.iter().zip(&out.dlogp);
            let logp: f64 =
                of_words.map(|(word, d)| f64::from(*d) * (f64::from(u8::from(*word == w)) - policy[w])).sum();
            let of_entropy: f64 = out.dentropy.iter().map(|d| f64::from(*d)).sum();
            *logit -= 0.4 * (logp - of_entropy * policy[w] * (policy[w].ln() + entropy));
        }
    }
    entropy_of(&softmax(&logits)) - start
}

#[test]
fn what_raises_the_entropy_is_injected_words_that_never_repeat_and_what_holds_it_is_shaping_against_the_base() {
    let found = rise(Baseline::Group, 0.0, 0.0);
    assert!(found > 1.0, "ratio 1 against the group: {found}");
    let (shaped, base) = (rise(Baseline::Group, 0.1, 0.0), rise(Baseline::Base, 0.0, 0.0));
    assert!(shaped < 0.4 && base > 0.8, "the injected word is the greater part: {shaped}, {base}");
    let both = rise(Baseline::Base, 0.1, 0.0);
    assert!(both < 0.06, "both: {both}");
    assert!(rise(Baseline::Group, 0.0, -0.1) < found - 0.1, "a penalty pulls the other way");
    assert!(rise(Baseline::Base, 0.1, -0.1) < 0.0);
    assert!(rise(Baseline::Base, 0.1, 0.1) > both, "and a bonus up");
}

#[test]
fn completions_with_advantage_1_and_ratio_1_have_the_gradient_of_trls_supervised_loss() {
    #[derive(serde::Deserialize)]
    struct Supervised {
        lengths: Vec<usize>,
        logp: Vec<f32>,
        sft: Right,
    }
    #[derive(serde::Deserialize)]
    struct Right {
        loss: f64,
        dlogp: Vec<f32>,
    }
    let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/preference.json"));
    let golden: Supervised = serde_json::from_str(text).unwrap();
    let ends: Vec<usize> = golden.lengths.iter().scan(0, |end, n| Some(std::mem::replace(end, *end + n))).collect();
    let completions: Vec<Range<usize>> = ends.iter().zip(&golden.lengths).map(|(start, n)| *start..start + n).collect();
    let (ones, no) = (vec![1.0; golden.logp.len()], vec![false; completions.len()]);
    let batch = Batch {
        items: None,
        logp: &golden.logp,
        old_logp: &golden.logp,
        ref_logp: None,
        entropy: &ones,
        advantages: &ones,
        completions: &completions,
        truncated: &no,
        dropped: &no,
        off_policy: &vec![true; completions.len()],
        totals: None,
    };
    let out = policy_loss(&LossConfig::default(), &batch).unwrap();
    assert_close(-out.logp, golden.sft.loss, "the loss that is logged");
    out.dlogp.iter().zip(&golden.sft.dlogp).for_each(|(a, b)| assert_close((*a).into(), (*b).into(), "dlogp"));
}
