//! One decoder for the Llama family and Qwen 2, 2.5 and 3.
//!
//! The layers exist once; what differs between training and generation is how they attend. [`Decoder::forward_tree`]
//! is differentiable and takes a packed tree of sequences; [`Decoder::forward_cached`] continues cached sequences.
//! Both read the same packed weights, so that sampler and trainer compute the same numbers.

use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::adapter::Projection;
use super::config::ModelConfig;
use super::source::ModelSource;
use crate::error::{Error, Result};
use crate::kernels::{
    Continuation, FrozenLinear, HeadOptions, LoraDelta, PackedTree, Precision, RmsNorm, RopeTable, attend_cached,
    attend_tree, log_probabilities, swiglu,
};

/// The low-rank deltas of every layer, by [`Projection`]. Empty: the base model alone.
pub type Deltas = [[Option<LoraDelta>; Projection::COUNT]];

/// A decoder with frozen, packed base weights.
#[derive(Debug)]
pub struct Decoder {
    config: ModelConfig,
    /// (vocabulary, hidden), row by row.
    embedding: Vec<f32>,
    layers: Vec<Layer>,
    norm: RmsNorm,
    head: FrozenLinear,
    rope: RopeTable,
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

impl Decoder {
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
        Ok(Self { config, embedding, layers, norm, head, rope })
    }

    /// The model's shapes.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Hidden states after the last norm (rows, hidden) of a packed tree of tokens. Differentiable in the deltas that
    /// are variables.
    pub fn forward_tree(&self, tokens: &[u32], tree: &Arc<PackedTree>, deltas: &Deltas) -> Result<Tensor> {
        if tokens.len() != tree.rows() {
            return Err(Error::argument(
                "tokens",
                format!("{} tokens for a tree of {} rows", tokens.len(), tree.rows()),
                "give one token a row",
            ));
        }
        self.run(tokens, &tree.positions(), deltas, |_, q, k, v| {
            Ok(attend_tree(&q, &k, &v, self.config.head_dim, tree)?)
        })
    }

    /// Hidden states after the last norm of new tokens, `rows[i]` of them continuing `sequences[i]`.
    pub fn forward_cached(
        &self,
        tokens: &[u32],
        sequences: &mut [Continuation],
        rows: &[usize],
        deltas: &Deltas,
    ) -> Result<Tensor> {
        let positions: Vec<usize> =
            sequences.iter().zip(rows).flat_map(|(s, rows)| s.position()..s.position() + rows).collect();
        let hidden = self.run(tokens, &positions, deltas, |layer, q, k, v| {
            Ok(attend_cached(layer, (&q, &k, &v), self.config.head_dim, sequences, rows)?)
        })?;
        sequences.iter_mut().zip(rows).for_each(|(s, rows)| s.advance(*rows));
        Ok(hidden)
    }

    /// All logits (rows, vocabulary) of hidden states: for sampling a few rows.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        Ok(self.head.apply(hidden, None)?)
    }

    /// Log-probabilities and entropies (rows, 2) of `tokens` given the hidden states before them.
    pub fn log_probabilities(&self, hidden: &Tensor, tokens: &[u32], options: HeadOptions) -> Result<Tensor> {
        Ok(log_probabilities(&self.head, hidden, tokens, options)?)
    }

    /// An empty continuation of cached stretches, the root first.
    pub fn continuation(&self, caches: Vec<Arc<crate::kernels::Cache>>) -> Continuation {
        Continuation::new(caches, self.layers.len())
    }

    fn run(
        &self,
        tokens: &[u32],
        positions: &[usize],
        deltas: &Deltas,
        mut attend: impl FnMut(usize, Tensor, Tensor, Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let limit = self.config.max_position_embeddings;
        if let Some(last) = positions.iter().max().filter(|p| **p >= limit) {
            return Err(Error::argument(
                "prompt",
                format!("position {last} lies outside the model's context of {limit} tokens"),
                "shorten the prompt or lower max_completion_length",
            ));
        }
        let angles = self.rope.angles(positions);
        let mut x = self.embed(tokens)?;
        for (index, layer) in self.layers.iter().enumerate() {
            let delta = |p: Projection| deltas.get(index).and_then(|d| d[p as usize].as_ref());
            let linear = |p: Projection, x: &Tensor| layer.linear[p as usize].apply(x, delta(p));
            let h = layer.attention_norm.apply(&x)?;
            let (mut q, mut k) = (linear(Projection::Query, &h)?, linear(Projection::Key, &h)?);
            let v = linear(Projection::Value, &h)?;
            if let (Some(query_norm), Some(key_norm)) = (&layer.query_norm, &layer.key_norm) {
                (q, k) = (query_norm.apply(&q)?, key_norm.apply(&k)?);
            }
            let (q, k) = (self.rope.apply(&q, &angles)?, self.rope.apply(&k, &angles)?);
            x = (x + linear(Projection::Output, &attend(index, q, k, v)?)?)?;
            let h = layer.mlp_norm.apply(&x)?;
            let h = swiglu(&linear(Projection::Gate, &h)?, &linear(Projection::Up, &h)?)?;
            x = (x + linear(Projection::Down, &h)?)?;
        }
        Ok(self.norm.apply(&x)?)
    }

    fn embed(&self, tokens: &[u32]) -> Result<Tensor> {
        let width = self.config.hidden_size;
        let mut rows = Vec::with_capacity(tokens.len() * width);
        for token in tokens {
            let at = *token as usize * width;
            match self.embedding.get(at..at + width) {
                Some(row) => rows.extend_from_slice(row),
                None => {
                    return Err(Error::argument(
                        "tokens",
                        format!("token {token} lies outside the vocabulary of {}", self.config.vocab_size),
                        "use the tokenizer that belongs to this model",
                    ));
                }
            }
        }
        Ok(Tensor::from_vec(rows, (tokens.len(), width), &Device::Cpu)?)
    }
}

#[cfg(test)]
mod tests;
