//! Milliseconds of one rewrite in a server: one query at a time, the prompt's shared part cached, 12 tokens (no stop
//! string ends it early), greedy, SmolLM2-135M in bf16 and in 8 bits, over the demonstration's 192 test requests. Prints
//! the median and the 99th percentile of all calls after a warm-up of 16.
//!
//!     cargo bench --bench latency

use std::time::Instant;

use querywright::catalog::demo;
use querywright::model::Precision;
use querywright::model::{GenerateOptions, PromptTokens, SamplingConfig, generate, prefix};
use querywright::retrieve::{Bm25, Bm25Config};
use querywright::rewrite::{PromptEncoder, Prompter};
use querywright::sources::{self, PullOptions};
use querywright::types::{Deadline, Retriever};

fn main() -> anyhow::Result<()> {
    let path = match sources::model("smollm2-135m", &PullOptions::default()) {
        Ok(path) => path,
        Err(error) => {
            println!("skipped: {error}");
            return Ok(());
        }
    };
    let source = querywright::model::ModelSource::open(&path)?;
    let config =
        querywright::train::TrainConfig::parse(include_str!("../examples/configs/demo.toml"), &[], "demo.toml")?;
    let shop = demo::demo(demo::SEED)?;
    let bm25 = Bm25::in_memory(shop.catalog.clone(), Bm25Config::default())?;
    for precision in [Precision::Auto, Precision::Int8] {
        let decoder = querywright::model::Decoder::load(&source, precision, &())?;
        let tokenizer = source.tokenizer()?;
        let prompter = Prompter::new(config.prompt.clone(), bm25.card())?;
        let encoder = PromptEncoder::new(prompter, tokenizer.clone())?;
        let sampling = SamplingConfig::greedy(12);
        let shared = prefix(&decoder, encoder.prefix(), &[])?;
        let options =
            GenerateOptions { sampling: &sampling, completions: 1, stop: &[], seed: 0, deadline: Deadline::NONE };
        let (mut milliseconds, mut tokens) = (Vec::new(), 0);
        for (index, query) in shop.split("test")?.into_iter().enumerate() {
            let start = Instant::now();
            let prompt = [PromptTokens::free(0, encoder.encode(query)?)];
            let completions = generate(&decoder, &tokenizer, &shared, &prompt, &[], &options)?.concat();
            if index >= 16 {
                milliseconds.push(start.elapsed().as_secs_f64() * 1e3);
                tokens += completions.iter().map(|c| c.tokens.len()).sum::<usize>();
            }
        }
        milliseconds.sort_by(f64::total_cmp);
        let at = |share: f64| milliseconds[((milliseconds.len() - 1) as f64 * share).round() as usize];
        println!(
            "{}",
            serde_json::json!({
                "precision": precision, "calls": milliseconds.len(),
                "tokens_a_call": tokens as f64 / milliseconds.len() as f64,
                "p50_ms": at(0.5), "p99_ms": at(0.99), "p99_over_p50": at(0.99) / at(0.5),
            })
        );
    }
    Ok(())
}
