use std::path::PathBuf;

use rand::{Rng, SeedableRng};

use super::*;
use crate::adapter::{Adapter, Deltas, Factor, LoraConfig};
use crate::backend::{BackendGradients, BackendTape, Learn};
use crate::objective::Objective;

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)
}

fn load(name: &str) -> HostDecoder {
    HostDecoder::load(&ModelSource::open(&golden(name)).unwrap(), Precision::F32, &()).unwrap()
}

/// All logits of a sequence that comes in these pieces.
fn logits_of(decoder: &HostDecoder, pieces: &[&[u32]], deltas: &Deltas) -> Vec<Vec<f32>> {
    let mut sequence = [decoder.continuation(Vec::new())];
    let mut all = Vec::new();
    for piece in pieces {
        let hidden = decoder.forward(piece, &mut sequence, &[piece.len()], deltas, None).unwrap();
        all.extend(decoder.logits(&hidden));
    }
    all.chunks(decoder.config().vocab_size).map(<[f32]>::to_vec).collect()
}

fn logits(decoder: &HostDecoder, ids: &[u32], deltas: &Deltas) -> Vec<Vec<f32>> {
    logits_of(decoder, &[ids], deltas)
}

fn cached_logits(decoder: &HostDecoder, ids: &[u32], deltas: &Deltas) -> Vec<Vec<f32>> {
    let (first, rest) = ids.split_at(ids.len() / 2);
    let pieces: Vec<&[u32]> = std::iter::once(first).chain(rest.chunks(1)).collect();
    logits_of(decoder, &pieces, deltas)
}

fn distance(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    assert_eq!((a.len(), a[0].len()), (b.len(), b[0].len()));
    a.iter().flatten().zip(b.iter().flatten()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
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

fn sequences(folder: &str) -> Vec<Sequence> {
    let text = std::fs::read_to_string(golden(folder).join("logits.json")).unwrap();
    serde_json::from_str::<Golden>(&text).unwrap().sequences
}

#[test]
fn every_architecture_gives_the_logits_of_transformers_in_both_passes() {
    for name in ["tiny-llama", "tiny-qwen2", "tiny-qwen3"] {
        let decoder = load(name);
        for sequence in sequences(name) {
            let tree = logits(&decoder, &sequence.ids, &[]);
            assert!(distance(&tree, &sequence.logits) < 1e-3, "{name}: {}", distance(&tree, &sequence.logits));
            let cached = cached_logits(&decoder, &sequence.ids, &[]);
            assert!(distance(&tree, &cached) < 1e-4, "{name}: the passes differ by {}", distance(&tree, &cached));
        }
    }
}

#[derive(serde::Deserialize)]
struct Scaled {
    model: String,
    scaling: serde_json::Value,
    frequencies: Vec<f64>,
    attention_factor: f64,
    sequences: Vec<Sequence>,
}

#[test]
fn every_scaling_of_positions_gives_the_frequencies_and_the_logits_of_transformers() {
    let text = std::fs::read_to_string(golden("rope-scaling.json")).unwrap();
    for case in serde_json::from_str::<Vec<Scaled>>(&text).unwrap() {
        let (folder, tiny) = (tempfile::tempdir().unwrap(), golden(&case.model));
        let text = std::fs::read_to_string(tiny.join("config.json")).unwrap();
        let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
        config["rope_parameters"] = case.scaling.clone();
        config["rope_parameters"]["rope_theta"] = 10_000.0.into();
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        std::fs::copy(tiny.join("model.safetensors"), folder.path().join("model.safetensors")).unwrap();
        let source = ModelSource::open(folder.path()).unwrap();
        let found = source.config().rope_frequencies();
        assert_eq!(found.len(), case.frequencies.len());
        for (found, want) in found.iter().zip(&case.frequencies) {
            assert!((found / want - 1.0).abs() < 1e-5, "{}: {found} instead of {want}", case.scaling);
        }
        let scale = case.attention_factor.powi(2) / (source.config().head_dim as f64).sqrt();
        assert!((f64::from(source.config().attention_scale()) / scale - 1.0).abs() < 1e-6, "{}", case.scaling);
        let decoder = HostDecoder::load(&source, Precision::F32, &()).unwrap();
        for sequence in &case.sequences {
            let got = logits(&decoder, &sequence.ids, &[]).split_off(sequence.ids.len() - 1);
            let away = distance(&got, &sequence.logits);
            assert!(away < 1e-3, "{} with {}: {away}", case.model, case.scaling);
        }
    }
}

#[test]
fn biases_of_all_layers_give_the_logits_of_transformers() {
    let decoder = load("tiny-biases");
    for sequence in sequences("tiny-biases") {
        let got = logits(&decoder, &sequence.ids, &[]);
        assert!(distance(&got, &sequence.logits) < 1e-3, "{}", distance(&got, &sequence.logits));
        assert!(distance(&got, &cached_logits(&decoder, &sequence.ids, &[])) < 1e-4);
    }
}

#[test]
fn ranks_and_scales_of_single_modules_give_the_logits_of_peft_and_survive_a_round_trip() {
    let decoder = load("tiny-qwen3");
    let adapter = Adapter::load(&golden("peft-patterns"), decoder.config()).unwrap();
    let copy = tempfile::tempdir().unwrap();
    adapter.save(copy.path(), "tiny").unwrap();
    let again = Adapter::load(copy.path(), decoder.config()).unwrap();
    for sequence in sequences("peft-patterns") {
        let all = logits(&decoder, &sequence.ids, adapter.deltas());
        assert_eq!(all, logits(&decoder, &sequence.ids, again.deltas()));
        let got = all[all.len() - 1..].to_vec();
        assert!(distance(&got, &sequence.logits) < 1e-3, "{}", distance(&got, &sequence.logits));
    }
}

#[test]
fn an_adapter_of_peft_gives_the_logits_of_peft_and_survives_a_round_trip() {
    for name in ["llama", "qwen3"] {
        let decoder = load(&format!("tiny-{name}"));
        let folder = golden(&format!("peft-{name}"));
        let adapter = Adapter::load(&folder, decoder.config()).unwrap();
        let copy = tempfile::tempdir().unwrap();
        adapter.save(copy.path(), "tiny").unwrap();
        let again = Adapter::load(copy.path(), decoder.config()).unwrap();
        for sequence in sequences(&format!("peft-{name}")) {
            let got = logits(&decoder, &sequence.ids, adapter.deltas());
            assert!(distance(&got, &sequence.logits) < 1e-3, "{name}: {}", distance(&got, &sequence.logits));
            assert!(distance(&got, &cached_logits(&decoder, &sequence.ids, adapter.deltas())) < 1e-4);
            assert_eq!(got, logits(&decoder, &sequence.ids, again.deltas()));
            assert!(distance(&got, &logits(&decoder, &sequence.ids, &[])) > 1e-2, "the adapter changes something");
        }
    }
}

#[test]
fn python_peft_reads_our_adapter_and_computes_the_same_logits() {
    let purpose = "it names a Python with torch, transformers and peft";
    let Some(python) = querywright_testing::variable("QUERYWRIGHT_PEFT_PYTHON", purpose) else { return };
    let decoder = load("tiny-qwen3");
    let config = LoraConfig { r: 3, lora_alpha: 7.0, target_modules: vec!["q_proj".into(), "down_proj".into()] };
    let mut adapter = Adapter::new(decoder.config(), config, 5).unwrap();
    let noise = |(i, (_, factor)): (usize, (String, &Factor))| {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(i as u64);
        (0..factor.shape().iter().product()).map(|_| rng.random_range(-1.0f32..1.0)).collect()
    };
    let noise: Vec<Vec<f32>> = adapter.parameters().enumerate().map(noise).collect();
    adapter.set(noise.into_iter()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    adapter.save(folder.path(), "tiny-qwen3").unwrap();
    let ids = [3u32, 17, 200, 5, 9];
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../xtask/golden/adapter.py");
    let output = std::process::Command::new(python)
        .arg(script)
        .arg("check")
        .arg(golden("tiny-qwen3"))
        .arg(folder.path())
        .arg(format!("{ids:?}"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let want: Vec<Vec<f32>> = serde_json::from_slice(&output.stdout).unwrap();
    assert!(distance(&logits(&decoder, &ids, adapter.deltas()), &want) < 1e-3);
}

#[test]
fn every_trainable_variable_has_the_gradient_that_finite_differences_give() {
    differentiate(|_| None);
}

#[test]
fn so_it_has_where_only_some_tokens_are_allowed() {
    differentiate(|token| match token {
        7 | 2 => Some(std::sync::Arc::from([token])),
        200 => None,
        _ => Some((0..259).filter(|other| other % 5 == token % 5).collect()),
    });
}

/// Compares gradients with finite differences; `allowed` are the tokens that might have stood in a token's place.
fn differentiate(allowed: impl Fn(u32) -> Option<std::sync::Arc<[u32]>>) {
    let decoder = load("tiny-qwen3");
    let mut adapter = Adapter::load(&golden("peft-qwen3"), decoder.config()).unwrap();
    // Two completions under one prompt, so that gradients flow through shared rows too, and a prompt of one token.
    let groups: [(&[u32], Vec<&[u32]>); 2] =
        [(&[5, 9], vec![&[81, 44, 2], &[7]]), (&[30], vec![&[81, 200], &[44, 44, 12]])];
    let weights: Vec<(f32, f32)> = (0..9).map(|i| (1.0 - 0.1 * i as f32, 0.3)).collect();
    let record = |deltas: &Deltas| {
        let tape = HostTape::of(&decoder, deltas, &[3, 17, 200], &groups).unwrap();
        let mut predictions = tape.predictions(groups.iter().map(|g| g.1.clone()));
        predictions.allowed = predictions.targets.iter().map(|token| allowed(*token)).collect();
        (tape, predictions)
    };
    let objective = |deltas: &Deltas| -> f64 {
        let (tape, predictions) = record(deltas);
        let statistics = decoder.predicted(&tape, &predictions, 0.8).unwrap();
        let weighted = statistics.iter().zip(&weights);
        weighted.map(|(s, w)| f64::from(s.log_probability * w.0) + f64::from(s.entropy * w.1)).sum()
    };
    let (tape, predictions) = record(adapter.deltas());
    let mut gradients = decoder.zero_gradients(adapter.deltas()).unwrap();
    let deltas = adapter.deltas();
    let objective_of = Objective { predictions: &predictions, temperature: 0.8, weights: &weights, sampled: &[] };
    decoder.backward(&tape, objective_of, deltas, &mut gradients).unwrap();
    let gradients = gradients.read(&adapter).unwrap();
    let factors: Vec<(String, Vec<f32>)> = adapter.parameters().map(|(n, f)| (n, f.values().to_vec())).collect();
    assert_eq!(factors.len(), 2 * 2 * Projection::COUNT, "all linear layers of both blocks");
    for (index, ((name, value), grad)) in factors.iter().zip(&gradients).enumerate() {
        assert!(grad.iter().all(|g| g.is_finite()) && grad.iter().any(|g| *g != 0.0), "{name}");
        // Along the gradient itself the derivative is its norm: one number that every element takes part in.
        let norm = grad.iter().map(|g| g * g).sum::<f32>().sqrt();
        let step = 1e-2f32;
        let mut at = |sign: f32| {
            let mut values: Vec<Vec<f32>> = factors.iter().map(|(_, values)| values.clone()).collect();
            values[index] = value.iter().zip(grad).map(|(v, g)| v + sign * step * g / norm).collect();
            adapter.set(values.into_iter()).unwrap();
            objective(adapter.deltas())
        };
        let numeric = ((at(1.0) - at(-1.0)) / f64::from(2.0 * step)) as f32;
        assert!((numeric - norm).abs() < 0.02 * norm + 2e-3, "{name}: norm {norm} but differences {numeric}");
    }
}

#[test]
fn tokens_and_positions_out_of_range_are_refused_with_the_limit() {
    let decoder = load("tiny-qwen3");
    let vocabulary = decoder.config().vocab_size;
    let refusal = |tokens: &[u32]| {
        let mut sequence = [decoder.continuation(Vec::new())];
        decoder.forward(tokens, &mut sequence, &[tokens.len()], &[], None).unwrap_err().to_string()
    };
    let error = refusal(&[vocabulary as u32]);
    assert!(error.contains(&format!("vocabulary of {vocabulary}")), "{error}");
    let long = decoder.config().max_position_embeddings + 1;
    let error = refusal(&vec![1; long]);
    assert!(error.contains("outside the model's context") && error.contains("shorten"), "{error}");
}

#[test]
fn an_adapter_for_another_model_is_refused_by_the_names_of_its_layers() {
    let refusal = |config: &ModelConfig| match Adapter::load(&golden("peft-llama"), config) {
        Ok(_) => panic!("an adapter for another model was taken"),
        Err(error) => error.to_string(),
    };
    let mut config = load("tiny-llama").config().clone();
    config.intermediate_size += 32;
    let error = refusal(&config);
    assert!(error.contains("layers.0.mlp.gate_proj.lora_B") && error.contains("shape"), "{error}");
    config.num_hidden_layers = 1;
    let error = refusal(&config);
    assert!(error.contains("layers.1") && error.contains("does not have"), "{error}");
}

#[test]
fn values_that_do_not_fit_an_adapter_are_refused_and_change_nothing() {
    let config = LoraConfig { r: 2, target_modules: vec!["v_proj".into()], ..LoraConfig::default() };
    let mut adapter = Adapter::new(load("tiny-llama").config(), config, 1).unwrap();
    let values: Vec<Vec<f32>> = adapter.parameters().map(|(_, factor)| factor.values().to_vec()).collect();
    let mut wrong = values.clone();
    wrong[1].push(0.5);
    for wrong in [wrong, values[1..].to_vec()] {
        let error = adapter.set(wrong.into_iter()).unwrap_err().to_string();
        assert!(error.starts_with("adapter: ") && error.contains("as many values of each factor"), "{error}");
        assert!(adapter.parameters().map(|(_, factor)| factor.values()).eq(values.iter().map(Vec::as_slice)));
    }
}

#[derive(serde::Deserialize)]
struct SmolGolden {
    vocabulary: Vec<usize>,
    cases: Vec<SmolCase>,
}

#[derive(serde::Deserialize)]
struct SmolCase {
    ids: Vec<u32>,
    prompt_len: usize,
    positions: Vec<usize>,
    logits: Vec<Vec<f32>>,
    logsumexp: Vec<f32>,
    logprobs: Vec<f32>,
}

#[test]
fn smollm2_gives_the_logits_of_transformers_in_both_passes() {
    let Some(path) = querywright_testing::model() else { return };
    let decoder = HostDecoder::load(&ModelSource::open(&path).unwrap(), Precision::F32, &()).unwrap();
    let text = std::fs::read_to_string(golden("logits-smollm2.json")).unwrap();
    let want: SmolGolden = serde_json::from_str(&text).unwrap();
    for case in want.cases {
        let got = logits(&decoder, &case.ids, &[]);
        for ((position, logits), log_sum) in case.positions.iter().zip(&case.logits).zip(&case.logsumexp) {
            let picked: Vec<f32> = want.vocabulary.iter().map(|v| got[*position][*v]).collect();
            assert!(distance(&[picked], std::slice::from_ref(logits)) < 1e-3);
            let sum = querywright_kernels::partition(&got[*position], 1.0).log_sum();
            assert!((sum - log_sum).abs() < 1e-3, "{sum} {log_sum}");
        }
        assert!(distance(&got, &cached_logits(&decoder, &case.ids, &[])) < 1e-4 * 10.0, "both passes");
        let (prompt, completion) = case.ids.split_at(case.prompt_len);
        let tape = HostTape::of(&decoder, &[], &[], &[(prompt, vec![completion])]).unwrap();
        let predictions = tape.predictions(std::iter::once(vec![completion]));
        let statistics = decoder.predicted(&tape, &predictions, 1.0).unwrap();
        for (got, want) in statistics.iter().zip(&case.logprobs) {
            let got = got.log_probability;
            assert!((got - want).abs() < 1e-3, "{got} {want}");
        }
    }
}
