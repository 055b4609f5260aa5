//! An adapter added to the weights that it was trained beside: `W + alpha / r · B · A`.

use rayon::prelude::*;

use super::{Adapter, Pair};
use crate::tensor::Tensor;
use querywright_types::{Error, Result};

impl Adapter {
    /// Adds what the adapter does to a layer to that layer's weights, in single precision. Gives the sum of the squares of
    /// what was added; none where the adapter leaves the tensor as it is.
    pub(crate) fn add_to(&self, hf_name: &str, weights: Tensor) -> Result<(Tensor, Option<f64>)> {
        let is_own = |pair: &&Pair| {
            let place = format!("model.layers.{}.{}.weight", pair.layer, pair.projection.path());
            place == hf_name
        };
        let Some(pair) = self.pairs.iter().find(is_own) else { return Ok((weights, None)) };
        let (rows, columns) = weights.matrix()?;
        let rank = pair.rank();
        if pair.a.shape != [rank, columns] || pair.b.shape != [rows, rank] {
            let found =
                format!("factors of {:?} and {:?} for {hf_name} of {rows} x {columns}", pair.b.shape, pair.a.shape);
            return Err(Error::argument("adapter", found, "use the adapter with the model it was trained on"));
        }
        let scale = pair.alpha / rank as f32;
        let shape = weights.shape().to_vec();
        let mut values = weights.into_values();
        let add = |(row, of_row): (&mut [f32], &[f32])| {
            let mut delta = vec![0.0f32; columns];
            for (b, a) in of_row.iter().zip(pair.a.values.chunks_exact(columns)) {
                let factor = b * scale;
                delta.iter_mut().zip(a).for_each(|(sum, a)| *sum += factor * a);
            }
            row.iter_mut().zip(&delta).for_each(|(weight, delta)| *weight += delta);
            delta.iter().map(|d| f64::from(*d) * f64::from(*d)).sum::<f64>()
        };
        let rows = values.par_chunks_exact_mut(columns).zip(pair.b.values.par_chunks_exact(rank));
        // Collected first, so that the sum does not depend on the threads.
        let squares: Vec<f64> = rows.map(add).collect();
        Ok((Tensor::new(values, &shape)?, Some(squares.iter().sum())))
    }
}
