//! Prompts: built from the retriever's card and the task, by templates that are data.
//!
//! A template is a Jinja file with three macros, and the style says how their texts are put together:
//!
//! | macro | gives | few-shot | chat, think-answer |
//! |---|---|---|---|
//! | `instruction()` | what is asked for | the first line | the system message |
//! | `request(query)` | one request, without its answer | the text up to the answer | a user message |
//! | `response(example)` | the answer of an example | the text after it | an assistant message |
//!
//! Examples and the query go through the same `request`, so they look alike. The macros see `task`, `mode`,
//! `language` (as in the configuration), `content` and `fields` (of the card); a request has `text` and `history`
//! (titles), an example `search` and `thought` as well.

mod config;
mod examples;

use std::sync::Arc;

use minijinja::{Environment, ErrorKind, UndefinedBehavior, Value, context};
use serde::Serialize;

pub use config::{Example, PromptConfig, PromptStyle, Task};

use super::answer::{Answer, parse};
use super::compose::Composer;
use crate::error::{Error, Result};
use crate::model::Message;
use crate::types::{Ordinal, Query, QueryLanguage, RetrieverCard, Rewrite};

/// Tells the title of an item of the catalogue.
pub type Titles = Arc<dyn Fn(Ordinal) -> String + Send + Sync>;

/// What a model is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// A text to complete: `prefix` followed by `query`. The prefix is the same for every query, so that it is computed
    /// once. The cut lies before the blank line between them, where tokenizers of byte-level BPE cut by themselves.
    Completion {
        /// Instruction and examples.
        prefix: String,
        /// The request, up to where the answer begins.
        query: String,
    },
    /// A conversation for the model's chat template. All messages but the last are the same for every query.
    Chat {
        /// Instruction, examples, request.
        messages: Vec<Message>,
    },
}

/// Makes the prompts of one configuration for one retriever, and reads their answers.
#[derive(Clone)]
pub struct Prompter {
    config: PromptConfig,
    language: QueryLanguage,
    template: Template,
    titles: Option<Titles>,
    shared: Prompt,
}

impl Prompter {
    /// Checks the configuration against the card and renders what all prompts share.
    ///
    /// # Errors
    /// [`Error::Argument`] names the key that cannot be used, or the place where the template does not render.
    pub fn new(config: PromptConfig, card: &RetrieverCard) -> Result<Self> {
        let language = config.validate(card)?;
        let template = Template::new(&config, language, card)?;
        let shared = template.shared(&config, language)?;
        Ok(Self { config, language, template, titles: None, shared })
    }

    /// With the titles of items, which the history of a query needs. Without them each line of the query's text is
    /// taken for a title in [`Task::Recommend`].
    pub fn with_titles(mut self, titles: Titles) -> Self {
        self.titles = Some(titles);
        self
    }

    /// The configuration.
    pub fn config(&self) -> &PromptConfig {
        &self.config
    }

    /// The language that queries are asked for in.
    pub fn language(&self) -> QueryLanguage {
        self.language
    }

    /// The prompt for a query.
    ///
    /// # Errors
    /// [`Error::Argument`] when the template does not render this query.
    pub fn prompt(&self, query: &Query) -> Result<Prompt> {
        let text = self.template.request(&self.request(query))?;
        Ok(match &self.shared {
            Prompt::Completion { prefix, .. } => {
                Prompt::Completion { prefix: prefix.clone(), query: format!("\n\n{text}") }
            }
            Prompt::Chat { messages } => {
                let mut messages = messages.clone();
                messages.push(Message::new("user", text));
                Prompt::Chat { messages }
            }
        })
    }

    /// Where generation may stop: the end of the line for a text to complete. Chats end by the model's own token.
    pub fn stop_strings(&self) -> &'static [&'static str] {
        match self.config.style {
            PromptStyle::FewShot => &["\n"],
            PromptStyle::Chat | PromptStyle::ThinkAnswer => &[],
        }
    }

    /// Reads a completion.
    pub fn parse(&self, completion: &str) -> Answer {
        parse(self.config.style, self.language, completion)
    }

    /// What makes the text for the retriever from a generated query.
    pub fn composer(&self) -> Composer {
        Composer {
            mode: self.config.mode,
            language: self.language,
            original_weight: self.config.original_weight,
            max_terms: self.config.max_terms,
        }
    }

    /// The rewrite that a completion stands for.
    ///
    /// # Errors
    /// [`Error::Format`] when no query can be read out of it.
    pub fn rewrite(&self, query: &Query, completion: &str) -> Result<Rewrite> {
        match self.parse(completion) {
            Answer { query: Some(generated), .. } => Ok(self.composer().compose(query, &generated)),
            Answer { broken, .. } => Err(Error::Format(broken.map_or_else(String::new, |fault| fault.to_string()))),
        }
    }

    fn request(&self, query: &Query) -> Request {
        let PromptConfig { max_request_chars, max_history, max_title_chars, .. } = self.config;
        let recent = |titles: Vec<String>| -> Vec<String> {
            let skip = titles.len().saturating_sub(max_history);
            titles.iter().skip(skip).map(|title| sanitised(title, max_title_chars)).collect()
        };
        match (self.config.task, &self.titles) {
            (Task::Search, _) => Request { text: sanitised(&query.text, max_request_chars), history: Vec::new() },
            (Task::Recommend, Some(titles)) if !query.history.is_empty() => {
                let skip = query.history.len().saturating_sub(max_history);
                let history = recent(query.history.iter().skip(skip).map(|&item| titles(item)).collect());
                Request { text: String::new(), history }
            }
            (Task::Recommend, _) => {
                let lines = query.text.lines().map(str::to_owned).filter(|line| !line.trim().is_empty());
                Request { text: String::new(), history: recent(lines.collect()) }
            }
        }
    }
}

/// What a template's `request` macro gets.
#[derive(Serialize)]
struct Request {
    text: String,
    history: Vec<String>,
}

/// A user's text as part of a prompt: white space folded, so that it stays on its line; tags and special tokens broken up
/// by a space, so that it cannot end its turn; at most `chars` characters, of which the first are kept.
fn sanitised(text: &str, chars: usize) -> String {
    let mut out = String::with_capacity(text.len().min(4 * chars));
    let folded = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    for word in folded {
        if !out.is_empty() {
            out.push(' ');
        }
        let mut after_bracket = false;
        for c in word.chars() {
            if after_bracket && (c.is_alphabetic() || "|/!".contains(c)) {
                out.push(' ');
            }
            after_bracket = c == '<';
            out.push(c);
        }
        if out.len() > 4 * chars {
            break;
        }
    }
    match out.char_indices().nth(chars) {
        Some((end, _)) => out.get(..end).unwrap_or("").trim_end().to_owned(),
        None => out,
    }
}

/// A template that parsed, with what its macros see.
#[derive(Clone)]
struct Template {
    environment: Environment<'static>,
    source: String,
    name: String,
    values: Value,
}

impl Template {
    fn new(config: &PromptConfig, language: QueryLanguage, card: &RetrieverCard) -> Result<Self> {
        let (name, source) = config.template_source()?;
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        // The filter `tojson` escapes for HTML; a model shall see JSON as people write it.
        environment.add_filter("json", |value: Value| {
            serde_json::to_string(&value).map_err(|e| minijinja::Error::new(ErrorKind::BadSerialization, e.to_string()))
        });
        let content = config.content.as_deref().unwrap_or(&card.content);
        let content = if content.trim().is_empty() { "documents" } else { content };
        let (task, mode, fields) = (config.task, config.mode, &card.fields);
        let values = context! { task, mode, language, fields, content => sanitised(content, config.max_request_chars) };
        Ok(Self { environment, source, name, values })
    }

    /// Calls a macro of the template.
    fn call(&self, name: &str, arguments: &[Value]) -> Result<String> {
        let unusable = |e: minijinja::Error| {
            let line = e.line().map_or(String::new(), |line| format!(" (line {line})"));
            let said = e.detail().map_or_else(|| e.kind().to_string(), str::to_owned);
            Error::argument(
                format!("template {}", self.name),
                format!("{name}: {said}{line}"),
                "a template defines the macros instruction(), request(query) and response(example)",
            )
        };
        let template = self.environment.template_from_str(&self.source).map_err(unusable)?;
        let rendered = template.render_captured(&self.values).map_err(unusable)?;
        Ok(rendered.state().call_macro(name, arguments).map_err(unusable)?.trim_end().to_owned())
    }

    fn request(&self, request: &Request) -> Result<String> {
        self.call("request", &[Value::from_serialize(request)])
    }

    /// Instruction and examples, which all prompts begin with.
    fn shared(&self, config: &PromptConfig, language: QueryLanguage) -> Result<Prompt> {
        let instruction = self.call("instruction", &[])?;
        let mut turns = Vec::new();
        for example in config.examples(language)? {
            let mut example = example;
            example.request = sanitised(&example.request, config.max_request_chars);
            let history = std::mem::take(&mut example.history);
            example.history = history.iter().map(|title| sanitised(title, config.max_title_chars)).collect();
            let request = Request { text: example.request.clone(), history: example.history.clone() };
            turns.push((self.request(&request)?, self.call("response", &[Value::from_serialize(&example)])?));
        }
        Ok(match config.style {
            PromptStyle::FewShot => {
                let examples = turns.iter().map(|(request, response)| format!("\n\n{request}{response}"));
                Prompt::Completion { prefix: instruction + &examples.collect::<String>(), query: String::new() }
            }
            PromptStyle::Chat | PromptStyle::ThinkAnswer => {
                let mut messages = vec![Message::new("system", instruction)];
                for (request, response) in turns {
                    messages.extend([Message::new("user", request), Message::new("assistant", response)]);
                }
                Prompt::Chat { messages }
            }
        })
    }
}

#[cfg(test)]
mod tests;
