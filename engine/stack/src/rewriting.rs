//! One of a stack's rewriters: with its threads, where there is a deadline, and with what it made before.

use std::sync::Arc;

use querywright_types::{Deadline, Query, Result, Rewrite, Rewriter};

use crate::cache::RewriteCache;
use crate::trace::TraceOutcome;
use crate::worker::{Pending, Workers, rewrite_one};

pub(crate) struct Rewriting {
    pub(crate) rewriter: Arc<dyn Rewriter>,
    pub(crate) workers: Option<Workers>,
    pub(crate) cache: RewriteCache,
}

/// A rewrite that is there, or that threads are at.
pub(crate) enum Begun {
    Cached(Rewrite),
    Made(Result<Rewrite>),
    Pending(Pending),
}

impl Rewriting {
    /// Begins a rewrite. Without threads it is made at once.
    pub(crate) fn begin(&self, query: &Query, deadline: Deadline) -> Begun {
        if let Some(rewrite) = self.cache.get(query) {
            return Begun::Cached(rewrite);
        }
        match &self.workers {
            None => Begun::Made(rewrite_one(self.rewriter.as_ref(), query, deadline)),
            Some(workers) => workers.begin(query, deadline).map_or_else(|e| Begun::Made(Err(e)), Begun::Pending),
        }
    }

    /// What a rewrite that was begun came to; the query as it came where it failed.
    pub(crate) fn end(&self, begun: Begun, query: &Query) -> (Rewrite, TraceOutcome) {
        let made = match begun {
            Begun::Cached(rewrite) => {
                let outcome = rewrite.kept.map_or(TraceOutcome::Cached, TraceOutcome::Kept);
                return (rewrite, outcome);
            }
            Begun::Made(made) => made,
            Begun::Pending(pending) => pending.wait(),
        };
        match made {
            Ok(rewrite) => {
                self.cache.put(query, &rewrite);
                let outcome = rewrite.kept.map_or(TraceOutcome::Rewritten, TraceOutcome::Kept);
                (rewrite, outcome)
            }
            Err(error) => (Rewrite::plain(query.text.clone()), TraceOutcome::FellBack(error)),
        }
    }
}
