//! What a user asks, what a rewriter makes of it, and what a retriever is given.

use crate::{Order, Ordinal, QueryLanguage};

/// A user's query as it came in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Query {
    /// The query's name in qrels and runs; empty in serving.
    pub id: String,
    /// The user's words. May be empty when there is a history.
    pub text: String,
    /// Items that the user had before, oldest first. They are excluded from the ranking, unless `repeats` is set.
    pub history: Vec<Ordinal>,
    /// Whether users come back to items, so that those of the history may be found again. Default: false.
    pub repeats: bool,
    /// What was said before in the same conversation, oldest first: the user's messages, and answers where they are known.
    pub turns: Vec<String>,
}

impl Query {
    /// A query with a name.
    pub fn new(id: impl Into<String>, text: impl Into<String>) -> Self {
        Self { id: id.into(), ..Self::text(text) }
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

    /// With what was said before in the same conversation, oldest first.
    pub fn with_turns<T: Into<String>>(mut self, turns: impl IntoIterator<Item = T>) -> Self {
        self.turns = turns.into_iter().map(Into::into).collect();
        self
    }

    /// Says whether items of the history may be found again.
    pub fn with_repeats(mut self, repeats: bool) -> Self {
        self.repeats = repeats;
        self
    }

    /// Whether nothing is asked: there is no history, and no character of the text can be seen, whatever was said before. No
    /// model and no retriever is asked for such a query.
    pub fn is_empty(&self) -> bool {
        self.history.is_empty() && self.text.chars().all(is_invisible)
    }
}

/// White space, control characters, and characters that Unicode gives no shape (joiners, marks of direction, variation
/// selectors, the byte order mark).
fn is_invisible(c: char) -> bool {
    c.is_whitespace()
        || c.is_control()
        || matches!(c, '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
            | '\u{e0000}'..='\u{e0fff}')
}

/// Why a rewriter left a query as it is without a language model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kept {
    /// The model wrote no word, which is an answer, or chose to leave the query as it is; or there was nothing to order.
    Nothing,
    /// The model was less sure than it must be for its rewrite to be used.
    LowConfidence,
    /// It is the first message of a conversation: nothing was said that it could refer to, and no model was asked.
    FirstMessage,
}

impl Kept {
    /// A short word for programs: "nothing", "low_confidence", "first_message".
    pub fn code(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::LowConfidence => "low_confidence",
            Self::FirstMessage => "first_message",
        }
    }
}

/// What a rewriter made of a query. Two are equal where they ask the retriever for the same.
#[derive(Debug, Clone, serde::Serialize)]
#[non_exhaustive]
pub struct Rewrite {
    /// The text for the retriever.
    pub text: String,
    /// The language that the text is written in.
    pub language: QueryLanguage,
    /// How sure a language model was of its answer: the mean log-probability of its tokens, at most 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confidence: Option<f32>,
    /// Why this is what the query is without the model, where it is.
    #[serde(skip)]
    pub kept: Option<Kept>,
    /// A new order of what the text finds, where a model re-ranked.
    #[serde(skip)]
    pub order: Option<Order>,
}

impl PartialEq for Rewrite {
    fn eq(&self, other: &Self) -> bool {
        (&self.text, self.language, &self.order) == (&other.text, other.language, &other.order)
    }
}

impl Eq for Rewrite {}

impl Rewrite {
    /// A rewrite in a query language.
    pub fn new(text: impl Into<String>, language: QueryLanguage) -> Self {
        Self { text: text.into(), language, confidence: None, kept: None, order: None }
    }

    /// A rewrite in plain words.
    pub fn plain(text: impl Into<String>) -> Self {
        Self::new(text, QueryLanguage::Plain)
    }

    /// With how sure its model was.
    pub fn with_confidence(mut self, confidence: f32) -> Self {
        self.confidence = Some(confidence);
        self
    }

    /// With a new order of what its text finds.
    pub fn with_order(mut self, order: Order) -> Self {
        self.order = Some(order);
        self
    }

    /// Says that this is what the query is without a model, and why.
    pub fn with_kept(mut self, why: Kept) -> Self {
        self.kept = Some(why);
        self
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
    /// A new order of what is found. [`retrieve`](crate::retrieve()) sees to it, whatever ranks: no retriever gets a request
    /// with one.
    pub order: Option<Order>,
}

impl Request {
    /// The request that asks for `rewrite` on behalf of `query`; the query's history is excluded from the ranking, unless
    /// the query [`repeats`](Query::repeats).
    pub fn new(query: &Query, rewrite: &Rewrite, k: usize) -> Self {
        Self {
            text: rewrite.text.clone(),
            language: rewrite.language,
            history: query.history.clone(),
            exclude: if query.repeats { Vec::new() } else { query.history.clone() },
            k,
            order: rewrite.order.clone(),
        }
    }

    /// The request for at most `k` hits for plain words, without a history.
    pub fn plain(text: impl Into<String>, k: usize) -> Self {
        Self {
            text: text.into(),
            language: QueryLanguage::Plain,
            history: Vec::new(),
            exclude: Vec::new(),
            k,
            order: None,
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_empty_when_nothing_of_it_can_be_seen_and_nothing_came_before() {
        for text in ["", " ", "\t\n", "\u{200b}\u{feff}", "\0", "\u{3000}", "\u{202e}"] {
            assert!(Query::text(text).is_empty(), "{text:?}");
            assert!(!Query { history: vec![0], ..Query::text(text) }.is_empty());
        }
        for text in ["a", "?", "🍯", "é", " 茶 "] {
            assert!(!Query::text(text).is_empty(), "{text:?}");
        }
    }

    #[test]
    fn rewrites_are_equal_where_they_ask_for_the_same_however_they_came_about() {
        let sure = Rewrite::plain("tea").with_confidence(-0.5);
        let kept = Rewrite::plain("tea").with_kept(Kept::LowConfidence);
        assert_eq!(sure, kept);
        assert_ne!(kept, Rewrite::new("tea", QueryLanguage::Boolean));
        assert_ne!(kept, Rewrite::plain("tea").with_order(Order::new(vec![3], 5)));
        assert_eq!((kept.kept.map(Kept::code), Kept::Nothing.code()), (Some("low_confidence"), "nothing"));
    }

    #[test]
    fn items_that_users_come_back_to_may_be_found_again() {
        let query = Query { history: vec![1, 2], ..Query::text("x") };
        let request = |query: &Query| Request::new(query, &Rewrite::plain("x"), 5);
        assert_eq!(request(&query).exclude, [1, 2]);
        let request = request(&Query { repeats: true, ..query });
        assert_eq!((request.exclude, request.history), (vec![], vec![1, 2]));
    }
}
