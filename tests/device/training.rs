//! Runs and updates on a device against those on the processor.

use std::path::{Path, PathBuf};

use querywright::model::{Decoder, LoraConfig, ModelSource, Precision};
use querywright_train::learner::{Learner, LearnerConfig, Rollout, RolloutBatch, Sample};
use querywright_train::loss::LossConfig;
use querywright_train::optimizer::{AdamW, AdamWConfig};

use super::{PREFIX, adapter, distance, emulator, golden, groups, learned, pair, pair_of, tiny, turn};

/// The program on the emulated device.
fn program(home: &Path) -> std::process::Command {
    let mut command = tiny::program(home);
    if let Some(program) = std::env::var_os("QUERYWRIGHT_PROGRAM") {
        // On a machine to which this program was copied.
        let copied = std::process::Command::new(program);
        let settings: Vec<_> = command.get_envs().map(|(k, v)| (k.to_owned(), v.map(ToOwned::to_owned))).collect();
        command = copied;
        command.current_dir(home);
        for (name, value) in settings {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
    }
    if !emulator::real()
        && let Ok(folder) = emulator::folder()
    {
        command.env("LD_LIBRARY_PATH", folder);
    }
    command
}

fn steps(run: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines.filter(|line| line.get("loss").is_some()).collect()
}

/// Trains the tiny model on a device, three steps, with the data folder `shop`.
fn trained(home: &Path, device: &str, further: &[&str]) -> PathBuf {
    let (data, config, folder) = (home.join("shop"), home.join("run.toml"), home.join(device.replace(':', "-")));
    std::fs::write(&config, tiny::config_text(&data, &folder, 3)).unwrap();
    let output = program(home)
        .args(["train", config.to_str().unwrap(), "--no-eval", "--device", device])
        .args(further)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert_eq!(said.contains("the model runs on a GPU"), device != "cpu", "{said}");
    folder
}

/// The steps of a run on the processor and of one on a device, which say the same.
fn compared(home: &Path, further: &[&str]) -> (Vec<serde_json::Value>, PathBuf) {
    let (host_run, device_run) = (trained(home, "cpu", further), trained(home, "cuda:0", further));
    let (host_steps, device_steps) = (steps(&host_run), steps(&device_run));
    assert_eq!((host_steps.len(), device_steps.len()), (3, 3));
    for (host, device) in host_steps.iter().zip(&device_steps) {
        for key in ["reward", "loss", "entropy", "grad_norm", "kl", "completions/mean_length"] {
            let number = |step: &serde_json::Value| step[key].as_f64().unwrap();
            let (a, b) = (number(device), number(host));
            assert!((a - b).abs() <= 1e-3 * b.abs().max(0.01), "{key}: {a} on the device, {b} on the host");
        }
        let gap = device["sampling/sampling_logp_difference/mean"].as_f64().unwrap();
        assert!(gap < 1e-4, "sampler and trainer differ by {gap}");
    }
    (device_steps, device_run)
}

#[test]
fn a_run_whose_answers_are_restricted_learns_on_a_gpu_as_on_the_processor() {
    let Some(_turn) = turn() else { return };
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("shop");
    tiny::write_shop(&data);
    // Each request names two products, so that a choice among its words decides: without a difference of rewards in
    // the first step the update would be rounding alone, which AdamW makes as large as any.
    let corpus = std::fs::read_to_string(data.join("corpus.jsonl")).unwrap();
    let products: Vec<serde_json::Value> = corpus.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let query = |(n, product): (usize, &serde_json::Value)| {
        let other = &products[(n + 1) % products.len()];
        let text = format!("{} {}", other["title"].as_str().unwrap(), product["title"].as_str().unwrap());
        format!("{}\n", serde_json::json!({ "id": format!("q{n}"), "text": text }))
    };
    std::fs::write(data.join("queries.jsonl"), products.iter().enumerate().map(query).collect::<String>()).unwrap();
    let (steps, _) = compared(home.path(), &["--set", "prompt.vocabulary=feedback"]);
    let reward = |step: &serde_json::Value| step["reward_std"].as_f64().unwrap();
    assert!(reward(&steps[0]) > 0.1, "the first step learns from rewards: {steps:?}");
    // Free answers have an entropy of about 5 nats a token here.
    assert!(steps.iter().all(|step| step["entropy"].as_f64().unwrap() < 3.0), "answers were restricted: {steps:?}");
}

#[test]
fn a_run_learns_on_a_gpu_as_on_the_processor_and_resumes_without_one() {
    let Some(_turn) = turn() else { return };
    let home = tempfile::tempdir().unwrap();
    tiny::write_shop(&home.path().join("shop"));
    let (device_steps, device_run) = compared(home.path(), &[]);
    let (data, config) = (home.path().join("shop"), home.path().join("run.toml"));
    // A run that began on a device continues without it: the last step again, from the checkpoint before it.
    std::fs::remove_dir_all(device_run.join("checkpoints/step-00000003")).unwrap();
    std::fs::write(&config, tiny::config_text(&data, &device_run, 3)).unwrap();
    let output = program(home.path())
        .args(["train", config.to_str().unwrap(), "--no-eval", "--resume", "--device", "cpu"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let again = steps(&device_run);
    assert_eq!(again.len(), 3);
    let reward = |step: &serde_json::Value| step["reward"].as_f64().unwrap();
    assert!((reward(&again[2]) - reward(&device_steps[2])).abs() < 1e-3, "the third step is the same again");
}

/// One completion of each prompt better than the one before it; they were not sampled.
fn batch() -> Vec<RolloutBatch> {
    let rollouts = groups().into_iter().map(|(prompt, completions)| {
        let sample = |(i, tokens): (usize, Vec<u32>)| Sample {
            sampled_logp: vec![f32::NAN; tokens.len()],
            sampled_entropy: vec![f32::NAN; tokens.len()],
            tokens,
            advantage: i as f32 - 0.7,
            counterfactual: Default::default(),
            truncated: false,
            dropped: false,
        };
        Rollout { prompt, grammar: None, samples: completions.into_iter().enumerate().map(sample).collect() }
    });
    vec![RolloutBatch { rollouts: rollouts.collect(), tape: None }]
}

#[test]
fn the_optimizer_on_a_gpu_is_that_of_the_processor_and_its_state_comes_back() {
    let Some(_turn) = turn() else { return };
    let pair = pair("tiny-qwen3", Precision::F32);
    let config = LearnerConfig {
        loss: LossConfig::default(),
        temperature: 0.9,
        max_grad_norm: 0.02,
        num_iterations: 1,
        term_credit_coef: 0.0,
        rank_credit: None,
        micro_batch_tokens: Some(100),
    };
    let settings = AdamWConfig { weight_decay: 0.1, ..AdamWConfig::default() };
    let run = |decoder: &Decoder, fetch: bool| {
        let mut adapter = adapter(decoder, LoraConfig { r: 4, ..LoraConfig::default() }, 1);
        let mut optimizer = AdamW::new(settings);
        let mut norms = Vec::new();
        for _ in 0..4 {
            let learner = Learner { decoder, prefix: &PREFIX, config: &config };
            let report = learner.learn(&mut adapter, &mut optimizer, 1e-3, batch()).unwrap();
            assert!(report.rows > 0 && report.skipped_updates == 0);
            norms.push(report.grad_norm as f32);
            if fetch {
                optimizer.fetch().unwrap();
            }
        }
        optimizer.fetch().unwrap();
        let values: Vec<f32> = adapter.parameters().flat_map(|(_, factor)| factor.values().to_vec()).collect();
        let moments: Vec<f32> =
            optimizer.state.moments.values().flat_map(|m| m.m.iter().chain(&m.v).copied()).collect();
        assert_eq!(optimizer.state.step, 4);
        let numbers = learned(decoder, &adapter, &PREFIX);
        if decoder.device().unwrap().is_some() {
            // What the updates left in the layers is what the adapter's values give when they come from the host.
            let fresh = pair_of(ModelSource::open(&golden("tiny-qwen3")).unwrap(), Precision::F32);
            assert_eq!(learned(&fresh.device, &adapter, &PREFIX), numbers, "to the bit");
        }
        (norms, values, moments)
    };
    let host = run(&pair.host, false);
    let (device, fetched) = (run(&pair.device, false), run(&pair.device, true));
    assert!(host.0[0] > config.max_grad_norm as f32, "the gradient is clipped");
    for (name, a, b) in [("norms", &device.0, &host.0), ("values", &device.1, &host.1), ("moments", &device.2, &host.2)]
    {
        assert!(distance(a, b) < 1e-4, "{name} are off by {}", distance(a, b));
    }
    assert_eq!(fetched, device, "bringing the state back changes nothing");
}
