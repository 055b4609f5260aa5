//! The documents that a first search finds, which a model puts into order.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use querywright_types::{Deadline, Ordinal, Query, QueryLanguage, Request, Result, Retriever, Rewrite, retrieve};

/// Gives the title of an item of the catalogue.
pub type Titles = Arc<dyn Fn(Ordinal) -> String + Send + Sync>;

/// Lists that are kept: more than a step of training asks for, so that an answer is read by the list of its prompt.
const KEPT: usize = 8192;
/// Bytes of a query and items of its history up to which its list is kept, so that memory is bounded.
const LONGEST: usize = 2048;

/// All that a list depends on, the retriever being the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    text: String,
    language: QueryLanguage,
    history: Vec<Ordinal>,
    repeats: bool,
    count: usize,
}

#[derive(Default)]
struct Known {
    lists: HashMap<Arc<Key>, Arc<[Ordinal]>>,
    order: VecDeque<Arc<Key>>,
}

/// Where the candidates of [`Mode::Rerank`](crate::Mode::Rerank) come from: the retriever that a query is for, and what its
/// documents are shown as. A list is searched for once, for the prompt and for the reading of its answer. Cheap to clone.
#[derive(Clone)]
pub struct Shortlist {
    retriever: Arc<dyn Retriever>,
    text: Titles,
    known: Arc<Mutex<Known>>,
}

impl std::fmt::Debug for Shortlist {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shortlist").field("retriever", self.retriever.card()).finish_non_exhaustive()
    }
}

impl Shortlist {
    /// Candidates that this retriever finds; `text` is what a prompt shows of each. The retriever must be the one that the
    /// rewrites are for: its order is what the model changes.
    pub fn new(retriever: Arc<dyn Retriever>, text: Titles) -> Self {
        Self { retriever, text, known: Arc::default() }
    }

    /// What a prompt shows of a document.
    pub(super) fn text(&self, document: Ordinal) -> String {
        (self.text)(document)
    }

    /// The `count` best documents of what the query is without a model.
    pub(super) fn find(
        &self,
        query: &Query,
        original: &Rewrite,
        count: usize,
        deadline: Deadline,
    ) -> Result<Arc<[Ordinal]>> {
        let (text, language, history) = (original.text.clone(), original.language, query.history.clone());
        let key = Arc::new(Key { text, language, history, repeats: query.repeats, count });
        if let Some(known) = self.lock().lists.get(&key) {
            return Ok(known.clone());
        }
        deadline.check()?;
        let request = Request::new(query, original, count);
        let mut found: Arc<[Ordinal]> = Arc::default();
        for ranking in retrieve(self.retriever.as_ref(), std::slice::from_ref(&request), deadline) {
            found = ranking?.hits.iter().map(|hit| hit.doc).collect();
        }
        if key.text.len() <= LONGEST && key.history.len() <= LONGEST {
            let mut known = self.lock();
            if known.lists.insert(key.clone(), found.clone()).is_none() {
                known.order.push_back(key);
            }
            if known.order.len() > KEPT
                && let Some(oldest) = known.order.pop_front()
            {
                known.lists.remove(&oldest);
            }
        }
        Ok(found)
    }

    /// Every entry is whole whenever the lock is free, so a poisoned lock does no harm.
    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
