//! Prompts, completions and rewrites of one configuration for one retriever, all as text.

use std::sync::Arc;

use super::base::Feedback;
use super::candidates::Candidates;
use super::compose::Composer;
use super::mode::{Mode, SAME, choice_names, resolved};
use super::parse::{FormatFault, ParsedCompletion, parse};
#[cfg(feature = "model")]
use super::prompt::marked;
use super::prompt::{ChatMessage, Prompt, PromptConfig, PromptStyle, RequestValues, Role, Task, Template};
use super::prompt::{sanitised, shown_candidates};
use super::query_terms::QueryTerm;
use super::reading::Reading;
use querywright_types::{Deadline, Error, Kept, Ordinal, Query, QueryLanguage, Result, RetrieverCard, Rewrite};

/// Gives the title of an item of the catalogue.
pub type Titles = Arc<dyn Fn(Ordinal) -> String + Send + Sync>;

/// Renders the prompts of one configuration for one retriever, and reads the completions.
#[derive(Clone)]
pub struct Prompter {
    config: PromptConfig,
    language: QueryLanguage,
    template: Template,
    /// The names that an answer may have; none outside the mode `choose`.
    choices: Vec<String>,
    titles: Option<Titles>,
    feedback: Option<Feedback>,
    candidates: Option<Arc<dyn Candidates>>,
    shared: Prompt,
    #[cfg(feature = "model")]
    marked: Prompt,
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
        let shared = template.shared(&config, language, false)?;
        Ok(Self {
            // A template that cannot say marked values has its own words in doubt as well.
            #[cfg(feature = "model")]
            marked: template.shared(&config, language, true).unwrap_or_else(|_| in_doubt(&shared)),
            shared,
            choices: choice_names(&config),
            config,
            language,
            template,
            titles: None,
            feedback: None,
            candidates: None,
        })
    }

    /// Sets the source of titles for the items in a query's history. Without one, each line of the query's text is a
    /// title in [`Task::Recommend`].
    pub fn with_titles(mut self, titles: Titles) -> Self {
        self.titles = Some(titles);
        self
    }

    /// Sets the source of the words that a [base](PromptConfig::base) or a [choice](PromptConfig::choices) with feedback
    /// asks for.
    pub fn with_feedback(mut self, feedback: Feedback) -> Self {
        self.feedback = Some(feedback);
        self
    }

    /// Sets the source of the [candidates](PromptConfig::candidates) that prompts show. In a search with answers of
    /// [candidate words](crate::Vocabulary::Feedback) the source of those takes its place.
    pub fn with_candidates(mut self, candidates: Arc<dyn Candidates>) -> Self {
        self.candidates = Some(candidates);
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
    /// [`Error::Argument`] when the template does not render this query; where it shows candidates, those of their source,
    /// and [`Error::Argument`] without one.
    pub fn prompt(&self, query: &Query) -> Result<Prompt> {
        self.prompt_within(query, Deadline::NONE)
    }

    /// As [`prompt`](Self::prompt), with candidates that are found by the deadline.
    pub(super) fn prompt_within(&self, query: &Query, deadline: Deadline) -> Result<Prompt> {
        self.prompt_of(&self.request_values(query, &self.candidates(query, deadline)?))
    }

    /// The prompt that shows these values.
    pub(super) fn prompt_of(&self, values: &RequestValues) -> Result<Prompt> {
        Ok(complete(&self.shared, self.template.request(values, false)?))
    }

    /// All that the source of candidates proposes for a query; nothing, and nobody is asked, where prompts show none.
    pub(super) fn candidates(&self, query: &Query, deadline: Deadline) -> Result<Vec<String>> {
        if self.config.candidates == 0 {
            return Ok(Vec::new());
        }
        self.candidate_source()?.propose(query, deadline)
    }

    /// Where the candidates come from that prompts show.
    pub(super) fn candidate_source(&self) -> Result<&Arc<dyn Candidates>> {
        self.candidates.as_ref().ok_or_else(|| {
            let found = format!("{}, but nothing gives candidates", self.config.candidates);
            let remedy = "give the prompter a source with with_candidates, such as the words of Rm3";
            Error::argument("prompt.candidates", found, remedy)
        })
    }

    /// The same prompt with marks around all that the template did not say itself.
    #[cfg(feature = "model")]
    pub(super) fn marked_prompt(&self, values: &RequestValues) -> Result<Prompt> {
        let text = match self.template.request(values, true) {
            Ok(text) => text,
            Err(_) => marked(&self.template.request(values, false)?),
        };
        Ok(complete(&self.marked, text))
    }

    /// The texts that end a completion: the end of the line in the few-shot style. Chats end with the model's own token.
    pub fn stop_strings(&self) -> &'static [&'static str] {
        match self.config.style {
            PromptStyle::FewShot => &["\n"],
            PromptStyle::Chat | PromptStyle::ThinkAnswer => &[],
        }
    }

    /// Parses a completion. In the mode `choose` the query is the name of a choice.
    pub fn parse(&self, completion: &str) -> ParsedCompletion {
        let parsed = parse(self.config.style, self.config.mode, self.language, completion);
        if self.config.mode == Mode::Choose { resolved(parsed, &self.choices) } else { parsed }
    }

    /// The names of the choices, [`SAME`] first; none outside the mode `choose`.
    pub fn choices(&self) -> &[String] {
        &self.choices
    }

    /// How a list of terms is written as an answer: as it is, or in the mode `keywords` with commas.
    pub fn answer(&self, terms: &str) -> String {
        if self.config.mode != Mode::Keywords {
            return terms.to_owned();
        }
        crate::query_terms::terms(terms).iter().map(QueryTerm::words).collect::<Vec<_>>().join(", ")
    }

    /// Composes the retriever's text from a generated query.
    pub fn composer(&self) -> Composer {
        let PromptConfig { mode, original_weight, max_terms, document, .. } = self.config;
        let (original_weight, max_terms) = match mode {
            Mode::Document => (document.query_weight, document.max_words),
            _ => (original_weight, max_terms),
        };
        Composer { mode, language: self.language, original_weight, max_terms }
    }

    /// What a query is without a model: its own words, or what the [base](PromptConfig::base) makes of them.
    ///
    /// # Errors
    /// Those of [`BaseConfig::query`](crate::BaseConfig::query).
    pub fn original(&self, query: &Query) -> Result<Rewrite> {
        match &self.config.base {
            Some(base) => base.query(query, self.feedback.as_ref()),
            None => Ok(Rewrite::plain(query.text.clone())),
        }
    }

    /// Parses a completion of a query's prompt and composes its rewrite, with and without each generated term. `original`
    /// is what the query is without a model ([`original`](Self::original)).
    ///
    /// # Errors
    /// Those of the source of feedback, where a choice asks for it.
    pub fn read(&self, query: &Query, original: &Rewrite, completion: &str) -> Result<Reading> {
        let parsed = self.parse(completion);
        if self.config.mode == Mode::Choose {
            let rewrite = parsed.query.as_deref().map(|name| self.chosen(query, original, name)).transpose()?;
            return Ok(Reading::choice(&parsed, rewrite));
        }
        Ok(match self.is_nothing(&parsed) {
            true => Reading::nothing(original.clone()),
            false => Reading::new(&parsed, completion, original, &self.composer()),
        })
    }

    /// What the choice of this name makes of a query.
    fn chosen(&self, query: &Query, original: &Rewrite, name: &str) -> Result<Rewrite> {
        match self.config.choices.get(name) {
            Some(base) => base.query(query, self.feedback.as_ref()),
            None if name == SAME => Ok(original.clone().with_kept(Kept::Nothing)),
            None => Err(Error::bug("prompter", format!("no choice is called {name:?}"))),
        }
    }

    /// Whether no word was written, and that is an answer.
    fn is_nothing(&self, parsed: &ParsedCompletion) -> bool {
        !self.config.vocabulary.is_free() && parsed.broken == Some(FormatFault::Empty)
    }

    /// The rewrite of a completion.
    ///
    /// # Errors
    /// [`Error::Format`] when the completion holds no query, and the errors of [`original`](Self::original).
    pub fn rewrite(&self, query: &Query, completion: &str) -> Result<Rewrite> {
        let parsed = self.parse(completion);
        if self.is_nothing(&parsed) {
            return Ok(self.original(query)?.with_kept(Kept::Nothing));
        }
        match parsed {
            ParsedCompletion { query: Some(name), .. } if self.config.mode == Mode::Choose => {
                self.chosen(query, &self.original(query)?, &name)
            }
            ParsedCompletion { query: Some(generated), .. } => {
                Ok(self.composer().compose(&self.original(query)?, &generated))
            }
            ParsedCompletion { broken: Some(fault), .. } => Err(Error::Format(fault.to_string())),
            ParsedCompletion { .. } => Err(Error::bug("prompter", "a completion without a query and without a fault")),
        }
    }

    /// What stands in a prompt of its query, with the first ones of the candidates found.
    pub(super) fn request_values(&self, query: &Query, found: &[String]) -> RequestValues {
        let PromptConfig { max_request_chars, max_history, max_title_chars, .. } = self.config;
        let candidates = shown_candidates(found, &self.config);
        if self.config.task == Task::Search {
            let text = sanitised(&query.text, max_request_chars);
            return RequestValues { text, history: Vec::new(), candidates };
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
        RequestValues { text: String::new(), history, candidates }
    }
}

/// The prompt of a rendered request.
fn complete(shared: &Prompt, text: String) -> Prompt {
    match shared {
        Prompt::Completion { prefix, .. } => {
            Prompt::Completion { prefix: prefix.clone(), query: format!("\n\n{text}") }
        }
        Prompt::Chat { messages } => {
            let mut messages = messages.clone();
            messages.push(ChatMessage::new(Role::User, text));
            Prompt::Chat { messages }
        }
    }
}

/// A prompt in which nothing can be told apart from what others wrote.
#[cfg(feature = "model")]
fn in_doubt(prompt: &Prompt) -> Prompt {
    match prompt {
        Prompt::Completion { prefix, query } => Prompt::Completion { prefix: marked(prefix), query: query.clone() },
        Prompt::Chat { messages } => {
            let in_doubt = |m: &ChatMessage| ChatMessage::new(m.role, marked(&m.content));
            Prompt::Chat { messages: messages.iter().map(in_doubt).collect() }
        }
    }
}

#[cfg(test)]
mod tests;
