//! A search server of your own: Querywright's routes beside yours, in one process.
//!
//! ```sh
//! cargo run --release --features serve --example search_server
//! curl -d '{"query": "cold feet in bed"}' http://127.0.0.1:8080/v1/search
//! curl http://127.0.0.1:8080/suggest/kettle
//! ```

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::Path as Segment;
use axum::routing::get;
use querywright::catalog::demo;
use querywright::model::{Adapter, Batcher, Decoder, ModelSource, Precision, SamplingConfig, Tokenizer};
use querywright::retrieve::{Bm25, Bm25Config};
use querywright::rewrite::{LanguageModel, PromptConfig, PromptEncoder, Prompter};
use querywright::serve::{AsyncStack, Engine, ServerConfig, Service};
use querywright::sources::{self, PullOptions};
use querywright::stack::{SearchOptions, Stack};
use querywright::types::{Query, Retriever};

const DEADLINE: Duration = Duration::from_millis(500);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let shop = demo::demo(demo::SEED)?;
    let bm25 = Arc::new(Bm25::in_memory(shop.catalog.clone(), Bm25Config::default())?);
    let plain = || Stack::builder().catalog(shop.catalog.clone()).retriever(bm25.clone()).deadline(DEADLINE);
    let mut engine = Engine::new("shop", plain().build()?);
    let mut service = Service::new(ServerConfig::default())?;

    // With a model: its rewrites, and OpenAI's endpoints. Without one the queries are searched for as they come.
    match model() {
        Ok((decoder, tokenizer)) => {
            service = service.model("smollm2-135m", Arc::new(Batcher::new(decoder.clone(), tokenizer.clone(), None)));
            let run = Path::new("runs/demo/best");
            if run.join("adapter_config.json").is_file() {
                let rewriter = rewriter(decoder, tokenizer, run, bm25.as_ref())?;
                engine = engine.rewriter("trained", plain().rewriter(rewriter).cache(10_000).build()?);
            }
        }
        Err(error) => eprintln!("no model: {error}"),
    }

    // A route of our own, over a stack that async code can await.
    let suggestions = AsyncStack::new(plain().build()?, 16);
    let suggest = move |Segment(text): Segment<String>| async move {
        match suggestions.search_with(Query::text(text), SearchOptions::new(3).deadline(DEADLINE)).await {
            Ok(answer) => Json(answer.hits.iter().map(|hit| hit.title.clone()).collect::<Vec<_>>()),
            Err(error) => Json(vec![error.summary().to_owned()]),
        }
    };
    let service = Arc::new(service.engine(engine));
    let router = service.router().route("/suggest/{text}", get(suggest));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
        println!("listening on http://{}", listener.local_addr()?);
        if std::env::var_os("QUERYWRIGHT_SMALL").is_some() {
            return Ok(()); // Continuous integration has seen enough.
        }
        // `Server` bounds connections and drains them at a signal; behind a proxy that does so, this is enough.
        axum::serve(listener, router).await
    })?;
    Ok(())
}

fn model() -> querywright::Result<(Arc<Decoder>, Tokenizer)> {
    let source = ModelSource::open(&sources::model("smollm2-135m", &PullOptions::default())?)?;
    Ok((Arc::new(Decoder::load(&source, Precision::Auto, &())?), source.tokenizer()?))
}

fn rewriter(
    decoder: Arc<Decoder>,
    tokenizer: Tokenizer,
    run: &Path,
    retriever: &Bm25,
) -> querywright::Result<LanguageModel> {
    let prompt = PromptConfig::read(run)?.unwrap_or_default();
    let sampling = SamplingConfig::greedy(prompt.max_answer_tokens);
    let encoder = PromptEncoder::new(Prompter::new(prompt, retriever.card())?, tokenizer.clone())?;
    let adapter = Adapter::load(run, decoder.config())?;
    LanguageModel::new("trained", decoder, tokenizer, Arc::new(encoder), Some(adapter), sampling)
}
