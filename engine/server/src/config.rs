//! What a server listens to and what it allows.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use querywright_types::{Error, Result};

/// Settings of a [`Server`](crate::Server).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct ServerConfig {
    /// The address. Default 127.0.0.1:8080. Any but the machine's own needs keys.
    pub listen: SocketAddr,
    /// A file of keys ([`Keys`](crate::Keys)). Default: none, and whoever reaches the address may ask for everything.
    pub keys: Option<PathBuf>,
    /// Hits of a search that names no number. Default 10.
    pub k: usize,
    /// Milliseconds that a search may take, the wait for its turn included. Default 1,000.
    pub deadline_ms: u64,
    /// Milliseconds that requests under way have to end once the server is told to stop. Default 10,000.
    pub drain_ms: u64,
    /// A folder of runs, whose curves, samples and reports are shown. Default: none.
    pub runs: Option<PathBuf>,
    /// Whether the log quotes what was searched for. Default: it does not.
    pub log_queries: bool,
    /// What a caller may ask for.
    pub limits: LimitsConfig,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            keys: None,
            k: 10,
            deadline_ms: 1000,
            drain_ms: 10_000,
            runs: None,
            log_queries: false,
            limits: LimitsConfig::default(),
        }
    }
}

/// What a caller may ask for. More is refused with a sentence that names the limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct LimitsConfig {
    /// Bytes of a body. Default 1 MiB.
    pub body_bytes: usize,
    /// Bytes of a body of documents. Default 32 MiB.
    pub documents_bytes: usize,
    /// Hits of a search. Default 1,000.
    pub k: usize,
    /// Bytes of a query, and of each earlier turn. Default 8,192.
    pub query_bytes: usize,
    /// Queries of a request, and texts of an embedding's. Default 100.
    pub queries: usize,
    /// Items of a history, earlier turns, and excluded documents, each. Default 1,000.
    pub history: usize,
    /// Tokens of a completion. Default 1,024.
    pub completion_tokens: usize,
    /// Tokens of prompts and completions that a caller may use in a minute; 0 does not count them. Default 0.
    pub tokens_per_minute: u64,
    /// Requests that are worked on at once. Default 64.
    pub concurrent: usize,
    /// Requests that wait for their turn; one more is told to come back. Default 256.
    pub waiting: usize,
    /// Open connections; more wait to be accepted. Default 16,384.
    pub connections: usize,
    /// Milliseconds in which a request's head, and then its body, must be there. Default 10,000.
    pub read_ms: u64,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            body_bytes: 1 << 20,
            documents_bytes: 32 << 20,
            k: 1000,
            query_bytes: 8192,
            queries: 100,
            history: 1000,
            completion_tokens: 1024,
            tokens_per_minute: 0,
            concurrent: 64,
            waiting: 256,
            connections: 16_384,
            read_ms: 10_000,
        }
    }
}

impl ServerConfig {
    /// Checks that every setting has a meaning.
    ///
    /// # Errors
    /// [`Error::Argument`] naming the key.
    pub fn validate(&self) -> Result<()> {
        let limits = &self.limits;
        let positive = [
            ("k", self.k),
            ("deadline_ms", self.deadline_ms as usize),
            ("limits.body_bytes", limits.body_bytes),
            ("limits.documents_bytes", limits.documents_bytes),
            ("limits.k", limits.k),
            ("limits.query_bytes", limits.query_bytes),
            ("limits.queries", limits.queries),
            ("limits.completion_tokens", limits.completion_tokens),
            ("limits.concurrent", limits.concurrent),
            ("limits.connections", limits.connections),
            ("limits.read_ms", limits.read_ms as usize),
        ];
        match positive.iter().find(|(_, value)| *value == 0) {
            Some((key, _)) => Err(Error::argument(*key, "found 0", "give at least 1")),
            None if self.k > limits.k => {
                let found = format!("found {}, and limits.k is {}", self.k, limits.k);
                Err(Error::argument("k", found, "give at most what a caller may ask for"))
            }
            None if limits.documents_bytes > MOST_DOCUMENTS => {
                let found = format!("found {}, and a change is read back as one line", limits.documents_bytes);
                let remedy = format!("give at most {MOST_DOCUMENTS}, and send documents in several changes");
                Err(Error::argument("limits.documents_bytes", found, remedy))
            }
            None if limits.concurrent > MOST_THREADS => {
                let found = format!("found {}, and each is a thread", limits.concurrent);
                Err(Error::argument("limits.concurrent", found, format!("give at most {MOST_THREADS}")))
            }
            None => Ok(()),
        }
    }
}

/// Bytes of a body of documents at most.
const MOST_DOCUMENTS: usize = 60 << 20;

/// Threads of a server at most.
const MOST_THREADS: usize = 4096;
