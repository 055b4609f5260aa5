//! Rewriting queries: from the user's query to a text for the retriever.
//!
//! A [`Prompter`] renders prompts from the retriever's card, reads completions and composes rewrites, all as text. It
//! needs neither a model nor a network. [`PromptEncoder`] does the same in the tokens of one model, for
//! [`LanguageModel`] and for training. [`Remote`] asks a server. [`Identity`] returns the query unchanged.

mod compose;
mod encoder;
mod identity;
mod language_model;
mod parse;
mod prompt;
mod prompter;
mod query_terms;
mod reading;
mod remote;

pub use compose::{Composer, Mode};
pub use encoder::PromptEncoder;
pub use identity::Identity;
pub use language_model::LanguageModel;
pub use parse::{FormatFault, ParsedCompletion};
pub use prompt::{ChatMessage, Example, Prompt, PromptConfig, PromptStyle, Role, Task};
pub use prompter::{Prompter, Titles};
pub use query_terms::{QueryTerm, terms, without_term};
pub use reading::{Reading, TermReading};
pub use remote::{Remote, RemoteConfig};
