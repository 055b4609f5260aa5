//! The networks: how their weights begin, their scores and their loss.

use std::collections::BTreeMap;

use candle_core::{D, Device, Result, Tensor, Var};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::config::{SequenceConfig, SequenceModel};
use crate::dropout::Dropout;
use crate::layers::{Start, Weight, Weights};
use crate::{gru4rec::Gru4rec, sasrec::Sasrec};

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

/// Histories of one length, one behind the other, as rows.
pub(crate) fn rows(histories: &[&[u32]]) -> Result<Tensor> {
    let length = histories.first().map_or(0, |history| history.len());
    Tensor::from_vec(histories.concat(), (histories.len(), length), &Device::Cpu)
}

#[cfg(test)]
pub(crate) mod tests;
