//! Prompts, completions and rewrites of one configuration for one retriever, all as text.

use std::sync::Arc;

use super::base::Feedback;
use super::candidates::Candidates;
use super::compose::Composer;
use super::config::{Mode, PromptConfig, PromptStyle, Task};
use super::mode::{SAME, choice_names, labels, resolved, resolved_order};
use super::parse::{FormatFault, ParsedCompletion, parse};
use super::prompt::{ChatMessage, Prompt, RequestValues, Role, Template};
use super::prompt::{sanitised, shown_candidates, shown_turns};
use super::query_terms::QueryTerm;
use super::reading::Reading;
use super::shortlist::{Shortlist, Titles};
#[cfg(feature = "model")]
use super::{config::Example, prompt::marked};
use querywright_types::{Deadline, Error, Kept, Order, Ordinal, Query, QueryLanguage, Result, RetrieverCard, Rewrite};

/// Renders the prompts of one configuration for one retriever, and reads the completions.
#[derive(Clone)]
pub struct Prompter {
    config: PromptConfig,
    language: QueryLanguage,
    template: Template,
    /// The names that an answer may have; none outside the mode `choose`.
    choices: Vec<String>,
    /// The labels of the candidates; none outside the mode `rerank`.
    labels: Vec<String>,
    titles: Option<Titles>,
    feedback: Option<Feedback>,
    candidates: Option<Arc<dyn Candidates>>,
    shortlist: Option<Shortlist>,
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
            labels: labels(&config),
            config,
            language,
            template,
            titles: None,
            feedback: None,
            candidates: None,
            shortlist: None,
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

    /// Sets where the documents come from that are ordered, in the mode `rerank`.
    pub fn with_shortlist(mut self, shortlist: Shortlist) -> Self {
        self.shortlist = Some(shortlist);
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
        if self.config.mode == Mode::Rerank {
            let source = self.ordered_source()?;
            let listed = self.listed(query, &self.original(query)?, deadline)?;
            return Ok(listed.iter().map(|document| source.text(*document)).collect());
        }
        self.candidate_source()?.propose(query, deadline)
    }

    /// Refuses a prompter that lacks the source of the candidates that its prompts show.
    #[cfg(feature = "model")]
    pub(super) fn require_candidates(&self) -> Result<()> {
        match (self.config.candidates, self.config.mode) {
            (0, _) => Ok(()),
            (_, Mode::Rerank) => self.ordered_source().map(drop),
            _ => self.candidate_source().map(drop),
        }
    }

    /// Where the candidates come from that prompts show.
    fn candidate_source(&self) -> Result<&Arc<dyn Candidates>> {
        let remedy = "give the prompter a source with with_candidates, such as the words of Rm3";
        self.candidates.as_ref().ok_or_else(|| self.no_candidates(remedy))
    }

    fn ordered_source(&self) -> Result<&Shortlist> {
        let remedy = "give the prompter the retriever with with_shortlist";
        self.shortlist.as_ref().ok_or_else(|| self.no_candidates(remedy))
    }

    fn no_candidates(&self, remedy: &str) -> Error {
        let found = format!("{}, but nothing gives candidates", self.config.candidates);
        Error::argument("prompt.candidates", found, remedy)
    }

    /// The documents that are ordered, in the mode `rerank`: the best ones of `original`, what the query is without a model
    /// ([`original`](Self::original)). They are searched for once.
    ///
    /// # Errors
    /// A search that fails or is late, and [`Error::Argument`] without a [source](Self::with_shortlist).
    pub fn listed(&self, query: &Query, original: &Rewrite, deadline: Deadline) -> Result<Arc<[Ordinal]>> {
        self.ordered_source()?.find(query, original, self.config.candidates, deadline)
    }

    /// The labels of the candidates in the mode `rerank`, that of the first one first; none in another mode.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// Whether this is the first message of a conversation, for which no model is asked: nothing was said before it.
    pub fn is_first_message(&self, query: &Query) -> bool {
        self.config.task == Task::Conversation && query.turns.iter().all(|turn| turn.trim().is_empty())
    }

    /// The rewrite of a query for which no model need be asked: the [first message](Self::is_first_message) of a conversation,
    /// and in the mode `rerank` a query for which there are fewer than two documents to order. None where a model is asked.
    ///
    /// # Errors
    /// Those of [`original`](Self::original) and [`listed`](Self::listed).
    pub fn settled(&self, query: &Query, deadline: Deadline) -> Result<Option<Rewrite>> {
        if self.is_first_message(query) {
            return Ok(Some(self.original(query)?.with_kept(Kept::FirstMessage)));
        }
        if self.config.mode == Mode::Rerank {
            let original = self.original(query)?;
            if self.listed(query, &original, deadline)?.len() < 2 {
                return Ok(Some(original.with_kept(Kept::Nothing)));
            }
        }
        Ok(None)
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

    /// The answer of an example as the template writes it.
    #[cfg(feature = "model")]
    pub(super) fn response(&self, example: &Example, with_marks: bool) -> Result<String> {
        self.template.response(example, with_marks)
    }

    /// The texts that end a completion: the end of the line in the few-shot style. Chats end with the model's own token.
    pub fn stop_strings(&self) -> &'static [&'static str] {
        match self.config.style {
            PromptStyle::FewShot => &["\n"],
            PromptStyle::Chat | PromptStyle::ThinkAnswer => &[],
        }
    }

    /// Parses a completion. In the mode `choose` the query is the name of a choice, in the mode `rerank` labels with spaces
    /// between them.
    pub fn parse(&self, completion: &str) -> ParsedCompletion {
        let parsed = parse(self.config.style, self.config.mode, self.language, completion);
        match self.config.mode {
            Mode::Choose => resolved(parsed, &self.choices),
            Mode::Rerank => resolved_order(parsed, &self.labels),
            _ => parsed,
        }
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
    /// Those of the source of feedback, where a choice asks for it; of [`listed`](Self::listed), where an order is read.
    pub fn read(&self, query: &Query, original: &Rewrite, completion: &str) -> Result<Reading> {
        let parsed = self.parse(completion);
        if self.config.mode == Mode::Choose {
            let rewrite = parsed.query.as_deref().map(|name| self.chosen(query, original, name)).transpose()?;
            return Ok(Reading::whole(&parsed, rewrite));
        }
        if self.config.mode == Mode::Rerank && !self.is_nothing(&parsed) {
            let ordered = parsed.query.as_deref().map(|labels| self.ordered(query, original, labels)).transpose()?;
            let (rewrite, all_known) = ordered.unzip();
            let broken = parsed.broken.or((all_known == Some(false)).then_some(FormatFault::NoOrder));
            return Ok(Reading::whole(&ParsedCompletion { broken, ..parsed }, rewrite));
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

    /// The original with its documents in the order of these labels, and whether each of them belongs to one.
    fn ordered(&self, query: &Query, original: &Rewrite, labels: &str) -> Result<(Rewrite, bool)> {
        let listed = self.listed(query, original, Deadline::NONE)?;
        let place = |label: &str| self.labels.iter().position(|known| known == label);
        let documents = labels.split(' ').map(|label| listed.get(place(label)?).copied());
        let named: Vec<Option<Ordinal>> = documents.take(self.config.rerank.most(listed.len())).collect();
        let all_known = named.iter().all(Option::is_some);
        let order = Order::new(named.into_iter().flatten().collect(), listed.len());
        Ok((original.clone().with_order(order), all_known))
    }

    /// Whether no word was written, and that is an answer.
    fn is_nothing(&self, parsed: &ParsedCompletion) -> bool {
        let orders = self.config.mode == Mode::Rerank && self.config.style == PromptStyle::FewShot;
        (orders || !self.config.vocabulary.is_free()) && parsed.broken == Some(FormatFault::Empty)
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
            ParsedCompletion { query: Some(labels), .. } if self.config.mode == Mode::Rerank => {
                Ok(self.ordered(query, &self.original(query)?, &labels)?.0)
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
        if self.config.task != Task::Recommend {
            let text = sanitised(&query.text, max_request_chars);
            let turns = shown_turns(&query.turns, &self.config);
            return RequestValues { text, history: Vec::new(), turns, candidates };
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
        RequestValues { text: String::new(), history, turns: Vec::new(), candidates }
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
