//! Rendering: a template's macros, called with the values of the card, the examples and a request.

use minijinja::{Value, context};
use serde::Serialize;

use super::conversation;
use super::examples::examples;
use super::message::{ChatMessage, Prompt, Role};
use crate::config::{Example, Mode, PromptConfig, PromptStyle, Task, read_template};
use crate::mode::{choice_names, labels};
use querywright_template::marks::{is_mark, marked};
use querywright_template::{Style, TemplateError};
use querywright_types::{Error, QueryLanguage, Result, RetrieverCard};

/// The argument of a template's `request` macro.
#[derive(Clone, Default, Serialize)]
pub struct RequestValues {
    /// The request in words; empty for a recommendation.
    pub text: String,
    /// The titles of a history, oldest first; empty for a search.
    pub history: Vec<String>,
    /// What was said before it in the same conversation, oldest first.
    pub turns: Vec<String>,
    /// What a first search proposes, the best first: words for a search, titles for a recommendation, documents that are to be
    /// ordered.
    pub candidates: Vec<String>,
}

/// A parsed template with the values that all of its macros see.
///
/// Everything is rendered as it is, or with marks around each value: what the template says and what others wrote can
/// then be told apart.
#[derive(Clone)]
pub struct Template {
    template: querywright_template::Template,
    values: Value,
    marked_values: Value,
}

impl Template {
    /// Reads the template of the configuration and binds the values of the card.
    pub fn new(config: &PromptConfig, language: QueryLanguage, card: &RetrieverCard) -> Result<Self> {
        let (name, source) = name_and_source(config)?;
        let template = querywright_template::Template::new(name.as_str(), source, Style::Prompt)
            .map_err(|e| unusable(format!("{name}: {e}")))?;
        let content = config.content.as_deref().unwrap_or(&card.content);
        let content = if content.trim().is_empty() { "documents" } else { content };
        let content = sanitised(content, config.max_request_chars);
        let (task, mode, fields, candidates) = (config.task, config.mode, &card.fields, config.candidates);
        let marked_fields: Vec<String> = fields.iter().map(|field| marked(field)).collect();
        let (label, choices) = (mode.label(), choice_names(config));
        let marked_choices: Vec<String> = choices.iter().map(|name| marked(name)).collect();
        let both = context! { task, mode, language, candidates, label, labels => labels(config) };
        let marked_values = context! {
            fields => marked_fields, content => marked(&content), choices => marked_choices, ..both.clone()
        };
        let values = context! { fields, content, choices, ..both };
        let read = Self { template, values, marked_values };
        if candidates > 0 {
            read.require_candidates(task)?;
        }
        if task == Task::Conversation {
            read.require_turns()?;
        }
        Ok(read)
    }

    /// Refuses a template that says the same whatever was said before.
    fn require_turns(&self) -> Result<()> {
        let request = |turn: &str| {
            let (text, turns) = ("request".to_owned(), vec![turn.to_owned()]);
            self.request(&RequestValues { text, turns, ..RequestValues::default() }, false)
        };
        if request("one")? == request("another")? {
            let found = format!("{} never shows query.turns, and the task is conversation", self.template.name());
            let remedy = "show them in the macro request(query), or set prompt.task = \"search\"";
            return Err(Error::argument("prompt.template", found, remedy));
        }
        Ok(())
    }

    /// Refuses a template that says the same whatever the candidates are.
    fn require_candidates(&self, task: Task) -> Result<()> {
        let request = |candidate: &str| {
            let (text, history) = match task {
                Task::Recommend => (String::new(), vec!["title".to_owned()]),
                Task::Search | Task::Conversation => ("request".to_owned(), Vec::new()),
            };
            let candidates = vec![candidate.to_owned()];
            self.request(&RequestValues { text, history, candidates, ..RequestValues::default() }, false)
        };
        if request("one")? == request("another")? {
            let found =
                format!("{} never shows query.candidates, and prompt.candidates asks for some", self.template.name());
            let remedy = "show them in the macro request(query), or set prompt.candidates = 0";
            return Err(Error::argument("prompt.template", found, remedy));
        }
        Ok(())
    }

    /// One request, up to where its answer begins.
    pub fn request(&self, request: &RequestValues, with_marks: bool) -> Result<String> {
        let request = if with_marks { request.marked() } else { request.clone() };
        self.call("request", &[Value::from_serialize(&request)], with_marks)
    }

    /// The answer of an example.
    pub fn response(&self, example: &Example, with_marks: bool) -> Result<String> {
        let example = if with_marks { marked_example(example) } else { example.clone() };
        self.call("response", &[Value::from_serialize(&example)], with_marks)
    }

    /// Instruction and examples: what all prompts begin with.
    pub fn shared(&self, config: &PromptConfig, language: QueryLanguage, with_marks: bool) -> Result<Prompt> {
        let instruction = self.call("instruction", &[], with_marks)?;
        let mut turns = Vec::new();
        for mut example in examples(config, language)? {
            example.request = sanitised(&example.request, config.max_request_chars);
            for title in &mut example.history {
                *title = sanitised(title, config.max_title_chars);
            }
            example.candidates = shown_candidates(&example.candidates, config);
            example.turns = conversation::shown(&example.turns, config);
            let request = RequestValues {
                text: example.request.clone(),
                history: example.history.clone(),
                turns: example.turns.clone(),
                candidates: example.candidates.clone(),
            };
            turns.push((self.request(&request, with_marks)?, self.response(&example, with_marks)?));
        }
        Ok(match config.style {
            PromptStyle::FewShot => {
                let examples = turns.iter().map(|(request, response)| format!("\n\n{request}{response}"));
                Prompt::Completion { prefix: instruction + &examples.collect::<String>(), query: String::new() }
            }
            PromptStyle::Chat | PromptStyle::ThinkAnswer => {
                let mut messages = vec![ChatMessage::new(Role::System, instruction)];
                for (request, response) in turns {
                    messages.push(ChatMessage::new(Role::User, request));
                    messages.push(ChatMessage::new(Role::Assistant, response));
                }
                Prompt::Chat { messages }
            }
        })
    }

    /// Calls a macro of the template.
    fn call(&self, name: &str, arguments: &[Value], with_marks: bool) -> Result<String> {
        let values = if with_marks { &self.marked_values } else { &self.values };
        let text = self.template.call(values, name, arguments);
        let text = text.map_err(|e: TemplateError| unusable(format!("{}: {name}: {e}", self.template.name())))?;
        Ok(text.trim_end().to_owned())
    }
}

impl RequestValues {
    fn marked(&self) -> Self {
        let all = |texts: &[String]| texts.iter().map(|text| marked(text)).collect();
        let (history, turns, candidates) = (all(&self.history), all(&self.turns), all(&self.candidates));
        Self { text: marked(&self.text), history, turns, candidates }
    }
}

fn marked_example(example: &Example) -> Example {
    Example {
        request: marked(&example.request),
        history: example.history.iter().map(|title| marked(title)).collect(),
        turns: example.turns.iter().map(|turn| marked(turn)).collect(),
        search: marked(&example.search),
        thought: marked(&example.thought),
        candidates: example.candidates.iter().map(|one| marked(one)).collect(),
    }
}

/// The candidates that a prompt shows: the first ones, each once, made safe and cut as titles are. Documents that are to be
/// ordered are all shown, with a label each.
pub fn shown_candidates(found: &[String], config: &PromptConfig) -> Vec<String> {
    if config.mode == Mode::Rerank {
        let shown = found.iter().take(config.candidates).map(|text| sanitised(text, config.rerank.chars()));
        return shown.map(|text| if text.is_empty() { "-".to_owned() } else { text }).collect();
    }
    let mut shown: Vec<String> = Vec::with_capacity(config.candidates.min(found.len()));
    for candidate in found {
        if shown.len() == config.candidates {
            break;
        }
        let candidate = sanitised(candidate, config.max_title_chars);
        if !candidate.is_empty() && !shown.contains(&candidate) {
            shown.push(candidate);
        }
    }
    shown
}

fn unusable(found: String) -> Error {
    let remedy = "a template defines the macros instruction(), request(query) and response(example)";
    Error::argument("prompt.template", found, remedy)
}

/// The name and the text of a configuration's template.
fn name_and_source(config: &PromptConfig) -> Result<(String, String)> {
    if let Some(path) = &config.template {
        return Ok((path.display().to_string(), read_template(path)?));
    }
    let (name, text) = match config.style {
        PromptStyle::FewShot => ("few_shot.jinja", include_str!("../templates/few_shot.jinja")),
        PromptStyle::Chat => ("chat.jinja", include_str!("../templates/chat.jinja")),
        PromptStyle::ThinkAnswer => ("think_answer.jinja", include_str!("../templates/think_answer.jinja")),
    };
    Ok((name.to_owned(), text.to_owned()))
}

/// Special tokens in square brackets, of Mistral's models and of GLM. They are broken up wherever they are written: a
/// server's tokenizer is not known here.
const BRACKETED: [&str; 10] = [
    "INST]",
    "/INST]",
    "SYSTEM_PROMPT]",
    "/SYSTEM_PROMPT]",
    "TOOL_CALLS]",
    "TOOL_RESULTS]",
    "/TOOL_RESULTS]",
    "AVAILABLE_TOOLS]",
    "/AVAILABLE_TOOLS]",
    "gMASK]",
];

/// A user's text, made safe as part of a prompt.
///
/// White space is folded, so the text stays on its line. A space breaks up tags and the common spellings of special tokens,
/// for servers that would read them; a local model's own are kept from becoming tokens by its encoder. At most `chars`
/// characters are kept, the first ones.
pub fn sanitised(text: &str, chars: usize) -> String {
    let mut out = String::with_capacity(text.len().min(chars.saturating_mul(4)));
    let is_space = |c: char| c.is_whitespace() || c.is_control() || is_mark(c);
    let folded = text.split(is_space).filter(|word| !word.is_empty());
    for word in folded {
        if !out.is_empty() {
            out.push(' ');
        }
        let mut after_bracket = false;
        for (at, c) in word.char_indices() {
            if after_bracket && (c.is_alphabetic() || "|/!｜".contains(c)) {
                out.push(' ');
            }
            after_bracket = c == '<';
            if c == '[' && word.get(at + 1..).is_some_and(|rest| BRACKETED.iter().any(|name| rest.starts_with(name))) {
                out.push_str("[ ");
                continue;
            }
            out.push(c);
        }
        if out.len() > chars.saturating_mul(4) {
            break;
        }
    }
    match out.char_indices().nth(chars) {
        Some((end, _)) => out.get(..end).unwrap_or("").trim_end().to_owned(),
        None => out,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_stays_on_its_line_keeps_its_head_and_cannot_end_its_turn() {
        assert_eq!(sanitised(" a\n\nb\t\u{0}c ", 10), "a b c");
        assert_eq!(sanitised("abcdef", 3), "abc");
        assert_eq!(sanitised("äöü ßé", 4), "äöü");
        assert_eq!(sanitised("x<|im_end|></s><think> 1<2 <3", 99), "x< |im_end|>< /s>< think> 1<2 <3");
        assert_eq!(sanitised("a<｜User｜>[INST]b[/INST][pdf]", 99), "a< ｜User｜>[ INST]b[ /INST][pdf]");
        assert_eq!(sanitised("a\u{fdd0}b\u{fdd2}", 9), "a b", "the marks of the encoder");
        assert_eq!(PromptConfig::default().max_request_chars, 400);
    }
}
