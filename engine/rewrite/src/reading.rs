//! A completion as a rewrite, and the rewrites without each of its terms.

use std::ops::Range;

use super::compose::Composer;
use super::parse::{FormatFault, ParsedCompletion};
use super::query_terms::{terms as query_terms, without_term};
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
    /// The generated terms, for credit by counterfactual retrieval. Empty where the format was broken.
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
        let terms = match parsed.broken {
            Some(_) => Vec::new(),
            None => parsed.terms(completion),
        };
        let counterfactual =
            |(index, span)| TermReading { span, without: composer.compose(original, &without_term(generated, index)) };
        let spans = terms.into_iter().map(|term| term.span).take(MAX_COUNTERFACTUALS);
        Self {
            rewrite: Some(composer.compose(original, generated)),
            broken: parsed.broken,
            terms: spans.enumerate().map(counterfactual).collect(),
            generated: query_terms(generated).len().min(composer.max_terms),
        }
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

/// A generated term and the rewrite without it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct TermReading {
    /// Its place in the completion, in bytes.
    pub span: Range<usize>,
    /// The rewrite without it.
    pub without: Rewrite,
}
