//! What a run ships: the best of raw, tuned and trained on the development queries, with a test.

use anyhow::Result;
use querywright::catalog::Output;
use querywright::evaluate::{Challenge, Evaluation, System, gate};
use querywright::metrics::Measure;
use querywright::types::{Judgements, Query};
use serde::Serialize;

use crate::compare::{BATCH, Finished};
use crate::progress::Bar;
use crate::rewriter_file::{RewriterFile, Serve};

/// Queries that the trained model is tested on, at most: it takes milliseconds for each.
const MOST: usize = 400;
/// Fewer unseen queries than this are no test.
const FEWEST: usize = 100;

/// What is shipped, and why.
#[derive(Serialize)]
pub struct Shipped {
    /// "raw", "tuned" or "trained".
    pub system: String,
    /// The reason, for a person.
    pub sentence: String,
    /// Every system against the one that it would have replaced.
    pub challenges: Vec<Challenge>,
}

/// Decides, and writes the file that serves it beside the best adapter.
pub fn ship(run: &Finished<'_>) -> Result<Shipped> {
    let measure = run.config.reward.main_measure()?;
    let dev: Vec<(&Query, &Judgements)> =
        run.dataset.judged(&run.config.data.dev)?.into_iter().filter(|(_, j)| j.findable() > 0).collect();
    // Models are not asked for all of them: retrieval alone costs microseconds.
    let first = [measured(run, "raw", &dev, measure)?, measured(run, "tuned", &dev, measure)?];
    let (standing, mut challenges) = gate(&first, measure)?;
    let queries = for_the_model(&dev, run.config.data.max_dev_queries);
    let second = [measured(run, &standing, queries, measure)?, measured(run, "trained", queries, measure)?];
    let (mut system, against) = gate(&second, measure)?;
    challenges.extend(against);
    // A fault counts 0 in a mean: nothing that a test says of such figures holds.
    let faults: usize = first.iter().chain(&second).map(|system| system.faults).sum();
    if faults > 0 {
        (system, challenges) = ("raw".to_owned(), Vec::new());
    }
    let sentence = match faults {
        0 => sentence(&system, &challenges, measure),
        _ => format!("Shipped: the raw query, because the retriever failed {faults} times while systems were compared"),
    };
    let file = RewriterFile {
        serve: Serve::named(&system)?,
        model: Some(run.config.model.name.clone()),
        base: Some(run.tuned.clone()).filter(|base| !base.is_raw()),
        ..RewriterFile::of(run.ranker)
    };
    file.write_to(Output::open(run.adapter.join(RewriterFile::NAME))?)?;
    Ok(Shipped { sentence, system, challenges })
}

/// Development queries that did not choose the adapter, where there are enough of them; else those that did.
fn for_the_model<'a, 'q>(
    dev: &'a [(&'q Query, &'q Judgements)],
    chosen_on: usize,
) -> &'a [(&'q Query, &'q Judgements)] {
    let unseen = dev.get(chosen_on..).unwrap_or_default();
    let queries = if unseen.len() >= FEWEST { unseen } else { dev };
    queries.get(..MOST).unwrap_or(queries)
}

fn measured(run: &Finished<'_>, name: &str, queries: &[(&Query, &Judgements)], measure: Measure) -> Result<System> {
    let evaluation = Evaluation { catalog: &run.dataset.catalog, queries, measures: &[measure], batch: BATCH };
    let bar = Bar::new(queries.len() as u64, &format!("may {name} be shipped"), "queries");
    let found = evaluation.run(run.rewriter(name)?.as_ref(), run.ranker.retriever.as_ref(), &bar)?;
    bar.finish();
    Ok(found.system.named(name))
}

fn sentence(system: &str, challenges: &[Challenge], measure: Measure) -> String {
    let told = challenges.iter().map(|c| {
        let Challenge { system, against, mean, against_mean, p, .. } = c;
        format!("{system} {mean:.4} against {against_mean:.4} of {against}, p {p:.4}")
    });
    let told = told.collect::<Vec<_>>().join("; ");
    let what = match system {
        "raw" => "Shipped: the raw query, because nothing is better beyond chance",
        "tuned" => "Shipped: the tuned base, without a model",
        _ => "Shipped: the trained model",
    };
    format!("{what} (development queries, {measure}: {told})")
}
