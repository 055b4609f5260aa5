//! What a caller is told when a request fails: OpenAI's error object, with a code that stays what it is.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use querywright_types::{Error, Fault, FaultKind};

/// A refusal.
#[derive(Debug)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    code: &'static str,
    /// What the caller reads.
    message: String,
    /// The part of the request that is wrong.
    parameter: Option<String>,
    /// Seconds after which it may be tried again.
    retry_after: Option<u64>,
    /// What the log says beside it: the inside's own words.
    pub(crate) inside: Option<String>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), parameter: None, retry_after: None, inside: None }
    }

    /// A request that cannot be used as it is.
    pub(crate) fn bad(parameter: &str, message: impl Into<String>) -> Self {
        Self {
            parameter: Some(parameter.to_owned()),
            ..Self::new(StatusCode::BAD_REQUEST, "argument", format!("{parameter}: {}", message.into()))
        }
    }

    /// Something that is asked for by a name that nothing has.
    pub(crate) fn unknown(parameter: &str, name: &str, remedy: &str) -> Self {
        let message = format!("there is no {parameter} {name:?}; {remedy}");
        Self { parameter: Some(parameter.to_owned()), ..Self::new(StatusCode::NOT_FOUND, "not_found", message) }
    }

    /// More than can be done now.
    pub(crate) fn busy(status: StatusCode, message: impl Into<String>, seconds: u64) -> Self {
        Self { retry_after: Some(seconds), ..Self::new(status, "overloaded", message) }
    }

    /// The time of a request ran out.
    pub(crate) fn late() -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, "deadline", "the time allowed ran out; ask for less, or allow more time")
    }

    /// What the caller asked for is wrong, in the words of a check of the library.
    pub(crate) fn of_request(error: &Error) -> Self {
        match error {
            Error::Argument { name, .. } => Self {
                parameter: Some(name.clone()),
                ..Self::new(StatusCode::BAD_REQUEST, error.code(), error.to_string())
            },
            other => Self::of_inside(other),
        }
    }

    /// Something inside failed: the caller gets its code and a fixed sentence, the log the rest.
    pub(crate) fn of_inside(error: &Error) -> Self {
        let status = match error {
            Error::Argument { .. } => StatusCode::BAD_REQUEST,
            Error::Deadline(_) | Error::Fault(Fault { kind: FaultKind::Timeout, .. }) => StatusCode::GATEWAY_TIMEOUT,
            Error::Overloaded { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Error::Fault(_) => StatusCode::BAD_GATEWAY,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self {
            retry_after: (status == StatusCode::SERVICE_UNAVAILABLE).then_some(1),
            inside: Some(error.to_string()),
            ..Self::new(status, error.code(), error.summary())
        }
    }

    /// The object that the caller gets.
    pub(crate) fn body(&self) -> serde_json::Value {
        let kind = match self.status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            429 => "rate_limit_error",
            400..=499 => "invalid_request_error",
            _ => "server_error",
        };
        json!({ "error": { "message": self.message, "type": kind, "param": self.parameter, "code": self.code } })
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(self.body())).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
