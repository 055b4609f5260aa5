//! Completions of prompts: asked of a model, given back whole or as they come.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use querywright_model::{Batcher, Completion, CompletionRequest, Finish, Prefix, PromptTokens};
use querywright_types::Error;

use super::sampling::Settings;
use super::{stream, unknown_model};
use crate::error::ApiError;
use crate::request::Call;
use crate::service::Service;

/// How long a completion may take: its length is bounded, and who has gone is noticed.
const COMPLETING: Duration = Duration::from_secs(600);

/// How long the tokens of a prompt may take.
pub(super) const ENCODING: Duration = Duration::from_secs(30);

/// What tells the two endpoints apart.
pub(super) trait Form: Send + Sync + 'static {
    /// The beginning of a response's id.
    fn id(&self) -> &'static str;
    /// The name of a response, and of a part of one.
    fn object(&self, part: bool) -> &'static str;
    /// A choice of a whole response.
    fn choice(&self, index: usize, text: &str, finish: &str) -> Value;
    /// What comes before the first text of a streamed choice.
    fn opening(&self, index: usize) -> Option<Value>;
    /// A part of a streamed choice; the last has the reason for which it ended.
    fn part(&self, index: usize, text: &str, finish: Option<&str>) -> Value;
}

/// The model of a name.
pub(super) fn model(call: &Call, name: &str) -> Result<Arc<Batcher>, ApiError> {
    call.service.models().remove(name).ok_or_else(|| unknown_model(name))
}

/// Tokens that a completion of a prompt may have.
pub(super) fn room(call: &Call, model: &Batcher, name: &str, prompts: &[Vec<u32>]) -> Result<usize, ApiError> {
    let context = model.decoder().config().max_position_embeddings;
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
    match context.checked_sub(longest) {
        Some(room) if room > 0 && prompts.iter().all(|prompt| !prompt.is_empty()) => {
            Ok(room.min(call.service.config.limits.completion_tokens))
        }
        Some(room) if room > 0 => Err(ApiError::bad(name, "it is empty; give at least one token")),
        _ => {
            let message = format!("it has {longest} tokens, and the model reads {context}; shorten it");
            Err(ApiError::bad(name, message))
        }
    }
}

/// Tokens that may wait to be told. A reader who falls so far behind is given up.
const WAITING: usize = 8192;

/// New tokens of a choice; at the end all completions.
pub(super) enum Event {
    Tokens(usize, Vec<u32>),
    Done(Vec<querywright_types::Result<Completion>>),
}

/// What is asked of a model.
pub(super) struct Job {
    pub(super) name: String,
    pub(super) model: Arc<Batcher>,
    pub(super) prompts: Vec<Vec<u32>>,
    pub(super) settings: Settings,
}

/// A caller who may go: the model is told when this is dropped.
pub(super) struct Present(Arc<AtomicBool>);

impl Drop for Present {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Job {
    /// One request a choice: `n` of each prompt, in order.
    fn requests(&self, gone: &Arc<AtomicBool>, events: Option<&mpsc::Sender<Event>>) -> Vec<CompletionRequest> {
        let Settings { sampling, completions, stop, seed, stream_number, .. } = &self.settings;
        let each = self.prompts.iter().flat_map(|prompt| (0..*completions).map(move |stream| (prompt, stream)));
        let request = |(index, (prompt, stream)): (usize, (&Vec<u32>, usize))| {
            let (gone, events, told) = (gone.clone(), events.cloned(), AtomicUsize::new(0));
            let observer = move |tokens: &[u32]| {
                let before = told.swap(tokens.len(), Ordering::Relaxed);
                if let (Some(events), Some(new)) = (&events, tokens.get(before..).filter(|new| !new.is_empty()))
                    && events.try_send(Event::Tokens(index, new.to_vec())).is_err()
                {
                    return false;
                }
                !gone.load(Ordering::Relaxed)
            };
            let prompt = PromptTokens::free(stream_number.wrapping_add(stream as u64), prompt.clone());
            CompletionRequest {
                stop: stop.clone(),
                seed: *seed,
                observer: Some(Arc::new(observer)),
                // Conversations and prompts of one program begin alike.
                keep_prompt: true,
                ..CompletionRequest::new(Prefix::NONE, prompt, sampling.clone())
            }
        };
        each.enumerate().map(request).collect()
    }

    fn prompt_tokens(&self) -> usize {
        self.prompts.iter().map(Vec::len).sum()
    }
}

/// The usage object of both endpoints.
pub(super) fn usage(prompt: usize, completions: usize) -> Value {
    json!({ "prompt_tokens": prompt, "completion_tokens": completions, "total_tokens": prompt + completions })
}

pub(super) fn finish(completion: &Completion) -> &'static str {
    match completion.finish {
        Finish::Stop => "stop",
        _ => "length",
    }
}

/// Answers a request.
pub(super) async fn answer(call: Call, job: Job, form: impl Form) -> Result<Response, ApiError> {
    let gone = Arc::new(AtomicBool::new(false));
    let present = Present(gone.clone());
    if job.settings.stream {
        return stream::answer(call, job, form, gone, present).await;
    }
    let (prompt, requests) = (job.prompt_tokens(), job.requests(&gone, None));
    let (model, bill) = (job.model.clone(), Bill::new(&call, prompt));
    let made = call.blocking(COMPLETING, move || bill.complete(&model, requests)).await?;
    drop(present);
    let completions = made.into_iter().collect::<Result<Vec<_>, Error>>().map_err(|error| failed(&error))?;
    let tokens: usize = completions.iter().map(|completion| completion.tokens.len()).sum();
    let choice = |(index, completion): (usize, &Completion)| form.choice(index, &completion.text, finish(completion));
    let body = json!({
        "id": crate::events::new_id(form.id()),
        "object": form.object(false),
        "created": crate::events::now(),
        "model": job.name,
        "choices": completions.iter().enumerate().map(choice).collect::<Vec<_>>(),
        "usage": usage(prompt, tokens),
    });
    Ok(axum::Json(body).into_response())
}

/// Starts a job whose tokens are sent as they come.
pub(super) async fn start(call: &Call, job: &Job, gone: &Arc<AtomicBool>) -> Result<mpsc::Receiver<Event>, ApiError> {
    let (sender, receiver) = mpsc::channel(WAITING);
    let (requests, model) = (job.requests(gone, Some(&sender)), job.model.clone());
    let bill = Bill::new(call, job.prompt_tokens());
    let turn = call.service.admission.turn(call.left(COMPLETING)).await?;
    tokio::task::spawn_blocking(move || {
        let _turn = turn;
        // A reader who is that far behind learns of the end by the channel's.
        let _ = sender.try_send(Event::Done(bill.complete(&model, requests)));
    });
    Ok(receiver)
}

pub(super) fn failed(error: &Error) -> ApiError {
    match error {
        Error::Argument { .. } => ApiError::of_request(error),
        error => ApiError::of_inside(error),
    }
}

/// What a caller uses, counted where it is computed: going away early costs the same.
struct Bill {
    service: Arc<Service>,
    caller: String,
    prompt: usize,
}

impl Bill {
    fn new(call: &Call, prompt: usize) -> Self {
        Self { service: call.service.clone(), caller: call.caller.clone(), prompt }
    }

    fn complete(self, model: &Batcher, requests: Vec<CompletionRequest>) -> Vec<querywright_types::Result<Completion>> {
        self.service.quota.count(&self.caller, self.prompt);
        let made = model.complete(requests);
        let tokens = made.iter().flatten().map(|completion| completion.tokens.len()).sum();
        self.service.quota.count(&self.caller, tokens);
        self.service.metrics.used(self.prompt, tokens);
        made
    }
}
