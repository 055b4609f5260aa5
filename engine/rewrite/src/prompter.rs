//! Prompts, completions and rewrites of one configuration for one retriever, all as text.

use std::sync::Arc;

use super::compose::Composer;
use super::parse::{FormatFault, ParsedCompletion, parse};
use super::prompt::{ChatMessage, Prompt, PromptConfig, PromptStyle, RequestValues, Role, Task, Template, sanitised};
use super::reading::Reading;
use querywright_types::{Error, Ordinal, Query, QueryLanguage, Result, RetrieverCard, Rewrite};

/// Gives the title of an item of the catalogue.
pub type Titles = Arc<dyn Fn(Ordinal) -> String + Send + Sync>;

/// Renders the prompts of one configuration for one retriever, and reads the completions.
#[derive(Clone)]
pub struct Prompter {
    config: PromptConfig,
    language: QueryLanguage,
    template: Template,
    titles: Option<Titles>,
    shared: Prompt,
}

impl std::fmt::Debug for Prompter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prompter")
            .field("config", &self.config)
            .field("language", &self.language)
            .finish_non_exhaustive()
    }
}

impl Prompter {
    /// Checks the configuration against the card and renders the part that all prompts share.
    ///
    /// # Errors
    /// [`Error::Argument`] names the key that cannot be used, or the place where the template does not render.
    pub fn new(config: PromptConfig, card: &RetrieverCard) -> Result<Self> {
        let language = config.validate(card)?;
        let template = Template::new(&config, language, card)?;
        let shared = template.shared(&config, language)?;
        Ok(Self { config, language, template, titles: None, shared })
    }

    /// Sets the source of titles for the items in a query's history. Without one, each line of the query's text is a
    /// title in [`Task::Recommend`].
    pub fn with_titles(mut self, titles: Titles) -> Self {
        self.titles = Some(titles);
        self
    }

    /// The configuration.
    pub fn config(&self) -> &PromptConfig {
        &self.config
    }

    /// The query language that the prompts ask for.
    pub fn language(&self) -> QueryLanguage {
        self.language
    }

    /// The prompt for a query.
    ///
    /// # Errors
    /// [`Error::Argument`] when the template does not render this query.
    pub fn prompt(&self, query: &Query) -> Result<Prompt> {
        let text = self.template.request(&self.request_values(query))?;
        Ok(match &self.shared {
            Prompt::Completion { prefix, .. } => {
                Prompt::Completion { prefix: prefix.clone(), query: format!("\n\n{text}") }
            }
            Prompt::Chat { messages } => {
                let mut messages = messages.clone();
                messages.push(ChatMessage::new(Role::User, text));
                Prompt::Chat { messages }
            }
        })
    }

    /// The texts that end a completion: the end of the line in the few-shot style. Chats end with the model's own token.
    pub fn stop_strings(&self) -> &'static [&'static str] {
        match self.config.style {
            PromptStyle::FewShot => &["\n"],
            PromptStyle::Chat | PromptStyle::ThinkAnswer => &[],
        }
    }

    /// Parses a completion.
    pub fn parse(&self, completion: &str) -> ParsedCompletion {
        parse(self.config.style, self.language, completion)
    }

    /// Composes the retriever's text from a generated query.
    pub fn composer(&self) -> Composer {
        Composer {
            mode: self.config.mode,
            language: self.language,
            original_weight: self.config.original_weight,
            max_terms: self.config.max_terms,
        }
    }

    /// Parses a completion and composes its rewrite, with and without each generated term.
    pub fn read(&self, query: &Query, completion: &str) -> Reading {
        let parsed = self.parse(completion);
        match self.nothing(query, &parsed) {
            Some(rewrite) => Reading::nothing(rewrite),
            None => Reading::new(&parsed, completion, query, &self.composer()),
        }
    }

    /// The original query, where no word was written and that is an answer.
    fn nothing(&self, query: &Query, parsed: &ParsedCompletion) -> Option<Rewrite> {
        let nothing = !self.config.vocabulary.is_free() && parsed.broken == Some(FormatFault::Empty);
        nothing.then(|| Rewrite::plain(query.text.clone()))
    }

    /// The rewrite of a completion.
    ///
    /// # Errors
    /// [`Error::Format`] when the completion holds no query.
    pub fn rewrite(&self, query: &Query, completion: &str) -> Result<Rewrite> {
        let parsed = self.parse(completion);
        if let Some(rewrite) = self.nothing(query, &parsed) {
            return Ok(rewrite);
        }
        match parsed {
            ParsedCompletion { query: Some(generated), .. } => Ok(self.composer().compose(query, &generated)),
            ParsedCompletion { broken: Some(fault), .. } => Err(Error::Format(fault.to_string())),
            ParsedCompletion { .. } => Err(Error::bug("prompter", "a completion without a query and without a fault")),
        }
    }

    /// What stands in a prompt of its query.
    pub(super) fn request_values(&self, query: &Query) -> RequestValues {
        let PromptConfig { max_request_chars, max_history, max_title_chars, .. } = self.config;
        if self.config.task == Task::Search {
            return RequestValues { text: sanitised(&query.text, max_request_chars), history: Vec::new() };
        }
        let first_shown = |count: usize| count.saturating_sub(max_history);
        let titles: Vec<String> = match &self.titles {
            Some(title) if !query.history.is_empty() => {
                query.history.iter().skip(first_shown(query.history.len())).map(|&item| title(item)).collect()
            }
            _ => query.text.lines().map(str::to_owned).filter(|line| !line.trim().is_empty()).collect(),
        };
        let shown = titles.iter().skip(first_shown(titles.len()));
        let history = shown.map(|title| sanitised(title, max_title_chars)).collect();
        RequestValues { text: String::new(), history }
    }
}

#[cfg(test)]
mod tests;
