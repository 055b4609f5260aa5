//! `rewrite`: queries in, rewrites out.

use anyhow::Result;
use querywright::Error;
use querywright::stack::rewrite_one;
use querywright::types::{Deadline, Documents, Kept, Order, Query, Rewrite, Rewriter};

use crate::grant::Grants;
use crate::history::Histories;
use crate::lines::{self, Lines};
use crate::weights::Weights;
use crate::{open, terminal};

/// Rewrite queries: those given, or one a line from standard input.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  querywright rewrite --rewriter smollm2-135m+runs/demo/best 'cold air creeps in under the front door'
  querywright rewrite --rewriter rm3 --data demo 'cold feet in bed'
  cat queries.txt | querywright rewrite --rewriter smollm2-135m --json")]
pub struct Args {
    /// The queries
    queries: Vec<String>,
    /// For next items: the ids of what somebody had before, oldest first, with commas; with one query at most
    #[arg(long, value_name = "IDS")]
    history: Vec<String>,
    /// What was said before in the same conversation; give it again for each turn, oldest first
    #[arg(long = "turn", value_name = "TEXT")]
    turns: Vec<String>,
    /// identity, rm3, hyde, query2doc or rerank (hyde:MODEL), a model's name or path, MODEL+ADAPTER_DIR, or what tune or
    /// train wrote (runs/x/best)
    #[arg(long, default_value = "smollm2-135m")]
    rewriter: String,
    #[command(flatten)]
    weights: Weights,
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
    let dataset = crate::dataset::open(&args.data, false)?;
    let ranker = open::retriever(&args.retriever, &args.rewriter, &dataset, None, &args.grants)?;
    let rewriter = open::rewriter(&args.rewriter, &ranker, None, &args.weights)?;
    let rewritten = |query: &Query| rewritten(rewriter.as_ref(), query);
    let ids = |order: &Order| -> Vec<String> {
        order.first.iter().filter_map(|doc| Some(Documents::document(&*dataset.catalog, *doc)?.id)).collect()
    };
    let show = |text: &str, rewrite| show(text, rewrite, &ids, args.json);
    if !args.history.is_empty() {
        let ([] | [_]) = args.queries.as_slice() else {
            let found = format!("a history with {} queries", args.queries.len());
            return Err(Error::argument("--history", found, "give one query, or none").into());
        };
        let histories = Histories::of(&dataset);
        let text = args.queries.first().map_or("", String::as_str);
        let query = histories.query(text, &histories.ids(&args.history))?.with_turns(args.turns);
        return show(&query.text, rewritten(&query));
    }
    for query in &args.queries {
        show(query, rewritten(&Query::text(query).with_turns(args.turns.clone())))?;
    }
    if args.queries.is_empty() {
        let mut input = Lines::new(std::io::stdin().lock());
        while let Some(line) = input.next()? {
            // A line that cannot be read costs its own answer.
            match line.map(|line| (lines::text(line), line)) {
                Ok((Ok(text), _)) => {
                    show(text.trim(), rewritten(&Query::text(text.trim()).with_turns(args.turns.clone())))?;
                }
                Ok((Err(error), line)) => show(&String::from_utf8_lossy(line), Err(error))?,
                Err(error) => show("", Err(error))?,
            }
        }
    }
    Ok(())
}

/// The rewrite of a query; none of an empty one, for which no model is asked. Whatever the rewriter does costs this query
/// alone.
fn rewritten(rewriter: &dyn Rewriter, query: &Query) -> querywright::Result<Option<Rewrite>> {
    if query.is_empty() {
        return Ok(None);
    }
    rewrite_one(rewriter, query, Deadline::NONE).map(Some)
}

/// Prints one answer. `ids` are those of the documents that an order puts first.
fn show(
    text: &str,
    rewrite: querywright::Result<Option<Rewrite>>,
    ids: &dyn Fn(&Order) -> Vec<String>,
    json: bool,
) -> Result<()> {
    let first = rewrite.as_ref().ok().and_then(|rewrite| rewrite.as_ref()?.order.as_ref()).map(ids);
    let kept = rewrite.as_ref().ok().and_then(|rewrite| rewrite.as_ref()?.kept);
    let outcome = match &rewrite {
        Ok(Some(_)) if kept.is_some() => "kept",
        Ok(Some(_)) => "rewritten",
        Ok(None) => "empty",
        Err(_) => "failed",
    };
    let (rewrite, error) = match rewrite {
        Ok(rewrite) => (rewrite.map(|rewrite| rewrite.text), None),
        Err(error) => (None, Some(error)),
    };
    let code = error.as_ref().map(Error::code).or(kept.map(Kept::code));
    let error = error.as_ref().map(ToString::to_string);
    if json {
        let mut object =
            serde_json::json!({ "query": text, "rewrite": rewrite, "error": error, "code": code, "outcome": outcome });
        if let Some(first) = first {
            object["first"] = first.into();
        }
        return terminal::json(&object);
    }
    let rewrite = rewrite.map(|rewrite| match &first {
        Some(first) => format!("{rewrite}  (first: {})", first.join(", ")),
        None => rewrite,
    });
    say!("{}", rewrite.or_else(|| error.map(|e| format!("{text}  ({e})"))).unwrap_or_default());
    Ok(())
}
