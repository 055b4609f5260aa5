//! The decoder on a GPU: the same passes as on the processor, over the kernels of [`kernels::device`](querywright_kernels::device).
//!
//! A layer and its low-rank delta are one product there, too: the delta's `s·B` is in further columns of the layer's
//! weights, and `x·Aᵀ` in further columns of the layer's input. The residual stream and all sums are in single precision,
//! what products read in bf16.
//!
//! Rows of a pass are in depth-first order (prefix, a prompt, its completions, the next prompt), so that one number a row
//! says which rows see which. A decoding step is captured once for each batch size and then sent as one graph.

mod backward;
mod batch;
mod deltas;
mod forward;
mod generate;
mod gradients;
mod load;
mod optimizer;
mod step;
mod tape;
mod workspace;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub(super) use batch::CudaBatch;
pub(super) use gradients::CudaGradients;
pub(super) use tape::CudaTape;

use super::adapter::{BlockDeltas, Projection};
use super::backend::Backend;
use super::config::ModelConfig;
use super::device::DeviceInfo;
use super::weights;
use querywright_kernels::device::{Buffer, Device, Format, HeadShape, Matrix};
use querywright_types::Result;
use workspace::Workspace;

/// A decoder whose weights are on a GPU. One pass runs at a time; calls from several threads wait for each other.
pub(crate) struct CudaDecoder {
    device: Device,
    config: ModelConfig,
    format: Format,
    heads: HeadShape,
    /// (vocabulary, hidden).
    embedding: Buffer,
    /// The same shape, in models that do not share it with the embedding.
    head: Option<Buffer>,
    norm: Buffer,
    frequencies: Buffer,
    state: Mutex<State>,
}

impl std::fmt::Debug for CudaDecoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CudaDecoder")
            .field("device", &self.device)
            .field("format", &self.format)
            .finish_non_exhaustive()
    }
}

type Block = weights::Block<Buffer, Group>;

/// What passes change.
struct State {
    blocks: Vec<Block>,
    /// The deltas whose factors are in the blocks; none while that is not known.
    placed: Option<Vec<BlockDeltas>>,
    workspace: Option<Workspace>,
}

/// Layers that read the same rows.
struct Group {
    input: usize,
    /// Of all of them.
    output: usize,
    /// (output, input + room): the weights, and behind them the `s·B` of every delta in its own columns.
    weight: Buffer,
    /// (output), in models that have it.
    bias: Option<Buffer>,
    /// (room, input): the A of every delta in its own rows.
    low: Option<Buffer>,
    room: usize,
    parts: Vec<Part>,
}

/// One layer of a group.
#[derive(Clone, Copy)]
struct Part {
    projection: Projection,
    /// Its first row in the weights, which is its first column in the outputs.
    column: usize,
    output: usize,
    /// The first column of its delta in the room, and the delta's rank.
    low: Option<(usize, usize)>,
    scale: f32,
}

impl Group {
    fn stride(&self) -> usize {
        self.input + self.room
    }

    fn weight(&self, format: Format) -> Matrix<'_> {
        Matrix::new(self.weight.view(), format, self.output, self.stride())
    }
}

/// The widest input of the blocks' groups `group`, with the columns of deltas.
fn widest(blocks: &[Block], group: usize) -> usize {
    blocks.iter().map(|block| block.groups[group].stride()).max().unwrap_or_default()
}

impl CudaDecoder {
    pub(super) fn handle(&self) -> &Device {
        &self.device
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn embedding(&self) -> Matrix<'_> {
        Matrix::new(self.embedding.view(), self.format, self.config.vocab_size, self.config.hidden_size)
    }

    fn head(&self) -> Matrix<'_> {
        let head = self.head.as_ref().unwrap_or(&self.embedding);
        Matrix::new(head.view(), self.format, self.config.vocab_size, self.config.hidden_size)
    }
}

impl Backend for CudaDecoder {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn device(&self) -> Result<Option<DeviceInfo>> {
        self.device.info().map(Some)
    }

    fn scope<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        work()
    }
}
