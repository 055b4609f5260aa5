//! Text that a plugin wrote, made fit for a log line or an error.

/// Characters of a plugin's text that an error quotes.
const LONGEST_EXCERPT: usize = 300;

/// The text with a space in place of each control character, which could rewrite a terminal or forge a line.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The printable beginning of a text, with an ellipsis where it was cut.
pub(super) fn excerpt(text: &str) -> String {
    let mut kept: String = printable(text).chars().take(LONGEST_EXCERPT).collect();
    if kept.len() < text.len() {
        kept.push('…');
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_short_and_has_no_control_characters() {
        assert_eq!(excerpt("a\x1b[31mb\nc"), "a [31mb c");
        assert_eq!(excerpt(&"é".repeat(1000)).chars().count(), LONGEST_EXCERPT + 1);
    }
}
