//! What a user asks, what a rewriter makes of it, and what a retriever is given.

use crate::{Ordinal, QueryLanguage};

/// A user's query as it came in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Query {
    /// The query's name in qrels and runs; empty in serving.
    pub id: String,
    /// The user's words. May be empty when there is a history.
    pub text: String,
    /// Items that the user had before, oldest first. They are excluded from the ranking.
    pub history: Vec<Ordinal>,
}

impl Query {
    /// A query with a name.
    pub fn new(id: impl Into<String>, text: impl Into<String>) -> Self {
        Self { id: id.into(), text: text.into(), history: Vec::new() }
    }

    /// A query of a serving system: text alone.
    pub fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }

    /// With the items that the user had before, oldest first.
    pub fn with_history(mut self, history: impl IntoIterator<Item = Ordinal>) -> Self {
        self.history = history.into_iter().collect();
        self
    }
}

/// What a rewriter made of a query.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Rewrite {
    /// The text for the retriever.
    pub text: String,
    /// The language that the text is written in.
    pub language: QueryLanguage,
}

impl Rewrite {
    /// A rewrite in a query language.
    pub fn new(text: impl Into<String>, language: QueryLanguage) -> Self {
        Self { text: text.into(), language }
    }

    /// A rewrite in plain words.
    pub fn plain(text: impl Into<String>) -> Self {
        Self::new(text, QueryLanguage::Plain)
    }
}

/// One request to a retriever.
///
/// ```
/// use querywright_types::{QueryLanguage, Request};
///
/// let request = Request::plain("quiet AND blue", 10).with_language(QueryLanguage::Boolean).with_exclude([7]);
/// assert_eq!((request.k, request.exclude), (10, vec![7]));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
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

    /// The request for at most `k` hits for plain words, without a history.
    pub fn plain(text: impl Into<String>, k: usize) -> Self {
        Self { text: text.into(), language: QueryLanguage::Plain, history: Vec::new(), exclude: Vec::new(), k }
    }

    /// With another query language.
    pub fn with_language(mut self, language: QueryLanguage) -> Self {
        self.language = language;
        self
    }

    /// With another number of hits at most.
    pub fn with_k(mut self, k: usize) -> Self {
        self.k = k;
        self
    }

    /// With items that the user had before, oldest first. They are not excluded from the ranking by that alone.
    pub fn with_history(mut self, history: impl IntoIterator<Item = Ordinal>) -> Self {
        self.history = history.into_iter().collect();
        self
    }

    /// With these items, and no others, excluded from the ranking.
    pub fn with_exclude(mut self, exclude: impl IntoIterator<Item = Ordinal>) -> Self {
        self.exclude = exclude.into_iter().collect();
        self
    }
}
