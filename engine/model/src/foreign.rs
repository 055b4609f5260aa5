//! What a path holds that is no model, or no adapter, of ours: a refusal says what the thing is and what to do.

use std::path::{Path, PathBuf};

use querywright_types::{Error, Result};

const CONVERT: &str =
    "load the model with transformers and save it again with save_pretrained, which writes safetensors";

/// What a file is by its first bytes, and what to do; none for GGUF, safetensors, and what is not known.
pub(super) fn by_first_bytes(start: &[u8]) -> Option<(&'static str, &'static str)> {
    let gguf = "fetch the model as GGUF, or convert it with llama.cpp of 2023";
    let fetch = "this is what a server sent in place of the file; fetch it again";
    let table: [(&[u8], &str, &str); 17] = [
        (b"PK\x03\x04", "PyTorch's weights (a zip archive)", CONVERT),
        (b"\x80\x02", "PyTorch's weights (a pickle)", CONVERT),
        (b"\x80\x03", "PyTorch's weights (a pickle)", CONVERT),
        (b"\x80\x04", "PyTorch's weights (a pickle)", CONVERT),
        (b"\x89HDF", "TensorFlow's weights (HDF5)", CONVERT),
        (b"lmgg", "a GGML file, older than GGUF", gguf),
        (b"fmgg", "a GGML file, older than GGUF", gguf),
        (b"tjgg", "a GGML file, older than GGUF", gguf),
        (b"algg", "a LoRA adapter of GGML, older than GGUF", "give the adapter as a PEFT folder, as MODEL+DIR"),
        (b"\x1f\x8b", "a compressed file (gzip)", "unpack it first"),
        (b"\x28\xb5\x2f\xfd", "a compressed file (zstd)", "unpack it first"),
        (b"7z\xbc\xaf", "a compressed file (7z)", "unpack it first"),
        (b"version ", "a pointer of Git LFS in place of the file", "run git lfs pull, or fetch the file itself"),
        (b"<!DO", "a web page", fetch),
        (b"<htm", "a web page", fetch),
        (b"<HTM", "a web page", fetch),
        (b"<!do", "a web page", fetch),
    ];
    table.iter().find(|(magic, _, _)| start.starts_with(magic)).map(|(_, what, remedy)| (*what, *remedy))
}

/// The files of a folder that hold weights in formats that are not read.
fn other_weights(folder: &Path) -> Vec<String> {
    let other = ["bin", "pt", "pth", "ckpt", "h5", "msgpack", "onnx", "npz", "mlmodel", "tflite", "pte"];
    let named = |name: &str| name.rsplit_once('.').is_some_and(|(_, end)| other.contains(&end));
    // A trainer's own state is no model.
    let state = ["training_args.bin", "optimizer.pt", "scheduler.pt", "optimizer.bin", "scheduler.bin"];
    names_in(folder).into_iter().filter(|name| named(name) && !state.contains(&name.as_str())).collect()
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Some names, and how many more there are.
pub(super) fn listed(names: &[impl AsRef<str>]) -> String {
    // Names of strangers: a control character stays in none, nor does a long one fill the screen.
    let visible = |name: &str| name.chars().take(100).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    let shown: Vec<String> = names.iter().take(3).map(|name| visible(name.as_ref())).collect();
    let more = if names.len() > 3 { format!(" and {} more", names.len() - 3) } else { String::new() };
    format!("{}{more}", shown.join(", "))
}

/// The refusal of a folder with a `config.json` and no safetensors that belong to it.
pub(super) fn no_weights(folder: &Path) -> Error {
    if folder.join("adapter_config.json").is_file() {
        return adapter_as_model(folder);
    }
    let names = names_in(folder);
    let shards: Vec<&String> =
        names.iter().filter(|n| n.starts_with("model-") && n.ends_with(".safetensors")).collect();
    if !shards.is_empty() {
        let found = format!("{} shards ({}) without model.safetensors.index.json", shards.len(), listed(&shards));
        return Error::model(folder, found, "fetch the index into this folder");
    }
    let ending = |end: &str| -> Vec<&String> { names.iter().filter(|n| n.ends_with(end)).collect() };
    let files = ending(".gguf");
    if !files.is_empty() {
        let found = format!("config.json without safetensors, and GGUF files ({})", listed(&files));
        return Error::model(folder, found, "give the path of one of the GGUF files");
    }
    let other = other_weights(folder);
    if !other.is_empty() {
        let found = format!("weights in a format that is not read ({}) and no model.safetensors", listed(&other));
        return Error::model(folder, found, CONVERT);
    }
    let strange = ending(".safetensors");
    if !strange.is_empty() {
        let found = format!("safetensors under other names than model.safetensors ({})", listed(&strange));
        return Error::model(folder, found, "fetch the files that transformers reads: model.safetensors or its shards");
    }
    Error::model(
        folder,
        "neither model.safetensors nor model.safetensors.index.json in this folder",
        "fetch the weights as safetensors; other formats (pytorch_model.bin) are not read",
    )
}

/// The refusal of a folder with neither a `config.json` nor a GGUF file.
pub(super) fn no_model(folder: &Path) -> Error {
    if folder.join("adapter_config.json").is_file() {
        return adapter_as_model(folder);
    }
    let has = |name: &str| folder.join(name).is_file();
    let weights = ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"];
    if let Some(found) = weights.into_iter().find(|name| has(name)) {
        let found = format!("{found} without config.json: neither config.json nor a GGUF file in this folder");
        return Error::model(folder, found, "fetch config.json and tokenizer.json into this folder");
    }
    if has("model_index.json") {
        return Error::model(folder, "an image model (diffusers)", "give a language model");
    }
    Error::model(
        folder,
        "neither config.json nor a GGUF file in this folder",
        "give a GGUF file or a Hugging Face folder with config.json, tokenizer.json and model.safetensors",
    )
}

/// An adapter where a model belongs.
pub(super) fn adapter_as_model(path: &Path) -> Error {
    let remedy = "give the model that it was trained on (base_model_name_or_path) and the adapter's folder after a plus: \
                  MODEL+DIR";
    Error::model(path, "a LoRA adapter, not a model", remedy)
}

/// The refusal of a single file that is neither GGUF nor known by its first bytes, where its name says what it is.
pub(super) fn by_name(path: &Path) -> Option<Error> {
    let name = path.file_name()?.to_str()?;
    if name.starts_with("adapter_model.") || name == "adapter_config.json" {
        return Some(adapter_as_model(path));
    }
    if name.ends_with(".safetensors") || name.ends_with(".json") {
        let remedy = "give the folder, with config.json, tokenizer.json and all safetensors files";
        return Some(Error::model(path, "one file of a Hugging Face folder", remedy));
    }
    None
}

/// The configuration of the adapter in a folder.
///
/// # Errors
/// A folder that holds no adapter: what it holds instead.
pub(super) fn adapter_config(folder: &Path) -> Result<PathBuf> {
    let path = folder.join("adapter_config.json");
    if path.is_file() {
        return Ok(path);
    }
    let give = "give MODEL+DIR with a folder that training wrote, as runs/demo/best, or one of PEFT";
    let refuse = |found: &str, remedy: &str| Err(Error::model(folder, found, remedy));
    if !folder.exists() {
        return refuse("there is no such folder", give);
    }
    if folder.is_file() {
        let name = folder.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        return match () {
            () if name.starts_with("adapter_") => refuse("one file of an adapter", "give its folder"),
            () if name.ends_with(".gguf") => {
                refuse("a GGUF file where an adapter's folder belongs", "adapters are read as PEFT folders")
            }
            () => refuse("a file where an adapter's folder belongs", give),
        };
    }
    let names = names_in(folder);
    if names.iter().any(|n| n == "config.json" || n.ends_with(".gguf")) {
        return refuse("a model, not an adapter: it holds no adapter_config.json", give);
    }
    if names.iter().any(|n| n == "adapter_model.safetensors" || n == "adapter_model.bin") {
        return refuse(
            "an adapter's weights without adapter_config.json",
            "fetch adapter_config.json into this folder",
        );
    }
    if let Some(inner) = names.iter().find(|n| folder.join(n).join("adapter_config.json").is_file()) {
        let found = format!("no adapter_config.json, but an adapter in {inner} within it");
        return refuse(&found, "give that folder");
    }
    refuse("it holds no adapter_config.json", give)
}

/// The weights of the adapter in a folder.
///
/// # Errors
/// A folder that holds none, or in another format.
pub(super) fn adapter_weights(folder: &Path) -> Result<PathBuf> {
    let path = folder.join("adapter_model.safetensors");
    if path.is_file() {
        return Ok(path);
    }
    let other = other_weights(folder);
    if other.is_empty() {
        return Err(Error::model(folder, "adapter_model.safetensors is missing", "copy the whole adapter again"));
    }
    let found = format!("weights in a format that is not read ({}) and no adapter_model.safetensors", listed(&other));
    let remedy = "load the adapter with PEFT and save it again with save_pretrained, which writes safetensors";
    Err(Error::model(folder, found, remedy))
}

/// A file of JSON without its byte order mark.
pub(crate) fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

/// The refusal of a file that should have been JSON: what it is instead.
pub(crate) fn not_json(path: &Path, bytes: &[u8], error: impl std::fmt::Display) -> Error {
    match by_first_bytes(bytes.trim_ascii_start()) {
        Some((what, remedy)) => Error::model(path, what, remedy),
        None => Error::model(path, format!("not valid JSON ({error})"), "fetch the file again"),
    }
}
