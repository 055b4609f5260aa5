//! One decoder for the Llama family and Qwen 2, 2.5 and 3.
//!
//! [`HostDecoder::forward`] continues sequences by new tokens; where a [`Recording`] is given, what the way back needs is
//! kept in it. [`HostDecoder::backward`] goes that way. Sampler and trainer read the same packed weights in the same pass,
//! so what was sampled can be learned from without computing it again.

mod backward;
mod recording;

pub use backward::{Objective, Predictions};
pub use recording::Recording;

use super::adapter::Projection;
use super::config::ModelConfig;
use super::source::ModelSource;
use crate::error::{Error, Result};
use crate::kernels::{
    Cache, Continuation, FrozenLinear, Heads, LoraDelta, LoraGradient, Placed, Precision, RmsNorm, RopeTable,
    TokenStatistics, apply, attend, log_probabilities, swiglu,
};
use recording::LayerRecord;

/// The low-rank deltas of every layer, by [`Projection`]. Empty: the base model alone.
pub type Deltas = [[Option<LoraDelta>; Projection::COUNT]];

/// The gradients of [`Deltas`], in the same places.
pub type Gradients = [[Option<LoraGradient>; Projection::COUNT]];

/// A decoder with frozen, packed base weights.
#[derive(Debug)]
pub struct HostDecoder {
    config: ModelConfig,
    /// (vocabulary, hidden), row by row.
    embedding: Vec<f32>,
    layers: Vec<Layer>,
    norm: RmsNorm,
    head: FrozenLinear,
    rope: RopeTable,
    heads: Heads,
    spare: recording::Spare,
}

#[derive(Debug)]
struct Layer {
    attention_norm: RmsNorm,
    mlp_norm: RmsNorm,
    query_norm: Option<RmsNorm>,
    key_norm: Option<RmsNorm>,
    /// By [`Projection`].
    linear: [FrozenLinear; Projection::COUNT],
}

impl HostDecoder {
    /// Whether distributions that are drawn from are worth keeping for the way back: where the head multiplies in bf16,
    /// they take half the room of logits.
    pub(crate) fn keeps_distributions(&self) -> bool {
        self.head.is_bf16()
    }

    /// Reads and packs all weights. `progress` is told after each layer how many of how many are done.
    pub fn load(source: &ModelSource, precision: Precision, progress: &dyn Fn(usize, usize)) -> Result<Self> {
        let config = source.config().clone();
        let norm = |name: &str| Ok::<_, Error>(RmsNorm::new(&source.tensor(name)?, config.rms_norm_eps)?);
        let mut layers = Vec::with_capacity(config.num_hidden_layers);
        for index in 0..config.num_hidden_layers {
            let prefix = format!("model.layers.{index}");
            let linear = |projection: Projection| -> Result<FrozenLinear> {
                let name = format!("{prefix}.{}", projection.path());
                let weight = source.tensor(&format!("{name}.weight"))?;
                let bias_name = format!("{name}.bias");
                let bias = source.has(&bias_name).then(|| source.tensor(&bias_name)).transpose()?;
                Ok(FrozenLinear::new(&weight, bias.as_ref(), precision)?)
            };
            let [q, k, v, o, gate, up, down] = Projection::ALL.map(linear);
            layers.push(Layer {
                attention_norm: norm(&format!("{prefix}.input_layernorm.weight"))?,
                mlp_norm: norm(&format!("{prefix}.post_attention_layernorm.weight"))?,
                query_norm: config.qk_norm.then(|| norm(&format!("{prefix}.self_attn.q_norm.weight"))).transpose()?,
                key_norm: config.qk_norm.then(|| norm(&format!("{prefix}.self_attn.k_norm.weight"))).transpose()?,
                linear: [q?, k?, v?, o?, gate?, up?, down?],
            });
            progress(index + 1, config.num_hidden_layers);
        }
        let table = source.tensor("model.embed_tokens.weight")?;
        let head = match config.tie_word_embeddings {
            true => FrozenLinear::new(&table, None, precision)?,
            false => FrozenLinear::new(&source.tensor("lm_head.weight")?, None, precision)?,
        };
        let embedding = table.flatten_all()?.to_vec1::<f32>()?;
        let norm = norm("model.norm.weight")?;
        let rope = RopeTable::new(config.rope_frequencies());
        let heads = Heads {
            queries: config.num_attention_heads,
            keys: config.num_key_value_heads,
            dim: config.head_dim,
            bf16: head.is_bf16(),
        };
        Ok(Self { config, embedding, layers, norm, head, rope, heads, spare: Default::default() })
    }

    /// The model's shapes.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Hidden states after the last norm (rows, hidden) of new tokens, `rows[i]` of them continuing `sequences[i]`.
    /// Where a recording is given, it takes up these rows behind those that it has.
    ///
    /// # Errors
    /// A token outside the vocabulary, a position outside the context, a recording without room.
    pub fn forward(
        &self,
        tokens: &[u32],
        sequences: &mut [Continuation],
        rows: &[usize],
        deltas: &Deltas,
        mut recording: Option<&mut Recording>,
    ) -> Result<Vec<f32>> {
        let positions: Vec<usize> =
            sequences.iter().zip(rows).flat_map(|(s, rows)| s.position()..s.position() + rows).collect();
        let limit = self.config.max_position_embeddings;
        if let Some(last) = positions.iter().max().filter(|p| **p >= limit) {
            return Err(Error::argument(
                "prompt",
                format!("position {last} lies outside the model's context of {limit} tokens"),
                "shorten the prompt or lower max_completion_length",
            ));
        }
        let mut x = self.embed(tokens)?;
        let mut pass = Pass::new(self, tokens.len(), &positions);
        let mut scratch = match &mut recording {
            Some(recording) => {
                recording.begin(&positions)?;
                None
            }
            None => Some(LayerRecord::new(self, tokens.len())),
        };
        for (index, layer) in self.layers.iter().enumerate() {
            let record = match (&mut recording, &mut scratch) {
                (Some(recording), _) => recording.layer(index),
                (None, Some(scratch)) => scratch.rows_mut(tokens.len(), 0, tokens.len()),
                (None, None) => continue,
            };
            pass.layer(index, layer, deltas.get(index), &mut x, record, sequences, rows);
        }
        if let Some(recording) = &mut recording {
            recording.end(&x);
        }
        sequences.iter_mut().zip(rows).for_each(|(s, rows)| s.advance(*rows));
        self.norm.apply(&x, &mut pass.h);
        Ok(pass.h)
    }

    /// All logits (rows, vocabulary) of hidden states: for sampling.
    pub fn logits(&self, hidden: &[f32]) -> Vec<f32> {
        let mut logits = Vec::new();
        self.logits_into(hidden, &mut logits);
        logits
    }

    /// As [`logits`](Self::logits), into a buffer that is used again.
    pub fn logits_into(&self, hidden: &[f32], logits: &mut Vec<f32>) {
        logits.resize(hidden.len() / self.config.hidden_size * self.head.output(), 0.0);
        let head = [Placed { layer: &self.head, delta: None, column: 0 }];
        apply(&head, hidden, logits, self.head.output(), false);
    }

    /// Log-probability and entropy of each of `tokens` given the hidden state before it.
    ///
    /// # Errors
    /// A token outside the vocabulary.
    pub fn log_probabilities(&self, hidden: &[f32], tokens: &[u32], temperature: f32) -> Result<Vec<TokenStatistics>> {
        tokens.iter().try_for_each(|token| self.check(*token))?;
        Ok(log_probabilities(&self.head, hidden, tokens, temperature))
    }

    /// An empty continuation of cached stretches, the root first.
    pub fn continuation(&self, caches: Vec<std::sync::Arc<Cache>>) -> Continuation {
        Continuation::new(caches, self.layers.len())
    }

    /// The heads of its attention.
    pub fn heads(&self) -> Heads {
        self.heads
    }

    fn check(&self, token: u32) -> Result<()> {
        if (token as usize) < self.config.vocab_size {
            return Ok(());
        }
        Err(Error::argument(
            "tokens",
            format!("token {token} lies outside the vocabulary of {}", self.config.vocab_size),
            "use the tokenizer that belongs to this model",
        ))
    }

    fn embed(&self, tokens: &[u32]) -> Result<Vec<f32>> {
        let width = self.config.hidden_size;
        let mut rows = Vec::with_capacity(tokens.len() * width);
        for token in tokens {
            self.check(*token)?;
            rows.extend_from_slice(
                self.embedding.get(*token as usize * width..).and_then(|t| t.get(..width)).unwrap_or(&[]),
            );
        }
        Ok(rows)
    }
}

impl Layer {
    /// Projections that read the same rows, each writing its columns behind those of the one before.
    fn placed<'a>(
        &'a self,
        projections: &[Projection],
        deltas: Option<&'a [Option<LoraDelta>; Projection::COUNT]>,
    ) -> Vec<Placed<'a>> {
        let mut column = 0;
        let place = |p: &Projection| {
            let layer = &self.linear[*p as usize];
            let placed = Placed { layer, delta: deltas.and_then(|d| d[*p as usize].as_ref()), column };
            column += layer.output();
            placed
        };
        projections.iter().map(place).collect()
    }
}

const QKV: [Projection; 3] = [Projection::Query, Projection::Key, Projection::Value];
const GATE_UP: [Projection; 2] = [Projection::Gate, Projection::Up];

/// Buffers and angles of one pass over some rows.
struct Pass<'a> {
    decoder: &'a HostDecoder,
    angles: crate::kernels::Angles,
    /// (rows, hidden): what a block's layers read.
    h: Vec<f32>,
    /// (rows, intermediate): what the last layer of a block reads.
    activated: Vec<f32>,
}

impl<'a> Pass<'a> {
    fn new(decoder: &'a HostDecoder, rows: usize, positions: &[usize]) -> Self {
        let ModelConfig { hidden_size, intermediate_size, .. } = decoder.config;
        Self {
            decoder,
            angles: decoder.rope.angles(positions),
            h: vec![0.0; rows * hidden_size],
            activated: vec![0.0; rows * intermediate_size],
        }
    }

    /// One block: `x` is its input and becomes its output.
    #[allow(clippy::too_many_arguments, reason = "one block of a pass: weights, rows, and what they continue")]
    fn layer(
        &mut self,
        index: usize,
        layer: &Layer,
        deltas: Option<&[Option<LoraDelta>; Projection::COUNT]>,
        x: &mut [f32],
        record: LayerRecord<&mut [f32]>,
        sequences: &mut [Continuation],
        rows: &[usize],
    ) {
        let HostDecoder { heads, rope, config, .. } = self.decoder;
        let (heads, hidden, wide) = (*heads, config.hidden_size, config.intermediate_size);
        record.input.copy_from_slice(x);
        layer.attention_norm.apply(x, &mut self.h);
        apply(&layer.placed(&QKV, deltas), &self.h, record.qkv, heads.width(), false);
        let (q, k) = (heads.queries * heads.dim, heads.keys * heads.dim);
        if let (Some(query_norm), Some(key_norm)) = (&layer.query_norm, &layer.key_norm) {
            for (raw, row) in record.raw.chunks_exact_mut(q + k).zip(record.qkv.chunks_exact(heads.width())) {
                raw.copy_from_slice(&row[..q + k]);
            }
            query_norm.apply_columns(record.qkv, heads.width(), 0..q);
            key_norm.apply_columns(record.qkv, heads.width(), q..q + k);
        }
        rope.rotate(record.qkv, heads.width(), q + k, &self.angles);
        attend(index, record.qkv, heads, sequences, rows, record.attended, record.log_sums);
        apply(&layer.placed(&[Projection::Output], deltas), record.attended, x, hidden, true);
        record.middle.copy_from_slice(x);
        layer.mlp_norm.apply(x, &mut self.h);
        apply(&layer.placed(&GATE_UP, deltas), &self.h, record.gate_up, 2 * wide, false);
        swiglu(record.gate_up, wide, &mut self.activated);
        apply(&layer.placed(&[Projection::Down], deltas), &self.activated, x, hidden, true);
    }
}

#[cfg(test)]
mod tests;
