//! What a user asks, what a rewriter makes of it, and what a retriever is given.

use crate::{Ordinal, QueryLanguage};

/// A user's query as it came in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    /// The query's name in qrels and runs; empty in serving.
    pub id: String,
    /// The user's words. May be empty when there is a history.
    pub text: String,
    /// Items that the user had before, oldest first. They are excluded from the ranking.
    pub history: Vec<Ordinal>,
}

impl Query {
    /// A query of a serving system: text alone.
    pub fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }
}

/// What a rewriter made of a query.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Rewrite {
    /// The text for the retriever.
    pub text: String,
    /// The language that the text is written in.
    pub language: QueryLanguage,
}

impl Rewrite {
    /// A rewrite in plain words.
    pub fn plain(text: impl Into<String>) -> Self {
        Self { text: text.into(), language: QueryLanguage::Plain }
    }
}

/// One request to a retriever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The query text.
    pub text: String,
    /// The language of the text. A retriever that does not speak it treats the text as plain words.
    pub language: QueryLanguage,
    /// Items that the user had before, oldest first.
    pub history: Vec<Ordinal>,
    /// Items that must not appear in the ranking (the history, and whatever the embedder adds).
    pub exclude: Vec<Ordinal>,
    /// How many hits at most.
    pub k: usize,
}

impl Request {
    /// The request that asks for `rewrite` on behalf of `query`; the query's history is excluded from the ranking.
    pub fn new(query: &Query, rewrite: &Rewrite, k: usize) -> Self {
        Self {
            text: rewrite.text.clone(),
            language: rewrite.language,
            history: query.history.clone(),
            exclude: query.history.clone(),
            k,
        }
    }
}
