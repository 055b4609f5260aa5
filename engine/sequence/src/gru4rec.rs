//! GRU4Rec: a gated recurrent network over the items of a history, and what its last state says.
//!
//! ```text
//! r, z = σ(W_ir x + W_hr h), σ(W_iz x + W_hz h)
//! n = tanh(W_in x + r * W_hn h)
//! h = (1 - z) * n + z * h
//! next = dense(h)
//! ```
//!
//! The order of the gates in the weights is PyTorch's: r, z, n. There are no biases in the recurrence, as in RecBole.

use candle_core::{Result, Tensor};
use candle_nn::ops::sigmoid;
use candle_nn::{Linear, Module};

use crate::config::Gru4recConfig;
use crate::dropout::Dropout;
use crate::layers::{ITEMS, Start, Weight, Weights, embedded, linear, weight};

const DENSE: &str = "dense";

pub(crate) struct Gru4rec {
    config: Gru4recConfig,
    items: Tensor,
    layers: Vec<Layer>,
    dense: Linear,
}

fn names(layer: usize) -> [String; 2] {
    ["ih", "hh"].map(|part| format!("gru_layers.weight_{part}_l{layer}"))
}

impl Gru4rec {
    /// They begin as RecBole's: Xavier for the items and the first layer, and PyTorch's own beginning for the others.
    pub(crate) fn weights(config: &Gru4recConfig, items: usize) -> Vec<Weight> {
        let (width, hidden) = (config.embedding_size, config.hidden_size);
        let usual = 1.0 / (hidden as f64).sqrt();
        let items_start = Start::Normal((2.0 / (items + width) as f64).sqrt());
        let mut weights = vec![(ITEMS.to_owned(), vec![items, width], items_start)];
        for layer in 0..config.num_layers {
            let read = [if layer == 0 { width } else { hidden }, hidden];
            for (name, read) in names(layer).into_iter().zip(read) {
                let bound = if layer == 0 { (6.0 / (read + 3 * hidden) as f64).sqrt() } else { usual };
                weights.push((name, vec![3 * hidden, read], Start::Uniform(bound)));
            }
        }
        weights.push((format!("{DENSE}.weight"), vec![width, hidden], Start::Uniform(usual)));
        weights.push((format!("{DENSE}.bias"), vec![width], Start::Uniform(usual)));
        weights
    }

    pub(crate) fn new(config: Gru4recConfig, weights: &Weights) -> Result<Self> {
        let layer = |number: usize| -> Result<Layer> {
            let [inputs, states] = names(number);
            Ok(Layer {
                inputs: weight(weights, &inputs)?,
                states: weight(weights, &states)?,
                hidden: config.hidden_size,
            })
        };
        Ok(Self {
            items: weight(weights, ITEMS)?,
            layers: (0..config.num_layers).map(layer).collect::<Result<_>>()?,
            dense: linear(weights, DENSE)?,
            config,
        })
    }

    pub(crate) fn items(&self) -> &Tensor {
        &self.items
    }

    /// The vectors of what comes next: (rows, width).
    pub(crate) fn next(&self, histories: &Tensor, dropout: &mut Dropout) -> Result<Tensor> {
        // Place by place: what is computed at one place lies together.
        let vectors = embedded(&self.items, &histories.t()?.contiguous()?)?;
        let mut places = each(&dropout.apply(vectors, self.config.dropout_prob)?)?;
        for layer in &self.layers {
            places = layer.forward(&places)?;
        }
        let newest = places.last().ok_or_else(|| candle_core::Error::Msg("a history is empty".to_owned()))?;
        self.dense.forward(newest)
    }
}

struct Layer {
    inputs: Tensor,
    states: Tensor,
    hidden: usize,
}

impl Layer {
    /// The states at all places, each (rows, hidden).
    fn forward(&self, places: &[Tensor]) -> Result<Vec<Tensor>> {
        let (inputs, weights) = (self.inputs.t()?, self.states.t()?);
        let mut states: Vec<Tensor> = Vec::with_capacity(places.len());
        for place in places {
            let read = place.matmul(&inputs)?;
            let before = match states.last() {
                Some(state) => state.clone(),
                None => Tensor::zeros((place.dim(0)?, self.hidden), place.dtype(), place.device())?,
            };
            let kept = before.matmul(&weights)?;
            let gate = |of: &Tensor, number: usize| of.narrow(1, number * self.hidden, self.hidden);
            let reset = sigmoid(&(gate(&read, 0)? + gate(&kept, 0)?)?)?;
            let update = sigmoid(&(gate(&read, 1)? + gate(&kept, 1)?)?)?;
            let new = (gate(&read, 2)? + (reset * gate(&kept, 2)?)?)?.tanh()?;
            states.push((&new + (update * (before - &new)?)?)?);
        }
        Ok(states)
    }
}

/// The parts of a tensor along its first dimension. By halves: the gradient of a part is as large as what it was taken from.
fn each(values: &Tensor) -> Result<Vec<Tensor>> {
    let count = values.dim(0)?;
    if count < 2 {
        return Ok(vec![values.squeeze(0)?]);
    }
    let half = count / 2;
    let mut parts = each(&values.narrow(0, 0, half)?)?;
    parts.extend(each(&values.narrow(0, half, count - half)?)?);
    Ok(parts)
}
