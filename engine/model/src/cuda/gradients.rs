//! Gradients of deltas, summed on the device.

use crate::adapter::{Adapter, Deltas, Projection};
use crate::backend::BackendGradients;
use querywright_kernels::device::{Buffer, Device, Format, Matrix, View};
use querywright_types::{Error, Result};

/// The gradients of an adapter's factors, one behind the other in the order of
/// [`Adapter::parameters`](crate::Adapter::parameters), in single precision.
pub(crate) struct CudaGradients {
    device: Device,
    buffer: Buffer,
    /// By layer and projection: where A's and B's begin, in values.
    places: Vec<[Option<(usize, usize)>; Projection::COUNT]>,
    /// The lengths of all factors.
    lengths: Vec<usize>,
}

impl std::fmt::Debug for CudaGradients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CudaGradients of {} factors on {:?}", self.lengths.len(), self.device)
    }
}

impl CudaGradients {
    /// Zeros for these deltas.
    pub(super) fn zeros(device: &Device, deltas: &Deltas) -> Result<Self> {
        let (mut lengths, mut end) = (Vec::new(), 0);
        let mut place = |length: usize| {
            lengths.push(length);
            end += length;
            end - length
        };
        let mut places = vec![[None; Projection::COUNT]; deltas.len()];
        for (layer, deltas) in places.iter_mut().zip(deltas) {
            for (to, delta) in layer.iter_mut().zip(deltas) {
                *to = delta.as_ref().map(|d| (place(d.factors().0.len()), place(d.factors().1.len())));
            }
        }
        Ok(Self { buffer: device.zeros(4 * end)?, device: device.clone(), places, lengths })
    }

    /// All of them.
    pub(super) fn view(&self) -> View<'_> {
        self.buffer.view()
    }

    /// The lengths of all factors.
    pub(super) fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// The sums of a layer's A (rank, input) and B (output, rank).
    pub(super) fn of(
        &self,
        layer: usize,
        projection: Projection,
        shape: (usize, usize, usize),
    ) -> Result<(Matrix<'_>, Matrix<'_>)> {
        let place = self.places.get(layer).and_then(|places| places[projection as usize]);
        let (a, b) = place.ok_or_else(|| {
            Error::bug("gradients on a GPU", format!("no sum for {} of layer {layer}", projection.name()))
        })?;
        let (rank, input, output) = shape;
        let at =
            |place: usize, rows, columns| Matrix::new(self.buffer.view().from(4 * place), Format::F32, rows, columns);
        Ok((at(a, rank, input), at(b, output, rank)))
    }
}

impl BackendGradients for CudaGradients {
    fn read(&self, _: &Adapter) -> Result<Vec<Vec<f32>>> {
        let mut all = vec![0f32; self.lengths.iter().sum()];
        self.device.read(self.buffer.view(), &mut all)?;
        Ok(split(all, &self.lengths))
    }
}

/// Lists that lie one behind the other.
pub(super) fn split(all: Vec<f32>, lengths: &[usize]) -> Vec<Vec<f32>> {
    let mut rest = all.into_iter();
    lengths.iter().map(|length| rest.by_ref().take(*length).collect()).collect()
}
