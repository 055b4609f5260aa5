//! A rendered prompt, as text. What turns it into tokens or into a request of a server is not known here.

use serde::Serialize;

/// The input of a language model.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Prompt {
    /// A text to complete: `prefix` followed by `query`. The prefix is the same for every query, so its keys and values
    /// are computed once. The cut lies before the blank line between the two, where byte-level BPE tokenizers cut too.
    Completion {
        /// Instruction and examples.
        prefix: String,
        /// The request, up to where the answer begins.
        query: String,
    },
    /// A conversation for the model's chat template. All messages but the last are the same for every query.
    Chat {
        /// Instruction, examples, request.
        messages: Vec<ChatMessage>,
    },
}

/// One message of a conversation. Its JSON is that of OpenAI's chat completions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChatMessage {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
}

impl ChatMessage {
    /// A message of `role`.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into() }
    }
}

/// Who speaks in a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Role {
    /// The instruction.
    System,
    /// A request.
    User,
    /// An answer.
    Assistant,
}

impl Role {
    /// The name in chat templates and in JSON: "system", "user" or "assistant".
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}
