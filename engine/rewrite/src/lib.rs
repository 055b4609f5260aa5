//! Rewriting queries: from the user's query to a text for the retriever.
//!
//! A [`Prompter`] renders prompts from the retriever's card, reads completions and composes rewrites, all as text. It
//! needs neither a model nor a network. With the feature `model`, `PromptEncoder` does the same in the tokens of one
//! model, for `LanguageModel` and for training. With the feature `remote`, `Remote` asks a server.
#![deny(missing_docs, missing_debug_implementations)]

mod base;
mod candidates;
mod compose;
mod config;
#[cfg(feature = "model")]
mod encoder;
mod joined;
#[cfg(feature = "model")]
mod language_model;
mod mode;
mod neighbours;
mod parse;
mod prompt;
mod prompter;
mod query_terms;
mod reading;
#[cfg(feature = "remote")]
mod remote;
mod rewriter_file;
mod shortlist;
#[cfg(feature = "remote")]
mod teacher;
#[cfg(feature = "model")]
mod words;

pub use base::{BaseConfig, Feedback, FeedbackConfig, Tuned};
pub use candidates::Candidates;
pub use compose::Composer;
pub use config::{
    ConversationConfig, DocumentConfig, Example, Mode, PromptConfig, PromptStyle, RerankConfig, Task, Vocabulary,
};
#[cfg(feature = "model")]
pub use encoder::PromptEncoder;
#[cfg(feature = "model")]
pub use language_model::LanguageModel;
pub use mode::SAME;
pub use neighbours::{JudgedWords, Neighbours, NeighboursConfig};
pub use parse::{FormatFault, ParsedCompletion};
pub use prompt::{ChatMessage, Prompt, Role};
pub use prompter::Prompter;
pub use query_terms::QueryTerm;
pub use reading::{Reading, TermReading};
#[cfg(feature = "remote")]
pub use remote::{Remote, RemoteConfig};
#[cfg(feature = "model")]
pub use rewriter_file::Resolver;
pub use rewriter_file::{RewriterFile, Serve};
pub use shortlist::{Shortlist, Titles};
#[cfg(feature = "remote")]
pub use teacher::{Fetched, fetch_answers};
#[cfg(feature = "model")]
pub use words::Words;
