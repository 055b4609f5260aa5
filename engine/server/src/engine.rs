//! What is searched under one name.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use querywright_stack::Stack;
use querywright_types::{Error, Ordinal, Query, Request, Result, did_you_mean};

/// The name under which the query is searched for as it came.
pub(crate) const ORIGINAL: &str = "original";

type MakeQuery = Box<dyn Fn(&str, &[String]) -> Result<Query> + Send + Sync>;
type FindOrdinal = Box<dyn Fn(&str) -> Option<Ordinal> + Send + Sync>;
type Explain = Box<dyn Fn(&Request, &str) -> Result<serde_json::Value> + Send + Sync>;

/// What is searched under one name: a retriever, and a stack for each of its rewriters. Rewriters come and go while it is
/// searched; a request under way keeps the one that it began with.
pub struct Engine {
    name: String,
    default: String,
    stacks: RwLock<BTreeMap<String, Arc<Stack>>>,
    query: MakeQuery,
    ordinal: Option<FindOrdinal>,
    explain: Option<Explain>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("name", &self.name).field("rewriters", &self.rewriters()).finish_non_exhaustive()
    }
}

impl Engine {
    /// An engine; `original` searches for queries as they come.
    pub fn new(name: impl Into<String>, original: Stack) -> Self {
        let no_history = |text: &str, history: &[String]| match history {
            [] => Ok(Query::text(text)),
            _ => Err(Error::argument("history", "this engine knows no histories", "send a query")),
        };
        Self {
            name: name.into(),
            default: ORIGINAL.to_owned(),
            stacks: RwLock::new(BTreeMap::from([(ORIGINAL.to_owned(), Arc::new(original))])),
            query: Box::new(no_history),
            ordinal: None,
            explain: None,
        }
    }

    /// Adds a rewriter, in a stack over the same retriever. The first one is the default.
    pub fn rewriter(mut self, name: impl Into<String>, stack: Stack) -> Self {
        let name = name.into();
        if self.default == ORIGINAL {
            self.default.clone_from(&name);
        }
        self.set_rewriter(name, stack);
        self
    }

    /// How a text and the ids of a history make a query. Default: histories are refused.
    pub fn queries(mut self, make: impl Fn(&str, &[String]) -> Result<Query> + Send + Sync + 'static) -> Self {
        self.query = Box::new(make);
        self
    }

    /// Which document has an id. Default: nothing can be excluded.
    pub fn ordinals(mut self, find: impl Fn(&str) -> Option<Ordinal> + Send + Sync + 'static) -> Self {
        self.ordinal = Some(Box::new(find));
        self
    }

    /// What adds up to a hit's score: for the request that was searched for and the hit's id. Default: nothing explains.
    pub fn explanations(
        mut self,
        explain: impl Fn(&Request, &str) -> Result<serde_json::Value> + Send + Sync + 'static,
    ) -> Self {
        self.explain = Some(Box::new(explain));
        self
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many documents it searches, where its retriever says it.
    pub(crate) fn documents(&self) -> Option<usize> {
        self.stack(Some(ORIGINAL)).ok().and_then(|(_, stack)| stack.retriever().card().documents)
    }

    /// The rewriter that answers where a request names none.
    pub fn default_rewriter(&self) -> &str {
        &self.default
    }

    /// The names of its rewriters, "original" among them.
    pub fn rewriters(&self) -> Vec<String> {
        self.stacks.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    /// Puts a rewriter in, or another in its place; tells whether there was one.
    pub fn set_rewriter(&self, name: impl Into<String>, stack: Stack) -> bool {
        let mut stacks = self.stacks.write().unwrap_or_else(PoisonError::into_inner);
        stacks.insert(name.into(), Arc::new(stack)).is_some()
    }

    /// Takes a rewriter out; tells whether there was one. "original" and the default stay.
    pub fn remove_rewriter(&self, name: &str) -> bool {
        if name == ORIGINAL || name == self.default {
            return false;
        }
        self.stacks.write().unwrap_or_else(PoisonError::into_inner).remove(name).is_some()
    }

    /// The stack of a rewriter, or of the default, and its name.
    pub(crate) fn stack(&self, name: Option<&str>) -> Result<(String, Arc<Stack>)> {
        let name = name.unwrap_or(&self.default);
        let stacks = self.stacks.read().unwrap_or_else(PoisonError::into_inner);
        stacks.get(name).map(|stack| (name.to_owned(), stack.clone())).ok_or_else(|| {
            let near = did_you_mean(name, stacks.keys().map(String::as_str));
            let names = stacks.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            Error::argument("rewriter", format!("there is no {name:?}"), format!("{near}there are {names}"))
        })
    }

    /// All stacks by the names of their rewriters.
    pub(crate) fn stacks(&self) -> Vec<(String, Arc<Stack>)> {
        let stacks = self.stacks.read().unwrap_or_else(PoisonError::into_inner);
        stacks.iter().map(|(name, stack)| (name.clone(), stack.clone())).collect()
    }

    pub(crate) fn query(&self, text: &str, history: &[String]) -> Result<Query> {
        (self.query)(text, history)
    }

    pub(crate) fn ordinal(&self, id: &str) -> Result<Ordinal> {
        let refused = |found, remedy| Error::argument("exclude", found, remedy);
        match &self.ordinal {
            None => Err(refused("this engine excludes nothing".to_owned(), "leave it out")),
            Some(find) => {
                find(id).ok_or_else(|| refused(format!("there is no document {id:?}"), "give ids of documents"))
            }
        }
    }

    pub(crate) fn explain(&self, request: &Request, id: &str) -> Result<serde_json::Value> {
        match &self.explain {
            Some(explain) => explain(request, id),
            None => {
                let found = "plugins, vectors and fusions do not explain their scores";
                Err(Error::argument("explain", found, "leave it out, or search with bm25"))
            }
        }
    }
}
