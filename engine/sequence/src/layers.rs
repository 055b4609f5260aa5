//! What both networks are made of: weights by name, and layers that candle differentiates.

use std::collections::BTreeMap;

use candle_core::{D, DType, Result, Tensor};
use candle_nn::Linear;

/// Weights under the names that RecBole's models give them.
pub(crate) type Weights = BTreeMap<String, Tensor>;

/// The vectors of the items, one a row. RecBole's have one row more, the first, for padding; there is none here.
pub(crate) const ITEMS: &str = "item_embedding.weight";

/// How a weight begins.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Start {
    /// All the same.
    Constant(f64),
    /// From a normal distribution of this deviation.
    Normal(f64),
    /// Evenly from minus this to this.
    Uniform(f64),
}

/// The name, the shape and the beginning of a weight.
pub(crate) type Weight = (String, Vec<usize>, Start);

pub(crate) fn weight(weights: &Weights, name: &str) -> Result<Tensor> {
    let missing = || candle_core::Error::CannotFindTensor { path: name.to_owned() };
    weights.get(name).cloned().ok_or_else(missing)
}

pub(crate) fn linear(weights: &Weights, name: &str) -> Result<Linear> {
    Ok(Linear::new(weight(weights, &format!("{name}.weight"))?, Some(weight(weights, &format!("{name}.bias"))?)))
}

/// The vectors of items, in their shape with a width behind it.
pub(crate) fn embedded(items: &Tensor, numbers: &Tensor) -> Result<Tensor> {
    let mut shape = numbers.dims().to_vec();
    shape.push(items.dim(1)?);
    items.index_select(&numbers.flatten_all()?, 0)?.reshape(shape)
}

/// Layer norm out of parts that candle differentiates; its own is fused and has no backward pass.
pub(crate) struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
}

impl LayerNorm {
    /// What is added to the variance. RecBole's `layer_norm_eps`.
    const EPSILON: f64 = 1e-12;

    pub(crate) fn new(weights: &Weights, name: &str) -> Result<Self> {
        let of = |part: &str| weight(weights, &format!("{name}.{part}"));
        Ok(Self { weight: of("weight")?, bias: of("bias")? })
    }

    pub(crate) fn forward(&self, values: &Tensor) -> Result<Tensor> {
        let centred = values.broadcast_sub(&values.mean_keepdim(D::Minus1)?)?;
        let deviation = (centred.sqr()?.mean_keepdim(D::Minus1)? + Self::EPSILON)?.sqrt()?;
        centred.broadcast_div(&deviation)?.broadcast_mul(&self.weight)?.broadcast_add(&self.bias)
    }
}

/// The values of a tensor, row by row.
pub(crate) fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
}
