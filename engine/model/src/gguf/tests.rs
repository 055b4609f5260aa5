use candle_core::Device;
use candle_core::quantized::{QTensor, gguf_file};

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
            let s = RopeScaling {
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
    assert_eq!((scaling.factor, scaling.original_max_position_embeddings), (32.0, 8192));
    assert!(refusal(&with(2048)).contains("rope_freqs"));
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
    assert!(refusal(&text("llama.rope.scaling.type", "yarn")).contains("yarn"));
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
