//! Reading a `tokenizer.json`: bounded, without what belongs to a training run, and without panics.

use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use tokenizers::ModelWrapper;

use crate::foreign::{by_first_bytes, without_mark};
use querywright_types::{Error, Result, quietly};

/// Bytes of a file, at most. The largest of well-known models have 35 MB.
pub(super) const MAX_BYTES: u64 = 256 << 20;
/// How much longer the stages of a tokenizer may make a text, together. Real ones reach 3.
const MAX_GROWTH: f64 = 256.0;
/// Tokens that may be put around a text. Real ones have up to four.
const MAX_ADDED: usize = 1024;
/// Stages within stages.
const MAX_DEPTH: usize = 16;

/// Reads a file that must not be large.
pub(super) fn bounded(path: &Path, most: u64) -> Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|e| Error::read(path, e))?;
    // What is longer is not read; what has no length of its own (a pipe) is read so far.
    let length = file.metadata().map_or(0, |found| found.len());
    if length <= most {
        file.take(most + 1).read_to_end(&mut bytes).map_err(|e| Error::read(path, e))?;
    }
    if length.max(bytes.len() as u64) > most {
        let found = format!("it has more than {most} bytes");
        return Err(Error::model(path, found, "fetch it again; no model's own file is that large"));
    }
    Ok(bytes)
}

/// Reads a tokenizer.
pub(super) fn tokenizer(path: &Path) -> Result<tokenizers::Tokenizer> {
    let bytes = bounded(path, MAX_BYTES)?;
    let bytes = without_mark(&bytes);
    if let Some((what, remedy)) = by_first_bytes(bytes) {
        return Err(Error::model(path, what, remedy));
    }
    let unusable = |e: String| Error::model(path, format!("not a tokenizer ({e})"), "fetch tokenizer.json again");
    check(bytes).map_err(unusable)?;
    let read = |bytes: &[u8]| {
        quietly(|| tokenizers::Tokenizer::from_bytes(bytes).map_err(|e| e.to_string())).unwrap_or_else(Err)
    };
    // Sections that are not used must not keep a file from being read.
    let tokenizer = read(bytes).or_else(|why| without_lengths(bytes).and_then(|rest| read(&rest)).map_err(|_| why));
    let tokenizer = tokenizer.map_err(unusable)?;
    if tokenizer.get_vocab_size(true) == 0 {
        return Err(unusable("its vocabulary is empty".to_owned()));
    }
    Ok(tokenizer)
}

/// Takes out what would change results without a word: the lengths of a training run, which cut and fill texts, and its
/// dropout, which is random.
pub(super) fn neutralise(tokenizer: &mut tokenizers::Tokenizer) -> std::result::Result<(), String> {
    tokenizer.with_truncation(None).map(drop).map_err(|e| e.to_string())?;
    tokenizer.with_padding(None);
    if let ModelWrapper::BPE(model) = tokenizer.get_model()
        && model.dropout.is_some()
    {
        let mut certain = model.clone();
        certain.dropout = None;
        tokenizer.with_model(certain);
    }
    Ok(())
}

/// The stages through which each text goes. The rest of the file is skipped.
#[derive(Deserialize)]
struct Stages {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    decoder: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    model: Option<IgnoredAny>,
}

/// Refuses stages that make texts longer and longer: forty that each double it need a few lines and all memory.
fn check(bytes: &[u8]) -> std::result::Result<(), String> {
    let stages: Stages = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    if stages.model.is_none() {
        return Err("it has no `model`".to_owned());
    }
    for (name, stage) in
        [("normalizer", &stages.normalizer), ("pre_tokenizer", &stages.pre_tokenizer), ("decoder", &stages.decoder)]
    {
        if growth(stage, 0).is_none_or(|growth| growth > MAX_GROWTH) {
            return Err(format!("`{name}` would make texts more than {MAX_GROWTH} times as long"));
        }
    }
    match added(&stages.post_processor, 0) {
        Some(tokens) if tokens <= MAX_ADDED => Ok(()),
        _ => Err(format!("`post_processor` would add more than {MAX_ADDED} tokens to a text")),
    }
}

/// Tokens that a post-processor adds to a text, at most: the items of templates, each as long as the longest list of ids.
/// None where it nests too deep.
fn added(stage: &Value, depth: usize) -> Option<usize> {
    if depth > MAX_DEPTH {
        return None;
    }
    match stage {
        Value::Array(parts) => parts.iter().map(|part| added(part, depth + 1)).sum(),
        Value::Object(parts) => {
            let items = |name: &str| parts.get(name).and_then(Value::as_array).map_or(0, Vec::len);
            let ids = parts.get("special_tokens").and_then(Value::as_object).into_iter().flat_map(|all| all.values());
            let ids = ids.filter_map(|token| token.get("ids")?.as_array()).map(Vec::len).max().unwrap_or(0);
            let own = (items("single") + items("pair")).saturating_mul(ids.max(1));
            let within = parts.get("processors").map_or(Some(0), |parts| added(parts, depth + 1))?;
            Some(own.saturating_add(within))
        }
        _ => Some(0),
    }
}

/// The factor by which a stage may lengthen a text, in characters. None where stages nest too deep.
fn growth(stage: &Value, depth: usize) -> Option<f64> {
    if depth > MAX_DEPTH {
        return None;
    }
    let parts = match stage {
        Value::Array(parts) => return product(parts.iter(), depth),
        Value::Object(parts) => parts,
        _ => return Some(1.0),
    };
    let size = |value: Option<&Value>| value.and_then(Value::as_str).map_or(1, |text| text.chars().count().max(1));
    let own = match parts.get("type").and_then(Value::as_str) {
        Some("Replace") => {
            let pattern = parts.get("pattern").and_then(|pattern| pattern.get("String"));
            (size(parts.get("content")) as f64 / size(pattern) as f64).max(1.0)
        }
        Some("Prepend") => 1.0 + size(parts.get("prepend")) as f64,
        // Bytes as characters of their own.
        Some("ByteLevel") => 2.0,
        Some("Precompiled") => 3.0,
        _ => 1.0,
    };
    Some(own * product(parts.values().filter(|part| part.is_array() || part.is_object()), depth)?)
}

fn product<'v>(parts: impl Iterator<Item = &'v Value>, depth: usize) -> Option<f64> {
    parts.map(|part| growth(part, depth + 1)).product()
}

/// The file without its lengths.
fn without_lengths(bytes: &[u8]) -> std::result::Result<Vec<u8>, String> {
    let mut all: serde_json::Map<String, Value> = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    all.shift_remove("truncation");
    all.shift_remove("padding");
    serde_json::to_vec(&all).map_err(|e| e.to_string())
}
