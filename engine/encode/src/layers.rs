//! What the layers of all encoders are made of: products, heads, tables.

use crate::shape::Shape;
use crate::weights::Weights;
use querywright_kernels::{FrozenLinear, Heads, Placed, apply};
use querywright_types::{Error, Result};

/// The heads of a model's attention.
pub(crate) fn heads(shape: &Shape) -> Heads {
    let dim = shape.hidden_size / shape.heads;
    Heads { queries: shape.heads, keys: shape.heads, dim, scale: 1.0 / (dim as f32).sqrt(), bf16: false }
}

/// `x Wᵀ + b` of layers side by side.
pub(crate) fn products(layers: &[&FrozenLinear], x: &[f32]) -> Vec<f32> {
    let stride = layers.iter().map(|layer| layer.output()).sum();
    let rows = layers.first().map_or(0, |layer| x.len() / layer.input());
    let mut y = vec![0.0; rows * stride];
    let mut placed = Vec::with_capacity(layers.len());
    let mut column = 0;
    for layer in layers {
        placed.push(Placed { layer, delta: None, column });
        column += layer.output();
    }
    apply(&placed, x, &mut y, stride, false);
    y
}

/// Adds `x Wᵀ + b` to `y`.
pub(crate) fn add_product(layer: &FrozenLinear, x: &[f32], y: &mut [f32]) {
    apply(&[Placed { layer, delta: None, column: 0 }], x, y, layer.output(), true);
}

/// The rows of a table.
pub(crate) struct Table {
    values: Vec<f32>,
    width: usize,
}

impl Table {
    pub(crate) fn load(weights: &mut Weights<'_>, name: &str, rows: usize, width: usize) -> Result<Self> {
        Ok(Self { values: weights.tensor(name, &[rows, width])?, width })
    }

    /// Adds a row of it.
    pub(crate) fn add(&self, row: usize, to: &mut [f32]) -> Result<()> {
        let found = row.checked_mul(self.width).and_then(|from| self.values.get(from..from + self.width));
        let found = found.ok_or_else(|| Error::bug("encoder", format!("row {row} of a table that is shorter")))?;
        to.iter_mut().zip(found).for_each(|(to, value)| *to += value);
        Ok(())
    }
}
