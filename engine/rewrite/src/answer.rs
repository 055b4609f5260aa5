//! Reading the query out of what a language model wrote. Nothing that a model can write is an error: the answer holds
//! the query, or says in what way the format was broken, or both where a query could be saved from a broken answer.

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::prompt::PromptStyle;
use super::terms::{Term, terms};
use crate::types::QueryLanguage;

/// What was read out of a completion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The query, trimmed and never empty. Where `broken` is set too it was saved from a broken answer: good enough to
    /// serve, not to be rewarded for its format.
    pub query: Option<String>,
    /// In what way the format was broken.
    pub broken: Option<FormatFault>,
    /// Where the query stands in the completion, in bytes (inside JSON: as escaped there).
    pub query_span: Option<Range<usize>>,
}

/// The four tags of [`PromptStyle::ThinkAnswer`], in their order.
const TAGS: [&str; 4] = ["<think>", "</think>", "<answer>", "</answer>"];

/// In what way an answer broke its format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FormatFault {
    /// There is no query, or an empty one.
    Empty,
    /// This tag is missing.
    MissingTag(&'static str),
    /// This tag occurs more than once.
    RepeatedTag(&'static str),
    /// Every tag occurs once, in another order.
    TagOrder,
    /// What stands between the answer tags is not a JSON object.
    NotJson,
    /// The JSON object has no key `query`.
    NoQueryKey,
    /// The value of `query` is not a text.
    QueryNotText,
}

impl fmt::Display for FormatFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the query is empty"),
            Self::MissingTag(tag) => write!(f, "the tag {tag} is missing"),
            Self::RepeatedTag(tag) => write!(f, "the tag {tag} occurs more than once"),
            Self::TagOrder => write!(f, "the tags are not in the order {}", TAGS.join(" ")),
            Self::NotJson => f.write_str("the answer is not a JSON object"),
            Self::NoQueryKey => f.write_str("the answer's JSON has no key \"query\""),
            Self::QueryNotText => f.write_str("the answer's \"query\" is not a text"),
        }
    }
}

/// Reads a completion that was asked for in this style and query language.
///
/// [`PromptStyle::FewShot`]: the first line. [`PromptStyle::Chat`]: the first line with something on it, after a
/// leading `<think>` block. [`PromptStyle::ThinkAnswer`]: each tag exactly once and in order (so that first and last
/// answer tag are the same), with a JSON object between the answer tags whose key `query` is a text.
pub fn parse(style: PromptStyle, language: QueryLanguage, completion: &str) -> Answer {
    match style {
        PromptStyle::FewShot => {
            let end = completion.find(['\n', '\r']).unwrap_or(completion.len());
            Answer::of_line(completion, 0..end, language)
        }
        PromptStyle::Chat => {
            let start = completion.rfind(TAGS[1]).map_or(0, |at| at + TAGS[1].len());
            Answer::of_line(completion, first_line(completion, start..completion.len()), language)
        }
        PromptStyle::ThinkAnswer => think_answer(completion, language),
    }
}

impl Answer {
    /// The query's terms and where each stands in the completion, in bytes: what the credit for a term goes to.
    pub fn terms(&self, completion: &str) -> Vec<Term> {
        let (Some(query), Some(span)) = (&self.query, &self.query_span) else { return Vec::new() };
        let Some(written) = completion.get(span.clone()) else { return Vec::new() };
        let mut found = terms(query);
        if written == query {
            for term in &mut found {
                term.span = span.start + term.span.start..span.start + term.span.end;
            }
            return found;
        }
        let starts = starts_of_unescaped(written);
        if starts.len() != query.len() + 1 {
            return Vec::new();
        }
        let place = |at: usize| span.start + starts.get(at).copied().unwrap_or(written.len());
        for term in &mut found {
            term.span = place(term.span.start)..place(term.span.end);
        }
        found
    }

    fn broken(fault: FormatFault) -> Self {
        Self { query: None, broken: Some(fault), query_span: None }
    }

    /// The line in `span`, without the prompt's label, and without quotes around the whole of it where quotes mean
    /// nothing.
    fn of_line(completion: &str, span: Range<usize>, language: QueryLanguage) -> Self {
        let mut span = trimmed(completion, span, char::is_whitespace);
        if let Some(rest) = completion.get(span.clone()).and_then(|line| line.strip_prefix("Search:")) {
            span = trimmed(completion, span.end - rest.len()..span.end, char::is_whitespace);
        }
        let line = completion.get(span.clone()).unwrap_or("");
        let quoted = line.len() > 1 && line.starts_with('"') && line.ends_with('"') && line.matches('"').count() == 2;
        if quoted && language != QueryLanguage::Boolean {
            span = trimmed(completion, span.start + 1..span.end - 1, char::is_whitespace);
        }
        match completion.get(span.clone()) {
            Some(query) if !query.is_empty() => {
                Self { query: Some(query.to_owned()), broken: None, query_span: Some(span) }
            }
            _ => Self::broken(FormatFault::Empty),
        }
    }
}

fn think_answer(completion: &str, language: QueryLanguage) -> Answer {
    match between_tags(completion).and_then(|span| json_query(completion, span)) {
        Ok((query, query_span)) => Answer { query: Some(query), broken: None, query_span },
        Err(fault) => Answer { broken: Some(fault), ..saved(completion, language) },
    }
}

/// What stands between the answer tags, when all four tags are there once and in order.
fn between_tags(completion: &str) -> Result<Range<usize>, FormatFault> {
    let mut places = [0; 4];
    for (place, tag) in places.iter_mut().zip(TAGS) {
        let mut found = completion.match_indices(tag).map(|(at, _)| at);
        *place = found.next().ok_or(FormatFault::MissingTag(tag))?;
        if found.next().is_some() {
            return Err(FormatFault::RepeatedTag(tag));
        }
    }
    let [_, _, open, close] = places;
    if places.is_sorted() { Ok(open + TAGS[2].len()..close) } else { Err(FormatFault::TagOrder) }
}

#[derive(Deserialize)]
struct Place<'j> {
    #[serde(borrow)]
    query: &'j RawValue,
}

/// The query of the JSON object in `span`, and where its text stands.
fn json_query(completion: &str, span: Range<usize>) -> Result<(String, Option<Range<usize>>), FormatFault> {
    let json = completion.get(span.clone()).unwrap_or("");
    let object: Value = serde_json::from_str(json).map_err(|_| FormatFault::NotJson)?;
    let object = object.as_object().ok_or(FormatFault::NotJson)?;
    let query = object.get("query").ok_or(FormatFault::NoQueryKey)?.as_str().ok_or(FormatFault::QueryNotText)?;
    if query.trim().is_empty() {
        return Err(FormatFault::Empty);
    }
    // The raw value is a slice of the completion: its address tells its place. A repeated key has no one place.
    let place = serde_json::from_str::<Place<'_>>(json).ok().and_then(|place| {
        let raw = place.query.get();
        let start = span.start + (raw.as_ptr() as usize).checked_sub(json.as_ptr() as usize)? + 1;
        let written = completion.get(start..start + raw.len().checked_sub(2)?)?;
        let starts = starts_of_unescaped(written);
        let head = query.len() - query.trim_start().len();
        let (from, to) = (starts.get(head)?, starts.get(head + query.trim().len())?);
        Some(start + from..start + to)
    });
    Ok((query.trim().to_owned(), place))
}

/// A query from a broken answer: a JSON object in the last answer, or anywhere, else the answer's first line.
fn saved(completion: &str, language: QueryLanguage) -> Answer {
    let after = |tag: &str| completion.rfind(tag).map(|at| at + tag.len());
    let answer = after(TAGS[2]).map(|start| {
        let end = completion.get(start..).and_then(|rest| rest.find(TAGS[3])).map_or(completion.len(), |at| start + at);
        start..end
    });
    for region in [answer.clone(), Some(0..completion.len())].into_iter().flatten() {
        if let Some((query, query_span)) = json_inside(completion, region) {
            return Answer { query: Some(query), broken: None, query_span };
        }
    }
    let nothing = Answer { query: None, broken: None, query_span: None };
    let Some(region) = answer.or_else(|| after(TAGS[1]).map(|start| start..completion.len())) else { return nothing };
    let line = Answer::of_line(completion, first_line(completion, region), language);
    // A line with braces or tags is a wreck, not a query.
    if line.query.as_deref().is_some_and(|query| query.contains(['{', '}', '<', '>'])) { nothing } else { line }
}

/// The query of the last JSON object in a region that has one. Objects are looked for at the last few opening braces.
fn json_inside(completion: &str, region: Range<usize>) -> Option<(String, Option<Range<usize>>)> {
    const TRIES: usize = 16;
    let text = completion.get(region.clone())?;
    text.rmatch_indices('{').take(TRIES).find_map(|(at, _)| {
        let rest = text.get(at..)?;
        let object = serde_json::Deserializer::from_str(rest).into_iter::<&RawValue>().next()?.ok()?;
        let start = region.start + at;
        json_query(completion, start..start + object.get().len()).ok()
    })
}

/// The first line of a region with something on it; an empty range at its end when there is none.
fn first_line(text: &str, region: Range<usize>) -> Range<usize> {
    let region = trimmed(text, region, char::is_whitespace);
    let line = text.get(region.clone()).unwrap_or("");
    region.start..region.start + line.find(['\n', '\r']).unwrap_or(line.len())
}

fn trimmed(text: &str, span: Range<usize>, noise: fn(char) -> bool) -> Range<usize> {
    let inside = text.get(span.clone()).unwrap_or("");
    let start = span.start + inside.len() - inside.trim_start_matches(noise).len();
    start..start + inside.trim_matches(noise).len()
}

/// For each byte of a JSON string's value, and for its end, where in the escaped text it comes from.
fn starts_of_unescaped(escaped: &str) -> Vec<usize> {
    let mut starts = Vec::with_capacity(escaped.len() + 1);
    let mut at = 0;
    while let Some(c) = escaped.get(at..).and_then(|rest| rest.chars().next()) {
        let rest = escaped.get(at..).unwrap_or("");
        let (length, written) = match (c, rest.as_bytes().get(1)) {
            ('\\', Some(b'u')) => match hex_unit(rest) {
                // The first half of a pair: both halves are one character of four bytes.
                Some(0xD800..=0xDBFF) => (4, 12),
                Some(unit) => (char::from_u32(unit).map_or(3, char::len_utf8), 6),
                None => (1, 6),
            },
            ('\\', _) => (1, 2),
            _ => (c.len_utf8(), c.len_utf8()),
        };
        // Bytes inside a character that stands unescaped have places of their own.
        starts.extend((0..length).map(|i| if written == length && c != '\\' { at + i } else { at }));
        at += written;
    }
    starts.push(escaped.len());
    starts
}

fn hex_unit(escape: &str) -> Option<u32> {
    u32::from_str_radix(escape.get(2..6)?, 16).ok()
}

#[cfg(test)]
mod tests;
