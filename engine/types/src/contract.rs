//! The two contracts.

use std::sync::Arc;

use crate::error::Result;
use crate::{Deadline, DocumentName, Fault, Ordinal, Query, Ranking, Request, RetrieverCard, Rewrite};

/// Everything that ranks. Implementations must be deterministic for a given card digest.
///
/// Callers go through [`retrieve`](crate::retrieve()), which holds every answer to what is said here.
pub trait Retriever: Send + Sync {
    /// What it says of itself.
    fn card(&self) -> &RetrieverCard;

    /// Ranks each request of a batch. Answers come in the order of the requests, one each; a failure concerns one
    /// request alone. A ranking has at most `k` hits, best first, no document twice and none that the request
    /// excludes, and finite scores. No request has an [order](Request::order): `retrieve` sees to that.
    ///
    /// No text may cause a failure: what cannot be parsed is searched for as plain words. A request whose answer
    /// cannot be there by the deadline fails with [`FaultKind::Timeout`](crate::FaultKind::Timeout).
    fn retrieve(&self, requests: &[Request], deadline: Deadline) -> Vec<Result<Ranking, Fault>>;

    /// What a hit is called, where the retriever knows its documents itself, as a remote engine does. Default: none;
    /// a catalogue then names the hits.
    fn document(&self, _document: Ordinal) -> Option<DocumentName> {
        None
    }
}

/// Everything that turns queries into better queries.
pub trait Rewriter: Send + Sync {
    /// Its name, for tables and runs: "identity", "rm3", "smollm2-135m+adapter".
    fn name(&self) -> &str;

    /// Rewrites each query of a batch; answers come in the order of the queries, one each. What is not ready at the
    /// deadline is [`Error::Deadline`](crate::Error::Deadline).
    fn rewrite(&self, queries: &[Query], deadline: Deadline) -> Vec<Result<Rewrite>>;

    /// Computes what all of its answers share, so that the first one does not wait for it. Default: there is nothing.
    ///
    /// # Errors
    /// Those of its answers.
    fn warm_up(&self) -> Result<()> {
        Ok(())
    }

    /// How much it has to do, where it shares its work among callers. Default: none.
    fn load(&self) -> Option<Load> {
        None
    }
}

/// How much something that many threads ask has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Load {
    /// Requests that wait.
    pub waiting: usize,
    /// Requests under way.
    pub running: usize,
    /// Passes that were made so far, by how many requests took part: at most so many as in [`BATCH_SIZES`](Self::BATCH_SIZES),
    /// and more than before.
    pub passes: [u64; Self::BATCH_SIZES.len()],
    /// Requests of those passes, each counted with every pass that it took part in.
    pub steps: u64,
}

impl Load {
    /// Upper ends of the sizes that [`passes`](Self::passes) counts.
    pub const BATCH_SIZES: [usize; 8] = [1, 2, 4, 8, 16, 32, 64, usize::MAX];

    /// So many wait, and so many are under way.
    pub fn new(waiting: usize, running: usize) -> Self {
        Self { waiting, running, ..Self::default() }
    }

    /// Counts a pass of so many requests.
    pub fn pass(&mut self, requests: usize) {
        let size = Self::BATCH_SIZES.iter().position(|most| requests <= *most);
        self.passes[size.unwrap_or_default()] += 1;
        self.steps += requests as u64;
    }

    /// Both together.
    pub fn and(self, other: Self) -> Self {
        let passes = std::array::from_fn(|size| self.passes[size] + other.passes[size]);
        let steps = self.steps + other.steps;
        Self { waiting: self.waiting + other.waiting, running: self.running + other.running, passes, steps }
    }
}

/// What knows the names of documents: a catalogue, or a table of the embedder's.
pub trait Documents: Send + Sync {
    /// The name of a document; none where there is no such document.
    fn document(&self, document: Ordinal) -> Option<DocumentName>;
}

macro_rules! forward {
    ($($pointer:ty),+) => {$(
        impl<T: Retriever + ?Sized> Retriever for $pointer {
            fn card(&self) -> &RetrieverCard {
                (**self).card()
            }

            fn retrieve(&self, requests: &[Request], deadline: Deadline) -> Vec<Result<Ranking, Fault>> {
                (**self).retrieve(requests, deadline)
            }

            fn document(&self, document: Ordinal) -> Option<DocumentName> {
                (**self).document(document)
            }
        }

        impl<T: Rewriter + ?Sized> Rewriter for $pointer {
            fn name(&self) -> &str {
                (**self).name()
            }

            fn rewrite(&self, queries: &[Query], deadline: Deadline) -> Vec<Result<Rewrite>> {
                (**self).rewrite(queries, deadline)
            }

            fn warm_up(&self) -> Result<()> {
                (**self).warm_up()
            }

            fn load(&self) -> Option<Load> {
                (**self).load()
            }
        }

        impl<T: Documents + ?Sized> Documents for $pointer {
            fn document(&self, document: Ordinal) -> Option<DocumentName> {
                (**self).document(document)
            }
        }
    )+};
}

forward!(&T, Box<T>, Arc<T>);
