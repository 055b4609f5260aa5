//! What the embedder provides behind the host interfaces: a log, a text encoder, artifacts.

use std::collections::BTreeMap;
use std::sync::Arc;

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

/// A text encoder that plugins may call.
pub trait TextEncoder: Send + Sync {
    /// The number of elements of every vector.
    fn dimensions(&self) -> usize;

    /// One vector of Euclidean length 1 for each text, in the order of the texts.
    ///
    /// # Errors
    /// Why there are none, in a sentence.
    fn encode(&self, texts: &[String]) -> Result<Vec<Vec<f32>>, String>;
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
