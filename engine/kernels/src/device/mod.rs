//! Kernels on a GPU: the same operations as beside this module, on buffers in a device's memory.
//!
//! `cuda/` holds the kernels in CUDA C++; matrix products are cuBLAS's. Activations are in bf16 (or, for checking, in
//! single precision). Sums, norms, the residual stream, log-probabilities and the optimiser are computed in single
//! precision. No operation's result depends on timing: nothing is added up by atomics.
//!
//! `unsafe` is confined to `driver`, and to `pool` where numbers are read as bytes. Everything is launched on one stream
//! of the device in program order. An operand that does not fit its operation is
//! [`Error::Bug`](querywright_types::Error::Bug).

mod attention;
#[cfg(feature = "cuda")]
mod driver;
#[cfg(not(feature = "cuda"))]
#[path = "absent.rs"]
mod driver;
mod few;
mod handle;
mod head;
mod interface;
mod memory;
mod operations;
mod pool;
mod profile;

pub use attention::{AttentionGradient, KeyPlan, PackedTree, PlannedKeys, RotatedRows, Rotation, Slot, TreeAttention};
pub use few::{Chunk, FEW, FewRows, Normed, StepAttention, Then};
pub use handle::Device;
pub use handle::Graph;
pub use head::{NextStep, Within};
pub use interface::{AdamWConstants, DeviceInfo, Format, HeadShape};
pub use memory::Mailbox;
pub use operations::{Angles, Matrix};
pub use pool::{Buffer, Plain, View};
pub use profile::Profiled;
