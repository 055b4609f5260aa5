//! Elasticsearch, OpenSearch and Quickwit: many searches in one `_msearch`.

use serde_json::{Map, Value, json};

use querywright_text::boolean::{Clause, Group};
use querywright_types::{Deadline, Error, FaultKind, Result};

use crate::config::{ConnectConfig, EngineKind, PLACEHOLDERS};
use crate::connected::{Asked, Engine, Found, finite};
use crate::http::{Call, Failure, Http, quoted};

/// Searches of one call at most.
const AT_ONCE: usize = 32;

pub(crate) struct Elastic {
    http: Http,
    kind: EngineKind,
    index: String,
    /// Names with the factors on their scores.
    fields: Vec<(String, f64)>,
    id: Option<String>,
    title: Option<String>,
    body: Value,
}

impl Elastic {
    pub(crate) fn new(config: &ConnectConfig) -> Result<Self> {
        if config.kind == EngineKind::Quickwit && config.id.is_none() {
            let remedy = "set connect.id to the field that holds the documents' ids";
            return Err(Error::argument("connect.id", "Quickwit gives documents no ids of their own", remedy));
        }
        let body = match &config.body {
            None => default_body(config),
            Some(text) => {
                let refused = |found: String| {
                    Error::argument("connect.body", found, "give a JSON object with \"$query\" or \"$text\" in it")
                };
                let body: Value = serde_json::from_str(text).map_err(|e| refused(e.to_string()))?;
                let said = body.to_string();
                if !body.is_object() || !PLACEHOLDERS[..2].iter().any(|name| said.contains(&format!("\"{name}\""))) {
                    return Err(refused("nothing in it says where the query goes".to_owned()));
                }
                body
            }
        };
        Ok(Self {
            http: Http::new(config)?,
            kind: config.kind,
            index: config.index.clone(),
            fields: config.fields.iter().map(|(name, weight)| (name.clone(), *weight)).collect(),
            id: config.id.clone(),
            title: config.title.clone(),
            body,
        })
    }

    /// The body of `_msearch`: a header and a search in turn, a line each.
    fn call(&self, asked: &[Asked<'_>], deadline: Deadline) -> Call {
        let mut body = String::new();
        for one in asked {
            let query =
                one.query.as_ref().map_or_else(|| self.any_field(one.text, None, 1.0), |group| self.group(group));
            // More than an index gives is its own to refuse, by `index.max_result_window`.
            let mut search = filled(&self.body, &query, one.text, one.k);
            if let Value::Object(search) = &mut search {
                match (self.kind, deadline.left()) {
                    // It ranks by scores, and tells them, where it is asked to.
                    (EngineKind::Quickwit, _) => {
                        _ = search.entry("sort").or_insert_with(|| json!([{ "_score": { "order": "desc" } }]));
                    }
                    (_, Some(left)) => {
                        let allowed = format!("{}ms", left.as_millis().max(1));
                        search.entry("timeout").or_insert_with(|| json!(allowed));
                    }
                    (_, None) => {}
                }
            }
            body.push_str(&json!({ "index": self.index }).to_string());
            body.push('\n');
            body.push_str(&search.to_string());
            body.push('\n');
        }
        let path = if self.kind == EngineKind::Quickwit { "/api/v1/_elastic/_msearch" } else { "/_msearch" };
        Call { path: path.to_owned(), content_type: "application/x-ndjson", body }
    }

    /// Words in all fields.
    fn any_field(&self, text: &str, phrase: Option<&str>, boost: f64) -> Value {
        let fields: Vec<String> = self.fields.iter().map(|(name, weight)| format!("{name}^{weight}")).collect();
        let kind = phrase.unwrap_or("most_fields");
        json!({ "multi_match": { "query": text, "fields": fields, "type": kind, "boost": finite(boost) } })
    }

    fn group(&self, group: &Group<'_>) -> Value {
        let all = |clauses: &[Clause<'_>]| clauses.iter().map(|clause| self.clause(clause)).collect::<Vec<_>>();
        let mut parts = Map::new();
        for (name, clauses) in [("must", &group.must), ("should", &group.should), ("must_not", &group.must_not)] {
            if !clauses.is_empty() {
                parts.insert(name.to_owned(), Value::Array(all(clauses)));
            }
        }
        parts.insert("boost".to_owned(), json!(finite(f64::from(group.boost))));
        json!({ "bool": parts })
    }

    fn clause(&self, clause: &Clause<'_>) -> Value {
        match clause {
            Clause::Group(group) => self.group(group),
            Clause::Words { field: None, text, phrase, boost } => {
                self.any_field(text, phrase.then_some("phrase"), f64::from(*boost))
            }
            Clause::Words { field: Some(field), text, phrase, boost } => {
                let name = self.fields.get(*field).map_or("", |(name, _)| name.as_str());
                let kind = if *phrase { "match_phrase" } else { "match" };
                json!({ kind: { name: { "query": text, "boost": finite(f64::from(*boost)) } } })
            }
        }
    }

    fn found(&self, hit: &Value) -> Option<Found> {
        let field = |name: &str| hit["_source"].get(name).map(words).filter(|text| !text.is_empty());
        let id = match &self.id {
            Some(name) if name != "_id" => field(name)?,
            _ => hit["_id"].as_str().map(str::to_owned)?,
        };
        let title = self.title.as_deref().and_then(field).unwrap_or_default();
        let score = hit["_score"].as_f64().or_else(|| hit["sort"][0].as_f64())? as f32;
        Some(Found { id, title, score })
    }

    /// One search's part of the answer.
    fn ranking(&self, answer: &Value) -> Result<Vec<Found>, Failure> {
        if let Some(error) = answer.get("error") {
            let reason = error["reason"].as_str().or(error.as_str()).unwrap_or("an error without a reason");
            let kind = match answer["status"].as_u64() {
                Some(429) => FaultKind::Overloaded,
                Some(500..) => FaultKind::Index,
                _ => FaultKind::Refused,
            };
            return Err((kind, reason.chars().take(300).collect()));
        }
        // What some shards did not answer in time, or at all, is no ranking of the index.
        if answer["timed_out"] == true {
            return Err((FaultKind::Timeout, "the engine stopped at its time limit".to_owned()));
        }
        if let Some(failed) = answer["_shards"]["failed"].as_u64().filter(|failed| *failed > 0) {
            return Err((FaultKind::Index, format!("{failed} of {} shards failed", answer["_shards"]["total"])));
        }
        let hits = answer["hits"]["hits"].as_array();
        let unreadable = |what: &str| (FaultKind::Parse, what.to_owned());
        let hits = hits.ok_or_else(|| unreadable("an answer without hits"))?;
        hits.iter().map(|hit| self.found(hit).ok_or_else(|| unreadable("a hit without id or score"))).collect()
    }
}

impl Engine for Elastic {
    fn at_once(&self) -> usize {
        AT_ONCE
    }

    fn search(&self, asked: &[Asked<'_>], deadline: Deadline) -> Vec<Result<Vec<Found>, Failure>> {
        let all = |failure: Failure| asked.iter().map(|_| Err(failure.clone())).collect();
        let body = match self.http.call(&self.call(asked, deadline), deadline) {
            Ok(body) => body,
            Err(failure) => return all(failure),
        };
        let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
        match answer["responses"].as_array() {
            Some(responses) if responses.len() == asked.len() => {
                responses.iter().map(|one| self.ranking(one)).collect()
            }
            Some(responses) => {
                all((FaultKind::Contract, format!("{} answers to {} searches", responses.len(), asked.len())))
            }
            None => all((FaultKind::Parse, format!("no answer of _msearch: {}", quoted(&body)))),
        }
    }
}

/// The query alone; of the documents what names them.
fn default_body(config: &ConnectConfig) -> Value {
    let mut body = json!({ "query": "$query", "size": "$k" });
    if config.kind != EngineKind::Quickwit {
        let id = config.id.iter().filter(|name| *name != "_id");
        let named: Vec<&String> = id.chain(&config.title).collect();
        body["_source"] = if named.is_empty() { json!(false) } else { json!(named) };
        body["track_total_hits"] = json!(false);
    }
    body
}

/// A body with what its placeholders stand for.
fn filled(body: &Value, query: &Value, text: &str, k: usize) -> Value {
    match body {
        Value::String(name) if name == "$query" => query.clone(),
        Value::String(name) if name == "$text" => json!(text),
        Value::String(name) if name == "$k" => json!(k),
        Value::Array(parts) => parts.iter().map(|part| filled(part, query, text, k)).collect(),
        Value::Object(parts) => {
            Value::Object(parts.iter().map(|(key, part)| (key.clone(), filled(part, query, text, k))).collect())
        }
        other => other.clone(),
    }
}

/// A field's value as a text: of several the first.
pub(crate) fn words(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Array(values) => values.first().map(words).unwrap_or_default(),
        _ => String::new(),
    }
}
