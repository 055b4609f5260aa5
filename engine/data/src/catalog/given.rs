//! Texts that somebody wrote for queries: rewrites, and pairs of which one is preferred.
//!
//! Two layouts, one text a line, compressed by gzip or not:
//!
//! ```text
//! {"query_id": "q1", "rewrite": "insulated teapot"}                     rewrites as JSON lines
//! q1 ⇥ insulated teapot                                                 the same between tabs
//! {"query": "tea goes cold", "chosen": "teapot", "rejected": "cold"}    preferences
//! tea goes cold ⇥ teapot ⇥ cold
//! ```
//!
//! A query is named by its id or by its words. In JSON other keys may stand beside these; between tabs a header may come
//! first. Names ending in `.jsonl` or `.tsv` decide the layout, else the first character does.

use std::path::Path;

use super::json::Json;
use super::lines::{Line, Lines, NAMED, quoted};
use querywright_types::{QueryLanguage, Result};

/// A query as a file names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenQuery {
    /// Its id. Between tabs the same as `text`: the file does not say which of the two it is.
    pub id: Option<String>,
    /// Its words.
    pub text: Option<String>,
}

impl GivenQuery {
    /// Its names, the id first.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let text = self.text.as_deref().filter(|text| Some(*text) != self.id.as_deref());
        self.id.as_deref().into_iter().chain(text)
    }
}

/// A rewrite that somebody wrote for a query.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GivenRewrite {
    /// The line of the file, counted from 1.
    pub line: u64,
    /// The query.
    pub query: GivenQuery,
    /// The rewrite; never empty.
    pub rewrite: String,
    /// The reasoning before it, where the file has some (`thought`).
    pub thought: Option<String>,
    /// The language that it is written in (`language`); plain words where the file does not say.
    pub language: QueryLanguage,
}

/// Two completions of a query, of which one is preferred.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GivenPreference {
    /// The line of the file, counted from 1.
    pub line: u64,
    /// The query.
    pub query: GivenQuery,
    /// The better one; never empty.
    pub chosen: String,
    /// The other one; never empty, and not the same.
    pub rejected: String,
}

const REWRITES: Expected = Expected {
    keys: &["rewrite"],
    sentence: "a query (its id or its words) and its rewrite, as {\"query_id\": \"q1\", \"rewrite\": \"…\"} or with one tab \
               between",
};
const PREFERENCES: Expected = Expected {
    keys: &["chosen", "rejected"],
    sentence: "a query (its id or its words) with a better and a worse answer, as {\"query_id\": \"q1\", \"chosen\": \"…\", \
               \"rejected\": \"…\"} or with tabs between",
};

impl GivenRewrite {
    /// Reads a file of rewrites. A query may have several.
    ///
    /// # Errors
    /// When the file cannot be read, is empty, or holds lines of another layout, which are named.
    pub fn read(path: &Path) -> Result<Vec<Self>> {
        let mut found = Vec::new();
        REWRITES.each(path, |line, mut record| {
            let language = match record.take("language") {
                None | Some(Json::Null) => QueryLanguage::Plain,
                Some(value) => language(&line, &value)?,
            };
            let thought = match record.take("thought") {
                None | Some(Json::Null) => None,
                Some(Json::Text(thought)) => Some(thought),
                Some(other) => {
                    return Err(line.refuse(format!("\"thought\" is {}", other.kind()), "\"thought\" must be a string"));
                }
            };
            let rewrite = record.texts.pop().unwrap_or_default();
            found.push(Self { line: line.number, query: record.query, rewrite, thought, language });
            Ok(())
        })?;
        Ok(found)
    }
}

impl GivenPreference {
    /// Reads a file of preferences. A query may have several.
    ///
    /// # Errors
    /// When the file cannot be read, is empty, or holds lines of another layout, which are named.
    pub fn read(path: &Path) -> Result<Vec<Self>> {
        let mut found = Vec::new();
        PREFERENCES.each(path, |line, mut record| {
            let (rejected, chosen) = (record.texts.pop().unwrap_or_default(), record.texts.pop().unwrap_or_default());
            if chosen == rejected {
                let said = format!("chosen and rejected are the same: {}", quoted(&chosen));
                return Err(line.refuse(said, "give two different answers, or remove the line"));
            }
            found.push(Self { line: line.number, query: record.query, chosen, rejected });
            Ok(())
        })?;
        Ok(found)
    }
}

fn language(line: &Line<'_>, value: &Json) -> Result<QueryLanguage> {
    let Json::Text(name) = value else {
        return Err(line.refuse(format!("\"language\" is {}", value.kind()), "give plain, boolean or natural"));
    };
    match name.as_str() {
        "plain" => Ok(QueryLanguage::Plain),
        "boolean" => Ok(QueryLanguage::Boolean),
        "natural" => Ok(QueryLanguage::Natural),
        _ => Err(line.refuse(format!("\"language\" is {}", quoted(name)), "give plain, boolean or natural")),
    }
}

/// What the lines of a file hold.
struct Expected {
    /// The texts beside the query.
    keys: &'static [&'static str],
    sentence: &'static str,
}

/// A line that was read.
struct Record {
    query: GivenQuery,
    /// One a key, in their order; none is empty.
    texts: Vec<String>,
    /// What else stands in the line.
    others: Vec<(String, Json)>,
}

impl Record {
    fn take(&mut self, key: &str) -> Option<Json> {
        let place = self.others.iter().position(|(name, _)| name == key)?;
        Some(self.others.swap_remove(place).1)
    }
}

/// The keys of a query's id.
const IDS: [&str; 4] = ["query_id", "_id", "id", "qid"];
/// How a header names the first column.
const FIRST_COLUMNS: [&str; 6] = ["query", "query_id", "query-id", "_id", "id", "qid"];

impl Expected {
    fn each(&self, path: &Path, mut take: impl FnMut(Line<'_>, Record) -> Result<()>) -> Result<()> {
        let mut json = by_name(path);
        let mut first = true;
        Lines::open(path, self.sentence)?.each(NAMED, |line| {
            let json = *json.get_or_insert_with(|| line.text.trim_start().starts_with(['{', '[']));
            let is_first = std::mem::take(&mut first);
            if json {
                return self.object(&line).and_then(|record| take(line, record));
            }
            match self.columns(&line, is_first)? {
                Some(record) => take(line, record),
                None => Ok(()),
            }
        })
    }

    /// A line of JSON.
    fn object(&self, line: &Line<'_>) -> Result<Record> {
        let remedy = format!("expected one JSON object a line: {}", self.sentence);
        let value = Json::parse(line.text).map_err(|found| line.refuse(found, &remedy))?;
        let Json::Object(mut others) = value else {
            return Err(line.refuse(format!("found {}", value.kind()), remedy));
        };
        let mut take = |key: &str| {
            let place = others.iter().position(|(name, _)| name == key)?;
            Some(others.remove(place).1)
        };
        let (id, text) = (IDS.iter().find_map(|key| Some((*key, take(key)?))), take("query"));
        let id = match id {
            None | Some((_, Json::Null)) => None,
            Some((key, value)) => match value.id() {
                Some(id) => Some(id.trim().to_owned()),
                None => return Err(line.refuse(format!("\"{key}\" is {}", value.kind()), remedy)),
            },
        };
        let text = match text {
            None | Some(Json::Null) => None,
            Some(Json::Text(text)) => Some(text.trim().to_owned()),
            Some(other) => return Err(line.refuse(format!("\"query\" is {}", other.kind()), remedy)),
        };
        let query = GivenQuery { id: id.filter(|id| !id.is_empty()), text: text.filter(|text| !text.is_empty()) };
        if query.names().next().is_none() {
            return Err(line.refuse("there is neither \"query_id\" nor \"query\", or they are empty", remedy));
        }
        let mut texts = Vec::with_capacity(self.keys.len());
        for key in self.keys {
            // TRL's name of what a prompt is to be answered with.
            let value = take(key).or_else(|| (*key == "rewrite").then(|| take("completion")).flatten());
            texts.push(match value {
                None => return Err(line.refuse(format!("there is no \"{key}\""), remedy)),
                Some(Json::Text(text)) => written(line, key, &text)?,
                Some(other) => {
                    return Err(
                        line.refuse(format!("\"{key}\" is {}", other.kind()), format!("\"{key}\" must be a string"))
                    );
                }
            });
        }
        Ok(Record { query, texts, others })
    }

    /// A line of columns; none where it is a header.
    fn columns(&self, line: &Line<'_>, first: bool) -> Result<Option<Record>> {
        let columns: Vec<&str> = line.text.split('\t').map(str::trim).collect();
        let wanted = 1 + self.keys.len();
        let [query, texts @ ..] = &columns[..] else { return Ok(None) };
        if columns.len() != wanted {
            let found = match columns.len() {
                1 => format!("there is no tab in {}", quoted(line.text)),
                more => format!("{more} columns with tabs between, in place of {wanted}"),
            };
            return Err(line.refuse(found, format!("expected {}", self.sentence)));
        }
        if first && FIRST_COLUMNS.contains(query) {
            return Ok(None);
        }
        if query.is_empty() {
            return Err(line.refuse("the query is empty", "name it by its id or by its words"));
        }
        let texts = texts.iter().zip(self.keys).map(|(text, key)| written(line, key, text)).collect::<Result<_>>()?;
        let name = Some((*query).to_owned());
        Ok(Some(Record { query: GivenQuery { id: name.clone(), text: name }, texts, others: Vec::new() }))
    }
}

/// What was written, without the white space around it.
fn written(line: &Line<'_>, key: &str, text: &str) -> Result<String> {
    let text = text.trim();
    if text.is_empty() {
        let remedy = "give one, or remove the line: what has none is left as it is";
        return Err(line.refuse(format!("\"{key}\" is empty"), remedy));
    }
    if text.contains('\0') {
        return Err(line.refuse(format!("\"{key}\" holds a NUL character"), "remove it: it is no text"));
    }
    Ok(text.to_owned())
}

/// Whether a file's name says that it holds JSON, where it says something.
fn by_name(path: &Path) -> Option<bool> {
    let name = path.file_name()?.to_str()?.to_ascii_lowercase();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    match name.rsplit_once('.')?.1 {
        "jsonl" | "ndjson" | "json" => Some(true),
        "tsv" | "txt" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        (folder, path)
    }

    fn rewrites(name: &str, text: &str) -> Result<Vec<GivenRewrite>> {
        let (_folder, path) = file(name, text);
        GivenRewrite::read(&path)
    }

    fn preferences(name: &str, text: &str) -> Result<Vec<GivenPreference>> {
        let (_folder, path) = file(name, text);
        GivenPreference::read(&path)
    }

    fn names(query: &GivenQuery) -> Vec<&str> {
        query.names().collect()
    }

    #[test]
    fn both_layouts_say_the_same_with_a_header_or_without_and_whatever_stands_beside() {
        let lines = "{\"query_id\": 7, \"query\": \"tea goes cold\", \"rewrite\": \" teapot \", \"score\": 0.5}\n\
                     {\"qid\": \"q2\", \"completion\": \"a AND b\", \"language\": \"boolean\", \"thought\": \"why\"}\n";
        for name in ["a.jsonl", "a.json", "a"] {
            let found = rewrites(name, lines).unwrap();
            assert_eq!(names(&found[0].query), ["7", "tea goes cold"]);
            assert_eq!(
                (found[0].rewrite.as_str(), found[0].language, found[0].line),
                ("teapot", QueryLanguage::Plain, 1)
            );
            assert_eq!((found[1].rewrite.as_str(), found[1].language), ("a AND b", QueryLanguage::Boolean));
            assert_eq!((names(&found[1].query), found[1].thought.as_deref()), (vec!["q2"], Some("why")));
        }
        for text in ["q1\tteapot\ntea goes cold\tpot\r\n", "query-id\ttext\nq1\tteapot\n\ntea goes cold\tpot\n"] {
            let found = rewrites("a.tsv", text).unwrap();
            assert_eq!(found.iter().map(|f| names(&f.query)).collect::<Vec<_>>(), [["q1"], ["tea goes cold"]]);
            assert_eq!(found.iter().map(|f| f.rewrite.as_str()).collect::<Vec<_>>(), ["teapot", "pot"]);
        }
        // A query may begin with a bracket where the name says what the file is.
        assert_eq!(rewrites("a.tsv", "{x\ty\n").unwrap()[0].rewrite, "y");
        let found = preferences("a", "tea\tpot\tcold\n").unwrap();
        assert_eq!((found[0].chosen.as_str(), found[0].rejected.as_str()), ("pot", "cold"));
        let found = preferences("a", "{\"query\": \"tea\", \"chosen\": \"pot\", \"rejected\": \"cold\"}").unwrap();
        assert_eq!((found[0].chosen.as_str(), found[0].rejected.as_str()), ("pot", "cold"));
    }

    #[test]
    fn bad_lines_are_named_with_what_they_hold_and_what_would_be_right() {
        for (name, text, said) in [
            ("a.tsv", "q1\ta\nq2\n", ":2: there is no tab in \"q2\"; expected a query"),
            ("a.tsv", "q1\ta\tb\n", ":1: 3 columns with tabs between, in place of 2"),
            ("a.tsv", "q1\t \n", ":1: \"rewrite\" is empty; give one, or remove"),
            ("a.tsv", "\ta\n", ":1: the query is empty"),
            ("a.tsv", "q1\ta\0b\n", ":1: \"rewrite\" holds a NUL"),
            ("a.tsv", "query\trewrite\nquery\tx\n\n\n \tq\n", ":5: the query is empty"),
            ("a.jsonl", "q1\ta\n", ":1: "),
            (
                "a.jsonl",
                "[{\"query\": \"a\", \"rewrite\": \"b\"}]\n",
                ":1: found a list; expected one JSON object a line",
            ),
            ("a.jsonl", "{\"query\": \"a\"}\n", ":1: there is no \"rewrite\""),
            ("a.jsonl", "{\"rewrite\": \"a\"}\n", ":1: there is neither \"query_id\" nor \"query\""),
            ("a.jsonl", "{\"query\": [\"a\"], \"rewrite\": \"b\"}\n", ":1: \"query\" is a list"),
            ("a.jsonl", "{\"id\": 1.5, \"rewrite\": \"b\"}\n", ":1: \"id\" is a number"),
            ("a.jsonl", "{\"id\": 1, \"rewrite\": null}\n", ":1: \"rewrite\" is null; \"rewrite\" must be a string"),
            ("a.jsonl", "{\"id\": 1, \"rewrite\": [\"b\"]}\n", ":1: \"rewrite\" is a list"),
            (
                "a.jsonl",
                "{\"id\": 1, \"rewrite\": \"b\", \"language\": \"sql\"}\n",
                ":1: \"language\" is \"sql\"; give plain",
            ),
            ("a.jsonl", "{\"id\": 1, \"rewrite\": \"b\", \"thought\": 1}\n", ":1: \"thought\" is a number"),
            ("a.jsonl", "", "the file is empty; expected a query"),
        ] {
            let error = rewrites(name, text).unwrap_err().to_string();
            assert!(error.contains(said), "{text:?}: {error}");
        }
        for (text, said) in [
            ("q1\ta\n", ":1: 2 columns with tabs between, in place of 3"),
            ("q1\ta\ta \n", ":1: chosen and rejected are the same: \"a\""),
            ("{\"id\": 1, \"chosen\": \"a\"}", ":1: there is no \"rejected\""),
            ("{\"id\": 1, \"chosen\": [{\"role\": \"assistant\"}], \"rejected\": \"a\"}", ":1: \"chosen\" is a list"),
        ] {
            let error = preferences("a", text).unwrap_err().to_string();
            assert!(error.contains(said), "{text:?}: {error}");
        }
        let error = rewrites("a.tsv", "a\nb\nq\tr\nc\n").unwrap_err().to_string();
        assert!(error.contains(":1: ") && error.contains("2 more lines 2: ") && error.contains("4: "), "{error}");
    }
}
