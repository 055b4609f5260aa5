//! What a run came to: raw, RM3, zero-shot and trained side by side, and the report.

use std::path::{Path, PathBuf};

use anyhow::Result;
use querywright::catalog::Dataset;
use querywright::evaluate::{Comparison, Evaluated, Evaluation, Report, samples};
use querywright::metrics::Measure;
use querywright::retrieve::{Rm3, Rm3Config};
use querywright::stack::Identity;
use querywright::train::TrainConfig;
use querywright::types::Rewriter;

use crate::open::{Model, Ranker};
use crate::progress::Bar;

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
}

/// The table, and where the report lies, or why it could not be written.
pub struct Compared {
    pub comparison: Comparison,
    pub report: querywright::Result<PathBuf>,
}

impl Finished<'_> {
    /// Measures the four systems on the held-out queries and writes the report.
    pub fn compare(&self, measures: &[Measure]) -> Result<Compared> {
        let queries = self.dataset.judged(self.split)?;
        let prompt = &self.config.serving_prompt();
        let rewriters: [(&str, Box<dyn Rewriter>); 4] = [
            ("raw", Box::new(Identity)),
            ("rm3", Box::new(Rm3::new(self.ranker.index()?, Rm3Config::default())?)),
            ("zero-shot", Box::new(self.model.rewriter("zero-shot", prompt, self.ranker, None)?)),
            ("trained", Box::new(self.model.rewriter("trained", prompt, self.ranker, Some(self.adapter))?)),
        ];
        let evaluation = Evaluation { catalog: &self.dataset.catalog, queries: &queries, measures, batch: BATCH };
        let mut measured: Vec<Evaluated> = Vec::new();
        for (name, rewriter) in &rewriters {
            let bar = Bar::new(queries.len() as u64, name, "queries");
            let mut found = evaluation.run(rewriter.as_ref(), self.ranker.retriever.as_ref(), &bar)?;
            found.system = found.system.named(*name);
            bar.finish();
            measured.push(found);
        }
        let systems: Vec<_> = measured.iter().map(|m| m.system.clone()).collect();
        let comparison = Comparison::of(&systems, "trained")?;
        let shown: Vec<&Evaluated> = measured.iter().filter(|m| m.system.name != "rm3").collect();
        let samples = measures.first().map_or_else(Vec::new, |m| samples(&queries, &shown, *m, SAMPLES));
        let run = &self.config.train.output_dir;
        let report = Report {
            title: format!("{} on {}", self.model.name, self.dataset.name),
            subtitle: format!("{} queries of the split {}, BM25", queries.len(), self.split),
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
        Ok(Compared { comparison, report })
    }
}
