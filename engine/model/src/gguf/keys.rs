//! The metadata of a file by its keys: read with their types, refused where the decoder would not do what they say.

use super::header::Value;
use super::{AGAIN, Gguf};
use crate::config::{ModelConfig, RopeScaling};
use querywright_types::{Error, Result};

/// Keys of an architecture's section that are read, or that change nothing.
const READ: [&str; 15] = [
    "context_length",
    "embedding_length",
    "block_count",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.type",
    // The rows of the embedding are counted.
    "vocab_size",
    // How the training went.
    "rope.scaling.finetuned",
    // The order of rows that the converters of llama.cpp write for this architecture, under either name.
    "tensor_data_layout",
];

/// The context before positions were stretched.
const ORIGINAL: &str = "rope.scaling.original_context_length";
/// The keys of a scaling beside its type.
const SCALING: [&str; 7] = [
    "rope.scaling.factor",
    "rope.scale_linear",
    ORIGINAL,
    "rope.scaling.yarn_ext_factor",
    "rope.scaling.yarn_attn_factor",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
];

/// The keys of an architecture's section.
pub(super) struct Section<'a> {
    file: &'a Gguf,
    name: &'a str,
}

impl Section<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.name)
    }

    fn value(&self, name: &str) -> Option<&Value> {
        self.file.header.metadata.get(&self.key(name))
    }

    /// A whole number, if the key is there. A list with one item a layer is one number where its items are equal.
    fn whole(&self, name: &str) -> Result<Option<usize>> {
        let Some(value) = self.value(name) else { return Ok(None) };
        let number = match value {
            Value::Numbers(numbers) => {
                let mut all = numbers.values();
                let first = all.next();
                if !all.all(|other| Some(&other) == first.as_ref()) {
                    let found = format!("{} differs from layer to layer: {value}", self.key(name));
                    return Err(self.file.refused(found, "choose another model of the family"));
                }
                first.and_then(|first| first.whole())
            }
            one => one.whole(),
        };
        match number.and_then(|n| usize::try_from(n).ok()) {
            Some(number) => Ok(Some(number)),
            None => Err(self.file.mistyped(&self.key(name), value, "a whole number")),
        }
    }

    fn missing(&self, name: &str, right: &str) -> Error {
        self.file.refused(format!("the metadata has no {right} {}", self.key(name)), "fetch the file again")
    }

    /// A whole number that must be there.
    pub(super) fn need(&self, name: &str) -> Result<usize> {
        self.whole(name)?.ok_or_else(|| self.missing(name, "whole number"))
    }

    /// A whole number, or what llama.cpp takes where it is absent.
    pub(super) fn or(&self, name: &str, default: usize) -> Result<usize> {
        Ok(self.whole(name)?.unwrap_or(default))
    }

    fn float(&self, name: &str) -> Result<Option<f64>> {
        self.value(name).map_or(Ok(None), |value| match value.float() {
            Some(number) => Ok(Some(number)),
            None => Err(self.file.mistyped(&self.key(name), value, "a number")),
        })
    }

    /// A number that must be there.
    pub(super) fn need_float(&self, name: &str) -> Result<f64> {
        self.float(name)?.ok_or_else(|| self.missing(name, "number"))
    }

    /// A number, or what llama.cpp takes where it is absent.
    pub(super) fn float_or(&self, name: &str, default: f64) -> Result<f64> {
        Ok(self.float(name)?.unwrap_or(default))
    }

    /// Refuses every key of the section that is not read, unless it says nothing or what the decoder does anyway.
    pub(super) fn refuse_unsupported(&self, config: &ModelConfig) -> Result<()> {
        let prefix = self.key("");
        for (key, value) in &self.file.header.metadata {
            let Some(name) = key.strip_prefix(&prefix) else { continue };
            if (READ.contains(&name) || SCALING.contains(&name))
                && (name != "tensor_data_layout" || is_known_layout(value))
            {
                continue;
            }
            if value.is_nothing() && name != "attention.causal" || self.is_neutral(name, value, config) {
                continue;
            }
            let found = format!("{key} is {value}{}", meaning(name));
            return Err(self
                .file
                .refused(found, "the decoder does not compute that; choose another model of the family"));
        }
        Ok(())
    }

    /// The scaling of positions, as llama.cpp reads it: a factor without a type is linear.
    pub(super) fn rope_scaling(&self, config: &ModelConfig) -> Result<Option<RopeScaling>> {
        let kind = match self.value("rope.scaling.type") {
            None => "linear",
            Some(Value::Text(kind)) => kind.as_str(),
            Some(other) => return Err(self.file.mistyped(&self.key("rope.scaling.type"), other, "a text")),
        };
        let factor = self.scaling_number("factor")?.or(self.unless_zero("rope.scale_linear")?).unwrap_or(1.0);
        let scaling = match kind {
            "yarn" => self.yarn(factor, config)?,
            "linear" | "none" => RopeScaling::Linear { factor },
            other => {
                let found = format!("{} is \"{other}\"", self.key("rope.scaling.type"));
                return Err(self.file.refused(found, "choose a model with scaling of type linear, yarn or Llama 3's"));
            }
        };
        let neutral = |key: &str, number: f64| match key {
            "rope.scaling.factor" | "rope.scale_linear" => kind == "linear" || number == 1.0,
            _ => number == 0.0 || key == ORIGINAL && number == config.max_position_embeddings as f64,
        };
        for key in SCALING.into_iter().filter(|_| kind != "yarn") {
            if let Some(number) = self.float(key)?.filter(|number| !neutral(key, *number)) {
                let found = format!("{} is {number}, which a scaling of type \"{kind}\" does not read", self.key(key));
                return Err(self.file.refused(found, "choose another model of the family"));
            }
        }
        // By a factor of 1 it is none.
        Ok((factor != 1.0).then_some(scaling))
    }

    fn yarn(&self, factor: f64, config: &ModelConfig) -> Result<RopeScaling> {
        // What YaRN does to frequencies and to attention can be made stronger or weaker: then it is another formula.
        for (name, usual) in [("yarn_ext_factor", [-1.0, 1.0]), ("yarn_attn_factor", [1.0, 1.0])] {
            let key = format!("rope.scaling.{name}");
            if let Some(number) = self.float(&key)?.filter(|number| !usual.contains(number)) {
                let found = format!("{} is {number}", self.key(&key));
                return Err(self.file.refused(found, "choose a model with plain YaRN"));
            }
        }
        Ok(RopeScaling::Yarn {
            factor,
            original_max_position_embeddings: match self.or(ORIGINAL, 0)? {
                0 => config.max_position_embeddings,
                original => original,
            },
            beta_fast: self.scaling_number("yarn_beta_fast")?.unwrap_or(32.0),
            beta_slow: self.scaling_number("yarn_beta_slow")?.unwrap_or(1.0),
            truncate: true,
            attention_factor: RopeScaling::yarn_attention(factor, 1.0),
        })
    }

    fn scaling_number(&self, name: &str) -> Result<Option<f64>> {
        self.unless_zero(&format!("rope.scaling.{name}"))
    }

    /// A number; zero is nothing.
    fn unless_zero(&self, name: &str) -> Result<Option<f64>> {
        Ok(self.float(name)?.filter(|number| *number != 0.0))
    }

    /// Whether a key that is not read says what the decoder does anyway.
    fn is_neutral(&self, name: &str, value: &Value, config: &ModelConfig) -> bool {
        let number = value.float();
        match name {
            "attention.causal" => *value == Value::Bool(true),
            "logit_scale" | "residual_scale" | "embedding_scale" | "attention.output_scale" => number == Some(1.0),
            "rope.scaling.attn_factor" => number == Some(1.0),
            "attention.scale" => {
                let own = 1.0 / (config.head_dim as f64).sqrt();
                number.is_some_and(|scale| (scale / own - 1.0).abs() < 1e-6)
            }
            // A window that is the whole of it.
            "attention.sliding_window" => number.is_some_and(|n| n >= config.max_position_embeddings as f64),
            _ => false,
        }
    }
}

fn is_known_layout(value: &Value) -> bool {
    matches!(value, Value::Text(layout) if layout == "Meta AI original pth" || layout == "reference")
}

/// What a key is about, for messages.
fn meaning(name: &str) -> &'static str {
    match name {
        _ if name.starts_with("expert") => " (a mixture of experts)",
        _ if name.starts_with("rope.scal") => " (rope scaling)",
        _ if name.contains("sliding_window") => " (a sliding window)",
        _ if name.contains("softcapping") => " (capped logits)",
        "rope.dimension_sections" => " (positions in several dimensions)",
        "pooling_type" | "attention.causal" => " (an embedding model)",
        _ => "",
    }
}

impl Gguf {
    /// The keys of an architecture.
    pub(super) fn section<'a>(&'a self, name: &'a str) -> Section<'a> {
        Section { file: self, name }
    }

    /// A text, if the key is there.
    pub(super) fn text(&self, key: &str) -> Result<Option<&str>> {
        match self.header.metadata.get(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(other) => Err(self.mistyped(key, other, "a text")),
        }
    }

    /// A whole number that is not negative, if the key is there.
    pub(super) fn number(&self, key: &str) -> Result<Option<u64>> {
        let value = self.header.metadata.get(key);
        value.map_or(Ok(None), |v| v.whole().map(Some).ok_or_else(|| self.mistyped(key, v, "a whole number")))
    }

    /// A whole number, negative or not, if the key is there.
    pub(super) fn integer(&self, key: &str) -> Result<Option<i128>> {
        match self.header.metadata.get(key) {
            None => Ok(None),
            Some(Value::Unsigned(n)) => Ok(Some(i128::from(*n))),
            Some(Value::Signed(n)) => Ok(Some(i128::from(*n))),
            Some(other) => Err(self.mistyped(key, other, "a whole number")),
        }
    }

    /// True or false, if the key is there.
    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.header.metadata.get(key) {
            None => Ok(None),
            Some(Value::Bool(yes)) => Ok(Some(*yes)),
            Some(other) => Err(self.mistyped(key, other, "true or false")),
        }
    }

    /// A list of texts; empty when the key is absent.
    pub(super) fn texts(&self, key: &str) -> Result<Vec<&str>> {
        match self.header.metadata.get(key) {
            None => Ok(Vec::new()),
            Some(Value::Texts(texts)) => Ok(texts.iter().map(String::as_str).collect()),
            // A list without items has a type all the same.
            Some(Value::Numbers(numbers)) if numbers.values().next().is_none() => Ok(Vec::new()),
            Some(_) => Err(self.refused(format!("{key} holds values of the wrong type"), AGAIN)),
        }
    }

    /// A list of whole numbers; empty when the key is absent.
    pub(super) fn numbers(&self, key: &str) -> Result<Vec<u64>> {
        let wrong = || self.refused(format!("{key} holds values of the wrong type"), AGAIN);
        match self.header.metadata.get(key) {
            None => Ok(Vec::new()),
            Some(Value::Numbers(numbers)) => {
                numbers.values().map(|value| value.whole()).collect::<Option<_>>().ok_or_else(wrong)
            }
            Some(Value::Texts(texts)) if texts.is_empty() => Ok(Vec::new()),
            Some(_) => Err(wrong()),
        }
    }

    pub(super) fn mistyped(&self, key: &str, value: &Value, right: &str) -> Error {
        self.refused(format!("{key} is {value}"), format!("it must be {right}; fetch the file again"))
    }
}
