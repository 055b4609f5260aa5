//! Low-rank deltas of linear layers, and their gradients.

use std::sync::{Arc, OnceLock};

use super::packed::{PackedMatrix, Precision};
use querywright_types::{Error, Result};

/// A low-rank delta `scale · x Aᵀ Bᵀ` (LoRA, arXiv 2106.09685, eq. 3; `scale` is alpha / r).
#[derive(Debug, Clone)]
pub struct LoraDelta(Arc<Delta>);

#[derive(Debug)]
struct Delta {
    /// (rank, input)
    a: Vec<f32>,
    /// (output, rank)
    b: Vec<f32>,
    rank: usize,
    scale: f32,
    /// Packed for layers in f32, and for those in bf16, at the first use.
    packed: [OnceLock<PackedDelta>; 2],
}

/// The factors of a delta in the four orientations, the scale in those of B.
#[derive(Debug)]
pub(super) struct PackedDelta {
    /// Aᵀ: input to rank.
    pub(super) down: PackedMatrix,
    /// s Bᵀ: rank to output.
    pub(super) up: PackedMatrix,
    /// s B: output gradient to rank.
    pub(super) backward_down: PackedMatrix,
    /// A: rank to input gradient.
    pub(super) backward_up: PackedMatrix,
}

/// The gradients of a delta's factors.
#[derive(Debug, Clone)]
pub struct LoraGradient {
    /// (rank, input)
    pub a: Vec<f32>,
    /// (rank, output): the transpose of B's shape.
    pub(super) b_transposed: Vec<f32>,
    rank: usize,
}

impl LoraGradient {
    /// Zeros in the shape of a delta.
    pub fn zeros(delta: &LoraDelta) -> Self {
        let Delta { a, b, rank, .. } = &*delta.0;
        Self { a: vec![0.0; a.len()], b_transposed: vec![0.0; b.len()], rank: *rank }
    }

    /// The gradient of B, (output, rank).
    pub fn b(&self) -> Vec<f32> {
        let output = self.b_transposed.len() / self.rank;
        (0..self.b_transposed.len()).map(|i| self.b_transposed[i % self.rank * output + i / self.rank]).collect()
    }
}

impl LoraDelta {
    /// From A of shape (rank, input) and B of shape (output, rank). The values are copied: a new delta is made after
    /// each step of the optimiser.
    ///
    /// # Errors
    /// A rank of 0, factors that are no matrices of this rank.
    pub fn new(a: &[f32], b: &[f32], rank: usize, scale: f32) -> Result<Self> {
        if rank == 0 || !a.len().is_multiple_of(rank) || !b.len().is_multiple_of(rank) {
            let found = format!("factors of {} and {} values for a rank of {rank}", a.len(), b.len());
            return Err(Error::bug("low-rank delta", found));
        }
        let (a, b) = (a.to_vec(), b.to_vec());
        Ok(Self(Arc::new(Delta { a, b, rank, scale, packed: [OnceLock::new(), OnceLock::new()] })))
    }

    /// A (rank, input) and B (output, rank).
    pub fn factors(&self) -> (&[f32], &[f32]) {
        (&self.0.a, &self.0.b)
    }

    /// Its rank.
    pub fn rank(&self) -> usize {
        self.0.rank
    }

    /// What `x Aᵀ Bᵀ` is multiplied by.
    pub fn scale(&self) -> f32 {
        self.0.scale
    }

    /// Whether it is a clone of another one.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The factors packed for layers in bf16 or in f32.
    pub(super) fn packed(&self, bf16: bool) -> &PackedDelta {
        let Delta { a, b, rank, scale, packed } = &*self.0;
        let (rank, scale) = (*rank, *scale);
        let precision = if bf16 { Precision::Bf16 } else { Precision::F32 };
        let (input, output) = (a.len() / rank, b.len() / rank);
        let cell = &packed[usize::from(bf16)];
        if let Some(packed) = cell.get() {
            return packed;
        }
        // Outside the cell, as in `FrozenLinear::backward_matrix`.
        let packed = PackedDelta {
            down: PackedMatrix::pack(input, rank, precision, |i, j| a[j * input + i]),
            up: PackedMatrix::pack(rank, output, precision, |i, j| scale * b[j * rank + i]),
            backward_down: PackedMatrix::pack(output, rank, precision, |i, j| scale * b[i * rank + j]),
            backward_up: PackedMatrix::pack(rank, input, precision, |i, j| a[i * input + j]),
        };
        cell.get_or_init(|| packed)
    }
}
