//! What can be pulled, the options of a pull, and its progress.

use serde::Serialize;

/// What a source holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A language model or an encoder: a GGUF file or a Hugging Face folder.
    Model,
    /// A data set folder that the catalogue reads.
    Data,
}

impl Kind {
    pub(super) fn noun(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Data => "data set",
        }
    }
}

/// How to pull.
#[derive(Clone, Copy, Default)]
pub struct PullOptions<'a> {
    /// Use the cache only. Default: false, or true where `HF_HUB_OFFLINE` is set (for the hub).
    pub offline: bool,
    /// Called with each step. Default: none.
    pub progress: Option<&'a dyn Fn(Progress<'_>)>,
}

impl PullOptions<'_> {
    pub(super) fn tell(&self, progress: Progress<'_>) {
        if let Some(listener) = self.progress {
            listener(progress);
        }
    }
}

/// What a pull is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress<'a> {
    /// A step began: a sentence without a full stop.
    Step(&'a str),
    /// Bytes of a file arrived.
    Bytes {
        /// The file.
        file: &'a str,
        /// Bytes so far.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
}
