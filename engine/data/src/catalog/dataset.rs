//! A catalogue with queries, judgements and splits.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use super::documents::Catalog;
use super::lines::quoted;
use super::qrels::Qrels;
use super::warning::{Warning, WarningKind, Warnings};
use querywright_types::{Error, Judgements, Query, Result, nearest};

/// What a rewriter is trained and measured on.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// Its name, for tables: that of its folder.
    pub name: String,
    /// The documents.
    pub catalog: Arc<Catalog>,
    /// All queries, in the order of the source.
    pub queries: Vec<Query>,
    /// The judgements.
    pub qrels: Qrels,
    /// What was read in another way than it is written, or cannot be found. Show it to the user.
    pub warnings: Vec<Warning>,
    /// Positions in `queries`, by the name of the split.
    splits: BTreeMap<String, Vec<usize>>,
}

/// Relevant documents that are excluded from the ranking of their query, being in its history.
fn unreachable(name: &Path, catalog: &Catalog, queries: &[Query], qrels: &Qrels, warnings: &mut Warnings) {
    for query in queries.iter().filter(|query| !query.repeats && !query.history.is_empty()) {
        let judged = qrels.get(&query.id).into_iter().flat_map(Judgements::iter);
        for (document, _) in judged.filter(|(document, grade)| *grade > 0 && query.history.contains(document)) {
            let example = format!("{} {}", query.id, catalog.id(document));
            warnings.add(Warning::new(WarningKind::UnreachableTargets, name, example));
        }
    }
}

/// The splits that must share no query: what is learned or chosen on one is measured on the other.
const APART: [&str; 3] = ["train", "dev", "test"];

impl Dataset {
    /// A data set of parts that are in memory. `splits` are names with lists of query ids.
    ///
    /// # Errors
    /// When query ids repeat, a split or the judgements name a query that is not there, judgements or histories
    /// name a document that is not there, or two of train, dev and test share a query.
    pub fn from_parts(
        name: impl Into<String>,
        catalog: impl Into<Arc<Catalog>>,
        queries: Vec<Query>,
        qrels: Qrels,
        splits: impl IntoIterator<Item = (String, Vec<String>)>,
    ) -> Result<Self> {
        let (name, catalog) = (name.into(), catalog.into());
        let refuse = |found: String, remedy: &str| Err(Error::argument(name.as_str(), found, remedy));
        let mut positions: HashMap<&str, usize> = HashMap::with_capacity(queries.len());
        for (position, query) in queries.iter().enumerate() {
            if positions.insert(&query.id, position).is_some() {
                let found = format!("the query id {} stands twice", quoted(&query.id));
                return refuse(found, "give every query an id of its own");
            }
            if let Some(item) = query.history.iter().find(|item| **item as usize >= catalog.len()) {
                let found = format!("the history of query {} holds item {item}", quoted(&query.id));
                return refuse(found, "items are ordinals of the catalogue");
            }
        }
        for (query, judgements) in qrels.iter() {
            if !positions.contains_key(query) {
                let found = format!("there are judgements for the query {}", quoted(query));
                return refuse(found, "add the query, or drop its judgements");
            }
            if let Some((document, _)) = judgements.iter().find(|(document, _)| *document as usize >= catalog.len()) {
                let found = format!("document {document} is judged for query {}", quoted(query));
                return refuse(found, "documents are ordinals of the catalogue");
            }
        }
        let mut named: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (split, ids) in splits {
            let members = named.entry(split.clone()).or_default();
            for id in ids {
                let Some(position) = positions.get(id.as_str()) else {
                    let found = format!("the split {split} lists the query {}", quoted(&id));
                    return refuse(found, "add the query, or take it off the list");
                };
                members.push(*position);
            }
        }
        let mut split_of: HashMap<usize, &str> = HashMap::new();
        for split in APART {
            for position in named.get(split).into_iter().flatten() {
                if let Some(other) = split_of.insert(*position, split) {
                    let id = quoted(&queries[*position].id);
                    let found = match other == split {
                        true => format!("the split {split} lists the query {id} twice"),
                        false => format!("the query {id} is in both {other} and {split}"),
                    };
                    return refuse(found, "train, dev and test must not share queries: keep one place of it");
                }
            }
        }
        let mut warnings = Warnings::default();
        warnings.extend(qrels.warnings().to_vec());
        unreachable(Path::new(&name), &catalog, &queries, &qrels, &mut warnings);
        Ok(Self { name, catalog, queries, qrels, warnings: warnings.into_vec(), splits: named })
    }

    /// With what reading the files of a folder found.
    pub(super) fn with_warnings(mut self, folder: &Path, found: Vec<Warning>) -> Self {
        // What was found here is about the folder.
        for warning in self.warnings.iter_mut().filter(|warning| warning.kind == WarningKind::UnreachableTargets) {
            warning.path = folder.to_path_buf();
        }
        let mut warnings = Warnings::default();
        warnings.extend(found);
        warnings.extend(std::mem::take(&mut self.warnings));
        self.warnings = warnings.into_vec();
        self
    }

    /// The queries of one split, in the order of its list.
    ///
    /// # Errors
    /// When there is no such split (the error lists those that exist), it is empty, or `queries` was shortened since.
    pub fn split(&self, name: &str) -> Result<Vec<&Query>> {
        let Some(positions) = self.splits.get(name) else {
            let known: Vec<&str> = self.split_names().collect();
            let near = nearest(name, known.iter().copied()).map_or(String::new(), |n| format!("did you mean {n}? "));
            let remedy = match known.is_empty() {
                true => "the data set has no splits: write one query id a line into a file such as test.txt".to_owned(),
                false => format!("{near}the splits of {} are {}", self.name, known.join(", ")),
            };
            return Err(Error::argument("split", format!("there is no split \"{name}\""), remedy));
        };
        if positions.is_empty() {
            return Err(Error::argument(
                "split",
                format!("the split \"{name}\" of {} is empty", self.name),
                "choose another split, or list query ids in it",
            ));
        }
        let query = |position: &usize| {
            self.queries.get(*position).ok_or_else(|| {
                Error::argument(
                    "split",
                    format!("the split \"{name}\" of {} lists a query that was taken out of it", self.name),
                    "leave the queries as they are, or make a data set of those that stay",
                )
            })
        };
        positions.iter().map(query).collect()
    }

    /// The queries of a split that have judgements, with them, in the order of its list.
    ///
    /// # Errors
    /// Those of [`split`](Self::split), and when none of its queries has judgements.
    pub fn judged(&self, split: &str) -> Result<Vec<(&Query, &Judgements)>> {
        let queries = self.split(split)?;
        let pairs: Vec<_> = queries.into_iter().filter_map(|q| Some((q, self.qrels.get(&q.id)?))).collect();
        if pairs.is_empty() {
            let found = format!("no query of the split \"{split}\" has judgements");
            return Err(Error::argument("split", found, "choose another split, or add judgements"));
        }
        Ok(pairs)
    }

    /// The names of the splits, sorted.
    pub fn split_names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.splits.keys().map(String::as_str)
    }
}
