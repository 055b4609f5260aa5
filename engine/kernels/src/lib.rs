//! Fused operations for a decoder whose base weights are frozen, each with its backward pass, and those of encoders, which
//! are not trained and have none. This crate is internal to
//! Querywright and has no stable interface: depend on `querywright` instead.
//!
//! Base weights are packed once ([`PackedMatrix`]) in panels of 32 columns, in f32, in 8-bit blocks, or in bf16 pairs for
//! the `vdpbf16ps` instruction and for AMX; activations and sums are always f32. Operations work on slices: rows of values, one behind
//! the other. Every backward pass is checked in its tests against finite differences, and every forward pass against a
//! composition of plain operations. Each output row depends on its own input row alone and is summed in one fixed
//! order, so results do not change with the batch that a row happens to be in.
//!
//! Operands whose lengths do not fit each other are refused by an assertion with a message, in release builds too, once a
//! call or a tile. `unsafe` is confined to `isa`, `bf16`, `tile`, `int8`, `product` and `outer_product`, for vector and matrix
//! instructions behind run-time detection and disjoint writes of threads into one output, and to [`device`], which talks
//! to GPUs.
#![deny(missing_docs)]
#![deny(missing_debug_implementations)]
#![warn(unreachable_pub)]

mod attention;
mod bf16;
pub mod device;
mod gelu;
mod growing;
mod int8;
mod isa;
mod layer_norm;
mod linear;
mod logprob;
mod lora;
mod norm;
mod outer_product;
mod packed;
mod product;
mod rope;
mod rows;
mod softmax;
mod swiglu;
mod tile;
mod vector;

#[cfg(test)]
mod oracle;

pub use attention::{
    Attended, AttentionRows, Cache, Continuation, Heads, Node, Tree, attend, attend_backward, attend_both_ways,
};
pub use gelu::{Activation, geglu};
pub use layer_norm::LayerNorm;
pub use linear::{FrozenLinear, Placed, apply, apply_backward};
pub use logprob::{
    SampledDistribution, Targets, TokenStatistics, WeightedToken, log_probabilities, log_probabilities_backward,
    sampled_backward,
};
pub use lora::{LoraDelta, LoraGradient};
pub use norm::RmsNorm;
pub use packed::{PackedMatrix, Precision};
pub use rope::{Angles, RopeTable};
pub use softmax::{Distribution, Partition, gather, partition, softmax};
pub use swiglu::{swiglu, swiglu_backward};
pub use vector::dot;
