//! Parsing completions: the query in what a language model wrote.
//!
//! No completion is an error. The result holds the query, or names how the format was broken, or both where a query
//! could be recovered from a broken format.

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::config::{Mode, PromptStyle};
use super::query_terms::{QueryTerm, terms};
use querywright_text::boolean::is_quote;
use querywright_types::QueryLanguage;

/// A parsed completion.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ParsedCompletion {
    /// The query, trimmed and never empty. Where `broken` is set too, it was recovered from a broken format: it can be
    /// served, but is not rewarded.
    pub query: Option<String>,
    /// How the format was broken.
    pub broken: Option<FormatFault>,
    /// The place of the query in the completion, in bytes. Inside JSON it is the place of the escaped text. None where
    /// the JSON names the query more than once.
    pub query_span: Option<Range<usize>>,
}

/// The four tags of [`PromptStyle::ThinkAnswer`], in order.
const TAGS: [&str; 4] = ["<think>", "</think>", "<answer>", "</answer>"];

/// How a completion broke its format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum FormatFault {
    /// There is no query, or an empty one.
    Empty,
    /// This tag is missing.
    MissingTag(&'static str),
    /// This tag occurs more than once.
    RepeatedTag(&'static str),
    /// Every tag occurs once, but in another order.
    TagOrder,
    /// The text between the answer tags is not a JSON object.
    NotJson,
    /// The JSON object has no key `query`.
    NoQueryKey,
    /// The value of `query` is not a string.
    QueryNotText,
    /// The answer is not the name of one of the [choices](super::PromptConfig::choices).
    NoChoice,
    /// The answer does not name [candidates](super::Mode::Rerank) by their labels alone, each at most once.
    NoOrder,
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
            Self::QueryNotText => f.write_str("the answer's \"query\" is not a string"),
            Self::NoChoice => f.write_str("the answer names none of the choices, or more than one"),
            Self::NoOrder => f.write_str("the answer is no order of the candidates' labels, each once"),
        }
    }
}

/// Parses the completion of a prompt in this style, mode and query language.
///
/// The query is, in [`PromptStyle::FewShot`], the first line; in [`PromptStyle::Chat`], the first line that is not
/// blank, after a `<think>` block if there is one (in the modes document and keywords all lines); in
/// [`PromptStyle::ThinkAnswer`], the string `query` of the JSON object between the answer tags, where each tag must occur
/// exactly once and in order.
pub fn parse(style: PromptStyle, mode: Mode, language: QueryLanguage, completion: &str) -> ParsedCompletion {
    let form = (mode, language);
    match style {
        PromptStyle::FewShot => {
            let end = completion.find(['\n', '\r']).unwrap_or(completion.len());
            ParsedCompletion::from_line(completion, 0..end, form)
        }
        PromptStyle::Chat => {
            let start = completion.rfind(TAGS[1]).map_or(0, |at| at + TAGS[1].len());
            ParsedCompletion::from_line(completion, answer_in(completion, start..completion.len(), mode), form)
        }
        PromptStyle::ThinkAnswer => think_answer(completion, form),
    }
}

impl ParsedCompletion {
    /// The query's terms, each with its place in the completion, in bytes. Credit for a term goes to the tokens there.
    /// Empty where the query has no single place.
    pub fn terms(&self, completion: &str) -> Vec<QueryTerm> {
        let mut found = self.query.as_deref().map(terms).unwrap_or_default();
        let within: Vec<Range<usize>> = found.iter().map(|term| term.span.clone()).collect();
        let Some(places) = self.places(completion, &within) else { return Vec::new() };
        for (term, place) in found.iter_mut().zip(places) {
            term.span = place;
        }
        found
    }

    /// Where parts of the query stand in the completion, in bytes; none where the query has no single place.
    pub(super) fn places(&self, completion: &str, within: &[Range<usize>]) -> Option<Vec<Range<usize>>> {
        let (query, span) = (self.query.as_ref()?, self.query_span.as_ref()?);
        let written = completion.get(span.clone())?;
        if written == query {
            return Some(within.iter().map(|part| span.start + part.start..span.start + part.end).collect());
        }
        let starts = escaped_offsets(written);
        if starts.len() != query.len() + 1 {
            return None;
        }
        let offset = |at: usize| span.start + starts.get(at).copied().unwrap_or(written.len());
        Some(within.iter().map(|part| offset(part.start)..offset(part.end)).collect())
    }

    fn without_query(fault: FormatFault) -> Self {
        Self { query: None, broken: Some(fault), query_span: None }
    }

    /// The line in `span`, without the prompt's label. Quotes around the whole line are dropped where the query language
    /// has no phrases.
    fn from_line(completion: &str, span: Range<usize>, (mode, language): (Mode, QueryLanguage)) -> Self {
        let mut span = trimmed(completion, span);
        let labelled = completion.get(span.clone()).and_then(|line| line.strip_prefix(mode.label()));
        if let Some(rest) = labelled.and_then(|rest| rest.strip_prefix(':')) {
            span = trimmed(completion, span.end - rest.len()..span.end);
        }
        let line = completion.get(span.clone()).unwrap_or("");
        let inside = line.strip_prefix(is_quote).and_then(|line| line.strip_suffix(is_quote));
        let inside = inside.filter(|inside| !inside.contains(is_quote) && language != QueryLanguage::Boolean);
        if let Some(inside) = inside {
            let start = span.start + line.chars().next().map_or(0, char::len_utf8);
            span = trimmed(completion, start..start + inside.len());
        }
        match completion.get(span.clone()) {
            Some(query) if !query.is_empty() => {
                Self { query: Some(query.to_owned()), broken: None, query_span: Some(span) }
            }
            _ => Self::without_query(FormatFault::Empty),
        }
    }
}

fn think_answer(completion: &str, form: (Mode, QueryLanguage)) -> ParsedCompletion {
    match between_tags(completion).and_then(|span| json_query(completion, span, form.0)) {
        Ok((query, query_span)) => ParsedCompletion { query: Some(query), broken: None, query_span },
        Err(fault) => ParsedCompletion { broken: Some(fault), ..recovered(completion, form) },
    }
}

/// The text between the answer tags, where all four tags occur once and in order.
fn between_tags(completion: &str) -> Result<Range<usize>, FormatFault> {
    let mut starts = [0; 4];
    for (start, tag) in starts.iter_mut().zip(TAGS) {
        let mut found = completion.match_indices(tag).map(|(at, _)| at);
        *start = found.next().ok_or(FormatFault::MissingTag(tag))?;
        if found.next().is_some() {
            return Err(FormatFault::RepeatedTag(tag));
        }
    }
    let [_, _, open, close] = starts;
    if starts.is_sorted() { Ok(open + TAGS[2].len()..close) } else { Err(FormatFault::TagOrder) }
}

#[derive(Deserialize)]
struct RawQuery<'j> {
    #[serde(borrow)]
    query: &'j RawValue,
}

/// The query of the JSON object in `span`, and the place of its escaped text. Keywords and labels may be an array, which has no
/// single place.
fn json_query(completion: &str, span: Range<usize>, mode: Mode) -> Result<(String, Option<Range<usize>>), FormatFault> {
    let json = completion.get(span.clone()).unwrap_or("");
    let object: Value = serde_json::from_str(json).map_err(|_| FormatFault::NotJson)?;
    let object = object.as_object().ok_or(FormatFault::NotJson)?;
    let query = object.get("query").ok_or(FormatFault::NoQueryKey)?;
    if let (Mode::Keywords | Mode::Rerank, Some(list)) = (mode, query.as_array()) {
        let joined = if mode == Mode::Rerank { labels_of_json(list) } else { keywords_of_json(list) };
        let list = joined.ok_or(FormatFault::QueryNotText)?;
        return if list.trim().is_empty() { Err(FormatFault::Empty) } else { Ok((list, None)) };
    }
    let query = query.as_str().ok_or(FormatFault::QueryNotText)?;
    if query.trim().is_empty() {
        return Err(FormatFault::Empty);
    }
    // The raw value is a slice of the completion, so its address gives its offset. A repeated key has no single offset.
    let query_span = serde_json::from_str::<RawQuery<'_>>(json).ok().and_then(|json_object| {
        let raw = json_object.query.get();
        let start = span.start + (raw.as_ptr() as usize).checked_sub(json.as_ptr() as usize)? + 1;
        let written = completion.get(start..start + raw.len().checked_sub(2)?)?;
        let starts = escaped_offsets(written);
        let head = query.len() - query.trim_start().len();
        let (from, to) = (starts.get(head)?, starts.get(head + query.trim().len())?);
        Some(start + from..start + to)
    });
    Ok((query.trim().to_owned(), query_span))
}

/// A query from a broken format: from a JSON object in the last answer, else from one anywhere, else the first line of
/// the answer.
fn recovered(completion: &str, form: (Mode, QueryLanguage)) -> ParsedCompletion {
    let after = |tag: &str| completion.rfind(tag).map(|at| at + tag.len());
    let answer = after(TAGS[2]).map(|start| {
        let end = completion.get(start..).and_then(|rest| rest.find(TAGS[3])).map_or(completion.len(), |at| start + at);
        start..end
    });
    for region in [answer.clone(), Some(0..completion.len())].into_iter().flatten() {
        if let Some((query, query_span)) = json_inside(completion, region, form.0) {
            return ParsedCompletion { query: Some(query), broken: None, query_span };
        }
    }
    let nothing = ParsedCompletion { query: None, broken: None, query_span: None };
    let Some(region) = answer.or_else(|| after(TAGS[1]).map(|start| start..completion.len())) else { return nothing };
    let line = ParsedCompletion::from_line(completion, answer_in(completion, region, form.0), form);
    // A line with braces or tags is a fragment of the format, not a query.
    if line.query.as_deref().is_some_and(|query| query.contains(['{', '}', '<', '>'])) { nothing } else { line }
}

/// The query of the last JSON object in a region that has one. Only the last few opening braces are tried.
fn json_inside(completion: &str, region: Range<usize>, mode: Mode) -> Option<(String, Option<Range<usize>>)> {
    const MAX_BRACES: usize = 16;
    let text = completion.get(region.clone())?;
    text.rmatch_indices('{').take(MAX_BRACES).find_map(|(at, _)| {
        let rest = text.get(at..)?;
        let object = serde_json::Deserializer::from_str(rest).into_iter::<&RawValue>().next()?.ok()?;
        let start = region.start + at;
        json_query(completion, start..start + object.get().len(), mode).ok()
    })
}

/// The answer in a region: all of it where answers have lines, else its first line that is not blank.
fn answer_in(text: &str, region: Range<usize>, mode: Mode) -> Range<usize> {
    if mode.has_lines() { region } else { first_line(text, region) }
}

/// The first line of a region that is not blank; an empty range at its end where all are.
fn first_line(text: &str, region: Range<usize>) -> Range<usize> {
    let region = trimmed(text, region);
    let line = text.get(region.clone()).unwrap_or("");
    region.start..region.start + line.find(['\n', '\r']).unwrap_or(line.len())
}

fn trimmed(text: &str, span: Range<usize>) -> Range<usize> {
    let inside = text.get(span.clone()).unwrap_or("");
    let start = span.start + inside.len() - inside.trim_start().len();
    start..start + inside.trim().len()
}

/// For each byte of a JSON string's value, and for its end, the offset in the escaped text that it comes from.
fn escaped_offsets(escaped: &str) -> Vec<usize> {
    let mut starts = Vec::with_capacity(escaped.len() + 1);
    let mut at = 0;
    while let Some(c) = escaped.get(at..).and_then(|rest| rest.chars().next()) {
        let rest = escaped.get(at..).unwrap_or("");
        let (length, written) = match (c, rest.as_bytes().get(1)) {
            ('\\', Some(b'u')) => match hex_unit(rest) {
                // A high surrogate: with its low surrogate it is one character of four UTF-8 bytes.
                Some(0xD800..=0xDBFF) => (4, 12),
                Some(unit) => (char::from_u32(unit).map_or(3, char::len_utf8), 6),
                None => (1, 6),
            },
            ('\\', _) => (1, 2),
            _ => (c.len_utf8(), c.len_utf8()),
        };
        // Each byte of a character that is not escaped has an offset of its own.
        starts.extend((0..length).map(|i| if written == length && c != '\\' { at + i } else { at }));
        at += written;
    }
    starts.push(escaped.len());
    starts
}

fn hex_unit(escape: &str) -> Option<u32> {
    u32::from_str_radix(escape.get(2..6)?, 16).ok()
}

/// A list of labels from an array of JSON; none where not all of its values are texts or numbers.
fn labels_of_json(values: &[Value]) -> Option<String> {
    let text = |value: &Value| match value {
        Value::Number(number) => Some(number.to_string()),
        value => value.as_str().map(str::to_owned),
    };
    Some(values.iter().map(text).collect::<Option<Vec<_>>>()?.join(" "))
}

/// A list of keywords from an array of JSON; none where not all of its values are texts.
fn keywords_of_json(values: &[Value]) -> Option<String> {
    let texts: Option<Vec<&str>> = values.iter().map(Value::as_str).collect();
    Some(texts?.join(", "))
}

#[cfg(test)]
mod tests;
