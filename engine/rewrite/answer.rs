//! Reading answers: never a hard failure, always either a query or the way in which the format was broken.

use std::ops::Range;

use super::prompt::{Mode, PromptStyle, Prompter};
use crate::types::{Query, QueryLanguage, Rewrite};

/// In what way an answer broke the format.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FormatFault {
    /// Nothing searchable was said.
    Empty,
    /// This tag is not there.
    MissingTag(&'static str),
    /// This tag is there more than once.
    RepeatedTag(&'static str),
    /// The tags are not in the order think, /think, answer, /answer.
    TagOrder,
    /// The answer tag does not hold JSON.
    NotJson,
    /// The JSON has no key `query` with a text.
    NoQuery,
}

impl std::fmt::Display for FormatFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Empty => write!(f, "nothing searchable was said"),
            Self::MissingTag(tag) => write!(f, "{tag} is missing"),
            Self::RepeatedTag(tag) => write!(f, "{tag} stands more than once"),
            Self::TagOrder => write!(f, "the tags are out of order"),
            Self::NotJson => write!(f, "the answer holds no JSON"),
            Self::NoQuery => write!(f, "the answer's JSON has no text under \"query\""),
        }
    }
}

/// What was made of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// The rewrite; none where the format was broken.
    pub rewrite: Option<Rewrite>,
    /// How the format was broken.
    pub fault: Option<FormatFault>,
    /// The generated terms, each once, in the order in which they were said.
    pub terms: Vec<TermReading>,
}

/// A generated term.
#[derive(Debug, Clone, PartialEq)]
pub struct TermReading {
    /// Where it was said, in bytes of the completion.
    pub span: Range<usize>,
    /// The rewrite that would have been made without it.
    pub without: Rewrite,
}

/// Terms whose worth is asked for at most.
const TERMS: usize = 16;

impl Prompter {
    /// Reads a completion.
    pub fn read(&self, query: &Query, completion: &str) -> Reading {
        let found = match self.config.style {
            PromptStyle::FewShot | PromptStyle::Chat => first_line(completion),
            PromptStyle::ThinkAnswer => think_answer(completion),
        };
        let (text, offset) = match found {
            Ok(found) => found,
            Err(fault) => return Reading { rewrite: None, fault: Some(fault), terms: Vec::new() },
        };
        let words = words(&text, self.config.max_words);
        if words.is_empty() {
            return Reading { rewrite: None, fault: Some(FormatFault::Empty), terms: Vec::new() };
        }
        let kept = words.last().map_or(0, |w| w.end);
        let rewrite = self.compose(query, &text[..kept], &words.iter().map(|w| &text[w.clone()]).collect::<Vec<_>>());
        let terms = offset.map_or_else(Vec::new, |offset| self.terms(query, &text[..kept], &words, offset));
        Reading { rewrite: Some(rewrite), fault: None, terms }
    }

    fn terms(&self, query: &Query, text: &str, words: &[Range<usize>], offset: usize) -> Vec<TermReading> {
        let mut seen: Vec<String> = Vec::new();
        let mut terms = Vec::new();
        for word in words {
            let folded = text[word.clone()].to_lowercase();
            if seen.contains(&folded) || terms.len() >= TERMS {
                continue;
            }
            let rest: Vec<Range<usize>> =
                words.iter().filter(|w| text[(*w).clone()].to_lowercase() != folded).cloned().collect();
            let mut cut = String::with_capacity(text.len());
            let mut at = 0;
            for gone in words.iter().filter(|w| text[(*w).clone()].to_lowercase() == folded) {
                cut.push_str(&text[at..gone.start]);
                at = gone.end;
            }
            cut.push_str(&text[at..]);
            let without = if rest.is_empty() {
                Rewrite::plain(query.text.clone())
            } else {
                self.compose(query, cut.trim(), &rest.iter().map(|w| &text[w.clone()]).collect::<Vec<_>>())
            };
            terms.push(TermReading { span: word.start + offset..word.end + offset, without });
            seen.push(folded);
        }
        terms
    }

    /// The rewrite that a generated text makes of a query.
    fn compose(&self, query: &Query, text: &str, generated: &[&str]) -> Rewrite {
        match self.config.mode {
            Mode::Rewrite => Rewrite { text: text.trim().to_owned(), language: self.language },
            Mode::Expand => {
                let weighted = self.card.languages.contains(&QueryLanguage::Boolean);
                expand(&query.text, generated, self.config.original_weight, weighted)
            }
        }
    }
}

/// The original words and the new ones, each once. With weights where the retriever reads them, else the original is
/// repeated.
fn expand(original: &str, generated: &[&str], weight: f32, weighted: bool) -> Rewrite {
    let original: Vec<&str> = words(original, usize::MAX).into_iter().map(|w| &original[w]).collect();
    let mut seen: Vec<String> = original.iter().map(|w| w.to_lowercase()).collect();
    let mut fresh = Vec::new();
    for word in generated {
        let folded = word.to_lowercase();
        if !seen.contains(&folded) {
            fresh.push(folded.clone());
            seen.push(folded);
        }
    }
    if weighted && weight != 1.0 {
        let old = original.iter().map(|w| format!("{}^{weight}", w.to_lowercase()));
        return Rewrite { text: old.chain(fresh).collect::<Vec<_>>().join(" "), language: QueryLanguage::Boolean };
    }
    let copies = if weighted { 1 } else { (weight.round() as usize).clamp(1, 16) };
    let old = std::iter::repeat_n(original.iter().map(|w| (*w).to_owned()), copies).flatten();
    Rewrite::plain(old.chain(fresh).collect::<Vec<_>>().join(" "))
}

/// The byte ranges of the first words (runs of letters and digits, inner apostrophes included).
fn words(text: &str, limit: usize) -> Vec<Range<usize>> {
    let mut words = Vec::new();
    let mut start = None;
    for (at, c) in text.char_indices().chain([(text.len(), ' ')]) {
        match (c.is_alphanumeric() || c == '\'', start) {
            (true, None) => start = Some(at),
            (false, Some(from)) => {
                if words.len() == limit {
                    break;
                }
                if text[from..at].chars().any(char::is_alphanumeric) {
                    words.push(from..at);
                }
                start = None;
            }
            _ => {}
        }
    }
    words
}

/// A text and where it stands in the completion (nowhere literally, where JSON escapes were undone).
type Found = Result<(String, Option<usize>), FormatFault>;

fn first_line(completion: &str) -> Found {
    let line = completion.trim_start();
    let offset = completion.len() - line.len();
    let line = line.lines().next().unwrap_or_default().trim_end();
    if line.is_empty() {
        return Err(FormatFault::Empty);
    }
    Ok((line.to_owned(), Some(offset)))
}

/// Each of the four tags exactly once and in order, the answer holding JSON with a text under `query`. The closing
/// answer tag may be missing at the very end: it is the stop string.
fn think_answer(completion: &str) -> Found {
    let mut at = [0; 4];
    let tags = ["<think>", "</think>", "<answer>", "</answer>"];
    for (slot, tag) in at.iter_mut().zip(tags) {
        let mut places = completion.match_indices(tag);
        match (places.next(), places.next()) {
            (Some((place, _)), None) => *slot = place,
            (None, _) if tag == "</answer>" => *slot = completion.len(),
            (None, _) => return Err(FormatFault::MissingTag(tag)),
            (Some(_), Some(_)) => return Err(FormatFault::RepeatedTag(tag)),
        }
    }
    if !at.is_sorted() {
        return Err(FormatFault::TagOrder);
    }
    let inside = &completion[at[2] + "<answer>".len()..at[3]];
    let value: serde_json::Value = serde_json::from_str(inside.trim()).map_err(|_| FormatFault::NotJson)?;
    let query = value.get("query").and_then(|q| q.as_str()).ok_or(FormatFault::NoQuery)?;
    let offset = inside.find(query).map(|o| at[2] + "<answer>".len() + o);
    Ok((query.to_owned(), offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_is_the_answer_and_an_empty_one_is_broken() {
        assert_eq!(first_line("  red shoes \nmore"), Ok(("red shoes".into(), Some(2))));
        assert_eq!(first_line(" \n "), Err(FormatFault::Empty));
    }

    #[test]
    fn think_answer_takes_each_tag_exactly_once_and_in_order() {
        let ok = "<think>hm</think> <answer>{\"query\": \"red shoes\"}</answer>";
        assert_eq!(think_answer(ok), Ok(("red shoes".into(), Some(38))));
        assert_eq!(&ok[38..47], "red shoes");
        assert_eq!(think_answer(ok.strip_suffix("</answer>").unwrap()).unwrap().0, "red shoes");
        for (text, fault) in [
            ("<answer>{}</answer>", FormatFault::MissingTag("<think>")),
            ("<think><think></think><answer>{}</answer>", FormatFault::RepeatedTag("<think>")),
            ("</think><think><answer>{}</answer>", FormatFault::TagOrder),
            ("<think></think><answer>red</answer>", FormatFault::NotJson),
            ("<think></think><answer>{\"q\": 1}</answer>", FormatFault::NoQuery),
            ("<think></think><answer>{\"query\": 1}</answer>", FormatFault::NoQuery),
        ] {
            assert_eq!(think_answer(text), Err(fault), "{text}");
        }
    }

    #[test]
    fn an_expansion_holds_every_word_once_and_weights_the_original() {
        let plain = expand("Red shoes", &["red", "running", "Running", "sneakers"], 2.0, false);
        assert_eq!(plain, Rewrite::plain("Red shoes Red shoes running sneakers"));
        let weighted = expand("Red shoes", &["sneakers"], 2.0, true);
        assert_eq!(weighted, Rewrite { text: "red^2 shoes^2 sneakers".into(), language: QueryLanguage::Boolean });
    }

    #[test]
    fn words_are_cut_at_anything_that_is_no_letter_or_digit() {
        let text = "anti-fatigue mat, 2'' (kid's)";
        let found: Vec<&str> = words(text, 10).into_iter().map(|w| &text[w]).collect();
        assert_eq!(found, ["anti", "fatigue", "mat", "2''", "kid's"]);
        assert_eq!(words(text, 2).len(), 2);
        assert!(words("-- ' !!", 10).is_empty());
    }

    proptest::proptest! {
        #[test]
        fn no_text_breaks_the_reader(text in "(<think>|</think>|<answer>|</answer>|\\PC|\\n){0,40}") {
            let _ = think_answer(&text);
            let _ = first_line(&text);
            for word in words(&text, 8) {
                proptest::prop_assert!(!text[word].is_empty());
            }
        }
    }
}
