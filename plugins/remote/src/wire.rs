//! Requests and responses of Elasticsearch's `_search`.

use querywright_plugin::host::Response;
use querywright_plugin::{Fault, Request};
use serde_json::{Value, json};

use crate::{MOST_HITS, Settings};

/// Characters of an error response that a fault quotes.
const LONGEST_EXCERPT: usize = 300;

/// The body of a search. With `boolean` the engine reads the text as a Boolean query.
pub(crate) fn search<'a>(
    settings: &Settings,
    request: &Request,
    boolean: bool,
    excluded: impl Iterator<Item = &'a str>,
) -> Vec<u8> {
    let kind = if boolean { "query_string" } else { "multi_match" };
    let mut words = json!({"query": request.text});
    if !settings.fields.is_empty() {
        words["fields"] = json!(settings.fields);
    }
    let excluded: Vec<&str> = excluded.collect();
    let mut query = json!({ kind: words });
    if !excluded.is_empty() {
        query = json!({"bool": {"must": [query], "must_not": [{"ids": {"values": excluded}}]}});
    }
    let size = (request.k as usize).min(MOST_HITS);
    json!({"size": size, "_source": false, "track_total_hits": false, "query": query}).to_string().into_bytes()
}

/// Ids and scores of a response.
///
/// # Errors
/// If the response is an error, incomplete, or cannot be parsed.
pub(crate) fn answer(response: &Response) -> Result<Vec<(String, f32)>, Fault> {
    match response.status {
        200 => {}
        408 | 504 => return Err(Fault::Timeout),
        status @ (429 | 500..) => return Err(Fault::Network(format!("status {status}"))),
        status => {
            let excerpt: String = String::from_utf8_lossy(&response.body).chars().take(LONGEST_EXCERPT).collect();
            return Err(Fault::Internal(format!("status {status}: {excerpt}")));
        }
    }
    let body: Value = serde_json::from_slice(&response.body).map_err(|e| Fault::Unreadable(e.to_string()))?;
    if body["timed_out"] == true {
        return Err(Fault::Timeout);
    }
    match body["_shards"]["failed"].as_u64() {
        None | Some(0) => {}
        Some(failed) => return Err(Fault::Network(format!("{failed} shards failed"))),
    }
    let hits = body["hits"]["hits"].as_array().ok_or_else(|| Fault::Unreadable("there is no hits.hits".into()))?;
    hits.iter()
        .map(|hit| {
            let score = hit["_score"].as_f64().map(|score| score as f32).filter(|score| score.is_finite());
            Some((hit["_id"].as_str()?.to_owned(), score?))
        })
        .collect::<Option<_>>()
        .ok_or_else(|| Fault::Unreadable("a hit lacks its _id or _score".into()))
}
