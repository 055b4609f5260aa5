//! `rewrite`: queries in, rewrites out.

use std::io::BufRead;

use anyhow::Result;
use querywright::types::{Deadline, Query};

use crate::grant::Grants;
use crate::open;

/// Rewrite queries: those given, or one a line from standard input.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  querywright rewrite --rewriter smollm2-135m+runs/demo/best 'cold air creeps in under the front door'
  querywright rewrite --rewriter rm3 --data demo 'cold feet in bed'
  cat queries.txt | querywright rewrite --rewriter smollm2-135m --json")]
pub struct Args {
    /// The queries
    queries: Vec<String>,
    /// identity, rm3, a model's name or path, or MODEL+ADAPTER_DIR
    #[arg(long, default_value = "smollm2-135m")]
    rewriter: String,
    #[command(flatten)]
    weights: open::Weights,
    /// The data set whose retriever the rewrites are for
    #[arg(long, default_value = "demo")]
    data: String,
    /// The retriever
    #[arg(long, default_value = "bm25")]
    retriever: String,
    #[command(flatten)]
    grants: Grants,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    let dataset = open::dataset(&args.data)?;
    let ranker = open::retriever(&args.retriever, &dataset.catalog, None, &args.grants)?;
    let rewriter = open::rewriter(&args.rewriter, &ranker, None, &args.weights)?;
    let show = |text: &str| -> Result<()> {
        let answer = rewriter.rewrite(&[Query::text(text)], Deadline::NONE).pop();
        let (rewrite, error) = match answer {
            Some(Ok(rewrite)) => (Some(rewrite.text), None),
            Some(Err(error)) => (None, Some(error.to_string())),
            None => (None, Some("no answer".to_owned())),
        };
        if args.json {
            say!("{}", serde_json::json!({ "query": text, "rewrite": rewrite, "error": error }));
        } else {
            say!("{}", rewrite.or_else(|| error.map(|e| format!("{text}  ({e})"))).unwrap_or_default());
        }
        Ok(())
    };
    for query in &args.queries {
        show(query)?;
    }
    if args.queries.is_empty() {
        for line in std::io::stdin().lock().lines() {
            show(line?.trim())?;
        }
    }
    Ok(())
}
