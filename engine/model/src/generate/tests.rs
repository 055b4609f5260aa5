use std::path::PathBuf;

use super::*;
use crate::completion::Finish;
use crate::grammar::{Grammar, Labels, Trie};
use crate::host::HostDecoder;
use crate::objective::Predictions;
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
    tokens.iter().enumerate().map(|(i, t)| PromptTokens::free(i as u64, t.to_vec())).collect()
}

/// Predictions of all completions, within the grammars of their prompts.
fn predictions(tape: &Tape, prompts: &[PromptTokens], groups: &[Vec<Completion>]) -> Predictions {
    let tokens = || groups.iter().map(|g| g.iter().map(|c| c.tokens.as_slice()).collect::<Vec<_>>());
    let mut predictions = tape.predictions(tokens());
    predictions.restrict(prompts.iter().map(|p| p.grammar.as_ref()).zip(tokens())).unwrap();
    predictions
}

/// Words that share beginnings, one of them the beginning of another.
const WORDS: [&str; 5] = ["tea", "teapot", "ten", "a", "kettle"];

impl Fixture {
    fn grammar(&self, words: &[&str]) -> Arc<Grammar> {
        let trie = Arc::new(Trie::new(&self.tokenizer, words).unwrap());
        Arc::new(Grammar::new(&self.tokenizer, vec![trie], "\n").unwrap())
    }

    /// The prompts, every second one with a grammar.
    fn restricted(&self) -> Vec<PromptTokens> {
        let grammar = self.grammar(&WORDS);
        let with = |(i, p)| PromptTokens { grammar: (i % 2 == 0).then(|| grammar.clone()), ..p };
        prompts().into_iter().enumerate().map(with).collect()
    }

    /// The prompts, each with an order of four labels.
    fn ordering(&self) -> Vec<PromptTokens> {
        let labels = Labels::new(&self.tokenizer, &["A", "B", "C", "D"]).unwrap();
        let grammar = Arc::new(Grammar::order(&self.tokenizer, &labels, 4, 4, "\n").unwrap());
        prompts().into_iter().map(|p| PromptTokens { grammar: Some(grammar.clone()), ..p }).collect()
    }

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
    let kinds: [fn(&Fixture) -> Vec<PromptTokens>; 3] = [|_| prompts(), Fixture::restricted, Fixture::ordering];
    for (precision, of) in [Precision::F32, Precision::Auto].into_iter().flat_map(|p| kinds.map(|of| (p, of))) {
        let f = fixture(precision);
        let sampling = SamplingConfig { max_completion_length: 8, temperature: 0.7, ..Default::default() };
        let prompts = of(&f);
        let options =
            GenerateOptions { sampling: &sampling, completions: 2, stop: &[], seed: 11, deadline: Deadline::NONE };
        let (groups, tape) = generate_recorded(&f.decoder, &f.tokenizer, &PREFIX, &prompts, &[], &options).unwrap();
        let tape = tape.unwrap();
        assert_eq!(groups, f.run(&prompts, &sampling, 2, &[]), "recording changes nothing");
        let tokens = || groups.iter().map(|g| g.iter().map(|c| c.tokens.as_slice()).collect::<Vec<_>>());
        let recorded = f.decoder.predicted(&tape, &predictions(&tape, &prompts, &groups), 0.7).unwrap();
        let groups_of: Vec<(&[u32], Vec<&[u32]>)> = prompts.iter().map(|p| p.tokens.as_slice()).zip(tokens()).collect();
        let forced = Tape::of(&f.decoder, &[], &PREFIX, &groups_of).unwrap();
        let again = f.decoder.predicted(&forced, &predictions(&forced, &prompts, &groups), 0.7).unwrap();
        // The last one alone, and a tape of which most is thrown away.
        let mut last = tape.clone();
        last.retain(&f.decoder, &[3]).unwrap();
        assert!(last.rows() < tape.rows() / 2);
        let kept = f.decoder.predicted(&last, &predictions(&last, &prompts[3..], &groups[3..]), 0.7).unwrap();
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
    for prompts in [prompts(), f.restricted()] {
        let (groups, tape) = generate_recorded(&f.decoder, &f.tokenizer, &PREFIX, &prompts, deltas, &options).unwrap();
        let tape = tape.unwrap();
        let predictions = predictions(&tape, &prompts, &groups);
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
            assert!(few > 0 && few < all / 2, "{few} of {all} were recomputed");
            for (kept, again) in kept.iter().zip(&again) {
                let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|v| v * v).sum::<f32>().sqrt();
                let size = norm(&mut again.iter().copied());
                let off = norm(&mut kept.iter().zip(again).map(|(a, b)| a - b));
                assert!(size > 0.0 && off < 0.02 * size, "off by {off} of {size}");
            }
        }
    }
}

#[test]
fn restricted_completions_have_whole_words_of_their_grammar_and_free_ones_beside_them_stay_as_they_are() {
    let f = fixture(Precision::F32);
    let sampling = SamplingConfig { max_completion_length: 12, ..Default::default() };
    let stop = ["\n".to_owned()];
    let (free, restricted) = (f.run(&prompts(), &sampling, 8, &stop), f.run(&f.restricted(), &sampling, 8, &stop));
    let mut ended = [0; 2];
    for (index, (free, restricted)) in free.iter().zip(&restricted).enumerate() {
        if index % 2 == 1 {
            assert_eq!(free, restricted, "what has no grammar is free");
            continue;
        }
        for completion in restricted {
            assert!(completion.text.split(' ').skip(1).all(|word| WORDS.contains(&word)), "{:?}", completion.text);
            let stopped = completion.finish == Finish::Stop;
            assert_eq!(f.tokenizer.decode(&completion.tokens).unwrap().ends_with('\n'), stopped);
            ended[usize::from(stopped)] += 1;
        }
    }
    assert!(ended[0] > 0 && ended[1] > 0, "{ended:?}");
}

/// The log-probability and the entropy of a token, from all logits: exponentials in double precision over those allowed.
fn renormalised(logits: &[f32], temperature: f64, allowed: &[u32], token: u32) -> (f64, f64) {
    let weight = |token: &u32| (f64::from(logits[*token as usize]) / temperature).exp();
    let sum: f64 = allowed.iter().map(weight).sum();
    let entropy = allowed.iter().map(|t| -(weight(t) / sum) * (weight(t) / sum).ln()).sum();
    ((weight(&token) / sum).ln(), entropy)
}

#[test]
fn restricted_probabilities_are_renormalised_ones_at_every_prefix_and_sum_to_one() {
    let f = fixture(Precision::F32);
    let words = ["a", "ab", "b"];
    let grammar = f.grammar(&words);
    // The oracle: what texts of such words look like, and the logits of the whole vocabulary.
    let (mut texts, mut last) = (vec![String::new()], vec![String::new()]);
    for _ in 0..3 {
        last = last.iter().flat_map(|text| words.iter().map(move |word| format!("{text} {word}"))).collect();
        texts.extend(last.iter().cloned());
    }
    let begins = |text: &str| texts.iter().any(|whole| format!("{whole}\n").starts_with(text));
    let encode = |text: &str| f.tokenizer.encode(text, false).unwrap();
    let alphabet: Vec<String> = (32u8..127).chain([b'\n']).map(|byte| char::from(byte).to_string()).collect();
    let next = |text: &str| -> Vec<String> {
        alphabet.iter().map(|c| format!("{text}{c}")).filter(|longer| begins(longer)).collect()
    };
    // Every text of three tokens, and every shorter one that has stopped.
    let (mut all, mut open) = (Vec::new(), vec![String::new()]);
    for _ in 0..3 {
        open = open.iter().flat_map(|text| next(text)).collect();
        all.extend(open.iter().filter(|text| text.ends_with('\n')).cloned());
        open.retain(|text| !text.ends_with('\n'));
    }
    all.extend(open);
    let tokens: Vec<Vec<u32>> = all.iter().map(|text| encode(text)).collect();
    let completions: Vec<&[u32]> = tokens.iter().map(Vec::as_slice).collect();
    let prompt: &[u32] = &[5, 17, 33];
    let tape = Tape::of(&f.decoder, &[], &PREFIX, &[(prompt, completions.clone())]).unwrap();
    let mut restricted = tape.predictions(std::iter::once(completions.clone()));
    restricted.restrict(std::iter::once((Some(&grammar), completions.clone()))).unwrap();
    let mut found = f.decoder.predicted(&tape, &restricted, 0.8).unwrap().into_iter();
    let mut total = 0.0;
    for (text, tokens) in all.iter().zip(&tokens) {
        let mut log_probability = 0.0;
        for at in 0..tokens.len() {
            let mut sequence = [f.host().continuation(Vec::new())];
            let before = [&PREFIX, prompt, &tokens[..at]].concat();
            let hidden = f.host().forward(&before, &mut sequence, &[before.len()], &[], None).unwrap();
            let logits = f.host().logits(&hidden[hidden.len() - f.decoder.config().hidden_size..]);
            let allowed: Vec<u32> = next(&text[..at]).iter().map(|text| encode(text)[at]).collect();
            let (want, entropy) = renormalised(&logits, 0.8, &allowed, tokens[at]);
            let got = found.next().unwrap();
            assert!((f64::from(got.log_probability) - want).abs() < 1e-4, "{text:?} at {at}: {got:?}, not {want}");
            assert!((f64::from(got.entropy) - entropy).abs() < 1e-4);
            log_probability += f64::from(got.log_probability);
        }
        total += log_probability.exp();
    }
    assert!(all.len() == 6 && (total - 1.0).abs() < 1e-5, "{total} over {all:?}");
    // A token that the grammar does not allow has no probability there, and is not passed over.
    let foreign = encode(" c");
    let mut other = Tape::of(&f.decoder, &[], &PREFIX, &[(prompt, vec![&foreign])])
        .unwrap()
        .predictions(std::iter::once(vec![foreign.as_slice()]));
    assert!(other.restrict(std::iter::once((Some(&grammar), vec![foreign.as_slice()]))).is_err());
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
        let prompt = [PromptTokens::free(3, request)];
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
    let passes_of = |tokens: Vec<u32>, grammar: &Option<Arc<Grammar>>| {
        let prompts = [PromptTokens { grammar: grammar.clone(), ..PromptTokens::free(0, tokens) }];
        let call = Call { prefix: &[], prompts: &prompts, deltas: &[], options: &options, tokenizer: &f.tokenizer };
        let (mut completions, passes) = f.host().run(&call, None, None).unwrap();
        (completions.remove(0).remove(0).tokens, passes)
    };
    // An untrained model repeats itself; a request that ends in such a repetition predicts what follows.
    let mut saved = 0;
    for first in 0..40 {
        let (mut request, _) = passes_of(vec![first], &None);
        request.extend(request.clone());
        let (tokens, passes) = passes_of(request, &None);
        assert!(passes < tokens.len(), "the first token comes with the prompt");
        saved += tokens.len() - 1 - passes;
    }
    assert!(saved > 0, "no draft was ever taken");
    println!("{saved} passes saved");
    // A grammar of one word leaves no choice within it.
    let (grammar, mut words) = (Some(f.grammar(&["leavening"])), 0);
    for first in 0..40 {
        let (tokens, passes) = passes_of(vec![first], &grammar);
        words += tokens.len() / 10;
        // Ten tokens take two passes of five, and one more where the word begins.
        assert!(passes <= tokens.len() / 10 * 3 + 1, "{passes} passes for {} tokens", tokens.len());
    }
    assert!(words > 0, "no word was ever written");
}

#[test]
fn drafts_within_a_grammar_change_no_token() {
    let f = fixture(Precision::F32);
    let grammar = f.grammar(&WORDS);
    let mut written = 0;
    for first in 0u32..40 {
        // The request ends as a completion may begin, so that what is looked up is sometimes allowed and sometimes not.
        let mut request = f.tokenizer.encode(" teapot tea\nkettle ten a", false).unwrap();
        request.push(first);
        let prompt = [PromptTokens { grammar: Some(grammar.clone()), ..PromptTokens::free(first.into(), request) }];
        for sampling in [SamplingConfig::greedy(24), SamplingConfig { max_completion_length: 24, ..Default::default() }]
        {
            let (drafted, plain) = (f.run(&prompt, &sampling, 1, &[]), f.run(&prompt, &sampling, 3, &[]));
            assert_eq!(drafted[0][0].tokens, plain[0][0].tokens);
            assert_eq!(drafted[0][0].text, plain[0][0].text);
            written += drafted[0][0].tokens.len() - 1;
        }
    }
    assert!(written > 30, "{written} tokens before a stop");
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
        generate(&f.decoder, &f.tokenizer, &shared, &[PromptTokens::free(0, tokens)], &[], &options)
            .unwrap_err()
            .to_string()
    };
    assert!(run(Vec::new()).contains("prompt 0 is empty"));
    let limit = f.decoder.config().max_position_embeddings;
    assert!(run(vec![1; limit]).contains(&format!("context is {limit}")));
}

#[test]
fn sampled_orders_are_permutations_or_their_beginnings_and_the_last_label_costs_no_choice() {
    let f = fixture(Precision::F32);
    let sampling = SamplingConfig { max_completion_length: 9, temperature: 1.5, ..Default::default() };
    let (mut whole, mut cut) = (0, 0);
    for completion in f.run(&f.ordering(), &sampling, 16, &["\n".to_owned()]).into_iter().flatten() {
        let mut labels: Vec<&str> = completion.text.split_whitespace().collect();
        let written = labels.len();
        labels.sort_unstable();
        labels.dedup();
        assert!(labels.len() == written && labels.iter().all(|label| "ABCD".contains(label)), "{:?}", completion.text);
        assert_eq!(completion.finish, Finish::Stop, "nine tokens are enough for all four");
        if written == 4 {
            // Behind the space there is one label left, and behind it the stop.
            assert!(completion.log_probabilities[7..].iter().all(|p| *p == 0.0), "{completion:?}");
            whole += 1;
        } else {
            cut += 1;
        }
    }
    assert!(cut > 0, "{whole} whole ones");
}
