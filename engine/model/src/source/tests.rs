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
    assert!(matches!(llama.rope_scaling, Some(crate::RopeScaling::Llama3 { factor: 8.0, .. })));
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
        ("a web page", &|p| std::fs::write(p.join("model.safetensors"), "<html>".repeat(9)).unwrap(), "a web page"),
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

/// tiny-llama with its tensors changed, and keys of its configuration.
fn changed(keys: &[(&str, &str)], change: impl Fn(&mut Vec<(String, Tensor)>)) -> tempfile::TempDir {
    let folder = copy("tiny-llama");
    let mut tensors = all_tensors(&ModelSource::open(&golden("tiny-llama")).unwrap());
    change(&mut tensors);
    save(&folder.path().join("model.safetensors"), &tensors, DType::F32);
    let path = folder.path().join("config.json");
    let mut text = std::fs::read_to_string(&path).unwrap();
    for (from, to) in keys {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    std::fs::write(path, text).unwrap();
    folder
}

fn opened(folder: &Path) -> String {
    ModelSource::open(folder).map(|_| ()).unwrap_err().to_string()
}

#[test]
fn weights_that_are_not_numbers_are_refused_when_they_are_loaded_by_their_tensor_s_name() {
    for (name, bad) in [
        ("model.norm.weight", f32::NAN),
        ("model.embed_tokens.weight", f32::INFINITY),
        ("model.layers.1.mlp.down_proj.weight", f32::NEG_INFINITY),
        ("lm_head.weight", f32::NAN),
    ] {
        let folder = changed(&[], |tensors| {
            let (_, tensor) = tensors.iter_mut().find(|(n, _)| n == name).unwrap();
            let mut values = tensor.values().to_vec();
            let last = values.len() - 1;
            values[last] = bad;
            *tensor = Tensor::new(values, tensor.shape()).unwrap();
        });
        let source = ModelSource::open(folder.path()).unwrap();
        let loaded = crate::Decoder::load(&source, crate::Precision::F32, &()).map(|_| ());
        let message = loaded.unwrap_err().to_string();
        assert!(message.contains(&format!("tensor {name} holds {bad} (value ")), "{message}");
    }
    let none = Tensor::new(vec![1.0; 10_000], &[10_000]).unwrap();
    assert_eq!(none.not_finite(), None);
    let mut values = none.into_values();
    (values[9_000], values[4_097]) = (f32::NAN, f32::INFINITY);
    assert_eq!(Tensor::new(values, &[10_000]).unwrap().not_finite(), Some((4_097, f32::INFINITY)), "the first one");
}

#[test]
fn a_tensor_that_nobody_reads_is_refused_when_the_model_is_opened() {
    let one = || Tensor::new(vec![0.5; 64], &[64]).unwrap();
    for (name, expected) in [
        ("model.layers.0.self_attn.q_proj.bias", "biases, which are not supported in a llama model"),
        ("model.layers.1.mlp.down_proj.bias", "biases"),
        ("model.layers.0.self_attn.q_norm.weight", "norms that this architecture does not have"),
        ("model.layers.0.self_attn.q_proj.lora_A.default.weight", "an adapter's weights"),
        ("model.layers.0.self_attn.q_proj.weight_scale", "quantised weights"),
        ("model.layers.0.mlp.experts.0.up_proj.weight", "a mixture of experts"),
        ("score.weight", "classifies or scores"),
        ("model.layers.2.input_layernorm.weight", "a llama model of 2 layers does not read"),
        ("model.layers.2.mlp.up_proj.weight", "a llama model of 2 layers does not read"),
        ("model.layers.00.mlp.up_proj.weight", "does not read"),
        ("model.vision.patch", "does not read"),
        ("vision.encoder.layers.0.mlp.up_proj.weight", "does not read"),
    ] {
        let folder = changed(&[], |tensors| tensors.push((name.to_owned(), one())));
        let message = opened(folder.path());
        assert!(message.contains(expected) && message.contains(name), "{name}: {message}");
    }
    let frequencies = changed(&[], |tensors| {
        tensors.push(("model.layers.0.self_attn.rotary_emb.inv_freq".to_owned(), one()));
        tensors.push(("model.rotary_emb.inv_freq".to_owned(), one()));
    });
    ModelSource::open(frequencies.path()).unwrap();
}

#[test]
fn tensors_of_a_model_that_was_wrapped_are_said_to_have_another_beginning() {
    for (beginning, found) in [("module.model.", "module.model."), ("_orig_mod.model.", "_orig_mod.model."), ("", "")] {
        let folder = changed(&[], |tensors| {
            for (name, _) in tensors.iter_mut() {
                *name = name.replacen("model.", beginning, 1);
            }
        });
        let refused = refusal(folder.path());
        let expected = format!("its tensors begin with \"{found}\" where a llama model has \"model.\"");
        assert!(refused.contains(&expected), "{refused}");
    }
}

#[test]
fn number_types_that_are_not_read_are_refused_when_the_model_is_opened() {
    let folder = changed(&[], |_| {});
    let tensors = all_tensors(&ModelSource::open(&golden("tiny-llama")).unwrap());
    save(&folder.path().join("model.safetensors"), &tensors, DType::F64);
    let message = opened(folder.path());
    assert!(message.contains("is stored as F64") && message.contains("BF16"), "{message}");
}

#[test]
fn a_copy_of_a_tied_embedding_must_be_one() {
    let tied = [("\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true")];
    let copied = changed(&tied, |tensors| {
        let embedding = tensors.iter().find(|(n, _)| n == "model.embed_tokens.weight").unwrap().1.clone();
        tensors.iter_mut().find(|(n, _)| n == "lm_head.weight").unwrap().1 = embedding;
    });
    assert!(ModelSource::open(copied.path()).unwrap().config().tie_word_embeddings);
    let message = opened(changed(&tied, |_| {}).path());
    assert!(message.contains("tie_word_embeddings is true, and lm_head.weight is not the embedding"), "{message}");
}

#[test]
fn keys_that_nobody_reads_are_a_warning_that_names_them() {
    let unknown = changed(&[("\"mlp_bias\": false", "\"mlp_bias\": false, \"gradient_stuff\": 3")], |_| {});
    let source = ModelSource::open(unknown.path()).unwrap();
    assert!(matches!(source.warnings(), [one] if one.contains("config.json: key") && one.contains("gradient_stuff")));
    for name in ["tiny-llama", "tiny-qwen2", "tiny-qwen3", "tiny-llama.gguf", "tiny-qwen3.gguf"] {
        assert_eq!(ModelSource::open(&golden(name)).unwrap().warnings(), [] as [String; 0], "{name}");
    }
}

#[test]
fn what_is_no_model_is_said_to_be_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        std::fs::write(folder.path().join(name), bytes).unwrap();
        opened(&folder.path().join(name))
    };
    assert!(file("pytorch_model.bin", b"PK\x03\x04....").contains("PyTorch's weights"));
    assert!(file("model.pt", b"\x80\x02}q\x00").contains("save_pretrained"));
    assert!(file("old.bin", b"tjgg\x01\0\0\0").contains("older than GGUF"));
    assert!(file("pointer.gguf", b"version https://git-lfs.github.com/spec/v1").contains("git lfs pull"));
    assert!(file("adapter_model.safetensors", b"\x40\0\0\0\0\0\0\0{").contains("MODEL+DIR"));
    assert!(file("model.safetensors", b"\x40\0\0\0\0\0\0\0{").contains("give the folder"));
    std::fs::remove_file(folder.path().join("pointer.gguf")).unwrap();
    assert!(opened(folder.path()).contains("model.safetensors without config.json"));
    let message = opened(&golden("peft-qwen3"));
    assert!(message.contains("a LoRA adapter, not a model") && message.contains("MODEL+DIR"), "{message}");

    let torch = copy("tiny-llama");
    let weights = torch.path().join("model.safetensors");
    std::fs::rename(&weights, torch.path().join("model-00001-of-00002.safetensors")).unwrap();
    assert!(opened(torch.path()).contains("without model.safetensors.index.json"));
    std::fs::remove_file(torch.path().join("model-00001-of-00002.safetensors")).unwrap();
    std::fs::write(torch.path().join("pytorch_model.bin"), b"PK").unwrap();
    std::fs::write(torch.path().join("training_args.bin"), b"PK").unwrap();
    let message = opened(torch.path());
    assert!(
        message.contains("a format that is not read (pytorch_model.bin)") && message.contains("safetensors"),
        "{message}"
    );
    std::fs::remove_file(torch.path().join("pytorch_model.bin")).unwrap();
    std::fs::write(torch.path().join("consolidated.safetensors"), b"").unwrap();
    assert!(opened(torch.path()).contains("under other names than model.safetensors (consolidated.safetensors)"));
    std::fs::write(torch.path().join("q4.gguf"), b"").unwrap();
    assert!(opened(torch.path()).contains("GGUF files (q4.gguf); give the path of one"));
    std::fs::write(&weights, b"PK\x03\x04\x14\0\x08\x08........").unwrap();
    assert!(opened(torch.path()).contains("PyTorch's weights (a zip archive) where safetensors belong"));
    let mut header = (1u64 << 40).to_le_bytes().to_vec();
    header.extend(b"{}");
    std::fs::write(&weights, &header).unwrap();
    assert!(opened(torch.path()).contains("a header of 1099511627776 bytes"));
}
