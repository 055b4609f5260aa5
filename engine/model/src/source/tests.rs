use std::collections::HashMap;

use candle_core::{DType, Device};

use super::*;

fn golden(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden")).join(name)
}

fn refusal(path: &Path) -> String {
    ModelSource::open(path).and_then(|s| s.tokenizer()).map(|_| ()).unwrap_err().to_string()
}

/// A copy of a golden folder's model files to damage.
fn copy(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        if golden(name).join(file).exists() {
            std::fs::copy(golden(name).join(file), folder.path().join(file)).unwrap();
        }
    }
    folder
}

/// Writes tensors as safetensors in one type.
fn save(path: &Path, tensors: &[(String, Tensor)], dtype: DType) {
    let tensors: HashMap<String, candle_core::Tensor> =
        tensors.iter().map(|(n, t)| (n.clone(), of_candle(t).to_dtype(dtype).unwrap())).collect();
    candle_core::safetensors::save(&tensors, path).unwrap();
}

fn of_candle(t: &Tensor) -> candle_core::Tensor {
    candle_core::Tensor::from_vec(t.values().to_vec(), t.shape(), &Device::Cpu).unwrap()
}

fn all_tensors(source: &ModelSource) -> Vec<(String, Tensor)> {
    source.config().tensor_names().into_iter().map(|n| (n.clone(), source.tensor(&n).unwrap())).collect()
}

/// The values of candle's tensor.
fn values(t: &candle_core::Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn a_folder_yields_the_values_that_candle_reads() {
    for name in ["tiny-llama", "tiny-qwen2", "tiny-qwen3"] {
        let source = ModelSource::open(&golden(name)).unwrap();
        let oracle = candle_core::safetensors::load(golden(name).join("model.safetensors"), &Device::Cpu).unwrap();
        for (tensor, found) in all_tensors(&source) {
            assert_eq!(found.values(), values(&oracle[&tensor]), "{name} {tensor}");
        }
        assert_eq!(source.config().tensor_names().len(), oracle.len(), "{name}: a tensor that the decoder ignores");
    }
}

#[test]
fn the_three_architectures_are_told_apart() {
    let config = |name| ModelSource::open(&golden(name)).unwrap().config().clone();
    let (llama, qwen2, qwen3) = (config("tiny-llama"), config("tiny-qwen2"), config("tiny-qwen3"));
    assert_eq!(llama.rope_scaling.map(|s| s.factor), Some(8.0));
    assert_eq!((qwen2.attention_bias, qwen2.tie_word_embeddings, qwen2.rope_theta), (true, true, 1e6));
    assert_eq!((qwen3.qk_norm, qwen3.head_dim, qwen3.vocab_size), (true, 24, 264));
}

#[test]
fn a_tied_output_layer_is_the_embedding() {
    let source = ModelSource::open(&golden("tiny-qwen2")).unwrap();
    assert!(!source.has("lm_head.weight") && source.has("model.layers.1.self_attn.k_proj.bias"));
    let (head, embedding) =
        (source.tensor("lm_head.weight").unwrap(), source.tensor("model.embed_tokens.weight").unwrap());
    assert_eq!(head, embedding);
    assert!(source.tensor("model.layers.2.mlp.up_proj.weight").unwrap_err().to_string().contains("no tensor"));
}

#[test]
fn shards_and_half_precisions_hold_the_same_model() {
    let source = ModelSource::open(&golden("tiny-qwen3")).unwrap();
    let tensors = all_tensors(&source);
    for dtype in [DType::F16, DType::BF16] {
        let folder = copy("tiny-qwen3");
        std::fs::remove_file(folder.path().join("model.safetensors")).unwrap();
        let (first, second) = tensors.split_at(9);
        let mut map = serde_json::Map::new();
        for (part, name) in [(first, "model-00001-of-00002.safetensors"), (second, "model-00002-of-00002.safetensors")]
        {
            save(&folder.path().join(name), part, dtype);
            map.extend(part.iter().map(|(n, _)| (n.clone(), name.into())));
        }
        let index = serde_json::json!({"metadata": {"total_size": 1}, "weight_map": map}).to_string();
        std::fs::write(folder.path().join("model.safetensors.index.json"), index).unwrap();
        let sharded = ModelSource::open(folder.path()).unwrap();
        for (name, tensor) in &tensors {
            let rounded = of_candle(tensor).to_dtype(dtype).unwrap().to_dtype(DType::F32).unwrap();
            assert_eq!(sharded.tensor(name).unwrap().values(), values(&rounded), "{name}");
        }
        assert_eq!(sharded.summary().types, [(format!("{dtype:?}"), tensors.len())]);
        let gone = folder.path().join("model-00002-of-00002.safetensors");
        std::fs::remove_file(gone).unwrap();
        let message = refusal(folder.path());
        assert!(message.contains("1 of 2 shards are missing: model-00002-of-00002.safetensors"), "{message}");
    }
}

#[test]
fn an_index_that_leads_out_of_its_folder_is_refused() {
    let folder = copy("tiny-llama");
    std::fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    let index = folder.path().join("model.safetensors.index.json");
    for (text, expected) in [
        (r#"{"weight_map": {"a": "../../secret"}}"#, "same folder"),
        (r#"{"weight_map": {}}"#, "without shards"),
        (r#"{"weights": {}}"#, "not an index"),
    ] {
        std::fs::write(&index, text).unwrap();
        let message = refusal(folder.path());
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn damaged_folders_are_refused_with_what_was_found() {
    let source = ModelSource::open(&golden("tiny-llama")).unwrap();
    let tensors = all_tensors(&source);
    let whole = std::fs::read(golden("tiny-llama/model.safetensors")).unwrap();
    type Change<'a> = &'a dyn Fn(&Path);
    let damage: [(&str, Change, &str); 9] = [
        ("cut off", &|p| std::fs::write(p.join("model.safetensors"), &whole[..whole.len() - 1]).unwrap(), "promises"),
        ("cut in the header", &|p| std::fs::write(p.join("model.safetensors"), &whole[..100]).unwrap(), "a header of"),
        ("empty", &|p| std::fs::write(p.join("model.safetensors"), "").unwrap(), "0 bytes"),
        ("a web page", &|p| std::fs::write(p.join("model.safetensors"), "<html>".repeat(9)).unwrap(), "no safetensors"),
        (
            "no weights",
            &|p| std::fs::remove_file(p.join("model.safetensors")).unwrap(),
            "neither model.safetensors nor",
        ),
        ("no config", &|p| std::fs::remove_file(p.join("config.json")).unwrap(), "neither config.json nor"),
        ("a missing tensor", &|p| save(&p.join("model.safetensors"), &tensors[1..], DType::F32), "is missing"),
        ("whole numbers", &|p| save(&p.join("model.safetensors"), &tensors, DType::I64), "I64"),
        (
            "another width",
            &|p| {
                let text = std::fs::read_to_string(p.join("config.json")).unwrap();
                std::fs::write(
                    p.join("config.json"),
                    text.replace("\"intermediate_size\": 96", "\"intermediate_size\": 95"),
                )
                .unwrap();
            },
            "has the shape [96, 64] where the configuration says [95, 64]",
        ),
    ];
    for (what, change, expected) in damage {
        let folder = copy("tiny-llama");
        change(folder.path());
        let opened = ModelSource::open(folder.path()).and_then(|s| s.tensor("model.norm.weight").map(|_| ()));
        let message = opened.unwrap_err().to_string();
        assert!(message.contains(expected) && message.contains("; "), "{what}: {message}");
    }
    let message = refusal(&golden("tiny-llama"));
    assert!(message.contains("tokenizer.json: the tokenizer is missing"), "{message}");
    assert!(refusal(Path::new("/nowhere/model.gguf")).contains("check the path"));
}

#[test]
fn the_tokenizer_of_another_model_is_refused() {
    let folder = copy("tiny-llama");
    std::fs::copy(golden("tiny-qwen3/tokenizer.json"), folder.path().join("tokenizer.json")).unwrap();
    let message = refusal(folder.path());
    assert!(message.contains("259 tokens over an embedding of 256 rows"), "{message}");
}

#[test]
fn the_digest_follows_the_content_and_not_the_place() {
    let (a, b) = (copy("tiny-llama"), copy("tiny-llama"));
    let digest = |folder: &tempfile::TempDir| ModelSource::open(folder.path()).unwrap().digest().unwrap();
    assert_eq!((digest(&a), digest(&a).len()), (digest(&b), 64));
    let text = std::fs::read_to_string(b.path().join("config.json")).unwrap();
    std::fs::write(b.path().join("config.json"), text.replace("512", "513")).unwrap();
    assert_ne!(digest(&a), digest(&b));
}

/// SmolLM2, for the tests on a real model; none where it cannot be fetched.
fn real_model() -> Option<ModelSource> {
    Some(ModelSource::open(&querywright_testing::model()?).unwrap())
}

fn check_ids(tokenizer: &Tokenizer, text: &str) -> usize {
    let cases: Vec<(String, Vec<u32>)> = serde_json::from_str(text).unwrap();
    let wrong: Vec<&String> = cases
        .iter()
        .filter(|(text, ids)| &tokenizer.encode(text, true).unwrap() != ids)
        .map(|(text, _)| text)
        .collect();
    assert!(wrong.is_empty(), "{} of {} strings: {:?}", wrong.len(), cases.len(), &wrong[..wrong.len().min(5)]);
    cases.len()
}

#[test]
fn smollm2_cuts_strings_of_many_scripts_as_the_original_does() {
    let Some(model) = real_model() else { return };
    let tokenizer = model.tokenizer().unwrap();
    assert_eq!(check_ids(&tokenizer, include_str!("../../../../tests/golden/tokenizer-smollm2.json")), 300);
}

#[test]
fn smollm2_cuts_all_strings_of_the_large_collection_as_the_original_does() {
    let purpose = "it names a folder with the large tokenizer-smollm2.json";
    let Some(folder) = querywright_testing::variable("QUERYWRIGHT_GOLDEN_DIR", purpose) else { return };
    let Some(model) = real_model() else { return };
    let tokenizer = model.tokenizer().unwrap();
    let large = std::fs::read_to_string(Path::new(&folder).join("tokenizer-smollm2.json")).unwrap();
    println!("{} strings agree", check_ids(&tokenizer, &large));
}

#[test]
fn smollm2_s_shape_end_tokens_and_template_are_known() {
    let Some(model) = real_model() else { return };
    assert_eq!(model.summary().parameters, 134_515_008);
    let c = model.config();
    assert_eq!((c.hidden_size, c.num_hidden_layers, c.head_dim, c.rope_theta), (576, 30, 64, 1e5));
    assert!(c.tie_word_embeddings && c.rope_scaling.is_none());
    let tokenizer = model.tokenizer().unwrap();
    assert_eq!((tokenizer.eos_ids(), tokenizer.pad_id()), (&[2, 0][..], Some(2)));
    let cases: Vec<serde_json::Value> =
        serde_json::from_str(include_str!("../../../../tests/golden/chat-smollm2.json")).unwrap();
    for case in cases {
        let messages: Vec<super::super::chat::Message> = serde_json::from_value(case["messages"].clone()).unwrap();
        let open = case["add_generation_prompt"].as_bool().unwrap();
        assert_eq!(tokenizer.chat_template().unwrap().render(&messages, open).unwrap(), case["text"]);
    }
}

#[test]
fn smollm2_s_weights_are_those_that_transformers_dequantises() {
    let purpose = "it names the same model, saved by transformers in f32";
    let Some(folder) = querywright_testing::variable("QUERYWRIGHT_TEST_MODEL_HF", purpose) else { return };
    let Some(model) = real_model() else { return };
    let folder = ModelSource::open(Path::new(&folder)).unwrap();
    for name in model.config().tensor_names() {
        assert_eq!(model.tensor(&name).unwrap(), folder.tensor(&name).unwrap(), "{name}");
    }
}
