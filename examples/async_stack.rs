//! A stack that async code awaits: many requests at once, each with its own deadline.
//!
//! ```text
//! cargo run --release --features serve --example async_stack                      the model as it came
//! cargo run --release --features serve --example async_stack -- runs/demo/best    with an adapter
//! ```

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use querywright::catalog::demo;
use querywright::retrieve::{Bm25, Bm25Config};
use querywright::rewrite::LanguageModel;
use querywright::serve::AsyncStack;
use querywright::sources::{self, PullOptions};
use querywright::stack::SearchOptions;
use querywright::types::{Retriever, Rewriter};
use querywright::{Error, Stack};

const DEADLINE: Duration = Duration::from_millis(300);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let shop = demo::demo(demo::SEED)?;
    let bm25 = Bm25::in_memory(shop.catalog.clone(), Bm25Config::default())?;
    let mut builder = Stack::builder().catalog(shop.catalog.clone()).deadline(DEADLINE);
    match model() {
        Ok(model) => {
            let adapter = std::env::args_os().nth(1).map(PathBuf::from);
            let rewriter = LanguageModel::open(&model, adapter.as_deref(), bm25.card())?;
            // What all prompts share is computed now and not within the first request's deadline.
            rewriter.warm_up()?;
            builder = builder.rewriter(rewriter);
        }
        Err(error @ Error::Fetch { .. }) => {
            println!("there is no model, queries are searched for as they come: {error}")
        }
        Err(error) => return Err(error.into()),
    }
    let stack = AsyncStack::new(builder.retriever(bm25).build()?, 64);

    let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build()?;
    runtime.block_on(async {
        // A request every ten milliseconds, whatever became of those before it.
        let mut under_way = tokio::task::JoinSet::new();
        for query in shop.split("test")?.into_iter().take(100).cloned() {
            let stack = stack.clone();
            under_way.spawn(async move {
                let asked = Instant::now();
                let answer = stack.search_with(query, SearchOptions::new(10).deadline(DEADLINE)).await;
                (asked.elapsed(), answer)
            });
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let (mut latest, mut outcomes) = (Duration::ZERO, BTreeMap::new());
        while let Some(done) = under_way.join_next().await {
            let (took, answer) = done?;
            let outcome = answer?.trace.outcome;
            let reason = outcome.fallback().map(|why| format!(" ({})", why.code())).unwrap_or_default();
            *outcomes.entry(format!("{}{reason}", outcome.kind())).or_insert(0) += 1;
            latest = latest.max(took);
        }
        println!("{outcomes:?}; the latest answer came after {latest:?} of {DEADLINE:?}");
        Ok::<(), Box<dyn std::error::Error>>(())
    })
}

/// A small pretrained model; under `QUERYWRIGHT_SMALL` one of random weights that needs no network.
fn model() -> querywright::Result<PathBuf> {
    if std::env::var_os("QUERYWRIGHT_SMALL").is_some() {
        return Ok(PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/tiny-qwen3")));
    }
    sources::model("smollm2-135m", &PullOptions::default())
}
