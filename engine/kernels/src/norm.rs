//! Root mean square normalisation (arXiv 1910.07467): `y = x / sqrt(mean(x²) + eps) · w`.

use rayon::prelude::*;

use super::vector::{dot, scaled_product};

/// A frozen RMSNorm over groups of as many values as its weight has. Longer rows are normalised group by group, as the
/// heads of queries and keys are.
#[derive(Debug, Clone)]
pub struct RmsNorm {
    weight: Vec<f32>,
    eps: f64,
}

/// Values that one task takes at least.
const TASK: usize = 1 << 14;

impl RmsNorm {
    /// From a weight of shape (width).
    pub fn new(weight: &[f32], eps: f64) -> Self {
        Self { weight: weight.to_vec(), eps }
    }

    /// Normalises every group of `x`.
    pub fn apply(&self, x: &[f32], y: &mut [f32]) {
        let width = self.check(x.len());
        assert_eq!(x.len(), y.len(), "normalised values go to other rows");
        let one = |(y, x): (&mut [f32], &[f32])| scaled_product(y, x, &self.weight, self.inverse(x));
        if x.len() < 2 * TASK {
            y.chunks_exact_mut(width).zip(x.chunks_exact(width)).for_each(one);
        } else {
            let rows = y.par_chunks_exact_mut(width).zip(x.par_chunks_exact(width));
            rows.with_min_len(TASK.div_ceil(width)).for_each(one);
        }
    }

    /// As [`apply`](Self::apply) in place, on the columns `columns` of rows of `stride` values.
    pub fn apply_columns(&self, values: &mut [f32], stride: usize, columns: std::ops::Range<usize>) {
        self.check(columns.len());
        assert!(values.len().is_multiple_of(stride), "{} values are not rows of {stride}", values.len());
        values.par_chunks_exact_mut(stride).with_min_len(TASK.div_ceil(stride)).for_each(|row| {
            for head in row[columns.clone()].chunks_exact_mut(self.weight.len()) {
                let inverse = self.inverse(head);
                head.iter_mut().zip(&self.weight).for_each(|(v, w)| *v *= inverse * w);
            }
        });
    }

    /// Adds the gradient of `x` to `dx`, given that of the result.
    pub fn add_backward(&self, x: &[f32], dy: &[f32], dx: &mut [f32]) {
        let width = self.check(x.len());
        assert!(x.len() == dy.len() && x.len() == dx.len(), "values and gradients differ in length");
        let rows = dx.par_chunks_exact_mut(width).zip(x.par_chunks_exact(width)).zip(dy.par_chunks_exact(width));
        rows.with_min_len(TASK.div_ceil(width)).for_each(|((dx, x), dy)| self.row_backward(x, dy, dx));
    }

    /// The gradient through [`apply_columns`](Self::apply_columns), in place: `values` holds the gradient of the
    /// result, `x` the same columns before normalisation, in rows of `x_stride` values.
    pub fn columns_backward(
        &self,
        x: &[f32],
        x_stride: usize,
        values: &mut [f32],
        stride: usize,
        columns: std::ops::Range<usize>,
    ) {
        let width = self.check(columns.len());
        assert!(
            values.len() / stride == x.len() / x_stride && values.len().is_multiple_of(stride),
            "{} gradients in rows of {stride} for {} values in rows of {x_stride}",
            values.len(),
            x.len()
        );
        let rows = values.par_chunks_exact_mut(stride).zip(x.par_chunks_exact(x_stride));
        rows.with_min_len(TASK.div_ceil(stride)).for_each(|(row, x)| {
            let x = &x[columns.clone()];
            for (head, x) in row[columns.clone()].chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                let dy = head.to_vec();
                head.fill(0.0);
                self.row_backward(x, &dy, head);
            }
        });
    }

    /// With n = 1 / sqrt(mean(x²) + eps) and g = dy ∘ w: dx = n (g − x n² (g · x) / width).
    fn row_backward(&self, x: &[f32], dy: &[f32], dx: &mut [f32]) {
        let inverse = self.inverse(x);
        let mut g = vec![0.0; x.len()];
        scaled_product(&mut g, dy, &self.weight, 1.0);
        let projection = dot(&g, x) / self.weight.len() as f32 * inverse * inverse;
        for ((dx, g), x) in dx.iter_mut().zip(&g).zip(x) {
            *dx += inverse * (g - x * projection);
        }
    }

    /// Asserts that so many values are whole groups; gives the width of one.
    fn check(&self, values: usize) -> usize {
        let width = self.weight.len();
        assert!(width > 0 && values.is_multiple_of(width), "{values} values are not groups of {width}");
        width
    }

    /// `1 / sqrt(mean(row²) + eps)`
    fn inverse(&self, row: &[f32]) -> f32 {
        (1.0 / (f64::from(dot(row, row)) / row.len() as f64 + self.eps).sqrt()) as f32
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Tensor;

    use super::*;
    use crate::oracle::{check_gradients, distance, noise, tensor, values};

    #[test]
    fn the_norm_equals_its_formula_and_has_a_gradient() {
        let (x, w) = (tensor(&[6, 20], 1), tensor(&[20], 2));
        let norm = RmsNorm::new(&values(&w), 1e-5);
        let mean = (x.sqr().unwrap().mean_keepdim(1).unwrap() + 1e-5).unwrap().sqrt().unwrap();
        let want = x.broadcast_div(&mean).unwrap().broadcast_mul(&w).unwrap();
        let forward = |t: &[Tensor]| {
            let mut y = vec![0.0; 120];
            norm.apply(&values(&t[0]), &mut y);
            y
        };
        assert!(distance(&forward(std::slice::from_ref(&x)), &values(&want)) < 1e-5);
        let backward = |t: &[Tensor], dy: &[f32]| {
            let mut dx = vec![0.0; 120];
            norm.add_backward(&values(&t[0]), dy, &mut dx);
            vec![dx]
        };
        check_gradients(&[x], forward, backward, 3e-3);
    }

    #[test]
    fn columns_are_normalised_head_by_head_and_have_a_gradient() {
        let norm = RmsNorm::new(&noise(4, 2), 1e-5);
        let rows = noise(3 * 13, 1);
        let mut got = rows.clone();
        norm.apply_columns(&mut got, 13, 2..10);
        let heads: Vec<f32> = rows.chunks(13).flat_map(|row| &row[2..10]).copied().collect();
        let mut want = vec![0.0; 24];
        norm.apply(&heads, &mut want);
        let cut: Vec<f32> = got.chunks(13).flat_map(|row| &row[2..10]).copied().collect();
        assert!(distance(&cut, &want) < 1e-6);
        assert!(got.chunks(13).zip(rows.chunks(13)).all(|(a, b)| a[..2] == b[..2] && a[10..] == b[10..]));
        let forward = |t: &[Tensor]| {
            let mut row = values(&t[0]);
            norm.apply_columns(&mut row, 8, 0..8);
            row
        };
        let backward = |t: &[Tensor], dy: &[f32]| {
            let mut dx = dy.to_vec();
            norm.columns_backward(&values(&t[0]), 8, &mut dx, 8, 0..8);
            vec![dx]
        };
        check_gradients(&[tensor(&[3, 8], 5)], forward, backward, 3e-3);
    }
}
