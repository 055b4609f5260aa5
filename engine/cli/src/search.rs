//! `search`: one query through the whole stack.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use querywright::stack::Stack;
use querywright::types::{Query, Request, Rewrite};

use crate::grant::Grants;
use crate::open;

/// Search a data set.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  querywright search --data demo 'cold air creeps in under the front door'
  querywright search --data demo --rewriter smollm2-135m+runs/demo/best --explain 'cold air creeps in under the front door'
  echo '{\"query\": \"cold feet in bed\"}' | querywright search --data demo")]
pub struct Args {
    /// The query; without one, JSON lines are served: {"query": "…", "k": 10} in, an answer a line out
    query: Option<String>,
    /// A data folder, a registry name, or demo
    #[arg(long, default_value = "demo")]
    data: String,
    /// bm25, with settings behind a colon (bm25:k1=0.9,b=0.4), or a plugin's .wasm file
    #[arg(long, default_value = "bm25")]
    retriever: String,
    /// identity, rm3, a model's name or path, or MODEL+ADAPTER_DIR
    #[arg(long, default_value = "identity")]
    rewriter: String,
    #[command(flatten)]
    weights: open::Weights,
    /// Hits at most
    #[arg(short, long, default_value_t = 10)]
    k: usize,
    /// Milliseconds that the rewrite may take; after that the query is searched for as it is
    #[arg(long, value_name = "MS")]
    deadline: Option<u64>,
    /// Show what each term adds to each hit's score
    #[arg(long)]
    explain: bool,
    /// Keep the index in this folder and open it again next time
    #[arg(long, value_name = "DIR")]
    index: Option<PathBuf>,
    #[command(flatten)]
    grants: Grants,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    let dataset = open::dataset(&args.data)?;
    let ranker = open::retriever(&args.retriever, &dataset.catalog, args.index.as_deref(), &args.grants)?;
    let rewriter = open::rewriter(&args.rewriter, &ranker, None, &args.weights)?;
    let mut builder = Stack::builder()
        .catalog(dataset.catalog.clone())
        .shared_retriever(ranker.retriever.clone())
        .shared_rewriter(rewriter.into());
    if let Some(ms) = args.deadline {
        builder = builder.deadline(Duration::from_millis(ms));
    }
    let stack = builder.build()?;
    let Some(query) = &args.query else {
        if args.explain {
            let remedy = "give a query, or leave the option out to serve lines";
            return Err(querywright::Error::argument("--explain", "there is no query", remedy).into());
        }
        crate::serve::json_lines(&stack, args.k, std::io::stdin().lock(), std::io::stdout().lock())?;
        return Ok(());
    };
    let answer = stack.search(query, args.k)?;
    let request = Request::new(&Query::text(query), &answer.trace.searched, args.k);
    let mut explanations = Vec::new();
    if args.explain {
        let Some(index) = &ranker.bm25 else {
            let remedy = "leave the option out, or search with bm25";
            return Err(
                querywright::Error::argument("--explain", "a plugin does not explain its scores", remedy).into()
            );
        };
        for hit in &answer.hits {
            if let Some(document) = dataset.catalog.ordinal(&hit.id) {
                explanations.push(index.explain(&request, document)?);
            }
        }
    }
    if args.json {
        let object = serde_json::json!({ "answer": answer, "explanations": args.explain.then_some(&explanations) });
        say!("{}", serde_json::to_string(&object)?);
        return Ok(());
    }
    let Rewrite { text, .. } = &answer.trace.searched;
    say!(
        "searched for: {text}  ({:?}, {:.1} ms + {:.1} ms)",
        answer.trace.outcome,
        answer.trace.rewrite_ms,
        answer.trace.retrieve_ms
    );
    for (rank, hit) in answer.hits.iter().enumerate() {
        say!("{:>3}  {:8.4}  {}  {}", rank + 1, hit.score, hit.id, hit.title);
        if let Some(explanation) = explanations.get(rank) {
            for line in explanation.to_string().lines().skip(1) {
                say!("       {line}");
            }
        }
    }
    if answer.hits.is_empty() {
        say!("no document matches");
    }
    Ok(())
}
