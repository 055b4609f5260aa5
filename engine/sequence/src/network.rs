//! What both networks share: weights by name, the loss, layer norm, and how weights begin.

use std::collections::BTreeMap;

use candle_core::{D, DType, Device, Result, Tensor, Var};
use candle_nn::Linear;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::config::{SequenceConfig, SequenceModel};
use crate::dropout::Dropout;
use crate::{gru4rec::Gru4rec, sasrec::Sasrec};

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

/// All weights of a model over so many items, in the order in which they begin.
pub(crate) fn weights(model: SequenceModel, config: &SequenceConfig, items: usize) -> Vec<Weight> {
    match model {
        SequenceModel::Sasrec => Sasrec::weights(&config.sasrec, config.max_seq_length, items),
        SequenceModel::Gru4rec => Gru4rec::weights(&config.gru4rec, items),
    }
}

/// New weights, decided by the seed.
pub(crate) fn begin(weights: &[Weight], seed: u64) -> Result<BTreeMap<String, Var>> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    // Dropout counts its streams from 0.
    random.set_stream(u64::MAX - 1);
    let mut vars = BTreeMap::new();
    for (name, shape, start) in weights {
        let mut value = || match *start {
            Start::Constant(value) => value,
            Start::Uniform(bound) => bound * (2.0 * random.random::<f64>() - 1.0),
            // Box and Muller; 1 minus a number below 1 has a logarithm.
            Start::Normal(deviation) => {
                let (one, other): (f64, f64) = (1.0 - random.random::<f64>(), random.random());
                deviation * (-2.0 * one.ln()).sqrt() * (std::f64::consts::TAU * other).cos()
            }
        };
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| value() as f32).collect();
        vars.insert(name.clone(), Var::from_vec(values, shape.as_slice(), &Device::Cpu)?);
    }
    Ok(vars)
}

/// A network over weights. With those of variables it can be differentiated.
pub(crate) enum Network {
    Sasrec(Sasrec),
    Gru4rec(Gru4rec),
}

impl Network {
    pub(crate) fn new(model: SequenceModel, config: &SequenceConfig, weights: &Weights) -> Result<Self> {
        Ok(match model {
            SequenceModel::Sasrec => Self::Sasrec(Sasrec::new(config.sasrec.clone(), weights)?),
            SequenceModel::Gru4rec => Self::Gru4rec(Gru4rec::new(config.gru4rec.clone(), weights)?),
        })
    }

    /// The scores of all items after histories of one length, which are the rows of `histories`: (rows, items).
    pub(crate) fn scores(&self, histories: &Tensor, dropout: &mut Dropout) -> Result<Tensor> {
        let (next, items) = match self {
            Self::Sasrec(network) => (network.next(histories, dropout)?, network.items()),
            Self::Gru4rec(network) => (network.next(histories, dropout)?, network.items()),
        };
        next.matmul(&items.t()?)
    }

    /// The cross-entropy of what came next, summed over the rows.
    pub(crate) fn loss(&self, histories: &Tensor, next: &Tensor, dropout: &mut Dropout) -> Result<Tensor> {
        let scores = self.scores(histories, dropout)?;
        // The greatest score goes out of the sum and in again: it needs no gradient.
        let most = scores.max_keepdim(D::Minus1)?.detach();
        let all = (scores.broadcast_sub(&most)?.exp()?.sum_keepdim(D::Minus1)?.log()? + most)?;
        (all - scores.gather(&next.unsqueeze(1)?, 1)?)?.sum_all()
    }
}

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

/// Histories of one length, one behind the other, as rows.
pub(crate) fn rows(histories: &[&[u32]]) -> Result<Tensor> {
    let length = histories.first().map_or(0, |history| history.len());
    Tensor::from_vec(histories.concat(), (histories.len(), length), &Device::Cpu)
}

/// The values of a tensor, row by row.
pub(crate) fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
}

#[cfg(test)]
pub(crate) mod tests;
