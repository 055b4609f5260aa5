//! The model on a GPU: seconds and throughput of a GRPO step and of decoding, next to the GPU's peak rates, measured in
//! the same call. The weights are random, in the shapes of SmolLM2-135M and Qwen2.5-3B. Each measurement is a line of
//! JSON.
//!
//!     cargo bench --features cuda --bench device -- peaks|step_135m|step_3b|decode_135m|decode_3b|profile_135m|profile_3b
//!         [--streams N,N] [--micro N] [--small]
//!
//! `profile` prints what a decoding step and a GRPO step launch: a line for each operation, with launches and seconds.
//!
//! The step has the shape of `xtask/peers/trl_gpu.py`: 32 prompts of 256 tokens, 12 completions of 128 each, LoRA of rank
//! 16 on all linear layers, bf16. `--small` (or `QUERYWRIGHT_SMALL`) makes it small enough for an emulated device.

use std::time::Instant;

use querywright::model::Precision;
use querywright::model::{Decoder, DeviceChoice, ModelConfig, ModelSource};
use querywright_kernels::device::{Device, Format, Matrix, Profiled};

mod workload;
use workload::{Model, Shape, Step};

const SMOLLM2: &str = r#"{"model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536,
    "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "rms_norm_eps": 1e-5,
    "rope_theta": 100000.0, "max_position_embeddings": 8192, "tie_word_embeddings": true}"#;

const QWEN: &str = r#"{"model_type": "qwen2", "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 11008,
    "num_hidden_layers": 36, "num_attention_heads": 16, "num_key_value_heads": 2, "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0, "max_position_embeddings": 32768, "tie_word_embeddings": true}"#;

const TINY: &str = r#"{"model_type": "qwen2", "vocab_size": 320, "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0, "max_position_embeddings": 512, "tie_word_embeddings": true}"#;

const STEP: Shape = Shape { prompts: 32, completions: 12, length: 128, prompt: 256 };
const SMALL: Shape = Shape { prompts: 2, completions: 3, length: 5, prompt: 20 };

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let small = arguments.iter().any(|w| w == "--small") || std::env::var_os("QUERYWRIGHT_SMALL").is_some();
    let streams = streams(option(&arguments, "--streams"), small)?;
    let micro = option(&arguments, "--micro").map(str::parse).transpose()?;
    let values: Vec<&str> = ["--streams", "--micro"].iter().filter_map(|name| option(&arguments, name)).collect();
    let named = |w: &&str| !w.starts_with("--") && !values.contains(w);
    let names: Vec<&str> = arguments.iter().map(String::as_str).filter(named).collect();
    let info = match Device::open(0).and_then(|device| device.info()) {
        Ok(info) => info,
        Err(error) => {
            println!("skipped: {error}");
            return Ok(());
        }
    };
    println!("{}", serde_json::json!({ "device": info.name, "capability": info.capability, "memory": info.total }));
    let all = ["peaks", "decode_135m", "step_135m", "decode_3b", "step_3b", "profile_135m", "profile_3b"];
    for name in if names.is_empty() { all[..5].to_vec() } else { names } {
        let (text, tokens) = match name.split_once('_') {
            _ if small => (TINY, 64),
            Some((_, "3b")) => (QWEN, 256),
            _ => (SMOLLM2, 256),
        };
        match name.split('_').next() {
            Some("peaks") => peaks(small)?,
            Some("step") => step(name, text, if small { SMALL } else { STEP }, micro)?,
            Some("decode") => {
                for streams in &streams {
                    decode(name, text, *streams, tokens)?;
                }
            }
            Some("profile") => profile(name, text, if small { SMALL } else { STEP }, &streams, micro)?,
            _ => anyhow::bail!("{name} is not measured; there are {}", all.join(", ")),
        }
    }
    Ok(())
}

/// The value behind an option.
fn option<'a>(arguments: &'a [String], name: &str) -> Option<&'a str> {
    arguments.iter().skip_while(|a| *a != name).nth(1).map(String::as_str)
}

/// How many streams decode together.
fn streams(asked: Option<&str>, small: bool) -> anyhow::Result<Vec<usize>> {
    match asked {
        Some(list) => Ok(list.split(',').map(str::parse).collect::<Result<_, _>>()?),
        None if small => Ok(vec![3]),
        None => Ok(vec![1, 64, 384]),
    }
}

/// A model with random weights. The tokenizer of the tests decodes any token.
fn model(text: &str) -> anyhow::Result<(Model, ModelConfig)> {
    let config = ModelConfig::from_json(std::path::Path::new("config.json"), text)?;
    let source = ModelSource::random(config.clone(), 0);
    let decoder = Decoder::load_on(DeviceChoice::Cuda(0), &source, Precision::Bf16, &())?;
    let root = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| ".".into());
    let tokenizer = ModelSource::open(&std::path::Path::new(&root).join("tests/golden/tiny-qwen3"))?.tokenizer()?;
    Ok((Model { decoder, tokenizer }, config))
}

/// Seconds of each of `times` repetitions, after two for warm-up.
fn timed(times: usize, mut work: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<Vec<f64>> {
    work()?;
    work()?;
    let once = |work: &mut dyn FnMut() -> anyhow::Result<()>| {
        let start = Instant::now();
        work()?;
        Ok(start.elapsed().as_secs_f64())
    };
    (0..times).map(|_| once(&mut work)).collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The GPU's peak rates: bf16 products of 8,192 x 8,192 matrices, and copies of 2 GiB (bytes read plus bytes written).
fn peaks(small: bool) -> anyhow::Result<()> {
    let device = Device::open(0)?;
    let n = if small { 64 } else { 8192 };
    // Not zeros: a GPU takes less power for those and runs at a higher clock.
    let values: Vec<f32> = (0..n * n).map(|i: usize| ((i * 7919 + 13) % 1009) as f32 / 504.5 - 1.0).collect();
    let single = device.upload(&values)?;
    let bytes = n * n * 2;
    let (a, b, c) = (device.allocate(bytes)?, device.allocate(bytes)?, device.allocate(bytes)?);
    let matrix = |buffer| Matrix::new(buffer, Format::Bf16, n, n);
    for to in [&a, &b] {
        device.place(Matrix::new(single.view(), Format::F32, n, n), matrix(to.view()), 1.0)?;
    }
    let seconds = median(timed(9, || {
        for _ in 0..10 {
            device.multiply((matrix(a.view()), false), (matrix(b.view()), true), matrix(c.view()), 1.0, 0.0)?;
        }
        Ok(device.synchronize()?)
    })?);
    let teraflops = 10.0 * 2.0 * (n as f64).powi(3) / seconds / 1e12;
    let size = if small { 1 << 16 } else { 2 << 30 };
    let (from, to) = (device.zeros(size)?, device.allocate(size)?);
    let seconds = median(timed(9, || {
        for _ in 0..10 {
            device.copy(to.view(), from.view(), size)?;
        }
        Ok(device.synchronize()?)
    })?);
    let gigabytes = 10.0 * 2.0 * size as f64 / seconds / 1e9;
    println!("{}", serde_json::json!({ "name": "peaks", "bf16_teraflops": teraflops, "copy_gigabytes": gigabytes }));
    Ok(())
}

/// A GRPO step: sampling, forward and backward pass, update.
fn step(name: &str, text: &str, shape: Shape, micro: Option<usize>) -> anyhow::Result<()> {
    let (model, config) = model(text)?;
    let mut step = Step::new(&model)?;
    step.micro_batch_tokens = micro;
    let readings = timed(5, || step.run(shape).map(|_| ()))?;
    let tokens = shape.prompts * (shape.prompt + shape.completions * (shape.length - 1));
    // Two operations a weight in the forward pass, two for the gradients of inputs. The weights are frozen.
    let operations = 4.0 * config.parameters() as f64 * tokens as f64;
    let seconds = median(readings.clone());
    let memory = model.decoder.device()?.map(|info| info.peak);
    println!(
        "{}",
        serde_json::json!({
            "name": name, "unit": "seconds", "readings": readings, "median": seconds, "learned_tokens": tokens,
            "teraflop_of_learning": operations / 1e12, "peak_memory": memory,
        })
    );
    Ok(())
}

/// Tokens a second of `streams` streams after one prompt, and the memory traffic that they need.
fn decode(name: &str, text: &str, streams: usize, tokens: usize) -> anyhow::Result<()> {
    let (model, config) = model(text)?;
    let length = tokens / 2;
    let whole = timed(5, || model.decode(streams, length).map(|_| ()))?;
    let first = timed(5, || model.decode(streams, 1).map(|_| ()))?;
    let seconds = (median(whole) - median(first)) / (length - 1) as f64;
    // A step reads all weights once, and each stream's own keys and values (half of the final number on average).
    let kv = 2 * config.num_hidden_layers * 2 * config.num_key_value_heads * config.head_dim;
    let bytes = 2.0 * config.parameters() as f64 + (streams * length / 2 + 64) as f64 * kv as f64;
    println!(
        "{}",
        serde_json::json!({
            "name": name, "streams": streams, "seconds_a_step": seconds, "tokens_a_second": streams as f64 / seconds,
            "gigabytes_a_second": bytes / seconds / 1e9,
        })
    );
    Ok(())
}

/// What decoding, and the learning part of a step, launch.
fn profile(name: &str, text: &str, shape: Shape, streams: &[usize], micro: Option<usize>) -> anyhow::Result<()> {
    let (model, _) = model(text)?;
    let device = model.decoder.gpu().ok_or_else(|| anyhow::anyhow!("the model is not on a GPU"))?;
    let tell = |phase: &str, steps: usize, seconds: f64, all: Vec<Profiled>| {
        let inside: f64 = all.iter().map(|p| p.seconds).sum();
        let launches: usize = all.iter().map(|p| p.launches).sum();
        println!(
            "{}",
            serde_json::json!({ "name": name, "phase": phase, "steps": steps, "seconds": seconds,
                "seconds_of_operations": inside, "launches": launches })
        );
        for operation in all.iter().take(40) {
            println!("{}", serde_json::json!({ "phase": phase, "operation": operation }));
        }
    };
    for streams in streams {
        const STEPS: usize = 16;
        model.decode(*streams, STEPS)?;
        let start = Instant::now();
        let (_, all) = device.profile(|| Ok(model.decode(*streams, STEPS)))?;
        tell(&format!("decode {streams}"), STEPS, start.elapsed().as_secs_f64(), all);
    }
    let mut step = Step::new(&model)?;
    step.micro_batch_tokens = micro;
    let (groups, prompts) = step.sample(shape)?;
    step.learn(groups, prompts)?;
    let (groups, prompts) = step.sample(shape)?;
    let start = Instant::now();
    let (learned, all) = device.profile(|| Ok(step.learn(groups, prompts)))?;
    learned?;
    tell("learn", 1, start.elapsed().as_secs_f64(), all);
    Ok(())
}
