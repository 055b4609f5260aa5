//! Documents and queries as JSON lines.

use std::collections::HashSet;
use std::path::Path;

use serde_json::{Map, Value};

use super::documents::{Catalog, CatalogBuilder};
use super::lines::{Line, Lines, quoted};
use querywright_types::{Error, Ordinal, Query, Result};

/// Reads `corpus.jsonl`. Everything besides the id that holds text is a field: strings, numbers as they are written,
/// lists of both joined by spaces. Other values (null, true, objects) and empty strings are passed over.
pub(super) fn read_corpus(path: &Path) -> Result<Catalog> {
    let mut lines =
        Lines::open(path, "one document a line, such as {\"id\": \"1\", \"title\": \"…\", \"text\": \"…\"}")?;
    let mut builder = CatalogBuilder::new();
    while let Some(line) = lines.next()? {
        let (id, record) = read_record(&line)?;
        let fields = record.iter().filter_map(|(name, value)| Some((name, text_of(value)?)));
        builder.push(&id, fields).map_err(|e| at_line(e, &line))?;
    }
    Ok(builder.finish())
}

/// Reads `queries.jsonl`: an id, a text and, for sequential tasks, the ids of earlier items under `history`.
pub(super) fn read_queries(path: &Path, catalog: &Catalog) -> Result<Vec<Query>> {
    let mut lines = Lines::open(path, "one query a line, such as {\"id\": \"q1\", \"text\": \"…\"}")?;
    let mut queries = Vec::new();
    let mut known = HashSet::new();
    while let Some(line) = lines.next()? {
        let (id, record) = read_record(&line)?;
        if !known.insert(id.clone()) {
            return Err(line.refuse(
                format!("the query id {} was there before", quoted(&id)),
                "give every query an id of its own, or remove the repetition",
            ));
        }
        let history = read_history(&line, record.get("history"), catalog)?;
        let text = match record.get("text") {
            Some(Value::String(text)) => text.clone(),
            None | Some(Value::Null) => String::new(),
            Some(other) => {
                let found = format!("\"text\" is {}", kind(other));
                return Err(line.refuse(found, "\"text\" must be a string"));
            }
        };
        if text.trim().is_empty() && history.is_empty() {
            return Err(line.refuse(
                format!("the query {} has neither text nor history", quoted(&id)),
                "give it a \"text\" or a \"history\" of item ids, or remove the line",
            ));
        }
        queries.push(Query::new(id, text).with_history(history));
    }
    Ok(queries)
}

fn read_history(line: &Line, value: Option<&Value>, catalog: &Catalog) -> Result<Vec<Ordinal>> {
    let refuse = |other: &Value| {
        let found = format!("\"history\" holds {}", kind(other));
        line.refuse(found, "\"history\" must be a list of item ids, oldest first")
    };
    let items = match value {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(items)) => items,
        Some(other) => return Err(refuse(other)),
    };
    let ordinal = |item: &Value| {
        let id = id_of(item).ok_or_else(|| refuse(item))?;
        catalog.ordinal(&id).ok_or_else(|| {
            line.refuse(
                format!("the history holds the item {}, which is not in the corpus", quoted(&id)),
                "add the item to corpus.jsonl, or take it out of the history",
            )
        })
    };
    items.iter().map(ordinal).collect()
}

/// The id of a record (`_id` as in BEIR, or `id`) and what else it holds.
fn read_record(line: &Line) -> Result<(String, Map<String, Value>)> {
    const REMEDY: &str = "every line must be one JSON object with an \"id\" (or \"_id\"), a string or a whole number";
    let value: Value = serde_json::from_str(line.text).map_err(|e| {
        // serde_json adds "at line 1 column …"; the line is named already.
        let message = e.to_string();
        let reason = message.split(" at line ").next().unwrap_or_default();
        line.refuse(format!("not JSON at character {}: {reason}", e.column()), REMEDY)
    })?;
    let mut record = match value {
        Value::Object(record) => record,
        other => return Err(line.refuse(format!("found {}", kind(&other)), REMEDY)),
    };
    let key = if record.contains_key("_id") { "_id" } else { "id" };
    match record.shift_remove(key) {
        None => Err(line.refuse("there is no \"id\"", REMEDY)),
        Some(value) => match id_of(&value) {
            Some(id) if !id.is_empty() => Ok((id, record)),
            Some(_) => Err(line.refuse(format!("\"{key}\" is empty"), REMEDY)),
            None => Err(line.refuse(format!("\"{key}\" is {}", kind(&value)), REMEDY)),
        },
    }
}

fn id_of(value: &Value) -> Option<String> {
    match value {
        Value::String(id) => Some(id.clone()),
        Value::Number(id) if !id.is_f64() => Some(id.to_string()),
        _ => None,
    }
}

/// The text of a field; none for what is not text.
fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Array(values) => Some(values.iter().filter_map(text_of).collect::<Vec<_>>().join(" ")),
        _ => None,
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// What the builder refused, with the line that it came from.
pub(super) fn at_line(error: Error, line: &Line) -> Error {
    match error {
        Error::Argument { found, remedy, .. } => line.refuse(found, remedy),
        other => other,
    }
}
