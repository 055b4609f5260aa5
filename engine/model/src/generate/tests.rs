use std::path::PathBuf;

use super::*;
use crate::completion::Finish;
use crate::host::HostDecoder;
use crate::sampling::SamplingConfig;
use crate::source::ModelSource;
use querywright_kernels::Precision;
use querywright_types::Deadline;

struct Fixture {
    decoder: Decoder,
    tokenizer: Tokenizer,
}

fn fixture(precision: Precision) -> Fixture {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tiny-qwen3");
    let source = ModelSource::open(&path).unwrap();
    let tokenizer = source.tokenizer().unwrap();
    Fixture { decoder: Decoder::load(&source, precision, &()).unwrap(), tokenizer }
}

const PREFIX: [u32; 5] = [7, 99, 14, 3, 60];

fn prompts() -> Vec<PromptTokens> {
    let tokens: [&[u32]; 4] = [&[5, 17, 33], &[200], &[44, 44, 9, 12, 80, 2, 61], &[5, 17, 33]];
    tokens.iter().enumerate().map(|(i, t)| PromptTokens { stream: i as u64, tokens: t.to_vec() }).collect()
}

impl Fixture {
    fn host(&self) -> &HostDecoder {
        self.decoder.host().unwrap()
    }

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
fn completions_are_the_same_whatever_batch_they_are_sampled_in() {
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
fn what_is_recorded_while_sampling_is_what_teacher_forcing_gives() {
    for precision in [Precision::F32, Precision::Auto] {
        let f = fixture(precision);
        let sampling = SamplingConfig { max_completion_length: 8, temperature: 0.7, ..Default::default() };
        let prompts = prompts();
        let options =
            GenerateOptions { sampling: &sampling, completions: 2, stop: &[], seed: 11, deadline: Deadline::NONE };
        let (groups, tape) = generate_recorded(&f.decoder, &f.tokenizer, &PREFIX, &prompts, &[], &options).unwrap();
        let tape = tape.unwrap();
        assert_eq!(groups, f.run(&prompts, &sampling, 2, &[]), "recording changes nothing");
        let tokens = || groups.iter().map(|g| g.iter().map(|c| c.tokens.as_slice()).collect::<Vec<_>>());
        let recorded = f.decoder.predicted(&tape, &tape.predictions(tokens()), 0.7).unwrap();
        let groups_of: Vec<(&[u32], Vec<&[u32]>)> = prompts.iter().map(|p| p.tokens.as_slice()).zip(tokens()).collect();
        let forced = Tape::of(&f.decoder, &[], &PREFIX, &groups_of).unwrap();
        let again = f.decoder.predicted(&forced, &forced.predictions(tokens()), 0.7).unwrap();
        // The last one alone, and a tape of which most is thrown away.
        let mut last = tape.clone();
        last.retain(&f.decoder, &[3]).unwrap();
        assert!(last.rows() < tape.rows() / 2);
        let kept = f.decoder.predicted(&last, &last.predictions(tokens().skip(3)), 0.7).unwrap();
        let sampled = groups.iter().flatten().flat_map(|c| c.log_probabilities.iter().zip(&c.entropies));
        let tolerance = if precision == Precision::F32 { 1e-4 } else { 2e-2 };
        let mut count = 0;
        for (((log_probability, entropy), recorded), again) in sampled.zip(&recorded).zip(&again) {
            assert_eq!((*log_probability, *entropy), (recorded.log_probability, recorded.entropy), "to the bit");
            assert!((log_probability - again.log_probability).abs() < tolerance);
            assert!((entropy - again.entropy).abs() < tolerance);
            count += 1;
        }
        assert_eq!(count, recorded.len());
        assert_eq!(kept, recorded[recorded.len() - kept.len()..]);
    }
}

#[test]
fn a_backward_pass_from_kept_distributions_gives_the_gradients_of_one_that_recomputes_logits() {
    let f = fixture(Precision::Auto);
    if !f.host().keeps_distributions() {
        querywright_testing::skipped("this machine has no products in bf16");
        return;
    }
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/peft-qwen3");
    let adapter = crate::Adapter::load(&path, f.decoder.config()).unwrap();
    let sampling = SamplingConfig { max_completion_length: 20, temperature: 0.8, ..Default::default() };
    let options = GenerateOptions { sampling: &sampling, completions: 3, stop: &[], seed: 4, deadline: Deadline::NONE };
    let deltas = adapter.deltas();
    let (groups, tape) = generate_recorded(&f.decoder, &f.tokenizer, &PREFIX, &prompts(), deltas, &options).unwrap();
    let tape = tape.unwrap();
    let tokens = groups.iter().map(|g| g.iter().map(|c| c.tokens.as_slice()).collect());
    let predictions = tape.predictions(tokens);
    let said = groups.iter().flatten().flat_map(|c| c.log_probabilities.iter().zip(&c.entropies));
    let sampled: Vec<querywright_kernels::TokenStatistics> =
        said.map(|(l, e)| querywright_kernels::TokenStatistics { log_probability: *l, entropy: *e }).collect();
    for entropy in [0.0, 0.2] {
        let weights: Vec<(f32, f32)> =
            (0..sampled.len()).map(|i| (((i * 7) % 5) as f32 - 2.0, entropy * (i % 3) as f32)).collect();
        let gradients = |sampled: &[querywright_kernels::TokenStatistics]| {
            let mut gradients = f.decoder.zero_gradients(deltas).unwrap();
            let objective =
                crate::Objective { predictions: &predictions, temperature: 0.8, weights: &weights, sampled };
            let formed = f.decoder.backward(&tape, objective, deltas, &mut gradients).unwrap();
            (gradients.read(&adapter).unwrap(), formed.iter().flatten().count())
        };
        let ((kept, few), (again, all)) = (gradients(&sampled), gradients(&[]));
        assert!(few > 0 && few < all / 4, "{few} of {all} were recomputed");
        for (kept, again) in kept.iter().zip(&again) {
            let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|v| v * v).sum::<f32>().sqrt();
            let size = norm(&mut again.iter().copied());
            let off = norm(&mut kept.iter().zip(again).map(|(a, b)| a - b));
            assert!(size > 0.0 && off < 0.02 * size, "off by {off} of {size}");
        }
    }
}

#[test]
fn drafts_change_no_token_and_no_number() {
    for precision in [Precision::F32, Precision::Auto, Precision::Int8] {
        let f = fixture(precision);
        // A request whose tokens the greedy completion runs into, so that drafts are taken, and broken off.
        let greedy = SamplingConfig::greedy(24);
        let whole = f.run(&prompts()[..1], &greedy, 1, &[]).remove(0).remove(0);
        let mut request = whole.tokens[..6].to_vec();
        request.extend([9, 9]);
        request.extend(&whole.tokens[6..12]);
        let prompt = [PromptTokens { stream: 3, tokens: request }];
        for sampling in [greedy.clone(), SamplingConfig { max_completion_length: 24, ..Default::default() }] {
            // More than two sequences are never drafted for; their first is the same completion.
            let (drafted, plain) = (f.run(&prompt, &sampling, 1, &[]), f.run(&prompt, &sampling, 3, &[]));
            assert_eq!(drafted[0][0].tokens, plain[0][0].tokens, "{precision:?}");
            for (a, b) in drafted[0][0].log_probabilities.iter().zip(&plain[0][0].log_probabilities) {
                assert!((a - b).abs() < 1e-5, "{precision:?}: {a} {b}");
            }
        }
    }
}

#[test]
fn drafts_save_passes_where_a_completion_copies_its_request() {
    let f = fixture(Precision::F32);
    let greedy = SamplingConfig::greedy(24);
    let options = GenerateOptions { sampling: &greedy, completions: 1, stop: &[], seed: 11, deadline: Deadline::NONE };
    let passes_of = |tokens: Vec<u32>| {
        let prompts = [PromptTokens { stream: 0, tokens }];
        let call = Call { prefix: &[], prompts: &prompts, deltas: &[], options: &options, tokenizer: &f.tokenizer };
        let (mut completions, passes) = f.host().run(&call, None, None).unwrap();
        (completions.remove(0).remove(0).tokens, passes)
    };
    // An untrained model repeats itself; a request that ends in such a repetition predicts what follows.
    let mut saved = 0;
    for first in 0..40 {
        let (mut request, _) = passes_of(vec![first]);
        request.extend(request.clone());
        let (tokens, passes) = passes_of(request);
        assert!(passes < tokens.len(), "the first token comes with the prompt");
        saved += tokens.len() - 1 - passes;
    }
    assert!(saved > 0, "no draft was ever taken");
    println!("{saved} passes saved");
}

#[test]
fn a_replaced_completion_is_recorded_like_one_that_was_sampled() {
    let f = fixture(Precision::F32);
    let sampling = SamplingConfig { max_completion_length: 4, ..Default::default() };
    let options = GenerateOptions { sampling: &sampling, completions: 2, stop: &[], seed: 1, deadline: Deadline::NONE };
    let (mut groups, tape) = generate_recorded(&f.decoder, &f.tokenizer, &PREFIX, &prompts(), &[], &options).unwrap();
    let mut tape = tape.unwrap();
    let other = [9u32, 81, 44, 2, 60, 61, 62];
    let missing = tape.replace(&f.decoder, &[], &[(2, 9, &other)]).unwrap_err().to_string();
    assert!(missing.contains("host tape: no completion 9 of prompt 2"), "{missing}");
    assert!(tape.retain(&f.decoder, &[0, 4]).unwrap_err().to_string().contains("[0, 4] of 4 prompts"));
    tape.replace(&f.decoder, &[], &[(2, 1, &other)]).unwrap();
    groups[2][1].tokens = other.to_vec();
    let tokens = || groups.iter().map(|g| g.iter().map(|c| c.tokens.as_slice()).collect::<Vec<_>>());
    let all = prompts();
    let groups_of: Vec<(&[u32], Vec<&[u32]>)> = all.iter().map(|p| p.tokens.as_slice()).zip(tokens()).collect();
    let forced = Tape::of(&f.decoder, &[], &PREFIX, &groups_of).unwrap();
    let numbers = |tape: &Tape| f.decoder.predicted(tape, &tape.predictions(tokens()), 1.0).unwrap();
    for (got, want) in numbers(&tape).iter().zip(numbers(&forced)) {
        assert!((got.log_probability - want.log_probability).abs() < 1e-4);
    }
}

#[test]
fn greedy_takes_the_likeliest_token_every_time() {
    let f = fixture(Precision::F32);
    let prompt = &prompts()[..1];
    let completion = &f.run(prompt, &SamplingConfig::greedy(6), 1, &[])[0][0];
    let mut tokens = [&PREFIX, prompt[0].tokens.as_slice()].concat();
    for token in &completion.tokens {
        let mut sequence = [f.host().continuation(Vec::new())];
        let hidden = f.host().forward(&tokens, &mut sequence, &[tokens.len()], &[], None).unwrap();
        let logits = f.host().logits(&hidden[hidden.len() - f.decoder.config().hidden_size..]);
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
