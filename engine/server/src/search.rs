//! `/v1/search` and `/v1/rewrite`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::response::{IntoResponse, Response};
use futures_util::stream::{StreamExt, iter};
use serde::Deserialize;
use serde_json::{Value, json};

use querywright_stack::{Answer, SearchOptions, Stack};
use querywright_types::{Error, Query, Request, Result};

use crate::config::LimitsConfig;
use crate::engine::Engine;
use crate::error::ApiError;
use crate::request::Call;

/// The body of a search or a rewrite.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    query: Option<String>,
    queries: Option<Vec<String>>,
    #[serde(default)]
    history: Vec<String>,
    #[serde(default)]
    turns: Vec<String>,
    k: Option<usize>,
    #[serde(default)]
    exclude: Vec<String>,
    engine: Option<String>,
    rewriter: Option<String>,
    #[serde(default)]
    explain: bool,
    deadline_ms: Option<u64>,
}

/// Queries of a request that are worked on at once.
const AT_ONCE: usize = 8;

/// A request that was checked.
struct Wanted {
    engine: Arc<Engine>,
    stack: Arc<Stack>,
    /// The rewriter's name here: its own may be a path.
    rewriter: Option<String>,
    queries: Vec<Query>,
    /// Whether there was one query, and its answer stands alone.
    single: bool,
    options: SearchOptions,
    explain: bool,
    allowed: Duration,
}

pub(crate) async fn search(call: Call) -> Result<Response, ApiError> {
    let wanted = wanted(&call)?;
    let Wanted { single, allowed, .. } = wanted;
    // A few side by side, so that one caller does not take all turns.
    let each: Vec<_> = wanted.queries.iter().map(|query| one(&call, &wanted, query.clone())).collect();
    let mut answers: Vec<_> = iter(each).buffered(AT_ONCE).collect().await;
    let took = json!(allowed.saturating_sub(call.left(allowed)).as_secs_f64() * 1e3);
    match (single, answers.pop()) {
        (true, Some(answer)) => answer.map(|mut object| {
            object["took_ms"] = took;
            Json(object).into_response()
        }),
        (_, last) => {
            let told = |answer: Result<Value, ApiError>| {
                answer.unwrap_or_else(|error| {
                    if let Some(inside) = &error.inside {
                        call.service.log(&format!("request {}: /v1/search: {inside}", call.id));
                    }
                    error.body()
                })
            };
            let answers: Vec<Value> = answers.into_iter().chain(last).map(told).collect();
            Ok(Json(json!({ "answers": answers, "took_ms": took })).into_response())
        }
    }
}

pub(crate) async fn rewrite(call: Call) -> Result<Response, ApiError> {
    let wanted = wanted(&call)?;
    if wanted.explain {
        return Err(ApiError::bad("explain", "a rewrite finds nothing to explain; leave it out"));
    }
    let started = wanted.queries.iter().map(|query| {
        let (stack, query, options) = (wanted.stack.clone(), query.clone(), wanted.options.clone());
        let (service, received, allowed) = (call.service.clone(), call.received, wanted.allowed);
        let span = call.span.clone();
        call.blocking(allowed, move || {
            let left = allowed.saturating_sub(received.elapsed());
            let trace = stack.rewrite_with(&query, &options.deadline(left));
            service.metrics.searched(&trace, None);
            span.searched(&trace);
            trace
        })
    });
    let mut traces = Vec::with_capacity(wanted.queries.len());
    let started: Vec<_> = started.collect();
    for trace in iter(started).buffered(AT_ONCE).collect::<Vec<_>>().await {
        let mut trace = trace?;
        trace.rewriter.clone_from(&wanted.rewriter);
        let failed = |e: serde_json::Error| ApiError::of_inside(&Error::bug("server::search", e.to_string()));
        traces.push(serde_json::to_value(&trace).map_err(failed)?);
    }
    Ok(match (wanted.single, traces.pop()) {
        (true, Some(trace)) => Json(json!({ "trace": trace })),
        (_, last) => {
            traces.extend(last);
            Json(json!({ "traces": traces }))
        }
    }
    .into_response())
}

/// One query's answer.
async fn one(call: &Call, wanted: &Wanted, query: Query) -> Result<Value, ApiError> {
    let (stack, engine, options, explain) =
        (wanted.stack.clone(), wanted.engine.clone(), wanted.options.clone(), wanted.explain);
    let (service, received, allowed) = (call.service.clone(), call.received, wanted.allowed);
    let (text, span) = (query.text.clone(), call.span.clone());
    let searched = call.blocking(allowed, move || {
        let (begun, left) = (Instant::now(), allowed.saturating_sub(received.elapsed()));
        let answer = stack.search_with(&query, &options.clone().deadline(left))?;
        service.metrics.searched(&answer.trace, Some(begun.elapsed()));
        span.searched(&answer.trace);
        let explanations = if explain { Some(explanations(&engine, &query, &answer, &options)?) } else { None };
        Ok::<_, Error>((answer, explanations))
    });
    let service = &call.service;
    let quoted = || if service.config.log_queries { format!(" {text:?}") } else { String::new() };
    match searched.await? {
        Ok((mut answer, explanations)) => {
            answer.trace.rewriter.clone_from(&wanted.rewriter);
            if let Some(error) = answer.trace.outcome.fallback() {
                service.log(&format!("request {}:{} searched for as it came: {error}", call.id, quoted()));
            }
            for (one, error) in answer.trace.also.iter().filter_map(|one| Some((one, one.outcome.fallback()?))) {
                service.log(&format!(
                    "request {}:{} left out what {} makes of it: {error}",
                    call.id,
                    quoted(),
                    one.rewriter
                ));
            }
            let mut object = serde_json::to_value(&answer)
                .map_err(|e| ApiError::of_inside(&Error::bug("server::search", e.to_string())))?;
            if let Some(explanations) = explanations {
                object["explanations"] = explanations;
            }
            Ok(object)
        }
        Err(error) => {
            service.metrics.failed(&error);
            let asked = matches!(&error, Error::Argument { name, .. } if name == "explain");
            Err(if asked { ApiError::of_request(&error) } else { ApiError::of_inside(&error) })
        }
    }
}

fn explanations(engine: &Engine, query: &Query, answer: &Answer, options: &SearchOptions) -> Result<Value> {
    let request = Request::new(query, &answer.trace.searched, options.k);
    let each = answer.hits.iter().map(|hit| engine.explain(&request, &hit.id));
    Ok(Value::Array(each.collect::<Result<_>>()?))
}

/// Checks a body against the limits and finds what it names.
fn wanted(call: &Call) -> Result<Wanted, ApiError> {
    let body: Body = call.json()?;
    let (config, limits) = (&call.service.config, &call.service.config.limits);
    within(&body, limits)?;
    let engine = call.service.find_engine(body.engine.as_deref())?;
    let (name, stack) = engine.stack(body.rewriter.as_deref()).map_err(|error| {
        let mut refused = ApiError::of_request(&error);
        refused.status = axum::http::StatusCode::NOT_FOUND;
        refused
    })?;
    let single = body.queries.is_none();
    let texts = match (body.query, body.queries) {
        (Some(_), Some(_)) => return Err(ApiError::bad("queries", "there is a query, too; send one or the other")),
        (Some(text), None) => vec![text],
        (None, Some(texts)) if texts.is_empty() => {
            return Err(ApiError::bad("queries", "it is empty; send at least one"));
        }
        (None, Some(texts)) => texts,
        (None, None) if body.history.is_empty() => {
            return Err(ApiError::bad("query", "there is neither a query nor a history"));
        }
        (None, None) => vec![String::new()],
    };
    let query = |text: &String| {
        let query = engine.query(text, &body.history).map_err(|error| ApiError::of_request(&error))?;
        Ok(query.with_turns(body.turns.iter().cloned()))
    };
    let queries = texts.iter().map(query).collect::<Result<_, ApiError>>()?;
    let excluded = body.exclude.iter().map(|id| engine.ordinal(id)).collect::<Result<Vec<_>>>();
    let options =
        SearchOptions::new(body.k.unwrap_or(config.k)).exclude(excluded.map_err(|error| ApiError::of_request(&error))?);
    let allowed = Duration::from_millis(body.deadline_ms.unwrap_or(config.deadline_ms).min(config.deadline_ms));
    let rewriter = stack.rewriter().map(|_| name);
    Ok(Wanted { engine, stack, rewriter, queries, single, options, explain: body.explain, allowed })
}

fn within(body: &Body, limits: &LimitsConfig) -> Result<(), ApiError> {
    let texts = || body.query.iter().chain(body.queries.iter().flatten()).chain(&body.turns);
    let longest = texts().map(String::len).max().unwrap_or(0);
    let most = |name: &str, found: usize, most: usize, of: &str| match found > most {
        true => Err(ApiError::bad(name, format!("found {found} {of}; at most {most} are allowed"))),
        false => Ok(()),
    };
    most("k", body.k.unwrap_or(1), limits.k, "hits")?;
    most("query", longest, limits.query_bytes, "bytes in one text")?;
    most("queries", body.queries.as_ref().map_or(1, Vec::len), limits.queries, "queries")?;
    most("history", body.history.len(), limits.history, "items")?;
    most("turns", body.turns.len(), limits.history, "turns")?;
    most("exclude", body.exclude.len(), limits.history, "documents")?;
    match (body.k, body.deadline_ms) {
        (Some(0), _) => Err(ApiError::bad("k", "found 0; ask for at least 1 hit")),
        (_, Some(0)) => Err(ApiError::bad("deadline_ms", "found 0; allow at least 1 millisecond")),
        _ => Ok(()),
    }
}
