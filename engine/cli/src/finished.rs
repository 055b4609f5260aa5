//! A finished run, and the systems of its table.

use std::path::PathBuf;

use anyhow::Result;
use querywright::Error;
use querywright::catalog::Dataset;
use querywright::retrieve::{Rm3, Rm3Config};
use querywright::rewrite::{BaseConfig, LanguageModel, Tuned};
use querywright::stack::Identity;
use querywright::train::{RunCost, TrainConfig, WarmStartConfig};
use querywright::types::Rewriter;

use crate::candidates;
use crate::ranker::Ranker;
use crate::weights::Model;

/// Queries that are rewritten at once.
pub const BATCH: usize = 64;
/// The model before it learned: what probes are set against.
pub const ZERO_SHOT: &str = "zero-shot";
/// The model after the supervised steps.
pub const WARM_START: &str = "warm start";

/// A finished run and what it is measured on.
pub struct Finished<'a> {
    /// The run as if this retriever were the only one.
    pub config: &'a TrainConfig,
    /// Where what belongs to the retriever alone is kept.
    pub folder: PathBuf,
    pub dataset: &'a Dataset,
    pub split: &'a str,
    pub ranker: &'a Ranker,
    pub model: &'a Model,
    pub adapter: PathBuf,
    /// What training it cost.
    pub cost: &'a RunCost,
    /// How a request becomes a query without a model.
    pub tuned: BaseConfig,
}

impl Finished<'_> {
    /// The system that a query is without the model: what the model's words are added to.
    pub fn without_model(&self) -> &'static str {
        if self.config.prompt.base.is_some() { "tuned" } else { "raw" }
    }

    /// The adapter after the warm start, where GRPO went on from it.
    pub fn warm_start(&self) -> PathBuf {
        self.folder.join(WarmStartConfig::FOLDER)
    }

    /// The model with its adapter.
    pub fn trained(&self) -> Result<LanguageModel> {
        self.model.rewriter("trained", &self.config.serving_prompt(), self.ranker, Some(&self.adapter))
    }

    /// A system of the table by its name.
    pub fn rewriter(&self, name: &str) -> Result<Box<dyn Rewriter>> {
        let prompt = &self.config.serving_prompt();
        Ok(match name {
            "rm3" => Box::new(Rm3::new(self.ranker.index()?, Rm3Config::default())?),
            "tuned" => {
                let feedback =
                    (self.tuned.feedback.weight > 0.0).then(|| candidates::feedback(self.ranker)).transpose()?;
                Box::new(Tuned::new(self.tuned.clone(), self.ranker.retriever.card(), feedback)?)
            }
            ZERO_SHOT => Box::new(self.model.rewriter(name, prompt, self.ranker, None)?),
            WARM_START => Box::new(self.model.rewriter(name, prompt, self.ranker, Some(&self.warm_start()))?),
            "trained" => Box::new(self.trained()?),
            "raw" => Box::new(Identity),
            _ => return Err(Error::bug("cli::finished", format!("no system is called \"{name}\"")).into()),
        })
    }
}
