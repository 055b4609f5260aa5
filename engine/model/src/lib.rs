//! The language model: decoder, adapters, tokenizer, sampling.
//!
//! [`Decoder`] is the entry point of everything that generates and learns. It runs on one of two backends that implement
//! the same interface (`backend.rs`) and mirror each other file by file: `host` on the processor, `cuda` on a GPU.
#![deny(missing_docs)]
#![deny(missing_debug_implementations)]
#![warn(unreachable_pub)]

mod adapter;
mod backend;
mod batcher;
mod chat;
mod completion;
mod config;
mod cuda;
mod decoder;
mod device;
mod export;
mod folder;
mod foreign;
mod generate;
mod gguf;
mod grammar;
mod host;
mod objective;
mod optimizer;
mod sampling;
mod sequence;
mod shard;
mod source;
mod strangers;
mod tensor;
mod tokenizer;
mod weights;

/// The files of models of other kinds: what reads sentence encoders stands on the same code.
pub mod files {
    pub use super::config::asks_for_another_family;
    pub use super::folder::Folder;
    pub use super::tensor::Tensor;
}

pub use querywright_kernels::{Precision, TokenStatistics};

pub use adapter::{Adapter, Deltas, Factor, LoraConfig, Projection};
pub use batcher::{Batcher, CompletionRequest, TokenObserver};
pub use chat::{ChatTemplate, Message};
pub use completion::{Completion, Finish, GenerateOptions, PromptTokens};
pub use config::{Architecture, ModelConfig, RopeScaling};
pub use decoder::{Decoder, GradientSum, Tape};
pub use device::{DeviceChoice, DeviceInfo};
pub use export::{Export, ExportFormat, ExportType, Exported};
pub use generate::{Prefix, generate, generate_recorded, prefix};
pub use grammar::{Grammar, Labels, Trie, Walk};
pub use objective::{Objective, Predictions};
pub use optimizer::{AdamWState, AdamWStep, Moments, Updated};
pub use sampling::SamplingConfig;
pub use source::{ModelSource, ModelSummary};
pub use tokenizer::Tokenizer;
