//! What can be pulled, and the options of a pull.

use querywright_types::{Observe, Progress};
use serde::Serialize;

/// What a source holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
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

/// What a thing of the Hugging Face hub was fetched as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Origin {
    /// `owner/name`.
    pub repository: String,
    /// The commit.
    pub revision: String,
}

/// How to pull.
#[derive(Clone, Copy, Default)]
pub struct PullOptions<'a> {
    /// Use the cache only. Default: false, or true where `HF_HUB_OFFLINE` is set (for the hub).
    pub offline: bool,
    /// Is told when a step begins, and how many bytes of a file arrived. Default: nobody.
    pub observer: Option<&'a dyn Observe>,
}

impl std::fmt::Debug for PullOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PullOptions").field("offline", &self.offline).finish_non_exhaustive()
    }
}

impl PullOptions<'_> {
    pub(super) fn tell(&self, progress: Progress<'_>) {
        if let Some(observer) = self.observer {
            observer.progress(progress);
        }
    }
}
