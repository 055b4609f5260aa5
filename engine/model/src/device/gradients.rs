//! Gradients of deltas, summed on the device.

use super::DeviceDecoder;
use crate::error::Result;
use crate::kernels::device::{Buffer, Device, Format, Matrix, View};
use crate::model::adapter::Projection;
use crate::model::host::Deltas;

/// The gradients of an adapter's factors, one behind the other in the order of
/// [`Adapter::parameters`](crate::model::Adapter::parameters), in single precision.
pub struct DeviceGradients {
    device: Device,
    buffer: Buffer,
    /// By layer and projection: where A's and B's begin, in values.
    places: Vec<[Option<(usize, usize)>; Projection::COUNT]>,
    /// The lengths of all factors.
    lengths: Vec<usize>,
}

impl std::fmt::Debug for DeviceGradients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DeviceGradients of {} factors on {:?}", self.lengths.len(), self.device)
    }
}

impl DeviceGradients {
    /// The device that they lie on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// All of them.
    pub fn view(&self) -> View<'_> {
        self.buffer.view()
    }

    /// How many values they are.
    pub fn count(&self) -> usize {
        self.lengths.iter().sum()
    }

    /// Those of each factor.
    ///
    /// # Errors
    /// A device that is lost.
    pub fn read(&self) -> Result<Vec<Vec<f32>>> {
        let mut all = vec![0f32; self.count()];
        self.device.read(self.buffer.view(), &mut all)?;
        let mut rest = all.as_slice();
        let mut factors = Vec::with_capacity(self.lengths.len());
        for length in &self.lengths {
            let (own, after) = rest.split_at(*length);
            factors.push(own.to_vec());
            rest = after;
        }
        Ok(factors)
    }

    /// The sums of a layer's A (rank, input) and B (output, rank).
    pub(super) fn of(
        &self,
        layer: usize,
        projection: Projection,
        shape: (usize, usize, usize),
    ) -> Option<(Matrix<'_>, Matrix<'_>)> {
        let (a, b) = self.places.get(layer)?[projection as usize]?;
        let (rank, input, output) = shape;
        let at =
            |place: usize, rows, columns| Matrix::new(self.buffer.view().from(4 * place), Format::F32, rows, columns);
        Some((at(a, rank, input), at(b, output, rank)))
    }
}

impl DeviceDecoder {
    /// Gradients of zero for these deltas.
    pub(crate) fn zero_gradients(&self, deltas: &Deltas) -> Result<DeviceGradients> {
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
        Ok(DeviceGradients { buffer: self.device.zeros(4 * end)?, device: self.device.clone(), places, lengths })
    }
}
