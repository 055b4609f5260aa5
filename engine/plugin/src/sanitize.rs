//! Text that a plugin wrote, made fit for a log line or an error, and short.

pub(super) use querywright_types::printable;

/// Characters of a plugin's text that an error quotes.
const LONGEST_EXCERPT: usize = 300;

/// The printable beginning of a text, with an ellipsis where it was cut.
pub(super) fn excerpt(text: &str) -> String {
    beginning(text, LONGEST_EXCERPT)
}

/// The first `most` characters of a text, printable, with an ellipsis where it was cut.
pub(super) fn beginning(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => printable(&text[..end]) + "…",
        None => printable(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_short_and_has_no_control_characters() {
        assert_eq!(excerpt("a\x1b[31mb\nc"), "a [31mb c");
        assert_eq!(excerpt(&"é".repeat(1000)).chars().count(), LONGEST_EXCERPT + 1);
        assert_eq!(excerpt(&"\u{7}".repeat(LONGEST_EXCERPT)), " ".repeat(LONGEST_EXCERPT), "not cut");
    }
}
