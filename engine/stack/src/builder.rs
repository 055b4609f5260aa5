//! The settings of a stack.

use std::sync::Arc;
use std::time::Duration;

use querywright_types::{Documents, Error, Result, Retriever, Rewriter};

use crate::Stack;
use crate::cache::RewriteCache;
use crate::rewriting::Rewriting;
use crate::worker::Workers;

/// The part of a deadline that is kept for retrieval by default: a quarter.
const RESERVED: u32 = 4;
/// Rewrites at once by default.
const REWRITES: usize = 64;
/// Memory of remembered rewrites by default.
const CACHE_BYTES: usize = 16 << 20;

/// Settings of a [`Stack`].
#[derive(Default)]
pub struct StackBuilder {
    documents: Option<Box<dyn Documents>>,
    retriever: Option<Box<dyn Retriever>>,
    rewriter: Option<Arc<dyn Rewriter>>,
    further: Vec<Arc<dyn Rewriter>>,
    deadline: Option<Duration>,
    reserve: Option<Duration>,
    threads: Option<usize>,
    fuse_original: bool,
    cache: usize,
    cache_bytes: Option<usize>,
    cache_time: Option<Duration>,
}

impl std::fmt::Debug for StackBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StackBuilder")
            .field("retriever", &self.retriever.as_ref().map(|r| r.card()))
            .field("rewriter", &self.rewriter.as_ref().map(|r| r.name()))
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

impl StackBuilder {
    /// What names the hits: a catalogue. Default: the retriever names them itself, as remote engines do.
    pub fn catalog(mut self, documents: impl Documents + 'static) -> Self {
        self.documents = Some(Box::new(documents));
        self
    }

    /// What ranks. Required. An `Arc` is as good, where the retriever is shared.
    pub fn retriever(mut self, retriever: impl Retriever + 'static) -> Self {
        self.retriever = Some(Box::new(retriever));
        self
    }

    /// What rewrites. Default: nothing, the original query is searched for. An `Arc` is as good, where the rewriter is
    /// shared.
    pub fn rewriter(mut self, rewriter: impl Rewriter + 'static) -> Self {
        self.rewriter = Some(Arc::new(rewriter));
        self
    }

    /// A further rewriter, asked at the same time as the first where there is a deadline, and else after it. The rankings of all
    /// their rewrites are fused by reciprocal rank, at the price of a retrieval each. Where a further one is late or fails it is
    /// left out; where the first one does, the query takes its place as it came. Default: none.
    pub fn also(mut self, rewriter: impl Rewriter + 'static) -> Self {
        self.further.push(Arc::new(rewriter));
        self
    }

    /// How long a request may take, rewrite and retrieval together. The retriever gets the same deadline; the rewriter
    /// one that is earlier by [`reserve`](Self::reserve), after which the original query is searched for. Rewrites then
    /// run on threads of their own. Default: as long as it takes, on the caller's thread.
    pub fn deadline(mut self, allowed: Duration) -> Self {
        self.deadline = Some(allowed);
        self
    }

    /// How much of the deadline is kept for retrieval. Default: a quarter of it.
    pub fn reserve(mut self, reserve: Duration) -> Self {
        self.reserve = Some(reserve);
        self
    }

    /// Rewrites under a deadline at once, each on a thread of its own; as many again may wait. Default 64: a language model
    /// in this process uses all cores for one, and computes many at once in little more time.
    pub fn rewrite_threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Whether the ranking of the original query is fused with the rewrites' by reciprocal rank, at the price of one more
    /// retrieval. Default: rewrites alone.
    pub fn fuse_original(mut self, fuse: bool) -> Self {
        self.fuse_original = fuse;
        self
    }

    /// How many rewrites of each rewriter are remembered. Default 0.
    pub fn cache(mut self, entries: usize) -> Self {
        self.cache = entries;
        self
    }

    /// How much memory remembered rewrites may take, queries and histories included; the oldest go first, and one that
    /// alone takes more is not remembered. Default 16 MiB.
    pub fn cache_bytes(mut self, bytes: usize) -> Self {
        self.cache_bytes = Some(bytes);
        self
    }

    /// How long a rewrite is remembered at most. Default: as long as there is room; the stack's rewriter does not change.
    pub fn cache_time(mut self, time: Duration) -> Self {
        self.cache_time = Some(time);
        self
    }

    /// Checks the settings and starts the threads.
    ///
    /// # Errors
    /// When the retriever is missing, or a setting has no meaning.
    pub fn build(self) -> Result<Stack> {
        let retriever = self
            .retriever
            .ok_or_else(|| Error::argument("retriever", "the stack has none", "call .retriever(…) before .build()"))?;
        let threads = self.threads.unwrap_or(REWRITES);
        if threads == 0 {
            return Err(Error::argument("rewrite_threads", "found 0", "give at least 1"));
        }
        let reserve = self.reserve.or(self.deadline.map(|allowed| allowed / RESERVED)).unwrap_or_default();
        if self.deadline.is_some_and(|allowed| reserve >= allowed) {
            let found = format!("found {reserve:?}, and the deadline is {:?}", self.deadline.unwrap_or_default());
            return Err(Error::argument("reserve", found, "give less than the deadline, so that a rewrite has time"));
        }
        if self.rewriter.is_none() && !self.further.is_empty() {
            return Err(Error::argument("also", "there is no first rewriter", "call .rewriter(…) before .also(…)"));
        }
        let (deadline, entries, bytes) = (self.deadline, self.cache, self.cache_bytes.unwrap_or(CACHE_BYTES));
        let rewriting = |rewriter: Arc<dyn Rewriter>| {
            let workers = deadline.map(|_| Workers::start(rewriter.clone(), threads)).transpose()?;
            Ok(Rewriting { rewriter, workers, cache: RewriteCache::new(entries, bytes, self.cache_time) })
        };
        let rewriters = self.rewriter.into_iter().chain(self.further).map(rewriting).collect::<Result<_>>()?;
        Ok(Stack {
            documents: self.documents,
            retriever,
            rewriters,
            deadline: self.deadline,
            reserve,
            fuse_original: self.fuse_original,
        })
    }
}
