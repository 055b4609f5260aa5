//! Queries with judgements that are read from files of other projects: no query of train has the text of one that is
//! measured, and what is trained on has a split to choose by.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use super::dataset::Dataset;
use super::documents::Catalog;
use super::qrels::Qrels;
use super::warning::{Warning, WarningKind, Warnings};
use querywright_types::{Error, Query, Result};

/// Percent of train, and of dev, which is made of it where there is none.
const DEALT: [u32; 3] = [95, 5, 0];

/// A data set while it is read.
pub(super) struct Searches {
    /// Its name.
    pub(super) name: String,
    pub(super) catalog: Catalog,
    pub(super) queries: Vec<Query>,
    pub(super) qrels: Qrels,
    /// Ids of queries by split.
    pub(super) splits: BTreeMap<String, Vec<String>>,
    pub(super) warnings: Warnings,
}

impl Searches {
    /// The data set.
    ///
    /// # Errors
    /// Those of [`Dataset::from_parts`].
    pub(super) fn finish(mut self, folder: &Path) -> Result<Dataset> {
        self.drop_tested(folder);
        let has = |split: &str, least: usize| self.splits.get(split).is_some_and(|ids| ids.len() >= least);
        let deal = has("train", 2) && has("test", 1) && !has("dev", 1);
        let Self { name, catalog, queries, qrels, splits, warnings } = self;
        let splits = splits.into_iter().filter(|(_, ids)| !ids.is_empty());
        let made = Dataset::from_parts(name, catalog, queries, qrels, splits).map_err(|e| match e {
            Error::Argument { found, remedy, .. } => Error::data(folder, None, found, remedy),
            other => other,
        })?;
        // Queries of one text stay in one split.
        let key = |query: &Query| folded(&query.text);
        let made = if deal { made.deal_by((&key, true), Some("train"), DEALT)? } else { made };
        Ok(made.with_warnings(folder, warnings.into_vec()))
    }

    /// Takes out queries of train whose text is that of a query of dev or test, and of dev whose text is one of test.
    fn drop_tested(&mut self, folder: &Path) {
        let ids = |name: &str| self.splits.get(name).into_iter().flatten().map(String::as_str).collect::<HashSet<_>>();
        let [train, dev, test] = ["train", "dev", "test"].map(ids);
        let texts = |held: &HashSet<&str>| -> HashSet<String> {
            let held = self.queries.iter().filter(|query| held.contains(query.id.as_str()));
            held.map(|query| folded(&query.text)).collect()
        };
        let (chosen, tested) = (texts(&dev), texts(&test));
        let twice = |query: &&Query| {
            let (id, text) = (query.id.as_str(), folded(&query.text));
            let stays = test.contains(id) || !(train.contains(id) || dev.contains(id));
            !stays && (tested.contains(&text) || (!dev.contains(id) && chosen.contains(&text)))
        };
        let dropped: HashSet<String> = self.queries.iter().filter(twice).map(|query| query.id.clone()).collect();
        for query in self.queries.iter().filter(|query| dropped.contains(&query.id)) {
            self.warnings.add(Warning::new(WarningKind::TestedText, folder, &query.text));
            self.qrels.remove(&query.id);
        }
        self.queries.retain(|query| !dropped.contains(&query.id));
        self.splits.values_mut().for_each(|ids| ids.retain(|id| !dropped.contains(id)));
    }
}

/// A text without case, and with single spaces.
fn folded(text: &str) -> String {
    text.split_whitespace().map(str::to_lowercase).collect::<Vec<_>>().join(" ")
}
