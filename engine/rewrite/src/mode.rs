//! What a model is asked for, beside the words of a query: a passage, a list of keywords, one of several ways to search, an
//! order of what was found.

mod choices;
mod document;
mod keywords;
mod rerank;

use serde::{Deserialize, Serialize};

use super::prompt::PromptConfig;
use querywright_types::{Error, Result, RetrieverCard};

pub use choices::SAME;
pub(super) use choices::{examples as choice_examples, names as choice_names, resolved};
pub use document::DocumentConfig;
pub(super) use document::{compose as compose_document, parts as document_parts};
pub(super) use keywords::{count as keyword_count, joined as keywords_of_json};
pub(super) use keywords::{parts as keyword_parts, written as written_keywords};
pub use rerank::RerankConfig;
pub(super) use rerank::{examples as rerank_examples, joined as labels_of_json, labels, resolved as resolved_order};

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
    /// OPQE (arXiv 2510.17139). [`DocumentConfig`] has its settings.
    Document,
    /// Keywords and short phrases, with commas between them, are added to them. A phrase stays one where the retriever
    /// reads phrases.
    Keywords,
    /// One of the [choices](PromptConfig::choices) is named, each of which makes a query of them.
    Choose,
    /// The [candidates](PromptConfig::candidates), the documents that the query finds without a model, are put into another
    /// order. [`RerankConfig`] has its settings.
    Rerank,
}

impl Mode {
    /// Whether what the query is without a model is a part of the rewrite, or one of its choices, or finds what is ordered.
    pub fn keeps_query(self) -> bool {
        self != Self::Rewrite
    }

    /// What stands before an answer in the built-in few-shot prompt.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Rewrite | Self::Expand => "Search",
            Self::Document => "Entry",
            Self::Keywords => "Keywords",
            Self::Choose => "Choice",
            Self::Rerank => "Order",
        }
    }

    /// Whether an answer of a conversation may have several lines.
    pub(super) fn has_lines(self) -> bool {
        matches!(self, Self::Document | Self::Keywords)
    }
}

/// Checks what belongs to one mode alone.
///
/// # Errors
/// [`Error::Argument`] names the key (`prompt.choices`), its value and what would be right.
pub(super) fn validate(config: &PromptConfig, card: &RetrieverCard) -> Result<()> {
    let mode = config.mode;
    let refused = |key: &str, found: String, remedy: &str| Err(Error::argument(key, found, remedy));
    if !config.vocabulary.is_free() && !matches!(mode, Mode::Rewrite | Mode::Expand) {
        let found = format!("{:?} in the mode {mode:?}, whose answers are no plain words", config.vocabulary);
        return refused("prompt.vocabulary", found, "set mode = \"expand\" or \"rewrite\", or vocabulary = \"free\"");
    }
    if mode != Mode::Document && !config.document.is_default() {
        let found = format!("settings of passages in the mode {mode:?}");
        return refused("prompt.document", found, "set mode = \"document\", or leave this section out");
    }
    config.document.validate()?;
    rerank::validate(config)?;
    match (mode, config.choices.is_empty()) {
        (Mode::Choose, true) => {
            let remedy = "give prompt.choices, as choices = { title = { contents = 0, fields = { title = 1 } } }";
            refused("prompt.choices", "none, and the mode is Choose".to_owned(), remedy)
        }
        (Mode::Choose, false) => choices::validate(config, card),
        (_, false) => {
            let found = format!("{} of them in the mode {mode:?}", config.choices.len());
            refused("prompt.choices", found, "set mode = \"choose\", or leave this section out")
        }
        (_, true) => Ok(()),
    }
}

#[cfg(test)]
mod tests;
