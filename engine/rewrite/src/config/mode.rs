//! What a model is asked for.

use serde::{Deserialize, Serialize};

/// What a model is asked for, and what becomes of the user's own words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Mode {
    /// The generated query replaces them.
    Rewrite,
    /// They are kept, with a weight, and the generated terms are added. Even a weak model starts near the raw query.
    #[default]
    Expand,
    /// A short passage, written as a fitting entry would be, is added to them (a pseudo-document). For a retriever of
    /// words as in Query2doc (arXiv 2303.07678), for one of meaning as in HyDE (arXiv 2212.10496). Learned by reward it is
    /// OPQE (arXiv 2510.17139). [`DocumentConfig`](crate::DocumentConfig) has its settings.
    Document,
    /// Keywords and short phrases, with commas between them, are added to them. A phrase stays one where the retriever
    /// reads phrases.
    Keywords,
    /// One of the [choices](crate::PromptConfig::choices) is named, each of which makes a query of them.
    Choose,
    /// The [candidates](crate::PromptConfig::candidates), the documents that the query finds without a model, are put into another
    /// order. [`RerankConfig`](crate::RerankConfig) has its settings.
    Rerank,
}

impl Mode {
    /// Whether what the query is without a model is a part of the rewrite, or one of its choices, or finds what is ordered.
    pub fn keeps_query(self) -> bool {
        self != Self::Rewrite
    }

    /// What stands before an answer in the built-in few-shot prompt.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Rewrite | Self::Expand => "Search",
            Self::Document => "Entry",
            Self::Keywords => "Keywords",
            Self::Choose => "Choice",
            Self::Rerank => "Order",
        }
    }

    /// Whether an answer of a conversation may have several lines.
    pub(crate) fn has_lines(self) -> bool {
        matches!(self, Self::Document | Self::Keywords)
    }
}
