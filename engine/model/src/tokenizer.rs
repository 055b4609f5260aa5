//! Text to token ids and back, and what else comes with a tokenizer: end tokens and the chat template.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::chat::ChatTemplate;
use querywright_types::{Error, Result};

/// Special tokens with these texts end a completion in every model that has them, whether it declares them or not:
/// base models stop with one and their instruction-tuned children with another.
const END_TEXTS: [&str; 7] =
    ["<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|end|>", "</s>"];

/// A model's tokenizer. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tokenizer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    tokenizer: tokenizers::Tokenizer,
    size: usize,
    bos: Option<u32>,
    eos: Vec<u32>,
    pad: Option<u32>,
    chat_template: Option<ChatTemplate>,
}

/// What a model declares beside the vocabulary.
#[derive(Debug, Default)]
pub(super) struct Declared {
    pub(super) bos: Option<u32>,
    /// End tokens; the first is the one that templates know as `eos_token`.
    pub(super) eos: Vec<u32>,
    pub(super) pad: Option<u32>,
    pub(super) chat_template: Option<String>,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`, and beside it `tokenizer_config.json`, `generation_config.json`, `config.json` and
    /// `chat_template.jinja` where they exist.
    ///
    /// # Errors
    /// [`Error::Model`] when the file is absent or cannot be read, or the chat template does not parse.
    pub fn from_file(path: &Path) -> Result<Self> {
        if !path.is_file() {
            return Err(Error::model(
                path,
                "the tokenizer is missing",
                "fetch tokenizer.json into the model's folder; other formats (tokenizer.model, vocab.txt) are not read",
            ));
        }
        let bytes = std::fs::read(path).map_err(|e| Error::read(path, e))?;
        let tokenizer = tokenizers::Tokenizer::from_bytes(bytes)
            .map_err(|e| Error::model(path, format!("not a tokenizer ({e})"), "fetch tokenizer.json again"))?;
        let declared = declared_beside(path, &tokenizer)?;
        Self::new(path, tokenizer, declared)
    }

    pub(super) fn new(path: &Path, mut tokenizer: tokenizers::Tokenizer, declared: Declared) -> Result<Self> {
        // A file may carry the lengths of a training run, but the tokenizer must not cut prompts.
        let untruncated = tokenizer.with_truncation(None).map(|_| ());
        untruncated.map_err(|e| Error::model(path, e.to_string(), "fetch the tokenizer again"))?;
        tokenizer.with_padding(None);
        let size = tokenizer.get_vocab(true).values().max().map_or(0, |id| *id as usize + 1);
        let added = tokenizer.get_added_tokens_decoder();
        let mut eos = declared.eos;
        let ends = END_TEXTS.iter().filter_map(|text| tokenizer.token_to_id(text));
        eos.extend(ends.filter(|id| added.get(id).is_some_and(|t| t.special)));
        let mut seen = std::collections::HashSet::new();
        eos.retain(|id| seen.insert(*id));
        let text = |id: Option<u32>| id.and_then(|id| tokenizer.id_to_token(id)).unwrap_or_default();
        let chat_template = match &declared.chat_template {
            Some(source) => Some(
                ChatTemplate::new(source, &text(declared.bos), &text(eos.first().copied()))
                    .map_err(|e| Error::model(path, e.to_string(), "choose another build of the model"))?,
            ),
            None => None,
        };
        let pad = declared.pad.or(eos.first().copied());
        let path = path.to_path_buf();
        Ok(Self(Arc::new(Inner { path, tokenizer, size, bos: declared.bos, eos, pad, chat_template })))
    }

    /// The ids of a text. Texts of special tokens within it become those tokens. `add_special` adds what the model
    /// expects around a text (a first token, in some models); leave it off for rendered chat templates.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        let encoding = self.0.tokenizer.encode_fast(text, add_special);
        encoding.map(|e| e.get_ids().to_vec()).map_err(|e| self.failed(e))
    }

    /// The text of some ids; special tokens are left out, bytes that are no UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.0.tokenizer.decode(ids, true).map_err(|e| self.failed(e))
    }

    /// The tokens that end a completion, the model's own first; may be empty.
    pub(super) fn eos_ids(&self) -> &[u32] {
        &self.0.eos
    }

    /// The token that begins a text, in models that have one.
    pub fn bos_id(&self) -> Option<u32> {
        self.0.bos
    }

    /// The token for padding; an end token where the model names none.
    pub fn pad_id(&self) -> Option<u32> {
        self.0.pad
    }

    /// The highest id plus one. An embedding may have more rows.
    pub fn vocab_size(&self) -> usize {
        self.0.size
    }

    /// The model's chat template, if it has one.
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.0.chat_template.as_ref()
    }

    fn failed(&self, error: impl std::fmt::Display) -> Error {
        Error::model(&self.0.path, format!("the tokenizer failed ({error})"), "fetch the tokenizer again")
    }
}

/// What the files beside a `tokenizer.json` declare.
fn declared_beside(path: &Path, tokenizer: &tokenizers::Tokenizer) -> Result<Declared> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let settings = read_json(&folder.join("tokenizer_config.json"))?;
    // A token is written as its text, or as an object that holds it.
    let token = |key: &str| {
        let value = settings.get(key)?;
        tokenizer.token_to_id(value.as_str().or_else(|| value.get("content")?.as_str())?)
    };
    let mut eos: Vec<u32> = token("eos_token").into_iter().collect();
    for file in ["generation_config.json", "config.json"] {
        let json = read_json(&folder.join(file))?;
        let ids = match json.get("eos_token_id") {
            Some(Value::Array(ids)) => ids.as_slice(),
            Some(id) => std::slice::from_ref(id),
            None => continue,
        };
        eos.extend(ids.iter().filter_map(Value::as_u64).filter_map(|id| u32::try_from(id).ok()));
        break;
    }
    let template = folder.join("chat_template.jinja");
    let chat_template = if template.is_file() {
        Some(std::fs::read_to_string(&template).map_err(|e| Error::read(&template, e))?)
    } else {
        settings.get("chat_template").and_then(template_text)
    };
    Ok(Declared { bos: token("bos_token"), eos, pad: token("pad_token"), chat_template })
}

/// One template, or the one named "default" of several.
fn template_text(value: &Value) -> Option<String> {
    let named =
        |v: &Value| Some((v.get("name")?.as_str()? == "default").then(|| v.get("template"))??.as_str()?.to_owned());
    value.as_str().map(str::to_owned).or_else(|| value.as_array()?.iter().find_map(named))
}

/// A JSON file; null when it does not exist.
fn read_json(path: &Path) -> Result<Value> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map_err(|e| Error::model(path, format!("not valid JSON ({e})"), "fetch the file again")),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Value::Null),
        Err(e) => Err(Error::read(path, e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiny() -> Tokenizer {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/tiny-qwen3/tokenizer.json");
        Tokenizer::from_file(Path::new(path)).unwrap()
    }

    #[test]
    fn special_texts_become_special_tokens_and_are_left_out_of_decoded_text() {
        let t = tiny();
        let ids = t.encode("<|im_start|>hé<|im_end|>", false).unwrap();
        assert_eq!((ids.len(), ids.first(), ids.last()), (5, Some(&257), Some(&258)));
        assert_eq!(t.decode(&ids).unwrap(), "hé");
    }

    #[test]
    fn what_the_files_beside_it_declare_is_known() {
        let t = tiny();
        assert_eq!((t.eos_ids(), t.pad_id(), t.bos_id(), t.vocab_size()), (&[258, 256][..], Some(256), None, 259));
        let message = super::super::chat::Message::new("user", "hi");
        let text = t.chat_template().unwrap().render(&[message], true).unwrap();
        assert_eq!(text, "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n");
    }

    #[test]
    fn an_absent_or_mistyped_file_is_refused_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        let message = Tokenizer::from_file(&path).unwrap_err().to_string();
        assert!(message.contains("tokenizer.json: the tokenizer is missing; fetch"), "{message}");
        std::fs::write(&path, "{\"version\": \"1.0\"}").unwrap();
        let message = Tokenizer::from_file(&path).unwrap_err().to_string();
        assert!(message.contains("not a tokenizer"), "{message}");
    }

    #[test]
    fn named_templates_yield_the_default_one() {
        let many = serde_json::json!([{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}]);
        assert_eq!(template_text(&many).as_deref(), Some("d"));
        assert_eq!(template_text(&Value::Null), None);
    }
}
