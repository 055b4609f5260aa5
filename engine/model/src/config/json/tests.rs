use super::*;
use crate::config::RopeScaling;

fn read(text: &str) -> Result<ModelConfig> {
    ModelConfig::from_json(Path::new("config.json"), text)
}

const SMALL: &str = r#"{"model_type": "llama", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
    "num_attention_heads": 2, "vocab_size": 32}"#;

#[test]
fn what_is_absent_takes_the_default_of_transformers() {
    let c = read(SMALL).unwrap();
    assert_eq!((c.head_dim, c.num_key_value_heads, c.rope_theta, c.tie_word_embeddings), (4, 2, 1e4, false));
    assert_eq!(c.max_position_embeddings, 2048);
    let qwen3 = SMALL.replace("llama", "qwen3").replace('}', r#", "num_key_value_heads": null}"#);
    let c = read(&qwen3).unwrap();
    assert_eq!((c.num_key_value_heads, c.max_position_embeddings), (2, 32_768));
    assert_eq!((c.head_dim, c.qk_norm, c.attention_bias), (128, true, false));
}

#[test]
fn older_and_newer_spellings_of_the_rotary_settings_mean_the_same() {
    let scaling = r#""rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192"#;
    let older = SMALL.replace('}', &format!(r#", "rope_theta": 5e5, "rope_scaling": {{{scaling}}}}}"#));
    let newer = SMALL.replace('}', &format!(r#", "rope_parameters": {{"rope_theta": 5e5, {scaling}}}}}"#));
    assert_eq!(read(&older).unwrap(), read(&newer).unwrap());
    assert!(matches!(read(&newer).unwrap().rope_scaling, Some(RopeScaling::Llama3 { factor: 32.0, .. })));
}

#[test]
fn llama3_scaling_keeps_short_waves_and_stretches_long_ones() {
    let s = RopeScaling::Llama3 {
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
        (with("\"hidden_act\": \"gelu\""), "gelu"),
        (SMALL.replace(", \"vocab_size\": 32", ""), "vocab_size is missing"),
        (SMALL.replace("32", "\"many\""), "whole number"),
        (SMALL.replace("32", "0"), "vocab_size is 0"),
        (SMALL.replace('}', r#", "num_key_value_heads": 3}"#), "multiple"),
        (SMALL.replace('}', r#", "head_dim": 5}"#), "even"),
        (SMALL.replace('}', r#", "use_sliding_window": true}"#), "sliding"),
        (SMALL.replace('}', r#", "rope_scaling": {"type": "dynamic", "factor": 4.0}}"#), "dynamic"),
        (SMALL.replace('}', r#", "rope_scaling": {"rope_type": "llama3"}}"#), "factor"),
        (SMALL.replace('}', r#", "quantization_config": {"quant_method": "awq"}}"#), "awq"),
        ("{".to_owned(), "not valid JSON"),
    ];
    for (text, expected) in table {
        let message = read(&text).unwrap_err().to_string();
        assert!(message.starts_with("config.json: ") && message.contains(expected), "{message}");
    }
}

/// The small configuration with further keys.
fn with(keys: &str) -> String {
    SMALL.replace('}', &format!(", {keys}}}"))
}

#[test]
fn every_spelling_of_a_rope_scaling_that_is_not_computed_is_refused_by_name() {
    let table = [
        (r#""rope_scaling": {"type": "linear"}"#, "has no factor"),
        (r#""rope_scaling": {"type": "linear", "factor": 0}"#, "must be above 0"),
        (r#""rope_scaling": {"type": "linear", "factor": "2"}"#, "factor is \"2\"; it must be a number"),
        (r#""rope_scaling": {"type": "linear", "factor": 2, "beta_fast": 32}"#, "rope_scaling.beta_fast is 32"),
        (r#""rope_parameters": {"rope_type": "dynamic", "factor": 2.0}"#, "\"dynamic\" (rope_parameters)"),
        (r#""rope_scaling": {"rope_type": "yarn", "original_max_position_embeddings": 64}"#, "has no factor"),
        (r#""rope_scaling": {"rope_type": "yarn", "factor": null}"#, "has no factor"),
        (r#""rope_scaling": {"rope_type": "yarn", "factor": -4}"#, "must be above 0"),
        (r#""rope_scaling": {"rope_type": "yarn", "factor": 4, "beta_fast": 1, "beta_slow": 8}"#, "beta_fast above"),
        (r#""rope_scaling": {"rope_type": "yarn", "factor": 4, "attention_factor": 1e200}"#, "must be above 0"),
        (r#""rope_theta": 1, "rope_scaling": {"rope_type": "yarn", "factor": 4}"#, "rope_theta is 1; YaRN"),
        (r#""rope_theta": 0.5, "rope_scaling": {"rope_type": "yarn", "factor": 4}"#, "rope_theta is 0.5; YaRN"),
        (r#""rope_scaling": {"rope_type": "yarn", "factor": 4, "truncate": 1}"#, "truncate is 1; it must be true or"),
        (r#""rope_scaling": {"rope_type": "yarn", "factor": 4, "long_factor": [1.0]}"#, "rope_scaling.long_factor"),
        (r#""original_max_position_embeddings": 32, "rope_scaling": {"rope_type": "yarn", "factor": 4}"#, "is 32"),
        (r#""rope_scaling": {"type": "yarn", "factor": 4, "original_max_position_embeddings": 0}"#, "above 0"),
        (r#""rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [2.0]}"#, "\"longrope\""),
        (r#""rope_scaling": {"type": "su", "short_factor": [1.0], "long_factor": [2.0]}"#, "\"su\""),
        (r#""rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}"#, "\"mrope\""),
        (r#""rope_scaling": {"type": "default", "mrope_section": [16, 24, 24]}"#, "rope_scaling.mrope_section"),
        (r#""rope_scaling": {"factor": 4.0}"#, "rope_scaling.factor is 4.0, without a type that reads it"),
        (r#""rope_parameters": {"rope_theta": 1e4, "factor": 4.0}"#, "rope_parameters.factor"),
        (r#""rope_scaling": {"type": null, "factor": 4.0}"#, "rope_scaling.factor"),
        (
            r#""rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}"#,
            "partial_rotary_factor is 0.5",
        ),
        (r#""rope_parameters": {"full_attention": {"rope_type": "default"}}"#, "rope_parameters.full_attention"),
        (r#""rope_scaling": {"type": "default", "rope_type": "yarn"}"#, "rope_type is \"yarn\", and type \"default\""),
        (r#""rope_scaling": {"type": 3}"#, "rope_scaling.type is 3; it must be a text"),
        (r#""rope_scaling": "linear""#, "rope_scaling is \"linear\"; it must be an object"),
        (r#""rope_scaling": [4.0]"#, "rope_scaling is [4.0]"),
        (r#""rope_theta": 1e4, "rope_parameters": {"rope_theta": 1e6}"#, "rope_theta is 10000, and 1000000"),
        (r#""rope_theta": "1e6""#, "rope_theta is \"1e6\"; it must be a number"),
        (r#""rope_theta": null"#, "rope_theta is null"),
        (
            r#""rope_scaling": {"type": "default"}, "rope_parameters": {"type": "linear", "factor": 2}"#,
            "rope_parameters and rope_scaling",
        ),
        (
            r#""rope_scaling": {"type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4,
                "original_max_position_embeddings": 64.5}"#,
            "original_max_position_embeddings is 64.5; it must be a whole number above 0",
        ),
        (
            r#""rope_scaling": {"type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4,
                "original_max_position_embeddings": 64, "attention_factor": 2}"#,
            "attention_factor is 2",
        ),
    ];
    for (keys, expected) in table {
        let message = read(&with(keys)).unwrap_err().to_string();
        assert!(message.contains(expected), "{keys}: {message}");
    }
    for none in [
        r#""rope_scaling": null"#,
        r#""rope_scaling": {}"#,
        r#""rope_scaling": {"type": "default"}"#,
        r#""rope_scaling": {"type": "linear", "factor": 1.0}"#,
        r#""rope_theta": 10000.0, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "factor": null}"#,
    ] {
        assert_eq!(read(&with(none)).unwrap(), read(SMALL).unwrap(), "{none}");
    }
}

#[test]
fn keys_of_other_families_are_refused_where_they_change_the_result() {
    let table = [
        r#""embedding_multiplier": 12.0"#,
        r#""residual_multiplier": 0.22"#,
        r#""logits_scaling": 8.0"#,
        r#""attention_multiplier": 0.015625"#,
        r#""scale_depth": 1.4"#,
        r#""attn_logit_softcapping": 50.0"#,
        r#""final_logit_softcapping": 30.0"#,
        r#""partial_rotary_factor": 0.5"#,
        r#""rope_interleaved": true"#,
        r#""use_mrope": true"#,
        r#""no_rope_layers": [1, 1, 1, 0]"#,
        r#""sliding_window": 512"#,
        r#""use_sliding_window": true"#,
        r#""layer_types": ["sliding_attention"]"#,
        r#""num_local_experts": 8"#,
        r#""is_causal": false"#,
        r#""use_qk_norm": true"#,
        r#""original_max_position_embeddings": 64"#,
        r#""hidden_act": "relu2""#,
        r#""hidden_act": null"#,
        r#""auto_map": {"AutoModelForCausalLM": "modeling_other.Other"}"#,
        r#""compression_config": {"format": "pack-quantized"}"#,
        r#""vision_config": {"depth": 32}"#,
    ];
    for key in table {
        let message = read(&with(key)).unwrap_err().to_string();
        let name = key.split('"').nth(1).unwrap();
        assert!(message.contains(name) && message.contains("does not compute"), "{key}: {message}");
    }
    // What says that a thing is off, and what the families here write themselves.
    let off = r#""embedding_multiplier": 1.0, "attn_logit_softcapping": null, "rope_interleaved": false, "num_experts": 0,
        "no_rope_layers": [], "partial_rotary_factor": 1.0, "is_causal": true, "quantization_config": {},
        "sliding_window": 4096, "layer_types": ["full_attention"], "auto_map": {"AutoConfig": "configuration.C"},
        "original_max_position_embeddings": 2048, "mlp_bias": false"#;
    assert_eq!(read(&with(off)).unwrap(), read(SMALL).unwrap());
    let qwen = r#""num_key_value_heads": 2, "use_sliding_window": false, "sliding_window": 8, "max_window_layers": 0"#;
    read(&with(qwen).replace("llama", "qwen2")).unwrap();
    read(&with(r#""num_key_value_heads": 1, "use_qk_norm": true"#).replace("llama", "qwen3")).unwrap();
}

#[test]
fn biases_are_those_that_transformers_has_for_the_architecture() {
    let biases = |architecture: &str, keys: &str| {
        let c = read(&with(&format!("\"num_key_value_heads\": 2, {keys}")).replace("llama", architecture)).unwrap();
        (c.attention_bias, c.attention_output_bias, c.mlp_bias)
    };
    let all = r#""attention_bias": true, "mlp_bias": true"#;
    assert_eq!(biases("llama", all), (true, true, true));
    assert_eq!(biases("llama", r#""attention_bias": false"#), (false, false, false));
    assert_eq!(biases("qwen3", r#""attention_bias": true"#), (true, true, false));
    assert_eq!(biases("qwen2", r#""attention_bias": true"#), (true, false, false));
    for architecture in ["qwen2", "qwen3"] {
        let text = with(r#""num_key_value_heads": 2, "mlp_bias": true"#).replace("llama", architecture);
        assert!(read(&text).unwrap_err().to_string().contains("mlp_bias is true"));
    }
}

#[test]
fn a_value_of_another_type_is_never_replaced_by_a_default() {
    for key in [
        r#""tie_word_embeddings": "true""#,
        r#""tie_word_embeddings": null"#,
        r#""rms_norm_eps": "1e-5""#,
        r#""rms_norm_eps": null"#,
        r#""max_position_embeddings": 2048.0"#,
        r#""max_position_embeddings": null"#,
        r#""num_key_value_heads": "2""#,
        r#""num_key_value_heads": [2]"#,
        r#""head_dim": true"#,
        r#""head_dim": -4"#,
        r#""attention_bias": 1"#,
        r#""mlp_bias": "no""#,
        r#""use_sliding_window": 0"#,
        r#""sliding_window": "all""#,
        r#""layer_types": "full_attention""#,
    ] {
        let message = read(&with(key)).unwrap_err().to_string();
        let name = key.split('"').nth(1).unwrap();
        assert!(message.contains(&format!("{name} is ")) && message.contains("it must be"), "{key}: {message}");
    }
    for (text, expected) in [
        ("[]".to_owned(), "no JSON object"),
        (SMALL.replace("\"llama\"", "7"), "model_type is 7"),
        (SMALL.replace("\"num_attention_heads\": 2", "\"num_attention_heads\": null"), "num_attention_heads is null"),
        (SMALL.replace("\"num_attention_heads\": 2", "\"num_attention_heads\": 3"), "no head_dim"),
        (SMALL.replace("llama", "qwen2"), "num_key_value_heads is missing"),
        (with(r#""layer_types": ["full_attention", "full_attention"]"#), "2 items for 1 layers"),
    ] {
        let message = read(&text).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn keys_that_nobody_knows_are_named_and_those_of_real_models_are_known() {
    let keys = |text: &str| super::read(Path::new("config.json"), text).unwrap().1;
    assert_eq!(keys(&with(r#""gradient_stuff": 3, "nothing": null, "off": false, "_mine": 4"#)), ["gradient_stuff"]);
    // SmolLM2, Qwen2.5 and Qwen3, Llama 3.2 and a copy by Unsloth.
    let smollm = r#""architectures": ["LlamaForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2,
        "initializer_range": 0.04, "is_llama_config": true, "pad_token_id": 2, "pretraining_tp": 1,
        "rope_interleaved": false, "torch_dtype": "bfloat16", "transformers_version": "4.42.3", "use_cache": true,
        "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}}, "unsloth_fixed": true, "_name_or_path": "x",
        "sliding_window": null, "max_window_layers": 28, "use_mrope": false, "dtype": "bfloat16""#;
    assert_eq!(keys(&with(smollm)), [] as [String; 0]);
}
