//! The shape of a decoder: what `config.json` of a Hugging Face folder says, or the metadata of a GGUF file.
//!
//! Names are those of Hugging Face's configurations. What the decoder does not compute (sliding windows, other
//! activations, other position scalings) is refused here, so that a model either runs exactly or not at all.

pub(crate) mod json;
pub(crate) mod keys;
mod rope;

use std::path::Path;

pub use keys::asks_for_another_family;
pub use rope::RopeScaling;

use querywright_types::{Error, Result};

/// The architectures that the decoder computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Architecture {
    /// Llama 2 and 3, SmolLM, SmolLM2 and everything else of `LlamaForCausalLM`.
    Llama,
    /// Qwen2 and Qwen2.5: biases on the q, k and v projections.
    Qwen2,
    /// Qwen3: RMS norms on each head's q and k.
    Qwen3,
}

impl Architecture {
    /// The names that models of these architectures carry, for messages.
    pub(super) const SUPPORTED: &'static str = "llama (Llama, SmolLM2), qwen2 (Qwen2, Qwen2.5) and qwen3 are supported";

    /// The architecture of a `model_type` or a GGUF `general.architecture`.
    pub(super) fn parse(name: &str) -> Option<Self> {
        match name {
            "llama" => Some(Self::Llama),
            "qwen2" => Some(Self::Qwen2),
            "qwen3" => Some(Self::Qwen3),
            _ => None,
        }
    }

    /// The architecture's name, as in `model_type`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }
}

/// The shape of a decoder.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// The architecture.
    pub architecture: Architecture,
    /// Rows of the embedding; at least as many as the tokenizer has tokens.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Decoder layers.
    pub num_hidden_layers: usize,
    /// Query heads a layer.
    pub num_attention_heads: usize,
    /// Key and value heads a layer; divides the query heads.
    pub num_key_value_heads: usize,
    /// Width of a head; even. Not always `hidden_size / num_attention_heads`.
    pub head_dim: usize,
    /// Added to the mean square in RMS norms.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// The scaling of the rotary frequencies, where the model has one.
    pub rope_scaling: Option<RopeScaling>,
    /// The longest context, in tokens.
    pub max_position_embeddings: usize,
    /// Whether the output layer is the embedding.
    pub tie_word_embeddings: bool,
    /// Whether q, k and v projections have biases: Qwen2 always, others where they say so.
    pub attention_bias: bool,
    /// Whether the projection of what attention gives has a bias. On the processor.
    pub attention_output_bias: bool,
    /// Whether the layers of the feed-forward part have biases. On the processor.
    pub mlp_bias: bool,
    /// Whether each head's q and k pass an RMS norm (Qwen3).
    pub qk_norm: bool,
}

impl ModelConfig {
    /// Reads a `config.json`; `path` is its place, for messages.
    ///
    /// # Errors
    /// A key that is missing, of another type, or that asks for something that the decoder does not compute.
    pub fn from_json(path: &Path, text: &str) -> Result<Self> {
        json::read(path, text).map(|(config, _)| config)
    }

    /// Refuses shapes that no decoder can have.
    pub(super) fn validated(self, path: &Path) -> Result<Self> {
        let bad =
            |found: String, right: &str| Err(Error::model(path, found, format!("{right}; fetch the model again")));
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("head_dim", self.head_dim),
            ("max_position_embeddings", self.max_position_embeddings),
        ];
        // The bound keeps every product of two sizes inside 64 bits.
        if let Some((name, value)) = sizes.iter().find(|(_, v)| *v == 0 || *v > 1 << 30) {
            return bad(format!("{name} is {value}"), "it must be at least 1 and at most 2^30");
        }
        if self.num_hidden_layers > 1024 {
            return bad(format!("num_hidden_layers is {}", self.num_hidden_layers), "it must be at most 1024");
        }
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            let found = format!("{} query heads over {} key heads", self.num_attention_heads, self.num_key_value_heads);
            return bad(found, "the first must be a multiple of the second");
        }
        if !self.head_dim.is_multiple_of(2) {
            return bad(format!("head_dim is {}", self.head_dim), "rotary positions need an even one");
        }
        let scaling = self.rope_scaling.as_ref();
        let positive = |x: f64| x > 0.0 && x.is_finite();
        // It divides by the logarithm of the base.
        if matches!(scaling, Some(RopeScaling::Yarn { .. })) && self.rope_theta <= 1.0 {
            return bad(format!("rope_theta is {}", self.rope_theta), "YaRN needs one above 1");
        }
        for (name, value) in [("rms_norm_eps", self.rms_norm_eps), ("rope_theta", self.rope_theta)] {
            if !positive(value) {
                return bad(format!("{name} is {value}"), "it must be above 0");
            }
        }
        if !(scaling.is_none_or(RopeScaling::is_possible) && self.attention_scale().is_finite()) {
            let found = format!("rope_scaling is {}", scaling.map_or_else(String::new, RopeScaling::shown));
            return bad(
                found,
                "its numbers must be above 0, and high_freq_factor above low_freq_factor, beta_fast above beta_slow",
            );
        }
        Ok(self)
    }

    /// The names of all tensors that a model of this shape has, in Hugging Face's spelling, in the order of the pass.
    pub(super) fn tensor_names(&self) -> Vec<String> {
        let mut names = vec!["model.embed_tokens.weight".to_owned()];
        for layer in 0..self.num_hidden_layers {
            let parts = LAYER_TENSORS.iter().filter(|part| self.layer_shape(part).is_some());
            names.extend(parts.map(|part| format!("model.layers.{layer}.{part}")));
        }
        names.push("model.norm.weight".to_owned());
        if !self.tie_word_embeddings {
            names.push("lm_head.weight".to_owned());
        }
        names
    }

    /// The shape of a tensor by its Hugging Face name; none when a model of this shape has no such tensor.
    /// Matrices are `[out, in]`.
    pub(super) fn tensor_shape(&self, hf_name: &str) -> Option<Vec<usize>> {
        match hf_name {
            "model.embed_tokens.weight" | "lm_head.weight" => Some(vec![self.vocab_size, self.hidden_size]),
            "model.norm.weight" => Some(vec![self.hidden_size]),
            _ => {
                let (layer, part) = hf_name.strip_prefix("model.layers.")?.split_once('.')?;
                // A number is written in one way: `007` would be another tensor.
                let number = layer.parse::<usize>().ok().filter(|n| n.to_string() == layer)?;
                (number < self.num_hidden_layers).then(|| self.layer_shape(part)).flatten()
            }
        }
    }

    /// The angular frequencies of rotary positions in radians a position, `head_dim / 2` of them, scaled.
    pub(super) fn rope_frequencies(&self) -> Vec<f64> {
        let plain = self.plain_frequencies();
        match &self.rope_scaling {
            Some(scaling) => scaling.apply(plain, self.rope_theta),
            None => plain.collect(),
        }
    }

    /// What the products of queries and keys are multiplied by: 1 / √head_dim, and YaRN's factor of both.
    pub(super) fn attention_scale(&self) -> f32 {
        let factor = self.rope_scaling.as_ref().map_or(1.0, RopeScaling::attention_factor);
        1.0 / (self.head_dim as f32).sqrt() * (factor * factor) as f32
    }

    /// The frequencies before scaling: `theta^(-2i / head_dim)`.
    pub(super) fn plain_frequencies(&self) -> impl ExactSizeIterator<Item = f64> + '_ {
        (0..self.head_dim / 2).map(|i| self.rope_theta.powf(-2.0 * i as f64 / self.head_dim as f64))
    }

    /// Refuses tokens outside the vocabulary.
    pub(super) fn check_tokens(&self, tokens: &[u32]) -> Result<()> {
        match tokens.iter().find(|token| **token as usize >= self.vocab_size) {
            None => Ok(()),
            Some(token) => Err(Error::argument(
                "tokens",
                format!("token {token} lies outside the vocabulary of {}", self.vocab_size),
                "use the tokenizer that belongs to this model",
            )),
        }
    }

    /// Refuses positions outside the context.
    pub(super) fn check_positions(&self, positions: impl Iterator<Item = usize>) -> Result<()> {
        let limit = self.max_position_embeddings;
        match positions.max().filter(|last| *last >= limit) {
            None => Ok(()),
            Some(last) => Err(Error::argument(
                "prompt",
                format!("position {last} lies outside the model's context of {limit} tokens"),
                "shorten the prompt or lower max_completion_length",
            )),
        }
    }

    /// How many parameters the model has; tied weights count once.
    pub fn parameters(&self) -> u64 {
        let size = |name: &String| self.tensor_shape(name).map_or(0, |s| s.iter().map(|d| *d as u64).product());
        self.tensor_names().iter().map(size).sum()
    }

    fn layer_shape(&self, part: &str) -> Option<Vec<usize>> {
        let (hidden, wide) = (self.hidden_size, self.intermediate_size);
        let (q, kv) = (self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim);
        match part {
            "input_layernorm.weight" | "post_attention_layernorm.weight" => Some(vec![hidden]),
            "self_attn.q_proj.weight" => Some(vec![q, hidden]),
            "self_attn.k_proj.weight" | "self_attn.v_proj.weight" => Some(vec![kv, hidden]),
            "self_attn.o_proj.weight" => Some(vec![hidden, q]),
            "self_attn.q_proj.bias" => self.attention_bias.then(|| vec![q]),
            "self_attn.k_proj.bias" | "self_attn.v_proj.bias" => self.attention_bias.then(|| vec![kv]),
            "self_attn.o_proj.bias" => self.attention_output_bias.then(|| vec![hidden]),
            "mlp.gate_proj.bias" | "mlp.up_proj.bias" => self.mlp_bias.then(|| vec![wide]),
            "mlp.down_proj.bias" => self.mlp_bias.then(|| vec![hidden]),
            "self_attn.q_norm.weight" | "self_attn.k_norm.weight" => self.qk_norm.then(|| vec![self.head_dim]),
            "mlp.gate_proj.weight" | "mlp.up_proj.weight" => Some(vec![wide, hidden]),
            "mlp.down_proj.weight" => Some(vec![hidden, wide]),
            _ => None,
        }
    }
}

/// The tensors of a layer, those of every architecture.
const LAYER_TENSORS: [&str; 18] = [
    "input_layernorm.weight",
    "self_attn.q_proj.weight",
    "self_attn.q_proj.bias",
    "self_attn.k_proj.weight",
    "self_attn.k_proj.bias",
    "self_attn.v_proj.weight",
    "self_attn.v_proj.bias",
    "self_attn.q_norm.weight",
    "self_attn.k_norm.weight",
    "self_attn.o_proj.weight",
    "self_attn.o_proj.bias",
    "post_attention_layernorm.weight",
    "mlp.gate_proj.weight",
    "mlp.gate_proj.bias",
    "mlp.up_proj.weight",
    "mlp.up_proj.bias",
    "mlp.down_proj.weight",
    "mlp.down_proj.bias",
];
