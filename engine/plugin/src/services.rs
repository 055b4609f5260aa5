//! What the embedder provides behind the host interfaces: a log, a text encoder, artifacts.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::capability::Capabilities;
use querywright_types::{Deadline, Result};

/// The level of a line of a plugin's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum LogLevel {
    /// Something failed.
    Error,
    /// Something looks wrong.
    Warn,
    /// Something happened.
    Info,
    /// Something that only the author of the plugin needs.
    Debug,
}

/// Receives a plugin's log: its id, the level and a line without control characters, bidirectional controls and other
/// characters that show nothing.
pub type LogSink = Arc<dyn Fn(&str, LogLevel, &str) + Send + Sync>;

/// What a text is: encoders know documents and queries apart by what stands before them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextRole {
    /// What is found.
    Document,
    /// What is searched for.
    Query,
}

/// A text encoder that plugins may call. `querywright::encode::Encoder` is one.
///
/// It runs on threads that the encoders of all plugins share, as many as there are processors. Once a call's time is over
/// nobody waits for it any more; it ends by itself if it looks at its deadline.
pub trait TextEncoder: Send + Sync {
    /// The number of elements of every vector.
    fn dimensions(&self) -> usize;

    /// A digest of all that decides the vectors: two encoders of one digest give the same ones. It becomes part of a
    /// plugin's digest, and of the key under which a compiled plugin is kept. Default: none is known, so that plugins which
    /// may use it are not kept.
    fn digest(&self) -> Option<String> {
        None
    }

    /// One vector of Euclidean length 1 for each text, in the order of the texts. The vector of a query must not depend on
    /// the texts beside it. A text has 64 KiB at most.
    ///
    /// # Errors
    /// Why there are none. The plugin reads [`Error::summary`](querywright_types::Error::summary), the log has the whole.
    fn encode(&self, texts: &[String], role: TextRole, deadline: Deadline) -> Result<Vec<Vec<f32>>>;
}

/// What the host interfaces use. Default: nothing. Then logs are dropped, and the other interfaces are denied even if
/// they were granted.
#[derive(Clone, Default)]
pub struct Services {
    /// Where logs go: lines of plugins to which logging was granted, and what a plugin says about a fault where the fault
    /// itself must not quote it.
    pub log: Option<LogSink>,
    /// The encoder behind `embed`.
    pub encoder: Option<Arc<dyn TextEncoder>>,
    /// The bytes behind `artifact`, by name.
    pub artifacts: BTreeMap<String, Arc<[u8]>>,
}

impl Services {
    /// The encoder that a plugin may use: one that was granted, and is there.
    pub(super) fn encoder(&self, capabilities: &Capabilities) -> Option<&Arc<dyn TextEncoder>> {
        self.encoder.as_ref().filter(|_| capabilities.embed)
    }
}

impl std::fmt::Debug for Services {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let artifacts: Vec<&String> = self.artifacts.keys().collect();
        f.debug_struct("Services")
            .field("log", &self.log.is_some())
            .field("encoder", &self.encoder.is_some())
            .field("artifacts", &artifacts)
            .finish()
    }
}
