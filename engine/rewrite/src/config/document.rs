//! The section `document`: how a passage becomes a query.

use serde::{Deserialize, Serialize};

use super::{Mode, PromptConfig};
use querywright_types::{Error, Result};

/// Tokens of a passage in the baselines, at most.
const PASSAGE_TOKENS: usize = 128;

/// How a passage becomes a query, in [`Mode::Document`]. Unknown keys are refused.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DocumentConfig {
    /// How often a word of the query counts against one of the passage (Query2doc's n): a boost where the retriever reads
    /// boosts, otherwise a number of repetitions. For a retriever of meaning the query stands once before the passage,
    /// whatever the number. With 0 the passage stands alone. From 0 to 100. Default: 5.
    pub query_weight: f32,
    /// Words of a passage that are used, at most, the first ones. In the place of
    /// [`max_terms`](PromptConfig::max_terms). Default: 128.
    pub max_words: usize,
}

impl Default for DocumentConfig {
    fn default() -> Self {
        Self { query_weight: 5.0, max_words: 128 }
    }
}

impl DocumentConfig {
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    pub(crate) fn validate(&self) -> Result<()> {
        if !(0.0..=100.0).contains(&self.query_weight) {
            let (found, remedy) = (self.query_weight.to_string(), "give a number from 0, the passage alone, to 100");
            return Err(Error::argument("prompt.document.query_weight", found, remedy));
        }
        if self.max_words == 0 {
            return Err(Error::argument("prompt.document.max_words", "0", "give at least 1"));
        }
        Ok(())
    }
}

impl PromptConfig {
    /// The zero-shot baseline of Query2doc: a passage behind five times the query, for a retriever of words.
    pub fn query2doc() -> Self {
        Self { mode: Mode::Document, max_answer_tokens: PASSAGE_TOKENS, ..Self::default() }
    }

    /// The zero-shot baseline of HyDE, with one passage, which weighs as much as the query: for a retriever of meaning.
    pub fn hyde() -> Self {
        let document = DocumentConfig { query_weight: 1.0, ..DocumentConfig::default() };
        Self { document, ..Self::query2doc() }
    }
}
