//! What a model is asked for, beside the words of a query: a passage, a list of keywords, one of several ways to search, an
//! order of what was found.

mod choices;
mod document;
mod keywords;
mod rerank;

use super::config::{Mode, PromptConfig};
use querywright_types::{Error, Result, RetrieverCard};

pub use choices::SAME;
pub(super) use choices::{examples as choice_examples, names as choice_names, resolved};
pub(super) use document::{compose as compose_document, parts as document_parts};
pub(super) use keywords::count as keyword_count;
pub(super) use keywords::{parts as keyword_parts, written as written_keywords};
pub(super) use rerank::{examples as rerank_examples, labels, resolved as resolved_order};

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
