//! `tune`: how the retriever is best asked, without a model.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use querywright::catalog::{Dataset, Output};
use querywright::evaluate::{FEWEST_TO_TUNE, FusionWeights, TunedBase, Tuning, learn_neighbours};
use querywright::metrics::Measure;
use querywright::rewrite::{RewriterFile, Serve};
use querywright::train::Labelled;
use querywright::types::{Judgements, Query, QueryLanguage, Retriever};

use crate::candidates;
use crate::grant::Grants;
use crate::hybrid::Hybrid;
use crate::open;
use crate::progress::Bar;
use crate::ranker::Ranker;
use crate::terminal;

/// Find out how the retriever is best asked: weights of fields, phrases and feedback. No model.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  querywright tune --data my-data
  querywright tune --data my-data --output tuned.toml
  querywright eval --data my-data --rewriter tuned.toml")]
pub struct Args {
    /// A data folder, a registry name, or demo
    #[arg(long)]
    data: String,
    /// The split to search on; the test split stays untouched
    #[arg(long, default_value = "train")]
    split: String,
    /// bm25, with settings behind a colon (bm25:k1=0.9,b=0.4), dense or hybrid with a model behind a colon
    /// (dense:bge-small-en-v1.5), hybrid-scores, or a plugin's .wasm file; for next items with +covisitation behind it. The
    /// weights of hybrid and covisitation are tuned, but not one that is given (hybrid=0.5, bm25+covisitation=0.6)
    #[arg(long, default_value = "bm25")]
    retriever: String,
    /// What is maximised
    #[arg(long, default_value = "nDCG@10")]
    measure: Measure,
    /// Where the settings are written, for --rewriter
    #[arg(long, value_name = "FILE", default_value = "tuned.toml")]
    output: PathBuf,
    #[command(flatten)]
    grants: Grants,
    /// Print one JSON object, with all that was tried
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    let dataset = crate::dataset::open(&args.data, false)?;
    let queries = open::labelled(&dataset, "--split", &args.split)?;
    // What cannot be written later is said before the work, and a file of something else is not written over.
    if args.output.exists() {
        RewriterFile::settings(&args.output).context("--output names a file that tune did not write")?;
    }
    let output = Output::open(&args.output)?;
    let ranker = open::retriever_to_learn_from(&args.retriever, &dataset, &args.split, &args.grants)?;
    // A split of its own says whether neighbours help strangers. The test split is never asked.
    let dev =
        ["dev", "validation", "valid", "val"].iter().find_map(|name| open::labelled(&dataset, "--split", name).ok());
    let dev = dev.filter(|_| args.split == "train").unwrap_or_default();
    let tuned = tune(&dataset, (&queries, &dev), &ranker, args.measure)?;
    let ranker = ranker.with_weights(&tuned.fusion_weights)?;
    let mut file = ranker.rewriter_file(Serve::Tuned);
    file.base = Some(tuned.base.clone());
    // The figures are shown even where the file cannot be written.
    let written = file.write(output);
    if args.json {
        terminal::json(&tuned)?;
        return Ok(written?);
    }
    say!("{}", summary(&tuned, args.measure));
    for (key, weight) in &tuned.fusion_weights {
        say!("{key} = {weight}");
    }
    let base = toml::to_string(&tuned.base)?;
    terminal::lines(&base)?;
    written?;
    say!("written: {}", args.output.display());
    Ok(())
}

/// One sentence on what tuning came to.
pub fn summary(tuned: &TunedBase, measure: Measure) -> String {
    let ((raw, raw_unseen), (found, unseen)) = (tuned.raw, tuned.tuned);
    let queries = tuned.searched + tuned.confirmed;
    if queries < FEWEST_TO_TUNE {
        return format!("tuning: {queries} judged queries are too few to learn from, {FEWEST_TO_TUNE} are needed");
    }
    if tuned.base.is_raw() && tuned.raw == tuned.tuned {
        return format!("tuning: nothing beats the raw query ({measure} {raw:.4} on {} queries)", tuned.searched);
    }
    format!(
        "tuning: {measure} {raw:.4} -> {found:.4} on {} queries, {raw_unseen:.4} -> {unseen:.4} on {} unseen ones",
        tuned.searched, tuned.confirmed
    )
}

/// Searches on these queries, and asks those of another split, if there are some, what only they can say.
pub fn tune(
    dataset: &Dataset,
    (queries, elsewhere): (&[Labelled], &[Labelled]),
    ranker: &Ranker,
    measure: Measure,
) -> Result<TunedBase> {
    let (queries, elsewhere) = (borrowed(queries), borrowed(elsewhere));
    let bar = Bar::new(0, "tuning", "settings");
    // Feedback needs an index, and its words a weight each.
    let reads_weights = ranker.retriever.card().languages.contains(&QueryLanguage::Boolean);
    let weights = ranker.tunable();
    let remembering = Ranker { hybrid: ranker.hybrid.clone().map(Hybrid::remembering), ..ranker.clone() };
    let fused = |values: &[f64]| -> querywright::Result<Arc<dyn Retriever>> {
        let keys = weights.iter().map(|weight| weight.key.clone());
        Ok(remembering.clone().with_weights(&keys.zip(values.iter().copied()).collect())?.retriever)
    };
    let tuning = Tuning {
        catalog: &dataset.catalog,
        retriever: ranker.retriever.as_ref(),
        queries: &queries,
        measure,
        neighbours: reads_weights
            .then(|| learn_neighbours(&dataset.catalog, &queries))
            .transpose()?
            .flatten()
            .map(Arc::new),
        elsewhere: &elsewhere,
        feedback: reads_weights.then(|| candidates::feedback(ranker)).transpose()?,
        fusion: (!weights.is_empty()).then(|| FusionWeights { weights: weights.clone(), fused: &fused }),
    };
    let tuned = tuning.run(&bar)?;
    bar.finish();
    Ok(tuned)
}

fn borrowed(queries: &[Labelled]) -> Vec<(&Query, &Judgements)> {
    queries.iter().map(|(query, judgements)| (query, judgements)).collect()
}
