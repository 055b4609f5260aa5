//! Fused operations for a decoder whose base weights are frozen, each with its way back.
//!
//! Base weights are packed once ([`PackedMatrix`]) in panels of 32 columns, in f32 or in bf16 pairs for the
//! `vdpbf16ps` instruction; activations and sums are always f32. Operations work on slices: rows of values, one behind
//! the other. Every way back is checked in its tests against finite differences, and every way there against a
//! composition of plain operations. Each output row depends on its own input row alone and is summed in one fixed
//! order, so results do not change with the batch that a row happens to travel in.
//!
//! `unsafe` lives in `tile` and `product`: vector instructions behind run-time detection, and disjoint writes of threads
//! into one output; and in [`device`], the door to GPUs.

use crate as kernels;
use querywright_types::error;

mod attention;
pub mod device;
mod exp;
mod linear;
mod logprob;
mod norm;
mod packed;
mod product;
mod rope;
mod storage;
mod swiglu;
mod tile;

#[cfg(test)]
mod oracle;
#[cfg(test)]
pub(crate) use oracle::tensor as test_tensor;

pub use attention::{Attended, Cache, Continuation, Heads, Node, Tree, attend, attend_backward};
pub use exp::{Distribution, Partition, partition, softmax};
pub use linear::{FrozenLinear, LoraDelta, LoraGradient, Placed, apply, apply_backward};
pub use logprob::{
    DrawnDistribution, DrawnToken, TokenStatistics, drawn_backward, log_probabilities, log_probabilities_backward,
};
pub use norm::RmsNorm;
pub use packed::{PackedMatrix, Precision};
pub use rope::{Angles, RopeTable};
pub use swiglu::{swiglu, swiglu_backward};
