//! Plain values in and out of candle's tensors, which read files and are packed by kernels.

use candle_core::{Device, Tensor};

use querywright_types::{Error, Result};

/// A tensor of these values.
pub(super) fn tensor(values: Vec<f32>, shape: &[usize]) -> Result<Tensor> {
    Tensor::from_vec(values, shape, &Device::Cpu).map_err(failed)
}

/// A tensor's values, row by row.
pub(super) fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.flatten_all().and_then(|flat| flat.to_vec1::<f32>()).map_err(failed)
}

/// Shapes are checked before: a tensor operation that fails is a bug.
pub(super) fn failed(error: impl std::fmt::Display) -> Error {
    Error::bug("tensor operation", error.to_string())
}
