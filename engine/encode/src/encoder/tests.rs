use std::collections::HashMap;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::Value;

use super::*;
use querywright_testing::golden;

const TINY: [&str; 4] = ["tiny-bert", "tiny-roberta", "tiny-distilbert", "tiny-modernbert"];

fn open(folder: &Path) -> Result<Encoder> {
    Encoder::open(folder, &EncoderConfig::default())
}

fn encode<T: AsRef<str> + Sync>(encoder: &Encoder, texts: &[T], role: InputType) -> Vec<Vec<f32>> {
    let vectors = encoder.encode(texts, role, Deadline::NONE, &()).unwrap();
    vectors.chunks_exact(encoder.width()).map(<[f32]>::to_vec).collect()
}

/// What sentence-transformers computes of the same folder.
fn expected(path: &Path) -> (Vec<String>, HashMap<String, Vec<Vec<f32>>>) {
    let mut json: serde_json::Map<String, Value> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let texts = serde_json::from_value(json.shift_remove("texts").unwrap()).unwrap();
    (texts, serde_json::from_value(Value::Object(json)).unwrap())
}

/// The largest difference of a value. Where vectors are compared by their angle ours have length 1.
fn gap(encoder: &Encoder, ours: &[f32], theirs: &[f32]) -> f32 {
    let mut theirs = theirs.to_vec();
    if encoder.similarity() == Similarity::Cosine {
        normalize(&mut theirs);
    }
    assert_eq!(ours.len(), theirs.len());
    ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn assert_golden(encoder: &Encoder, path: &Path) {
    let (texts, vectors) = expected(path);
    for (role, theirs) in vectors {
        let of = if role == "query" { InputType::Query } else { InputType::Document };
        let ours = encode(encoder, &texts, of);
        for (at, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
            let gap = gap(encoder, ours, theirs);
            assert!(gap < 1e-4, "{}: text {at} as a {role}: {gap}", encoder.path().display());
        }
    }
}

#[test]
fn every_architecture_and_pooling_gives_the_vectors_of_sentence_transformers() {
    for name in TINY {
        let encoder = open(&golden(name)).unwrap();
        assert_golden(&encoder, &golden(name).join("vectors.json"));
        assert!(encoder.warnings().is_empty());
    }
}

#[test]
fn a_pretrained_encoder_gives_the_vectors_of_sentence_transformers() {
    let Some(folder) = querywright_testing::encoder() else { return };
    let encoder = open(&folder).unwrap();
    assert_eq!((encoder.width(), encoder.max_tokens()), (384, 256));
    assert_golden(&encoder, &golden("vectors-minilm.json"));
}

#[test]
fn vectors_in_bf16_are_near_those_in_single_precision_and_are_other_vectors() {
    for name in TINY {
        let config = EncoderConfig { precision: EncoderPrecision::Bf16, ..EncoderConfig::default() };
        let (rounded, exact) = (Encoder::open(&golden(name), &config).unwrap(), open(&golden(name)).unwrap());
        assert_ne!(rounded.digest(), exact.digest());
        let texts = ["cold air creeps in", "the front door", "warm"];
        let [ours, right] = [&rounded, &exact].map(|encoder| encode(encoder, &texts, InputType::Document));
        for (ours, right) in ours.iter().zip(&right) {
            let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
            let cosine = product(ours, right) / (product(ours, ours) * product(right, right)).sqrt();
            assert!(cosine > 0.99 && ours != right, "{name}: {cosine}");
        }
    }
}

#[test]
fn a_vector_does_not_depend_on_what_is_encoded_beside_it() {
    for name in TINY {
        let encoder = open(&golden(name)).unwrap();
        let texts: Vec<String> = (0..90).map(|n| format!("{} door {n}", "warm ".repeat(n % 11))).collect();
        for role in [InputType::Query, InputType::Document] {
            let together = encode(&encoder, &texts, role);
            for (at, text) in texts.iter().enumerate() {
                assert_eq!(encode(&encoder, &[text], role)[0], together[at], "bit for bit: {name}: {text}");
            }
        }
    }
}

#[test]
fn texts_beyond_the_longest_are_cut_at_their_end_and_keep_what_stands_around_them() {
    let encoder = open(&golden("tiny-bert")).unwrap();
    let whole = encoder.tokens(&"the door ".repeat(50), InputType::Document).unwrap();
    assert_eq!(whole.len(), 40);
    assert_eq!((whole[0], whole[39]), (2, 3), "[CLS] and [SEP]");
    let config = EncoderConfig { max_tokens: Some(10), ..EncoderConfig::default() };
    let shorter = Encoder::open(&golden("tiny-bert"), &config).unwrap();
    assert_eq!(shorter.tokens(&"the door ".repeat(50), InputType::Document).unwrap()[..9], whole[..9]);
    assert_ne!(shorter.digest(), encoder.digest());
    // RoBERTa's positions begin behind that of its padding token.
    assert_eq!(open(&golden("tiny-roberta")).unwrap().max_tokens(), 64);
    for wrong in [0, 2, 65] {
        let config = EncoderConfig { max_tokens: Some(wrong), ..EncoderConfig::default() };
        let refused = Encoder::open(&golden("tiny-roberta"), &config).unwrap_err().to_string();
        assert!(refused.contains("max_tokens") && refused.contains("64"), "{refused}");
    }
}

#[test]
fn settings_take_the_place_of_what_the_folder_says() {
    let path = golden("tiny-bert");
    let own = open(&path).unwrap();
    assert_eq!((own.prefix(InputType::Query), own.prefix(InputType::Document)), ("query: ", "passage: "));
    let bare = EncoderConfig { query_prefix: Some(String::new()), ..EncoderConfig::default() };
    let bare = Encoder::open(&path, &bare).unwrap();
    assert_eq!(encode(&bare, &["query: warm"], InputType::Query), encode(&own, &["warm"], InputType::Query));
    assert_eq!(bare.digest(), own.digest(), "documents are the same");
    let cls =
        EncoderConfig { pooling: Some(Pooling::Cls), similarity: Some(Similarity::Dot), ..EncoderConfig::default() };
    let cls = Encoder::open(&path, &cls).unwrap();
    assert_ne!(encode(&cls, &["warm"], InputType::Document), encode(&own, &["warm"], InputType::Document));
    assert!(cls.digest() != own.digest() && cls.similarity() == Similarity::Dot);
}

#[test]
fn prompts_go_before_the_texts_of_their_role() {
    for (prompts, default, query, document) in [
        ("{\"query\": \"q: \", \"passage\": \"p: \"}", "null", "q: ", "p: "),
        // As newer versions write the same prompts.
        ("{\"query\": \"q: \", \"document\": \"\", \"passage\": \"p: \"}", "null", "q: ", "p: "),
        ("{\"query\": \"q: \", \"document\": \"d: \", \"corpus\": \"c: \"}", "\"corpus\"", "q: ", "d: "),
        ("{\"query\": \"q: \"}", "\"query\"", "q: ", ""),
        ("{\"sts\": \"s: \"}", "\"sts\"", "s: ", "s: "),
        ("{\"sts\": \"s: \"}", "null", "", ""),
        ("{\"query\": null, \"document\": null}", "null", "", ""),
    ] {
        let folder = copied("tiny-bert");
        set(folder.path(), "config_sentence_transformers.json", "prompts", prompts);
        set(folder.path(), "config_sentence_transformers.json", "default_prompt_name", default);
        let encoder = open(folder.path()).unwrap();
        assert_eq!(
            (encoder.prefix(InputType::Query), encoder.prefix(InputType::Document)),
            (query, document),
            "{prompts}"
        );
    }
}

#[test]
fn long_texts_are_computed_one_after_the_other_and_first() {
    let tokens: Vec<Vec<u32>> = [4000, LONG_TOKENS + 1, LONG_TOKENS, 7, 7].map(|length| vec![1; length]).to_vec();
    let batches = batches(&[0, 1, 2, 3, 4], &tokens);
    assert_eq!(batches, [vec![0], vec![1], vec![2], vec![3, 4]]);
    assert_eq!(long_batches(&batches, &tokens), 2);
    assert_eq!((long_batches(&batches[2..], &tokens), long_batches(&[], &tokens)), (0, 0));
}

#[test]
fn texts_of_different_lengths_are_computed_together_up_to_a_number_of_tokens() {
    let tokens: Vec<Vec<u32>> = [BATCH_TOKENS - 9, 8, 2, 1, 0].map(|length| vec![1; length]).to_vec();
    assert_eq!(batches(&[0, 1, 2, 3, 4], &tokens), [vec![0, 1], vec![2, 3, 4]]);
    let empty = vec![Vec::new(); BATCH_TOKENS + 1];
    let order: Vec<usize> = (0..empty.len()).collect();
    assert_eq!(batches(&order, &empty).iter().map(Vec::len).collect::<Vec<_>>(), [BATCH_TOKENS, 1]);
    assert!(batches(&[], &[]).is_empty());
}

#[test]
fn the_weights_of_a_linear_layer_in_shards_are_part_of_the_digest() {
    let folder = copied("tiny-distilbert");
    let dense = folder.path().join("2_Dense");
    let shard = "model-00001-of-00001.safetensors";
    std::fs::rename(dense.join("model.safetensors"), dense.join(shard)).unwrap();
    let names = ["linear.weight", "linear.bias"].map(|name| (name.to_owned(), Value::from(shard)));
    let index = serde_json::json!({"weight_map": serde_json::Map::from_iter(names)});
    std::fs::write(dense.join("model.safetensors.index.json"), index.to_string()).unwrap();
    let before = open(folder.path()).unwrap();
    assert_eq!(before.digest(), open(&golden("tiny-distilbert")).unwrap().digest(), "the same weights");
    // The last bytes are a tensor's values.
    let mut bytes = std::fs::read(dense.join(shard)).unwrap();
    let last = bytes.len() - 4;
    bytes[last..].copy_from_slice(&0.25_f32.to_le_bytes());
    std::fs::write(dense.join(shard), bytes).unwrap();
    assert_ne!(open(folder.path()).unwrap().digest(), before.digest());
}

#[test]
fn a_deadline_that_passed_ends_the_work() {
    let encoder = open(&golden("tiny-bert")).unwrap();
    let late = Deadline::after(std::time::Duration::ZERO);
    assert!(encoder.encode(&["warm"], InputType::Query, late, &()).unwrap_err().is_deadline());
}

/// A copy of a tiny encoder, to be broken.
fn copied(name: &str) -> tempfile::TempDir {
    fn copy(from: &Path, to: &Path) {
        for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
            let target = to.join(entry.file_name());
            if entry.path().is_dir() {
                std::fs::create_dir(&target).unwrap();
                copy(&entry.path(), &target);
            } else {
                std::fs::copy(entry.path(), target).unwrap();
            }
        }
    }
    let folder = tempfile::tempdir().unwrap();
    copy(&golden(name), folder.path());
    folder
}

/// Sets a key of a JSON file.
fn set(folder: &Path, file: &str, key: &str, value: &str) {
    let path = folder.join(file);
    let mut json: serde_json::Map<String, Value> = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    json.insert(key.to_owned(), serde_json::from_str(value).unwrap());
    std::fs::write(path, serde_json::to_vec(&json).unwrap()).unwrap();
}

#[test]
fn a_key_that_asks_for_what_is_not_computed_is_refused_by_its_name() {
    let config = "config.json";
    let (sentence, settings) = ("sentence_bert_config.json", "config_sentence_transformers.json");
    for (name, file, key, value) in [
        ("tiny-bert", config, "model_type", "\"mpnet\""),
        ("tiny-bert", config, "model_type", "null"),
        ("tiny-bert", config, "position_embedding_type", "\"relative_key\""),
        ("tiny-bert", config, "hidden_act", "\"silu\""),
        ("tiny-bert", config, "is_decoder", "true"),
        ("tiny-bert", config, "pruned_heads", "{\"0\": [1]}"),
        ("tiny-bert", config, "quantization_config", "{\"quant_method\": \"gptq\"}"),
        ("tiny-bert", config, "auto_map", "{\"AutoModel\": \"modeling.Own\"}"),
        ("tiny-bert", config, "hidden_size", "\"32\""),
        ("tiny-bert", config, "max_position_embeddings", "4294967296"),
        ("tiny-bert", config, "num_hidden_layers", "0"),
        ("tiny-bert", config, "layer_norm_eps", "null"),
        ("tiny-bert", config, "hidden_act", "null"),
        ("tiny-bert", config, "num_experts", "4"),
        ("tiny-bert", config, "scale_embedding", "true"),
        ("tiny-bert", config, "attn_logit_softcapping", "30.0"),
        ("tiny-modernbert", config, "local_attention", "null"),
        ("tiny-modernbert", config, "norm_eps", "null"),
        ("tiny-bert", config, "num_hidden_layers", "1025"),
        ("tiny-roberta", config, "type_vocab_size", "0"),
        ("tiny-distilbert", config, "activation", "\"mish\""),
        ("tiny-distilbert", config, "n_layers", "4294967296"),
        ("tiny-modernbert", config, "num_hidden_layers", "4294967296"),
        ("tiny-modernbert", config, "local_attention", "193"),
        ("tiny-modernbert", config, "attention_bias", "true"),
        ("tiny-modernbert", config, "hidden_activation", "\"relu\""),
        ("tiny-modernbert", config, "layer_types", "[\"full_attention\"]"),
        ("tiny-modernbert", config, "global_rope_theta", "5.0"),
        ("tiny-modernbert", config, "global_attn_every_n_layers", "0"),
        ("tiny-bert", sentence, "max_seq_length", "0"),
        ("tiny-bert", sentence, "transformer_task", "\"fill-mask\""),
        ("tiny-bert", sentence, "query_length", "32"),
        ("tiny-bert", sentence, "processing_kwargs", "{\"text\": {}}"),
        ("tiny-bert", sentence, "modality_config", "{\"image\": {}}"),
        ("tiny-bert", settings, "similarity_fn_name", "\"euclidean\""),
        ("tiny-bert", settings, "model_type", "\"SparseEncoder\""),
        ("tiny-bert", settings, "default_prompt_name", "\"absent\""),
        ("tiny-bert", settings, "truncate_dim", "0"),
        ("tiny-bert", "1_Pooling/config.json", "pooling_mode", "\"median\""),
        ("tiny-bert", "1_Pooling/config.json", "pooling_mode", "[\"mean\", \"cls\", \"mean\"]"),
        ("tiny-bert", "1_Pooling/config.json", "word_embedding_dimension", "33"),
        ("tiny-bert", "1_Pooling/config.json", "include_prompt", "false"),
        ("tiny-distilbert", "2_Dense/config.json", "activation_function", "\"torch.nn.modules.activation.Mish\""),
        ("tiny-distilbert", "2_Dense/config.json", "module_input_name", "\"token_embeddings\""),
        ("tiny-distilbert", "2_Dense/config.json", "use_residual", "true"),
        ("tiny-distilbert", "2_Dense/config.json", "in_features", "31"),
        ("tiny-bert", "tokenizer_config.json", "truncation_side", "\"left\""),
    ] {
        let folder = copied(name);
        set(folder.path(), file, key, value);
        let refused = open(folder.path()).map(drop).unwrap_err().to_string();
        assert!(refused.contains(key), "{file}: {key} = {value}: {refused}");
    }
}

#[test]
fn the_flags_of_older_pooling_files_mean_what_they_mean_in_sentence_transformers() {
    let pooled = |flags: &str| {
        let folder = copied("tiny-bert");
        std::fs::write(folder.path().join("1_Pooling/config.json"), flags).unwrap();
        open(folder.path()).map(|encoder| encode(&encoder, &["warm feet"], InputType::Document).remove(0))
    };
    let mean = pooled("{\"pooling_mode_mean_tokens\": true}").unwrap();
    assert_eq!(pooled("{\"pooling_mode_cls_token\": false}").unwrap(), mean, "that of the mean is on by default");
    let both = pooled("{\"pooling_mode_cls_token\": true}").unwrap();
    assert_eq!(both.len(), 2 * mean.len());
    for (flags, part) in [
        ("{\"pooling_mode_mean_tokens\": false, \"pooling_mode_cls_token\": false}", "no mode is on"),
        ("{\"pooling_mode_first_last_avg\": true}", "pooling_mode_first_last_avg"),
    ] {
        let refused = pooled(flags).unwrap_err().to_string();
        assert!(refused.contains(part), "{flags}: {refused}");
    }
    assert_eq!(pooled("{\"pooling_mode_first_last_avg\": false}").unwrap(), mean);
}

#[test]
fn modules_that_are_not_computed_are_refused_by_their_type() {
    let modules = |kinds: &[(&str, &str)]| {
        let list: Vec<Value> = kinds
            .iter()
            .map(|(kind, path)| serde_json::json!({"type": format!("sentence_transformers.models.{kind}"), "path": path}))
            .collect();
        serde_json::to_vec(&list).unwrap()
    };
    let encoder = ("Transformer", "");
    let pooling = ("Pooling", "1_Pooling");
    for (kinds, part) in [
        (&[encoder, ("SpladePooling", "1_Pooling")][..], "SpladePooling"),
        (&[encoder, pooling, ("LayerNorm", "2_LayerNorm")], "LayerNorm"),
        (&[("StaticEmbedding", ""), pooling], "StaticEmbedding"),
        (&[encoder, pooling, pooling], "Pooling"),
        (&[encoder], "without a Pooling"),
        (&[encoder, ("Pooling", "../elsewhere")], "path"),
        (&[encoder, ("Pooling", "/etc")], "path"),
        (&[("Transformer", "0_Transformer"), pooling], "Transformer"),
    ] {
        let folder = copied("tiny-bert");
        std::fs::write(folder.path().join("modules.json"), modules(kinds)).unwrap();
        let refused = open(folder.path()).map(drop).unwrap_err().to_string();
        assert!(refused.contains(part), "{kinds:?}: {refused}");
    }
}

#[test]
fn a_folder_without_modules_is_pooled_by_the_mean_and_says_so() {
    let folder = copied("tiny-bert");
    std::fs::remove_file(folder.path().join("modules.json")).unwrap();
    let encoder = open(folder.path()).unwrap();
    assert!(encoder.warnings()[0].contains("modules.json"), "{:?}", encoder.warnings());
    // Normalised once where the modules did it twice.
    let own = open(&golden("tiny-bert")).unwrap();
    let [ours, theirs] = [&encoder, &own].map(|encoder| encode(encoder, &["warm"], InputType::Query).remove(0));
    assert!(gap(&own, &ours, &theirs) < 1e-6);
    let config = EncoderConfig { pooling: Some(Pooling::Cls), ..EncoderConfig::default() };
    assert!(Encoder::open(folder.path(), &config).unwrap().warnings().is_empty(), "it was said");
}

/// Writes the tensors of a file again, after `change`.
fn rewrite(folder: &Path, change: impl FnOnce(&mut HashMap<String, (Vec<usize>, Vec<f32>)>)) {
    let path = folder.join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let values = |view: &TensorView<'_>| view.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let mut tensors: HashMap<String, (Vec<usize>, Vec<f32>)> =
        file.tensors().iter().map(|(name, view)| (name.clone(), (view.shape().to_vec(), values(view)))).collect();
    change(&mut tensors);
    let bytes: HashMap<String, (Vec<usize>, Vec<u8>)> = tensors
        .into_iter()
        .map(|(name, (shape, values))| (name, (shape, values.iter().flat_map(|v| v.to_le_bytes()).collect())))
        .collect();
    let views = bytes.iter().map(|(name, (shape, b))| (name, TensorView::new(Dtype::F32, shape.clone(), b).unwrap()));
    safetensors::serialize_to_file(views, None, &path).unwrap();
}

#[test]
fn tensors_that_are_missing_damaged_misshapen_or_read_by_nobody_are_refused_by_name() {
    type Change = fn(&mut HashMap<String, (Vec<usize>, Vec<f32>)>);
    let cases: [(&str, Change, &[&str]); 8] = [
        (
            "tiny-bert",
            |t| drop(t.remove("encoder.layer.1.output.dense.weight")),
            &["encoder.layer.1.output.dense.weight", "missing"],
        ),
        ("tiny-distilbert", |t| drop(t.remove("transformer.layer.0.attention.q_lin.bias")), &["q_lin.bias", "missing"]),
        ("tiny-modernbert", |t| drop(t.remove("layers.1.attn_norm.weight")), &["layers.1.attn_norm.weight", "missing"]),
        (
            "tiny-bert",
            |t| t.get_mut("embeddings.LayerNorm.bias").unwrap().1[3] = f32::NAN,
            &["embeddings.LayerNorm.bias", "NaN"],
        ),
        (
            "tiny-roberta",
            |t| t.get_mut("encoder.layer.0.attention.self.key.bias").unwrap().0 = vec![4, 8],
            &["self.key.bias", "[4, 8]"],
        ),
        (
            "tiny-bert",
            |t| drop(t.insert("encoder.layer.2.output.dense.bias".into(), (vec![32], vec![0.0; 32]))),
            &["encoder.layer.2", "does not read"],
        ),
        (
            "tiny-bert",
            |t| drop(t.insert("classifier.weight".into(), (vec![1, 32], vec![0.0; 32]))),
            &["classifier.weight", "re-ranker"],
        ),
        (
            "tiny-bert",
            |t| {
                drop(
                    t.insert("encoder.layer.0.attention.self.query.lora_A.weight".into(), (vec![1, 32], vec![0.0; 32])),
                )
            },
            &["lora_A", "merge"],
        ),
    ];
    for (name, change, parts) in cases {
        let folder = copied(name);
        rewrite(folder.path(), change);
        let refused = open(folder.path()).map(drop).unwrap_err().to_string();
        assert!(parts.iter().all(|part| refused.contains(part)), "{refused}");
    }
}

#[test]
fn a_checkpoint_of_a_model_with_a_head_gives_the_same_vectors() {
    for (name, prefix, head) in [
        ("tiny-bert", "bert.", "cls.predictions.bias"),
        ("tiny-roberta", "roberta.", "lm_head.bias"),
        ("tiny-distilbert", "distilbert.", "vocab_projector.bias"),
        ("tiny-modernbert", "model.", "head.dense.weight"),
    ] {
        let folder = copied(name);
        rewrite(folder.path(), |tensors| {
            *tensors = tensors.drain().map(|(name, tensor)| (format!("{prefix}{name}"), tensor)).collect();
            tensors.insert(head.to_owned(), (vec![2], vec![0.0; 2]));
        });
        let (with, without) = (open(folder.path()).unwrap(), open(&golden(name)).unwrap());
        assert_eq!(encode(&with, &["warm door"], InputType::Query), encode(&without, &["warm door"], InputType::Query));
    }
    // Norms under the names of the first checkpoints.
    let folder = copied("tiny-bert");
    rewrite(folder.path(), |tensors| {
        let old = |name: String| {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        };
        *tensors = tensors.drain().map(|(name, tensor)| (old(name), tensor)).collect();
    });
    assert_golden(&open(folder.path()).unwrap(), &golden("tiny-bert").join("vectors.json"));
}

#[test]
fn what_is_no_encoder_is_refused_with_what_it_is() {
    let refused = |path: &Path, part: &str| {
        let said = open(path).map(drop).unwrap_err().to_string();
        assert!(said.contains(part), "{said}");
    };
    refused(&golden("tiny-llama"), "model_type");
    refused(&golden("tiny-llama.gguf"), "folder");
    refused(&golden("peft-llama"), "an adapter of a language model, not an encoder");
    let folder = copied("tiny-bert");
    std::fs::remove_file(folder.path().join("tokenizer.json")).unwrap();
    refused(folder.path(), "tokenizer.json");
    let folder = copied("tiny-bert");
    set(folder.path(), "config.json", "vocab_size", "20");
    refused(folder.path(), "90 tokens over an embedding of 20");
}
