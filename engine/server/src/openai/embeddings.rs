//! `/v1/embeddings`.

use std::time::Duration;

use axum::Json;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use querywright_encode::InputType;
use querywright_types::Deadline;

use super::unknown_model;
use crate::error::ApiError;
use crate::request::Call;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    model: String,
    input: Input,
    #[serde(default)]
    encoding_format: Format,
    dimensions: Option<usize>,
    /// Which of the model's prefixes counts. OpenAI has no such field; Cohere's and Voyage's have this name.
    #[serde(default)]
    input_type: Type,
    #[serde(rename = "user")]
    _user: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Input {
    One(String),
    Many(Vec<String>),
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Format {
    #[default]
    Float,
    Base64,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Type {
    Query,
    #[default]
    Document,
}

/// How long encoding may take.
const ENCODING: Duration = Duration::from_secs(60);

pub(crate) async fn embeddings(call: Call) -> Result<Response, ApiError> {
    let Body { model, input, encoding_format, dimensions, input_type, .. } = call.json()?;
    let encoder = call.service.encoders().get(&model).cloned().ok_or_else(|| unknown_model(&model))?;
    let texts = match input {
        Input::One(text) => vec![text],
        Input::Many(texts) => texts,
    };
    let most = call.service.config.limits.queries;
    if texts.is_empty() || texts.len() > most || texts.iter().any(String::is_empty) {
        return Err(ApiError::bad("input", format!("give 1 to {most} texts, none of them empty")));
    }
    let width = encoder.width();
    if dimensions.is_some_and(|wanted| wanted != width) {
        return Err(ApiError::bad("dimensions", format!("the model's vectors have {width}; leave it out")));
    }
    call.service.quota.check(&call.caller)?;
    let role = match input_type {
        Type::Query => InputType::Query,
        Type::Document => InputType::Document,
    };
    let received = call.received;
    let work = move || {
        let tokens =
            texts.iter().map(|text| encoder.count_tokens(text, role)).sum::<querywright_types::Result<usize>>()?;
        let left = Deadline::after(ENCODING.saturating_sub(received.elapsed()));
        Ok::<_, querywright_types::Error>((encoder.encode(&texts, role, left, &())?, tokens))
    };
    let (vectors, tokens) = call.blocking(ENCODING, work).await?.map_err(|error| ApiError::of_inside(&error))?;
    call.service.metrics.used(tokens, 0);
    call.service.quota.count(&call.caller, tokens);
    let one = |(index, vector): (usize, &[f32])| {
        let embedding = match encoding_format {
            Format::Float => json!(vector),
            Format::Base64 => {
                let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
                Value::String(STANDARD.encode(bytes))
            }
        };
        json!({ "object": "embedding", "index": index, "embedding": embedding })
    };
    let data: Vec<Value> = vectors.chunks_exact(width.max(1)).enumerate().map(one).collect();
    let usage = json!({ "prompt_tokens": tokens, "total_tokens": tokens });
    Ok(Json(json!({ "object": "list", "data": data, "model": model, "usage": usage })).into_response())
}
