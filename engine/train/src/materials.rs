//! What a run is made of, besides its configuration.

use std::sync::Arc;

use crate::catalog::Catalog;
use crate::model::{Decoder, Tokenizer};
use crate::rewrite::PromptEncoder;
use crate::types::{Judgements, Query, Retriever};

/// A query with what is right for it.
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
    /// The environment.
    pub retriever: Arc<dyn Retriever>,
    /// What is searched.
    pub catalog: Arc<Catalog>,
    /// Queries to learn from.
    pub train: Vec<Labelled>,
    /// Queries that choose the best adapter.
    pub dev: Vec<Labelled>,
    /// A digest of the model's weights.
    pub model_digest: String,
}
