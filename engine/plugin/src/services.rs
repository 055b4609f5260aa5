//! What the embedder provides behind the host interfaces.

use std::collections::BTreeMap;
use std::sync::Arc;

/// How important a line of a plugin's log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Something failed.
    Error,
    /// Something is not as it should be.
    Warn,
    /// Something happened.
    Info,
    /// Only its author wants to know.
    Debug,
}

/// Takes a plugin's log: its id, the level and the line, without control characters.
pub type LogSink = Arc<dyn Fn(&str, LogLevel, &str) + Send + Sync>;

/// A text encoder that plugins may call.
pub trait TextEncoder: Send + Sync {
    /// The length of every vector.
    fn dimensions(&self) -> usize;

    /// One vector a text, of length 1, in the order of the texts; or why not, in a sentence.
    fn encode(&self, texts: &[String]) -> Result<Vec<Vec<f32>>, String>;
}

/// What stands behind the host interfaces. Default: nothing, so that a plugin's log goes nowhere and what it asks for is
/// denied even where it was granted.
#[derive(Clone, Default)]
pub struct Services {
    /// Where logs go.
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
