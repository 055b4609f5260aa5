use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};

use super::*;

fn golden(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden")).join(name)
}

fn model() -> ModelConfig {
    crate::ModelSource::open(&golden("tiny-qwen3")).unwrap().config().clone()
}

/// The golden adapter with keys of its configuration set, and its tensors changed.
fn changed(keys: &str, change: impl Fn(&mut HashMap<String, Tensor>)) -> Result<Adapter> {
    let folder = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(golden("peft-qwen3/adapter_config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
    let keys: serde_json::Value = serde_json::from_str(&format!("{{{keys}}}")).unwrap();
    for (key, value) in keys.as_object().unwrap() {
        config[key] = value.clone();
    }
    // A text says here that the key is taken away.
    config.as_object_mut().unwrap().retain(|_, value| value != "absent");
    std::fs::write(folder.path().join("adapter_config.json"), config.to_string()).unwrap();
    let path = golden("peft-qwen3/adapter_model.safetensors");
    let mut tensors = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    change(&mut tensors);
    candle_core::safetensors::save(&tensors, folder.path().join("adapter_model.safetensors")).unwrap();
    Adapter::load(folder.path(), &model())
}

fn refusal(keys: &str, change: impl Fn(&mut HashMap<String, Tensor>)) -> String {
    match changed(keys, change) {
        Ok(_) => panic!("{keys} was taken"),
        Err(error) => error.to_string(),
    }
}

fn values(adapter: &Adapter) -> Vec<(String, Vec<f32>)> {
    adapter.parameters().map(|(name, factor)| (name, factor.values().to_vec())).collect()
}

/// Renames every tensor.
fn renamed(change: impl Fn(&str) -> String) -> impl Fn(&mut HashMap<String, Tensor>) {
    move |tensors| *tensors = tensors.drain().map(|(name, tensor)| (change(&name), tensor)).collect()
}

#[test]
fn a_key_that_changes_the_result_is_refused_by_its_name() {
    for key in [
        r#""init_lora_weights": "pissa""#,
        r#""init_lora_weights": "pissa_niter_16""#,
        r#""init_lora_weights": "olora""#,
        r#""init_lora_weights": "corda""#,
        r#""init_lora_weights": "lora_ga""#,
        r#""init_lora_weights": "loftq""#,
        r#""init_lora_weights": "something""#,
        r#""init_lora_weights": 1"#,
        r#""alora_invocation_tokens": [257]"#,
        r#""layer_replication": [[0, 2], [1, 2]]"#,
        r#""rank_pattern": 4"#,
        r#""rank_pattern": {"q_proj": 0}"#,
        r#""rank_pattern": {"q_proj": 4.5}"#,
        r#""rank_pattern": {"q_proj": "8"}"#,
        r#""alpha_pattern": {"(q_proj": 16}"#,
        r#""alpha_pattern": ["q_proj"]"#,
        r#""use_dora": true"#,
        r#""use_qalora": true"#,
        r#""use_bdlora": {"nblocks": 2}"#,
        r#""fan_in_fan_out": true"#,
        r#""bias": "all""#,
        r#""bias": "lora_only""#,
        r#""lora_bias": true"#,
        r#""modules_to_save": ["lm_head"]"#,
        r#""modules_to_save": "lm_head""#,
        r#""trainable_token_indices": [3]"#,
        r#""trainable_token_indices": {"embed_tokens": [3]}"#,
        r#""target_parameters": ["mlp.experts.gate_up_proj"]"#,
        r#""megatron_config": {"tp": 2}"#,
        r#""loftq_config": {"loftq_bits": 4}"#,
        r#""corda_config": {"corda_method": "ipm"}"#,
        r#""kasa_config": {"beta": 0.1}"#,
        r#""monteclora_config": {"num_samples": 4}"#,
        r#""arrow_config": {"top_k": 3}"#,
        r#""task_type": "SEQ_CLS""#,
        r#""peft_type": "IA3""#,
        r#""peft_type": "absent""#,
        r#""peft_type": 3"#,
        r#""some_new_method": true"#,
        r#""layers_pattern": "h", "layers_to_transform": [0, 1]"#,
        r#""r": 0"#,
        r#""r": "absent""#,
        r#""r": null"#,
        r#""r": 4.5"#,
        r#""r": "4""#,
        r#""lora_alpha": "absent""#,
        r#""lora_alpha": null"#,
        r#""lora_alpha": "8""#,
        r#""lora_alpha": 1e300"#,
        r#""alpha_pattern": {"q_proj": -1e300}"#,
        r#""use_rslora": 1"#,
        r#""target_modules": 5"#,
        r#""layers_to_transform": ["0"]"#,
    ] {
        let message = refusal(key, |_| {});
        let name = key.split('"').nth(1).unwrap();
        assert!(message.contains("adapter_config.json: ") && message.contains(name), "{key}: {message}");
    }
}

#[test]
fn a_key_that_says_nothing_or_only_how_it_was_trained_changes_nothing() {
    let own = values(&Adapter::load(&golden("peft-qwen3"), &model()).unwrap());
    for key in [
        r#""init_lora_weights": "gaussian""#,
        r#""init_lora_weights": "eva", "eva_config": {"rho": 2.0}"#,
        r#""init_lora_weights": false"#,
        r#""rank_pattern": {"q_proj": 4}, "alpha_pattern": {"q_proj": 8}"#,
        r#""rank_pattern": null, "alpha_pattern": null, "modules_to_save": [], "alora_invocation_tokens": null"#,
        r#""task_type": null, "lora_dropout": 0.1, "some_new_method": false, "some_new_config": {}"#,
        r#""target_modules": "all-linear""#,
        r#""target_modules": ".*proj""#,
        r#""target_modules": null"#,
        r#""target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]"#,
        r#""layers_to_transform": [0, 1], "layers_pattern": "layers""#,
        r#""ensure_weight_tying": true, "runtime_config": {"ephemeral_gpu_offload": false}"#,
    ] {
        let found = changed(key, |_| {}).unwrap_or_else(|e| panic!("{key}: {e}"));
        assert_eq!(values(&found), own, "{key}");
    }
}

#[test]
fn tensors_are_found_with_the_adapter_s_name_in_theirs_and_without_the_prefix() {
    let own = values(&Adapter::load(&golden("peft-qwen3"), &model()).unwrap());
    let named = |name: &str| name.replace(".weight", ".default.weight");
    assert_eq!(values(&changed("", renamed(named)).unwrap()), own);
    assert_eq!(values(&changed("", renamed(|name| name.replace(".weight", ".mine.weight"))).unwrap()), own);
    assert_eq!(values(&changed("", renamed(|name| name.replace("base_model.model.", ""))).unwrap()), own);
    let two = refusal("", renamed(|name| name.replace("lora_B.weight", "lora_B.other.weight")));
    assert!(two.contains("holds 2 adapters"), "{two}");
    let twice = refusal("", |tensors| {
        let copies: Vec<(String, Tensor)> = tensors.iter().map(|(n, t)| (named(n), t.clone())).collect();
        tensors.extend(copies);
    });
    assert!(twice.contains("which are the same factor"), "{twice}");
}

#[test]
fn what_is_in_the_file_and_not_a_factor_of_a_layer_is_said_by_what_it_is() {
    let table = [
        ("base_model.model.model.embed_tokens.lora_embedding_A", "an adapter of the embedding"),
        ("base_model.model.lm_head.lora_A.weight", "an adapter of the output layer"),
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_B.bias", "biases"),
        ("base_model.model.model.layers.0.self_attn.q_proj.bias", "biases"),
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector", "magnitudes of DoRA"),
        ("base_model.model.lm_head.modules_to_save.weight", "modules_to_save"),
        ("base_model.model.model.embed_tokens.weight", "trained or resized"),
        ("base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta", "trainable_token_indices"),
        ("base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight", "this model of 2 layers does not have"),
        ("base_model.model.model.layers.00.self_attn.q_proj.lora_A.weight", "does not have"),
        ("base_model.model.model.layers.0.mlp.experts.0.up_proj.lora_A.weight", "does not have"),
    ];
    for (name, expected) in table {
        let message = refusal("", |tensors| {
            tensors.insert(name.to_owned(), Tensor::zeros((4, 64), DType::F32, &Device::Cpu).unwrap());
        });
        assert!(message.contains(expected) && message.contains(name), "{name}: {message}");
    }
    let other = refusal("", |tensors| {
        tensors.clear();
        tensors.insert("prompt_embeddings".into(), Tensor::zeros((4, 64), DType::F32, &Device::Cpu).unwrap());
    });
    assert!(other.contains("another method than LoRA"), "{other}");
}

#[test]
fn weights_and_configuration_that_name_other_layers_are_refused() {
    let no = |_: &mut HashMap<String, Tensor>| {};
    assert!(
        refusal(r#""target_modules": ["q_proj"]"#, no).contains("holds factors of model.layers.0.self_attn.k_proj")
    );
    assert!(
        refusal(r#""exclude_modules": ["v_proj"]"#, no).contains("holds factors of model.layers.0.self_attn.v_proj")
    );
    assert!(refusal(r#""layers_to_transform": 0"#, no).contains("holds factors of model.layers.1."));
    let lost = refusal("", |tensors| tensors.retain(|name, _| !name.contains("layers.1.mlp.up_proj")));
    assert!(lost.contains("lacks factors of model.layers.1.mlp.up_proj"), "{lost}");
    let all = r#""q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj""#;
    for outside in ["lm_head", "embed_tokens"] {
        let lost = refusal(&format!(r#""target_modules": [{all}, "{outside}"]"#), no);
        assert!(lost.contains("lacks factors of") && lost.contains(outside), "{lost}");
    }
    changed(&format!(r#""target_modules": [{all}, "w_pack"]"#), no).unwrap();
    let half = refusal("", |tensors| tensors.retain(|name, _| !name.contains("layers.1.mlp.up_proj.lora_B")));
    assert!(half.contains("lacks base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"), "{half}");
    assert!(refusal(r#""r": 8"#, no).contains("has shape [4, 64]"));
    let ranks = refusal(r#""rank_pattern": {"1.self_attn.v_proj": 8}"#, no);
    assert!(ranks.contains("layers.1.self_attn.v_proj.lora_A") && ranks.contains("need [8, 64]"), "{ranks}");
}

#[test]
fn factors_that_are_not_numbers_are_refused_by_name() {
    let name = "base_model.model.model.layers.1.self_attn.v_proj.lora_A.weight";
    for bad in [f32::NAN, f32::INFINITY] {
        let message = refusal("", |tensors| {
            let shape = tensors[name].dims().to_vec();
            let mut values = tensors[name].flatten_all().unwrap().to_vec1::<f32>().unwrap();
            values[5] = bad;
            tensors.insert(name.into(), Tensor::from_vec(values, shape, &Device::Cpu).unwrap());
        });
        assert!(message.contains(&format!("{name} holds {bad}")), "{message}");
    }
}

#[test]
fn an_adapter_of_some_layers_alone_is_saved_so_that_it_can_be_read_again() {
    let some = r#""target_modules": ["model.layers.1.self_attn.v_proj"]"#;
    let adapter =
        changed(some, |tensors| tensors.retain(|name, _| name.contains("layers.1.self_attn.v_proj"))).unwrap();
    let folder = tempfile::tempdir().unwrap();
    adapter.save(folder.path(), "tiny-qwen3").unwrap();
    assert_eq!(values(&Adapter::load(folder.path(), &model()).unwrap()), values(&adapter));
}

#[test]
fn an_adapter_that_cannot_be_saved_whole_leaves_the_one_that_is_there() {
    let adapter = Adapter::load(&golden("peft-qwen3"), &model()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    adapter.save(folder.path(), "first").unwrap();
    let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    let old = read("adapter_model.safetensors");
    // The second file cannot be replaced: a folder stands in its place.
    let about = folder.path().join("adapter_config.json");
    std::fs::remove_file(&about).unwrap();
    std::fs::create_dir(&about).unwrap();
    let mut other = adapter.clone();
    other.set(other.parameters().map(|(_, f)| vec![0.0; f.values().len()]).collect::<Vec<_>>().into_iter()).unwrap();
    let error = other.save(folder.path(), "second").unwrap_err().to_string();
    assert!(error.contains("adapter_config.json"), "{error}");
    assert_eq!(read("adapter_model.safetensors"), old);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "nothing half-written stays behind");
}

#[test]
fn a_folder_that_holds_no_adapter_is_said_to_be_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |path: &Path| Adapter::load(path, &model()).map(|_| ()).unwrap_err().to_string();
    assert!(refused(folder.path()).contains("holds no adapter_config.json"));
    assert!(refused(&golden("tiny-qwen3")).contains("a model, not an adapter"));
    assert!(refused(&golden("tiny-qwen3.gguf")).contains("a GGUF file where an adapter's folder belongs"));
    assert!(refused(&golden("peft-qwen3/adapter_model.safetensors")).contains("one file of an adapter"));
    let inner = folder.path().join("default");
    std::fs::create_dir(&inner).unwrap();
    std::fs::copy(golden("peft-qwen3/adapter_config.json"), inner.join("adapter_config.json")).unwrap();
    assert!(refused(folder.path()).contains("an adapter in default within it"));
    assert!(refused(&inner).contains("adapter_model.safetensors is missing"));
    std::fs::write(inner.join("adapter_model.bin"), "PK").unwrap();
    assert!(refused(&inner).contains("adapter_model.bin") && refused(&inner).contains("save_pretrained"));
}
