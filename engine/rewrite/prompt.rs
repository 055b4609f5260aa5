//! Prompts: templates as data, filled from the retriever's card and the task.

use std::path::{Path, PathBuf};

use minijinja::{Environment, context};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::model::{Message, Tokenizer};
use crate::types::{Query, QueryLanguage, RetrieverCard};

/// How the model is asked, and how it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PromptStyle {
    /// A text that goes on: examples, the request, and a line to complete. Small models do this best.
    #[default]
    FewShot,
    /// The model's chat template; the answer is one line.
    Chat,
    /// The model's chat template; reasoning inside think tags, then JSON inside an answer tag (Rec-R1).
    ThinkAnswer,
}

/// What becomes of the original query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// The rewrite takes its place.
    Rewrite,
    /// It stays, weighted, and the generated terms are added.
    #[default]
    Expand,
}

/// What the query is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// A user's words.
    #[default]
    Search,
    /// A history of items, the next one being sought.
    Recommendation,
}

/// A request and the search that answers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Example {
    /// What a user might say.
    pub request: String,
    /// What should be searched for.
    pub search: String,
}

/// The settings of a prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PromptConfig {
    /// Default `few-shot`.
    pub style: PromptStyle,
    /// Default `expand`.
    pub mode: Mode,
    /// Default `search`.
    pub task: Task,
    /// The language that the model writes. Default: the retriever's preferred one.
    pub language: Option<QueryLanguage>,
    /// A minijinja template in place of the built-in one; variables `query`, `examples`, `content`, `mode`, `task`,
    /// `language`.
    pub template: Option<PathBuf>,
    /// Examples for `few-shot`. Default: four built-in ones, about no data set.
    pub examples: Option<Vec<Example>>,
    /// Weight of each original word in `expand`; generated terms weigh 1. Default 1.
    pub original_weight: f32,
    /// Characters of the query at most; the end is cut off, never the head. Default 600.
    pub max_query_chars: usize,
    /// Words that are taken from an answer at most. Default 32.
    pub max_words: usize,
}

impl Default for PromptConfig {
    fn default() -> Self {
        Self {
            style: PromptStyle::FewShot,
            mode: Mode::Expand,
            task: Task::Search,
            language: None,
            template: None,
            examples: None,
            original_weight: 1.0,
            max_query_chars: 600,
            max_words: 32,
        }
    }
}

/// The built-in examples: household things that are in none of the data sets.
const EXAMPLES: [(&str, &str); 4] = [
    ("my tea goes cold before I finish it", "insulated mug"),
    ("want to hang pictures without drilling holes", "adhesive picture hooks"),
    ("the neighbours can see into our bathroom", "frosted window film"),
    ("keep losing my keys all over the house", "key finder tracker"),
];

/// Stands for the query while a template is rendered; no text that a user can type after cleaning holds it.
const MARK: char = '\u{E000}';

/// Makes prompts for one model, retriever and task, and reads its answers.
pub struct Prompter {
    pub(super) config: PromptConfig,
    pub(super) card: RetrieverCard,
    pub(super) language: QueryLanguage,
    tokenizer: Tokenizer,
    prefix: Vec<u32>,
    lead: String,
    suffix: String,
    stop: Vec<String>,
}

impl Prompter {
    /// Renders the template once and keeps what is the same for all queries in tokens.
    pub fn new(config: PromptConfig, card: RetrieverCard, tokenizer: Tokenizer) -> Result<Self> {
        config.validate()?;
        let language = config.language.or(card.languages.first().copied()).unwrap_or_default();
        let rendered = match config.style {
            PromptStyle::FewShot => render(&config, &card, language)?.trim_end().to_owned(),
            PromptStyle::Chat | PromptStyle::ThinkAnswer => {
                let Some(template) = tokenizer.chat_template() else {
                    let found = "the model has no chat template";
                    return Err(Error::argument("prompt.style", found, "use style = \"few-shot\", or an instruct model"));
                };
                let system = render(&config, &card, language)?;
                let messages = [Message::new("system", system.trim()), Message::new("user", MARK.to_string())];
                template.render(&messages, true)?
            }
        };
        let Some((prefix, suffix)) = rendered.split_once(MARK) else {
            let remedy = "let it hold {{ query }} where the query belongs";
            return Err(Error::argument("prompt.template", "the template never shows the query", remedy));
        };
        // Tokenizers join a space with the word after it: it belongs to the query's part.
        let (fixed, lead) = match prefix.strip_suffix(' ') {
            Some(fixed) => (fixed, " ".to_owned()),
            None => (prefix, String::new()),
        };
        let stop = if config.style == PromptStyle::ThinkAnswer { "</answer>" } else { "\n" };
        Ok(Self {
            prefix: tokenizer.encode(fixed, true)?,
            lead,
            suffix: suffix.to_owned(),
            stop: vec![stop.to_owned()],
            config,
            card,
            language,
            tokenizer,
        })
    }

    /// The tokens that every prompt begins with.
    pub fn prefix(&self) -> &[u32] {
        &self.prefix
    }

    /// The tokens of a query's own part.
    pub fn tokens(&self, query: &Query) -> Result<Vec<u32>> {
        let text = clean(&query.text, self.config.max_query_chars);
        self.tokenizer.encode(&format!("{}{text}{}", self.lead, self.suffix), false)
    }

    /// The whole prompt of a query as text, for people.
    pub fn text(&self, query: &Query) -> Result<String> {
        let tokens = [self.prefix.as_slice(), &self.tokens(query)?].concat();
        self.tokenizer.decode(&tokens)
    }

    /// Texts that end an answer.
    pub fn stop(&self) -> &[String] {
        &self.stop
    }

    /// The settings.
    pub fn config(&self) -> &PromptConfig {
        &self.config
    }
}

impl PromptConfig {
    /// The file beside an adapter that says how the model was asked when it was trained.
    pub const FILE: &str = "prompt.toml";

    /// Writes [`Self::FILE`] into an adapter's folder.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(Self::FILE);
        let text = toml::to_string(self).map_err(|e| Error::write(&path, std::io::Error::other(e)))?;
        std::fs::write(&path, text).map_err(|e| Error::write(&path, e))
    }

    /// Reads [`Self::FILE`] of an adapter's folder; none where there is none (an adapter of another program).
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(Self::FILE);
        let text = match std::fs::read_to_string(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            text => text.map_err(|e| Error::read(&path, e))?,
        };
        let bad = |e: toml::de::Error| Error::model(&path, e.message().to_owned(), "correct it, or remove the file for the defaults");
        toml::from_str(&text).map(Some).map_err(bad)
    }

    /// Refuses values that have no meaning.
    pub fn validate(&self) -> Result<()> {
        if !(self.original_weight.is_finite() && self.original_weight > 0.0) {
            let found = format!("found {}", self.original_weight);
            return Err(Error::argument("prompt.original_weight", found, "give a positive number, 1 is usual"));
        }
        if self.max_query_chars == 0 || self.max_words == 0 {
            let key = if self.max_words == 0 { "prompt.max_words" } else { "prompt.max_query_chars" };
            return Err(Error::argument(key, "found 0", "allow at least 1"));
        }
        if self.examples.as_ref().is_some_and(|e| e.iter().any(|e| e.search.trim().is_empty() || e.search.contains('\n'))) {
            let remedy = "give each example one line of search keywords";
            return Err(Error::argument("prompt.examples", "an example's search is empty or has a line break", remedy));
        }
        Ok(())
    }
}

fn render(config: &PromptConfig, card: &RetrieverCard, language: QueryLanguage) -> Result<String> {
    let source = match &config.template {
        Some(path) => std::fs::read_to_string(path).map_err(|e| Error::read(path, e))?,
        None => match config.style {
            PromptStyle::FewShot => include_str!("templates/few-shot.jinja").to_owned(),
            PromptStyle::Chat => include_str!("templates/chat.jinja").to_owned(),
            PromptStyle::ThinkAnswer => include_str!("templates/think-answer.jinja").to_owned(),
        },
    };
    let built_in = || EXAMPLES.map(|(request, search)| Example { request: request.into(), search: search.into() }).to_vec();
    let examples = config.examples.clone().unwrap_or_else(built_in);
    let values = context! {
        query => MARK.to_string(),
        examples,
        content => card.content,
        mode => config.mode,
        task => config.task,
        language,
    };
    let mut environment = Environment::new();
    environment.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
    environment.render_str(&source, values).map_err(|e| {
        let name = config.template.as_ref().map_or("prompt.template".into(), |p| p.display().to_string());
        Error::argument(name, e.to_string(), "the variables are query, examples, content, mode, task, language")
    })
}

/// One line, no control characters, a bounded length; the head is kept.
fn clean(text: &str, limit: usize) -> String {
    let mut out = String::with_capacity(text.len().min(limit * 4));
    for word in text.split(|c: char| c.is_whitespace() || c.is_control() || c == MARK).filter(|w| !w.is_empty()) {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
    }
    match out.char_indices().nth(limit) {
        Some((at, _)) => out[..at].trim_end().to_owned(),
        None => out,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_cleaned_to_one_bounded_line_whose_head_is_kept() {
        assert_eq!(clean("  red\n\nshoes\u{7}\u{E000} size 9 ", 600), "red shoes size 9");
        assert_eq!(clean("äöü red", 5), "äöü r");
        assert_eq!(clean("", 5), "");
    }

    #[test]
    fn every_template_shows_the_card_and_the_query_in_every_mode() {
        let card = RetrieverCard {
            name: "x".into(),
            version: "1".into(),
            digest: "d".into(),
            languages: vec![QueryLanguage::Plain],
            fields: vec![],
            reads_history: false,
            content: "garden tools".into(),
        };
        for mode in [Mode::Rewrite, Mode::Expand] {
            for style in [PromptStyle::FewShot, PromptStyle::Chat, PromptStyle::ThinkAnswer] {
                let config = PromptConfig { style, mode, ..Default::default() };
                let text = render(&config, &card, QueryLanguage::Boolean).unwrap();
                assert!(text.contains("garden tools") && text.contains("AND"), "{text}");
                assert_eq!(text.contains(MARK), style == PromptStyle::FewShot);
            }
        }
    }

    #[test]
    fn a_template_that_is_wrong_is_refused_with_what_it_may_use() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.jinja");
        std::fs::write(&path, "{{ qury }}").unwrap();
        let config = PromptConfig { template: Some(path), ..Default::default() };
        let card = RetrieverCard {
            name: String::new(),
            version: String::new(),
            digest: String::new(),
            languages: vec![],
            fields: vec![],
            reads_history: false,
            content: String::new(),
        };
        let error = render(&config, &card, QueryLanguage::Plain).unwrap_err().to_string();
        assert!(error.contains("t.jinja") && error.contains("query, examples"), "{error}");
    }
}
