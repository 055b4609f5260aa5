//! The error of a plugin that cannot be used.

use querywright_types::Error;

use super::sanitize::{beginning, excerpt};

/// Characters of a reason that an error keeps. The host's own sentences are shorter; a compiler's message may quote the
/// component at any length.
const LONGEST_REASON: usize = 1000;

/// [`Error::Plugin`]: what was found, and what would be right. Names and reasons may hold text of the component, so they
/// are made printable here.
pub(super) fn refusal(name: &str, found: impl AsRef<str>, remedy: impl AsRef<str>) -> Error {
    let [found, remedy] = [found.as_ref(), remedy.as_ref()].map(|text| beginning(text, LONGEST_REASON));
    Error::plugin(excerpt(name), found, remedy)
}

#[cfg(test)]
mod tests {
    use super::refusal;

    #[test]
    fn a_component_that_is_named_like_a_line_of_the_log_stays_one_line() {
        let forged = "a\u{1b}[2K\rplugin bank: ok\n\u{202e}";
        let said = refusal(forged, format!("it imports {forged}"), "leave it out").to_string();
        assert!(!said.chars().any(|c| c.is_control() || c == '\u{202e}'), "{said:?}");
        assert!(refusal("a", "x".repeat(1 << 20), "").to_string().len() < 1100);
    }
}
