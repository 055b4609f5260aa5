//! Training learns what the environment rewards, and nothing from an environment that failed.

mod tiny;

use std::path::Path;
use std::sync::Arc;

use querywright::error::{Fault, FaultKind};
use querywright::plugin::{Metering, Plugin, PluginOptions};
use querywright::retrieve::Bm25;
use querywright::train::log::{CompletionRecord, CompletionsLog, StepMetrics, name};
use querywright::train::{Materials, Outcome, TrainConfig, Trainer};
use querywright::types::{Deadline, Hit, Judgements, Ranking, Request, Retriever, RetrieverCard};
use tiny::Watched;

/// The smallest run: no feature but GRPO itself.
fn config(data: &Path, run: &Path, settings: &str) -> TrainConfig {
    let text = format!(
        "[model]\nname = {model:?}\n[data]\nname = {data:?}\n[prompt]\nexamples = []\nmode = \"rewrite\"\n\
         [lora]\nr = 8\n[sampling]\nmax_completion_length = 8\n[curriculum]\nresample_rounds = 0\n\
         [schedule]\nlearning_rate = 1e-2\nlr_scheduler_type = \"constant\"\n[train]\noutput_dir = {run:?}\n{settings}",
        model = tiny::MODEL,
    );
    TrainConfig::parse(&text, &[], "test").unwrap()
}

/// Trains from nothing.
fn train(config: &TrainConfig, materials: &Materials) -> (Outcome, Vec<StepMetrics>) {
    let mut watched = Watched::default();
    let outcome = Trainer::new(config, materials, false, &mut watched).unwrap().run(&mut watched).unwrap();
    (outcome, watched.steps)
}

/// Ranks the first item the higher the more vowels the text has: something that can be learned, and that the random
/// model does not do.
struct LikesVowels(RetrieverCard);

impl Retriever for LikesVowels {
    fn card(&self) -> &RetrieverCard {
        &self.0
    }

    fn retrieve(&self, requests: &[Request], _: Deadline) -> Vec<Result<Ranking, Fault>> {
        let answer = |request: &Request| {
            let missing = 6 - request.text.chars().filter(|c| "aeiou".contains(*c)).count().min(6) as u32;
            let docs = (1..=missing).chain([0]);
            Ok(Ranking { hits: docs.enumerate().map(|(rank, doc)| Hit { doc, score: -(rank as f32) }).collect() })
        };
        requests.iter().map(answer).collect()
    }
}

#[test]
fn the_mean_reward_rises_on_what_the_environment_likes() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("shop");
    tiny::write_shop(&data);
    let settings = "max_steps = 30\nnum_generations = 8\ngeneration_batch_size = 64\neval_steps = 0\nsave_steps = 0\n";
    let rewards = |run: &str| {
        let config = config(&data, &home.path().join(run), settings);
        let likes_vowels = |bm25: Bm25| Arc::new(LikesVowels(bm25.card().clone())) as Arc<dyn Retriever>;
        let mut materials = tiny::materials_with(&config, &data, likes_vowels);
        for (_, judgements) in materials.train.iter_mut().chain(&mut materials.dev) {
            *judgements = Judgements::new(vec![(0, 1)]);
        }
        let steps = train(&config, &materials).1;
        steps.iter().map(|m| m.get(name::REWARD).unwrap()).collect::<Vec<_>>()
    };
    let first = rewards("first");
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    let (before, after) = (mean(&first[..5]), mean(&first[first.len() - 5..]));
    assert!(after > before + 0.2, "the mean reward went from {before:.3} to {after:.3}: {first:.2?}");
    assert_eq!(rewards("second"), first, "the same seed learns the same way");
}

#[test]
fn a_plugin_metered_by_fuel_gives_the_rewards_of_the_native_retriever_every_time() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("shop");
    tiny::write_shop(&data);
    let component = concat!(env!("CARGO_MANIFEST_DIR"), "/../../plugins/bm25/dist/bm25.wasm");
    let run = |name: &str, plugin: bool| {
        let mut config = tiny::config(&data, &home.path().join(name), 4);
        // With little weight on the user's words, what the model adds decides the ranking.
        config.prompt.original_weight = 0.01;
        config.train.generation_batch_size = 32;
        let materials = tiny::materials_with(&config, &data, |bm25| {
            if !plugin {
                return Arc::new(bm25) as Arc<dyn Retriever>;
            }
            let options = PluginOptions { metering: Metering::Fuel, ..PluginOptions::default() };
            let plugin = Plugin::open(Path::new(component), bm25.catalog(), options).unwrap();
            // The prompt is made from the card: the same words for both.
            assert_eq!(plugin.card().languages, bm25.card().languages);
            Arc::new(plugin)
        });
        let steps = train(&config, &materials).1;
        let values = |m: &StepMetrics| [name::REWARD, name::LOSS, name::GRAD_NORM].map(|n| m.get(n).unwrap());
        steps.iter().map(values).collect::<Vec<_>>()
    };
    let (first, second, native) = (run("first", true), run("second", true), run("native", false));
    assert_eq!(first, second, "the same seed, the same rewards");
    assert_eq!(first, native);
    assert!(
        first.iter().any(|[reward, ..]| *reward != first[0][0]),
        "rewards that never change prove nothing: {first:?}"
    );
}

#[test]
fn learning_from_recorded_passes_equals_learning_from_teacher_forced_ones() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("shop");
    tiny::write_shop(&data);
    let run = |name: &str, tape_mib: usize| {
        let mut config = tiny::config(&data, &home.path().join(name), 3);
        config.train.tape_mib = tape_mib;
        let materials = tiny::materials(&config, &data);
        train(&config, &materials).1
    };
    let (recorded, teacher_forced) = (run("recorded", 4096), run("teacher-forced", 0));
    for (a, b) in recorded.iter().zip(&teacher_forced) {
        for metric in [name::REWARD, name::LOSS, name::GRAD_NORM, name::ENTROPY, name::KL] {
            let (a, b) = (a.get(metric).unwrap(), b.get(metric).unwrap());
            assert!((a - b).abs() < 1e-3 * (1.0 + b.abs()), "{metric}: {a} recorded, {b} teacher-forced");
        }
        assert!(a.get(name::RECORDED_ROWS) > Some(0.0) && b.get(name::RECORDED_ROWS) == Some(0.0));
        assert_eq!(
            a.get(name::LOGP_DIFFERENCE),
            Some(0.0),
            "the backward pass computes the recorded numbers again to the bit"
        );
    }
}

/// BM25 behind a failing network: every third request fails, however often it is sent.
struct FailingNetwork {
    inner: Bm25,
    fails: fn(&str) -> bool,
}

impl Retriever for FailingNetwork {
    fn card(&self) -> &RetrieverCard {
        self.inner.card()
    }

    fn retrieve(&self, requests: &[Request], _: Deadline) -> Vec<Result<Ranking, Fault>> {
        let one = |request: &Request| {
            if (self.fails)(&request.text) {
                let detail = "connection reset".to_owned();
                return Err(Fault::new("bm25", FaultKind::Network, detail));
            }
            self.inner.search(request)
        };
        requests.iter().map(one).collect()
    }
}

fn records(run: &Path) -> Vec<CompletionRecord> {
    CompletionsLog::read(run.join("completions.jsonl")).unwrap()
}

#[test]
fn a_fault_of_the_environment_is_counted_and_never_a_reward() {
    let home = tempfile::tempdir().unwrap();
    let (data, run) = (home.path().join("shop"), home.path().join("run"));
    tiny::write_shop(&data);
    let settings = "max_steps = 4\nnum_generations = 8\ngeneration_batch_size = 32\neval_steps = 0\nretries = 1\n";
    let config = config(&data, &run, settings);
    let fails = |text: &str| text.bytes().map(usize::from).sum::<usize>().is_multiple_of(3);
    let (outcome, steps) =
        train(&config, &tiny::materials_with(&config, &data, |inner| Arc::new(FailingNetwork { inner, fails })));
    assert_eq!(outcome.steps, 4, "training goes on");
    let records = records(&run);
    assert_eq!(records.len(), 4 * 32);
    let mut dropped = 0;
    for record in &records {
        match &record.rewrite {
            Some(rewrite) if fails(rewrite) => {
                dropped += 1;
                assert_eq!((record.reward, record.advantage), (None, 0.0), "{record:?}");
            }
            _ => assert!(record.reward.is_some(), "{record:?}"),
        }
    }
    assert!(dropped > 8, "the test must meet failures: {dropped}");
    // Equal requests are sent once, so there are at most as many faults as dropped samples.
    let counted: f64 = steps.iter().map(|m| m.get(name::FAULTS).unwrap()).sum();
    assert!(counted > 0.0 && counted <= dropped as f64, "{counted} faults for {dropped} dropped samples");
    // Missing rewards do not enter the mean, not even as zeros.
    for metrics in &steps {
        let there: Vec<f32> = records.iter().filter(|r| r.step == metrics.step).filter_map(|r| r.reward).collect();
        let mean = there.iter().sum::<f32>() / there.len() as f32;
        assert!((metrics.get(name::REWARD).unwrap() - f64::from(mean)).abs() < 1e-5, "step {}", metrics.step);
    }
}

#[test]
fn an_environment_that_is_down_changes_no_weight_and_ends_no_run() {
    let home = tempfile::tempdir().unwrap();
    let (data, run) = (home.path().join("shop"), home.path().join("run"));
    tiny::write_shop(&data);
    // Without a format penalty: a broken answer needs no environment, and would be a reward.
    let settings = "max_steps = 2\nnum_generations = 4\ngeneration_batch_size = 8\nretries = 2\n\
                    [reward]\nformat_penalty = 0.0\n";
    let config = config(&data, &run, settings);
    let (outcome, steps) = train(
        &config,
        &tiny::materials_with(&config, &data, |inner| Arc::new(FailingNetwork { inner, fails: |_| true })),
    );
    assert_eq!(outcome.steps, 2);
    for metrics in &steps {
        assert!(metrics.get(name::FAULTS).unwrap() > 0.0);
        assert_eq!(metrics.get(name::GRAD_NORM), Some(0.0), "nothing was learned: {metrics:?}");
    }
    assert!(records(&run).iter().all(|r| r.advantage == 0.0));
}

/// Fails every request the first time that it is sent.
struct FailsOnce {
    inner: Bm25,
    seen: std::sync::Mutex<std::collections::HashSet<String>>,
}

impl Retriever for FailsOnce {
    fn card(&self) -> &RetrieverCard {
        self.inner.card()
    }

    fn retrieve(&self, requests: &[Request], _: Deadline) -> Vec<Result<Ranking, Fault>> {
        let mut seen = self.seen.lock().unwrap();
        let mut one = |request: &Request| match seen.insert(request.text.clone()) {
            true => Err(Fault::new("bm25", FaultKind::Timeout, "busy")),
            false => self.inner.search(request),
        };
        requests.iter().map(&mut one).collect()
    }
}

#[test]
fn a_request_that_succeeds_when_sent_again_is_rewarded() {
    let home = tempfile::tempdir().unwrap();
    let (data, run) = (home.path().join("shop"), home.path().join("run"));
    tiny::write_shop(&data);
    let settings = "max_steps = 2\nnum_generations = 4\ngeneration_batch_size = 8\neval_steps = 0\nretries = 1\n";
    let config = config(&data, &run, settings);
    let fails_once = |inner| Arc::new(FailsOnce { inner, seen: Default::default() }) as Arc<dyn Retriever>;
    let (_, steps) = train(&config, &tiny::materials_with(&config, &data, fails_once));
    assert!(steps.iter().all(|m| m.get(name::FAULTS) == Some(0.0)));
    assert!(records(&run).iter().all(|r| r.reward.is_some()));
}

#[test]
fn an_adapter_of_several_retrievers_is_measured_and_shipped_in_front_of_each() {
    let home = tempfile::tempdir().unwrap();
    tiny::write_shop(&home.path().join("shop"));
    let text = tiny::config_text(&home.path().join("shop"), &home.path().join("run"), 2);
    std::fs::write(home.path().join("run.toml"), text).unwrap();
    let also = "retriever.also=[{bm25={language=\"boolean\"}}]";
    let told = tiny::json(home.path(), &["train", "run.toml", "--set", also, "--json"]);
    assert_eq!(told["also"].as_array().map(Vec::len), Some(1));
    for (told, folder) in [(&told, "run"), (&told["also"][0], "run/retriever-2")] {
        let folder = home.path().join(folder);
        let names = tiny::names(&folder.join("best"));
        for file in ["adapter_config.json", "adapter_model.safetensors", "prompt.toml", "rewriter.toml"] {
            assert!(names.iter().any(|name| name == file), "{file} in {names:?}");
        }
        assert!(folder.join("report/index.html").is_file());
        assert!(told["shipped"]["sentence"].is_string() && told["comparison"]["measures"].is_array(), "{told}");
    }
    // What was tuned for each stands in the run's configuration, which gives the same run again.
    let config = TrainConfig::read(&home.path().join("run/config.toml"), &[]).unwrap();
    assert_eq!(config.retriever.also.len(), 1);
    tiny::ok(home.path(), &["train", "run/config.toml", "--output-dir", "same", "--no-eval"]);
    let completions = |run: &str| std::fs::read_to_string(home.path().join(run).join("completions.jsonl")).unwrap();
    assert!(completions("same") == completions("run"));
    let eval = ["eval", "--data", "shop", "--retriever", "bm25:language=boolean", "--json", "--rewriter"];
    let served = tiny::json(home.path(), &[&eval[..], &["run/retriever-2/best"]].concat());
    assert!(served["measures"]["nDCG@10"].is_number(), "{served}");
    let printed = tiny::ok(home.path(), &["train", "run.toml", "--set", also, "--output-dir", "again"]);
    assert_eq!(printed.matches("report: ").count(), 2, "{printed}");
}
