//! Fused, differentiable operations for a decoder whose base weights are frozen.
//!
//! Base weights are packed once ([`PackedMatrix`]) in panels of 32 columns, in f32 or in bf16 pairs for the
//! `vdpbf16ps` instruction; activations and sums are always f32. Every operation on tensors is a candle custom op with
//! a hand-written backward, checked in its tests against finite differences and against a composition of plain
//! operations. Each output row depends on its own input row alone and is summed in one fixed order, so results do not
//! change with the batch that a row happens to travel in.
//!
//! `unsafe` lives in [`tile`](self) alone: vector instructions behind run-time detection, and disjoint writes of
//! threads into one output.

mod attention;
mod exp;
mod linear;
mod logprob;
mod norm;
mod packed;
mod rope;
mod storage;
mod swiglu;
mod tile;

#[cfg(test)]
mod oracle;
#[cfg(test)]
pub(crate) use oracle::tensor as test_tensor;

pub use attention::{Cache, Continuation, PackedTree, Segment, attend_cached, attend_tree};
pub use exp::{log_sum_exp, softmax};
pub use linear::{FrozenLinear, LoraDelta};
pub use logprob::{HeadOptions, log_probabilities};
pub use norm::RmsNorm;
pub use packed::{PackedMatrix, Precision};
pub use rope::RopeTable;
pub use swiglu::swiglu;
