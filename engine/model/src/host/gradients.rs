//! Gradients of deltas, summed on the processor.

use crate::adapter::{Adapter, Deltas, Projection};
use crate::backend::BackendGradients;
use querywright_kernels::{LoraDelta, LoraGradient};
use querywright_types::{Error, Result};

/// By layer and projection, in the places of the deltas.
#[derive(Debug)]
pub(crate) struct HostGradients(pub(super) Vec<[Option<LoraGradient>; Projection::COUNT]>);

impl HostGradients {
    pub(super) fn zeros(deltas: &Deltas) -> Self {
        let zeros = |delta: &Option<LoraDelta>| delta.as_ref().map(LoraGradient::zeros);
        Self(deltas.iter().map(|block| block.each_ref().map(zeros)).collect())
    }
}

impl BackendGradients for HostGradients {
    fn read(&self, adapter: &Adapter) -> Result<Vec<Vec<f32>>> {
        let mut all = Vec::new();
        for (layer, projection) in adapter.places() {
            let sum = self.0.get(layer).and_then(|layer| layer[projection as usize].as_ref()).ok_or_else(|| {
                Error::bug("host gradients", format!("no sum for {} of layer {layer}", projection.name()))
            })?;
            all.extend([sum.a.clone(), sum.b()]);
        }
        Ok(all)
    }
}
