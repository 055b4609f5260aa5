//! The decoder on the processor, for the Llama family and Qwen 2, 2.5 and 3.
//!
//! Sampler and trainer read the same packed weights in the same forward pass, so what was sampled can be learned from
//! without computing it again: a [`Recording`] keeps what the backward pass needs.

mod backward;
mod batch;
mod blocks;
mod forward;
mod generate;
mod gradients;
mod optimizer;
mod reading;
mod recording;
mod tape;

pub(super) use batch::HostBatch;
pub(super) use gradients::HostGradients;
pub(super) use recording::Recording;
pub(super) use tape::HostTape;

use super::adapter::{BlockDeltas, Projection};
use super::backend::Backend;
use super::config::ModelConfig;
use super::device::DeviceInfo;
use super::source::ModelSource;
use super::tensor::Tensor;
use super::weights::{Block, GroupTensors, Pack, Weights};
use querywright_kernels::{FrozenLinear, Heads, Placed, Precision, RmsNorm, RopeTable};
use querywright_types::{Observe, Result};

/// A decoder with frozen, packed base weights.
#[derive(Debug)]
pub struct HostDecoder {
    config: ModelConfig,
    /// (vocabulary, hidden), row by row.
    embedding: Vec<f32>,
    blocks: Vec<Block<RmsNorm, Group>>,
    norm: RmsNorm,
    head: FrozenLinear,
    rope: RopeTable,
    heads: Heads,
    spare: recording::Spare,
}

/// Projections that read the same rows.
#[derive(Debug)]
struct Group(Vec<(Projection, FrozenLinear)>);

impl Group {
    /// The projections with their deltas, each writing its columns behind those of the one before.
    fn placed<'a>(&'a self, deltas: Option<&'a BlockDeltas>) -> Vec<Placed<'a>> {
        let mut column = 0;
        let place = |(projection, layer): &'a (Projection, FrozenLinear)| {
            let delta = deltas.and_then(|d| d[*projection as usize].as_ref());
            let placed = Placed { layer, delta, column };
            column += layer.output();
            placed
        };
        self.0.iter().map(place).collect()
    }
}

/// Packs weights in a precision.
struct Packer {
    eps: f64,
    precision: Precision,
}

impl Packer {
    fn linear(&self, weight: &Tensor, bias: Option<&Tensor>) -> Result<FrozenLinear> {
        FrozenLinear::new(weight.values(), weight.matrix()?, bias.map(Tensor::values), self.precision)
    }
}

impl Pack for Packer {
    type Norm = RmsNorm;
    type Group = Group;
    type Embedding = Vec<f32>;
    type Head = FrozenLinear;

    fn norm(&self, weight: &Tensor) -> Result<RmsNorm> {
        Ok(RmsNorm::new(weight.values(), self.eps))
    }

    fn group(&self, tensors: &GroupTensors<'_>) -> Result<Group> {
        let pack = |projection: &Projection| {
            let (weight, bias) = (tensors.weight(*projection)?, tensors.bias(*projection)?);
            Ok((*projection, self.linear(&weight, bias.as_ref())?))
        };
        Ok(Group(tensors.projections.iter().map(pack).collect::<Result<_>>()?))
    }

    fn embedding(&self, weight: Tensor) -> Result<Vec<f32>> {
        Ok(weight.into_values())
    }

    fn head(&self, weight: &Tensor, _: bool) -> Result<FrozenLinear> {
        self.linear(weight, None)
    }
}

impl HostDecoder {
    /// Reads and packs all weights. `observer` is told after each layer how many of how many are done.
    ///
    /// # Errors
    /// A model that cannot be read.
    pub(crate) fn load(source: &ModelSource, precision: Precision, observer: &dyn Observe) -> Result<Self> {
        let config = source.config().clone();
        let packer = Packer { eps: config.rms_norm_eps, precision };
        let Weights { embedding, blocks, norm, head } = Weights::load(source, &packer, observer)?;
        let rope = RopeTable::new(config.rope_frequencies());
        let heads = Heads {
            queries: config.num_attention_heads,
            keys: config.num_key_value_heads,
            dim: config.head_dim,
            scale: config.attention_scale(),
            bf16: head.is_bf16(),
        };
        Ok(Self { config, embedding, blocks, norm, head, rope, heads, spare: Default::default() })
    }

    /// The model's shapes.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Whether distributions that are sampled from are worth keeping for the backward pass: where the head multiplies in
    /// bf16, they take half the room of logits.
    pub(super) fn keeps_distributions(&self) -> bool {
        self.head.is_bf16()
    }
}

impl Backend for HostDecoder {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn device(&self) -> Result<Option<DeviceInfo>> {
        Ok(None)
    }

    /// Inside the pool a parallel loop starts without waking threads from outside.
    fn scope<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        rayon::scope(|_| work())
    }
}

#[cfg(test)]
mod tests;
