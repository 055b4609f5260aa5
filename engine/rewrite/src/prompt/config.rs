//! The configuration of prompts.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::examples;
use crate::error::{Error, Result};
use crate::rewrite::compose::Mode;
use crate::types::{QueryLanguage, RetrieverCard};

/// The form of prompt and answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PromptStyle {
    /// A text to complete, with examples; the answer is the rest of the line. For small and base models.
    #[default]
    FewShot,
    /// A conversation; the answer is one line.
    Chat,
    /// A conversation; the answer is reasoning between think tags, then JSON with the key `query` between answer tags.
    ThinkAnswer,
}

/// What the queries are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// A request in words is to be found.
    #[default]
    Search,
    /// Sequential recommendation: the titles of a history are given, the next item is to be found.
    Recommend,
}

/// An example of a request and the query that it should become.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Example {
    /// The request; empty in [`Task::Recommend`].
    #[serde(default)]
    pub request: String,
    /// The titles of the history, oldest first; empty in [`Task::Search`].
    #[serde(default)]
    pub history: Vec<String>,
    /// The query as the model should write it.
    pub search: String,
    /// The reasoning, for [`PromptStyle::ThinkAnswer`].
    #[serde(default)]
    pub thought: String,
}

/// How prompts are made and answers used. Unknown keys are refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PromptConfig {
    /// The form of prompt and answer. Default: `few-shot`.
    pub style: PromptStyle,
    /// What becomes of the user's own words. Default: `expand`.
    pub mode: Mode,
    /// What the queries are for. Default: `search`.
    pub task: Task,
    /// The query language to ask for, one of the retriever's. Default: the one that the retriever prefers.
    pub language: Option<QueryLanguage>,
    /// What the catalogue holds, in a few words. Default: what the retriever's card says.
    pub content: Option<String>,
    /// The examples. Default: three built-in ones that show the style of the task, mode and language, about bees, bread
    /// and lullabies; an empty list means none.
    pub examples: Option<Vec<Example>>,
    /// A template file in place of the built-in one of the style.
    pub template: Option<PathBuf>,
    /// Characters of a request that the prompt shows; the first ones are kept. Default: 400 (about 100 tokens).
    pub max_request_chars: usize,
    /// Titles of a history that the prompt shows; the last ones are kept. Default: 10.
    pub max_history: usize,
    /// Characters of a title that the prompt shows; the first ones are kept. Default: 100.
    pub max_title_chars: usize,
    /// How much an original word counts against a generated term in the mode `expand`: a boost where the retriever
    /// reads boosts, else a number of repetitions. Default: 2, so that a wrong term costs little. Above 0, at most 100.
    pub original_weight: f32,
    /// Generated terms that are used at most, so that no policy drifts to endless expansion. Default: 32.
    pub max_terms: usize,
    /// Tokens of an answer at most, in serving and evaluation. Default: 32; training sets it to the length that it
    /// sampled with.
    pub max_answer_tokens: usize,
}

impl Default for PromptConfig {
    fn default() -> Self {
        Self {
            style: PromptStyle::default(),
            mode: Mode::default(),
            task: Task::default(),
            language: None,
            content: None,
            examples: None,
            template: None,
            max_request_chars: 400,
            max_history: 10,
            max_title_chars: 100,
            original_weight: 2.0,
            max_terms: 32,
            max_answer_tokens: 32,
        }
    }
}

impl PromptConfig {
    /// The file beside an adapter that says how the model was asked when it was trained.
    pub const FILE: &str = "prompt.toml";

    /// Writes [`Self::FILE`] into an adapter's folder.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(Self::FILE);
        let text = toml::to_string(self).map_err(|e| Error::write(&path, std::io::Error::other(e)))?;
        fs::write(&path, text).map_err(|e| Error::write(&path, e))
    }

    /// Reads [`Self::FILE`] of an adapter's folder; none where there is none (an adapter of another program).
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(Self::FILE);
        let text = match fs::read_to_string(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            text => text.map_err(|e| Error::read(&path, e))?,
        };
        let remedy = "correct it, or remove the file for the defaults";
        toml::from_str(&text).map(Some).map_err(|e| Error::model(&path, e.message().to_owned(), remedy))
    }

    /// Checks every key against the card; the language to ask for.
    ///
    /// # Errors
    /// [`Error::Argument`] names the key, its value and what would be right.
    pub fn validate(&self, card: &RetrieverCard) -> Result<QueryLanguage> {
        for (key, value) in [
            ("max_request_chars", self.max_request_chars),
            ("max_history", self.max_history),
            ("max_title_chars", self.max_title_chars),
            ("max_terms", self.max_terms),
            ("max_answer_tokens", self.max_answer_tokens),
        ] {
            if value == 0 {
                return Err(Error::argument(key, "0", "give at least 1"));
            }
        }
        if !(self.original_weight > 0.0 && self.original_weight <= 100.0) {
            let found = self.original_weight.to_string();
            return Err(Error::argument("original_weight", found, "give a number above 0 and at most 100"));
        }
        for (index, example) in self.examples.iter().flatten().enumerate() {
            let bad = |found| {
                let remedy = "give the task search a `request`, the task recommend a `history`, and both a `search`";
                Err(Error::argument(format!("examples[{index}]"), found, remedy))
            };
            match self.task {
                _ if example.search.trim().is_empty() => return bad("`search` is empty"),
                _ if example.search.contains('\n') => return bad("`search` has more than one line"),
                Task::Search if example.request.trim().is_empty() => return bad("`request` is empty"),
                Task::Recommend if example.history.is_empty() => return bad("`history` is empty"),
                _ => {}
            }
        }
        match self.language {
            None => Ok(card.languages.first().copied().unwrap_or_default()),
            Some(language) if card.languages.contains(&language) => Ok(language),
            Some(language) => Err(Error::argument(
                "language",
                format!("{language:?}, which the retriever {} does not read", card.name),
                format!("it reads {:?}", card.languages),
            )),
        }
    }

    /// The examples to show.
    pub(super) fn examples(&self, language: QueryLanguage) -> Result<Vec<Example>> {
        match &self.examples {
            Some(given) => Ok(given.clone()),
            None => examples::built_in(self.task, self.mode, language),
        }
    }

    /// The name and the text of the template.
    pub(super) fn template_source(&self) -> Result<(String, String)> {
        if let Some(path) = &self.template {
            let text = fs::read_to_string(path).map_err(|e| Error::read(path, e))?;
            return Ok((path.display().to_string(), text));
        }
        let (name, text) = match self.style {
            PromptStyle::FewShot => ("few_shot.jinja", include_str!("../templates/few_shot.jinja")),
            PromptStyle::Chat => ("chat.jinja", include_str!("../templates/chat.jinja")),
            PromptStyle::ThinkAnswer => ("think_answer.jinja", include_str!("../templates/think_answer.jinja")),
        };
        Ok((name.to_owned(), text.to_owned()))
    }
}
