//! Documents and queries as JSON lines.

use std::collections::HashSet;
use std::path::Path;

use super::documents::{Catalog, CatalogBuilder};
use super::json::Json;
use super::lines::{Line, Lines, NAMED, quoted};
use super::warning::{Warning, WarningKind, Warnings};
use querywright_types::{Error, Ordinal, Query, Result};

/// Reads `corpus.jsonl`. Everything besides the id that holds text is a field: strings, numbers as they are written,
/// and the texts in lists and objects, joined by spaces. Null and empty strings are passed over; true and false, and what
/// stands under BEIR's `metadata`, are left out with a warning.
pub(super) fn read_corpus(path: &Path, warnings: &mut Warnings) -> Result<Catalog> {
    let lines = Lines::open(path, "one document a line, such as {\"id\": \"1\", \"title\": \"…\", \"text\": \"…\"}")?;
    let mut builder = CatalogBuilder::new();
    lines.each(NAMED, |line| {
        let (id, record) = read_record(&line)?;
        let fields = searched(&record, |name| warnings.add(Warning::new(WarningKind::ValuesLeftOut, path, name)));
        builder.push(&id, fields).map(drop).map_err(|e| at_line(e, &line))
    })?;
    Ok(builder.finish())
}

/// The fields of a document with their texts. `left_out` is told the names of those that hold what is not searched.
pub(super) fn searched(record: &Record, mut left_out: impl FnMut(&str)) -> Vec<(&str, String)> {
    let mut fields = Vec::with_capacity(record.values.len());
    for (name, value) in &record.values {
        let mut found = Texts::default();
        found.read(value);
        // BEIR keeps what is not searched under this name.
        let metadata = record.beir && name == "metadata" && matches!(value, Json::Object(_));
        if found.left_out || metadata && !found.text.is_empty() {
            left_out(name);
        }
        if !metadata {
            fields.push((name.as_str(), found.text));
        }
    }
    fields
}

/// Reads `queries.jsonl`: an id, a text and, for sequential tasks, the ids of earlier items under `history`, for
/// conversations what was said before under `turns`.
pub(super) fn read_queries(path: &Path, catalog: &Catalog) -> Result<Vec<Query>> {
    let lines = Lines::open(path, "one query a line, such as {\"id\": \"q1\", \"text\": \"…\"}")?;
    let mut queries = Vec::new();
    let mut known = HashSet::new();
    lines.each(NAMED, |line| {
        let (id, record) = read_record(&line)?;
        if !known.insert(id.clone()) {
            return Err(line.refuse(
                format!("the query id {} was there before", quoted(&id)),
                "give every query an id of its own, or remove the repetition",
            ));
        }
        let history = read_history(&line, record.value("history"), catalog)?;
        let text = match record.value("text") {
            Some(Json::Text(text)) => text.clone(),
            None | Some(Json::Null) => String::new(),
            Some(other) => {
                let found = format!("\"text\" is {}", other.kind());
                return Err(line.refuse(found, "\"text\" must be a string"));
            }
        };
        let query = Query::new(id, text).with_history(history).with_turns(read_turns(&line, record.value("turns"))?);
        if query.is_empty() {
            return Err(line.refuse(
                format!("the query {} has neither text nor history", quoted(&query.id)),
                "give it a \"text\" or a \"history\" of item ids, or remove the line",
            ));
        }
        queries.push(query);
        Ok(())
    })?;
    Ok(queries)
}

fn read_history(line: &Line, value: Option<&Json>, catalog: &Catalog) -> Result<Vec<Ordinal>> {
    let refuse = |other: &Json| {
        let found = format!("\"history\" holds {}", other.kind());
        line.refuse(found, "\"history\" must be a list of item ids, oldest first")
    };
    let items = match value {
        None | Some(Json::Null) => return Ok(Vec::new()),
        Some(Json::List(items)) => items,
        Some(other) => return Err(refuse(other)),
    };
    let ordinal = |item: &Json| {
        let id = item.id().ok_or_else(|| refuse(item))?;
        catalog.ordinal(id).ok_or_else(|| {
            line.refuse(
                format!("the history holds the item {}, which is not in the corpus", quoted(id)),
                "add the item to corpus.jsonl, or take it out of the history",
            )
        })
    };
    items.iter().map(ordinal).collect()
}

/// What was said before, oldest first. A blank turn says nothing.
fn read_turns(line: &Line, value: Option<&Json>) -> Result<Vec<String>> {
    let refuse = |other: &Json| {
        let found = format!("\"turns\" holds {}", other.kind());
        line.refuse(found, "\"turns\" must be a list of texts, what was said before in the conversation, oldest first")
    };
    let turns = match value {
        None | Some(Json::Null) => return Ok(Vec::new()),
        Some(Json::List(turns)) => turns,
        Some(other) => return Err(refuse(other)),
    };
    let text = |turn: &Json| match turn {
        Json::Text(text) => Ok(text.clone()),
        other => Err(refuse(other)),
    };
    let mut turns: Vec<String> = turns.iter().map(text).collect::<Result<_>>()?;
    turns.retain(|turn| !turn.trim().is_empty());
    Ok(turns)
}

/// A line of JSON without its id.
pub(super) struct Record {
    values: Vec<(String, Json)>,
    /// Whether the id is called `_id`, as in BEIR.
    beir: bool,
}

impl Record {
    fn value(&self, name: &str) -> Option<&Json> {
        self.values.iter().find_map(|(key, value)| (key == name).then_some(value))
    }
}

const REMEDY: &str = "every line must be one JSON object with an \"id\" (or \"_id\"), a string or a whole number";

/// The id of a record (`_id` as in BEIR, or `id`) and what else it holds.
fn read_record(line: &Line) -> Result<(String, Record)> {
    record_of(Json::parse(line.text).map_err(|found| line.refuse(found, REMEDY))?, line)
}

/// The same of a value.
pub(super) fn record_of(value: Json, line: &Line) -> Result<(String, Record)> {
    let Json::Object(mut values) = value else { return Err(line.refuse(format!("found {}", value.kind()), REMEDY)) };
    let place = |name: &str| values.iter().position(|(key, _)| key == name);
    let Some(place) = place("_id").or_else(|| place("id")) else {
        return Err(line.refuse("there is no \"id\"", REMEDY));
    };
    let (key, value) = values.remove(place);
    match value.id() {
        Some("") => Err(line.refuse(format!("\"{key}\" is empty"), REMEDY)),
        Some(id) => Ok((id.to_owned(), Record { values, beir: key == "_id" })),
        None => Err(line.refuse(format!("\"{key}\" is {}", value.kind()), REMEDY)),
    }
}

/// The texts of a value, joined by spaces.
pub(super) fn texts(value: &Json) -> String {
    let mut found = Texts::default();
    found.read(value);
    found.text
}

#[derive(Default)]
struct Texts {
    text: String,
    /// Whether there was true or false, which is no text.
    left_out: bool,
}

impl Texts {
    fn read(&mut self, value: &Json) {
        match value {
            Json::Text(text) | Json::Number(text) => self.add(text),
            Json::List(values) => values.iter().for_each(|value| self.read(value)),
            Json::Object(values) => values.iter().for_each(|(_, value)| self.read(value)),
            Json::Bool => self.left_out = true,
            Json::Null => {}
        }
    }

    fn add(&mut self, text: &str) {
        if !self.text.is_empty() {
            self.text.push(' ');
        }
        self.text.push_str(text);
    }
}

/// What the builder refused, with the line that it came from.
pub(super) fn at_line(error: Error, line: &Line) -> Error {
    match error {
        Error::Argument { found, remedy, .. } => line.refuse(found, remedy),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn corpus(text: &str) -> Result<(Catalog, Vec<Warning>)> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let mut warnings = Warnings::default();
        let catalog = read_corpus(file.path(), &mut warnings)?;
        Ok((catalog, warnings.into_vec()))
    }

    #[test]
    fn the_texts_in_objects_and_lists_are_taken_at_any_depth() {
        let line =
            r#"{"id":"1","title":{"en":"steel kettle","fr":null},"tags":[{"name":"pot"},["tea",{"n":5}]],"no":{}}"#;
        let (catalog, warnings) = corpus(line).unwrap();
        let fields: Vec<_> = catalog.document(0).fields().collect();
        assert_eq!(fields, [("title", "steel kettle"), ("tags", "pot tea 5")]);
        assert_eq!(warnings, []);
    }

    #[test]
    fn numbers_are_taken_as_they_are_written_and_a_key_that_stands_twice_is_refused() {
        let (catalog, _) = corpus(r#"{"id":1,"price":1.50,"version":[3.10,1e3]}"#).unwrap();
        let fields: Vec<_> = catalog.document(0).fields().collect();
        assert_eq!((catalog.id(0), fields), ("1", vec![("price", "1.50"), ("version", "3.10 1e3")]));
        let error = corpus(r#"{"id":"1","text":"a","text":"b"}"#).unwrap_err().to_string();
        assert!(error.contains(":1: the key \"text\" stands twice"), "{error}");
    }

    #[test]
    fn what_is_not_searched_is_counted_in_one_warning() {
        let lines = "{\"_id\":\"1\",\"text\":\"x\",\"sold\":true,\"metadata\":{\"url\":\"y\"}}\n\
                     {\"_id\":\"2\",\"text\":\"x\",\"sold\":[false,\"z\"],\"metadata\":{}}\n";
        let (catalog, warnings) = corpus(lines).unwrap();
        assert_eq!(catalog.field_names(), ["text", "sold"]);
        let [warning] = &warnings[..] else { panic!("{warnings:?}") };
        assert_eq!((warning.kind, warning.count), (WarningKind::ValuesLeftOut, 3));
        assert!(warning.to_string().contains("(fields sold, metadata)"), "{warning}");
    }

    #[test]
    fn more_than_a_thousand_names_of_fields_are_refused_by_name() {
        let line = |i: usize| format!("{{\"id\":\"{i}\",\"text\":\"x\",\"f{i}\":\"y\"}}\n");
        let lines: String = (0..999).map(line).collect();
        assert_eq!(corpus(&lines).unwrap().0.field_names().len(), 1000);
        let error = corpus(&(lines + &line(999))).unwrap_err().to_string();
        assert!(error.contains(":1000: the field \"f999\" is one more than 1000"), "{error}");
    }

    fn queries(text: &str) -> Result<Vec<Query>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        read_queries(file.path(), &Catalog::default())
    }

    #[test]
    fn a_conversation_has_its_turns_and_what_is_no_text_among_them_is_refused() {
        let read = queries(
            "{\"id\":\"c1_1\",\"text\":\"who wrote it\"}\n\
             {\"id\":\"c1_2\",\"text\":\"and when\",\"turns\":[\"who wrote it\",\" \",\"She did.\"]}\n\
             {\"id\":\"c2_1\",\"text\":\"hi\",\"turns\":null}\n",
        );
        let turns: Vec<Vec<String>> = read.unwrap().into_iter().map(|query| query.turns).collect();
        assert_eq!(turns, [vec![], vec!["who wrote it".to_owned(), "She did.".to_owned()], vec![]]);
        for (bad, found) in [("\"before\"", "a string"), ("[1]", "a number"), ("[{\"role\":\"user\"}]", "an object")] {
            let error = queries(&format!("{{\"id\":\"q\",\"text\":\"x\",\"turns\":{bad}}}")).unwrap_err().to_string();
            assert!(
                error.contains(&format!(":1: \"turns\" holds {found}")) && error.contains("a list of texts"),
                "{error}"
            );
        }
        let error = queries("{\"id\":\"q\",\"turns\":[\"before\"]}").unwrap_err().to_string();
        assert!(error.contains("neither text nor history"), "{error}");
    }
}
