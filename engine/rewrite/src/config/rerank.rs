//! The section `rerank`: what is shown of documents that are ordered, and how many are named.

use serde::{Deserialize, Serialize};

use super::{Mode, PromptConfig};

/// Characters of a token, where no tokenizer counts.
const CHARS: usize = 4;

/// What is shown of a candidate, and how many are named, in [`Mode::Rerank`]. Unknown keys are refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RerankConfig {
    /// The fields of a document that a prompt shows, one behind the other. Default: none; its title, or all its text where it
    /// has no title.
    pub fields: Vec<String>,
    /// Tokens of a candidate in a prompt, at most; the first ones are kept. For a server, whose tokenizer is not known, four
    /// characters each. Default: 24.
    pub max_tokens: usize,
    /// Candidates that an answer names, at most; the others keep their order behind them. Default: 0, all.
    pub named: usize,
}

impl Default for RerankConfig {
    fn default() -> Self {
        Self { fields: Vec::new(), max_tokens: 24, named: 0 }
    }
}

impl RerankConfig {
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Characters of a candidate, at most.
    pub(crate) fn chars(&self) -> usize {
        self.max_tokens.saturating_mul(CHARS)
    }

    /// Labels of an answer, at most, of `candidates`.
    pub fn most(&self, candidates: usize) -> usize {
        if self.named == 0 { candidates } else { self.named.min(candidates) }
    }
}

impl PromptConfig {
    /// The zero-shot baseline of re-ranking: an untrained model orders the first ten documents.
    pub fn rerank() -> Self {
        Self { mode: Mode::Rerank, candidates: 10, ..Self::default() }
    }
}
