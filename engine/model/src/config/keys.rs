//! The keys of a `config.json` beside those that are read: what changes the result, and what is known not to.

use serde_json::Value;

use super::{Architecture, ModelConfig};

/// Whether a value says nothing: null, false, or empty.
pub(crate) fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(items) => items.is_empty(),
        _ => false,
    }
}

/// What a key must hold so that the decoder does what it says.
enum Neutral {
    /// Nothing, or zero.
    Off,
    /// Nothing, or one.
    One,
    /// True.
    True,
}

/// Keys of families that are computed in another way. Models that were derived from those carry them under the
/// `model_type` of the families here.
const OTHERS: [(&str, Neutral); 73] = [
    // Granite, MiniCPM, Cohere, Gemma: factors of the residual stream, the logits, the attention.
    ("embedding_multiplier", Neutral::One),
    ("residual_multiplier", Neutral::One),
    ("logits_scaling", Neutral::One),
    ("logit_scale", Neutral::One),
    ("lm_head_multiplier", Neutral::One),
    ("attention_out_multiplier", Neutral::One),
    ("attention_in_multiplier", Neutral::One),
    ("key_multiplier", Neutral::One),
    ("scale_emb", Neutral::One),
    ("attention_multiplier", Neutral::Off),
    ("mlp_multipliers", Neutral::Off),
    ("scale_depth", Neutral::Off),
    ("dim_model_base", Neutral::Off),
    ("scale_embeddings", Neutral::Off),
    ("scale_embedding", Neutral::Off),
    ("normalize_embedding", Neutral::Off),
    ("query_pre_attn_scalar", Neutral::Off),
    ("attention_scale", Neutral::Off),
    ("attn_scale", Neutral::Off),
    ("attn_temperature_tuning", Neutral::Off),
    ("use_mup", Neutral::Off),
    ("mup_enabled", Neutral::Off),
    // Caps.
    ("attn_logit_softcapping", Neutral::Off),
    ("final_logit_softcapping", Neutral::Off),
    ("logit_softcapping", Neutral::Off),
    ("attention_logit_cap", Neutral::Off),
    ("clip_qkv", Neutral::Off),
    // Positions.
    ("partial_rotary_factor", Neutral::One),
    ("rotary_pct", Neutral::One),
    ("rotary_percent", Neutral::One),
    ("rope_percent", Neutral::One),
    ("rope_interleaved", Neutral::Off),
    ("use_mrope", Neutral::Off),
    ("mrope_section", Neutral::Off),
    ("no_rope_layers", Neutral::Off),
    ("no_rope_layer_interval", Neutral::Off),
    ("nope_layer_interval", Neutral::Off),
    ("rope_local_base_freq", Neutral::Off),
    ("rope_ratio", Neutral::One),
    ("rope_factor", Neutral::One),
    ("alibi", Neutral::Off),
    ("use_alibi", Neutral::Off),
    ("use_dynamic_ntk", Neutral::Off),
    ("use_logn_attn", Neutral::Off),
    // Attention over other tokens than all before.
    ("sliding_window_pattern", Neutral::Off),
    ("attention_chunk_size", Neutral::Off),
    ("sparse_attention_config", Neutral::Off),
    ("dual_chunk_attention_config", Neutral::Off),
    ("use_bidirectional_attention", Neutral::Off),
    ("is_causal", Neutral::True),
    ("add_cross_attention", Neutral::Off),
    ("cross_attention_layers", Neutral::Off),
    ("is_encoder_decoder", Neutral::Off),
    // Other layers.
    ("parallel_residual", Neutral::Off),
    ("use_parallel_residual", Neutral::Off),
    ("parallel_attn", Neutral::Off),
    ("sandwich_norm", Neutral::Off),
    ("use_post_norm", Neutral::Off),
    ("use_bias", Neutral::Off),
    ("lm_head_bias", Neutral::Off),
    ("pruned_heads", Neutral::Off),
    ("block_configs", Neutral::Off),
    ("per_layer_config", Neutral::Off),
    ("num_experts", Neutral::Off),
    ("num_local_experts", Neutral::Off),
    ("n_routed_experts", Neutral::Off),
    ("n_shared_experts", Neutral::Off),
    ("moe_intermediate_size", Neutral::Off),
    ("num_nextn_predict_layers", Neutral::Off),
    ("text_config", Neutral::Off),
    ("vision_config", Neutral::Off),
    ("audio_config", Neutral::Off),
    ("compression_config", Neutral::Off),
];

/// Whether a key asks for something that the decoder does not do.
pub(super) fn changes_the_result(key: &str, value: &Value, config: &ModelConfig) -> bool {
    if ["use_qk_norm", "qk_norm", "qk_layernorm"].contains(&key) {
        let has_it = config.architecture == Architecture::Qwen3 && *value == Value::Bool(true);
        return !(has_it || says_nothing(value));
    }
    if ["original_max_position_embeddings", "rotary_dim", "rotary_ndims"].contains(&key) {
        let own = match (key, &config.rope_scaling) {
            ("original_max_position_embeddings", Some(scaling)) => {
                scaling.original_context().unwrap_or(config.max_position_embeddings)
            }
            ("original_max_position_embeddings", None) => config.max_position_embeddings,
            _ => config.head_dim,
        };
        return !value.is_null() && value.as_u64() != Some(own as u64);
    }
    asks_for_another_family(key, value)
}

/// Whether a key asks for what models of other families compute.
pub fn asks_for_another_family(key: &str, value: &Value) -> bool {
    let Some((_, neutral)) = OTHERS.iter().find(|(name, _)| *name == key) else { return false };
    match neutral {
        Neutral::True => !(value.is_null() || *value == Value::Bool(true)),
        Neutral::Off => !says_nothing(value) && value.as_f64() != Some(0.0),
        Neutral::One => !says_nothing(value) && value.as_f64() != Some(1.0),
    }
}

/// Keys that are read, or that change nothing in what the model computes.
const KNOWN: [&str; 79] = [
    // Read.
    "model_type",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "rms_norm_eps",
    "rope_theta",
    "rope_parameters",
    "rope_scaling",
    "max_position_embeddings",
    "tie_word_embeddings",
    "attention_bias",
    "mlp_bias",
    "use_sliding_window",
    "sliding_window",
    "max_window_layers",
    "layer_types",
    "quantization_config",
    "auto_map",
    "use_qk_norm",
    "qk_norm",
    "qk_layernorm",
    "original_max_position_embeddings",
    "rotary_dim",
    "rotary_ndims",
    // Training, storage, and the program that wrote the file.
    "architectures",
    "attention_dropout",
    "hidden_dropout",
    "embd_pdrop",
    "resid_pdrop",
    "initializer_range",
    "pretraining_tp",
    "torch_dtype",
    "dtype",
    "transformers_version",
    "transformers.js_config",
    "unsloth_fixed",
    "unsloth_version",
    "name_or_path",
    "model_name",
    "use_cache",
    "chunk_size_feed_forward",
    "gradient_checkpointing",
    "is_decoder",
    "is_llama_config",
    "torchscript",
    "return_dict",
    "output_attentions",
    "output_hidden_states",
    "attn_implementation",
    "experts_implementation",
    "tokenizer_class",
    "task_specific_params",
    "finetuning_task",
    "problem_type",
    "id2label",
    "label2id",
    "num_labels",
    // Of sampling, which has settings of its own here.
    "max_length",
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "repetition_penalty",
    "num_beams",
    "max_new_tokens",
    "suppress_tokens",
    "diversity_penalty",
    "length_penalty",
    "num_beam_groups",
    "num_return_sequences",
    "min_length",
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "typical_p",
];

/// Whether a key is known. Those of token ids are the tokenizer's, and those that begin with an underscore transformers'
/// own.
pub(super) fn is_known(key: &str) -> bool {
    key.starts_with('_')
        || key.ends_with("_token_id")
        || KNOWN.contains(&key)
        || OTHERS.iter().any(|(name, _)| *name == key)
}
