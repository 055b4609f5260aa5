//! The shape of a decoder: what `config.json` of a Hugging Face folder says, or the metadata of a GGUF file.
//!
//! Names are those of Hugging Face's configurations. What the decoder does not compute (sliding windows, other
//! activations, other position scalings) is refused here, so that a model either runs exactly or not at all.

use std::path::Path;

use serde_json::Value;

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

/// Llama 3's scaling of the rotary frequencies (`rope_type` "llama3").
#[derive(Debug, Clone, PartialEq)]
pub struct RopeScaling {
    /// Long wavelengths are stretched by this factor.
    pub factor: f64,
    /// Wavelengths above `original_max_position_embeddings / low_freq_factor` are stretched in full.
    pub low_freq_factor: f64,
    /// Wavelengths below `original_max_position_embeddings / high_freq_factor` stay as they are.
    pub high_freq_factor: f64,
    /// The context that the model was trained with before scaling.
    pub original_max_position_embeddings: usize,
}

impl RopeScaling {
    /// The divisor of one rotary frequency (radians a position): 1 for short wavelengths, `factor` for long ones, and
    /// between them 1 over a straight interpolation in cycles per original context.
    pub(super) fn divisor(&self, frequency: f64) -> f64 {
        let cycles = self.original_max_position_embeddings as f64 * frequency / std::f64::consts::TAU;
        if cycles < self.low_freq_factor {
            self.factor
        } else if cycles > self.high_freq_factor {
            1.0
        } else {
            let smooth = (cycles - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor);
            1.0 / ((1.0 - smooth) / self.factor + smooth)
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
    /// Llama 3's scaling of the rotary frequencies, where the model has it.
    pub rope_scaling: Option<RopeScaling>,
    /// The longest context, in tokens.
    pub max_position_embeddings: usize,
    /// Whether the output layer is the embedding.
    pub tie_word_embeddings: bool,
    /// Whether q, k and v projections have biases (Qwen2).
    pub attention_bias: bool,
    /// Whether each head's q and k pass an RMS norm (Qwen3).
    pub qk_norm: bool,
}

impl ModelConfig {
    /// Reads a `config.json`; `path` is its place, for messages.
    pub fn from_json(path: &Path, text: &str) -> Result<Self> {
        let json: Value = serde_json::from_str(text)
            .map_err(|e| Error::model(path, format!("not valid JSON ({e})"), "fetch the model again"))?;
        let fields = Fields { path, json: &json };
        let model_type = json.get("model_type").and_then(Value::as_str).unwrap_or("(none)");
        let architecture = Architecture::parse(model_type).ok_or_else(|| {
            Error::model(
                path,
                format!("model_type is \"{model_type}\""),
                format!("{}; choose such a model", Architecture::SUPPORTED),
            )
        })?;
        fields.refuse_unsupported(architecture)?;
        let (rope_theta, rope_scaling) = fields.rope()?;
        let hidden_size = fields.required("hidden_size")?;
        let num_attention_heads = fields.required("num_attention_heads")?;
        let head_dim = match (fields.optional("head_dim")?, architecture) {
            (Some(d), _) => d,
            (None, Architecture::Qwen3) => 128,
            (None, _) => hidden_size.checked_div(num_attention_heads).unwrap_or(0),
        };
        Self {
            architecture,
            vocab_size: fields.required("vocab_size")?,
            hidden_size,
            intermediate_size: fields.required("intermediate_size")?,
            num_hidden_layers: fields.required("num_hidden_layers")?,
            num_attention_heads,
            num_key_value_heads: fields.optional("num_key_value_heads")?.unwrap_or(num_attention_heads),
            head_dim,
            rms_norm_eps: fields.number(&json, "rms_norm_eps")?.unwrap_or(1e-6),
            rope_theta,
            rope_scaling,
            max_position_embeddings: fields.optional("max_position_embeddings")?.unwrap_or(2048),
            tie_word_embeddings: fields.flag("tie_word_embeddings"),
            attention_bias: architecture == Architecture::Qwen2,
            qk_norm: architecture == Architecture::Qwen3,
        }
        .validated(path)
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
        if !(self.rms_norm_eps > 0.0 && self.rope_theta > 0.0 && self.rope_theta.is_finite())
            || scaling.is_some_and(|s| !(s.factor > 0.0 && s.high_freq_factor > s.low_freq_factor))
        {
            let found =
                format!("rms_norm_eps {}, rope_theta {}, scaling {scaling:?}", self.rms_norm_eps, self.rope_theta);
            return bad(found, "they must be above 0, and high_freq_factor above low_freq_factor");
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
                (layer.parse::<usize>().ok()? < self.num_hidden_layers).then(|| self.layer_shape(part)).flatten()
            }
        }
    }

    /// The angular frequencies of rotary positions in radians a position, `head_dim / 2` of them, scaled.
    pub(super) fn rope_frequencies(&self) -> Vec<f64> {
        let plain = self.plain_frequencies();
        match &self.rope_scaling {
            Some(scaling) => plain.map(|f| f / scaling.divisor(f)).collect(),
            None => plain.collect(),
        }
    }

    /// The frequencies before scaling: `theta^(-2i / head_dim)`.
    pub(super) fn plain_frequencies(&self) -> impl Iterator<Item = f64> + '_ {
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
            "self_attn.q_norm.weight" | "self_attn.k_norm.weight" => self.qk_norm.then(|| vec![self.head_dim]),
            "mlp.gate_proj.weight" | "mlp.up_proj.weight" => Some(vec![wide, hidden]),
            "mlp.down_proj.weight" => Some(vec![hidden, wide]),
            _ => None,
        }
    }
}

/// The tensors of a layer, those of every architecture.
const LAYER_TENSORS: [&str; 14] = [
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
    "post_attention_layernorm.weight",
    "mlp.gate_proj.weight",
    "mlp.up_proj.weight",
    "mlp.down_proj.weight",
];

/// The keys of a `config.json`, with the file's name for messages.
struct Fields<'a> {
    path: &'a Path,
    json: &'a Value,
}

impl Fields<'_> {
    fn mistyped(&self, key: &str, value: &Value, right: &str) -> Error {
        Error::model(self.path, format!("{key} is {value}"), format!("it must be {right}; fetch the model again"))
    }

    fn optional(&self, key: &str) -> Result<Option<usize>> {
        match self.json.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(v) => match v.as_u64().and_then(|n| usize::try_from(n).ok()) {
                Some(n) => Ok(Some(n)),
                None => Err(self.mistyped(key, v, "a whole number")),
            },
        }
    }

    fn required(&self, key: &str) -> Result<usize> {
        self.optional(key)?.ok_or_else(|| Error::model(self.path, format!("{key} is missing"), "fetch the model again"))
    }

    fn number(&self, within: &Value, key: &str) -> Result<Option<f64>> {
        match within.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(v) => v.as_f64().map(Some).ok_or_else(|| self.mistyped(key, v, "a number")),
        }
    }

    fn flag(&self, key: &str) -> bool {
        self.json.get(key).and_then(Value::as_bool).unwrap_or(false)
    }

    /// Refuses what the decoder would compute wrongly.
    fn refuse_unsupported(&self, architecture: Architecture) -> Result<()> {
        let refuse = |found: String| {
            Err(Error::model(self.path, found, "the decoder does not compute that; choose another model of the family"))
        };
        match self.json.get("hidden_act").and_then(Value::as_str) {
            None | Some("silu" | "swish") => {}
            Some(other) => return refuse(format!("hidden_act is \"{other}\" instead of \"silu\"")),
        }
        // Qwen2 has its biases always and says nothing of them.
        if let Some(key) =
            ["attention_bias", "mlp_bias"].iter().find(|k| architecture != Architecture::Qwen2 && self.flag(k))
        {
            return refuse(format!("{key} is true"));
        }
        if self.flag("use_sliding_window") {
            return refuse("use_sliding_window is true".to_owned());
        }
        if let Some(method) = self.json.get("quantization_config").filter(|q| !q.is_null()) {
            let method = method.get("quant_method").and_then(Value::as_str).unwrap_or("of an unknown kind");
            return refuse(format!("the weights are quantised ({method})"));
        }
        Ok(())
    }

    /// Rotary base and scaling, from `rope_parameters` (newer files) or `rope_theta` and `rope_scaling`.
    fn rope(&self) -> Result<(f64, Option<RopeScaling>)> {
        let section =
            ["rope_parameters", "rope_scaling"].iter().find_map(|k| self.json.get(k).filter(|v| v.is_object()));
        let empty = Value::Null;
        let section = section.unwrap_or(&empty);
        let theta = match self.number(section, "rope_theta")? {
            Some(theta) => theta,
            None => self.number(self.json, "rope_theta")?.unwrap_or(10_000.0),
        };
        let kind =
            section.get("rope_type").or_else(|| section.get("type")).and_then(Value::as_str).unwrap_or("default");
        let need = |key: &str| {
            self.number(section, key)?.ok_or_else(|| {
                Error::model(self.path, format!("the rope scaling has no {key}"), "fetch the model again")
            })
        };
        match kind {
            "default" => Ok((theta, None)),
            "llama3" => {
                let scaling = RopeScaling {
                    factor: need("factor")?,
                    low_freq_factor: need("low_freq_factor")?,
                    high_freq_factor: need("high_freq_factor")?,
                    original_max_position_embeddings: need("original_max_position_embeddings")? as usize,
                };
                Ok((theta, Some(scaling)))
            }
            other => Err(Error::model(
                self.path,
                format!("rope scaling of type \"{other}\""),
                "\"default\" and \"llama3\" are supported; choose such a model",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<ModelConfig> {
        ModelConfig::from_json(Path::new("config.json"), text)
    }

    const SMALL: &str = r#"{"model_type": "llama", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "vocab_size": 32}"#;

    #[test]
    fn what_is_absent_takes_the_default_of_transformers() {
        let c = read(SMALL).unwrap();
        assert_eq!((c.head_dim, c.num_key_value_heads, c.rope_theta, c.tie_word_embeddings), (4, 2, 1e4, false));
        let c = read(&SMALL.replace("llama", "qwen3")).unwrap();
        assert_eq!((c.head_dim, c.qk_norm, c.attention_bias), (128, true, false));
    }

    #[test]
    fn older_and_newer_spellings_of_the_rotary_settings_mean_the_same() {
        let scaling = r#""rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192"#;
        let older = SMALL.replace('}', &format!(r#", "rope_theta": 5e5, "rope_scaling": {{{scaling}}}}}"#));
        let newer = SMALL.replace('}', &format!(r#", "rope_parameters": {{"rope_theta": 5e5, {scaling}}}}}"#));
        assert_eq!(read(&older).unwrap(), read(&newer).unwrap());
        assert_eq!(read(&newer).unwrap().rope_scaling.unwrap().factor, 32.0);
    }

    #[test]
    fn llama3_scaling_keeps_short_waves_and_stretches_long_ones() {
        let s = RopeScaling {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 64,
        };
        assert_eq!((s.divisor(1.0), s.divisor(0.001)), (1.0, 8.0));
        // 2.5 cycles lie in the middle: 1 / (0.5 / 8 + 0.5).
        let middle = s.divisor(2.5 * std::f64::consts::TAU / 64.0);
        assert!((middle - 1.0 / 0.5625).abs() < 1e-12, "{middle}");
    }

    #[test]
    fn parameters_are_counted_with_tied_weights_once() {
        let c = read(SMALL).unwrap();
        let layer = 2 * 8 + 4 * 64 + 3 * 128;
        assert_eq!(c.parameters(), 2 * 32 * 8 + layer + 8);
        assert_eq!(ModelConfig { tie_word_embeddings: true, ..c }.parameters(), 32 * 8 + layer + 8);
    }

    #[test]
    fn what_cannot_be_computed_is_refused_by_name() {
        let table = [
            (SMALL.replace("llama", "gpt2"), "qwen3 are supported"),
            (SMALL.replace("\"vocab_size\": 32", "\"hidden_act\": \"gelu\""), "gelu"),
            (SMALL.replace(", \"vocab_size\": 32", ""), "vocab_size is missing"),
            (SMALL.replace("32", "\"many\""), "whole number"),
            (SMALL.replace("32", "0"), "vocab_size is 0"),
            (SMALL.replace('}', r#", "num_key_value_heads": 3}"#), "multiple"),
            (SMALL.replace('}', r#", "head_dim": 5}"#), "even"),
            (SMALL.replace('}', r#", "attention_bias": true}"#), "attention_bias"),
            (SMALL.replace('}', r#", "use_sliding_window": true}"#), "sliding"),
            (SMALL.replace('}', r#", "rope_scaling": {"type": "yarn", "factor": 4.0}}"#), "yarn"),
            (SMALL.replace('}', r#", "rope_scaling": {"rope_type": "llama3"}}"#), "factor"),
            (SMALL.replace('}', r#", "quantization_config": {"quant_method": "awq"}}"#), "awq"),
            ("{".to_owned(), "not valid JSON"),
        ];
        for (text, expected) in table {
            let message = read(&text).unwrap_err().to_string();
            assert!(message.starts_with("config.json: ") && message.contains(expected), "{message}");
        }
    }
}
