//! The model on a GPU against the model on the processor: the same numbers, gradients and completions. The device is an
//! emulation on the processor, or the machine's own (`QUERYWRIGHT_GPU=1`).
#![cfg(feature = "cuda")]

mod emulator;
#[path = "device/products.rs"]
mod products;
#[path = "device/restricted.rs"]
mod restricted;
mod tiny;
#[path = "device/training.rs"]
mod training;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use querywright::model::Precision;
use querywright::types::Deadline;
use querywright_model::{
    Adapter, Completion, Decoder, DeviceChoice, GenerateOptions, LoraConfig, ModelConfig, ModelSource, Objective,
    PromptTokens, SamplingConfig, Tape, generate, prefix,
};

/// The emulated device runs one thing at a time.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> Option<MutexGuard<'static, ()>> {
    let guard = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    emulator::device().then_some(guard)
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)
}

/// A model on both.
struct Pair {
    source: ModelSource,
    host: Decoder,
    device: Decoder,
}

fn pair(name: &str, precision: Precision) -> Pair {
    pair_of(ModelSource::open(&golden(name)).unwrap(), precision)
}

fn pair_of(source: ModelSource, precision: Precision) -> Pair {
    let host = Decoder::load(&source, precision, &()).unwrap();
    let device = Decoder::load_on(DeviceChoice::Cuda(0), &source, precision, &()).unwrap();
    assert!(device.device().unwrap().is_some() && host.device().unwrap().is_none());
    Pair { source, host, device }
}

/// An adapter whose two factors both do something.
fn adapter(decoder: &Decoder, config: LoraConfig, seed: u64) -> Adapter {
    let mut adapter = Adapter::new(decoder.config(), config, seed).unwrap();
    let mut values: Vec<Vec<f32>> = adapter.parameters().map(|(_, factor)| factor.values().to_vec()).collect();
    for (i, (name, factor)) in adapter.parameters().enumerate() {
        if name.contains("lora_B") {
            let mut state = seed.wrapping_add(i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
            let mut next = || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
            };
            values[i] = factor.values().iter().map(|_| 0.2 * next()).collect();
        }
    }
    adapter.set(values.into_iter()).unwrap();
    adapter
}

const PREFIX: [u32; 5] = [7, 99, 14, 3, 60];

/// Prompts with completions of different lengths, one of them of a single token, and more rows than a tile has.
fn groups() -> Vec<(Vec<u32>, Vec<Vec<u32>>)> {
    let tokens = |seed: u32, count: usize| (0..count as u32).map(|i| (seed * 31 + i * 17 + i * i) % 250).collect();
    vec![
        (tokens(1, 3), vec![tokens(2, 4), tokens(3, 1), tokens(4, 9)]),
        (tokens(5, 41), vec![tokens(6, 37), tokens(7, 2)]),
        (tokens(8, 1), vec![tokens(9, 12), tokens(10, 5), tokens(11, 6), tokens(12, 3)]),
    ]
}

fn borrowed(groups: &[(Vec<u32>, Vec<Vec<u32>>)]) -> Vec<(&[u32], Vec<&[u32]>)> {
    groups.iter().map(|(p, c)| (p.as_slice(), c.iter().map(Vec::as_slice).collect())).collect()
}

/// The largest difference of two lists, relative to the root mean square of the second.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let size = (b.iter().map(|v| v * v).sum::<f32>() / b.len().max(1) as f32).sqrt();
    assert!(a.iter().all(|v| v.is_finite()), "not finite");
    let off = (a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f32>() / b.len().max(1) as f32).sqrt();
    off / size.max(1e-12)
}

/// Log-probabilities, entropies and gradients of one objective on a decoder.
fn learned(decoder: &Decoder, adapter: &Adapter, shared: &[u32]) -> (Vec<f32>, Vec<f32>, Vec<Vec<f32>>) {
    learned_from(decoder, adapter, shared, &groups())
}

fn learned_from(
    decoder: &Decoder,
    adapter: &Adapter,
    shared: &[u32],
    groups: &[(Vec<u32>, Vec<Vec<u32>>)],
) -> (Vec<f32>, Vec<f32>, Vec<Vec<f32>>) {
    let tape = Tape::of(decoder, adapter.deltas(), shared, &borrowed(groups)).unwrap();
    let predictions = tape.predictions(borrowed(groups).into_iter().map(|g| g.1));
    let numbers = decoder.predicted(&tape, &predictions, 0.8).unwrap();
    let weights: Vec<(f32, f32)> =
        (0..numbers.len()).map(|i| (((i * 7) % 5) as f32 - 2.0, 0.1 * (i % 3) as f32)).collect();
    let mut gradients = decoder.zero_gradients(adapter.deltas()).unwrap();
    let objective = Objective { predictions: &predictions, temperature: 0.8, weights: &weights, sampled: &[] };
    let formed = decoder.backward(&tape, objective, adapter.deltas(), &mut gradients).unwrap();
    for ((formed, number), weight) in formed.iter().zip(&numbers).zip(&weights) {
        assert_eq!(formed.is_some(), *weight != (0.0, 0.0));
        let gap = formed.map_or(0.0, |f| (f.log_probability - number.log_probability).abs());
        assert!(gap < 1e-4, "both passes say the same: {gap}");
    }
    let logp = numbers.iter().map(|n| n.log_probability).collect();
    (logp, numbers.iter().map(|n| n.entropy).collect(), gradients.read(adapter).unwrap())
}

#[test]
fn numbers_and_gradients_are_those_of_the_processor() {
    let Some(_turn) = turn() else { return };
    for (precision, tolerance) in [(Precision::F32, 1e-4), (Precision::Bf16, 3e-2)] {
        for (name, r, modules) in [
            ("tiny-llama", 3, "all-linear"),
            ("tiny-qwen2", 8, "all-linear"),
            ("tiny-qwen3", 5, "all-linear"),
            ("tiny-qwen3", 16, "v_proj"),
            ("tiny-llama", 2, "down_proj"),
        ] {
            let pair = pair(name, precision);
            let config = LoraConfig { r, lora_alpha: 2.0 * r as f32, target_modules: vec![modules.into()] };
            let adapter = adapter(&pair.host, config, 3);
            for shared in [&PREFIX[..], &[]] {
                let (logp, entropy, gradients) = learned(&pair.host, &adapter, shared);
                let (logp_on_device, entropy_on_device, gradients_on_device) = learned(&pair.device, &adapter, shared);
                let what = format!("{name}, rank {r} on {modules}, {precision:?}");
                let off = distance(&logp_on_device, &logp);
                assert!(off < tolerance, "{what}: log-probabilities are off by {off}");
                let off = distance(&entropy_on_device, &entropy);
                assert!(off < tolerance, "{what}: entropies are off by {off}");
                let worst = gradients_on_device.iter().zip(&gradients).map(|(a, b)| distance(a, b)).fold(0.0, f32::max);
                // A device keeps gradients of activations in bf16, too, not the factors of products alone as the processor does.
                assert!(worst < 3.0 * tolerance, "{what}: gradients are off by {worst}");
                println!(
                    "{what}: log-probabilities within {:.1e}, gradients within {worst:.1e}",
                    distance(&logp_on_device, &logp)
                );
            }
        }
    }
}

#[test]
fn results_do_not_depend_on_the_order_of_threads() {
    let Some(_turn) = turn() else { return };
    // The emulated device runs the threads of a block in another order from launch to launch; a real one as it likes.
    for precision in [Precision::F32, Precision::Bf16] {
        let pair = pair("tiny-qwen3", precision);
        let adapter = adapter(&pair.host, LoraConfig { r: 4, ..LoraConfig::default() }, 4);
        let first = learned(&pair.device, &adapter, &PREFIX);
        for _ in 0..3 {
            assert_eq!(learned(&pair.device, &adapter, &PREFIX), first, "to the bit");
        }
    }
}

#[test]
fn attention_takes_heads_of_every_width_and_sharing() {
    let Some(_turn) = turn() else { return };
    // (values of a head, query heads, key heads): the widest, one that fills no tile of 16, one that no vector of 16 bytes
    // divides, and as many queries to a key as there may be.
    for (dim, queries, keys, family) in
        [(128, 2, 1, "qwen2"), (80, 2, 2, "llama"), (18, 4, 2, "qwen3"), (16, 16, 1, "qwen3"), (64, 8, 1, "qwen2")]
    {
        let text = format!(
            r#"{{"model_type": "{family}", "vocab_size": 300, "hidden_size": 48, "intermediate_size": 40,
                "num_hidden_layers": 2, "num_attention_heads": {queries}, "num_key_value_heads": {keys},
                "head_dim": {dim}, "max_position_embeddings": 512, "tie_word_embeddings": false}}"#
        );
        let config = ModelConfig::from_json(Path::new("config.json"), &text).unwrap();
        let mut single = 0.0;
        for (precision, tolerance) in [(Precision::F32, 1e-4), (Precision::Bf16, 3e-2)] {
            let pair = pair_of(ModelSource::random(config.clone(), 5), precision);
            let adapter = adapter(&pair.host, LoraConfig { r: 3, ..LoraConfig::default() }, 8);
            let (logp, _, gradients) = learned(&pair.host, &adapter, &PREFIX);
            let (logp_on_device, _, gradients_on_device) = learned(&pair.device, &adapter, &PREFIX);
            let what = format!("{queries} heads of {dim} over {keys}, {precision:?}");
            assert!(distance(&logp_on_device, &logp) < tolerance, "{what}: {}", distance(&logp_on_device, &logp));
            let off = distance(&gradients_on_device.concat(), &gradients.concat());
            println!(
                "{what}: log-probabilities within {:.1e}, gradients within {off:.1e}",
                distance(&logp_on_device, &logp)
            );
            // A device keeps gradients of activations in bf16, too, not the factors of products alone as the processor does.
            // Where rounding is amplified, as by norms of narrow heads, it is so in both formats: bf16's is 2^16 times larger.
            let most = f32::max(3.0 * tolerance, if precision == Precision::Bf16 { 65_536.0 * single } else { 0.0 });
            assert!(off < most, "{what}: gradients are off by {off}");
            single = off;
            // A decoding step reads its keys by other kernels, row by row or prompt by prompt: a sampled token has the
            // probability that a pass gives it.
            for completions in [2, 7] {
                let gap = sampler_and_trainer(&pair.device, &adapter, completions);
                assert!(gap < tolerance, "{what}, {completions} completions: sampler and trainer differ by {gap}");
            }
        }
    }
}

/// How far the log-probabilities of sampled tokens are from those of a pass over them, at most.
fn sampler_and_trainer(decoder: &Decoder, adapter: &Adapter, completions: usize) -> f32 {
    let tokenizer = ModelSource::open(&golden("tiny-qwen3")).unwrap().tokenizer().unwrap();
    let sampling = SamplingConfig { max_completion_length: 6, ..SamplingConfig::default() };
    let options = GenerateOptions { sampling: &sampling, completions, stop: &[], seed: 5, deadline: Deadline::NONE };
    let prompts: Vec<PromptTokens> =
        groups().into_iter().enumerate().map(|(i, (tokens, _))| PromptTokens::free(i as u64, tokens)).collect();
    let deltas = adapter.deltas();
    let shared = prefix(decoder, &PREFIX, deltas).unwrap();
    let sampled = generate(decoder, &tokenizer, &shared, &prompts, deltas, &options).unwrap();
    let forced: Vec<(&[u32], Vec<&[u32]>)> = prompts
        .iter()
        .zip(&sampled)
        .map(|(p, group)| (p.tokens.as_slice(), group.iter().map(|c| c.tokens.as_slice()).collect()))
        .collect();
    let tape = Tape::of(decoder, deltas, &PREFIX, &forced).unwrap();
    let predictions = tape.predictions(forced.into_iter().map(|g| g.1));
    let again = decoder.predicted(&tape, &predictions, 1.0).unwrap();
    let said = sampled.iter().flatten().flat_map(|c| &c.log_probabilities);
    said.zip(&again).map(|(said, again)| (said - again.log_probability).abs()).fold(0.0, f32::max)
}

#[test]
fn the_pretrained_model_gives_the_same_numbers_on_a_gpu() {
    let Some(_turn) = turn() else { return };
    if !emulator::real() && std::env::var_os("QUERYWRIGHT_SLOW").is_none() {
        querywright_testing::skipped("an emulated device takes a minute for it: set QUERYWRIGHT_SLOW=1");
        return;
    }
    let Some(path) = querywright_testing::model() else { return };
    let pair = pair_of(ModelSource::open(&path).unwrap(), Precision::Bf16);
    let adapter = adapter(&pair.host, LoraConfig::default(), 8);
    let (logp, entropy, gradients) = learned(&pair.host, &adapter, &[]);
    let (logp_on_device, entropy_on_device, gradients_on_device) = learned(&pair.device, &adapter, &[]);
    println!("log-probabilities within {:.1e}", distance(&logp_on_device, &logp));
    assert!(distance(&logp_on_device, &logp) < 2e-2 && distance(&entropy_on_device, &entropy) < 2e-2);
    let off = distance(&gradients_on_device.concat(), &gradients.concat());
    println!("gradients within {off:.1e}");
    assert!(off < 0.1, "gradients are off by {off}");
}

/// The same completions, and the same numbers within rounding.
fn assert_alike(host: &[Vec<Completion>], device: &[Vec<Completion>]) {
    assert_eq!(host.iter().map(Vec::len).collect::<Vec<_>>(), device.iter().map(Vec::len).collect::<Vec<_>>());
    for (host, device) in host.iter().flatten().zip(device.iter().flatten()) {
        assert_eq!((&device.tokens, &device.text, device.finish), (&host.tokens, &host.text, host.finish));
        for (a, b) in device.log_probabilities.iter().zip(&host.log_probabilities) {
            assert!((a - b).abs() < 1e-3, "{a} is not {b}");
        }
        for (a, b) in device.entropies.iter().zip(&host.entropies) {
            assert!((a - b).abs() < 1e-3, "{a} is not {b}");
        }
    }
}

#[test]
fn the_same_seeds_give_the_same_completions_as_on_the_processor() {
    let Some(_turn) = turn() else { return };
    let pair = pair("tiny-qwen3", Precision::F32);
    let tokenizer = pair.source.tokenizer().unwrap();
    let adapter = adapter(&pair.host, LoraConfig { r: 4, ..LoraConfig::default() }, 9);
    let prompts: Vec<PromptTokens> =
        groups().into_iter().enumerate().map(|(i, (tokens, _))| PromptTokens::free(70 + i as u64, tokens)).collect();
    let plain = SamplingConfig { max_completion_length: 13, temperature: 0.9, ..SamplingConfig::default() };
    for (sampling, deltas) in [
        (plain.clone(), adapter.deltas()),
        (plain.clone(), &[][..]),
        (SamplingConfig::greedy(7), adapter.deltas()),
        (SamplingConfig { top_k: 20, top_p: 0.9, repetition_penalty: 1.1, ..plain.clone() }, adapter.deltas()),
        (SamplingConfig { max_completion_length: 1, ..plain.clone() }, adapter.deltas()),
    ] {
        let stop = ["q".to_owned()];
        let options =
            GenerateOptions { sampling: &sampling, completions: 3, stop: &stop, seed: 11, deadline: Deadline::NONE };
        let run = |decoder: &Decoder| {
            let shared = prefix(decoder, &PREFIX, deltas).unwrap();
            generate(decoder, &tokenizer, &shared, &prompts, deltas, &options).unwrap()
        };
        let (host, device) = (run(&pair.host), run(&pair.device));
        assert_eq!(device.len(), prompts.len());
        assert_alike(&host, &device);
        // Again, with what the first call left: the prefix, the buffers, the graphs.
        assert_eq!(run(&pair.device), device);
    }
}

#[test]
fn a_device_with_little_memory_computes_blocks_again_and_prompts_in_parts() {
    let Some(_turn) = turn() else { return };
    if emulator::real() {
        querywright_testing::skipped("a real device has the memory that it has");
        return;
    }
    let pair = pair("tiny-qwen3", Precision::F32);
    let adapter = adapter(&pair.host, LoraConfig { r: 4, ..LoraConfig::default() }, 2);
    let peak = |decoder: &Decoder| decoder.device().unwrap().unwrap().peak;
    let six: Vec<_> = (0..6).flat_map(|_| groups()).collect();
    let (logp, _, gradients) = learned_from(&pair.device, &adapter, &PREFIX, &six);
    let roomy_learning = peak(&pair.device);
    let tokenizer = pair.source.tokenizer().unwrap();
    let prompts: Vec<PromptTokens> = (0..40).map(|i| PromptTokens::free(i, vec![i as u32 + 1; 20])).collect();
    let sampling = SamplingConfig { max_completion_length: 40, ..SamplingConfig::default() };
    let options = GenerateOptions { sampling: &sampling, completions: 4, stop: &[], seed: 1, deadline: Deadline::NONE };
    let shared = prefix(&pair.device, &PREFIX, adapter.deltas()).unwrap();
    let run = |decoder: &Decoder| generate(decoder, &tokenizer, &shared, &prompts, adapter.deltas(), &options).unwrap();
    let together = run(&pair.device);
    let roomy = peak(&pair.device);

    let used = |decoder: &Decoder| {
        let info = decoder.device().unwrap().unwrap();
        info.total - info.free
    };
    let small = Decoder::load_on(DeviceChoice::Cuda(0), &pair.source, Precision::F32, &()).unwrap();
    emulator::limit(used(&small).div_ceil(1 << 20) + 5);
    let again = run(&small);
    println!("generation: {} bytes with room, {} without", roomy, peak(&small));
    assert!(peak(&small) < roomy / 2, "prompts went in parts");
    for (a, b) in together.iter().flatten().zip(again.iter().flatten()) {
        assert_eq!(a.tokens, b.tokens);
    }
    emulator::limit(2048);
    let tight = Decoder::load_on(DeviceChoice::Cuda(0), &pair.source, Precision::F32, &()).unwrap();
    emulator::limit(used(&tight).div_ceil(1 << 20) + 10);
    let (logp_again, _, gradients_again) = learned_from(&tight, &adapter, &PREFIX, &six);
    println!("learning: {} bytes with room, {} without", roomy_learning, peak(&tight));
    assert!(peak(&tight) * 5 < roomy_learning * 4, "blocks were computed again");
    emulator::limit(2048);
    assert!(distance(&logp_again, &logp) < 1e-6);
    for (a, b) in gradients_again.iter().zip(&gradients) {
        assert!(distance(a, b) < 1e-6, "what is computed again is the same");
    }
    // And with less than anything needs: an error with sizes, and the decoder still works.
    emulator::limit(used(&small).div_ceil(1 << 20));
    let many: Vec<_> = (0..30).flat_map(|_| groups()).collect();
    let large = Tape::of(&small, adapter.deltas(), &vec![3; 400], &borrowed(&many)).unwrap();
    let predictions = large.predictions(borrowed(&many).into_iter().map(|g| g.1));
    let error = small.predicted(&large, &predictions, 1.0).unwrap_err().to_string();
    emulator::limit(2048);
    assert!(error.starts_with("device cuda:0: out of memory: ") && error.contains("MiB are free; free "), "{error}");
    assert_eq!(small.predicted(&large, &predictions, 1.0).unwrap().len(), predictions.rows.len());
}

#[test]
fn what_cannot_run_on_a_gpu_is_refused_with_what_would() {
    let Some(_turn) = turn() else { return };
    let source = ModelSource::open(&golden("tiny-qwen3")).unwrap();
    let load = |choice, precision| Decoder::load_on(choice, &source, precision, &());
    let error = load(DeviceChoice::Cuda(99), Precision::Auto).unwrap_err().to_string();
    assert!(error.starts_with("device cuda:99: cannot be opened") && error.contains("--device cpu"), "{error}");
    let error = load(DeviceChoice::Cuda(0), Precision::Int8).unwrap_err().to_string();
    assert!(error.contains("int8 on cuda:0") && error.contains("device cpu"), "{error}");
    assert!(
        load(DeviceChoice::Auto, Precision::Int8).unwrap().device().unwrap().is_none(),
        "8 bits run on the processor"
    );
    assert!(load(DeviceChoice::Auto, Precision::Auto).unwrap().device().unwrap().is_some(), "the device is there");
    if !emulator::real() {
        emulator::limit(20);
        assert!(
            load(DeviceChoice::Auto, Precision::Auto).unwrap().device().unwrap().is_none(),
            "and is too small by now"
        );
        emulator::limit(2048);
    }
    let decoder = load(DeviceChoice::Cuda(0), Precision::Auto).unwrap();
    let wrong = [(&[5u32, 70_000][..], vec![&[1u32, 2][..]])];
    assert!(Tape::of(&decoder, &[], &[], &wrong).unwrap_err().to_string().contains("token 70000 lies outside"));
    let long = vec![1u32; 600];
    let wrong = [(&long[..], vec![&[1u32, 2][..]])];
    assert!(Tape::of(&decoder, &[], &[], &wrong).unwrap_err().to_string().contains("outside the model's context"));
    let host = load(DeviceChoice::Cpu, Precision::Auto).unwrap();
    let tape = Tape::of(&host, &[], &[], &borrowed(&groups())).unwrap();
    let predictions = tape.predictions(borrowed(&groups()).into_iter().map(|g| g.1));
    assert!(decoder.predicted(&tape, &predictions, 1.0).unwrap_err().to_string().contains("another device"));
}
