//! Values out of candle tensors.

use candle_core::{Result, Storage, Tensor, bail};

/// Calls `f` with the f32 values of a tensor on the CPU, row by row.
pub(super) fn with_values<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else {
        bail!("the kernel runs on the CPU, the tensor is on {:?}", tensor.device())
    };
    match layout.contiguous_offsets() {
        Some((from, to)) => Ok(f(&storage.as_slice::<f32>()?[from..to])),
        None => bail!("the kernel needs a contiguous tensor, the layout is {layout:?}"),
    }
}
