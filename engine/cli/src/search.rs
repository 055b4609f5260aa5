//! `search`: one query through the whole stack.

use anyhow::Result;
use querywright::stack::TraceOutcome;
use querywright::types::{Request, Retriever, Rewrite};

use crate::history::Histories;
use crate::stack::{Opened, StackArgs};
use crate::terminal;

/// Search a data set.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  querywright search --data demo 'cold air creeps in under the front door'
  querywright search --data demo --rewriter smollm2-135m+runs/demo/best --explain 'cold air creeps in under the front door'
  querywright search --data my-shop --retriever bm25+covisitation --history B0012,B0044
  querywright serve --stdio --data demo    # for another process: a query a line")]
pub struct Args {
    /// The query; may be left out where there is a history
    #[arg(required_unless_present = "history")]
    query: Option<String>,
    /// For next items: the ids of what somebody had before, oldest first, with commas; the option may be repeated
    #[arg(long, value_name = "IDS")]
    history: Vec<String>,
    /// What was said before in the same conversation; give it again for each turn, oldest first
    #[arg(long = "turn", value_name = "TEXT")]
    turns: Vec<String>,
    #[command(flatten)]
    stack: StackArgs,
    /// Show what each term adds to each hit's score
    #[arg(long)]
    explain: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    let k = args.stack.k;
    let Opened { dataset, ranker, stack } = args.stack.open()?;
    let histories = Histories::of(&dataset);
    let query = histories.query(args.query.as_deref().unwrap_or_default(), &histories.ids(&args.history))?;
    let query = query.with_turns(args.turns);
    let answer = stack.search_query(&query, k)?;
    // What is said outside is short; the reason itself goes to the log.
    if let Some(error) = answer.trace.outcome.fallback() {
        tell!("searched for as it came: {error}");
    }
    let request = Request::new(&query, &answer.trace.searched, k);
    let mut explanations = Vec::new();
    if args.explain {
        let Some(index) = ranker.bm25.as_ref().filter(|index| index.card().name == ranker.retriever.card().name) else {
            let found = "plugins, vectors and fusions do not explain their scores";
            let remedy = "leave the option out, or search with bm25";
            return Err(querywright::Error::argument("--explain", found, remedy).into());
        };
        for hit in &answer.hits {
            if let Some(document) = dataset.catalog.ordinal(&hit.id) {
                explanations.push(index.explain(&request, document)?);
            }
        }
    }
    if args.json {
        let mut object = serde_json::json!({ "answer": answer, "explanations": args.explain.then_some(&explanations) });
        if let Some(spent) = ranker.first.spent() {
            object["first_pass_ms"] = (spent.as_secs_f64() * 1e3).into();
        }
        return terminal::json(&object);
    }
    if matches!(answer.trace.outcome, TraceOutcome::Empty) {
        say!("the query is empty: nothing was searched for");
        return Ok(());
    }
    let Rewrite { text, .. } = &answer.trace.searched;
    let outcome = match &answer.trace.outcome {
        TraceOutcome::FellBack(error) => format!("original, without a rewrite: {}", error.summary()),
        TraceOutcome::Kept(why) => format!("kept as without the model: {}", why.code().replace('_', " ")),
        outcome => outcome.kind().to_owned(),
    };
    say!("searched for: {text}  ({outcome}, {:.1} ms + {:.1} ms)", answer.trace.rewrite_ms, answer.trace.retrieve_ms);
    if !answer.trace.first.is_empty() {
        say!("put first: {}", answer.trace.first.join(", "));
    }
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
