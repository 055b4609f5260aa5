//! The encoders themselves: the vectors of the tokens of some texts, by our own kernels.
//!
//! Texts lie one behind the other without padding; all but attention goes over their tokens as if they were one text. A
//! row is summed in one order, so that the vectors of a text are the same, bit for bit, whatever is computed beside it.

use std::path::Path;

use crate::bert::Bert;
use crate::modernbert::ModernBert;
use crate::shape::{Architecture, Shape, Window};
use crate::weights::Weights;
use querywright_kernels::{FrozenLinear, Heads, Placed, Precision, apply};
use querywright_model::files::Folder;
use querywright_types::{Error, Result};

/// An encoder in memory.
pub(crate) enum Backbone {
    /// BERT, RoBERTa and DistilBERT.
    Bert(Bert),
    Modern(ModernBert),
}

impl Backbone {
    pub(crate) fn load(folder: &Folder, path: &Path, shape: &Shape, precision: Precision) -> Result<Self> {
        let mut weights = Weights::of(folder, path, shape.architecture, precision);
        let model = match (shape.architecture, &shape.window) {
            (Architecture::ModernBert, Some(window)) => Self::Modern(ModernBert::load(&mut weights, shape, window)?),
            (Architecture::ModernBert, None) => return Err(Error::bug("encoder", "a ModernBERT without its windows")),
            _ => Self::Bert(Bert::load(&mut weights, shape)?),
        };
        weights.finish(shape)?;
        Ok(model)
    }

    /// The vectors of the tokens of some texts, text by text and token by token.
    pub(crate) fn forward(&self, texts: &[&[u32]]) -> Result<Vec<f32>> {
        match self {
            Self::Bert(model) => model.forward(texts),
            Self::Modern(model) => model.forward(texts),
        }
    }
}

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

/// The kind of a ModernBERT's layer: how far a row sees, none for everything, and the base of its rotary positions.
pub(crate) fn kind(window: &Window, layer: usize) -> (Option<usize>, f64) {
    if layer.is_multiple_of(window.global_every) {
        (None, window.global_theta)
    } else {
        (Some(window.tokens / 2), window.local_theta)
    }
}
