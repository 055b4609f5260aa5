//! Documents that come and go after a data set was read.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::dataset::Dataset;
use super::documents::CatalogBuilder;
use super::json::Json;
use super::lines::{Line, Lines, NAMED, quoted};
use super::records::{record_of, searched};
use querywright_types::{Error, Result};

const EXPECTED: &str = "a line of changes such as {\"add\": [{\"id\": \"1\", \"text\": \"…\"}], \"delete\": [\"2\"]}";

/// Documents to add and ids to delete, in order. A document whose id is there already takes its place.
///
/// ```
/// # use querywright_data::catalog::{Dataset, DocumentChanges, demo};
/// # let dataset = demo::demo(demo::SEED)?;
/// let before = dataset.catalog.len();
/// let mut changes = DocumentChanges::default();
/// changes.push(r#"{"add": [{"id": "new", "title": "copper kettle"}], "delete": ["no such id"]}"#)?;
/// assert_eq!(dataset.with_changes(&changes)?.catalog.len(), before + 1);
/// # Ok::<(), querywright_types::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DocumentChanges(Vec<Change>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    Add(String, Vec<(String, String)>),
    Delete(String),
}

impl Change {
    fn id(&self) -> &str {
        match self {
            Self::Add(id, _) | Self::Delete(id) => id,
        }
    }
}

impl DocumentChanges {
    /// Reads a journal: one JSON object a line with `add`, a list of documents as in `corpus.jsonl`, and `delete`, a list of
    /// ids. The end of a file behind its last line end is a line that was not written to its end, and does not count.
    ///
    /// # Errors
    /// When the file cannot be read, or its lines are something else; the error names the first ten of them.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let mut changes = Self::default();
        let text = std::fs::read(path).map_err(|e| Error::read(path, e))?;
        let Some(end) = text.iter().rposition(|byte| *byte == b'\n') else { return Ok(changes) };
        Lines::open(path, EXPECTED)?.until(end as u64 + 1).each(NAMED, |line| changes.take(&line))?;
        Ok(changes)
    }

    /// Adds what a line of a journal says.
    ///
    /// # Errors
    /// When it is something else, with what was found; nothing of it is added then.
    pub fn push(&mut self, line: &str) -> Result<()> {
        self.take(&Line::at(Path::new("changes"), 1, line))
    }

    /// Adds the changes of another.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take(&mut self, line: &Line<'_>) -> Result<()> {
        let value = Json::parse(line.text).map_err(|found| line.refuse(found, EXPECTED))?;
        let Json::Object(parts) = value else {
            return Err(line.refuse(format!("found {}", value.kind()), EXPECTED));
        };
        let mut changes: Vec<Change> = Vec::new();
        for (key, value) in parts {
            let refuse = |found: &str| Err(line.refuse(format!("\"{key}\" {found}"), EXPECTED));
            let adds = match key.as_str() {
                "add" => true,
                "delete" => false,
                _ => return refuse("is unknown"),
            };
            let values = match value {
                Json::List(values) => values,
                other => return refuse(&format!("is {}", other.kind())),
            };
            for value in values {
                let id = if adds { None } else { value.id().map(str::to_owned) };
                changes.push(match id {
                    Some(id) => Change::Delete(id),
                    None if adds => add(value, line)?,
                    None => return refuse(&format!("holds {}", value.kind())),
                });
            }
        }
        let mut seen = HashSet::new();
        if let Some(twice) = changes.iter().find(|change| !seen.insert(change.id())) {
            let found = format!("the document {} stands twice", quoted(twice.id()));
            return Err(line.refuse(found, "name a document once in one change"));
        }
        self.0.extend(changes);
        Ok(())
    }

    /// The place of the last change of each document that is named.
    fn last(&self) -> HashMap<&str, usize> {
        self.0.iter().enumerate().map(|(at, change)| (change.id(), at)).collect()
    }
}

fn add(value: Json, line: &Line<'_>) -> Result<Change> {
    let (id, record) = record_of(value, line)?;
    let fields = searched(&record, |_| ()).into_iter().map(|(name, text)| (name.to_owned(), text)).collect();
    Ok(Change::Add(id, fields))
}

impl Dataset {
    /// The same with documents added and deleted. Those that stay keep their order; what was added comes behind them.
    /// Histories forget items that are gone, and judgements keep them as absent.
    ///
    /// # Errors
    /// When no document would be left, or the catalogue cannot take them all.
    pub fn with_changes(self, changes: &DocumentChanges) -> Result<Self> {
        let last = changes.last();
        let mut builder = CatalogBuilder::new();
        for document in self.catalog.documents().filter(|document| !last.contains_key(document.id)) {
            builder.push(document.id, document.fields())?;
        }
        for (at, change) in changes.0.iter().enumerate() {
            if let Change::Add(id, fields) = change
                && last.get(id.as_str()) == Some(&at)
            {
                builder.push(id, fields.iter().map(|(name, text)| (name, text)))?;
            }
        }
        let catalog = builder.finish();
        if catalog.is_empty() {
            return Err(Error::argument("delete", "no document would be left", "keep at least one"));
        }
        Ok(self.over(catalog))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Qrels;
    use querywright_types::{Judgements, Query};

    fn dataset() -> Dataset {
        let mut builder = CatalogBuilder::new();
        for id in ["a", "b", "c"] {
            builder.push(id, [("text", format!("text of {id}"))]).unwrap();
        }
        let mut qrels = Qrels::default();
        let judged = Judgements::new(vec![(0, 1), (1, 2)]).with_absent(vec![("d".into(), 3), ("e".into(), 1)]);
        qrels.insert("q", judged);
        let queries = vec![Query::new("q", "words").with_history([2, 1])];
        let splits = [("test".to_owned(), vec!["q".to_owned()])];
        Dataset::from_parts("three", builder.finish(), queries, qrels, splits).unwrap()
    }

    fn changed(lines: &[&str]) -> Result<Dataset> {
        let mut changes = DocumentChanges::default();
        lines.iter().try_for_each(|line| changes.push(line))?;
        dataset().with_changes(&changes)
    }

    fn texts(dataset: &Dataset) -> Vec<(String, String)> {
        let catalog = &dataset.catalog;
        catalog.documents().map(|d| (d.id.to_owned(), d.field("text").unwrap_or_default().to_owned())).collect()
    }

    #[test]
    fn documents_come_go_and_are_replaced_and_histories_and_judgements_follow() {
        let data = changed(&[
            r#"{"add":[{"id":"d","text":"new"},{"id":"a","text":"first"}]}"#,
            r#"{"delete":["b","nobody"],"add":[{"_id":"a","text":["again",1.50],"sold":true}]}"#,
        ])
        .unwrap();
        let right = [("c", "text of c"), ("d", "new"), ("a", "again 1.50")];
        assert_eq!(texts(&data), right.map(|(id, text)| (id.to_owned(), text.to_owned())));
        assert_eq!(data.queries[0].history, [0], "c; b is gone");
        let judged = data.qrels.get("q").unwrap();
        assert_eq!(judged.iter().collect::<Vec<_>>(), [(1, 3), (2, 1)], "d is there now");
        assert_eq!(judged.absent().collect::<Vec<_>>(), [("b", 2), ("e", 1)]);
        assert_eq!(data.split("test").unwrap().len(), 1);
        assert_ne!(data.catalog.digest(), dataset().catalog.digest());
        assert_eq!(changed(&[]).unwrap().catalog.digest(), dataset().catalog.digest());
        // Deleted and added again.
        assert_eq!(texts(&changed(&[r#"{"delete":["a","b"]}"#, r#"{"add":[{"id":"a"}]}"#]).unwrap()).len(), 2);
    }

    #[test]
    fn what_is_no_change_is_refused_by_what_it_is_and_nothing_of_it_counts() {
        for (line, found) in [
            ("[]", "found a list"),
            ("{\"add\":{}}", "\"add\" is an object"),
            ("{\"add\":[1]}", "found a number"),
            ("{\"add\":[{\"text\":\"x\"}]}", "there is no \"id\""),
            ("{\"delete\":[\"a\",1.5]}", "\"delete\" holds a number"),
            ("{\"update\":[]}", "\"update\" is unknown"),
            ("{\"update\":[1]}", "\"update\" is unknown"),
            ("{\"delete\":[\"a\"],\"add\":[{\"id\":\"a\"}]}", "the document \"a\" stands twice"),
            ("{\"delete\":[\"a\"]", "not JSON"),
        ] {
            let mut changes = DocumentChanges::default();
            let error = changes.push(line).unwrap_err().to_string();
            assert!(error.contains(found) && changes.is_empty(), "{line}: {error}");
        }
        let error = changed(&[r#"{"delete":["a","b","c"]}"#]).unwrap_err().to_string();
        assert!(error.contains("no document would be left"), "{error}");
    }

    #[test]
    fn a_journal_is_read_up_to_its_last_whole_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("changes.jsonl");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            DocumentChanges::read(&path)
        };
        let whole = "{\"delete\":[\"a\"]}\n\n{\"add\":[{\"id\":\"x\"}]}\n";
        let right = read(whole).unwrap();
        assert_eq!(right.0.len(), 2);
        for torn in ["", "{", "{\"delete\":[\"b\"]}", "\u{0}"] {
            assert_eq!(read(&format!("{whole}{torn}")).unwrap(), right, "{torn:?}");
            assert!(read(torn).unwrap().is_empty());
        }
        let error = read("{\"delete\":[\"a\"]}\nnonsense\n").unwrap_err().to_string();
        assert!(error.contains("changes.jsonl:2: not JSON"), "{error}");
    }
}
