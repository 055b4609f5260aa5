use std::path::PathBuf;

use super::*;
use querywright_model::{Adapter, LoraConfig, ModelSource, Precision};

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)
}

/// A tiny model of random weights, which knows nothing, and an adapter that PEFT made for it.
fn model() -> (Decoder, Tokenizer, Adapter) {
    let source = ModelSource::open(&golden("tiny-qwen3.gguf")).unwrap();
    let adapter = Adapter::load(&golden("peft-qwen3"), source.config()).unwrap();
    (Decoder::load(&source, Precision::F32, &()).unwrap(), source.tokenizer().unwrap(), adapter)
}

#[test]
fn an_adapter_is_set_against_its_base_and_one_that_changes_nothing_loses_nothing() {
    let (decoder, tokenizer, adapter) = model();
    let untrained = Adapter::new(decoder.config(), LoraConfig::default(), 0).unwrap();
    let config = SkillsConfig { requests: 6, passages: 3, max_tokens: 4, batch: 4, seed: 0 };
    let systems = [("untrained", untrained.deltas()), ("trained", adapter.deltas())];
    let got = Skills::measure((&decoder, &tokenizer), "base", &systems, config, &()).unwrap();
    let names: Vec<&str> = got.systems.iter().map(|system| system.system.as_str()).collect();
    assert_eq!((names, got.requests), (vec!["base", "untrained", "trained"], 6));
    let [base, same, other] = got.systems.as_slice() else { panic!("three systems") };
    assert!(base.against.is_none());
    let same_against = same.against.as_ref().unwrap();
    assert_eq!((same_against.gained, same_against.lost, same_against.followed_p), (0, 0, 1.0));
    assert!(same_against.loss.mean.abs() < 1e-6 && same_against.kl.mean.abs() < 1e-6, "{same_against:?}");
    assert_eq!((&same.kinds, same.followed), (&base.kinds, base.followed));
    let other_against = other.against.as_ref().unwrap();
    assert!(other_against.kl.mean > 1e-3 && other_against.kl.low > 0.0, "{other_against:?}");
    assert!((other.perplexity / base.perplexity - 1.0).abs() > 1e-3);
    assert_eq!(base.kinds.values().map(|(_, of)| of).sum::<usize>(), 6);
    let text = got.text();
    assert!(text.contains("trained against the base") && text.contains("KL from the base: +"), "{text}");
    let none = SkillsConfig { requests: 0, ..config };
    let error = Skills::measure((&decoder, &tokenizer), "base", &[], none, &()).unwrap_err().to_string();
    assert!(error.contains("0 requests"), "{error}");
}

#[test]
fn perplexity_is_the_exponential_of_the_mean_loss_of_a_token() {
    let (decoder, tokenizer, _) = model();
    let config = SkillsConfig { requests: 1, passages: 2, max_tokens: 1, ..SkillsConfig::default() };
    let exam = Exam::new(&decoder, &tokenizer, config).unwrap();
    assert!(exam.passages.len() == 2 && exam.passages.iter().all(|ids| ids.len() > 20));
    let all = Exam::new(&decoder, &tokenizer, SkillsConfig::default()).unwrap();
    assert_eq!((all.passages.len(), all.prompts.len()), (20, 200));
    let answers = exam.answers(&[]).unwrap();
    // Token by token, each after all before it.
    let ids = &exam.passages[1][..6];
    let one = |end: usize| exam.log_probabilities(&[], &ids[..end], &ids[end..=end]).unwrap()[0];
    let apart: f32 = (1..ids.len()).map(one).sum();
    let together: f32 = exam.log_probabilities(&[], &ids[..1], &ids[1..]).unwrap().iter().sum();
    assert!((apart - together).abs() < 1e-3, "{apart} {together}");
    let (sum, tokens): (f64, usize) = answers.losses.iter().fold((0.0, 0), |(s, n), (l, t)| (s + l, n + t));
    let system = exam.system("base", &answers).unwrap();
    assert_eq!(system.perplexity, (sum / tokens as f64).exp());
}
