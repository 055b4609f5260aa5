//! A completion as a rewrite, and the rewrites without each of its terms.

use std::ops::Range;

use super::compose::Composer;
use super::config::Mode;
use super::mode::{document_parts, keyword_count, keyword_parts};
use super::parse::{FormatFault, ParsedCompletion};
use super::query_terms::{before_term, terms, without_term};
use querywright_types::Rewrite;

/// Terms of a completion that get a counterfactual rewrite, at most. It bounds the number of retrievals per completion.
const MAX_COUNTERFACTUALS: usize = 16;

/// A completion after parsing and composing.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Reading {
    /// The rewrite; none where the completion holds no query.
    pub rewrite: Option<Rewrite>,
    /// How the format was broken. A rewrite in a broken format is served, but not rewarded.
    pub broken: Option<FormatFault>,
    /// The generated terms, for credit by counterfactual retrieval; in [`Mode::Document`] runs of words. Empty where the
    /// format was broken, and in [`Mode::Choose`] and [`Mode::Rerank`].
    pub terms: Vec<TermReading>,
    /// How many terms were generated, repeated ones included, of those that are used at most. Where the text is composed
    /// of words of the user's beside these, it does not count them.
    pub generated: usize,
}

impl Reading {
    /// Composes the rewrite of a parsed completion and its counterfactuals.
    pub(super) fn new(parsed: &ParsedCompletion, completion: &str, original: &Rewrite, composer: &Composer) -> Self {
        let Some(generated) = &parsed.query else {
            return Self { rewrite: None, broken: parsed.broken, terms: Vec::new(), generated: 0 };
        };
        let parts = match parsed.broken {
            Some(_) => Vec::new(),
            None => parts(generated, composer),
        };
        let within: Vec<Range<usize>> = parts.iter().map(|(span, _)| span.clone()).collect();
        let places = parsed.places(completion, &within).unwrap_or_default();
        let counterfactual = |((index, span), (part, without)): (_, (Range<usize>, String))| TermReading {
            span,
            without: composer.compose(original, &without),
            before: match before(generated, &within, index, composer.mode) {
                nothing if nothing.trim().is_empty() => original.clone(),
                text => composer.compose(original, &text),
            },
            generated: match composer.mode {
                Mode::Document => generated.get(part).map_or(1, |words| words.split_whitespace().count()),
                _ => 1,
            },
        };
        Self {
            rewrite: Some(composer.compose(original, generated)),
            broken: parsed.broken,
            terms: places.into_iter().enumerate().zip(parts).map(counterfactual).collect(),
            generated: count(generated, composer),
        }
    }

    /// A choice was named, or an order, and this is what it makes of the query; none where none was.
    pub(super) fn whole(parsed: &ParsedCompletion, rewrite: Option<Rewrite>) -> Self {
        Self { rewrite, broken: parsed.broken, terms: Vec::new(), generated: 0 }
    }

    /// No word was written, and this is what that means.
    pub(super) fn nothing(rewrite: Rewrite) -> Self {
        Self { rewrite: Some(rewrite), broken: None, terms: Vec::new(), generated: 0 }
    }

    /// The rewrite, where the format was kept: what training rewards.
    pub fn rewarded(&self) -> Option<&Rewrite> {
        self.rewrite.as_ref().filter(|_| self.broken.is_none())
    }
}

/// The parts of what was generated that get credit: the place of each, and the rest without it.
fn parts(generated: &str, composer: &Composer) -> Vec<(Range<usize>, String)> {
    match composer.mode {
        Mode::Document => document_parts(generated, composer.max_terms, MAX_COUNTERFACTUALS),
        Mode::Keywords => keyword_parts(generated, composer.max_terms, MAX_COUNTERFACTUALS),
        _ => {
            let terms = terms(generated).into_iter().take(MAX_COUNTERFACTUALS).enumerate();
            terms.map(|(index, term)| (term.span, without_term(generated, index))).collect()
        }
    }
}

/// What was generated before one of its parts.
fn before(generated: &str, parts: &[Range<usize>], index: usize, mode: Mode) -> String {
    let text = |part: &Range<usize>| generated.get(part.clone()).unwrap_or_default();
    match mode {
        Mode::Document => generated.get(..parts.get(index).map_or(0, |part| part.start)).unwrap_or_default().to_owned(),
        Mode::Keywords => parts.iter().take(index).map(text).collect::<Vec<_>>().join(", "),
        _ => before_term(generated, index),
    }
}

/// How many terms of what was generated are used; of a passage, words.
fn count(generated: &str, composer: &Composer) -> usize {
    let all = match composer.mode {
        Mode::Document => generated.split_whitespace().count(),
        Mode::Keywords => keyword_count(generated),
        _ => terms(generated).len(),
    };
    all.min(composer.max_terms)
}

/// A generated term and the rewrite without it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct TermReading {
    /// Its place in the completion, in bytes.
    pub span: Range<usize>,
    /// The rewrite without it.
    pub without: Rewrite,
    /// The rewrite that ends before it; the first one's is the original.
    pub before: Rewrite,
    /// How many of the [generated terms](Reading::generated) it is: 1, or as many words as a run of a passage has.
    pub generated: usize,
}
