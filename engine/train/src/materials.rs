//! Everything that a run needs besides its configuration: model, retriever, data.

use std::sync::Arc;

use querywright_data::catalog::Catalog;
use querywright_model::{Decoder, Tokenizer};
use querywright_rewrite::PromptEncoder;
use querywright_types::{Error, Judgements, Query, Result, Retriever, Rewrite};
use rayon::prelude::*;

/// A query with its judgements.
pub type Labelled = (Query, Judgements);

/// Everything that a run needs besides its configuration.
pub struct Materials {
    /// The model's name, for adapters and tables.
    pub model_name: String,
    /// The base model.
    pub decoder: Arc<Decoder>,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Makes prompts and reads answers.
    pub encoder: Arc<PromptEncoder>,
    /// The environment: what gives the reward.
    pub retriever: Arc<dyn Retriever>,
    /// The documents that are searched.
    pub catalog: Arc<Catalog>,
    /// Queries to train on.
    pub train: Vec<Labelled>,
    /// Queries that choose the best adapter.
    pub dev: Vec<Labelled>,
    /// A digest of the model's weights.
    pub model_digest: String,
}

impl std::fmt::Debug for Materials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Materials")
            .field("model_name", &self.model_name)
            .field("retriever", self.retriever.card())
            .field("train", &self.train.len())
            .field("dev", &self.dev.len())
            .finish_non_exhaustive()
    }
}

impl Materials {
    /// What each training query is without a model: its own words, or what the base makes of them.
    ///
    /// # Errors
    /// Those of the base's source of feedback.
    pub(super) fn originals(&self) -> Result<Vec<Rewrite>> {
        self.train.par_iter().map(|(query, _)| self.encoder.prompter().original(query)).collect()
    }

    /// Refuses a split without a query to train on or to choose by.
    pub(super) fn require_queries(&self) -> Result<()> {
        for (key, queries) in [("data.train", &self.train), ("data.dev", &self.dev)] {
            if queries.is_empty() {
                let found = "the split has no query with a relevant document";
                return Err(Error::argument(key, found, "choose another split"));
            }
        }
        Ok(())
    }
}
