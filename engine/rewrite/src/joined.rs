//! Texts put together to one query, within the number of terms that is searched for.

use querywright_text::analysis::Analyzer;
use querywright_text::boolean::escaped;
use querywright_text::query::MOST_TERMS;

/// An original with what is added to it: behind it, or before it where there are so many terms that the last ones are not
/// searched for.
pub(super) fn uncut(original: &str, added: &str) -> String {
    let text = [original, added].join(" ");
    match is_cut(&text) && !added.is_empty() {
        true => [added, original].join(" "),
        false => text.trim().to_owned(),
    }
}

/// A plain original as often as its weight says, with what is added to it. Where there are too many terms, it is there as
/// often as all of it fits, so that its words keep their weights among each other.
pub(super) fn repeated(own: &str, weight: f32, added: &str) -> String {
    let times = weight.round().clamp(1.0, 100.0) as usize;
    let text = uncut(&vec![own; times].join(" "), added);
    if !is_cut(&text) {
        return text;
    }
    let left = MOST_TERMS.saturating_sub(count(added));
    let times = (left / count(own).max(1)).clamp(1, times);
    uncut(&vec![own; times].join(" "), added)
}

/// Whether a text has more than [`MOST_TERMS`] terms. Weights and names of fields count, too: one that has nearly as many
/// may be said to have more.
fn is_cut(text: &str) -> bool {
    // A term has a character, and something between itself and the next, or more bytes.
    text.len() >= 2 * MOST_TERMS && count(text) > MOST_TERMS
}

fn count(text: &str) -> usize {
    Analyzer::english().tokens(text).count()
}

/// The words of a text with a boost, in the Boolean language.
pub(super) fn weighted(own: &str, weight: f32) -> String {
    let words = escaped(own);
    match (words.contains(' '), weight) {
        (_, 1.0) => words,
        _ if words.is_empty() => words,
        (true, weight) => format!("({words})^{weight}"),
        (false, weight) => format!("{words}^{weight}"),
    }
}

/// A text on one line, without white space around it.
pub(super) fn folded(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
