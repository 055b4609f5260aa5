//! `/v1/completions`.

use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};

use super::completion::{ENCODING, Form, Job, answer, failed, model, room};
use super::sampling::{Asked, OneOrMany};
use crate::error::ApiError;
use crate::request::Call;

/// Tokens of a completion where the caller says nothing, as with OpenAI.
const DEFAULT_TOKENS: usize = 16;
/// Prompts of a request at most.
const MOST_PROMPTS: usize = 16;

#[derive(Debug, Deserialize)]
struct Body {
    model: String,
    prompt: OneOrMany,
    #[serde(flatten)]
    asked: Asked,
}

pub(crate) async fn completions(call: Call) -> Result<Response, ApiError> {
    let Body { model: name, prompt, asked } = call.json()?;
    let model = model(&call, &name)?;
    let texts = prompt.into_vec();
    if texts.is_empty() || texts.len() > MOST_PROMPTS {
        return Err(ApiError::bad("prompt", format!("found {}; 1 to {MOST_PROMPTS} are allowed", texts.len())));
    }
    // A caller's text is text: it types no special token.
    call.service.quota.check(&call.caller)?;
    let tokenizer = model.tokenizer().clone();
    let encode = move |text: &String| {
        let theirs = 0..text.len();
        tokenizer.encode_with_users(text, std::slice::from_ref(&theirs), true)
    };
    let encoded = call.blocking(ENCODING, move || texts.iter().map(encode).collect::<Result<Vec<_>, _>>()).await?;
    let prompts = encoded.map_err(|error| failed(&error))?;
    let longest = room(&call, &model, "prompt", &prompts)?;
    let settings = asked.settings(longest, DEFAULT_TOKENS)?;
    answer(call, Job { name, model, prompts, settings }, Text).await
}

struct Text;

impl Form for Text {
    fn id(&self) -> &'static str {
        "cmpl-"
    }

    fn object(&self, _: bool) -> &'static str {
        "text_completion"
    }

    fn choice(&self, index: usize, text: &str, finish: &str) -> Value {
        json!({ "index": index, "text": text, "logprobs": null, "finish_reason": finish })
    }

    fn opening(&self, _: usize) -> Option<Value> {
        None
    }

    fn part(&self, index: usize, text: &str, finish: Option<&str>) -> Value {
        json!({ "index": index, "text": text, "logprobs": null, "finish_reason": finish })
    }
}
