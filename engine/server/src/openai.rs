//! OpenAI's endpoints, over the models and encoders of this process.
//!
//! What a caller asks for is done or refused by name: nothing that would change an answer is ignored. `top_k` and
//! `repetition_penalty` have the names that vLLM gave them.

#[cfg(feature = "model")]
mod chat;
#[cfg(feature = "model")]
mod completion;
#[cfg(feature = "dense")]
mod embeddings;
#[cfg(feature = "model")]
mod sampling;
#[cfg(feature = "model")]
mod stream;
#[cfg(feature = "model")]
mod text;

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::request::Call;
use crate::service::Service;

#[cfg(feature = "model")]
pub(crate) use chat::chat;
#[cfg(feature = "dense")]
pub(crate) use embeddings::embeddings;
#[cfg(feature = "model")]
pub(crate) use text::completions;

#[cfg(not(feature = "model"))]
pub(crate) use absent::{chat, completions};

#[cfg(not(feature = "dense"))]
pub(crate) async fn embeddings(call: Call) -> Result<Response, ApiError> {
    absent::refused(&call)
}

/// What answers where this was built without models or encoders.
#[cfg(not(all(feature = "model", feature = "dense")))]
mod absent {
    use super::*;

    pub(super) fn refused(_: &Call) -> Result<Response, ApiError> {
        let message = "this server was built without it (the features `model` and `dense`)";
        Err(ApiError::new(axum::http::StatusCode::NOT_IMPLEMENTED, "not_implemented", message))
    }

    #[cfg(not(feature = "model"))]
    pub(crate) async fn chat(call: Call) -> Result<Response, ApiError> {
        refused(&call)
    }

    #[cfg(not(feature = "model"))]
    pub(crate) async fn completions(call: Call) -> Result<Response, ApiError> {
        refused(&call)
    }
}

/// The names of all models and encoders, in order.
pub(crate) fn names(service: &Service) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    #[cfg(feature = "model")]
    names.extend(service.models().into_keys());
    #[cfg(feature = "dense")]
    names.extend(service.encoders().keys().cloned());
    let _ = service;
    names.sort();
    names.dedup();
    names
}

/// A model; it counts as made when the server was.
fn described(service: &Service, name: &str) -> Value {
    json!({ "id": name, "object": "model", "created": service.started, "owned_by": "querywright" })
}

pub(crate) fn models(call: &Call) -> Response {
    let data: Vec<Value> = names(&call.service).iter().map(|name| described(&call.service, name)).collect();
    Json(json!({ "object": "list", "data": data })).into_response()
}

pub(crate) fn model(call: &Call) -> Result<Response, ApiError> {
    let name = call.name_behind("/v1/models/")?;
    match names(&call.service).contains(&name) {
        true => Ok(Json(described(&call.service, &name)).into_response()),
        false => Err(unknown_model(&name)),
    }
}

fn unknown_model(name: &str) -> ApiError {
    ApiError::unknown("model", name, "GET /v1/models lists them")
}
