//! The first search of a query, before a model is asked.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::Result;
use querywright::catalog::Catalog;
use querywright::retrieve::{Bm25, Bm25Config, FirstSearches};

use crate::bm25;

/// What the first searches of a retriever share: one index, what they found, and the time that they took.
#[derive(Clone, Default)]
pub struct FirstPass(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// Of the index where something else than BM25 ranks.
    bm25: Bm25Config,
    index: OnceLock<Arc<Bm25>>,
    searches: FirstSearches,
    nanoseconds: AtomicU64,
}

impl FirstPass {
    /// First searches by BM25 with these settings, where something else ranks.
    pub fn by(bm25: Bm25Config) -> Self {
        Self(Arc::new(Shared { bm25, ..Shared::default() }))
    }

    /// Time that it took so far; none where no first search was made.
    pub fn spent(&self) -> Option<Duration> {
        let spent = self.0.nanoseconds.load(Ordering::Relaxed);
        (spent > 0).then(|| Duration::from_nanos(spent))
    }

    /// The native index over a catalogue where something else ranks, built once.
    pub fn index(&self, catalog: &Arc<Catalog>) -> Result<Arc<Bm25>> {
        if let Some(index) = self.0.index.get() {
            return Ok(index.clone());
        }
        let built = bm25::index(catalog, self.0.bm25.clone(), None)?;
        Ok(self.0.index.get_or_init(|| built).clone())
    }

    /// What was found so far.
    pub fn searches(&self) -> FirstSearches {
        self.0.searches.clone()
    }

    pub fn timed<T>(&self, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let done = work();
        let spent = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.0.nanoseconds.fetch_add(spent, Ordering::Relaxed);
        done
    }
}
