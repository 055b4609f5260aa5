//! A Hugging Face folder: weights, configuration and tokenizer, as transformers reads them.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{Export, ExportType, Exported, Placed, config_json, put, put_json};
use crate::source::ModelSource;
use crate::tokenizer::Tokenizer;
use querywright_types::{Error, Observe, Result};

/// Files of a Hugging Face folder beside its weights that go with the merged model as they are.
const COPIED: [&str; 12] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "LICENSE",
    "NOTICE",
];
/// Bytes of such a file at most: tokenizers have up to 35 MB.
const LARGEST: u64 = 256 << 20;

pub(super) fn write(export: &Export<'_>, folder: &Path, observer: &dyn Observe) -> Result<Exported> {
    let config = export.source.config();
    let mut placed = Vec::new();
    let mut header = Map::new();
    header.insert("__metadata__".into(), json!({ "format": "pt" }));
    let mut at = 0;
    for name in config.tensor_names() {
        let bug = || Error::bug("model::export", format!("no shape is known of {name}"));
        let shape = config.tensor_shape(&name).ok_or_else(bug)?;
        let bytes = shape.iter().product::<usize>() * export.dtype.bytes();
        let entry = json!({ "dtype": type_name(export.dtype), "shape": shape, "data_offsets": [at, at + bytes] });
        header.insert(name.clone(), entry);
        placed.push(Placed { hf_name: name, dtype: export.dtype, bytes, padding: 0 });
        at += bytes;
    }
    let path = folder.join("model.safetensors");
    let mut text = serde_json::to_vec(&header).map_err(|e| Error::write(&path, e.into()))?;
    // The data begins at a multiple of eight.
    text.resize(text.len().next_multiple_of(8), b' ');
    let start = [&(text.len() as u64).to_le_bytes()[..], text.as_slice()].concat();
    // The small files first: what cannot be written is found out before the gigabytes.
    beside(export, folder)?;
    export.write_tensors((&path, &start), &placed, |_, tensor| Ok(tensor), observer)
}

/// Configuration and tokenizer.
fn beside(export: &Export<'_>, folder: &Path) -> Result<()> {
    let source = export.source;
    if source.is_folder() {
        put_json(folder, "config.json", &config_json::changed(source.path(), export.dtype)?)?;
        return COPIED.iter().try_for_each(|name| copy(source.path(), folder, name));
    }
    let tokenizer = source.tokenizer()?;
    put_json(folder, "config.json", &config_json::written(source, &tokenizer, export.dtype)?)?;
    write_tokenizer(source, &tokenizer, folder)
}

fn copy(from: &Path, to: &Path, name: &str) -> Result<()> {
    let path = from.join(name);
    match std::fs::metadata(&path) {
        Ok(found) if found.is_file() && found.len() <= LARGEST => {
            let bytes = std::fs::read(&path).map_err(|e| Error::read(&path, e))?;
            put(to, name, &bytes)
        }
        Ok(found) if found.is_file() => {
            let found = format!("{} bytes where at most {LARGEST} are copied", found.len());
            Err(Error::model(path, found, "this is another file under that name; fetch the model again"))
        }
        _ => Ok(()),
    }
}

/// The tokenizer of a GGUF file as the files that transformers reads.
fn write_tokenizer(source: &ModelSource, tokenizer: &Tokenizer, folder: &Path) -> Result<()> {
    put(folder, "tokenizer.json", tokenizer.to_json()?.as_bytes())?;
    let text = |id: Option<u32>| id.and_then(|id| tokenizer.token(id));
    let eos = tokenizer.eos_ids();
    let mut settings = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": false,
        "model_max_length": source.config().max_position_embeddings,
    });
    for (key, token) in [
        ("bos_token", text(tokenizer.bos_id())),
        ("eos_token", text(eos.first().copied())),
        ("pad_token", text(tokenizer.pad_id())),
        ("chat_template", tokenizer.chat_template().and_then(|template| template.source().map(str::to_owned))),
    ] {
        if let Some(token) = token {
            settings[key] = token.into();
        }
    }
    put_json(folder, "tokenizer_config.json", &settings)?;
    let mut generation = json!({ "eos_token_id": eos });
    for (key, id) in [("bos_token_id", tokenizer.bos_id()), ("pad_token_id", tokenizer.pad_id())] {
        if let Some(id) = id {
            generation[key] = Value::from(id);
        }
    }
    put_json(folder, "generation_config.json", &generation)
}

fn type_name(dtype: ExportType) -> &'static str {
    match dtype {
        ExportType::F32 => "F32",
        ExportType::F16 => "F16",
        ExportType::Bf16 => "BF16",
    }
}
