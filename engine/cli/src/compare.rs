//! What a run came to: raw, RM3, tuned, zero-shot and trained side by side, and the report.

use std::path::{Path, PathBuf};

use anyhow::Result;
use querywright::Error;
use querywright::catalog::Dataset;
use querywright::evaluate::{Comparison, Evaluated, Evaluation, Report, System, samples};
use querywright::metrics::Measure;
use querywright::retrieve::{Covisitation, CovisitationConfig, Popularity, Rm3, Rm3Config};
use querywright::rewrite::{BaseConfig, Tuned};
use querywright::stack::Identity;
use querywright::train::TrainConfig;
use querywright::types::{Retriever, Rewriter};

use crate::first_pass;
use crate::followed;
use crate::open::{Model, Ranker};
use crate::progress::Bar;
use crate::ship::{self, Shipped};

/// Queries that are rewritten at once.
pub const BATCH: usize = 64;
/// Rewrites in the report.
const SAMPLES: usize = 24;

/// A finished run and what it is measured on.
pub struct Finished<'a> {
    pub config: &'a TrainConfig,
    pub dataset: &'a Dataset,
    pub split: &'a str,
    pub ranker: &'a Ranker,
    pub model: &'a Model,
    pub adapter: &'a Path,
    /// How a request becomes a query without a model.
    pub tuned: BaseConfig,
}

/// The table, what is shipped, and where the report lies, or why it could not be written.
pub struct Compared {
    pub shipped: Shipped,
    pub comparison: Comparison,
    pub report: querywright::Result<PathBuf>,
}

impl Finished<'_> {
    /// Decides on the development queries what is shipped, measures all systems on the held-out ones, and writes the
    /// report.
    pub fn compare(&self, measures: &[Measure]) -> Result<Compared> {
        let shipped = ship::ship(self)?;
        let queries = self.dataset.judged(self.split)?;
        let evaluation = Evaluation { catalog: &self.dataset.catalog, queries: &queries, measures, batch: BATCH };
        let mut measured: Vec<Evaluated> = Vec::new();
        for name in ["raw", "rm3", "tuned", "zero-shot", "trained"] {
            let bar = Bar::new(queries.len() as u64, name, "queries");
            let rewriter = self.rewriter(name)?;
            let mut found = evaluation.run(rewriter.as_ref(), self.ranker.retriever.as_ref(), &bar)?;
            found.system = found.system.named(name);
            bar.finish();
            measured.push(found);
        }
        measured.extend(self.of_sequences(&evaluation)?);
        let mut systems: Vec<System> = measured.iter().map(|m| m.system.clone()).collect();
        systems
            .extend(systems.iter().find(|system| system.name == shipped.system).cloned().map(|s| s.named("shipped")));
        let comparison = Comparison::of(&systems, "trained")?;
        let shown: Vec<&Evaluated> = measured.iter().filter(|m| m.system.name != "rm3").collect();
        let samples = measures.first().map_or_else(Vec::new, |m| samples(&queries, &shown, *m, SAMPLES));
        let run = &self.config.train.output_dir;
        let report = Report {
            title: format!("{} on {}", self.model.name, self.dataset.name),
            subtitle: format!(
                "{}. Measured on {} queries of the split {}, {}.",
                shipped.sentence,
                queries.len(),
                self.split,
                self.ranker.retriever.card().name
            ),
            metrics: Some(run.join("metrics.jsonl")),
            comparison: Some(comparison.clone()),
            samples,
            config: std::fs::read_to_string(run.join("config.toml")).ok(),
            versions: vec![
                ("querywright".into(), env!("CARGO_PKG_VERSION").into()),
                ("model digest".into(), self.model.source.digest()?),
                ("catalogue digest".into(), self.dataset.catalog.digest().into()),
                ("threads".into(), std::thread::available_parallelism().map_or(1, usize::from).to_string()),
            ],
        };
        let report = report.write(&run.join("report"));
        Ok(Compared { shipped, comparison, report })
    }

    /// What needs no language for next items: the last title, the last five, what is popular, what followed.
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
        let systems: [(&str, &dyn Rewriter, &dyn Retriever); 4] = [
            ("last-title", &last, text.as_ref()),
            ("titles", &Identity, text.as_ref()),
            ("popularity", &Identity, &popular),
            ("covisitation", &Identity, &followed),
        ];
        let measure = |(name, rewriter, retriever): (&str, &dyn Rewriter, &dyn Retriever)| -> Result<Evaluated> {
            let mut found = evaluation.run(rewriter, retriever, &())?;
            found.system = found.system.named(name);
            Ok(found)
        };
        systems.into_iter().map(measure).collect()
    }

    /// A system of the table by its name.
    pub fn rewriter(&self, name: &str) -> Result<Box<dyn Rewriter>> {
        let prompt = &self.config.serving_prompt();
        Ok(match name {
            "rm3" => Box::new(Rm3::new(self.ranker.index()?, Rm3Config::default())?),
            "tuned" => {
                let feedback =
                    (self.tuned.feedback.weight > 0.0).then(|| first_pass::feedback(self.ranker)).transpose()?;
                Box::new(Tuned::new(self.tuned.clone(), self.ranker.retriever.card(), feedback)?)
            }
            "zero-shot" => Box::new(self.model.rewriter(name, prompt, self.ranker, None)?),
            "trained" => Box::new(self.model.rewriter(name, prompt, self.ranker, Some(self.adapter))?),
            "raw" => Box::new(Identity),
            _ => return Err(Error::bug("cli::compare", format!("no system is called \"{name}\"")).into()),
        })
    }
}
