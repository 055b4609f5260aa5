//! `/v1/chat/completions`.

use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};

use querywright_model::Message;

use super::completion::{ENCODING, Form, Job, answer, failed, model, room};
use super::sampling::Asked;
use crate::error::ApiError;
use crate::request::Call;

/// Messages of a conversation at most.
const MOST_MESSAGES: usize = 1000;

#[derive(Debug, Deserialize)]
struct Body {
    model: String,
    messages: Vec<Spoken>,
    #[serde(flatten)]
    asked: Asked,
}

/// One turn.
#[derive(Debug, Deserialize)]
struct Spoken {
    role: String,
    content: Option<Content>,
    /// Who speaks, beside the role.
    #[serde(default)]
    name: Option<String>,
    #[serde(flatten)]
    rest: serde_json::Map<String, Value>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Debug, Deserialize)]
struct Part {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
}

pub(crate) async fn chat(call: Call) -> Result<Response, ApiError> {
    let Body { model: name, messages, asked } = call.json()?;
    let model = model(&call, &name)?;
    if messages.is_empty() || messages.len() > MOST_MESSAGES {
        let found = format!("found {}; 1 to {MOST_MESSAGES} are allowed", messages.len());
        return Err(ApiError::bad("messages", found));
    }
    let messages = messages.into_iter().enumerate().map(message).collect::<Result<Vec<_>, _>>()?;
    call.service.quota.check(&call.caller)?;
    let tokenizer = model.tokenizer().clone();
    let encoded = call.blocking(ENCODING, move || tokenizer.encode_chat(&messages)).await?;
    let prompts = vec![encoded.map_err(|error| failed(&error))?];
    let longest = room(&call, &model, "messages", &prompts)?;
    // As OpenAI's chat has it: what the model has room for.
    let settings = asked.settings(longest, longest)?;
    answer(call, Job { name, model, prompts, settings }, Chat).await
}

fn message((place, spoken): (usize, Spoken)) -> Result<Message, ApiError> {
    let refused = |what: &str, message: &str| Err(ApiError::bad(&format!("messages[{place}].{what}"), message));
    let role = match spoken.role.as_str() {
        // What OpenAI calls the system's turn for newer models.
        "developer" => "system",
        role @ ("system" | "user" | "assistant") => role,
        _ => return refused("role", "give system, user or assistant"),
    };
    if spoken.name.is_some() {
        return refused("name", "this server does not have it; say it in the content");
    }
    if let Some((key, _)) = spoken.rest.iter().find(|(_, value)| !value.is_null() && **value != json!([])) {
        return refused(key, "this server does not have it; leave it out");
    }
    let content = match spoken.content {
        None => return refused("content", "there is none; give a text"),
        Some(Content::Text(text)) => text,
        Some(Content::Parts(parts)) => {
            if let Some(other) = parts.iter().find(|part| part.kind != "text" || part.text.is_none()) {
                let shown: String = other.kind.chars().take(40).collect();
                return refused("content", &format!("a part is {shown:?}; only text can be read"));
            }
            parts.into_iter().filter_map(|part| part.text).collect()
        }
    };
    Ok(Message::new(role, content))
}

struct Chat;

impl Form for Chat {
    fn id(&self) -> &'static str {
        "chatcmpl-"
    }

    fn object(&self, part: bool) -> &'static str {
        if part { "chat.completion.chunk" } else { "chat.completion" }
    }

    fn choice(&self, index: usize, text: &str, finish: &str) -> Value {
        let message = json!({ "role": "assistant", "content": text, "refusal": null });
        json!({ "index": index, "message": message, "logprobs": null, "finish_reason": finish })
    }

    fn opening(&self, index: usize) -> Option<Value> {
        let delta = json!({ "role": "assistant", "content": "" });
        Some(json!({ "index": index, "delta": delta, "logprobs": null, "finish_reason": null }))
    }

    fn part(&self, index: usize, text: &str, finish: Option<&str>) -> Value {
        let delta = if text.is_empty() { json!({}) } else { json!({ "content": text }) };
        json!({ "index": index, "delta": delta, "logprobs": null, "finish_reason": finish })
    }
}
