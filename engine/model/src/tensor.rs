//! A tensor as files hold it, in single precision.

use rayon::prelude::*;

use querywright_types::{Error, Result};

/// Values in single precision, row by row.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    values: Vec<f32>,
    shape: Vec<usize>,
}

impl Tensor {
    /// Values of a shape.
    ///
    /// # Errors
    /// Another count of values than the shape has.
    pub(super) fn new(values: Vec<f32>, shape: &[usize]) -> Result<Self> {
        if values.len() != shape.iter().product::<usize>() {
            return Err(Error::bug("tensor", format!("{} values for a shape of {shape:?}", values.len())));
        }
        Ok(Self { values, shape: shape.to_vec() })
    }

    /// Its sizes.
    pub(super) fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The values, row by row.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The values without a copy.
    pub fn into_values(self) -> Vec<f32> {
        self.values
    }

    /// The first value that is NaN or infinite, with its place.
    pub fn not_finite(&self) -> Option<(usize, f32)> {
        /// Of this many values at once it is asked whether one is not finite: without a branch, in vectors.
        const PIECE: usize = 1 << 12;
        const EXPONENT: u32 = 0x7f80_0000;
        let bad =
            |piece: &&[f32]| piece.iter().fold(false, |bad, value| bad | (value.to_bits() & EXPONENT == EXPONENT));
        // All pieces are looked at on all threads; almost always there is nothing to find.
        let (piece, values) = self.values.par_chunks(PIECE).enumerate().find_first(|(_, piece)| bad(piece))?;
        values.iter().position(|value| !value.is_finite()).map(|at| (piece * PIECE + at, values[at]))
    }

    /// (rows, columns)
    ///
    /// # Errors
    /// A tensor that is no matrix.
    pub(super) fn matrix(&self) -> Result<(usize, usize)> {
        match *self.shape {
            [rows, columns] => Ok((rows, columns)),
            _ => Err(Error::bug("tensor", format!("a shape of {:?} where a matrix belongs", self.shape))),
        }
    }
}
