//! `eval`: one rewriter in front of one retriever.

use std::path::{Path, PathBuf};

use anyhow::Result;
use querywright::catalog::{Dataset, Output, Run};
use querywright::evaluate::{Evaluated, Evaluation, Probes, Summary};
use querywright::types::{Judgements, Query, Rewriter};

use crate::grant::Grants;
use crate::progress::Bar;
use crate::weights::Weights;
use crate::{finished::BATCH, open, terminal};

/// What the probes call the rewriter of `--baseline`.
const BASELINE: &str = "baseline";

/// Measure a rewriter in front of a retriever.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  querywright eval --data demo --rewriter identity
  querywright eval --data my-data --split test --rewriter rm3 --measures nDCG@10,R@100 --json
  querywright eval --data demo --rewriter smollm2-135m+runs/demo/best --run-out trained.run
  querywright eval --data my-data --rewriter file:expansions.tsv")]
pub struct Args {
    /// A data folder, a registry name, or demo
    #[arg(long)]
    data: String,
    /// The split
    #[arg(long, default_value = "test")]
    split: String,
    /// bm25, with settings behind a colon (bm25:k1=0.9,b=0.4), dense or hybrid with a model behind a colon
    /// (dense:bge-small-en-v1.5), or a plugin's .wasm file; for next items with +covisitation behind it, or by histories
    /// alone: popularity, covisitation, sasrec or gru4rec, the last two with settings behind a colon (sasrec:epochs=50)
    #[arg(long, default_value = "bm25")]
    retriever: String,
    /// identity, rm3, zero-shot, few-shot, hyde, query2doc or rerank (hyde:MODEL), file: and a file of rewrites,
    /// remote:URL#MODEL, a model's name or path, MODEL+ADAPTER_DIR, or what tune or train wrote (runs/x/best)
    #[arg(long, default_value = "identity")]
    rewriter: String,
    #[command(flatten)]
    weights: Weights,
    /// A rewriter that the probes for reward hacking are set against, such as the model without its adapter
    #[arg(long, value_name = "REWRITER")]
    baseline: Option<String>,
    /// Measures under their ir_measures names, with commas
    #[arg(long, default_value = "nDCG@10,R@100")]
    measures: String,
    /// Write the rankings as a TREC run
    #[arg(long, value_name = "FILE")]
    run_out: Option<PathBuf>,
    /// Keep the index in this folder and open it again next time
    #[arg(long, value_name = "DIR")]
    index: Option<PathBuf>,
    /// Refuse judgements of absent documents and judgements that stand twice, naming all
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    grants: Grants,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    let measures = open::measures(&args.measures)?;
    let dataset = crate::dataset::open(&args.data, args.strict)?;
    let queries = dataset.judged(&args.split)?;
    // What cannot be written later is said before the work.
    let output = args.run_out.as_deref().map(|path| opened(path, &dataset, &queries)).transpose()?;
    let ranker = open::retriever(&args.retriever, &args.rewriter, &dataset, args.index.as_deref(), &args.grants)?;
    let rewriter = open::rewriter(&args.rewriter, &ranker, None, &args.weights)?;
    let evaluation = Evaluation { catalog: &dataset.catalog, queries: &queries, measures: &measures, batch: BATCH };
    let run = |rewriter: &dyn Rewriter| -> Result<Evaluated> {
        let bar = Bar::new(queries.len() as u64, rewriter.name(), "queries");
        let found = evaluation.run(rewriter, ranker.retriever.as_ref(), &bar)?;
        bar.finish();
        Ok(found)
    };
    let found = run(rewriter.as_ref())?;
    drop(rewriter);
    // The figures are shown even where the file cannot be written, and both even where there is no baseline.
    let written = output.map(|output| found.run.write_to(output, &dataset.catalog)).transpose();
    let baseline = args.baseline.as_deref().map(|name| -> Result<Evaluated> {
        let rewriter = open::rewriter(name, &ranker, None, &args.weights)?;
        let mut found = run(rewriter.as_ref())?;
        found.system = found.system.named(BASELINE);
        Ok(found)
    });
    let (baseline, failed) = match baseline.transpose() {
        Ok(baseline) => (baseline, None),
        Err(error) => (None, Some(error)),
    };
    let end = || -> Result<()> {
        written?;
        failed.map_or(Ok(()), Err)
    };
    let systems: Vec<&Evaluated> = baseline.iter().chain([&found]).collect();
    let probes = Probes::of(&evaluation, &systems, BASELINE)?;
    let empty = queries.iter().filter(|(query, _)| query.is_empty()).count();
    let summary = found.system.summary();
    if summary.kept == summary.queries && args.rewriter.starts_with("file:") {
        tell!("warning: {} has a rewrite for none of these queries: are they named as here?", args.rewriter);
    }
    if let Some(error) = &found.first_fallback {
        let count = found.system.fallbacks;
        tell!("warning: {count} queries were searched for as they came; the first of them: {error}");
    }
    if args.json {
        let mut object = serde_json::to_value(&summary)?;
        object["probes"] = serde_json::to_value(&probes)?;
        if let Some(object) = object.as_object_mut().filter(|_| empty > 0) {
            object.insert("empty".into(), empty.into());
        }
        terminal::json(&object)?;
        return end();
    }
    told(&summary, &format!("{}/{}", dataset.name, args.split), empty)?;
    // The raw query pleases nobody.
    if args.rewriter != "identity" {
        terminal::lines(&probes.text())?;
    }
    end()
}

/// Opens the file of a run, whose format has to hold the names of these queries and documents.
fn opened(path: &Path, dataset: &Dataset, queries: &[(&Query, &Judgements)]) -> Result<Output> {
    let asked = queries.iter().map(|(query, _)| query.id.as_str());
    Run::check_ids(path, asked.chain(dataset.catalog.documents().map(|document| document.id)))?;
    Ok(Output::open(path)?)
}

/// Prints the figures of a rewriter on the queries of `place`.
fn told(summary: &Summary, place: &str, empty: usize) -> Result<()> {
    say!("{} + {} on {} queries of {place}", summary.rewriter, summary.retriever, summary.queries);
    for (name, value) in &summary.measures {
        say!("  {name:<12} {:.4}", value.as_f64().unwrap_or(f64::NAN));
    }
    say!("  {:.1} s, {:.1} words a query", summary.seconds, summary.mean_query_words);
    if summary.fallbacks > 0 || summary.faults > 0 {
        say!("  {} queries searched for as they came, {} failed", summary.fallbacks, summary.faults);
    }
    if summary.kept > 0 {
        say!("  {} queries kept as they are without the model", summary.kept);
    }
    if empty > 0 {
        say!("  {empty} empty queries were not searched for");
    }
    Ok(())
}
