//! The language model: decoder, adapters, tokenizer, sampling.

mod adapter;
mod chat;
mod config;
mod decoder;
mod folder;
mod generate;
mod gguf;
mod sampling;
mod source;
mod tokenizer;

pub use adapter::{Adapter, LoraConfig, Projection};
pub use chat::{ChatTemplate, Message};
pub use config::{Family, ModelConfig, RopeScaling};
pub use decoder::{Decoder, Deltas};
pub use generate::{Completion, Finish, GenerateOptions, Prefix, PromptTokens, generate, prefix};
pub use sampling::SamplingConfig;
pub use source::{ModelSource, ModelSummary};
pub use tokenizer::Tokenizer;
