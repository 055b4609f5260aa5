//! `config.json` of a Hugging Face folder. Absent keys take the defaults of transformers where it has one for the
//! architecture; a value of another type is refused, and so is what the decoder does not compute.

mod rope;

use std::path::Path;

use serde_json::Value;

use super::keys;
use super::{Architecture, ModelConfig, RopeScaling};
use crate::foreign::{not_json, without_mark};
use querywright_types::{Error, Result};

/// Reads a `config.json`, and names the keys in it that neither this program nor transformers knows.
pub(crate) fn read(path: &Path, text: &str) -> Result<(ModelConfig, Vec<String>)> {
    let bytes = without_mark(text.as_bytes());
    let json: Value = serde_json::from_slice(bytes).map_err(|e| not_json(path, bytes, e))?;
    let fields = Fields { path, json: &json };
    let Some(object) = json.as_object() else {
        return Err(Error::model(path, "no JSON object", "fetch the model again"));
    };
    let architecture = fields.architecture()?;
    let hidden_size = fields.required("hidden_size")?;
    let num_attention_heads = fields.required("num_attention_heads")?;
    let max_position_embeddings = fields.optional("max_position_embeddings")?.unwrap_or(match architecture {
        Architecture::Llama => 2048,
        Architecture::Qwen2 | Architecture::Qwen3 => 32_768,
    });
    let (rope_theta, rope_scaling) = fields.rope(max_position_embeddings)?;
    let config = ModelConfig {
        architecture,
        vocab_size: fields.required("vocab_size")?,
        hidden_size,
        intermediate_size: fields.required("intermediate_size")?,
        num_hidden_layers: fields.required("num_hidden_layers")?,
        num_attention_heads,
        num_key_value_heads: match fields.nullable("num_key_value_heads")? {
            Some(heads) => heads,
            // The Qwens have a default of 32, which suits few of them: there it must be said.
            None if architecture == Architecture::Llama || object.contains_key("num_key_value_heads") => {
                num_attention_heads
            }
            None => fields.required("num_key_value_heads")?,
        },
        head_dim: fields.head_dim(architecture, hidden_size, num_attention_heads)?,
        rms_norm_eps: fields.number(&json, "rms_norm_eps")?.unwrap_or(1e-6),
        rope_theta,
        rope_scaling,
        max_position_embeddings,
        tie_word_embeddings: fields.flag("tie_word_embeddings")?,
        // Qwen2 has its biases always, whatever this says, and none behind attention.
        attention_bias: fields.flag("attention_bias")? || architecture == Architecture::Qwen2,
        attention_output_bias: fields.flag("attention_bias")? && architecture != Architecture::Qwen2,
        mlp_bias: fields.flag("mlp_bias")? && architecture == Architecture::Llama,
        qk_norm: architecture == Architecture::Qwen3,
    }
    .validated(path)?;
    fields.refuse_unsupported(&config)?;
    let unknown = object.iter().filter(|(key, value)| !keys::says_nothing(value) && !keys::is_known(key));
    Ok((config, unknown.map(|(key, _)| key.clone()).collect()))
}

/// The keys of a `config.json`, with the file's name for messages.
struct Fields<'a> {
    path: &'a Path,
    json: &'a Value,
}

impl Fields<'_> {
    fn refused(&self, found: impl Into<String>) -> Error {
        Error::model(self.path, found, "the decoder does not compute that; choose another model of the family")
    }

    fn mistyped(&self, key: &str, value: &Value, right: &str) -> Error {
        Error::model(
            self.path,
            format!("{key} is {}", shown(value)),
            format!("it must be {right}; fetch the model again"),
        )
    }

    fn architecture(&self) -> Result<Architecture> {
        let name = match self.json.get("model_type") {
            None => "(none)",
            Some(Value::String(name)) => name,
            Some(other) => return Err(self.mistyped("model_type", other, "a text")),
        };
        Architecture::parse(name).ok_or_else(|| {
            let found = format!("model_type is \"{name}\"");
            Error::model(self.path, found, format!("{}; choose such a model", Architecture::SUPPORTED))
        })
    }

    /// A whole number, if the key is there.
    fn optional(&self, key: &str) -> Result<Option<usize>> {
        self.json.get(key).map_or(Ok(None), |v| match v.as_u64().and_then(|n| usize::try_from(n).ok()) {
            Some(n) => Ok(Some(n)),
            None => Err(self.mistyped(key, v, "a whole number")),
        })
    }

    /// A whole number, where null means that it is not set.
    fn nullable(&self, key: &str) -> Result<Option<usize>> {
        if self.json.get(key).is_some_and(Value::is_null) { Ok(None) } else { self.optional(key) }
    }

    fn required(&self, key: &str) -> Result<usize> {
        self.optional(key)?.ok_or_else(|| Error::model(self.path, format!("{key} is missing"), "fetch the model again"))
    }

    fn number(&self, within: &Value, key: &str) -> Result<Option<f64>> {
        within.get(key).map_or(Ok(None), |v| v.as_f64().map(Some).ok_or_else(|| self.mistyped(key, v, "a number")))
    }

    /// True or false; false where it is absent.
    fn flag(&self, key: &str) -> Result<bool> {
        match self.json.get(key) {
            None => Ok(false),
            Some(Value::Bool(yes)) => Ok(*yes),
            Some(other) => Err(self.mistyped(key, other, "true or false")),
        }
    }

    fn head_dim(&self, architecture: Architecture, hidden: usize, heads: usize) -> Result<usize> {
        match (self.nullable("head_dim")?, architecture) {
            (Some(width), _) => Ok(width),
            (None, Architecture::Qwen3) => Ok(128),
            (None, _) if heads > 0 && !hidden.is_multiple_of(heads) => {
                let found = format!("hidden_size {hidden} over {heads} heads, and no head_dim");
                Err(Error::model(self.path, found, "the first must be a multiple of the second; fetch the model again"))
            }
            (None, _) => Ok(hidden.checked_div(heads).unwrap_or(0)),
        }
    }

    /// Refuses what the decoder would compute wrongly.
    fn refuse_unsupported(&self, config: &ModelConfig) -> Result<()> {
        match self.json.get("hidden_act") {
            None => {}
            Some(Value::String(name)) if name == "silu" || name == "swish" => {}
            Some(other) => return Err(self.refused(format!("hidden_act is {} instead of \"silu\"", shown(other)))),
        }
        if self.flag("use_sliding_window")? {
            return Err(self.refused("use_sliding_window is true"));
        }
        if self.flag("mlp_bias")? && !config.mlp_bias {
            return Err(self.refused("mlp_bias is true"));
        }
        // The Qwens have a window that use_sliding_window switches on; Llama has neither.
        let window = self.nullable("sliding_window")?.filter(|n| *n > 0 && *n < config.max_position_embeddings);
        if let Some(window) = window.filter(|_| config.architecture == Architecture::Llama) {
            return Err(self.refused(format!("sliding_window is {window}")));
        }
        self.refuse_layer_types(config)?;
        if let Some(method) = self.json.get("quantization_config").filter(|q| !keys::says_nothing(q)) {
            let method = method.get("quant_method").and_then(Value::as_str).unwrap_or("of an unknown kind");
            let remedy = "choose the weights in BF16 or F16, or a GGUF file";
            let found = format!("the weights are quantised ({method}, quantization_config)");
            return Err(Error::model(self.path, found, remedy));
        }
        if let Some(map) = self.json.get("auto_map")
            && ["AutoModel", "AutoModelForCausalLM"].iter().any(|class| map.get(class).is_some())
        {
            return Err(self.refused("auto_map names a program of its own that computes the model"));
        }
        let Some(object) = self.json.as_object() else { return Ok(()) };
        for (key, value) in object {
            if keys::changes_the_result(key, value, config) {
                return Err(self.refused(format!("{key} is {}", shown(value))));
            }
        }
        Ok(())
    }

    fn refuse_layer_types(&self, config: &ModelConfig) -> Result<()> {
        let types = match self.json.get("layer_types") {
            None | Some(Value::Null) => return Ok(()),
            Some(Value::Array(types)) => types,
            Some(other) => return Err(self.mistyped("layer_types", other, "a list of texts")),
        };
        if let Some(other) = types.iter().find(|kind| kind.as_str() != Some("full_attention")) {
            return Err(self.refused(format!("layer_types holds {}", shown(other))));
        }
        if types.len() != config.num_hidden_layers {
            let found = format!("layer_types has {} items for {} layers", types.len(), config.num_hidden_layers);
            return Err(Error::model(self.path, found, "it must have one for each layer; fetch the model again"));
        }
        Ok(())
    }

    /// Rotary base and scaling, from `rope_parameters` (newer files) or `rope_theta` and `rope_scaling`.
    fn rope(&self, context: usize) -> Result<(f64, Option<RopeScaling>)> {
        let mut sections = Vec::new();
        for key in ["rope_parameters", "rope_scaling"] {
            match self.json.get(key) {
                None | Some(Value::Null) => {}
                Some(Value::Object(section)) if section.is_empty() => {}
                Some(section @ Value::Object(_)) => sections.push((key, section)),
                Some(other) => return Err(self.mistyped(key, other, "an object")),
            }
        }
        if let [(_, one), (_, other)] = sections.as_slice()
            && one != other
        {
            return Err(self.refused("rope_parameters and rope_scaling say different things"));
        }
        let outer = self.number(self.json, "rope_theta")?;
        let Some((key, section)) = sections.first().copied() else {
            return Ok((outer.unwrap_or(10_000.0), None));
        };
        let inner = self.number(section, "rope_theta")?;
        if let (Some(inner), Some(outer)) = (inner, outer)
            && inner != outer
        {
            return Err(self.refused(format!("rope_theta is {outer}, and {inner} in {key}")));
        }
        let theta = inner.or(outer).unwrap_or(10_000.0);
        Ok((theta, rope::Section { fields: self, key, section, context }.scaling()?))
    }
}

/// A value as messages show it; a long one is cut.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(80) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

#[cfg(test)]
mod tests;
