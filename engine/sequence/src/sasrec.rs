//! SASRec: self-attention from left to right over the items of a history, and the output at its newest item.
//!
//! ```text
//! x = dropout(norm(items + positions))
//! a = norm(x + dropout(dense(attention(x))))            in each layer
//! x = norm(a + dropout(dense_2(gelu(dense_1(a)))))
//! ```
//!
//! Positions count from the oldest item that is read, as in RecBole. Histories of one call have one length, so there is no
//! padding and no mask for it; and of the last layer only the newest item's row is computed, for nothing reads the others.

use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::ops::softmax;
use candle_nn::{Linear, Module};

use crate::config::SasrecConfig;
use crate::dropout::Dropout;
use crate::layers::{ITEMS, LayerNorm, Start, Weight, Weights, embedded, linear, weight};

/// The deviation of the weights in the beginning. RecBole's `initializer_range`.
const RANGE: f64 = 0.02;
const POSITIONS: &str = "position_embedding.weight";
const NORM: &str = "LayerNorm";

pub(crate) struct Sasrec {
    config: SasrecConfig,
    items: Tensor,
    positions: Tensor,
    norm: LayerNorm,
    layers: Vec<Layer>,
}

/// The names inside a layer.
fn names(layer: usize) -> [String; 8] {
    let of = |part: &str| format!("trm_encoder.layer.{layer}.{part}");
    [
        of("multi_head_attention.query"),
        of("multi_head_attention.key"),
        of("multi_head_attention.value"),
        of("multi_head_attention.dense"),
        of("multi_head_attention.LayerNorm"),
        of("feed_forward.dense_1"),
        of("feed_forward.dense_2"),
        of("feed_forward.LayerNorm"),
    ]
}

impl Sasrec {
    pub(crate) fn weights(config: &SasrecConfig, length: usize, items: usize) -> Vec<Weight> {
        let (width, inner) = (config.hidden_size, config.inner_size);
        let mut weights = vec![
            (ITEMS.to_owned(), vec![items, width], Start::Normal(RANGE)),
            (POSITIONS.to_owned(), vec![length, width], Start::Normal(RANGE)),
        ];
        let mut pair = |name: &str, shape: Vec<usize>, start: Start| {
            let bias = shape.first().copied().unwrap_or_default();
            weights.push((format!("{name}.weight"), shape, start));
            weights.push((format!("{name}.bias"), vec![bias], Start::Constant(0.0)));
        };
        for layer in 0..config.n_layers {
            let [query, key, value, dense, norm, dense_1, dense_2, last] = names(layer);
            for name in [query, key, value, dense] {
                pair(&name, vec![width, width], Start::Normal(RANGE));
            }
            pair(&norm, vec![width], Start::Constant(1.0));
            pair(&dense_1, vec![inner, width], Start::Normal(RANGE));
            pair(&dense_2, vec![width, inner], Start::Normal(RANGE));
            pair(&last, vec![width], Start::Constant(1.0));
        }
        pair(NORM, vec![width], Start::Constant(1.0));
        weights
    }

    pub(crate) fn new(config: SasrecConfig, weights: &Weights) -> Result<Self> {
        Ok(Self {
            items: weight(weights, ITEMS)?,
            positions: weight(weights, POSITIONS)?,
            norm: LayerNorm::new(weights, NORM)?,
            layers: (0..config.n_layers).map(|layer| Layer::new(weights, layer)).collect::<Result<_>>()?,
            config,
        })
    }

    pub(crate) fn items(&self) -> &Tensor {
        &self.items
    }

    /// The vectors of what comes next: (rows, width).
    pub(crate) fn next(&self, histories: &Tensor, dropout: &mut Dropout) -> Result<Tensor> {
        let length = histories.dim(1)?;
        let placed = embedded(&self.items, histories)?.broadcast_add(&self.positions.narrow(0, 0, length)?)?;
        let mut x = dropout.apply(self.norm.forward(&placed)?, self.config.hidden_dropout_prob)?;
        for (number, layer) in self.layers.iter().enumerate() {
            let first = if number + 1 == self.layers.len() { length - 1 } else { 0 };
            x = layer.forward(&x, first, &self.config, dropout)?;
        }
        x.squeeze(1)
    }
}

struct Layer {
    query: Linear,
    key: Linear,
    value: Linear,
    dense: Linear,
    norm: LayerNorm,
    dense_1: Linear,
    dense_2: Linear,
    last_norm: LayerNorm,
}

impl Layer {
    fn new(weights: &Weights, layer: usize) -> Result<Self> {
        let [query, key, value, dense, norm, dense_1, dense_2, last_norm] = names(layer);
        Ok(Self {
            query: linear(weights, &query)?,
            key: linear(weights, &key)?,
            value: linear(weights, &value)?,
            dense: linear(weights, &dense)?,
            norm: LayerNorm::new(weights, &norm)?,
            dense_1: linear(weights, &dense_1)?,
            dense_2: linear(weights, &dense_2)?,
            last_norm: LayerNorm::new(weights, &last_norm)?,
        })
    }

    /// The rows of the places from `first` on: (rows, length - first, width).
    fn forward(&self, x: &Tensor, first: usize, config: &SasrecConfig, dropout: &mut Dropout) -> Result<Tensor> {
        let (rows, length, width) = x.dims3()?;
        let asking = x.narrow(1, first, length - first)?.contiguous()?;
        let heads = |values: Tensor| -> Result<Tensor> {
            let places = values.dim(1)?;
            values.reshape((rows, places, config.n_heads, width / config.n_heads))?.transpose(1, 2)?.contiguous()
        };
        let query = heads(self.query.forward(&asking)?)?;
        let key = heads(self.key.forward(x)?)?;
        let value = heads(self.value.forward(x)?)?;
        let scale = 1.0 / ((width / config.n_heads) as f64).sqrt();
        let scores = (query.matmul(&key.transpose(2, 3)?.contiguous()?)? * scale)?;
        let scores = scores.broadcast_add(&mask(first, length, x.dtype())?)?;
        let attention = dropout.apply(softmax(&scores, D::Minus1)?, config.attn_dropout_prob)?;
        let context =
            attention.matmul(&value)?.transpose(1, 2)?.contiguous()?.reshape((rows, length - first, width))?;
        let dense = dropout.apply(self.dense.forward(&context)?, config.hidden_dropout_prob)?;
        let attended = self.norm.forward(&(dense + asking)?)?;
        let inner = self.dense_1.forward(&attended)?.gelu_erf()?;
        let outer = dropout.apply(self.dense_2.forward(&inner)?, config.hidden_dropout_prob)?;
        self.last_norm.forward(&(outer + attended)?)
    }
}

/// What is added to the scores of attention: nothing for what came before, so much that nothing is left for what comes
/// after. RecBole's value.
fn mask(first: usize, length: usize, kind: DType) -> Result<Tensor> {
    let row = |place: usize| (0..length).map(move |other| if other <= place { 0.0_f32 } else { -10_000.0 });
    let mask: Vec<f32> = (first..length).flat_map(row).collect();
    Tensor::from_vec(mask, (length - first, length), &Device::Cpu)?.to_dtype(kind)
}
