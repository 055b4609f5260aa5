use candle_core::Device;
use candle_core::quantized::QTensor;
use candle_core::quantized::gguf_file::{self, Content, Value};

use super::super::source::ModelSource;
use super::*;

fn golden(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden")).join(name)
}

/// The largest difference relative to the largest value.
fn difference(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.shape(), b.shape());
    let largest = |values: &mut dyn Iterator<Item = f32>| values.map(f32::abs).fold(0.0, f32::max);
    let differences = &mut a.values().iter().zip(b.values()).map(|(a, b)| a - b);
    largest(differences) / largest(&mut b.values().iter().copied())
}

/// The refusal of a file with these bytes.
fn refusal(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    std::fs::write(&path, bytes).unwrap();
    let message = ModelSource::open(&path).and_then(|s| s.tokenizer()).map(|_| ()).unwrap_err().to_string();
    assert!(message.contains("m.gguf: ") && message.contains("; "), "{message}");
    message
}

/// tiny-llama.gguf with some metadata and tensors changed.
fn rewritten(
    change: impl Fn(&mut std::collections::HashMap<String, Value>, &mut BTreeMap<String, QTensor>),
) -> Vec<u8> {
    let mut file = File::open(golden("tiny-llama.gguf")).unwrap();
    let content = Content::read(&mut file).unwrap();
    let names = content.tensor_infos.keys();
    let mut tensors: BTreeMap<String, QTensor> =
        names.map(|n| (n.clone(), content.tensor(&mut file, n, &Device::Cpu).unwrap())).collect();
    let mut metadata = content.metadata;
    change(&mut metadata, &mut tensors);
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(k, v)| (k.as_str(), v)).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(k, v)| (k.as_str(), v)).collect();
    let mut out = std::io::Cursor::new(Vec::new());
    gguf_file::write(&mut out, &metadata, &tensors).unwrap();
    out.into_inner()
}

#[test]
fn the_weights_of_a_file_are_those_of_the_folder_that_it_was_made_from() {
    for name in ["tiny-llama", "tiny-qwen3"] {
        let file = ModelSource::open(&golden(&format!("{name}.gguf"))).unwrap();
        let folder = ModelSource::open(&golden(name)).unwrap();
        // The file was written without the scaling of the folder, which GGUF cannot express; floats passed through f32.
        let expected =
            ModelConfig { rope_scaling: None, rms_norm_eps: file.config().rms_norm_eps, ..folder.config().clone() };
        assert_eq!(file.config(), &expected);
        assert!((file.config().rms_norm_eps / folder.config().rms_norm_eps - 1.0).abs() < 1e-6);
        for tensor in folder.config().tensor_names() {
            let d = difference(&file.tensor(&tensor).unwrap(), &folder.tensor(&tensor).unwrap());
            assert!(d <= 0.6 / 127.0, "{name} {tensor}: {d}");
        }
    }
}

#[test]
fn interleaved_halves_of_heads_are_taken_apart() {
    let values: Vec<f32> = (0..16).map(|i| i as f32).collect();
    let apart = half_by_half(&Tensor::new(values, &[8, 2]).unwrap(), 2).unwrap();
    let rows: Vec<f32> = apart.values().chunks(2).map(|row| row[0] / 2.0).collect();
    assert_eq!(rows, [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
}

#[test]
fn a_file_tells_its_name_types_and_size() {
    let source = ModelSource::open(&golden("tiny-qwen3.gguf")).unwrap();
    let summary = source.summary();
    assert_eq!((summary.format, summary.family, summary.name.as_str()), ("gguf", "qwen3", "tiny-qwen3"));
    assert_eq!(summary.types, [("Q8_0".to_owned(), 16), ("F32".to_owned(), 9)]);
    assert_eq!(summary.bytes, std::fs::metadata(source.path()).unwrap().len());
    assert_eq!(type_name(GgmlDType::Q4K), "Q4_K");
}

#[test]
fn the_tokenizer_of_a_file_is_that_of_the_folder() {
    let file = ModelSource::open(&golden("tiny-qwen3.gguf")).unwrap().tokenizer().unwrap();
    let folder = ModelSource::open(&golden("tiny-qwen3")).unwrap().tokenizer().unwrap();
    let text = "<|im_start|>user\nnaïve 東京 42's<|im_end|>";
    assert_eq!(file.encode(text, true).unwrap(), folder.encode(text, true).unwrap());
    assert_eq!((file.eos_ids(), file.pad_id()), (folder.eos_ids(), folder.pad_id()));
    assert!(file.chat_template().is_some());
}

#[test]
fn llama3_s_scaling_is_found_again_from_its_divisors() {
    let with = |original: usize| {
        rewritten(|metadata, tensors| {
            metadata.insert("llama.rope.freq_base".to_owned(), Value::F32(500_000.0));
            let s = RopeScaling::Llama3 {
                factor: 32.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_max_position_embeddings: original,
            };
            let divisors: Vec<f32> = (0..8).map(|i| s.divisor(500_000f64.powf(-f64::from(i) / 8.0)) as f32).collect();
            let divisors = candle_core::Tensor::new(divisors, &Device::Cpu).unwrap();
            tensors.insert("rope_freqs.weight".to_owned(), QTensor::quantize(&divisors, GgmlDType::F32).unwrap());
        })
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    std::fs::write(&path, with(8192)).unwrap();
    let scaling = ModelSource::open(&path).unwrap().config().rope_scaling.clone().unwrap();
    let expected = RopeScaling::Llama3 {
        factor: 32.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };
    assert_eq!(scaling, expected);
    assert!(refusal(&with(2048)).contains("rope_freqs"));
}

#[test]
fn a_scaling_of_positions_is_read_as_llama_cpp_reads_it() {
    let scaling = |keys: &[(&str, Value)]| {
        let bytes = rewritten(|m, _| {
            m.extend(keys.iter().map(|(key, value)| (format!("llama.rope.{key}"), value.clone())));
        });
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("m.gguf"), bytes).unwrap();
        let source = ModelSource::open(&folder.path().join("m.gguf"));
        source.map(|source| source.config().rope_scaling.clone()).map_err(|e| e.to_string())
    };
    let kind = |name: &str| ("scaling.type", Value::String(name.to_owned()));
    let factor = || ("scaling.factor", Value::F32(4.0));
    let linear = Ok(Some(RopeScaling::Linear { factor: 4.0 }));
    assert_eq!(scaling(&[factor()]), linear, "a factor without a type is linear");
    assert_eq!(scaling(&[kind("linear"), factor()]), linear);
    assert_eq!(scaling(&[("scale_linear", Value::F32(4.0))]), linear);
    assert!(scaling(&[kind("none"), factor()]).unwrap_err().contains("llama.rope.scaling.factor is 4"));
    // As `--rope-scaling` and the converters for Qwen write it. The tiny model has a context of 512.
    let yarn = |original, beta_fast| {
        Ok(Some(RopeScaling::Yarn {
            factor: 4.0,
            original_max_position_embeddings: original,
            beta_fast,
            beta_slow: 1.0,
            truncate: true,
            attention_factor: 0.1 * 4f64.ln() + 1.0,
        }))
    };
    let original = || ("scaling.original_context_length", Value::U32(128));
    assert_eq!(scaling(&[kind("yarn"), factor(), original()]), yarn(128, 32.0));
    assert_eq!(scaling(&[kind("yarn"), factor()]), yarn(512, 32.0));
    assert_eq!(scaling(&[kind("yarn"), factor(), ("scaling.yarn_beta_fast", Value::F32(8.0))]), yarn(512, 8.0));
    assert_eq!(scaling(&[kind("yarn"), original()]), Ok(None), "by a factor of 1 it is none");
    for name in ["yarn_attn_factor", "yarn_ext_factor", "yarn_log_multiplier"] {
        let said =
            scaling(&[kind("yarn"), factor(), (format!("scaling.{name}").as_str(), Value::F32(0.5))]).unwrap_err();
        assert!(said.contains(name), "{said}");
    }
}

#[test]
fn biases_are_read_in_the_order_of_the_rows_that_they_belong_to() {
    let tensor = |values: Vec<f32>| {
        QTensor::quantize(&candle_core::Tensor::new(values, &Device::Cpu).unwrap(), GgmlDType::F32).unwrap()
    };
    // Two heads of 16 keys: the converter makes of (2, 2, 8) rows (2, 8, 2).
    let plain: Vec<f32> = (0..32).map(|i| i as f32).collect();
    let stored: Vec<f32> = (0..32).map(|i| plain[i / 16 * 16 + i % 2 * 8 + i % 16 / 2]).collect();
    let bytes = rewritten(|_, tensors| {
        for layer in 0..2 {
            for (name, size) in [("attn_q", 64), ("attn_v", 32), ("attn_output", 64)] {
                tensors.insert(format!("blk.{layer}.{name}.bias"), tensor(vec![0.5; size]));
            }
            tensors.insert(format!("blk.{layer}.attn_k.bias"), tensor(stored.clone()));
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    std::fs::write(&path, bytes).unwrap();
    let source = ModelSource::open(&path).unwrap();
    let config = source.config();
    assert_eq!((config.attention_bias, config.attention_output_bias, config.mlp_bias), (true, true, false));
    assert_eq!(source.tensor("model.layers.1.self_attn.k_proj.bias").unwrap().values(), plain);
}

#[test]
fn damaged_and_foreign_files_are_refused_with_what_was_found() {
    let whole = std::fs::read(golden("tiny-llama.gguf")).unwrap();
    assert!(refusal(b"<!DOCTYPE html>").contains("\"<!DO\" instead of \"GGUF\""));
    assert!(refusal(b"").contains("0 bytes"));
    assert!(refusal(&whole[..whole.len() - 1000]).contains("ends at byte"));
    for cut in [4, 8, 12, 24, 100, 700] {
        let message = refusal(&whole[..cut]);
        assert!(message.contains("header cannot be read") && message.contains("fetch it again"), "{message}");
    }
    let number = |key: &'static str, n: u32| {
        rewritten(move |m, _| {
            m.insert(key.to_owned(), Value::U32(n));
        })
    };
    let text = |key: &'static str, t: &'static str| {
        rewritten(move |m, _| {
            m.insert(key.to_owned(), Value::String(t.to_owned()));
        })
    };
    assert!(refusal(&text("general.architecture", "mamba")).contains("qwen3 are supported"));
    assert!(refusal(&number("llama.block_count", 3)).contains("model.layers.2.input_layernorm.weight is missing"));
    assert!(refusal(&number("llama.feed_forward_length", 97)).contains("where the configuration says [97, 64]"));
    assert!(refusal(&number("llama.attention.head_count", 0)).contains("num_attention_heads is 0"));
    assert!(refusal(&text("llama.embedding_length", "wide")).contains("llama.embedding_length"));
    assert!(refusal(&number("llama.expert_count", 8)).contains("experts"));
    assert!(refusal(&text("llama.rope.scaling.type", "longrope")).contains("longrope"));
    assert!(refusal(&number("split.count", 3)).contains("split"));
    assert!(refusal(&number("general.alignment", 0)).contains("make no sense"));
    assert!(refusal(&whole).contains("no tokenizer"));
    assert!(refusal(&text("tokenizer.ggml.model", "llama")).contains("byte-level BPE"));
    let strange = rewritten(|m, _| {
        m.insert("tokenizer.ggml.model".to_owned(), Value::String("gpt2".to_owned()));
        m.insert("tokenizer.ggml.pre".to_owned(), Value::String("tekken".to_owned()));
    });
    assert!(refusal(&strange).contains("smollm"));
}

/// The refusal of tiny-llama.gguf with one value of its metadata set.
fn with(key: &str, value: Value) -> String {
    refusal(&rewritten(|m, _| {
        m.insert(key.to_owned(), value.clone());
    }))
}

#[test]
fn every_key_that_changes_the_result_is_refused_by_name() {
    let text = |text: &str| Value::String(text.to_owned());
    let table = [
        ("llama.rope.scaling.factor", Value::F32(-4.0)),
        ("llama.rope.scaling.yarn_beta_fast", Value::F32(32.0)),
        ("llama.rope.scaling.yarn_ext_factor", Value::F32(1.0)),
        ("llama.rope.scaling.attn_factor", Value::F32(1.2)),
        ("llama.rope.scaling.original_context_length", Value::U32(64)),
        ("llama.rope.scaling.type", text("longrope")),
        ("llama.rope.scaling.type", text("su")),
        ("llama.rope.scaling.yarn_log_multiplier", Value::F32(0.1)),
        ("llama.rope.dimension_sections", Value::Array(vec![Value::I32(16), Value::I32(24)])),
        ("llama.rope.freq_base_swa", Value::F32(1e4)),
        ("llama.attention.sliding_window", Value::U32(64)),
        ("llama.attention.scale", Value::F32(0.5)),
        ("llama.attention.max_alibi_bias", Value::F32(8.0)),
        ("llama.attention.clamp_kqv", Value::F32(8.0)),
        ("llama.attention.causal", Value::Bool(false)),
        ("llama.attn_logit_softcapping", Value::F32(50.0)),
        ("llama.final_logit_softcapping", Value::F32(30.0)),
        ("llama.logit_scale", Value::F32(0.125)),
        ("llama.residual_scale", Value::F32(0.22)),
        ("llama.embedding_scale", Value::F32(12.0)),
        ("llama.expert_used_count", Value::U32(2)),
        ("llama.use_parallel_residual", Value::Bool(true)),
        ("llama.pooling_type", Value::U32(3)),
        ("llama.tensor_data_layout", text("other")),
        ("llama.something_new", Value::U32(1)),
        ("general.quantization_version", Value::U32(1)),
    ];
    for (key, value) in table {
        let message = with(key, value);
        assert!(message.contains(key) || message.contains("the factor -4"), "{key}: {message}");
    }
    let neutral = rewritten(|m, _| {
        for (key, value) in [
            ("rope.scaling.type", text("linear")),
            ("rope.scaling.factor", Value::F32(1.0)),
            ("rope.scaling.original_context_length", Value::U32(512)),
            ("rope.scaling.finetuned", Value::Bool(true)),
            ("rope.dimension_count", Value::U32(16)),
            ("attention.sliding_window", Value::U32(512)),
            ("attention.scale", Value::F32(0.25)),
            ("attention.causal", Value::Bool(true)),
            ("attention.head_count_kv", Value::Array(vec![Value::I32(2), Value::I32(2)])),
            ("expert_count", Value::U32(0)),
            ("logit_scale", Value::F32(1.0)),
            ("tensor_data_layout", text("Meta AI original pth")),
            ("pooling_type", Value::U32(0)),
        ] {
            m.insert(format!("llama.{key}"), value);
        }
        m.insert("general.quantization_version".to_owned(), Value::U32(2));
        m.insert("quantize.imatrix.entries_count".to_owned(), Value::U32(7));
    });
    assert!(refusal(&neutral).contains("no tokenizer"), "all else is as it was");
}

#[test]
fn a_value_of_another_type_is_never_replaced_by_a_default() {
    for (key, value) in [
        ("llama.attention.layer_norm_rms_epsilon", Value::String("1e-5".to_owned())),
        ("llama.rope.freq_base", Value::Bool(true)),
        ("llama.attention.head_count_kv", Value::F32(2.0)),
        ("llama.attention.head_count_kv", Value::Array(vec![Value::I32(2), Value::I32(1)])),
        ("llama.attention.key_length", Value::I32(-16)),
        ("llama.rope.dimension_count", Value::String("16".to_owned())),
        ("llama.context_length", Value::Bool(true)),
        ("llama.rope.scaling.type", Value::U32(0)),
        ("split.count", Value::String("3".to_owned())),
        ("general.architecture", Value::U32(3)),
    ] {
        let message = with(key, value);
        assert!(message.contains(key), "{key}: {message}");
    }
    for key in ["llama.attention.layer_norm_rms_epsilon", "llama.context_length", "llama.block_count"] {
        let message = refusal(&rewritten(|m, _| drop(m.remove(key))));
        assert!(message.contains(&format!("number {key}")), "{message}");
    }
    let tokenizer = |key: &str, value: Value| {
        refusal(&rewritten(|m, _| {
            m.insert("tokenizer.ggml.model".to_owned(), Value::String("gpt2".to_owned()));
            m.insert(format!("tokenizer.ggml.{key}"), value.clone());
        }))
    };
    for (key, value) in [
        ("add_bos_token", Value::U32(1)),
        ("add_eos_token", Value::Bool(true)),
        ("bos_token_id", Value::String("1".to_owned())),
        ("eos_token_id", Value::F32(2.0)),
        ("tokens", Value::Array(vec![Value::U32(1)])),
        ("pre", Value::U32(1)),
    ] {
        let message = tokenizer(key, value);
        assert!(message.contains(key), "{key}: {message}");
    }
}

#[test]
fn files_that_hold_something_else_than_a_model_say_what_it_is() {
    let kind = |key: &str, value: &str| with(key, Value::String(value.to_owned()));
    let adapter = kind("general.type", "adapter");
    assert!(adapter.contains("an adapter (LORA) in GGUF, not a model") && adapter.contains("MODEL+DIR"), "{adapter}");
    assert!(kind("adapter.type", "lora").contains("an adapter (LORA)"));
    assert!(kind("general.architecture", "clip").contains("mmproj"));
    assert!(kind("general.type", "mmproj").contains("mmproj"));
    assert!(kind("general.type", "imatrix").contains("importance matrix"));
    assert!(kind("general.architecture", "controlvector").contains("control vector"));
    assert!(refusal(&rewritten(|_, tensors| tensors.clear())).contains("metadata alone, without weights"));
    let vocabulary = rewritten(|m, tensors| {
        tensors.clear();
        m.insert("tokenizer.ggml.tokens".to_owned(), Value::Array(vec![Value::String("a".to_owned())]));
    });
    assert!(refusal(&vocabulary).contains("a vocabulary alone, without weights"));
    // Big-endian writers leave the magic bytes as they are and turn the version round.
    let mut big = std::fs::read(golden("tiny-llama.gguf")).unwrap();
    big[4..8].reverse();
    assert!(refusal(&big).contains("big-endian"));
    assert!(refusal(b"FUGG\0\0\0\x03").contains("big-endian"));
}

#[test]
fn tensors_that_nobody_reads_and_values_that_are_not_numbers_are_refused() {
    let tensor = |values: Vec<f32>| {
        QTensor::quantize(&candle_core::Tensor::new(values, &Device::Cpu).unwrap(), GgmlDType::F32).unwrap()
    };
    for (name, expected) in [
        ("blk.0.attn_q.bias", "biases, which are not supported in a llama model"),
        ("blk.0.attn_q.weight.lora_a", "an adapter's weights"),
        ("blk.0.ffn_up_exps.weight", "a mixture of experts"),
        ("blk.0.attn_q.scale", "quantised weights"),
        ("blk.0.attn_q_norm.weight", "norms"),
        ("blk.0.rope_freqs.weight", "does not read"),
        ("blk.7.ffn_up.weight", "does not read"),
    ] {
        let message = refusal(&rewritten(|_, tensors| drop(tensors.insert(name.to_owned(), tensor(vec![1.0; 64])))));
        assert!(message.contains(expected) && message.contains(name), "{name}: {message}");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let mut values = vec![1.0f32; 64];
    values[3] = f32::NAN;
    let bytes = rewritten(|_, tensors| drop(tensors.insert("output_norm.weight".to_owned(), tensor(values.clone()))));
    std::fs::write(&path, bytes).unwrap();
    let source = ModelSource::open(&path).unwrap();
    let message = crate::Decoder::load(&source, crate::Precision::F32, &()).map(|_| ()).unwrap_err().to_string();
    assert!(message.contains("tensor output_norm.weight holds NaN (value 3 of 64)"), "{message}");
}

#[test]
fn a_tokenizer_with_more_tokens_than_the_embedding_is_refused() {
    let tokens: Vec<Value> = (0..300).map(|i| Value::String(format!("t{i}"))).collect();
    let bytes = rewritten(|m, _| {
        m.insert("tokenizer.ggml.model".to_owned(), Value::String("gpt2".to_owned()));
        m.insert("tokenizer.ggml.tokens".to_owned(), Value::Array(tokens.clone()));
    });
    assert!(refusal(&bytes).contains("300 tokens over an embedding of 256 rows"));
}

#[test]
fn every_type_that_the_refusals_name_is_read() {
    use GgmlDType::{BF16, F16, F32, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
    // K types hold blocks of 256: the hidden size of the tiny model is too small for them, so one tensor stands alone.
    let values: Vec<f32> = (0..512).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
    let plain = Tensor::new(values.clone(), &[2, 256]).unwrap();
    let values = candle_core::Tensor::from_vec(values, (2, 256), &Device::Cpu).unwrap();
    for dtype in [F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2K, Q3K, Q4K, Q5K, Q6K] {
        let stored = QTensor::quantize(&values, dtype).unwrap();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        gguf_file::write(file.as_file_mut(), &[], &[("output.weight", &stored)]).unwrap();
        let read = Gguf::open(file.path()).unwrap().read_as_stored("output.weight").unwrap();
        let d = difference(&read, &plain);
        assert!(d < 0.4 && (dtype != F32 || d == 0.0), "{dtype:?}: {d}");
        assert!(TYPES.contains(&type_name(dtype)) || [Q3K, Q4K, Q5K].contains(&dtype), "{dtype:?}");
    }
}
