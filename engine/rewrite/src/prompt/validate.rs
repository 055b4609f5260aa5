//! What a configuration of prompts must hold.

use super::conversation;
use crate::config::{PromptConfig, PromptStyle, Task};
use crate::mode;
use querywright_types::{Error, QueryLanguage, Result, RetrieverCard};

/// Candidates of a prompt, at most.
const MOST_CANDIDATES: usize = 100;

impl PromptConfig {
    /// Checks every key, against the card where it matters. Returns the query language to ask for.
    ///
    /// # Errors
    /// [`Error::Argument`] names the key (`prompt.style`), its value and what would be right.
    pub fn validate(&self, card: &RetrieverCard) -> Result<QueryLanguage> {
        for (key, value) in [
            ("prompt.max_request_chars", self.max_request_chars),
            ("prompt.max_history", self.max_history),
            ("prompt.max_title_chars", self.max_title_chars),
            ("prompt.max_terms", self.max_terms),
            ("prompt.max_answer_tokens", self.max_answer_tokens),
        ] {
            if value == 0 {
                return Err(Error::argument(key, "0", "give at least 1"));
            }
        }
        if !(self.original_weight > 0.0 && self.original_weight <= 100.0) {
            let found = self.original_weight.to_string();
            return Err(Error::argument("prompt.original_weight", found, "give a number above 0 and at most 100"));
        }
        if self.candidates > MOST_CANDIDATES {
            let remedy = format!("give at most {MOST_CANDIDATES}, or 0 for none");
            return Err(Error::argument("prompt.candidates", self.candidates.to_string(), remedy));
        }
        if let Some(base) = &self.base {
            base.validate(card).map_err(|error| match error {
                Error::Argument { name, found, remedy, .. } => Error::argument(format!("prompt.{name}"), found, remedy),
                error => error,
            })?;
        }
        mode::validate(self, card)?;
        conversation::validate(self)?;
        if !self.vocabulary.is_free() && self.style != PromptStyle::FewShot {
            let found =
                format!("{:?} with the style {:?}, whose answers are no lists of words", self.vocabulary, self.style);
            return Err(Error::argument(
                "prompt.vocabulary",
                found,
                "set style = \"few-shot\", or vocabulary = \"free\"",
            ));
        }
        self.validate_examples()?;
        match self.language {
            None => Ok(card.languages.first().copied().unwrap_or_default()),
            Some(language) if card.languages.contains(&language) => Ok(language),
            Some(language) => Err(Error::argument(
                "prompt.language",
                format!("{language:?}, which the retriever {} does not read", card.name),
                format!("it reads {:?}", card.languages),
            )),
        }
    }

    /// Examples look like requests: they hold what requests hold.
    fn validate_examples(&self) -> Result<()> {
        for (index, example) in self.examples.iter().flatten().enumerate() {
            let refused =
                |found: &str, remedy: &str| Err(Error::argument(format!("prompt.examples[{index}]"), found, remedy));
            let bad = |found| {
                let remedy = "give the tasks search and conversation a `request`, conversation also `turns`, the task recommend a \
                              `history`, and all a `search`";
                refused(found, remedy)
            };
            match self.task {
                _ if example.search.trim().is_empty() => return bad("`search` is empty"),
                _ if example.search.contains('\n') => return bad("`search` has more than one line"),
                Task::Search | Task::Conversation if example.request.trim().is_empty() => {
                    return bad("`request` is empty");
                }
                Task::Conversation if example.turns.iter().all(|turn| turn.trim().is_empty()) => {
                    return bad("`turns` is empty");
                }
                Task::Recommend if example.history.is_empty() => return bad("`history` is empty"),
                _ if self.candidates > 0 && example.candidates.iter().all(|one| one.trim().is_empty()) => {
                    let remedy = "list what a first search might propose, some of which `search` picks, or set \
                                  prompt.candidates = 0";
                    return refused("`candidates` is empty, but requests show some", remedy);
                }
                _ => {}
            }
        }
        Ok(())
    }
}
