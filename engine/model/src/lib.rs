//! The language model: decoder, adapters, tokenizer, sampling.

use crate as model;
use querywright_kernels as kernels;
use querywright_types::{self as types, error};

mod adapter;
mod chat;
mod config;
mod decoder;
mod device;
mod folder;
mod generate;
mod gguf;
mod host;
mod sampling;
mod source;
mod tape;
mod tokenizer;

pub use querywright_kernels::{Precision, TokenStatistics};

pub use adapter::{Adapter, LoraConfig, Projection};
pub use chat::{ChatTemplate, Message};
pub use config::{Family, ModelConfig, RopeScaling};
pub use decoder::{Decoder, DeviceChoice, GradientSum, Tape};
pub use device::{DeviceDecoder, DeviceGradients, DeviceTape};
pub use generate::{
    Completion, Finish, GenerateOptions, Prefix, PromptTokens, generate, generate_recorded, prefix, rows_of,
};
pub use host::{Deltas, Gradients, HostDecoder, Objective, Predictions, Recording};
pub use sampling::SamplingConfig;
pub use source::{ModelSource, ModelSummary};
pub use tape::{HostTape, TapedPrompt};
pub use tokenizer::Tokenizer;
