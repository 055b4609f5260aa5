//! The stages that every request goes through.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;

use crate::error::ApiError;
use crate::events;
use crate::keys::Access;
use crate::routes::{Endpoint, Route, handle};
use crate::service::Service;
use crate::traces::Span;

const REQUEST_ID: &str = "x-request-id";
/// Letters of a request's id at most, where the caller gives one.
const LONGEST_ID: usize = 64;

/// A request that may be worked on.
pub(crate) struct Call {
    pub(crate) service: Arc<Service>,
    /// Its id, for the log and for the caller.
    pub(crate) id: String,
    /// The name of the caller's key; "anyone" where there are no keys.
    pub(crate) caller: String,
    pub(crate) received: Instant,
    pub(crate) span: Span,
    path: String,
    /// Behind the question mark.
    parameters: String,
    body: Bytes,
}

impl Call {
    /// The body as JSON.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        serde_json::from_slice(&self.body).map_err(|error| {
            let text = error.to_string();
            ApiError::bad("body", format!("{}; GET /openapi.json says what belongs there", without_types(&text)))
        })
    }

    /// The body as text.
    pub(crate) fn text(&self) -> Result<&str, ApiError> {
        std::str::from_utf8(&self.body).map_err(|_| ApiError::bad("body", "it is no UTF-8"))
    }

    /// A number of the address; 0 where it is not there.
    pub(crate) fn number(&self, name: &str) -> Result<u64, ApiError> {
        let values = self.parameters.split('&').filter_map(|pair| pair.split_once('='));
        match values.filter(|(key, _)| *key == name).map(|(_, value)| value).next_back() {
            None => Ok(0),
            Some(value) => value.parse().map_err(|_| ApiError::bad(name, "give a whole number")),
        }
    }

    /// The part of the path behind `before`, up to the next slash.
    pub(crate) fn name_behind(&self, before: &str) -> Result<String, ApiError> {
        let rest = self.path.strip_prefix(before).unwrap_or_default();
        let name = rest.split('/').next().unwrap_or_default();
        let decoded = percent_decode_str(name).decode_utf8();
        decoded.map(Cow::into_owned).map_err(|_| ApiError::bad("path", "the name in it is no UTF-8"))
    }

    /// The time left of `allowed`.
    pub(crate) fn left(&self, allowed: Duration) -> Duration {
        allowed.saturating_sub(self.received.elapsed())
    }

    /// Runs work that blocks in this request's turn, on a thread of its own. Where it takes longer than `allowed` the caller
    /// is told so; the work ends by itself, and its turn with it.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        allowed: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let turn = self.service.admission.turn(self.left(allowed)).await?;
        let done = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            work()
        });
        match tokio::time::timeout(self.left(allowed) + GRACE, done).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(panic)) => {
                let mut error = ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "bug", "the program failed");
                error.inside = Some(format!("a handler panicked: {panic}"));
                Err(error)
            }
            Err(_) => Err(ApiError::late()),
        }
    }
}

/// What a stack may take beyond its deadline before the caller stops waiting for it: a retriever that keeps deadlines answers
/// a little after one.
const GRACE: Duration = Duration::from_millis(20);

/// Answers a request: key, size, handler, metrics, log.
pub(crate) async fn answer(route: &'static Route, service: Arc<Service>, http: Request) -> Response {
    let received = Instant::now();
    let id = request_id(http.headers());
    let span = service.traces.begin(route, http.headers(), &id);
    let mut response = match admit(route, &service, http, &id, (received, span.clone())).await {
        Ok(call) => handle(route.endpoint, call).await,
        Err(error) => Err(error),
    }
    .unwrap_or_else(|error| {
        if let Some(inside) = &error.inside {
            service.log(&format!("request {id}: {}: {inside}", route.path));
        }
        error.into_response()
    });
    span.end(response.status());
    service.metrics.answered(route.path, response.status(), received.elapsed());
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

/// Checks a request and reads its body.
async fn admit(
    route: &Route,
    service: &Arc<Service>,
    http: Request,
    id: &str,
    (received, span): (Instant, Span),
) -> Result<Call, ApiError> {
    let caller = caller(service, http.headers(), route.access)?;
    let limits = &service.config.limits;
    let most = match route.endpoint {
        Endpoint::Documents => limits.documents_bytes,
        _ => limits.body_bytes,
    };
    let too_large = || {
        let message = format!("the body has more than {most} bytes");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
    };
    let announced = http.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|bytes| bytes > most as u64) {
        return Err(too_large());
    }
    let path = http.uri().path().to_owned();
    let parameters = http.uri().query().unwrap_or_default().to_owned();
    let read = axum::body::to_bytes(http.into_body(), most);
    let body = match tokio::time::timeout(Duration::from_millis(limits.read_ms), read).await {
        Ok(Ok(body)) => body,
        Ok(Err(error)) if error.to_string().contains("length limit") => return Err(too_large()),
        Ok(Err(_)) => return Err(ApiError::bad("body", "it ends before its end, or its chunks are malformed")),
        Err(_) => {
            let message = format!("the body was not there within {} ms", limits.read_ms);
            return Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "deadline", message));
        }
    };
    Ok(Call { service: service.clone(), id: id.to_owned(), caller, received, span, path, parameters, body })
}

/// The name of the caller, where they may do this.
fn caller(service: &Service, headers: &HeaderMap, needed: Access) -> Result<String, ApiError> {
    if service.keys.is_none() && needed > Access::Open {
        own_page_or_program(headers)?;
    }
    let Some(keys) = service.keys.as_ref().filter(|_| needed > Access::Open) else { return Ok("anyone".to_owned()) };
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let secret =
        given.and_then(|value| value.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let Some((_, secret)) = secret else {
        let message = "send a key: Authorization: Bearer KEY";
        return Err(ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", message));
    };
    match keys.find(secret.trim()) {
        Some((name, access)) if access >= needed => Ok(name.to_owned()),
        Some(_) => {
            let message = "this key may read; the request needs one of an administrator";
            Err(ApiError::new(StatusCode::FORBIDDEN, "forbidden", message))
        }
        None => Err(ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", "this key is not known here")),
    }
}

/// Without keys whoever runs on this machine may ask, and that is not what a page of somebody else does in a browser here: its
/// origin is another one, or it has a name of its own for this address (DNS rebinding).
fn own_page_or_program(headers: &HeaderMap) -> Result<(), ApiError> {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let host = text(header::HOST).unwrap_or_default();
    let name =
        host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit())).map_or(host, |(n, _)| n);
    let here = name.eq_ignore_ascii_case("localhost")
        || name.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    let origin = text(header::ORIGIN).is_none_or(|origin| origin.split_once("://").is_some_and(|(_, of)| of == host));
    match here && origin {
        true => Ok(()),
        false => {
            let message = "without keys this server answers programs of its own machine, under localhost or 127.0.0.1, and its \
                           own page; set keys";
            Err(ApiError::new(StatusCode::FORBIDDEN, "forbidden", message))
        }
    }
}

/// The caller's id, where it is one that may stand in a log, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    let plain = |id: &&str| {
        (1..=LONGEST_ID).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    match headers.get(REQUEST_ID).and_then(|value| value.to_str().ok()).filter(plain) {
        Some(id) => id.to_owned(),
        None => events::new_id("req-"),
    }
}

/// A parser's sentence without the names of types of this program, which say nothing to a caller.
fn without_types(text: &str) -> String {
    let mut out = Vec::new();
    let mut words = text.split(' ').peekable();
    while let Some(word) = words.next() {
        match word {
            "struct" | "enum" if words.peek().is_some_and(|next| next.starts_with(char::is_uppercase)) => {
                words.next();
                out.push("an object");
            }
            "usize" | "u64" | "u32" => out.push("a whole number"),
            "f32" | "f64" => out.push("a number"),
            word => out.push(word),
        }
    }
    out.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_caller_reads_names_no_types() {
        assert_eq!(
            without_types("invalid type: string \"a\", expected struct SearchBody at line 1"),
            "invalid type: string \"a\", expected an object at line 1"
        );
        assert_eq!(without_types("expected usize"), "expected a whole number");
    }

    #[test]
    fn an_id_of_a_caller_is_kept_where_it_is_plain() {
        let with = |id: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_str(id).unwrap());
            request_id(&headers)
        };
        assert_eq!(with("trace-1.a_B"), "trace-1.a_B");
        for strange in ["", "a b", "a\"b", &"x".repeat(65)] {
            assert!(with(strange).starts_with("req-"), "{strange}");
        }
        assert_ne!(with(""), with(""));
    }
}
