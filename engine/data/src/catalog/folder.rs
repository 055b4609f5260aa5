//! Data folders and BEIR's layout: `corpus.jsonl`, `queries.jsonl`, judgements and splits.

use std::collections::HashSet;
use std::path::Path;

use super::dataset::Dataset;
use super::lines::{Lines, quoted};
use super::paths::{files, name_of, stem};
use super::qrels::{self, Layout, Qrels};
use super::records;
use querywright_types::{Error, Result};

/// Opens a folder that holds `corpus.jsonl`.
pub(super) fn open(path: &Path) -> Result<Dataset> {
    let catalog = records::read_corpus(&path.join("corpus.jsonl"))?;
    let queries = records::read_queries(&path.join("queries.jsonl"), &catalog)?;
    let known: HashSet<&str> = queries.iter().map(|query| query.id.as_str()).collect();
    let (qrels, splits) = if path.join("qrels.tsv").exists() {
        let (qrels, _) = qrels::read(&path.join("qrels.tsv"), Layout::Trec, &catalog, |id| known.contains(id))?;
        (qrels, read_lists(path, &known)?)
    } else if path.join("qrels").is_dir() {
        let mut all = Qrels::default();
        let mut splits = Vec::new();
        for file in files(&path.join("qrels"), "tsv")? {
            let (qrels, order) = qrels::read(&file, Layout::Beir, &catalog, |id| known.contains(id))?;
            for (query, judgements) in qrels.iter() {
                if all.insert(query, judgements.clone()).is_some() {
                    return Err(Error::data(
                        &file,
                        None,
                        format!("the query {} is judged in another file of the folder too", quoted(query)),
                        "a query belongs to one split: keep its judgements in one file",
                    ));
                }
            }
            splits.push((stem(&file), order));
        }
        (all, splits)
    } else {
        return Err(Error::data(
            path,
            None,
            "there are no judgements: neither qrels.tsv nor a folder qrels",
            "write qrels.tsv (query id, 0, document id, grade) or, as BEIR does, qrels/test.tsv",
        ));
    };
    drop(known);
    Dataset::from_parts(name_of(path), catalog, queries, qrels, splits).map_err(|e| match e {
        Error::Argument { found, remedy, .. } => Error::data(path, None, found, remedy),
        other => other,
    })
}

/// Every `NAME.txt` in lower case is a list of query ids; README.txt and LICENSE.txt are not.
fn read_lists(path: &Path, known: &HashSet<&str>) -> Result<Vec<(String, Vec<String>)>> {
    let mut splits = Vec::new();
    for file in files(path, "txt")?.into_iter().filter(|file| !stem(file).contains(char::is_uppercase)) {
        let mut lines = Lines::open(&file, "one query id a line")?;
        let mut ids = Vec::new();
        let mut listed = HashSet::new();
        while let Some(line) = lines.next()? {
            let id = line.text.trim();
            let Some(id) = known.get(id).copied() else {
                return Err(line.refuse(
                    format!("the query {} is not in queries.jsonl", quoted(id)),
                    "a split list holds one query id a line: add the query, or remove the line (name a file that is \
                     no list in capital letters, such as NOTES.txt)",
                ));
            };
            if !listed.insert(id) {
                return Err(line.refuse(format!("the query {} was listed before", quoted(id)), "remove the line"));
            }
            ids.push(id.to_owned());
        }
        splits.push((stem(&file), ids));
    }
    Ok(splits)
}
