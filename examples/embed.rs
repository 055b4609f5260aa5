//! A rewriter in front of a search engine: the entry point of the library.
//!
//! ```text
//! cargo run --release --example embed                      the model as it came
//! cargo run --release --example embed -- runs/demo/best    with the adapter that `querywright demo` trained
//! ```

use std::path::PathBuf;
use std::time::Duration;

use querywright::catalog::demo;
use querywright::retrieve::{Bm25, Bm25Config};
use querywright::rewrite::LanguageModel;
use querywright::sources::{self, PullOptions};
use querywright::types::Retriever;
use querywright::{Error, Result, Stack};

fn main() -> Result<()> {
    let shop = demo::demo(demo::SEED)?;
    let settings = Bm25Config { content: "products of a shop".into(), ..Bm25Config::default() };
    let bm25 = Bm25::in_memory(shop.catalog.clone(), settings)?;
    let model = match model() {
        Err(error @ Error::Fetch { .. }) => {
            println!("there is no model to show: {error}");
            return Ok(());
        }
        found => found?,
    };
    let adapter = std::env::args_os().nth(1).map(PathBuf::from);
    let rewriter = LanguageModel::open(&model, adapter.as_deref(), bm25.card())?;
    let stack = Stack::builder()
        .catalog(shop.catalog)
        .retriever(bm25)
        .rewriter(rewriter)
        .deadline(Duration::from_secs(2))
        .build()?;
    // A rewrite that fails or comes late costs quality, never an answer: the trace says what happened.
    let answer = stack.search("cold air creeps in under the front door", 5)?;
    for hit in &answer.hits {
        println!("{:8.3}  {}", hit.score, hit.title);
    }
    println!("{:#?}", answer.trace);
    Ok(())
}

/// A small pretrained model; under `QUERYWRIGHT_SMALL` one of random weights that needs no network.
fn model() -> Result<PathBuf> {
    if std::env::var_os("QUERYWRIGHT_SMALL").is_some() {
        return Ok(PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/tiny-qwen3")));
    }
    sources::model("smollm2-135m", &PullOptions::default())
}
