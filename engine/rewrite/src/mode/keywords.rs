//! Lists of keywords and short phrases, as models write them.
//!
//! Asked for a list with commas, models also write semicolons, lines with bullets or numbers, JSON, quotes, and a sentence
//! before it. All of these are read. What is longer than a phrase can be is a row of words without separators.

use std::ops::Range;

use querywright_text::boolean::{escaped, is_quote};
use querywright_types::QueryLanguage;

/// Words of a phrase, at most. A longer one would stand in no document.
const PHRASE_WORDS: usize = 4;

/// What separates the entries of a list.
const SEPARATORS: [char; 12] = [',', ';', '\n', '\r', '\t', '|', '•', '·', '、', '，', '；', '。'];

/// A keyword or a phrase, and its place in the list, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Keyword<'t> {
    text: &'t str,
    span: Range<usize>,
}

/// The first `most` keywords of a list as terms: phrases in quotes, nothing that is an operator. For a retriever of
/// meaning, a list with commas.
pub fn written(list: &str, language: QueryLanguage, most: usize) -> String {
    let mut found = keywords(list);
    found.truncate(most);
    if language == QueryLanguage::Natural {
        return found.iter().map(|keyword| keyword.text).collect::<Vec<_>>().join(", ");
    }
    let term = |keyword: &Keyword<'_>| {
        let words = escaped(keyword.text);
        if words.contains(' ') { format!("\"{words}\"") } else { words }
    };
    found.iter().map(term).collect::<Vec<_>>().join(" ")
}

/// The places of the first `most` keywords, and the list without each. What lies behind the first `max_terms` is not used.
pub fn parts(list: &str, max_terms: usize, most: usize) -> Vec<(Range<usize>, String)> {
    let mut found = keywords(list);
    found.truncate(max_terms);
    let without = |place: usize| {
        let others = found.iter().enumerate().filter(|(other, _)| *other != place);
        others.map(|(_, keyword)| keyword.text).collect::<Vec<_>>().join(", ")
    };
    found.iter().take(most).enumerate().map(|(place, keyword)| (keyword.span.clone(), without(place))).collect()
}

/// How many keywords a list has.
pub fn count(list: &str) -> usize {
    keywords(list).len()
}

/// The entries of a list, in order.
fn keywords(list: &str) -> Vec<Keyword<'_>> {
    let mut found = Vec::new();
    for span in entries(list) {
        let entry = trimmed(list, span);
        let words = words(list, entry.clone());
        if words.len() > PHRASE_WORDS {
            found.extend(words.into_iter().map(|word| trimmed(list, word)));
        } else {
            found.push(entry);
        }
    }
    let keyword = |span: Range<usize>| Keyword { text: list.get(span.clone()).unwrap_or_default(), span };
    found
        .into_iter()
        .map(keyword)
        .filter(|k| !escaped(k.text).is_empty() && k.text.contains(char::is_alphanumeric))
        .collect()
}

/// What stands between separators, without what introduces the list.
fn entries(list: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let after = introduction(list);
    let (mut start, mut before) = (after, None);
    let mut rest = list.char_indices().skip_while(|(at, _)| *at < after).peekable();
    while let Some((at, c)) = rest.next() {
        let digits = [before, rest.peek().map(|next| next.1)].iter().all(|c| c.is_some_and(|c| c.is_ascii_digit()));
        // 1,000 is one number.
        if SEPARATORS.contains(&c) && !(c == ',' && digits) {
            found.push(start..at);
            start = at + c.len_utf8();
        }
        before = Some(c);
    }
    found.push(start..list.len());
    found
}

/// The length of a sentence before the list: up to a colon at the end of its line, or behind a word for keywords.
fn introduction(list: &str) -> usize {
    let line = list.split(['\n', '\r']).next().unwrap_or_default();
    let Some(colon) = line.find(':') else { return 0 };
    let (before, after) = (line.get(..colon).unwrap_or_default(), line.get(colon + 1..).unwrap_or_default());
    let names_it = ["keyword", "key word", "phrase", "terms"].iter().any(|word| before.to_lowercase().contains(word));
    let more_follows = list.get(line.len()..).is_some_and(|rest| !rest.trim().is_empty());
    if names_it || (after.trim().is_empty() && more_follows) { colon + 1 } else { 0 }
}

/// An entry without its bullet or number, its quotes, brackets and punctuation.
fn trimmed(list: &str, span: Range<usize>) -> Range<usize> {
    let around = |c: char| c.is_whitespace() || is_quote(c) || ".:!?…'`()[]{}<>«»*".contains(c);
    let bullet = |c: char| around(c) || "-–—+#".contains(c);
    let mut text = list.get(span.clone()).unwrap_or_default();
    let mut start = span.start;
    loop {
        let inner = text.trim_start_matches(bullet);
        // A number with a point or a bracket behind it, and a space.
        let digits = inner.len() - inner.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let behind = inner.get(digits..).unwrap_or_default();
        let numbered = (1..=2).contains(&digits) && (behind.starts_with(". ") || behind.starts_with(") "));
        let next = if numbered { behind } else { inner };
        start += text.len() - next.len();
        text = next;
        if !numbered {
            break;
        }
    }
    start..start + text.trim_end_matches(around).len()
}

/// The places of the words of an entry.
fn words(list: &str, span: Range<usize>) -> Vec<Range<usize>> {
    let text = list.get(span.clone()).unwrap_or_default();
    let start = |word: &str| span.start + (word.as_ptr() as usize - text.as_ptr() as usize);
    text.split_whitespace().map(|word| start(word)..start(word) + word.len()).collect()
}
