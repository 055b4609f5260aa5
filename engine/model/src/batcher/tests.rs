use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;

use super::*;
use crate::completion::Finish;
use crate::generate::{generate, prefix};
use crate::grammar::{Grammar, Trie};
use crate::source::ModelSource;
use querywright_kernels::Precision;

fn batcher() -> Batcher {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tiny-qwen3");
    let source = ModelSource::open(&path).unwrap();
    let decoder = Decoder::load(&source, Precision::Bf16, &()).unwrap();
    Batcher::new(Arc::new(decoder), source.tokenizer().unwrap(), None)
}

fn sampled(tokens: usize) -> SamplingConfig {
    SamplingConfig { temperature: 1.5, ..SamplingConfig::greedy(tokens) }
}

/// Requests of many shapes: lengths, settings, with and without a prefix and a grammar.
fn requests(batcher: &Batcher, shared: &Prefix) -> Vec<CompletionRequest> {
    let trie = Arc::new(Trie::new(batcher.tokenizer(), &["tea", "teapot", "ten", "a", "kettle"]).unwrap());
    let grammar = Arc::new(Grammar::new(batcher.tokenizer(), vec![trie], "\n").unwrap());
    let request = |n: u64| {
        let tokens = (0..1 + n * 7 % 23).map(|i| ((n * 31 + i * 17) % 200) as u32).collect();
        let mut prompt = PromptTokens::free(n, tokens);
        prompt.grammar = (n.is_multiple_of(3)).then(|| grammar.clone());
        let length = 1 + (n * 5 % 19) as usize;
        let sampling = if n.is_multiple_of(2) { sampled(length) } else { SamplingConfig::greedy(length) };
        let prefix = if n.is_multiple_of(4) { Prefix::NONE } else { shared.clone() };
        CompletionRequest { seed: n % 2, ..CompletionRequest::new(prefix, prompt, sampling) }
    };
    (0..24).map(request).collect()
}

fn alone(batcher: &Batcher, request: &CompletionRequest) -> Completion {
    let CompletionRequest { prefix, prompt, sampling, stop, seed, .. } = request;
    let options = GenerateOptions { sampling, completions: 1, stop, seed: *seed, deadline: Deadline::NONE };
    let prompts = std::slice::from_ref(prompt);
    generate(batcher.decoder(), batcher.tokenizer(), prefix, prompts, &[], &options).unwrap().remove(0).remove(0)
}

#[test]
fn whoever_shares_its_passes_gets_the_completion_that_it_would_get_alone() {
    let batcher = batcher();
    let shared = prefix(batcher.decoder(), &[7, 99, 14, 3, 60], &[]).unwrap();
    let requests = requests(&batcher, &shared);
    let right: Vec<Completion> = requests.iter().map(|request| alone(&batcher, request)).collect();
    let together = batcher.complete(requests.clone());
    assert_eq!(together.into_iter().map(Result::unwrap).collect::<Vec<_>>(), right);
    let load = batcher.load();
    assert!(load.passes[5] > 0 && load.passes[6] == 0, "24 of them: {load:?}");
    assert!(load.steps >= load.passes.iter().sum());
    // Threads come and go: each asks several times, so that requests join and leave batches of every size.
    std::thread::scope(|scope| {
        for (place, (request, right)) in requests.iter().zip(&right).enumerate() {
            let batcher = &batcher;
            scope.spawn(move || {
                for _ in 0..3 + place % 3 {
                    let made = batcher.complete(vec![request.clone()]).remove(0).unwrap();
                    assert_eq!(&made, right, "request {place}");
                }
            });
        }
    });
    assert_eq!((batcher.load().waiting, batcher.load().running), (0, 0));
}

#[test]
fn a_long_prompt_is_read_in_chunks_and_its_completion_depends_on_nobody() {
    let batcher = batcher();
    let limit = batcher.decoder().config().max_position_embeddings;
    let long = |n: u32| {
        let tokens = (0..limit as u32 - 20).map(|i| (i * 13 + n) % 200).collect();
        CompletionRequest::new(Prefix::NONE, PromptTokens::free(0, tokens), SamplingConfig::greedy(12))
    };
    let first = batcher.complete(vec![long(1)]).remove(0).unwrap();
    let others = requests(&batcher, &Prefix::NONE);
    let all = others.iter().take(5).cloned().chain([long(1), long(2)]).chain(others.iter().skip(5).cloned());
    let together: Vec<_> = batcher.complete(all.collect()).into_iter().map(Result::unwrap).collect();
    assert_eq!(together[5], first);
    assert_eq!(together[4], alone(&batcher, &others[4]));
}

#[test]
fn a_request_that_cannot_be_used_fails_alone() {
    let batcher = batcher();
    let good = requests(&batcher, &Prefix::NONE).swap_remove(1);
    let vocabulary = batcher.decoder().config().vocab_size as u32;
    let mut empty = good.clone();
    empty.prompt.tokens.clear();
    let mut unknown = good.clone();
    unknown.prompt.tokens.push(vocabulary);
    let mut long = good.clone();
    long.sampling.max_completion_length = usize::MAX / 2;
    let mut heated = good.clone();
    heated.sampling.temperature = f32::NAN;
    let made = batcher.complete(vec![empty, good.clone(), unknown, long, heated]);
    assert_eq!(made[1].as_ref().unwrap(), &alone(&batcher, &good));
    let codes: Vec<&str> = made.iter().map(|made| made.as_ref().map_or_else(Error::code, |_| "none")).collect();
    assert_eq!([codes[0], codes[1], codes[3], codes[4]], ["argument", "none", "argument", "argument"]);
    assert_ne!(codes[2], "none");
}

#[test]
fn a_deadline_ends_its_own_request_whoever_leads() {
    let batcher = batcher();
    let mut late = requests(&batcher, &Prefix::NONE).swap_remove(1);
    late.deadline = Deadline::after(Duration::ZERO);
    let made = batcher.complete(vec![late.clone()]).remove(0);
    assert!(matches!(made, Err(Error::Deadline(_))));
    // While somebody else leads, whose observer holds every pass.
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = seen.clone();
    let mut slow = late.clone();
    slow.deadline = Deadline::NONE;
    slow.sampling = SamplingConfig { temperature: 1.5, ..SamplingConfig::greedy(200) };
    slow.observer = Some(Arc::new(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(20));
        true
    }));
    std::thread::scope(|scope| {
        let leader = scope.spawn(|| batcher.complete(vec![slow]).remove(0).unwrap());
        while seen.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        late.deadline = Deadline::after(Duration::from_millis(30));
        late.sampling = SamplingConfig { temperature: 1.5, ..SamplingConfig::greedy(40) };
        match batcher.complete(vec![late]).remove(0) {
            Ok(completion) => assert_eq!(completion.finish, Finish::Deadline),
            Err(error) => assert!(error.is_deadline()),
        }
        assert!(seen.load(Ordering::SeqCst) < 150, "the answer came with the deadline");
        assert_ne!(leader.join().unwrap().finish, Finish::Deadline);
    });
}

#[test]
fn an_observer_sees_tokens_as_they_come_ends_what_it_does_not_want_and_one_that_panics_breaks_nothing_for_long() {
    let batcher = batcher();
    let request = |observer: TokenObserver| CompletionRequest {
        observer: Some(observer),
        ..CompletionRequest::new(Prefix::NONE, PromptTokens::free(3, vec![5, 17, 33]), sampled(16))
    };
    let seen = Arc::new(Mutex::new(Vec::new()));
    let told = seen.clone();
    let whole = batcher.complete(vec![request(Arc::new(move |tokens| {
        told.lock().unwrap().push(tokens.to_vec());
        true
    }))]);
    let whole = whole[0].as_ref().unwrap();
    let seen = seen.lock().unwrap();
    assert!(seen.iter().all(|tokens| whole.tokens.starts_with(tokens)) && seen.last() == Some(&whole.tokens));
    assert!(seen.len() > 1);

    let gone = batcher.complete(vec![request(Arc::new(|tokens| tokens.len() < 2))]).remove(0);
    assert!(gone.unwrap_err().to_string().contains("observer"));
    assert_eq!((batcher.load().waiting, batcher.load().running), (0, 0));

    let broken = std::panic::AssertUnwindSafe(|| batcher.complete(vec![request(Arc::new(|_| panic!("on purpose")))]));
    assert!(std::panic::catch_unwind(broken).is_err());
    let again = batcher.complete(vec![request(Arc::new(|_| true))]).remove(0);
    assert_eq!(&again.unwrap(), whole);
}

#[test]
fn a_completion_whose_numbers_end_fails_alone_and_holds_nobody_up() {
    let batcher = batcher();
    let good = requests(&batcher, &Prefix::NONE).swap_remove(1);
    let right = alone(&batcher, &good);
    let mut broken = good.clone();
    // The reciprocal is infinite.
    broken.sampling.temperature = 1e-39;
    for _ in 0..3 {
        let made = batcher.complete(vec![broken.clone(), good.clone(), broken.clone()]);
        assert_eq!(made[1].as_ref().unwrap(), &right);
        assert!(matches!((&made[0], &made[2]), (Err(_), Err(_))), "{made:?}");
        assert_eq!((batcher.load().waiting, batcher.load().running), (0, 0));
    }
}

#[test]
fn a_kept_prompt_gives_the_same_completion_whatever_was_read_before_it_or_beside_it() {
    // Beginnings of no block to all of them, ends of one token to a block, and a prefix of their own for some.
    let prompt = |batcher: &Batcher, shared: &Prefix, (n, begins, length): (u64, usize, usize)| {
        let token = |place: usize| ((place * 13 + if place < begins { 0 } else { 7 * n as usize }) % 200) as u32;
        let prefix = if n.is_multiple_of(3) { shared.clone() } else { Prefix::NONE };
        let tokens = (0..length.min(batcher.decoder().config().max_position_embeddings - 20)).map(token).collect();
        let prompt = PromptTokens::free(n, tokens);
        CompletionRequest { keep_prompt: true, ..CompletionRequest::new(prefix, prompt, sampled(9)) }
    };
    let shapes: [(u64, usize, usize); 14] = [
        (1, 0, 9),
        (11, 20, 16),
        (12, 20, 17),
        (13, 20, 33),
        (14, 40, 50),
        (2, 64, 65),
        (3, 64, 64),
        (4, 64, 128),
        (5, 128, 129),
        (6, 128, 200),
        (7, 200, 256),
        (8, 200, 257),
        (9, 256, 400),
        (10, 256, 400),
    ];
    let fresh = |shape: (u64, usize, usize)| {
        let batcher = batcher();
        let shared = prefix(batcher.decoder(), &[7, 99, 14, 3, 60], &[]).unwrap();
        let request = prompt(&batcher, &shared, shape);
        let right = alone(&batcher, &request);
        let made = batcher.complete(vec![request]).remove(0).unwrap();
        // Blocks are rounded apart, no more: the first token's distribution is nearly that of the whole.
        let apart = |of: fn(&Completion) -> f32| (of(&made) - of(&right)).abs();
        assert!(apart(|c| c.entropies[0]) < 0.05, "{shape:?}: {made:?} {right:?}");
        let same = made.tokens[0] == right.tokens[0];
        assert!(!same || apart(|c| c.log_probabilities[0]) < 0.05, "{shape:?}: {made:?} {right:?}");
        (made, same)
    };
    let (right, same): (Vec<Completion>, Vec<bool>) = shapes.iter().map(|shape| fresh(*shape)).unzip();
    assert!(same.iter().filter(|same| **same).count() >= 12, "{same:?}");
    let batcher = batcher();
    let shared = prefix(batcher.decoder(), &[7, 99, 14, 3, 60], &[]).unwrap();
    let requests: Vec<CompletionRequest> = shapes.iter().map(|shape| prompt(&batcher, &shared, *shape)).collect();
    for round in 0..2 {
        let together = batcher.complete(requests.clone()).into_iter().map(Result::unwrap).collect::<Vec<_>>();
        assert_eq!(together, right, "round {round}");
        for place in [9, 2, 12, 5, 0, 8, 11, 1, 7, 13, 3, 6, 10, 4] {
            let made = batcher.complete(vec![requests[place].clone()]).remove(0).unwrap();
            assert_eq!(made, right[place], "request {place} in round {round}");
        }
    }
}
