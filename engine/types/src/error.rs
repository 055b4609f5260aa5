//! What can go wrong, in one typed error.
//!
//! Every variant names *where* (file and line, configuration key, argument), *what was found* and *what would be
//! right*, so that the sentence a user reads tells them what to do next, and has a short [`code`](Error::code) for
//! programs. The one kind that the trainer treats apart is [`Fault`]: the retriever failed, which is never a reward.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use crate::fault::{Fault, FaultKind};

/// The result of everything fallible in this project.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the library. Cheap enough to clone: a fallback keeps it beside the answer.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to read or write a file.
    #[error("{action} {}: {source}{}", path.display(), io_hint(source))]
    #[non_exhaustive]
    Io {
        /// What was attempted: "cannot read", "cannot write".
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's own error.
        source: Arc<std::io::Error>,
    },
    /// A data file holds something that cannot be used.
    #[error("{}{}: {found}; {remedy}", path.display(), at_line(*line))]
    #[non_exhaustive]
    Data {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1, where there is one.
        line: Option<u64>,
        /// What was found.
        found: String,
        /// What would be right.
        remedy: String,
    },
    /// A value of a configuration or an argument cannot be used.
    #[error("{name}: {found}; {remedy}")]
    #[non_exhaustive]
    Argument {
        /// The key or argument, as the user writes it.
        name: String,
        /// What was found.
        found: String,
        /// What would be right.
        remedy: String,
    },
    /// A model folder, GGUF file, tokenizer or adapter cannot be used.
    #[error("{}: {found}; {remedy}", path.display())]
    #[non_exhaustive]
    Model {
        /// The file or folder.
        path: PathBuf,
        /// What was found.
        found: String,
        /// What would be right.
        remedy: String,
    },
    /// A model or data set could not be fetched.
    #[error("cannot fetch {name}: {found}; {remedy}")]
    #[non_exhaustive]
    Fetch {
        /// The registry name or address.
        name: String,
        /// What was tried and what it answered.
        found: String,
        /// What would help.
        remedy: String,
    },
    /// A language model computed values that are no numbers, so that no answer to the request follows from them.
    #[error("the model computes {found}; {remedy}")]
    #[non_exhaustive]
    NotFinite {
        /// What was computed.
        found: String,
        /// What would help.
        remedy: String,
    },
    /// A plugin cannot be used.
    #[error("plugin {name}: {found}; {remedy}")]
    #[non_exhaustive]
    Plugin {
        /// Its id, or its file's name.
        name: String,
        /// What was found.
        found: String,
        /// What would be right.
        remedy: String,
    },
    /// A GPU cannot be used, or gave up.
    #[error("device {name}: {found}; {remedy}")]
    #[non_exhaustive]
    Device {
        /// As the user writes it: "cuda:0".
        name: String,
        /// What was found.
        found: String,
        /// What would be right.
        remedy: String,
    },
    /// The retriever failed: never a reward, never a ranking.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// A language model's answer broke the format that the prompt asked for.
    #[error("the rewrite has no usable query: {0}")]
    Format(String),
    /// A rewriter broke its contract: it panicked, or gave no answer for a query.
    #[error("rewriter {name}: {found}")]
    #[non_exhaustive]
    Rewriter {
        /// Its name.
        name: String,
        /// What it did.
        found: String,
    },
    /// The time allowed ran out.
    #[error("the deadline of {0:?} passed before a result was ready")]
    Deadline(Duration),
    /// More was asked for at once than may wait.
    #[error("{name} is overloaded: {found}; {remedy}")]
    #[non_exhaustive]
    Overloaded {
        /// What is overloaded: "rewriting".
        name: String,
        /// What was found.
        found: String,
        /// What would help.
        remedy: String,
    },
    /// The program found itself in a state that it rules out. No input should lead here.
    #[error("this is a bug in querywright: {place}: {found}; please report it")]
    #[non_exhaustive]
    Bug {
        /// Where in the program: the module or operation.
        place: &'static str,
        /// What was found there.
        found: String,
    },
}

impl Error {
    /// An unreadable file.
    pub fn read(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Self::Io { action: "cannot read", path: path.as_ref().to_path_buf(), source: Arc::new(source) }
    }

    /// A file that could not be written.
    pub fn write(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Self::Io { action: "cannot write", path: path.as_ref().to_path_buf(), source: Arc::new(source) }
    }

    /// A bad value of a key or an argument.
    pub fn argument(name: impl Into<String>, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Argument { name: name.into(), found: found.into(), remedy: remedy.into() }
    }

    /// A configuration that serde refused. `shown` names its source, `text` is the whole error, with its line, and
    /// `message` the sentence alone: an unknown key in it is answered with the nearest known one.
    pub fn configuration(shown: impl Into<String>, text: &str, message: &str) -> Self {
        let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
        let remedy = match quoted.split_first() {
            Some((unknown, known)) if message.starts_with("unknown field") => {
                match nearest(unknown, known.iter().copied()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("the keys here are {}", known.join(", ")),
                }
            }
            // A number, a date or a truth value in the place of a text.
            _ if message.starts_with("invalid type: ") && message.contains(", expected ") => {
                let texts = message.rsplit(", expected ").next().is_some_and(|right| right.contains("string"));
                if texts { "write the value in quotes, as \"2024\"".into() } else { "correct this line".into() }
            }
            _ => "correct this line".into(),
        };
        Self::argument(shown, text.trim(), remedy)
    }

    /// Bad content of a data file.
    pub fn data(
        path: impl AsRef<Path>,
        line: Option<u64>,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::Data { path: path.as_ref().to_path_buf(), line, found: found.into(), remedy: remedy.into() }
    }

    /// An unusable model, tokenizer or adapter.
    pub fn model(path: impl AsRef<Path>, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Model { path: path.as_ref().to_path_buf(), found: found.into(), remedy: remedy.into() }
    }

    /// Values that are no numbers where a model must compute some.
    pub fn not_finite(found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::NotFinite { found: found.into(), remedy: remedy.into() }
    }

    /// A model or data set that could not be fetched.
    pub fn fetch(name: impl Into<String>, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Fetch { name: name.into(), found: found.into(), remedy: remedy.into() }
    }

    /// An unusable plugin.
    pub fn plugin(name: impl Into<String>, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Plugin { name: name.into(), found: found.into(), remedy: remedy.into() }
    }

    /// A rewriter that broke its contract.
    pub fn rewriter(name: impl Into<String>, found: impl Into<String>) -> Self {
        Self::Rewriter { name: name.into(), found: found.into() }
    }

    /// More at once than may wait.
    pub fn overloaded(name: impl Into<String>, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Overloaded { name: name.into(), found: found.into(), remedy: remedy.into() }
    }

    /// An unusable device.
    pub fn device(name: impl Into<String>, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Device { name: name.into(), found: found.into(), remedy: remedy.into() }
    }

    /// A state that the program rules out, reported instead of answered wrongly.
    pub fn bug(place: &'static str, found: impl Into<String>) -> Self {
        Self::Bug { place, found: found.into() }
    }

    /// A short word for what sort of error this is, for programs, metrics and logs: "argument", "deadline", and for a
    /// [`Fault`] the code of its [kind](FaultKind::code). Codes stay what they are from version to version.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Io { .. } => "io",
            Self::Data { .. } => "data",
            Self::Argument { .. } => "argument",
            Self::Model { .. } => "model",
            Self::Fetch { .. } => "fetch",
            Self::NotFinite { .. } => "not_finite",
            Self::Plugin { .. } => "plugin",
            Self::Device { .. } => "device",
            Self::Fault(Fault { kind, .. }) => kind.code(),
            Self::Format(_) => "format",
            Self::Rewriter { .. } => "rewriter",
            Self::Deadline(_) => "deadline",
            Self::Overloaded { .. } => "overloaded",
            Self::Bug { .. } => "bug",
        }
    }

    /// A fixed sentence for this sort of error, beside its [code](Error::code): what somebody outside may read. It names no
    /// path and no address, and quotes nobody; the error's own text is for the log.
    pub fn summary(&self) -> &'static str {
        match self {
            Self::Io { .. } => "a file could not be read or written",
            Self::Data { .. } => "a data file cannot be used",
            Self::Argument { .. } => "the request cannot be used as it is",
            Self::Model { .. } => "the model cannot be used",
            Self::Fetch { .. } => "the model or data set could not be fetched",
            Self::NotFinite { .. } => "the model computed no number",
            Self::Plugin { .. } => "the plugin cannot be used",
            Self::Device { .. } => "the device that the model runs on failed",
            Self::Fault(Fault { kind, .. }) => kind.summary(),
            Self::Format(_) => "the model's answer holds no query",
            Self::Rewriter { .. } => "the rewriter failed",
            Self::Deadline(_) => "the time allowed ran out",
            Self::Overloaded { .. } => "more was asked for at once than may wait",
            Self::Bug { .. } => "the program failed",
        }
    }

    /// Whether the retriever failed (so that the sample must be dropped, not scored).
    pub fn is_fault(&self) -> bool {
        matches!(self, Self::Fault(_))
    }

    /// Whether the time allowed ran out, here or at the retriever.
    pub fn is_deadline(&self) -> bool {
        matches!(self, Self::Deadline(_) | Self::Fault(Fault { kind: FaultKind::Timeout, .. }))
    }
}

/// The nearest of `known` to `word`, for "did you mean" sentences; none when nothing is close.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|k| (edit_distance(word, k), k))
        .filter(|(d, k)| *d <= 1 + k.chars().count() / 3)
        .min_by_key(|(d, _)| *d)
        .map(|(_, k)| k)
}

/// "did you mean X? " with the nearest of `known`, for a remedy to begin with; empty where nothing is close.
pub fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, known).map_or(String::new(), |near| format!("did you mean {near}? "))
}

/// Levenshtein distance over characters.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

fn at_line(line: Option<u64>) -> String {
    line.map_or(String::new(), |l| format!(":{l}"))
}

fn io_hint(source: &std::io::Error) -> &'static str {
    match source.kind() {
        std::io::ErrorKind::StorageFull => "; free some space and run it again, nothing that was complete is lost",
        std::io::ErrorKind::PermissionDenied => "; check who owns it",
        std::io::ErrorKind::NotFound => "; check the path",
        std::io::ErrorKind::IsADirectory => "; name a file, this is a folder",
        std::io::ErrorKind::NotADirectory => "; name a folder, a part of the path is a file",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_suggests_a_typo_and_refuses_a_stranger() {
        assert_eq!(nearest("learning_rte", ["learning_rate", "seed"]), Some("learning_rate"));
        assert_eq!(nearest("zzzzzz", ["learning_rate", "seed"]), None);
    }

    #[test]
    fn an_unknown_key_is_answered_with_the_nearest_known_one_or_with_all() {
        let refused = |key: &str| {
            let message = format!("unknown field `{key}`, expected `seed` or `max_steps`");
            Error::configuration("x.toml", &format!("line 1\n{message}\n"), &message).to_string()
        };
        assert_eq!(
            refused("sed").lines().last().unwrap(),
            "unknown field `sed`, expected `seed` or `max_steps`; did you mean `seed`?"
        );
        assert!(refused("zzzzzz").ends_with("; the keys here are seed, max_steps"));
        let error = Error::configuration("x.toml", "line 1: expected a number", "expected a number");
        assert_eq!(error.to_string(), "x.toml: line 1: expected a number; correct this line");
    }

    #[test]
    fn a_number_in_the_place_of_a_text_is_answered_with_quotes_and_the_other_way_round_is_not() {
        let remedy = |message: &str| Error::configuration("x.toml", message, message).to_string();
        assert!(
            remedy("invalid type: integer `2024`, expected path string")
                .ends_with("; write the value in quotes, as \"2024\"")
        );
        assert!(remedy("invalid type: string \"many\", expected u64").ends_with("; correct this line"));
    }

    #[test]
    fn what_may_be_said_outside_quotes_nothing_of_the_error() {
        let secret = "http://10.0.0.7/v1 said: key=abc";
        for error in [
            Error::rewriter(secret, secret),
            Error::fetch(secret, secret, secret),
            Error::Format(secret.into()),
            Error::read(secret, std::io::Error::other(secret)),
            Fault::new(secret, FaultKind::Network, secret).into(),
        ] {
            let outside = error.summary();
            assert!(!outside.is_empty() && secret.split(' ').all(|word| !outside.contains(word)), "{outside}");
        }
    }

    #[test]
    fn a_full_disk_says_what_to_do() {
        let e = Error::write("/x/y", std::io::Error::from(std::io::ErrorKind::StorageFull));
        assert!(e.to_string().contains("free some space"), "{e}");
    }

    #[test]
    fn a_bug_names_its_place_and_asks_for_a_report() {
        let e = Error::bug("packed matrix", "a column of 3 values, 4 expected");
        let said = "this is a bug in querywright: packed matrix: a column of 3 values, 4 expected; please report it";
        assert_eq!(e.to_string(), said);
    }
}
