//! First searches that several ask for: the words of a prompt, those of its answers, and feedback in a base.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use querywright_types::{Ordinal, Query, Result};

/// Searches that are kept: more than a batch of queries is rewritten at once.
const KEPT: usize = 256;
/// Characters of a query's text and items of its history up to which its search is kept, so that memory is bounded.
const LONGEST: usize = 2048;

/// The best documents of a query, with their scores.
pub(crate) type Found = Arc<[(Ordinal, f64)]>;

/// What the last first searches found, for each [`Rm3`](crate::Rm3) that shares it: over the same index a query is
/// searched for once, whoever asks. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct FirstSearches(Arc<Mutex<VecDeque<Kept>>>);

#[derive(Debug)]
struct Kept {
    text: String,
    history: Vec<Ordinal>,
    repeats: bool,
    documents: usize,
    found: Found,
}

impl FirstSearches {
    /// The `documents` best ones: those that are known, or those of `search`.
    pub(crate) fn find(
        &self,
        query: &Query,
        documents: usize,
        search: impl FnOnce() -> Result<Vec<(Ordinal, f64)>>,
    ) -> Result<Found> {
        let known = |kept: &&Kept| {
            kept.documents == documents
                && kept.text == query.text
                && kept.history == query.history
                && kept.repeats == query.repeats
        };
        if let Some(kept) = self.lock().iter().rev().find(known) {
            return Ok(kept.found.clone());
        }
        let found: Found = search()?.into();
        if query.text.len() <= LONGEST && query.history.len() <= LONGEST {
            let (text, history, repeats) = (query.text.clone(), query.history.clone(), query.repeats);
            let mut kept = self.lock();
            if kept.len() == KEPT {
                kept.pop_front();
            }
            kept.push_back(Kept { text, history, repeats, documents, found: found.clone() });
        }
        Ok(found)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use querywright_types::Error;

    #[test]
    fn a_query_is_searched_for_once_and_another_one_by_itself() {
        let (shared, searches) = (FirstSearches::default(), std::cell::Cell::new(0));
        let find = |query: &Query, documents: usize| {
            let search = || {
                searches.set(searches.get() + 1);
                Ok(vec![(searches.get(), 1.0)])
            };
            shared.clone().find(query, documents, search).unwrap()[0].0
        };
        let tea = Query::text("tea");
        assert_eq!((find(&tea, 10), find(&Query::new("q7", "tea"), 10)), (1, 1), "whatever it is called");
        assert_eq!((find(&tea, 5), find(&tea.clone().with_history([1]), 10)), (2, 3));
        assert_eq!(find(&tea.clone().with_history([1]).with_repeats(true), 10), 4);
        assert_eq!(find(&tea, 10), 1);
        let long = Query::text("x".repeat(LONGEST + 1));
        assert_ne!(find(&long, 10), find(&long, 10), "not kept");
        for n in 0..KEPT {
            find(&Query::text(format!("{n}")), 10);
        }
        assert_eq!(shared.lock().len(), KEPT);
        assert_ne!(find(&tea, 10), 1, "the oldest goes");
    }

    #[test]
    fn a_search_that_failed_is_made_again() {
        let (shared, tea) = (FirstSearches::default(), Query::text("tea"));
        assert!(shared.find(&tea, 1, || Err(Error::bug("index", "down"))).is_err());
        assert_eq!(shared.find(&tea, 1, || Ok(vec![(3, 1.0)])).unwrap()[0].0, 3);
    }
}
