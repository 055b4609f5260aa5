//! The completions of each step with their rewards.

use std::collections::BTreeMap;

use super::JsonLines;

/// One completion: one line of `completions.jsonl`.
#[derive(Debug, Clone, PartialEq, Default, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct CompletionRecord {
    /// The step, counted from 1.
    pub step: u64,
    /// The query's id.
    pub query_id: String,
    /// The user's query, as it stood in the prompt.
    pub query: String,
    /// What the model wrote.
    pub completion: String,
    /// The rewrite read from it; none where the format was broken.
    pub rewrite: Option<String>,
    /// The reward; none where the environment failed.
    pub reward: Option<f32>,
    /// What each part of the reward contributed.
    pub parts: BTreeMap<String, f32>,
    /// The completion's advantage within its group.
    pub advantage: f32,
    /// Whether it ran into the length limit.
    pub truncated: bool,
}

/// The file of completions.
pub type CompletionsLog = JsonLines<CompletionRecord>;
