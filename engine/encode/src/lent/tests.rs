use std::path::Path;
use std::time::Duration;

use querywright_plugin_host::{TextEncoder, TextRole};
use querywright_testing::golden;
use querywright_types::Deadline;

use super::*;
use crate::{Encoder, InputType, Similarity};

fn tiny(config: &EncoderConfig) -> Encoder {
    Encoder::open(&golden("tiny-bert"), config).unwrap()
}

fn lent(encoder: &Encoder, role: TextRole, deadline: Deadline) -> querywright_types::Result<Vec<Vec<f32>>> {
    TextEncoder::encode(encoder, &["a steel kettle".into(), "tea".into()], role, deadline)
}

#[test]
fn a_plugin_gets_the_vectors_of_dense_retrieval_with_the_prefix_of_the_role() {
    let config = EncoderConfig { query_prefix: Some("find: ".into()), ..EncoderConfig::default() };
    let encoder = tiny(&config);
    let own = |role| encoder.encode(&["a steel kettle", "tea"], role, Deadline::NONE, &()).unwrap();
    let [documents, queries] =
        [TextRole::Document, TextRole::Query].map(|role| lent(&encoder, role, Deadline::NONE).unwrap());
    assert_eq!((documents.concat(), queries.concat()), (own(InputType::Document), own(InputType::Query)));
    assert!(documents != queries && documents[0].len() == TextEncoder::dimensions(&encoder));
}

#[test]
fn a_plugins_vectors_have_the_length_1_also_where_products_are_compared() {
    let dot = tiny(&EncoderConfig { similarity: Some(Similarity::Dot), ..EncoderConfig::default() });
    let length = |vector: &[f32]| vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    for vector in lent(&dot, TextRole::Document, Deadline::NONE).unwrap() {
        assert!((length(&vector) - 1.0).abs() < 1e-5, "{}", length(&vector));
    }
}

#[test]
fn all_that_decides_a_plugins_vectors_is_in_the_digest_and_a_deadline_ends_them() {
    let digest = |config: &EncoderConfig| TextEncoder::digest(&tiny(config)).unwrap();
    let plain = digest(&EncoderConfig::default());
    assert_eq!(plain, digest(&EncoderConfig::default()));
    for other in [
        EncoderConfig { query_prefix: Some("find: ".into()), ..EncoderConfig::default() },
        EncoderConfig { document_prefix: Some("text: ".into()), ..EncoderConfig::default() },
        EncoderConfig { max_tokens: Some(5), ..EncoderConfig::default() },
        EncoderConfig { similarity: Some(Similarity::Dot), ..EncoderConfig::default() },
    ] {
        assert_ne!(plain, digest(&other), "{other:?}");
    }
    let late = lent(&tiny(&EncoderConfig::default()), TextRole::Query, Deadline::after(Duration::ZERO)).unwrap_err();
    assert!(late.is_deadline(), "{late}");
}

#[test]
fn the_setting_names_a_model_and_refuses_what_it_does_not_know() {
    // TOML and JSON read the same structure.
    let read = |text: &str| serde_json::from_str::<EmbedConfig>(text).map_err(|e| e.to_string());
    let config = read(r#"{"model": "minilm", "encoder": {"max_tokens": 64}}"#).unwrap();
    assert_eq!((Path::new(&config.model), config.encoder.max_tokens), (Path::new("minilm"), Some(64)));
    assert!(read("{}").unwrap_err().contains("model"));
    assert!(read(r#"{"model": "minilm", "hybrid": 1}"#).unwrap_err().contains("hybrid"));
}
