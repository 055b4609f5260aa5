//! The section `conversation`: how much of what was said before stands in a prompt.

use serde::{Deserialize, Serialize};

/// How much of a conversation stands in a prompt, in [`Task::Conversation`](super::Task::Conversation). Unknown keys are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConversationConfig {
    /// Earlier turns in a prompt, at most; the last ones are kept. Default: 8.
    pub max_turns: usize,
    /// Tokens of the earlier turns together, at most; the oldest are left out, and never the request itself. For a server,
    /// whose tokenizer is not known, four characters each. Default: 256.
    pub max_tokens: usize,
}

impl Default for ConversationConfig {
    fn default() -> Self {
        Self { max_turns: 8, max_tokens: 256 }
    }
}

impl ConversationConfig {
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
