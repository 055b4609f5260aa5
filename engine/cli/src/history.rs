//! Queries of the command line and of clients: words, items that somebody had before, or both.

use std::sync::Arc;

use querywright::catalog::{Catalog, Dataset};
use querywright::types::Query;
use querywright::{Error, Result};

/// Titles of the last items that make the text of a query without words, as in data sets of histories.
const TITLES: usize = 5;
/// Unknown items that an error names.
const NAMED: usize = 5;

/// Makes queries of ids.
pub struct Histories {
    catalog: Arc<Catalog>,
    /// Whether users of this data set come back to items.
    repeats: bool,
}

impl Histories {
    pub fn of(dataset: &Dataset) -> Self {
        let repeats = dataset.queries.iter().any(|query| query.repeats);
        Self { catalog: dataset.catalog.clone(), repeats }
    }

    /// The items.
    #[cfg(test)]
    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// A query of a text and the ids of earlier items, oldest first. Without a text it has the titles of the last items.
    ///
    /// # Errors
    /// [`Error::Argument`] names items that the catalogue lacks.
    pub fn query(&self, text: &str, ids: &[String]) -> Result<Query> {
        let known: Vec<_> = ids.iter().map(|id| self.catalog.ordinal(id)).collect();
        let unknown: Vec<&String> =
            ids.iter().zip(&known).filter(|(_, item)| item.is_none()).map(|(id, _)| id).collect();
        if !unknown.is_empty() {
            let shown = unknown.iter().take(NAMED).map(|id| format!("{id:?}")).collect::<Vec<_>>().join(", ");
            let more = unknown.len().saturating_sub(NAMED);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let remedy = "give the ids of items as they stand in the corpus, oldest first";
            return Err(Error::argument("history", format!("the catalogue has no item {shown}{more}"), remedy));
        }
        let history: Vec<_> = known.into_iter().flatten().collect();
        if history.is_empty() {
            return Ok(Query::text(text));
        }
        let text = match text.trim().is_empty() {
            true => {
                let last = history.iter().skip(history.len().saturating_sub(TITLES));
                last.map(|item| self.catalog.document(*item).title()).collect::<Vec<_>>().join("\n")
            }
            false => text.to_owned(),
        };
        Ok(Query::text(text).with_history(history).with_repeats(self.repeats))
    }

    /// The ids of `--history id1,id2`, which may be given several times. A value that is an id is one although it has a
    /// comma.
    pub fn ids(&self, values: &[String]) -> Vec<String> {
        let parts = |value: &String| -> Vec<String> {
            match self.catalog.ordinal(value) {
                Some(_) => vec![value.clone()],
                None => value.split(',').map(|id| id.trim().to_owned()).filter(|id| !id.is_empty()).collect(),
            }
        };
        values.iter().flat_map(parts).collect()
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use querywright::catalog::CatalogBuilder;

    pub fn histories() -> Histories {
        let mut builder = CatalogBuilder::new();
        for id in ["a", "b", "c", "d", "e", "f", "x,y"] {
            builder.push(id, [("title", format!("title {id}"))]).unwrap();
        }
        Histories { catalog: Arc::new(builder.finish()), repeats: false }
    }

    fn owned(ids: &[&str]) -> Vec<String> {
        ids.iter().map(|id| (*id).to_owned()).collect()
    }

    #[test]
    fn a_history_without_words_is_asked_for_by_its_last_titles() {
        let query = histories().query(" ", &owned(&["a", "b", "b", "c", "d", "e"])).unwrap();
        assert_eq!(query.history, [0, 1, 1, 2, 3, 4]);
        assert_eq!(query.text, "title b\ntitle b\ntitle c\ntitle d\ntitle e");
        assert_eq!(histories().query("red", &owned(&["a"])).unwrap(), Query::text("red").with_history([0]));
        assert_eq!(histories().query("red", &[]).unwrap(), Query::text("red"));
        let repeats = Histories { repeats: true, ..histories() };
        assert!(repeats.query("", &owned(&["a"])).unwrap().repeats);
    }

    #[test]
    fn items_that_the_catalogue_lacks_are_named() {
        let error = histories().query("", &owned(&["a", "zz\u{1b}", "q"])).unwrap_err().to_string();
        assert!(error.contains("history") && error.contains(r#"no item "zz\u{1b}", "q""#), "{error}");
        let many: Vec<String> = (0..9).map(|n| n.to_string()).collect();
        assert!(histories().query("", &many).unwrap_err().to_string().contains("\"4\" and 4 more"));
    }

    #[test]
    fn ids_stand_between_commas_unless_the_whole_is_an_id() {
        let ids = histories().ids(&owned(&["a, b,", "x,y", "c"]));
        assert_eq!(ids, ["a", "b", "x,y", "c"]);
    }
}
