//! A completion as it comes: server-sent events, as OpenAI sends them.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use querywright_model::Tokenizer;
use querywright_types::Result;

use super::completion::{Event, Form, Job, Present, failed, finish, start, usage};
use crate::error::ApiError;
use crate::request::Call;

/// Events that wait for a slow reader; a model does not wait for one.
const WAITING: usize = 64;
/// How long a reader may take for one.
const PATIENCE: Duration = Duration::from_secs(30);

/// Answers with events.
pub(super) async fn answer(
    call: Call,
    job: Job,
    form: impl Form,
    gone: Arc<AtomicBool>,
    present: Present,
) -> std::result::Result<Response, ApiError> {
    let mut events = start(&call, &job, &gone).await?;
    let (sender, receiver) = mpsc::channel::<std::result::Result<Bytes, std::convert::Infallible>>(WAITING);
    tokio::spawn(async move {
        let _present = present;
        let mut parts = Parts::new(&job, form);
        let mut told = parts.opening();
        let mut ended = false;
        loop {
            for event in told.drain(..) {
                let sent = tokio::time::timeout(PATIENCE, sender.send(Ok(Bytes::from(event)))).await;
                if !matches!(sent, Ok(Ok(()))) {
                    return;
                }
            }
            if ended {
                return;
            }
            match events.recv().await {
                Some(Event::Tokens(index, tokens)) => told.extend(parts.tokens(index, &tokens)),
                Some(Event::Done(completions)) => {
                    let log = |inside: &str| call.service.log(&format!("request {}: {inside}", call.id));
                    (told, ended) = (parts.done(completions, log), true);
                }
                None => {
                    let failed = ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "bug", "the completion was given up");
                    (told, ended) = (vec![format!("data: {}\n\n", failed.body())], true);
                }
            }
        }
    });
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
    Ok((headers, Body::from_stream(ReceiverStream::new(receiver))).into_response())
}

/// The parts of a response.
struct Parts<F> {
    form: F,
    id: String,
    model: String,
    created: u64,
    prompt: usize,
    usage: bool,
    choices: Vec<Choice>,
}

impl<F: Form> Parts<F> {
    fn new(job: &Job, form: F) -> Self {
        let choices = job.prompts.len() * job.settings.completions;
        let choice = || Choice { text: Written::new(job.model.tokenizer().clone(), job.settings.stop.clone()) };
        Self {
            id: crate::events::new_id(form.id()),
            form,
            model: job.name.clone(),
            created: crate::events::now(),
            prompt: job.prompts.iter().map(Vec::len).sum(),
            usage: job.settings.usage,
            choices: (0..choices).map(|_| choice()).collect(),
        }
    }

    fn event(&self, choices: Vec<Value>, used: Option<Value>) -> String {
        let mut object = json!({
            "id": self.id,
            "object": self.form.object(true),
            "created": self.created,
            "model": self.model,
            "choices": choices,
        });
        if self.usage {
            object["usage"] = used.unwrap_or(Value::Null);
        }
        format!("data: {object}\n\n")
    }

    fn opening(&self) -> Vec<String> {
        let openings = (0..self.choices.len()).filter_map(|index| self.form.opening(index));
        openings.map(|choice| self.event(vec![choice], None)).collect()
    }

    /// The text that tokens add to a choice.
    fn tokens(&mut self, index: usize, tokens: &[u32]) -> Option<String> {
        let added = self.choices.get_mut(index)?.text.tokens(tokens)?;
        Some(self.event(vec![self.form.part(index, &added, None)], None))
    }

    /// What remains of every choice, and the end. What failed is logged.
    fn done(&mut self, completions: Vec<Result<querywright_model::Completion>>, log: impl Fn(&str)) -> Vec<String> {
        let (mut events, mut tokens) = (Vec::new(), 0);
        for (index, completion) in completions.into_iter().enumerate() {
            match completion {
                Ok(completion) => {
                    tokens += completion.tokens.len();
                    let rest =
                        self.choices.get(index).map(|choice| choice.text.rest(&completion.text)).unwrap_or_default();
                    let part = self.form.part(index, &rest, Some(finish(&completion)));
                    events.push(self.event(vec![part], None));
                }
                Err(error) => {
                    log(&error.to_string());
                    events.push(format!("data: {}\n\n", failed(&error).body()));
                }
            }
        }
        if self.usage {
            events.push(self.event(Vec::new(), Some(usage(self.prompt, tokens))));
        }
        events.push("data: [DONE]\n\n".to_owned());
        events
    }
}

struct Choice {
    text: Written,
}

/// The text of a choice so far: what was told, and what must wait because it may still change.
struct Written {
    tokenizer: Tokenizer,
    stop: Vec<String>,
    told: String,
    tokens: Vec<u32>,
}

impl Written {
    fn new(tokenizer: Tokenizer, stop: Vec<String>) -> Self {
        Self { tokenizer, stop, told: String::new(), tokens: Vec::new() }
    }

    /// What new tokens allow to tell beyond what was told: not the beginning of a character, and nothing that may belong to a
    /// text that ends the completion.
    fn tokens(&mut self, tokens: &[u32]) -> Option<String> {
        self.tokens.extend_from_slice(tokens);
        let text = self.tokenizer.decode(&self.tokens).ok()?;
        let sure = sure(&text, &self.stop);
        let added = sure.strip_prefix(self.told.as_str()).filter(|added| !added.is_empty())?.to_owned();
        self.told.push_str(&added);
        Some(added)
    }

    /// What is left to tell of the whole text.
    fn rest(&self, whole: &str) -> String {
        whole.strip_prefix(self.told.as_str()).unwrap_or_default().to_owned()
    }
}

/// The beginning of a text that stays whatever comes.
fn sure<'a>(text: &'a str, stop: &[String]) -> &'a str {
    let text = text.trim_end_matches('\u{fffd}');
    let may_begin = |stop: &String| {
        let whole = text.find(stop.as_str());
        let begun = || {
            let lengths = (1..stop.len()).rev().filter(|length| stop.is_char_boundary(*length));
            lengths.filter(|length| text.ends_with(&stop[..*length])).map(|length| text.len() - length).next()
        };
        whole.or_else(begun)
    };
    let end = stop.iter().filter_map(may_begin).min().unwrap_or(text.len());
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::sure;

    #[test]
    fn what_may_still_change_is_not_told() {
        let stop = ["\n\n".to_owned(), "END".to_owned()];
        for (text, right) in [
            ("abc", "abc"),
            ("abc\n", "abc"),
            ("abc\nd", "abc\nd"),
            ("abc E", "abc "),
            ("abc EN", "abc "),
            ("abc ENT", "abc ENT"),
            ("abc END tail", "abc "),
            ("na\u{fffd}", "na"),
            ("", ""),
        ] {
            assert_eq!(sure(text, &stop), right, "{text:?}");
        }
        assert_eq!(sure("é\n", &["é".to_owned()]), "");
    }
}
