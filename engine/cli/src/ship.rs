//! What a run ships, decided on the development queries, and how much of what the model could write it reached.

use anyhow::Result;
use querywright::catalog::Output;
use querywright::evaluate::{Evaluation, Gate, Headroom, Shipped};
use querywright::rewrite::{LanguageModel, Prompter, RewriterFile, Serve};
use querywright::types::{Deadline, Judgements, Query, Rewrite, Rewriter};

use crate::finished::{BATCH, Finished};
use crate::progress::Bar;
use crate::prompts;

/// Development queries that headroom is measured on, and rewrites that are sampled for each: seconds.
const HEADROOM: (usize, usize) = (64, 8);

/// Decides, writes the file that serves it beside the best adapter, and measures the headroom.
pub fn ship(run: &Finished<'_>) -> Result<(Shipped, Option<Headroom>)> {
    let queries = run.dataset.judged(&run.config.data.dev)?;
    let queries: Vec<(&Query, &Judgements)> = queries.into_iter().filter(|(_, j)| j.findable() > 0).collect();
    let gate = Gate {
        catalog: &run.dataset.catalog,
        retriever: run.ranker.retriever.as_ref(),
        measure: run.config.reward.main_measure()?,
        queries: &queries,
        chosen_on: run.config.data.max_dev_queries,
        // They confirmed its neighbours.
        chose_the_base: !run.tuned.neighbours.is_off(),
        batch: BATCH,
    };
    let (tuned, trained) = (run.rewriter("tuned")?, run.trained()?);
    let bar = |name: &str, count: usize| Bar::new(count as u64, &format!("may {name} be shipped"), "queries");
    let shipped = gate.decide(tuned.as_ref(), &trained, run.without_model() == "tuned", bar)?;
    let serve = match shipped.system.as_str() {
        "raw" => Serve::Raw,
        "tuned" => Serve::Tuned,
        _ => Serve::Trained,
    };
    let mut file = run.ranker.rewriter_file(serve);
    file.model = Some(run.config.model.name.clone());
    file.confidence = shipped.confidence;
    file.base = Some(run.tuned.clone()).filter(|base| !base.is_raw());
    file.write(Output::open(run.adapter.join(RewriterFile::NAME))?)?;
    // What is only told must not cost the report.
    let headroom = headroom(run, &gate, &trained).unwrap_or_else(|error| {
        tell!("warning: the headroom is not measured: {error}");
        None
    });
    Ok((shipped, headroom))
}

/// None where there is no query, or the retriever fails.
fn headroom(run: &Finished<'_>, gate: &Gate<'_>, trained: &LanguageModel) -> Result<Option<Headroom>> {
    let asked = gate.for_the_model().iter().filter(|(query, _)| !query.is_empty()).take(HEADROOM.0);
    let queries: Vec<(&Query, &Judgements)> = asked.copied().collect();
    if queries.is_empty() {
        return Ok(None);
    }
    let evaluation = Evaluation { queries: &queries, catalog: gate.catalog, measures: &[gate.measure], batch: BATCH };
    let without = WithoutModel(prompts::prompter(&run.config.serving_prompt(), run.ranker)?);
    let bar = Bar::new(queries.len() as u64, "how much could be reached", "queries");
    let [without, reached] =
        [evaluation.run(&without, gate.retriever, &())?, evaluation.run(trained, gate.retriever, &bar)?];
    if without.system.faults + reached.system.faults > 0 {
        return Ok(None);
    }
    let texts: Vec<Query> = queries.iter().map(|(query, _)| (*query).clone()).collect();
    let samples = trained.samples(&texts, &run.config.sampling, HEADROOM.1)?;
    let (Some(without), Some(reached)) = (without.system.values(gate.measure), reached.system.values(gate.measure))
    else {
        return Ok(None);
    };
    Ok(Headroom::of(&evaluation, gate.measure, gate.retriever, (without, reached), &samples)?)
}

/// What queries are without a model, by the prompts' own account.
pub struct WithoutModel(pub Prompter);

impl Rewriter for WithoutModel {
    fn name(&self) -> &str {
        "without the model"
    }

    fn rewrite(&self, queries: &[Query], deadline: Deadline) -> Vec<querywright::Result<Rewrite>> {
        queries.iter().map(|query| deadline.check().and_then(|()| self.0.original(query))).collect()
    }
}
