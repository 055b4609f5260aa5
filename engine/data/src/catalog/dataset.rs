//! A catalogue with queries, judgements and splits.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use super::documents::Catalog;
use super::lines::quoted;
use super::qrels::Qrels;
use super::warning::{Warning, WarningKind, Warnings};
use crate::digest::sha256;
use querywright_types::{Error, Judgements, Query, Result, did_you_mean};

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

    /// The same over another catalogue, by the ids of documents.
    pub(super) fn over(mut self, catalog: Catalog) -> Self {
        for query in &mut self.queries {
            query.history = query.history.iter().filter_map(|item| catalog.ordinal(self.catalog.id(*item))).collect();
        }
        let ids: Vec<String> = self.qrels.iter().map(|(query, _)| query.to_owned()).collect();
        for id in ids {
            let Some(judged) = self.qrels.get(&id) else { continue };
            let of_ids =
                judged.iter().map(|(document, grade)| (self.catalog.id(document), grade)).chain(judged.absent());
            let (mut present, mut absent) = (Vec::new(), Vec::new());
            for (document, grade) in of_ids {
                match catalog.ordinal(document) {
                    Some(ordinal) => present.push((ordinal, grade)),
                    None => absent.push((document.to_owned(), grade)),
                }
            }
            self.qrels.insert(id, Judgements::new(present).with_absent(absent));
        }
        Self { catalog: Arc::new(catalog), ..self }
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
            let near = did_you_mean(name, known.iter().copied());
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

    /// Deals the judged queries of a split, or all judged queries, to train, dev and test anew. `percent` has their
    /// shares; a split with 0 stays as it is, and its queries are dealt to no other. Which split a query gets is
    /// decided by the SHA-256 of its id, so neither the order of files nor a seed matters. Where queries have earlier turns, that
    /// of the message that their conversation began with decides, and a conversation stays whole.
    ///
    /// # Errors
    /// When there is no such split, or there are too few queries for each share to get one.
    pub fn deal(self, from: Option<&str>, percent: [u32; 3]) -> Result<Self> {
        let conversations = self.queries.iter().any(|query| !query.turns.is_empty());
        let key = |query: &Query| match conversations {
            true => query.turns.first().unwrap_or(&query.text).clone(),
            false => query.id.clone(),
        };
        self.deal_by((&key, conversations), from, percent)
    }

    /// As [`deal`](Self::deal), by the SHA-256 of a key; with `whole_keys`, queries of one key stay together.
    pub(super) fn deal_by(
        mut self,
        (key, whole_keys): (&dyn Fn(&Query) -> String, bool),
        from: Option<&str>,
        percent: [u32; 3],
    ) -> Result<Self> {
        let source: Vec<usize> = match from {
            Some(name) => {
                self.split(name)?;
                self.splits.get(name).cloned().unwrap_or_default()
            }
            None => (0..self.queries.len()).collect(),
        };
        let stays = APART.iter().zip(percent).filter(|(_, share)| *share == 0);
        let stays: HashSet<usize> =
            stays.flat_map(|(name, _)| self.splits.get(*name).into_iter().flatten()).copied().collect();
        let hashed = |position: usize| {
            let query = self.queries.get(position)?;
            self.qrels.get(&query.id).map(|_| (sha256(key(query)), position))
        };
        let mut dealt: Vec<_> = source.into_iter().filter(|p| !stays.contains(p)).filter_map(hashed).collect();
        dealt.sort_unstable();
        dealt.dedup();
        let whole = percent.iter().sum::<u32>().max(1) as usize;
        let [train, dev, test] = percent.map(|share| (dealt.len() * share as usize).div_ceil(whole));
        let shares = percent.iter().filter(|share| **share > 0).count();
        if dealt.len() < shares || (train > 0 && dev + test >= dealt.len()) {
            let found = format!("{} judged queries to deal to {shares} splits", dealt.len());
            return Err(Error::argument("data.resplit", found, "judge more queries, or name splits that exist"));
        }
        let begins = |at: usize| at == 0 || dealt.get(at).map(|one| &one.0) != dealt.get(at - 1).map(|one| &one.0);
        let (mut rest, mut at) = (dealt.iter().map(|(_, position)| *position).collect::<Vec<_>>(), 0);
        // What is held out comes first: rounding is at the cost of train, which is the largest.
        for (name, share, count) in
            [("test", percent[2], test), ("dev", percent[1], dev), ("train", percent[0], dealt.len())]
        {
            if share > 0 {
                let mut count = count.min(rest.len());
                while whole_keys && count < rest.len() && !begins(at + count) {
                    count += 1;
                }
                at += count;
                let after = rest.split_off(count);
                self.splits.insert(name.to_owned(), std::mem::replace(&mut rest, after));
            }
        }
        Ok(self)
    }

    /// The names of the splits, sorted.
    pub fn split_names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.splits.keys().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::CatalogBuilder;

    /// Of 50 queries the last one has no judgements; test lists 10 of them and `all` every one.
    fn dataset() -> Dataset {
        let mut catalog = CatalogBuilder::new();
        catalog.push("d", [("title", "x")]).unwrap();
        let queries: Vec<Query> = (0..50).map(|i| Query::new(format!("q{i}"), "x")).collect();
        let qrels = (0..49).map(|i| (format!("q{i}"), Judgements::new(vec![(0, 1)]))).collect();
        let ids = |range: std::ops::Range<usize>| range.map(|i| format!("q{i}")).collect::<Vec<_>>();
        let splits = [("test".to_owned(), ids(0..10)), ("all".to_owned(), ids(0..50))];
        Dataset::from_parts("x", catalog.finish(), queries, qrels, splits).unwrap()
    }

    fn ids(dataset: &Dataset, split: &str) -> HashSet<String> {
        dataset.split(split).unwrap().into_iter().map(|q| q.id.clone()).collect()
    }

    #[test]
    fn judged_queries_are_dealt_by_their_ids_alone_and_never_out_of_a_split_that_stays() {
        let test = ids(&dataset(), "test");
        for from in [None, Some("all")] {
            let dealt = dataset().deal(from, [80, 20, 0]).unwrap();
            let (train, dev) = (ids(&dealt, "train"), ids(&dealt, "dev"));
            assert_eq!((train.len(), dev.len(), ids(&dealt, "test")), (31, 8, test.clone()));
            assert!(train.is_disjoint(&dev) && train.union(&dev).all(|id| !test.contains(id) && id != "q49"));
            let mut turned = dataset();
            turned.splits.values_mut().for_each(|positions| positions.reverse());
            assert_eq!(ids(&turned.deal(from, [80, 20, 0]).unwrap(), "dev"), dev, "the order of the list is nothing");
        }
    }

    #[test]
    fn one_split_makes_three_of_which_none_is_empty_and_too_few_queries_are_refused() {
        let dealt = dataset().deal(Some("test"), [80, 10, 10]).unwrap();
        assert_eq!(["train", "dev", "test"].map(|name| ids(&dealt, name).len()), [8, 1, 1]);
        let mut few = dataset();
        few.splits.get_mut("test").unwrap().truncate(2);
        let error = few.clone().deal(Some("test"), [80, 10, 10]).unwrap_err().to_string();
        assert!(error.contains("2 judged queries to deal to 3 splits"), "{error}");
        let error = few.deal(Some("tets"), [80, 10, 10]).unwrap_err().to_string();
        assert!(error.contains("did you mean test"), "{error}");
    }

    #[test]
    fn a_conversation_is_dealt_to_one_split() {
        let mut catalog = CatalogBuilder::new();
        catalog.push("d", [("title", "x")]).unwrap();
        let turn = |talk: usize, turn: usize| {
            let before = (0..turn).map(|n| format!("turn {n} of {talk}"));
            Query::new(format!("{talk}_{turn}"), format!("turn {turn} of {talk}")).with_turns(before)
        };
        let queries: Vec<Query> = (0..12).flat_map(|talk| (0..5).map(move |n| turn(talk, n))).collect();
        let qrels = queries.iter().map(|query| (query.id.clone(), Judgements::new(vec![(0, 1)]))).collect();
        let dealt = Dataset::from_parts("x", catalog.finish(), queries, qrels, []).unwrap();
        let dealt = dealt.deal(None, [60, 23, 17]).unwrap();
        let talks = |split: &str| -> HashSet<String> {
            ids(&dealt, split).iter().filter_map(|id| Some(id.split_once('_')?.0.to_owned())).collect()
        };
        let all: Vec<HashSet<String>> = ["train", "dev", "test"].map(talks).into();
        assert_eq!(all.iter().map(HashSet::len).sum::<usize>(), 12, "{all:?}");
        assert!(all.iter().all(|talks| !talks.is_empty()));
    }
}
