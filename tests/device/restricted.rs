//! Answers that a grammar restricts, on a device as on the processor.

use std::sync::Arc;

use querywright::model::Precision;
use querywright::types::Deadline;
use querywright_model::{
    Decoder, GenerateOptions, Grammar, LoraConfig, Objective, PromptTokens, SamplingConfig, Tape, Tokenizer, Trie,
    generate, prefix,
};

use super::{PREFIX, Pair, adapter, assert_alike, distance, groups, pair, turn};

/// Prompts of which the second is free: the first is answered by one word, behind which there is no choice, the third by
/// any number of words.
fn prompts(tokenizer: &Tokenizer) -> Vec<PromptTokens> {
    let words = ["a", "ab", "abc", "be", "kettle", "tea", "teapot", "cosy", "q", "quilt", "wool", "x"];
    let trie = Arc::new(Trie::new(tokenizer, &words).unwrap());
    let one = Arc::new(Grammar::one_of(tokenizer, trie.clone(), "\n").unwrap());
    let many = Arc::new(Grammar::new(tokenizer, vec![trie], "\n").unwrap());
    let grammars = [Some(one), None, Some(many)];
    let prompt = |(i, (tokens, _)): (usize, (Vec<u32>, Vec<Vec<u32>>))| {
        let grammar = grammars.get(i).cloned().flatten();
        PromptTokens { grammar, ..PromptTokens::free(30 + i as u64, tokens) }
    };
    groups().into_iter().enumerate().map(prompt).collect()
}

#[test]
fn restricted_completions_are_those_of_the_processor() {
    let Some(_turn) = turn() else { return };
    let pair = pair("tiny-qwen3", Precision::F32);
    let tokenizer = pair.source.tokenizer().unwrap();
    let adapter = adapter(&pair.host, LoraConfig { r: 4, ..LoraConfig::default() }, 9);
    let prompts = prompts(&tokenizer);
    let plain = SamplingConfig { max_completion_length: 14, temperature: 0.9, ..SamplingConfig::default() };
    for sampling in [
        plain.clone(),
        SamplingConfig::greedy(9),
        SamplingConfig { top_k: 5, top_p: 0.9, repetition_penalty: 1.1, ..plain.clone() },
    ] {
        let options =
            GenerateOptions { sampling: &sampling, completions: 4, stop: &[], seed: 3, deadline: Deadline::NONE };
        let run = |decoder: &Decoder| {
            let shared = prefix(decoder, &PREFIX, adapter.deltas()).unwrap();
            generate(decoder, &tokenizer, &shared, &prompts, adapter.deltas(), &options).unwrap()
        };
        let (host, device) = (run(&pair.host), run(&pair.device));
        assert_alike(&host, &device);
    }
}

#[test]
fn gradients_among_the_tokens_that_were_allowed_are_those_of_the_processor() {
    let Some(_turn) = turn() else { return };
    for (precision, tolerance) in [(Precision::F32, 1e-4), (Precision::Bf16, 3e-2)] {
        let pair = pair("tiny-qwen3", precision);
        let (logp, gradients) = learned(&pair, &pair.host);
        let (logp_on_device, gradients_on_device) = learned(&pair, &pair.device);
        assert!(logp.iter().filter(|p| **p == 0.0).count() > 1, "there are tokens without a choice");
        let off = distance(&logp_on_device, &logp);
        assert!(off < tolerance, "{precision:?}: log-probabilities are off by {off}");
        for (on_device, p) in logp_on_device.iter().zip(&logp) {
            assert_eq!(*on_device == 0.0, *p == 0.0, "what is forced has exactly the probability 1: {on_device}, {p}");
        }
        let off = distance(&gradients_on_device, &gradients);
        assert!(off < 3.0 * tolerance, "{precision:?}: gradients are off by {off}");
    }
}

/// Log-probabilities and gradients of an objective over completions that the processor sampled.
fn learned(pair: &Pair, decoder: &Decoder) -> (Vec<f32>, Vec<f32>) {
    let tokenizer = pair.source.tokenizer().unwrap();
    let adapter = adapter(&pair.host, LoraConfig { r: 4, ..LoraConfig::default() }, 5);
    let (prompts, deltas) = (prompts(&tokenizer), adapter.deltas());
    let sampling = SamplingConfig { max_completion_length: 12, ..SamplingConfig::default() };
    let options = GenerateOptions { sampling: &sampling, completions: 3, stop: &[], seed: 8, deadline: Deadline::NONE };
    let shared = prefix(&pair.host, &PREFIX, deltas).unwrap();
    let sampled = generate(&pair.host, &tokenizer, &shared, &prompts, deltas, &options).unwrap();
    let of = |group: &'_ Vec<querywright_model::Completion>| -> Vec<Vec<u32>> {
        group.iter().map(|c| c.tokens.clone()).collect()
    };
    let tokens: Vec<Vec<Vec<u32>>> = sampled.iter().map(of).collect();
    let completions = || tokens.iter().map(|group| group.iter().map(Vec::as_slice).collect::<Vec<&[u32]>>());
    let forced: Vec<(&[u32], Vec<&[u32]>)> = prompts.iter().map(|p| p.tokens.as_slice()).zip(completions()).collect();
    let tape = Tape::of(decoder, deltas, &PREFIX, &forced).unwrap();
    let mut predictions = tape.predictions(completions());
    predictions.restrict(prompts.iter().map(|p| p.grammar.as_ref()).zip(completions())).unwrap();
    let numbers = decoder.predicted(&tape, &predictions, 0.8).unwrap();
    let weights: Vec<(f32, f32)> =
        (0..numbers.len()).map(|i| (((i * 7) % 5) as f32 - 2.0, 0.1 * (i % 3) as f32)).collect();
    let mut gradients = decoder.zero_gradients(deltas).unwrap();
    let objective = Objective { predictions: &predictions, temperature: 0.8, weights: &weights, sampled: &[] };
    decoder.backward(&tape, objective, deltas, &mut gradients).unwrap();
    (numbers.iter().map(|n| n.log_probability).collect(), gradients.read(&adapter).unwrap().concat())
}
