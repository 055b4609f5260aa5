//! What the end-to-end tests share: a model of a few thousand parameters, a shop of a few products, and the program.
#![allow(dead_code, reason = "every suite is a program of its own and takes what it needs")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use querywright::catalog::Dataset;
use querywright::model::Precision;
use querywright::model::{Decoder, ModelSource};
use querywright::retrieve::Bm25;
use querywright::rewrite::{PromptEncoder, Prompter};
use querywright::train::log::StepMetrics;
use querywright::train::{Labelled, Materials, Observer, TrainConfig};
use querywright::types::{Observe, Retriever};

/// A random Qwen3 with two layers, a vocabulary of bytes and a context of 512 tokens.
pub const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/tiny-qwen3");
/// The same as a GGUF file.
pub const GGUF: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/tiny-qwen3.gguf");

/// A product and a need that shares no word with it.
const SHOP: [(&str, &str); 16] = [
    ("kettle steel", "boil water for tea"),
    ("blanket wool", "cold feet at night"),
    ("ladder folding", "reach the top shelf"),
    ("lantern solar", "see in the dark"),
    ("whisk balloon", "beat eggs fast"),
    ("hammock cotton", "nap between two trees"),
    ("stapler heavy", "keep pages together"),
    ("drill cordless", "make a hole anywhere"),
    ("curtain blackout", "morning sun wakes me"),
    ("scale digital", "how much flour is it"),
    ("leash padded", "my pet runs away"),
    ("cooler wheeled", "drinks stay cool outside"),
    ("tripod carbon", "blurry pictures"),
    ("mop spin", "dirty floor quick"),
    ("helmet bicycle", "stay safe on wheels"),
    ("tent dome", "sleep outdoors dry"),
];

/// Writes the shop as a data folder: 9 requests to learn from, 4 to choose by, 3 to test on.
pub fn write_shop(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    let lines = |line: &dyn Fn(usize, &str, &str) -> String| -> String {
        SHOP.iter().enumerate().map(|(i, (product, need))| line(i, product, need) + "\n").collect()
    };
    let corpus = lines(&|i, product, _| format!(r#"{{"id": "d{i}", "title": "{product}", "text": "{product} item"}}"#));
    fs::write(folder.join("corpus.jsonl"), corpus).unwrap();
    fs::write(folder.join("queries.jsonl"), lines(&|i, _, need| format!(r#"{{"id": "q{i}", "text": "{need}"}}"#)))
        .unwrap();
    fs::write(folder.join("qrels.tsv"), lines(&|i, _, _| format!("q{i}\t0\td{i}\t1"))).unwrap();
    for (split, range) in [("train", 0..9), ("dev", 9..13), ("test", 13..16)] {
        fs::write(folder.join(format!("{split}.txt")), range.map(|i| format!("q{i}\n")).collect::<String>()).unwrap();
    }
}

/// A shop whose products are named in their titles, while their texts name others.
pub fn write_misleading_shop(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    let names: Vec<String> =
        (0..45).map(|n| format!("item{}", char::from(b'a' + n % 26).to_string().repeat(1 + n as usize / 26))).collect();
    let of = |line: &dyn Fn(usize) -> String| (0..45).map(line).collect::<Vec<_>>().concat();
    let text = |n: usize| (1..4).map(|step| format!("{0} {0}", names[(n + step) % 45])).collect::<Vec<_>>().join(" ");
    let corpus =
        of(&|n| format!("{{\"id\": \"d{n}\", \"title\": \"{}\", \"text\": \"like {}\"}}\n", names[n], text(n)));
    let queries = of(&|n| format!("{{\"id\": \"q{n}\", \"text\": \"{}\"}}\n", names[n]));
    let qrels = of(&|n| format!("q{n} 0 d{n} 1\n"));
    let split = |part: std::ops::Range<usize>| part.map(|n| format!("q{n}\n")).collect::<String>();
    for (name, text) in [
        ("corpus.jsonl", corpus),
        ("queries.jsonl", queries),
        ("qrels.tsv", qrels),
        ("train.txt", split(0..33)),
        ("dev.txt", split(33..39)),
        ("test.txt", split(39..45)),
    ] {
        fs::write(folder.join(name), text).unwrap();
    }
}

/// A run of the tiny model with every feature of the trainer switched on, over a shop that lies in `data`.
pub fn config_text(data: &Path, run: &Path, max_steps: u64) -> String {
    format!(
        "[model]\nname = {model:?}\nprecision = \"f32\"\n[data]\nname = {data:?}\n[prompt]\nexamples = []\n\
         [lora]\nr = 4\n[sampling]\nmax_completion_length = 20\n[loss]\nbeta = 0.02\nentropy_coef = 0.01\n\
         [entropy]\nentropy_target = 8.0\n[schedule]\nlearning_rate = 3e-3\n[curriculum]\nresample_rounds = 2\n\
         [train]\noutput_dir = {run:?}\nmax_steps = {max_steps}\nnum_generations = 4\ngeneration_batch_size = 8\n\
         term_credit_coef = 0.5\nrepair_groups = true\neval_steps = 2\nsave_steps = 1\n",
        model = MODEL,
    )
}

/// The same, parsed.
pub fn config(data: &Path, run: &Path, max_steps: u64) -> TrainConfig {
    TrainConfig::parse(&config_text(data, run, max_steps), &[], "test").unwrap()
}

/// The judged queries of a split.
pub fn labelled(dataset: &Dataset, split: &str) -> Vec<Labelled> {
    dataset.judged(split).unwrap().into_iter().map(|(query, judgements)| (query.clone(), judgements.clone())).collect()
}

/// What a run needs, with BM25 as the environment.
pub fn materials(config: &TrainConfig, data: &Path) -> Materials {
    materials_with(config, data, |bm25| Arc::new(bm25))
}

/// What a run needs, with an environment made from BM25.
pub fn materials_with(
    config: &TrainConfig,
    data: &Path,
    environment: impl FnOnce(Bm25) -> Arc<dyn Retriever>,
) -> Materials {
    let dataset = Dataset::open(data).unwrap();
    let retriever = environment(Bm25::in_memory(dataset.catalog.clone(), config.retriever.bm25.clone()).unwrap());
    let source = ModelSource::open(Path::new(MODEL)).unwrap();
    let tokenizer = source.tokenizer().unwrap();
    let prompter = Prompter::new(config.prompt.clone(), retriever.card()).unwrap();
    Materials {
        model_name: "tiny".into(),
        decoder: Arc::new(Decoder::load(&source, Precision::F32, &()).unwrap()),
        tokenizer: tokenizer.clone(),
        encoder: Arc::new(PromptEncoder::new(prompter, tokenizer).unwrap()),
        retriever,
        train: labelled(&dataset, "train"),
        dev: labelled(&dataset, "dev"),
        catalog: dataset.catalog,
        model_digest: source.digest().unwrap(),
    }
}

/// Remembers what a run reported.
#[derive(Default)]
pub struct Watched {
    pub steps: Vec<StepMetrics>,
    pub resumed: Option<u64>,
    /// Breaks the run off, as a crash would, when this step was logged and not yet saved.
    pub crash_at: Option<u64>,
}

impl Observe for Watched {}

impl Observer for Watched {
    fn step(&mut self, metrics: &StepMetrics, _: u64) {
        self.steps.push(metrics.clone());
        if self.crash_at == Some(metrics.step) {
            std::panic::resume_unwind(Box::new("the test's crash"));
        }
    }

    fn evaluated(&mut self, _: u64, _: f64, _: bool) {}

    fn resumed(&mut self, step: u64) {
        self.resumed = Some(step);
    }
}

/// The program, with caches that are empty and no way to the network.
pub fn program(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_querywright"));
    command
        .current_dir(home)
        .env("QUERYWRIGHT_CACHE", home.join("cache"))
        .env("HF_HOME", home.join("hf"))
        .env("HF_HUB_OFFLINE", "1")
        .env_remove("HF_HUB_CACHE");
    command
}

/// Runs the program to its end.
pub fn run(home: &Path, arguments: &[&str]) -> Output {
    program(home).args(arguments).output().unwrap()
}

/// Runs the program, which must succeed; what it printed.
pub fn ok(home: &Path, arguments: &[&str]) -> String {
    let output = run(home, arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "querywright {}: {said}", arguments.join(" "));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs the program, which must succeed and print one JSON value.
pub fn json(home: &Path, arguments: &[&str]) -> serde_json::Value {
    let text = ok(home, arguments);
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("querywright {}: {e}: {text}", arguments.join(" ")))
}

/// The names in a folder, sorted.
pub fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Copies a folder with all that is in it.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for name in names(from) {
        let (from, to): (PathBuf, PathBuf) = (from.join(&name), to.join(&name));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(&from, &to).unwrap();
        }
    }
}
