use std::path::PathBuf;

use super::*;
use crate::kernels::{HeadOptions, PackedTree, Precision};
use crate::model::ModelSource;

struct Fixture {
    decoder: Decoder,
    tokenizer: Tokenizer,
}

fn fixture(precision: Precision) -> Fixture {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny-qwen3");
    let source = ModelSource::open(&path).unwrap();
    let tokenizer = source.tokenizer().unwrap();
    Fixture { decoder: Decoder::load(&source, precision, &|_, _| {}).unwrap(), tokenizer }
}

const PREFIX: [u32; 5] = [7, 99, 14, 3, 60];

fn prompts() -> Vec<PromptTokens> {
    let tokens: [&[u32]; 4] = [&[5, 17, 33], &[200], &[44, 44, 9, 12, 80, 2, 61], &[5, 17, 33]];
    tokens.iter().enumerate().map(|(i, t)| PromptTokens { stream: i as u64, tokens: t.to_vec() }).collect()
}

impl Fixture {
    fn run(
        &self,
        prompts: &[PromptTokens],
        sampling: &SamplingConfig,
        completions: usize,
        stop: &[String],
    ) -> Vec<Vec<Completion>> {
        let shared = prefix(&self.decoder, &PREFIX, &[]).unwrap();
        let options = GenerateOptions { sampling, completions, stop, seed: 11, deadline: Deadline::NONE };
        generate(&self.decoder, &self.tokenizer, &shared, prompts, &[], &options).unwrap()
    }
}

#[test]
fn completions_are_the_same_whatever_batch_they_are_drawn_in() {
    for precision in [Precision::F32, Precision::Auto] {
        let f = fixture(precision);
        let sampling = SamplingConfig { max_completion_length: 9, temperature: 0.9, ..Default::default() };
        let together = f.run(&prompts(), &sampling, 3, &[]);
        for (prompt, want) in prompts().iter().zip(&together) {
            assert_eq!(&f.run(std::slice::from_ref(prompt), &sampling, 3, &[])[0], want);
            assert_eq!(f.run(std::slice::from_ref(prompt), &sampling, 1, &[])[0][0], want[0]);
        }
        assert_ne!(together[0], together[3], "equal prompts in different streams differ");
        let mut turned = prompts();
        turned.reverse();
        let mut other = f.run(&turned, &sampling, 3, &[]);
        other.reverse();
        assert_eq!(other, together);
    }
}

#[test]
fn log_probabilities_of_the_sampler_are_those_of_the_differentiable_pass() {
    let f = fixture(Precision::Auto);
    let sampling = SamplingConfig { max_completion_length: 8, temperature: 0.7, ..Default::default() };
    for (prompt, group) in prompts().iter().zip(f.run(&prompts(), &sampling, 2, &[])) {
        for completion in group {
            let tokens = [&PREFIX, prompt.tokens.as_slice(), &completion.tokens].concat();
            let mut tree = PackedTree::default();
            tree.push(tokens.len(), None);
            let hidden = f.decoder.forward_tree(&tokens, &Arc::new(tree), &[]).unwrap();
            let n = completion.tokens.len();
            let rows = hidden.narrow(0, tokens.len() - n - 1, n).unwrap();
            let options = HeadOptions { temperature: 0.7, entropy_gradient: false };
            let got =
                f.decoder.log_probabilities(&rows, &completion.tokens, options).unwrap().to_vec2::<f32>().unwrap();
            for (got, want) in got.iter().zip(&completion.log_probabilities) {
                assert!((got[0] - want).abs() < 2e-2, "{} {want}", got[0]);
            }
        }
    }
}

#[test]
fn greedy_takes_the_likeliest_token_every_time() {
    let f = fixture(Precision::F32);
    let prompt = &prompts()[..1];
    let completion = &f.run(prompt, &SamplingConfig::greedy(6), 1, &[])[0][0];
    let mut tokens = [&PREFIX, prompt[0].tokens.as_slice()].concat();
    for token in &completion.tokens {
        let mut tree = PackedTree::default();
        tree.push(tokens.len(), None);
        let hidden = f.decoder.forward_tree(&tokens, &Arc::new(tree), &[]).unwrap();
        let last = hidden.narrow(0, tokens.len() - 1, 1).unwrap();
        let logits = f.decoder.logits(&last).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap();
        assert_eq!(best as u32, *token);
        tokens.push(*token);
    }
}

#[test]
fn a_stop_string_is_cut_from_the_text_but_its_tokens_and_their_log_probabilities_stay() {
    let f = fixture(Precision::F32);
    let sampling = SamplingConfig { max_completion_length: 12, ..Default::default() };
    let free = f.run(&prompts(), &sampling, 8, &[]);
    let whole = free.iter().flatten().find(|c| c.finish == Finish::Length && c.text.chars().count() > 3).unwrap();
    let stop: String = whole.text.chars().skip(1).take(2).collect();
    let stopped = f.run(&prompts(), &sampling, 8, std::slice::from_ref(&stop));
    let all = free.iter().flatten().zip(stopped.iter().flatten());
    let mut seen = 0;
    for (free, stopped) in all {
        assert_eq!(stopped.tokens.len(), stopped.log_probabilities.len());
        assert_eq!(free.tokens[..stopped.tokens.len()], stopped.tokens, "stopping changes nothing before the stop");
        if let Some(at) = free.text.find(&stop) {
            seen += 1;
            assert_eq!(stopped.finish, Finish::Stop);
            assert_eq!(stopped.text, free.text[..at]);
            assert!(f.tokenizer.decode(&stopped.tokens).unwrap().contains(&stop), "the policy chose to stop");
        }
    }
    assert!(seen > 0);
}

#[test]
fn a_deadline_that_has_passed_ends_every_completion_after_its_first_token() {
    let f = fixture(Precision::F32);
    let sampling = SamplingConfig { max_completion_length: 50, ..Default::default() };
    let shared = prefix(&f.decoder, &PREFIX, &[]).unwrap();
    let deadline = Deadline::after(std::time::Duration::ZERO);
    let options = GenerateOptions { sampling: &sampling, completions: 2, stop: &[], seed: 1, deadline };
    for completion in generate(&f.decoder, &f.tokenizer, &shared, &prompts(), &[], &options).unwrap().iter().flatten() {
        assert!(completion.finish == Finish::Deadline || completion.finish == Finish::Stop);
        assert_eq!(completion.tokens.len(), 1);
    }
}

#[test]
fn prompts_that_are_empty_or_too_long_are_refused() {
    let f = fixture(Precision::F32);
    let shared = prefix(&f.decoder, &PREFIX, &[]).unwrap();
    let sampling = SamplingConfig::greedy(4);
    let options = GenerateOptions { sampling: &sampling, completions: 1, stop: &[], seed: 1, deadline: Deadline::NONE };
    let run = |tokens: Vec<u32>| {
        generate(&f.decoder, &f.tokenizer, &shared, &[PromptTokens { stream: 0, tokens }], &[], &options)
            .unwrap_err()
            .to_string()
    };
    assert!(run(Vec::new()).contains("prompt 0 is empty"));
    let limit = f.decoder.config().max_position_embeddings;
    assert!(run(vec![1; limit]).contains(&format!("context is {limit}")));
}
