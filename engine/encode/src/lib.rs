//! Sentence encoders ([`Encoder`]) and dense retrieval over their vectors ([`Dense`], a retriever).
//!
//! An encoder is a Hugging Face folder: a BERT, RoBERTa, XLM-R, DistilBERT or ModernBERT in safetensors, with what
//! sentence-transformers keeps beside it (pooling, normalisation, prompts, the longest text), which is honoured or refused
//! by name. It is computed by the kernels of the decoder, on the processor and in single precision. With the feature `plugins` it
//! is what a plugin's `embed` asks: `Services { encoder: Some(Arc::new(encoder)), .. }`.
#![deny(missing_docs, missing_debug_implementations)]
#![warn(unreachable_pub)]

mod backbone;
mod bert;
mod dense;
mod encoder;
mod hnsw;
mod json;
mod layers;
mod lent;
mod modernbert;
mod modules;
mod pooling;
mod shape;
mod store;
mod weights;
mod words;

pub use dense::{Dense, DenseConfig, HybridFusion, Recall, VectorIndex, VectorPrecision};
pub use encoder::{Encoder, EncoderConfig, EncoderPrecision, InputType};
pub use hnsw::HnswConfig;
pub use lent::EmbedConfig;
pub use modules::Similarity;
pub use pooling::Pooling;

#[cfg(test)]
mod tests {
    mod raw_figures;
}
