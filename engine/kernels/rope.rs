//! Rotary position embedding.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::storage::{values, with_values};

/// The cosines and sines of rotary position embedding (arXiv 2104.09864) in the half-split form of Hugging Face
/// checkpoints: value `i` of a head is rotated with value `i + head_dim / 2`. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RopeTable {
    frequencies: Arc<[f64]>,
}

impl RopeTable {
    /// From the angular frequencies, `head_dim / 2` of them: `theta^(-2i / head_dim)` before any scaling.
    pub fn new(frequencies: Vec<f64>) -> Self {
        Self { frequencies: frequencies.into() }
    }

    /// Rotates every head of `x` (rows, heads x head_dim); row `r` stands at `positions[r]`.
    pub fn apply(&self, x: &Tensor, positions: &Arc<[(f32, f32)]>) -> Result<Tensor> {
        x.contiguous()?.apply_op1(Rotate { half: self.frequencies.len(), angles: positions.clone(), sign: 1.0 })
    }

    /// The (cosine, sine) pairs of each position, row by row; computed once for a pass over all layers.
    pub fn angles(&self, positions: &[usize]) -> Arc<[(f32, f32)]> {
        positions
            .iter()
            .flat_map(|p| {
                self.frequencies.iter().map(move |f| {
                    let (sin, cos) = (*p as f64 * f).sin_cos();
                    (cos as f32, sin as f32)
                })
            })
            .collect()
    }
}

struct Rotate {
    half: usize,
    angles: Arc<[(f32, f32)]>,
    sign: f32,
}

impl Rotate {
    fn rotate(&self, x: &[f32], sign: f32) -> Vec<f32> {
        let rows = self.angles.len() / self.half.max(1);
        let width = x.len() / rows.max(1);
        let mut out = x.to_vec();
        out.par_chunks_mut(width.max(1)).zip(self.angles.par_chunks(self.half.max(1))).with_min_len(16).for_each(
            |(row, angles)| {
                for head in row.chunks_exact_mut(2 * self.half) {
                    let (low, high) = head.split_at_mut(self.half);
                    for ((low, high), (cos, sin)) in low.iter_mut().zip(high).zip(angles) {
                        let (a, b, sin) = (*low, *high, sin * sign);
                        *low = a * cos - b * sin;
                        *high = b * cos + a * sin;
                    }
                }
            },
        );
        out
    }
}

impl CustomOp1 for Rotate {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values(storage, layout)?;
        let (rows, width) = layout.shape().dims2()?;
        if rows * self.half != self.angles.len() || width % (2 * self.half) != 0 {
            candle_core::bail!(
                "{rows} rows of {width} values do not match {} angles of {} pairs",
                self.angles.len(),
                self.half
            );
        }
        Ok((CpuStorage::F32(self.rotate(x, self.sign)), layout.shape().clone()))
    }

    /// A rotation's gradient is the rotation back.
    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let dx = with_values(grad, |grad| self.rotate(grad, -self.sign))?;
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::oracle::{check_gradients, tensor};

    #[test]
    fn a_rotation_keeps_lengths_and_depends_on_the_distance_alone() {
        let table = RopeTable::new(vec![1.0, 0.1]);
        let (q, k) = (tensor(&[1, 4], 1), tensor(&[1, 4], 2));
        let score = |p: usize, r: usize| {
            let q = table.apply(&q, &table.angles(&[p])).unwrap();
            let k = table.apply(&k, &table.angles(&[r])).unwrap();
            (q * k).unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap()
        };
        assert!((score(7, 3) - score(14, 10)).abs() < 1e-5);
        assert!((score(7, 3) - score(7, 4)).abs() > 1e-3);
        check_gradients(&[tensor(&[3, 8], 5)], |t| table.apply(&t[0], &table.angles(&[0, 5, 9])).unwrap(), 2e-3);
    }
}
