//! The two contracts of the house.

use std::time::{Duration, Instant};

use super::{Query, Ranking, Request, Rewrite};
use crate::error::{Error, Fault, Result};

/// The languages that a retriever can read queries in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QueryLanguage {
    /// A bag of words; operators mean nothing.
    #[default]
    Plain,
    /// AND, OR, NOT, quotes, brackets, field:term and term^boost.
    Boolean,
    /// A sentence or a passage, compared by meaning.
    Natural,
}

/// What a retriever says of itself. The rewriter's prompt is built from it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct RetrieverCard {
    /// Its name, for people and for runs: "bm25".
    pub name: String,
    /// Its version.
    pub version: String,
    /// A digest of everything that decides its rankings (catalogue, parameters, version): the key of caches.
    pub digest: String,
    /// The languages that it reads, the preferred one first; never empty.
    pub languages: Vec<QueryLanguage>,
    /// The fields that `field:term` may name; empty when it has none.
    pub fields: Vec<String>,
    /// Whether it reads the history of a request.
    pub reads_history: bool,
    /// What the catalogue holds, in a few words for the prompt: "movies", "industrial products".
    pub content: String,
}

/// Everything that ranks. Implementations must be deterministic for a given card digest.
pub trait Retriever: Send + Sync {
    /// Who it is.
    fn card(&self) -> &RetrieverCard;

    /// Ranks each request of a batch; answers come in the order of the requests, one each. A failure concerns one
    /// request alone. No text may cause a failure: what cannot be parsed is searched for as plain words.
    fn retrieve(&self, requests: &[Request]) -> Vec<Result<Ranking, Fault>>;
}

/// Everything that turns queries into better queries.
pub trait Rewriter: Send + Sync {
    /// Its name, for tables and runs: "identity", "rm3", "smollm2-135m+adapter".
    fn name(&self) -> &str;

    /// Rewrites each query of a batch; answers come in the order of the queries, one each. What is not ready at the
    /// deadline is [`Error::Deadline`].
    fn rewrite(&self, queries: &[Query], deadline: Deadline) -> Vec<Result<Rewrite>>;
}

/// A moment by which an answer must be there; [`Deadline::NONE`] where time does not matter.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    end: Option<(Instant, Duration)>,
}

impl Deadline {
    /// No deadline.
    pub const NONE: Self = Self { end: None };

    /// A deadline that lies `after` from now; none where that lies beyond all clocks.
    pub fn after(after: Duration) -> Self {
        Self { end: Instant::now().checked_add(after).map(|end| (end, after)) }
    }

    /// An error once the deadline has passed.
    pub fn check(&self) -> Result<()> {
        match self.end {
            Some((end, allowed)) if Instant::now() >= end => Err(Error::Deadline(allowed)),
            _ => Ok(()),
        }
    }

    /// The time left; none when there is no deadline.
    pub fn left(&self) -> Option<Duration> {
        self.end.map(|(end, _)| end.saturating_duration_since(Instant::now()))
    }
}
