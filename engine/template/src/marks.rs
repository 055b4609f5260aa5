//! Marks around what others wrote, so that it can be found again in a rendered prompt.
//!
//! They are noncharacters of Unicode, which no text of a user has a use for and which no template changes.

use std::ops::Range;

const OPEN: char = '\u{FDD0}';
const CLOSE: char = '\u{FDD1}';
/// Stands for the request while a model's chat template is rendered.
pub const PLACEHOLDER: char = '\u{FDD2}';

/// Whether a character is one of the marks.
pub fn is_mark(c: char) -> bool {
    matches!(c, OPEN | CLOSE | PLACEHOLDER)
}

/// A value between marks. An empty one stays empty: templates ask whether there is one.
pub fn marked(value: &str) -> String {
    if value.is_empty() { String::new() } else { format!("{OPEN}{value}{CLOSE}") }
}

/// A text without its marks, and the places of what stood between them, in bytes.
pub fn unmarked(text: &str) -> (String, Vec<Range<usize>>) {
    let (mut out, mut places, mut open) = (String::with_capacity(text.len()), Vec::new(), None);
    for c in text.chars() {
        match c {
            OPEN => open = open.or(Some(out.len())),
            CLOSE => places.extend(open.take().map(|start| start..out.len())),
            c => out.push(c),
        }
    }
    // A template that cut the closing mark off has the rest in doubt.
    places.extend(open.map(|start| start..out.len()));
    (out, places)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_marked_is_found_again() {
        let text = format!("Request: {} end {}{}", marked("naïve"), marked(""), marked("x"));
        assert_eq!(unmarked(&text), ("Request: naïve end x".to_owned(), vec![9..15, 20..21]));
        let (text, ranges) = unmarked(&format!("a{OPEN}b"));
        assert_eq!((text.as_str(), ranges.len(), &ranges[0]), ("ab", 1, &(1..2)));
        assert!(marked("a").chars().filter(|c| is_mark(*c)).count() == 2 && is_mark(PLACEHOLDER));
    }
}
