//! Which splits are trained on, chosen by and tested on, where a data set need not have all three.

use std::collections::HashSet;

use querywright_data::catalog::Dataset;
use querywright_types::{Error, Result};

use super::super::ResplitConfig;

/// The names of the splits of a run, and how those that are missing are made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SplitPlan {
    /// The split to train on.
    pub train: String,
    /// The split that chooses the best adapter.
    pub dev: String,
    /// How missing splits are made; none where nothing is missing.
    pub resplit: Option<ResplitConfig>,
    /// The reason, as a clause.
    pub why: String,
}

/// Names that the split to train on has in the wild, and the one that chooses.
const TRAIN: [&str; 2] = ["train", "training"];
const DEV: [&str; 6] = ["dev", "validation", "valid", "val", "development", "devel"];

impl SplitPlan {
    /// Looks at the splits of a data set that have judged queries. `train` and `dev` are names that a person gave. What
    /// is measured in the end is the split `test`; nothing is ever taken out of it, unless it is the only one.
    ///
    /// # Errors
    /// When there are no judged queries, or queries would be taken from a split that may hold those of `test`.
    pub fn of(dataset: &Dataset, train: Option<&str>, dev: Option<&str>, test: &str) -> Result<Self> {
        if dataset.queries.iter().all(|query| dataset.qrels.get(&query.id).is_none()) {
            let remedy =
                "training learns from judgements: write lines of query id, 0, document id and grade to qrels.tsv";
            return Err(Error::argument(dataset.name.as_str(), "no query has judgements", remedy));
        }
        let mut known: Vec<&str> = dataset.split_names().filter(|name| dataset.judged(name).is_ok()).collect();
        if let Ok(tested) = dataset.judged(test) {
            // Parts of test, as its queries of one category, are no splits to make others of.
            let tested: HashSet<&str> = tested.iter().map(|(query, _)| query.id.as_str()).collect();
            let part = |name: &str| {
                dataset.judged(name).is_ok_and(|judged| judged.iter().all(|(q, _)| tested.contains(q.id.as_str())))
            };
            known.retain(|name| *name == test || !part(name));
        }
        Self::from_names(&known, train, dev, test)
    }

    fn from_names(known: &[&str], train: Option<&str>, dev: Option<&str>, test: &str) -> Result<Self> {
        let named = |given: Option<&str>, names: &[&str]| {
            let found = || names.iter().find(|name| known.contains(name)).map(|name| (*name).to_owned());
            given.map(str::to_owned).or_else(found)
        };
        let (train, dev, has_test) = (named(train, &TRAIN), named(dev, &DEV), known.contains(&test));
        let made = |from: Option<String>, shares: (u32, u32, u32)| ResplitConfig {
            from,
            train: shares.0,
            dev: shares.1,
            test: shares.2,
        };
        let (resplit, why) = match (&train, &dev, has_test) {
            (Some(_), Some(_), true) => (None, "the data set has all three splits".to_owned()),
            (Some(train), Some(_), false) => (
                Some(made(Some(train.clone()), (90, 0, 10))),
                format!("there is no split {test}: a tenth of {train} is kept for it"),
            ),
            (Some(train), None, true) => (
                Some(made(Some(train.clone()), (90, 10, 0))),
                format!("there is no split dev: a tenth of {train} becomes it"),
            ),
            (None, Some(dev), true) => (
                Some(made(Some(dev.clone()), (80, 20, 0))),
                format!("there is no split train: four fifths of {dev} become it"),
            ),
            (Some(only), None, false) | (None, Some(only), false) => {
                (Some(made(Some(only.clone()), (80, 10, 10))), format!("the only split, {only}, becomes three"))
            }
            (None, None, true) if known.len() == 1 => {
                (Some(made(Some(test.to_owned()), (80, 10, 10))), format!("the only split, {test}, becomes three"))
            }
            (None, None, true) => (
                Some(made(None, (80, 20, 0))),
                format!("there is neither train nor dev: judged queries outside {test}"),
            ),
            (None, None, false) => (Some(made(None, (80, 10, 10))), "no split is named: all judged queries".to_owned()),
        };
        if resplit.is_some() && test != "test" {
            let found = format!("splits are to be made, and \"{test}\" may share queries with them");
            let remedy = "name the others: --set data.train=NAME --set data.dev=NAME";
            return Err(Error::argument("--split", found, remedy));
        }
        // A split that is made has the usual name.
        let usual = |name: Option<String>, usual: &str, share: u32| match name {
            Some(name) if share == 0 => name,
            _ => usual.to_owned(),
        };
        let (train_share, dev_share) = resplit.as_ref().map_or((0, 0), |made| (made.train, made.dev));
        Ok(Self { train: usual(train, "train", train_share), dev: usual(dev, "dev", dev_share), resplit, why })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names of train and dev, and what is made: (from, train, dev, test).
    type Planned = (String, String, Option<Made>);
    type Made = (Option<String>, u32, u32, u32);

    fn plan(known: &[&str]) -> Planned {
        let plan = SplitPlan::from_names(known, None, None, "test").unwrap();
        (plan.train, plan.dev, plan.resplit.map(|r| (r.from, r.train, r.dev, r.test)))
    }

    #[test]
    fn what_is_missing_is_made_from_what_there_is_and_from_test_only_where_it_is_the_only_split() {
        let from = |name: &str| Some(name.to_owned());
        for (known, train, dev, made) in [
            (&["all", "dev", "test", "train"][..], "train", "dev", None),
            (&["test", "train", "validation"], "train", "validation", None),
            (&["test", "train"], "train", "dev", Some((from("train"), 90, 10, 0))),
            (&["dev", "train"], "train", "dev", Some((from("train"), 90, 0, 10))),
            (&["test", "training", "val"], "training", "val", None),
            (&["test", "training"], "train", "dev", Some((from("training"), 90, 10, 0))),
            (&["dev", "test"], "train", "dev", Some((from("dev"), 80, 20, 0))),
            (&["test", "valid"], "train", "dev", Some((from("valid"), 80, 20, 0))),
            (&["train"], "train", "dev", Some((from("train"), 80, 10, 10))),
            (&["dev"], "train", "dev", Some((from("dev"), 80, 10, 10))),
            (&["test"], "train", "dev", Some((from("test"), 80, 10, 10))),
            (&["all", "test"], "train", "dev", Some((None, 80, 20, 0))),
            (&["all"], "train", "dev", Some((None, 80, 10, 10))),
            (&[], "train", "dev", Some((None, 80, 10, 10))),
        ] {
            assert_eq!(plan(known), (train.to_owned(), dev.to_owned(), made.clone()), "{known:?}");
        }
    }

    #[test]
    fn parts_of_test_by_category_are_no_splits_to_make_others_of() {
        let item = |id: &str, category: &str| {
            format!("{{\"item_id\":\"{id}\",\"category\":\"{category}\",\"metadata\":\"x\"}}\n")
        };
        let folder = tempfile::tempdir().unwrap();
        let items = item("B1", "Baby") + &item("B2", "Games");
        std::fs::write(folder.path().join("sampled_item_metadata_1M.jsonl"), items).unwrap();
        std::fs::write(folder.path().join("test.csv"), "qid,query,item_id\n0,warm,B1\n1,loud,B2\n").unwrap();
        let data = Dataset::open(folder.path()).unwrap();
        assert_eq!(data.split_names().collect::<Vec<_>>(), ["baby", "games", "test"]);
        let plan = SplitPlan::of(&data, None, None, "test").unwrap();
        let made = plan.resplit.unwrap();
        assert_eq!((made.from.as_deref(), made.train, made.dev, made.test), (Some("test"), 80, 10, 10));
    }

    #[test]
    fn names_that_are_given_stand_and_an_unusual_test_split_is_never_dealt_from() {
        let given = SplitPlan::from_names(&["a", "b", "test"], Some("a"), Some("b"), "test").unwrap();
        assert_eq!((given.train.as_str(), given.dev.as_str(), given.resplit), ("a", "b", None));
        let error = SplitPlan::from_names(&["all", "held"], None, None, "held").unwrap_err().to_string();
        assert!(error.contains("\"held\" may share") && error.contains("--set data.train=NAME"), "{error}");
    }
}
