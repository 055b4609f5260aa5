//! Training and measuring from code, without the command line.
//!
//! ```text
//! cargo run --release --example train_in_code                  a tiny model of random weights: seconds, learns nothing
//! cargo run --release --example train_in_code -- MODEL_PATH    a GGUF file or a Hugging Face folder
//! ```

use std::path::PathBuf;
use std::sync::Arc;

use querywright::catalog::{Dataset, demo};
use querywright::evaluate::{Comparison, Evaluation};
use querywright::metrics::Measure;
use querywright::model::Precision;
use querywright::model::{Adapter, Decoder, ModelSource, SamplingConfig};
use querywright::retrieve::Bm25;
use querywright::rewrite::{LanguageModel, PromptEncoder, Prompter};
use querywright::stack::Identity;
use querywright::train::log::{StepMetrics, name};
use querywright::train::{Labelled, Materials, Observer, TrainConfig, Trainer};
use querywright::types::{Observe, Retriever, Rewriter};

/// What a configuration file would say. The prompt is short, because the tiny model reads 512 bytes at most.
const CONFIG: &str = r#"
    [model]
    name = "the model of this example"
    [data]
    name = "demo"
    [retriever.bm25]
    content = "products of a shop"
    [prompt]
    examples = []
    max_request_chars = 200
    [sampling]
    max_completion_length = 8
    [lora]
    r = 4
    [schedule]
    learning_rate = 2e-4
    [train]
    max_steps = 4
    num_generations = 4
    generation_batch_size = 16
    eval_steps = 2
"#;

fn main() -> anyhow::Result<()> {
    let run = tempfile::tempdir()?;
    let mut config = TrainConfig::parse(CONFIG, &[], "the configuration of this example")?;
    config.train.output_dir = run.path().join("run");

    // The environment: what is searched, and what searches it.
    let shop = demo::demo(demo::SEED)?;
    let bm25 = Arc::new(Bm25::in_memory(shop.catalog.clone(), config.retriever.bm25.clone())?);

    // The policy: a model, and the prompts that are made for this retriever.
    let tiny = || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/tiny-qwen3"));
    let source = ModelSource::open(&std::env::args_os().nth(1).map_or_else(tiny, PathBuf::from))?;
    let decoder = Arc::new(Decoder::load(&source, Precision::Auto, &())?);
    let tokenizer = source.tokenizer()?;
    let prompter = Prompter::new(config.prompt.clone(), bm25.card())?;
    let encoder = Arc::new(PromptEncoder::new(prompter, tokenizer.clone())?);

    let materials = Materials {
        model_name: source.name(),
        decoder: decoder.clone(),
        tokenizer: tokenizer.clone(),
        encoder: encoder.clone(),
        retriever: bm25.clone(),
        catalog: shop.catalog.clone(),
        train: labelled(&shop, &config.data.train, 64)?,
        dev: labelled(&shop, &config.data.dev, 16)?,
        model_digest: source.digest()?,
    };
    let outcome = Trainer::new(&config, &materials, false, &mut Print)?.run(&mut Print)?;
    println!("best on the development queries: {:.4} after step {}\n", outcome.best_dev, outcome.best_step);

    // Requests that were neither learned from nor chosen on.
    let mut queries = shop.judged("test")?;
    queries.truncate(32);
    let rewriter = |name: &str, adapter: Option<Adapter>| {
        let greedy = SamplingConfig::greedy(config.sampling.max_completion_length);
        LanguageModel::new(name, decoder.clone(), tokenizer.clone(), encoder.clone(), adapter, greedy)
    };
    let adapter = Adapter::load(&outcome.adapter, decoder.config())?;
    let rewriters: [Box<dyn Rewriter>; 3] =
        [Box::new(Identity), Box::new(rewriter("zero-shot", None)?), Box::new(rewriter("trained", Some(adapter))?)];
    let measures: [Measure; 1] = ["nDCG@10".parse()?];
    let evaluation = Evaluation { catalog: &shop.catalog, queries: &queries, measures: &measures, batch: 32 };
    let mut systems = Vec::new();
    for rewriter in &rewriters {
        systems.push(evaluation.run(rewriter.as_ref(), bm25.as_ref(), &())?.system);
    }
    println!("{}", Comparison::of(&systems, "trained")?.text());
    Ok(())
}

/// The first queries of a split with their judgements.
fn labelled(dataset: &Dataset, split: &str, most: usize) -> querywright::Result<Vec<Labelled>> {
    let queries = dataset.judged(split)?.into_iter().take(most);
    Ok(queries.map(|(query, judgements)| (query.clone(), judgements.clone())).collect())
}

/// Watches the run.
struct Print;

impl Observe for Print {
    fn note(&self, text: &str) {
        println!("{text}");
    }
}

impl Observer for Print {
    fn step(&mut self, metrics: &StepMetrics, max_steps: u64) {
        let value = |name: &str| metrics.get(name).unwrap_or(f64::NAN);
        println!(
            "step {}/{max_steps}: reward {:.3}, entropy {:.2}, {:.2} s",
            metrics.step,
            value(name::REWARD),
            value(name::ENTROPY),
            value(name::STEP_TIME)
        );
    }

    fn evaluated(&mut self, step: u64, score: f64, best: bool) {
        println!("after step {step}: {score:.4}{}", if best { ", the best so far" } else { "" });
    }

    fn resumed(&mut self, step: u64) {
        println!("continuing after step {step}");
    }
}
