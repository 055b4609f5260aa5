//! Root-mean-square normalisation with a frozen weight.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::exp::dot;
use super::storage::{values, with_values};

/// `y = x / sqrt(mean(x²) + eps) · weight` over rows as long as the weight (arXiv 1910.07467). Cheap to clone.
#[derive(Debug, Clone)]
pub struct RmsNorm {
    weight: Arc<[f32]>,
    eps: f64,
}

/// Rows that one task takes.
const ROWS: usize = 32;

impl RmsNorm {
    /// From a weight of one dimension.
    pub fn new(weight: &Tensor, eps: f64) -> Result<Self> {
        weight.dims1()?;
        Ok(Self { weight: with_values(weight, |w| w.into())?, eps })
    }

    /// Normalises every stretch of `weight.len()` values of `x`, whose last dimension is a multiple of that.
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        x.contiguous()?.apply_op1(self.clone())
    }

    fn inverse(&self, row: &[f32]) -> f32 {
        (1.0 / (f64::from(dot(row, row)) / row.len() as f64 + self.eps).sqrt()) as f32
    }
}

impl CustomOp1 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values(storage, layout)?;
        let width = self.weight.len();
        let mut y = vec![0.0; x.len()];
        y.par_chunks_mut(width * ROWS).zip(x.par_chunks(width * ROWS)).for_each(|(y, x)| {
            for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                let inverse = self.inverse(x);
                for ((y, x), w) in y.iter_mut().zip(x).zip(self.weight.iter()) {
                    *y = x * inverse * w;
                }
            }
        });
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    /// With `s = 1 / rms`: dx = s (w dy − x s² mean(x w dy)).
    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let width = self.weight.len();
        let mut dx = vec![0.0; x.elem_count()];
        with_values(x, |x| {
            with_values(grad, |grad| {
                let blocks =
                    dx.par_chunks_mut(width * ROWS).zip(x.par_chunks(width * ROWS)).zip(grad.par_chunks(width * ROWS));
                blocks.for_each(|((dx, x), grad)| {
                    for ((dx, x), grad) in
                        dx.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(grad.chunks_exact(width))
                    {
                        let inverse = self.inverse(x);
                        for ((dx, g), w) in dx.iter_mut().zip(grad).zip(self.weight.iter()) {
                            *dx = g * w;
                        }
                        let pull = dot(dx, x) / width as f32 * inverse * inverse;
                        for (dx, x) in dx.iter_mut().zip(x) {
                            *dx = inverse * (*dx - x * pull);
                        }
                    }
                });
            })
        })??;
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::oracle::{check_gradients, tensor};

    #[test]
    fn the_norm_equals_its_formula_and_has_a_gradient() {
        let (x, w) = (tensor(&[6, 20], 1), tensor(&[20], 2));
        let norm = RmsNorm::new(&w, 1e-5).unwrap();
        let mean = (x.sqr().unwrap().mean_keepdim(1).unwrap() + 1e-5).unwrap().sqrt().unwrap();
        let want = x.broadcast_div(&mean).unwrap().broadcast_mul(&w).unwrap();
        let error = (norm.apply(&x).unwrap() - want).unwrap().abs().unwrap().max_all().unwrap();
        assert!(error.to_scalar::<f32>().unwrap() < 1e-5);
        check_gradients(&[x], |t| norm.apply(&t[0]).unwrap(), 3e-3);
    }

    #[test]
    fn several_heads_in_one_row_are_normalised_apart() {
        let norm = RmsNorm::new(&tensor(&[4], 2), 1e-5).unwrap();
        let x = tensor(&[3, 8], 1);
        let apart = norm.apply(&x.reshape((6, 4)).unwrap()).unwrap().reshape((3, 8)).unwrap();
        assert_eq!(norm.apply(&x).unwrap().to_vec2::<f32>().unwrap(), apart.to_vec2::<f32>().unwrap());
        check_gradients(&[x], |t| norm.apply(&t[0]).unwrap(), 3e-3);
    }
}
