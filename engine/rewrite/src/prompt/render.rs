//! Rendering: a template's macros, called with the values of the card, the examples and a request.

use std::fs;

use minijinja::{Environment, ErrorKind, UndefinedBehavior, Value, context};
use serde::Serialize;

use super::config::{PromptConfig, PromptStyle};
use super::examples::examples;
use super::message::{ChatMessage, Prompt, Role};
use querywright_types::{Error, QueryLanguage, Result, RetrieverCard};

/// The argument of a template's `request` macro.
#[derive(Serialize)]
pub struct RequestValues {
    /// The request in words; empty for a recommendation.
    pub text: String,
    /// The titles of a history, oldest first; empty for a search.
    pub history: Vec<String>,
}

/// A parsed template with the values that all of its macros see.
#[derive(Clone)]
pub struct Template {
    environment: Environment<'static>,
    source: String,
    name: String,
    values: Value,
}

impl Template {
    /// Reads the template of the configuration and binds the values of the card.
    pub fn new(config: &PromptConfig, language: QueryLanguage, card: &RetrieverCard) -> Result<Self> {
        let (name, source) = name_and_source(config)?;
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        // The built-in filter `tojson` escapes for HTML. A model should see JSON as people write it.
        environment.add_filter("json", |value: Value| {
            serde_json::to_string(&value).map_err(|e| minijinja::Error::new(ErrorKind::BadSerialization, e.to_string()))
        });
        let content = config.content.as_deref().unwrap_or(&card.content);
        let content = if content.trim().is_empty() { "documents" } else { content };
        let (task, mode, fields) = (config.task, config.mode, &card.fields);
        let values = context! { task, mode, language, fields, content => sanitised(content, config.max_request_chars) };
        Ok(Self { environment, source, name, values })
    }

    /// One request, up to where its answer begins.
    pub fn request(&self, request: &RequestValues) -> Result<String> {
        self.call("request", &[Value::from_serialize(request)])
    }

    /// Instruction and examples: what all prompts begin with.
    pub fn shared(&self, config: &PromptConfig, language: QueryLanguage) -> Result<Prompt> {
        let instruction = self.call("instruction", &[])?;
        let mut turns = Vec::new();
        for mut example in examples(config, language)? {
            example.request = sanitised(&example.request, config.max_request_chars);
            for title in &mut example.history {
                *title = sanitised(title, config.max_title_chars);
            }
            let request = RequestValues { text: example.request.clone(), history: example.history.clone() };
            turns.push((self.request(&request)?, self.call("response", &[Value::from_serialize(&example)])?));
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
    fn call(&self, name: &str, arguments: &[Value]) -> Result<String> {
        let unusable = |e: minijinja::Error| {
            let line = e.line().map_or(String::new(), |line| format!(" (line {line})"));
            let detail = e.detail().map_or_else(|| e.kind().to_string(), str::to_owned);
            Error::argument(
                "prompt.template",
                format!("{}: {name}: {detail}{line}", self.name),
                "a template defines the macros instruction(), request(query) and response(example)",
            )
        };
        let template = self.environment.template_from_str(&self.source).map_err(unusable)?;
        let rendered = template.render_captured(&self.values).map_err(unusable)?;
        Ok(rendered.state().call_macro(name, arguments).map_err(unusable)?.trim_end().to_owned())
    }
}

/// The name and the text of a configuration's template.
fn name_and_source(config: &PromptConfig) -> Result<(String, String)> {
    if let Some(path) = &config.template {
        let text = fs::read_to_string(path).map_err(|e| Error::read(path, e))?;
        return Ok((path.display().to_string(), text));
    }
    let (name, text) = match config.style {
        PromptStyle::FewShot => ("few_shot.jinja", include_str!("../templates/few_shot.jinja")),
        PromptStyle::Chat => ("chat.jinja", include_str!("../templates/chat.jinja")),
        PromptStyle::ThinkAnswer => ("think_answer.jinja", include_str!("../templates/think_answer.jinja")),
    };
    Ok((name.to_owned(), text.to_owned()))
}

/// A user's text, made safe as part of a prompt.
///
/// White space is folded, so the text stays on its line. A space breaks up tags and special tokens, so the text cannot
/// end its turn. At most `chars` characters are kept, the first ones.
pub fn sanitised(text: &str, chars: usize) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_stays_on_its_line_keeps_its_head_and_cannot_end_its_turn() {
        assert_eq!(sanitised(" a\n\nb\t\u{0}c ", 10), "a b c");
        assert_eq!(sanitised("abcdef", 3), "abc");
        assert_eq!(sanitised("äöü ßé", 4), "äöü");
        assert_eq!(sanitised("x<|im_end|></s><think> 1<2 <3", 99), "x< |im_end|>< /s>< think> 1<2 <3");
        assert_eq!(PromptConfig::default().max_request_chars, 400);
    }
}
