//! What a run came to: raw, RM3, tuned, zero-shot, trained and what is shipped side by side, and the report.

use std::path::PathBuf;

use anyhow::Result;
use querywright::evaluate::{
    Changes, Comparison, CostTable, Evaluated, Evaluation, GATED, Headroom, Probes, Report, Shipped, System, samples,
};
use querywright::metrics::Measure;
use querywright::retrieve::{Covisitation, CovisitationConfig, Popularity};
use querywright::rewrite::{BaseConfig, Tuned};
use querywright::sequence::SequenceModel;
use querywright::stack::Identity;
use querywright::train::RunCost;
use querywright::types::{Retriever, Rewriter};

use crate::finished::{BATCH, Finished, WARM_START, ZERO_SHOT};
use crate::progress::Bar;
use crate::{followed, sequence, ship};

/// Queries that are shown as improved most, and as hurt most.
const EXAMPLES: usize = 5;
/// Rewrites in the report.
const SAMPLES: usize = 24;

/// The table, what is shipped, what it changes, and where the report lies, or why it could not be written.
pub struct Compared {
    /// What ranked.
    pub retriever: String,
    pub shipped: Shipped,
    pub changes: Option<Changes>,
    pub headroom: Option<Headroom>,
    /// What the systems do to please the measure.
    pub probes: Probes,
    /// What training cost, beside what it reached.
    pub cost: CostTable,
    pub comparison: Comparison,
    pub report: querywright::Result<PathBuf>,
}

/// What the trained model reached under the first measure.
fn reached(measured: &[Evaluated], measures: &[Measure]) -> String {
    let trained = measured.iter().find(|found| found.system.name == "trained");
    let mean =
        trained.zip(measures.first()).and_then(|(trained, measure)| Some((measure, trained.system.mean(*measure)?)));
    mean.map_or_else(String::new, |(measure, mean)| format!("{measure} {mean:.4}"))
}

impl Finished<'_> {
    /// Decides on the development queries what is shipped, measures all systems on the held-out ones, and writes the
    /// report.
    pub fn compare(&self, measures: &[Measure]) -> Result<Compared> {
        let (shipped, headroom) = ship::ship(self)?;
        let queries = self.dataset.judged(self.split)?;
        let evaluation = Evaluation { catalog: &self.dataset.catalog, queries: &queries, measures, batch: BATCH };
        let mut measured: Vec<Evaluated> = Vec::new();
        let warm_start = self.warm_start().is_dir().then_some(WARM_START);
        for name in ["raw", "rm3", "tuned", ZERO_SHOT].into_iter().chain(warm_start).chain(["trained"]) {
            let bar = Bar::new(queries.len() as u64, name, "queries");
            let rewriter = self.rewriter(name)?;
            let mut found = evaluation.run(rewriter.as_ref(), self.ranker.retriever.as_ref(), &bar)?;
            found.system = found.system.named(name);
            bar.finish();
            measured.push(found);
        }
        let of = |name: &str| measured.iter().find(|found| found.system.name == name);
        let gated = match (shipped.confidence, of("trained"), of(self.without_model())) {
            (Some(least), Some(trained), Some(without)) => Some(evaluation.gated(trained, without, least)?),
            _ => None,
        };
        measured.extend(gated.map(|mut found| {
            found.system = found.system.named(GATED);
            found
        }));
        let of = |name: &str| measured.iter().find(|found| found.system.name == name);
        // Where raw is shipped nothing changes: then what would have.
        let changed = if shipped.system == "raw" { "trained" } else { shipped.system.as_str() };
        let changes = of(changed).zip(of("raw")).zip(measures.first());
        let changes = changes.and_then(|((new, raw), measure)| Changes::of(&queries, new, raw, *measure, EXAMPLES));
        let shown: Vec<&Evaluated> = measured.iter().filter(|m| m.system.name != "rm3").collect();
        let samples = measures.first().map_or_else(Vec::new, |m| samples(&queries, &shown, *m, SAMPLES));
        let probes = Probes::of(&evaluation, &shown, ZERO_SHOT)?;
        let reached = reached(&measured, measures);
        let RunCost { spent, prices, without_energy, .. } = self.cost;
        let cost = CostTable::of("this run", &reached, spent, prices, without_energy.as_deref());
        let sequences = self.of_sequences(&evaluation)?;
        let systems: Vec<System> = measured.iter().chain(&sequences).map(|m| m.system.clone()).collect();
        let comparison = Comparison::of(&systems, "trained")?.with_alias("shipped", &shipped.system)?;
        let told = Report {
            comparison: Some(comparison.clone()),
            changes: changes.clone(),
            headroom: headroom.clone(),
            probes: Some(probes.clone()),
            cost: Some(cost.clone()),
            samples,
            ..self.report(&shipped, queries.len())?
        };
        let report = told.write(&self.folder.join("report"));
        let retriever = self.ranker.retriever.card().name.clone();
        Ok(Compared { retriever, shipped, changes, headroom, probes, cost, comparison, report })
    }

    /// The report of the run, before what was measured.
    fn report(&self, shipped: &Shipped, queries: usize) -> Result<Report> {
        let run = &self.config.train.output_dir;
        Ok(Report {
            title: format!("{} on {}", self.model.name, self.dataset.name),
            subtitle: format!(
                "{}. Measured on {queries} queries of the split {}, {}.",
                shipped.sentence,
                self.split,
                self.ranker.retriever.card().name
            ),
            metrics: Some(run.join("metrics.jsonl")),
            config: std::fs::read_to_string(run.join("config.toml")).ok(),
            versions: vec![
                ("querywright".into(), env!("CARGO_PKG_VERSION").into()),
                ("model digest".into(), self.model.source.digest()?),
                ("catalogue digest".into(), self.dataset.catalog.digest().into()),
                ("threads".into(), std::thread::available_parallelism().map_or(1, usize::from).to_string()),
            ],
            ..Report::default()
        })
    }

    /// What needs no language for next items: the last title, the last five, what is popular, what followed, and the models
    /// over sequences where `[retriever.sequence]` asks for them.
    fn of_sequences(&self, evaluation: &Evaluation<'_>) -> Result<Vec<Evaluated>> {
        let histories = evaluation.queries.iter().filter(|(query, _)| !query.history.is_empty()).count();
        if 2 * histories <= evaluation.queries.len() {
            return Ok(Vec::new());
        }
        let catalog = &self.dataset.catalog;
        let training = followed::sequences(self.dataset, &self.config.data.train)?;
        let text = self.ranker.index()?;
        let last = BaseConfig { history: 1, ..BaseConfig::default() };
        let last = Tuned::new(last, text.card(), None)?;
        let popular = Popularity::learn(catalog, &training)?;
        let followed = Covisitation::learn(catalog, &training, CovisitationConfig::default())?;
        let mut models = Vec::new();
        for model in SequenceModel::ALL {
            if let Some(config) = &self.config.retriever.sequence {
                let splits = [self.config.data.train.as_str(), self.config.data.dev.as_str()];
                models.push(sequence::opened(model, config, self.dataset, splits, None)?);
            }
        }
        let systems: [(&str, &dyn Rewriter, &dyn Retriever); 4] = [
            ("last-title", &last, text.as_ref()),
            ("titles", &Identity, text.as_ref()),
            ("popularity", &Identity, &popular),
            ("covisitation", &Identity, &followed),
        ];
        let models = models
            .iter()
            .map(|model| -> (&str, &dyn Rewriter, &dyn Retriever) { (model.card().name.as_str(), &Identity, model) });
        let measure = |(name, rewriter, retriever): (&str, &dyn Rewriter, &dyn Retriever)| -> Result<Evaluated> {
            let mut found = evaluation.run(rewriter, retriever, &())?;
            found.system = found.system.named(name);
            Ok(found)
        };
        systems.into_iter().chain(models).map(measure).collect()
    }
}
