//! The error of a plugin that cannot be used.

use querywright_types::Error;

/// [`Error::Plugin`]: what was found, and what would be right.
pub(super) fn refusal(name: &str, found: impl Into<String>, remedy: impl Into<String>) -> Error {
    Error::plugin(name, found, remedy)
}
