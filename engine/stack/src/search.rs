//! Serving single queries.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::cache::RewriteCache;
use super::fusion::reciprocal_rank_fusion;
use super::worker::{Workers, rewrite_one};
use crate::catalog::Catalog;
use crate::error::{Error, Result};
use crate::types::{Deadline, Query, Ranking, Request, Retriever, Rewrite, Rewriter};

/// A rewriter in front of a retriever. Cheap to share behind an `Arc`; safe to call from many threads.
pub struct Stack {
    catalog: Arc<Catalog>,
    retriever: Arc<dyn Retriever>,
    rewriter: Option<Arc<dyn Rewriter>>,
    workers: Option<Workers>,
    deadline: Option<Duration>,
    fuse_original: bool,
    cache: RewriteCache,
}

/// Settings of a [`Stack`].
#[derive(Default)]
pub struct StackBuilder {
    catalog: Option<Arc<Catalog>>,
    retriever: Option<Arc<dyn Retriever>>,
    rewriter: Option<Arc<dyn Rewriter>>,
    deadline: Option<Duration>,
    threads: Option<usize>,
    fuse_original: bool,
    cache: usize,
}

/// A hit under the catalogue's own names.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct NamedHit {
    /// The document's id.
    pub id: String,
    /// Its title; empty when it has none.
    pub title: String,
    /// The retriever's score.
    pub score: f32,
}

/// What a search gives back.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Answer {
    /// The hits, best first.
    pub hits: Vec<NamedHit>,
    /// What happened on the way.
    pub trace: Trace,
}

/// What happened to a query.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Trace {
    /// The query as it came in.
    pub query: String,
    /// What was searched for.
    pub searched: Rewrite,
    /// How that came about.
    pub outcome: TraceOutcome,
    /// The rewriter's name.
    pub rewriter: Option<String>,
    /// The retriever's name.
    pub retriever: String,
    /// Milliseconds spent on the rewrite.
    pub rewrite_ms: f64,
    /// Milliseconds spent on retrieval.
    pub retrieve_ms: f64,
}

/// How a search came to its text.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "reason")]
pub enum TraceOutcome {
    /// There is no rewriter.
    Original,
    /// The rewrite was searched for.
    Rewritten,
    /// A rewrite made before was searched for.
    Cached,
    /// The rewrite came late, failed, or could not be searched; the original query was searched for.
    FellBack(String),
}

impl Stack {
    /// Starts the settings of a stack.
    pub fn builder() -> StackBuilder {
        StackBuilder::default()
    }

    /// The `k` best documents for a text.
    pub fn search(&self, text: &str, k: usize) -> Result<Answer> {
        self.search_query(&Query::text(text), k)
    }

    /// The `k` best documents for a query with a history, whose items are left out.
    ///
    /// # Errors
    /// When `k` is 0, or the retriever fails for the original query too.
    pub fn search_query(&self, query: &Query, k: usize) -> Result<Answer> {
        if k == 0 {
            return Err(Error::argument("k", "found 0", "ask for at least 1 hit"));
        }
        let start = Instant::now();
        let (rewrite, mut outcome) = self.rewrite(query);
        let rewrite_ms = milliseconds(start);
        let start = Instant::now();
        let mut searched = rewrite;
        let original = Rewrite::plain(query.text.clone());
        let ranking = match self.retrieve(query, &searched, k) {
            Ok(ranking) => ranking,
            Err(error) if searched == original => return Err(error),
            Err(error) => {
                outcome = TraceOutcome::FellBack(error.to_string());
                searched = original;
                self.retrieve(query, &searched, k)?
            }
        };
        let trace = Trace {
            query: query.text.clone(),
            searched,
            outcome,
            rewriter: self.rewriter.as_ref().map(|r| r.name().to_owned()),
            retriever: self.retriever.card().name.clone(),
            rewrite_ms,
            retrieve_ms: milliseconds(start),
        };
        Ok(Answer { hits: self.named(&ranking), trace })
    }

    /// The catalogue that is searched.
    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    fn rewrite(&self, query: &Query) -> (Rewrite, TraceOutcome) {
        let Some(rewriter) = &self.rewriter else {
            return (Rewrite::plain(query.text.clone()), TraceOutcome::Original);
        };
        if let Some(rewrite) = self.cache.get(&query.text, &query.history) {
            return (rewrite, TraceOutcome::Cached);
        }
        let made = match (&self.workers, self.deadline) {
            (Some(workers), Some(allowed)) => workers.rewrite(query, allowed),
            _ => rewrite_one(rewriter.as_ref(), query, Deadline::NONE),
        };
        match made {
            Ok(rewrite) => {
                self.cache.put(&query.text, &query.history, &rewrite);
                (rewrite, TraceOutcome::Rewritten)
            }
            Err(error) => (Rewrite::plain(query.text.clone()), TraceOutcome::FellBack(error.to_string())),
        }
    }

    fn retrieve(&self, query: &Query, rewrite: &Rewrite, k: usize) -> Result<Ranking> {
        let original = Rewrite::plain(query.text.clone());
        let mut requests = vec![Request::new(query, rewrite, k)];
        if self.fuse_original && *rewrite != original {
            requests.push(Request::new(query, &original, k));
        }
        let mut rankings = Vec::with_capacity(requests.len());
        for ranking in self.retriever.retrieve(&requests) {
            rankings.push(ranking?);
        }
        match rankings.len() {
            0 | 1 => Ok(rankings.pop().unwrap_or_default()),
            _ => Ok(reciprocal_rank_fusion(&rankings, k)),
        }
    }

    fn named(&self, ranking: &Ranking) -> Vec<NamedHit> {
        let name = |hit: &crate::types::Hit| NamedHit {
            id: self.catalog.id(hit.doc).to_owned(),
            title: self.catalog.document(hit.doc).title().to_owned(),
            score: hit.score,
        };
        ranking.hits.iter().map(name).collect()
    }
}

impl StackBuilder {
    /// The catalogue that hits are named from. Required.
    pub fn catalog(mut self, catalog: Arc<Catalog>) -> Self {
        self.catalog = Some(catalog);
        self
    }

    /// What ranks. Required.
    pub fn retriever(mut self, retriever: impl Retriever + 'static) -> Self {
        self.retriever = Some(Arc::new(retriever));
        self
    }

    /// What ranks, shared with others.
    pub fn shared_retriever(mut self, retriever: Arc<dyn Retriever>) -> Self {
        self.retriever = Some(retriever);
        self
    }

    /// What rewrites. Default: nothing, the original query is searched for.
    pub fn rewriter(mut self, rewriter: impl Rewriter + 'static) -> Self {
        self.rewriter = Some(Arc::new(rewriter));
        self
    }

    /// What rewrites, shared with others.
    pub fn shared_rewriter(mut self, rewriter: Arc<dyn Rewriter>) -> Self {
        self.rewriter = Some(rewriter);
        self
    }

    /// How long a rewrite may take; after that the original query is searched for. Rewrites then run on threads of
    /// their own. Default: as long as it takes, on the caller's thread.
    pub fn deadline(mut self, allowed: Duration) -> Self {
        self.deadline = Some(allowed);
        self
    }

    /// Threads that rewrite under a deadline. Default 1: one language model uses all cores by itself.
    pub fn rewrite_threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Whether the rankings of rewrite and original query are fused by reciprocal rank, at the price of a second
    /// retrieval. Default: the rewrite's ranking alone.
    pub fn fuse_original(mut self, fuse: bool) -> Self {
        self.fuse_original = fuse;
        self
    }

    /// How many rewrites are remembered. Default 0.
    pub fn cache(mut self, entries: usize) -> Self {
        self.cache = entries;
        self
    }

    /// Checks the settings and starts the threads.
    ///
    /// # Errors
    /// When catalogue or retriever are missing, or a setting has no meaning.
    pub fn build(self) -> Result<Stack> {
        let missing =
            |name: &str| Error::argument(name, "the stack has none", format!("call .{name}(…) before .build()"));
        let catalog = self.catalog.ok_or_else(|| missing("catalog"))?;
        let retriever = self.retriever.ok_or_else(|| missing("retriever"))?;
        let threads = self.threads.unwrap_or(1);
        if threads == 0 {
            return Err(Error::argument("rewrite_threads", "found 0", "give at least 1"));
        }
        let workers = match (&self.rewriter, self.deadline) {
            (Some(rewriter), Some(_)) => Some(Workers::start(rewriter.clone(), threads)?),
            _ => None,
        };
        Ok(Stack {
            catalog,
            retriever,
            rewriter: self.rewriter,
            workers,
            deadline: self.deadline,
            fuse_original: self.fuse_original,
            cache: RewriteCache::new(self.cache),
        })
    }
}

fn milliseconds(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}
