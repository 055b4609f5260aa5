//! What a search gives back, and what happened on the way.

use querywright_types::{Error, Kept, Rewrite};
use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

/// A hit under its own name.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct NamedHit {
    /// The document's id.
    pub id: String,
    /// Its title; empty when it has none.
    pub title: String,
    /// The retriever's score.
    pub score: f32,
}

/// What a search gives back.
#[derive(Debug, Clone, serde::Serialize)]
#[non_exhaustive]
pub struct Answer {
    /// The hits, best first.
    pub hits: Vec<NamedHit>,
    /// What happened on the way.
    pub trace: Trace,
}

/// What happened to a query.
#[derive(Debug, Clone, serde::Serialize)]
#[non_exhaustive]
pub struct Trace {
    /// The query as it came in.
    pub query: String,
    /// What was searched for.
    pub searched: Rewrite,
    /// The ids of the documents that a model put first, in its order, where it re-ranked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub first: Vec<String>,
    /// How that came about.
    pub outcome: TraceOutcome,
    /// The rewriter's name.
    pub rewriter: Option<String>,
    /// What else was searched for and fused, in the order of the further rewriters.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<FurtherRewrite>,
    /// The retriever's name.
    pub retriever: String,
    /// Milliseconds spent on the rewrite.
    pub rewrite_ms: f64,
    /// Milliseconds spent on retrieval.
    pub retrieve_ms: f64,
}

/// What became of a further rewriter's rewrite.
#[derive(Debug, Clone, serde::Serialize)]
#[non_exhaustive]
pub struct FurtherRewrite {
    /// The rewriter's name.
    pub rewriter: String,
    /// What was searched for. The query as it came where the rewrite came late or failed: it was left out then.
    pub searched: Rewrite,
    /// How that came about.
    pub outcome: TraceOutcome,
}

impl FurtherRewrite {
    /// It could not be searched for.
    pub(crate) fn fall_back(&mut self, original: &Rewrite, error: &Error) {
        self.searched = original.clone();
        self.outcome = TraceOutcome::FellBack(error.clone());
    }
}

/// How a search came to its text.
///
/// As JSON: `{"kind": "rewritten"}`; for a query that its rewriter left as it is `{"kind": "kept", "code": "low_confidence"}`,
/// with [`Kept::code`]; and for a fallback `{"kind": "fell_back", "code": "deadline", "reason": "…"}`: what may
/// be said outside, [`Error::code`] and [`Error::summary`]. The error's own text may name paths and addresses and quote a
/// remote answer or a plugin; it is for the log, and [`fallback`](Self::fallback) has it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum TraceOutcome {
    /// There is no rewriter.
    Original,
    /// The rewrite was searched for.
    Rewritten,
    /// A rewrite made before was searched for.
    Cached,
    /// The rewriter left the query as it is without a language model, now or when it was asked before: no failure. What is
    /// searched for then is the original query, or what the rewriter's base makes of it.
    Kept(Kept),
    /// The query asks nothing: there is no text and no history. Nothing was rewritten, and nothing was searched for.
    Empty,
    /// The rewrite came late, failed, or could not be searched; the original query was searched for.
    FellBack(Error),
}

impl TraceOutcome {
    /// Why the original query was searched for in the place of a rewrite.
    pub fn fallback(&self) -> Option<&Error> {
        match self {
            Self::FellBack(error) => Some(error),
            _ => None,
        }
    }

    /// A short word: "original", "rewritten", "cached", "kept", "empty", "fell_back".
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Original => "original",
            Self::Rewritten => "rewritten",
            Self::Cached => "cached",
            Self::Kept(_) => "kept",
            Self::Empty => "empty",
            Self::FellBack(_) => "fell_back",
        }
    }
}

impl Serialize for TraceOutcome {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (code, reason) = match self {
            Self::FellBack(error) => (Some(error.code()), Some(error.summary())),
            Self::Kept(why) => (Some(why.code()), None),
            _ => (None, None),
        };
        let count = 1 + usize::from(code.is_some()) + usize::from(reason.is_some());
        let mut fields = serializer.serialize_struct("TraceOutcome", count)?;
        fields.serialize_field("kind", self.kind())?;
        code.map_or(Ok(()), |code| fields.serialize_field("code", code))?;
        reason.map_or(Ok(()), |reason| fields.serialize_field("reason", reason))?;
        fields.end()
    }
}
