//! Pseudo-documents: a passage that the model writes as if it were an entry of the catalogue.
//!
//! For words, Query2doc's composition (Wang, Yang and Wei, arXiv 2303.07678): the query n times, then the passage as it
//! is; a word that the passage repeats counts as often as it stands there. n makes up for the query being short.
//! Where the retriever reads boosts, the query stands once with the boost n.
//!
//! For meaning, HyDE (Gao, Ma, Lin and Callan, arXiv 2212.10496): the mean of the embeddings of the query and of N
//! passages. A retriever takes one text and embeds it by itself, so N is 1, and query and passage stand in one text.

use std::ops::Range;

use crate::joined::{folded, repeated, uncut, weighted};
use querywright_text::boolean::escaped;
use querywright_types::{QueryLanguage, Rewrite};

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
/// [generated terms](crate::Composer::compose).
pub fn compose(language: QueryLanguage, weight: f32, max_words: usize, original: &Rewrite, passage: &str) -> Rewrite {
    let (own, passage) = (folded(&original.text), folded(beginning(passage, max_words)));
    let alone = weight == 0.0 || own.is_empty();
    let is_boolean = [original.language, language].contains(&QueryLanguage::Boolean);
    let passage = if is_boolean { escaped(&passage) } else { passage };
    if passage.is_empty() {
        return original.clone();
    }
    let text = match (language, original.language) {
        _ if alone => passage,
        (_, QueryLanguage::Boolean) => uncut(&format!("({own})^{weight}"), &passage),
        (QueryLanguage::Boolean, _) => uncut(&weighted(&own, weight), &passage),
        (QueryLanguage::Natural, _) => {
            let stop = if own.ends_with(['.', '!', '?']) { "" } else { "." };
            format!("{own}{stop} {passage}")
        }
        _ => repeated(&own, weight, &passage),
    };
    Rewrite::new(text, if is_boolean { QueryLanguage::Boolean } else { language })
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
