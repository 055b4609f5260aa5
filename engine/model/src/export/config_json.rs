//! `config.json` of a merged model: that of the base with its number type changed, or made from the metadata of a GGUF file.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::ExportType;
use crate::config::{Architecture, ModelConfig, RopeScaling};
use crate::folder::read_text;
use crate::source::ModelSource;
use crate::tokenizer::Tokenizer;
use querywright_types::{Error, Result};

/// `config.json` is a few kilobytes.
const LIMIT: u64 = 4 << 20;

/// The number type under transformers' name.
fn torch(dtype: ExportType) -> &'static str {
    match dtype {
        ExportType::F32 => "float32",
        ExportType::F16 => "float16",
        ExportType::Bf16 => "bfloat16",
    }
}

/// A folder's own configuration, with the number type of what is written. Every other key stays as it is.
pub(super) fn changed(folder: &Path, dtype: ExportType) -> Result<Value> {
    let path = folder.join("config.json");
    let mut config: Map<String, Value> = serde_json::from_str(&read_text(&path, LIMIT)?)
        .map_err(|e| Error::model(&path, format!("not a JSON object ({e})"), "fetch it again"))?;
    let known: Vec<&str> = ["dtype", "torch_dtype"].into_iter().filter(|key| config.contains_key(*key)).collect();
    // The older name is read by every version of transformers.
    for key in if known.is_empty() { vec!["torch_dtype"] } else { known } {
        config.insert(key.to_owned(), torch(dtype).into());
    }
    Ok(Value::Object(config))
}

/// A configuration for a model that has none of transformers.
pub(super) fn written(source: &ModelSource, tokenizer: &Tokenizer, dtype: ExportType) -> Result<Value> {
    let config = source.config();
    let class = match config.architecture {
        Architecture::Llama => "LlamaForCausalLM",
        Architecture::Qwen2 => "Qwen2ForCausalLM",
        Architecture::Qwen3 => "Qwen3ForCausalLM",
    };
    let mut all = json!({
        "architectures": [class],
        "model_type": config.architecture.name(),
        "hidden_act": "silu",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": short(config.rms_norm_eps),
        "rope_theta": short(config.rope_theta),
        "tie_word_embeddings": config.tie_word_embeddings,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "use_cache": true,
        "torch_dtype": torch(dtype),
    });
    if config.architecture == Architecture::Qwen3 || config.head_dim * config.num_attention_heads != config.hidden_size
    {
        all["head_dim"] = config.head_dim.into();
    }
    if let Some(scaling) = &config.rope_scaling {
        all["rope_scaling"] = scaling_of(scaling);
    }
    for (key, on) in biases(source.path(), config)? {
        all[key] = on.into();
    }
    let eos = tokenizer.eos_ids();
    match eos {
        [] => {}
        [one] => all["eos_token_id"] = (*one).into(),
        several => all["eos_token_id"] = several.into(),
    }
    if let Some(bos) = tokenizer.bos_id() {
        all["bos_token_id"] = bos.into();
    }
    Ok(all)
}

/// The keys that say which layers have biases. Transformers knows fewer combinations than files can hold.
fn biases(path: &Path, config: &ModelConfig) -> Result<Vec<(&'static str, bool)>> {
    let (attention, output, mlp) = (config.attention_bias, config.attention_output_bias, config.mlp_bias);
    let fits = match config.architecture {
        Architecture::Llama => attention == output,
        Architecture::Qwen2 => attention && !output && !mlp,
        Architecture::Qwen3 => attention == output && !mlp,
    };
    if !fits {
        let found = "biases that transformers has no key for in this architecture";
        return Err(Error::model(path, found, "write it as GGUF (--format gguf)"));
    }
    Ok(match config.architecture {
        Architecture::Llama => vec![("attention_bias", attention), ("mlp_bias", mlp)],
        Architecture::Qwen2 => Vec::new(),
        Architecture::Qwen3 => vec![("attention_bias", attention)],
    })
}

fn scaling_of(scaling: &RopeScaling) -> Value {
    match *scaling {
        RopeScaling::Linear { factor } => json!({ "rope_type": "linear", "factor": factor }),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor,
            "original_max_position_embeddings": original_max_position_embeddings,
        }),
        RopeScaling::Yarn {
            factor,
            original_max_position_embeddings,
            beta_fast,
            beta_slow,
            truncate,
            attention_factor,
        } => json!({
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": original_max_position_embeddings,
            "beta_fast": beta_fast,
            "beta_slow": beta_slow,
            "truncate": truncate,
            "attention_factor": attention_factor,
        }),
    }
}

/// A number that passed through single precision, as it was written before: 1e-5 and not 9.999999747378752e-6.
fn short(value: f64) -> f64 {
    let single = value as f32;
    match single.to_string().parse() {
        Ok(short) if f64::from(single) == value => short,
        _ => value,
    }
}
