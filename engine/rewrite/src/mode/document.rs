//! Pseudo-documents: a passage that the model writes as if it were an entry of the catalogue.
//!
//! For words, Query2doc's composition (Wang, Yang and Wei, arXiv 2303.07678): the query n times, then the passage as it
//! is; a word that the passage repeats counts as often as it stands there. n makes up for the query being short.
//! Where the retriever reads boosts, the query stands once with the boost n.
//!
//! For meaning, HyDE (Gao, Ma, Lin and Callan, arXiv 2212.10496): the mean of the embeddings of the query and of N
//! passages. A retriever takes one text and embeds it by itself, so N is 1, and query and passage stand in one text.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::compose::{Composer, folded, repeated, uncut, weighted};
use crate::mode::Mode;
use crate::prompt::PromptConfig;
use querywright_text::boolean::escaped;
use querywright_types::{Error, QueryLanguage, Result, Rewrite};

/// Tokens of a passage in the baselines, at most.
const PASSAGE_TOKENS: usize = 128;

/// How a passage becomes a query, in [`Mode::Document`]. Unknown keys are refused.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DocumentConfig {
    /// How often a word of the query counts against one of the passage (Query2doc's n): a boost where the retriever reads
    /// boosts, otherwise a number of repetitions. For a retriever of meaning the query stands once before the passage,
    /// whatever the number. With 0 the passage stands alone. From 0 to 100. Default: 5.
    pub query_weight: f32,
    /// Words of a passage that are used, at most, the first ones. In the place of
    /// [`max_terms`](PromptConfig::max_terms). Default: 128.
    pub max_words: usize,
}

impl Default for DocumentConfig {
    fn default() -> Self {
        Self { query_weight: 5.0, max_words: 128 }
    }
}

impl DocumentConfig {
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn validate(&self) -> Result<()> {
        if !(0.0..=100.0).contains(&self.query_weight) {
            let (found, remedy) = (self.query_weight.to_string(), "give a number from 0, the passage alone, to 100");
            return Err(Error::argument("prompt.document.query_weight", found, remedy));
        }
        if self.max_words == 0 {
            return Err(Error::argument("prompt.document.max_words", "0", "give at least 1"));
        }
        Ok(())
    }
}

impl PromptConfig {
    /// The zero-shot baseline of Query2doc: a passage behind five times the query, for a retriever of words.
    pub fn query2doc() -> Self {
        Self { mode: Mode::Document, max_answer_tokens: PASSAGE_TOKENS, ..Self::default() }
    }

    /// The zero-shot baseline of HyDE, with one passage, which weighs as much as the query: for a retriever of meaning.
    pub fn hyde() -> Self {
        let document = DocumentConfig { query_weight: 1.0, ..DocumentConfig::default() };
        Self { document, ..Self::query2doc() }
    }
}

/// The text for the retriever of a query and a passage.
///
/// | language | text |
/// |---|---|
/// | Boolean | `(query)^n passage`, the passage's words without operators |
/// | plain | the query n times (rounded), the passage |
/// | natural | the query, a full stop, the passage |
/// | a base | `(base)^n passage`, in the Boolean language |
///
/// Of more terms than a query may have, those of the passage come first, as with
/// [generated terms](Composer::compose).
pub fn compose(composer: &Composer, original: &Rewrite, passage: &str) -> Rewrite {
    let (own, passage) = (folded(&original.text), folded(beginning(passage, composer.max_terms)));
    let weight = composer.original_weight;
    let alone = weight == 0.0 || own.is_empty();
    let is_boolean = [original.language, composer.language].contains(&QueryLanguage::Boolean);
    let passage = if is_boolean { escaped(&passage) } else { passage };
    if passage.is_empty() {
        return original.clone();
    }
    let text = match (composer.language, original.language) {
        _ if alone => passage,
        (_, QueryLanguage::Boolean) => uncut(&format!("({own})^{weight}"), &passage),
        (QueryLanguage::Boolean, _) => uncut(&weighted(&own, weight), &passage),
        (QueryLanguage::Natural, _) => {
            let stop = if own.ends_with(['.', '!', '?']) { "" } else { "." };
            format!("{own}{stop} {passage}")
        }
        _ => repeated(&own, weight, &passage),
    };
    Rewrite::new(text, if is_boolean { QueryLanguage::Boolean } else { composer.language })
}

/// The parts of a passage that get credit, at most `most` of them, of one length: the place of each, and the passage
/// without it. What a retriever does not get to see has none.
pub fn parts(passage: &str, max_words: usize, most: usize) -> Vec<(Range<usize>, String)> {
    let passage = beginning(passage, max_words);
    let words = words(passage);
    let length = words.len().div_ceil(most.max(1)).max(1);
    let part = |words: &[Range<usize>]| {
        let place = words.first()?.start..words.last()?.end;
        let (before, after) = (passage.get(..place.start)?, passage.get(place.end..)?);
        Some((place, folded(&format!("{before} {after}"))))
    };
    words.chunks(length).filter_map(part).collect()
}

/// The beginning of a text that has its first `most` words.
fn beginning(text: &str, most: usize) -> &str {
    let end = words(text).get(..most).and_then(<[_]>::last).map_or(text.len(), |last| last.end);
    text.get(..end).unwrap_or(text)
}

/// The places of runs without white space, in bytes.
fn words(text: &str) -> Vec<Range<usize>> {
    let start = |word: &str| word.as_ptr() as usize - text.as_ptr() as usize;
    text.split_whitespace().map(|word| start(word)..start(word) + word.len()).collect()
}
