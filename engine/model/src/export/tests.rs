use std::path::PathBuf;

use super::*;
use crate::adapter::Deltas;
use crate::config::{ModelConfig, RopeScaling};
use crate::decoder::{Decoder, Tape};
use crate::objective::Predictions;
use querywright_kernels::Precision;

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)
}

fn open(path: &Path) -> ModelSource {
    ModelSource::open(path).unwrap()
}

/// The log-probability of every token after each beginning of a sequence.
fn distributions(source: &ModelSource, deltas: &Deltas, ids: &[u32]) -> Vec<f32> {
    let decoder = Decoder::load(source, Precision::F32, &()).unwrap();
    let group = (&ids[..1], vec![&ids[1..]]);
    let tape = Tape::of(&decoder, deltas, &[], &[group]).unwrap();
    let rows = tape.predictions(std::iter::once(vec![&ids[1..]])).rows;
    let all = 0..decoder.config().vocab_size as u32;
    let predictions = Predictions {
        rows: rows.iter().flat_map(|row| all.clone().map(move |_| *row)).collect(),
        targets: rows.iter().flat_map(|_| all.clone()).collect(),
        ..Predictions::default()
    };
    let found = decoder.predicted(&tape, &predictions, 1.0).unwrap();
    found.iter().map(|statistics| statistics.log_probability).collect()
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn exported(
    source: &ModelSource,
    adapter: Option<&Adapter>,
    dtype: ExportType,
    format: ExportFormat,
) -> (tempfile::TempDir, Exported) {
    let folder = tempfile::tempdir().unwrap();
    let export = Export::new(source, adapter, Some(dtype)).unwrap();
    let written = export.write(folder.path(), format, &()).unwrap();
    (folder, written)
}

#[derive(serde::Deserialize)]
struct Golden {
    sequences: Vec<Sequence>,
}

#[derive(serde::Deserialize)]
struct Sequence {
    ids: Vec<u32>,
    logits: Vec<Vec<f32>>,
}

#[test]
fn a_merged_model_has_the_logits_that_peft_gives_base_and_adapter() {
    for (base, peft) in [("tiny-llama", "peft-llama"), ("tiny-qwen3", "peft-qwen3")] {
        let source = open(&golden(base));
        let adapter = Adapter::load(&golden(peft), source.config()).unwrap();
        let (folder, written) = exported(&source, Some(&adapter), ExportType::F32, ExportFormat::Safetensors);
        assert_eq!((written.rounding, written.changed), (Some(0.0), adapter.parameters().count() / 2));
        let merged = open(folder.path());
        assert_eq!(merged.config(), source.config());
        let text = std::fs::read_to_string(golden(peft).join("logits.json")).unwrap();
        for Sequence { ids, logits } in serde_json::from_str::<Golden>(&text).unwrap().sequences {
            let expected = logits.iter().take(ids.len() - 1).flat_map(|row| {
                let largest = row.iter().copied().fold(f32::MIN, f32::max);
                let sum: f32 = row.iter().map(|logit| (logit - largest).exp()).sum();
                row.iter().map(move |logit| logit - largest - sum.ln())
            });
            let expected: Vec<f32> = expected.collect();
            let got = distributions(&merged, &[], &ids);
            assert!(distance(&got, &expected) < 2e-4, "{base}: {}", distance(&got, &expected));
            assert!(distance(&distributions(&source, &[], &ids), &expected) > 0.01, "the adapter does something");
        }
    }
}

/// The tiny Llama without its scaling, which a GGUF file of these settings could not be read with, and with a tokenizer of
/// bytes: the architecture whose rows GGUF stores in another order.
fn llama() -> (tempfile::TempDir, PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("llama");
    std::fs::create_dir(&folder).unwrap();
    let json = |path: PathBuf| -> serde_json::Value { serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap() };
    let mut config = json(golden("tiny-llama/config.json"));
    config["rope_parameters"] = serde_json::json!({ "rope_type": "default", "rope_theta": 10000.0 });
    put_json(&folder, "config.json", &config).unwrap();
    let mut tokenizer = json(golden("tiny-qwen3/tokenizer.json"));
    tokenizer["added_tokens"] = serde_json::json!([]);
    put_json(&folder, "tokenizer.json", &tokenizer).unwrap();
    std::fs::copy(golden("tiny-llama/model.safetensors"), folder.join("model.safetensors")).unwrap();
    (home, folder)
}

#[test]
fn a_merged_model_in_both_formats_has_the_logits_of_its_base_with_the_adapter_and_the_tokenizer_stays() {
    let (_home, llama) = llama();
    for (base, peft) in
        [(llama, "peft-llama"), (golden("tiny-qwen3"), "peft-qwen3"), (golden("tiny-qwen3.gguf"), "peft-qwen3")]
    {
        let source = open(&base);
        let adapter = Adapter::load(&golden(peft), source.config()).unwrap();
        let ids = [3, 17, 200, 5, 9, 81, 44, 2];
        let expected = distributions(&source, adapter.deltas(), &ids);
        let text = "Steel kettles, 3 of 1234!";
        let tokens = source.tokenizer().unwrap().encode(text, true).unwrap();
        for format in [ExportFormat::Gguf, ExportFormat::Safetensors] {
            let (folder, _) = exported(&source, Some(&adapter), ExportType::F32, format);
            // For other programs to read, set QUERYWRIGHT_EXPORT to a folder to write it to.
            if let Some(out) = std::env::var_os("QUERYWRIGHT_EXPORT").map(PathBuf::from) {
                let name = base.file_name().unwrap().to_string_lossy();
                let out = out.join(format!("{name}-{format:?}"));
                std::fs::create_dir_all(&out).unwrap();
                let export = Export::new(&source, Some(&adapter), Some(ExportType::F32)).unwrap();
                export.write(&out, format, &()).unwrap();
                let text = serde_json::to_string(&expected).unwrap();
                std::fs::write(out.join("expected.json"), text).unwrap();
            }
            let merged = open(folder.path());
            assert!(distance(&distributions(&merged, &[], &ids), &expected) < 1e-4, "{base:?} {format:?}");
            assert_eq!(merged.tokenizer().unwrap().encode(text, true).unwrap(), tokens, "{base:?} {format:?}");
        }
    }
}

/// The end tokens, the first token, the token for padding, the template and the special tokens of a model.
type Around = (Vec<u32>, Option<u32>, Option<u32>, Option<String>, Vec<u32>);

fn around(source: &ModelSource) -> Around {
    let tokenizer = source.tokenizer().unwrap();
    let template = tokenizer.chat_template().and_then(|template| template.source().map(str::to_owned));
    let special = (0..source.config().vocab_size as u32).filter(|id| tokenizer.has_special(&[*id])).collect();
    (tokenizer.eos_ids().to_vec(), tokenizer.bos_id(), tokenizer.pad_id(), template, special)
}

#[test]
fn a_model_that_goes_to_the_other_format_and_back_is_the_same_bit_for_bit() {
    let (_home, llama) = llama();
    let (file, folder) = (ExportFormat::Gguf, ExportFormat::Safetensors);
    for (base, there, back) in [(llama, file, folder), (golden("tiny-qwen3.gguf"), folder, file)] {
        let source = open(&base);
        let (place, written) = exported(&source, None, ExportType::F32, there);
        let between = open(place.path());
        let (place_back, _) = exported(&between, None, ExportType::F32, back);
        let back = open(place_back.path());
        assert_eq!(written.rounding, None, "nothing was merged");
        if there == file {
            assert_eq!(written.bytes, std::fs::metadata(between.path()).unwrap().len());
        }
        for name in source.config().tensor_names() {
            for other in [&between, &back] {
                assert_eq!(other.tensor(&name).unwrap(), source.tensor(&name).unwrap(), "{base:?} {name}");
            }
        }
        let expected =
            |own: &ModelSource| ModelConfig { rms_norm_eps: own.config().rms_norm_eps, ..source.config().clone() };
        assert_eq!((between.config(), back.config()), (&expected(&between), &expected(&back)));
        assert!((back.config().rms_norm_eps / source.config().rms_norm_eps - 1.0).abs() < 1e-6);
        assert_eq!((around(&between), around(&back)), (around(&source), around(&source)), "{base:?}");
        for text in ["don't  stop\n\n\n", "3333 of café", "a_b-c [x]"] {
            let ids = |source: &ModelSource| source.tokenizer().unwrap().encode(text, true).unwrap();
            assert_eq!((ids(&between), ids(&back)), (ids(&source), ids(&source)), "{base:?} {text}");
        }
    }
}

#[test]
fn what_rounding_takes_from_an_adapter_is_measured_and_what_a_type_cannot_hold_is_refused() {
    let source = open(&golden("tiny-llama"));
    let adapter = Adapter::load(&golden("peft-llama"), source.config()).unwrap();
    let rounding = |dtype| exported(&source, Some(&adapter), dtype, ExportFormat::Safetensors).1.rounding.unwrap();
    let (half, brain) = (rounding(ExportType::F16), rounding(ExportType::Bf16));
    assert!(half > 0.0 && brain > 4.0 * half && brain < 0.5, "{half} {brain}");
    assert_eq!(Export::new(&source, None, None).unwrap().dtype(), ExportType::F32, "as the base is stored");
    let quantised = open(&golden("tiny-llama.gguf"));
    assert_eq!(Export::new(&quantised, None, None).unwrap().dtype(), ExportType::F16);
    let huge = Tensor::new(vec![1.0, 70_000.0], &[2]).unwrap();
    let export = Export::new(&source, None, Some(ExportType::F16)).unwrap();
    let error = export.encoded("model.norm.weight", &huge, ExportType::F16).unwrap_err().to_string();
    assert!(error.contains("model.norm.weight holds 70000") && error.contains("bf16"), "{error}");
    let random = ModelSource::random(source.config().clone(), 0);
    assert!(Export::new(&random, None, None).unwrap_err().to_string().contains("random weights"));
}

#[test]
fn a_scaling_of_positions_has_its_keys_and_one_without_a_key_is_refused() {
    let config = open(&golden("tiny-qwen3")).config().clone();
    let scaled = |scaling: RopeScaling| ModelConfig { rope_scaling: Some(scaling), ..config.clone() };
    let linear = gguf::scaling(Path::new("x"), &scaled(RopeScaling::Linear { factor: 4.0 })).unwrap();
    assert_eq!(linear[1], ("rope.scaling.factor", crate::gguf::Value::Float(4.0)));
    let yarn = |attention_factor: f64| RopeScaling::Yarn {
        factor: 4.0,
        original_max_position_embeddings: 64,
        beta_fast: 32.0,
        beta_slow: 1.0,
        truncate: true,
        attention_factor,
    };
    assert_eq!(gguf::scaling(Path::new("x"), &scaled(yarn(RopeScaling::yarn_attention(4.0, 1.0)))).unwrap().len(), 5);
    let error = gguf::scaling(Path::new("x"), &scaled(yarn(2.0))).unwrap_err().to_string();
    assert!(error.contains("attention_factor") && error.contains("--format safetensors"), "{error}");
}
