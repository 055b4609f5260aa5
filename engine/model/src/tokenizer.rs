//! Text to token ids and back, and what else comes with a tokenizer: end tokens and the chat template.
//!
//! A tokenizer's file is a stranger's: it is bounded before it is read, and a panic of the `tokenizers` crate over it is
//! an error. So is one over a text.

mod declared;
mod load;
mod markup;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::chat::ChatTemplate;
use markup::Markup;
use querywright_types::{Error, Result, quietly};

pub(super) use declared::Declared;

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
    markup: Markup,
    chat_template: Option<ChatTemplate>,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`, and beside it `tokenizer_config.json`, `generation_config.json`, `config.json` and
    /// `chat_template.jinja` where they exist. A chat template that cannot be used is reported when it is rendered.
    ///
    /// # Errors
    /// [`Error::Model`] when the file is absent or cannot be read.
    pub fn from_file(path: &Path) -> Result<Self> {
        if !path.is_file() {
            return Err(Error::model(
                path,
                "the tokenizer is missing",
                "fetch tokenizer.json into the model's folder; other formats (tokenizer.model, vocab.txt) are not read",
            ));
        }
        let tokenizer = load::tokenizer(path)?;
        let declared = Declared::beside(path, &tokenizer)?;
        Self::new(path, tokenizer, declared)
    }

    pub(super) fn new(path: &Path, tokenizer: tokenizers::Tokenizer, declared: Declared) -> Result<Self> {
        let failed = |e: String| Error::model(path, e, "fetch the tokenizer again");
        quietly(|| Self::assemble(path, tokenizer, declared)).unwrap_or_else(Err).map_err(failed)
    }

    fn assemble(
        path: &Path,
        mut tokenizer: tokenizers::Tokenizer,
        declared: Declared,
    ) -> std::result::Result<Self, String> {
        load::neutralise(&mut tokenizer)?;
        let size = tokenizer.get_vocab(true).values().max().map_or(0, |id| *id as usize + 1);
        let added = tokenizer.get_added_tokens_decoder();
        let mut eos = declared.eos;
        let ends = END_TEXTS.iter().filter_map(|text| tokenizer.token_to_id(text));
        eos.extend(ends.filter(|id| added.get(id).is_some_and(|t| t.special)));
        let mut seen = std::collections::HashSet::new();
        eos.retain(|id| seen.insert(*id));
        let text = |id: Option<u32>| id.and_then(|id| tokenizer.id_to_token(id)).unwrap_or_default();
        let pad = declared.pad.or(eos.first().copied());
        let chat_template = declared
            .chat_template
            .map(|source| ChatTemplate::kept(source, &text(declared.bos), &text(eos.first().copied()), &text(pad)));
        let markup = Markup::of(&tokenizer, declared.bos.iter().chain(&eos).copied());
        let path = path.to_path_buf();
        Ok(Self(Arc::new(Inner { path, tokenizer, size, bos: declared.bos, eos, pad, markup, chat_template })))
    }

    /// The ids of a text. Texts of special tokens within it become those tokens: for the texts of templates, not for those
    /// of users. `add_special` adds what the model expects around a text (a first token, in some models); leave it off for
    /// rendered chat templates.
    ///
    /// # Errors
    /// [`Error::Model`] when the tokenizer cannot encode the text.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        let encoding = self.calling(|tokenizer| tokenizer.encode_fast(text, add_special))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The ids of a text in which users wrote the parts `theirs`, in bytes and in order. As [`encode`](Self::encode), but
    /// no part of theirs becomes a special token or completes one: it is encoded as any other text. Where they spell no
    /// special token the ids are those of [`encode`](Self::encode).
    ///
    /// # Errors
    /// Those of [`encode`](Self::encode), and [`Error::Bug`] when `theirs` does not lie within the text.
    pub fn encode_with_users(&self, text: &str, theirs: &[Range<usize>], add_special: bool) -> Result<Vec<u32>> {
        let ids = self.encode(text, add_special)?;
        if theirs.is_empty() || !self.has_special(&ids) {
            return Ok(ids);
        }
        if theirs.iter().any(|part| text.get(part.clone()).is_none()) {
            return Err(Error::bug("tokenizer", "a user's part does not lie within the text"));
        }
        let markup = &self.0.markup;
        if !self.calling(|tokenizer| markup.is_within(tokenizer, text, theirs))? {
            return Ok(ids);
        }
        self.calling(|tokenizer| markup.encode(tokenizer, text, theirs, add_special))
    }

    /// Whether one of the ids is a special token, or another that structures prompts.
    pub fn has_special(&self, ids: &[u32]) -> bool {
        ids.iter().any(|id| self.0.markup.holds(*id))
    }

    /// The text of some ids; special tokens are left out, bytes that are no UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// [`Error::Model`] when the tokenizer cannot decode them.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.calling(|tokenizer| tokenizer.decode(ids, true))
    }

    /// The tokens that end a completion, the model's own first; may be empty.
    pub fn eos_ids(&self) -> &[u32] {
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

    /// The text of a token as the vocabulary spells it.
    pub(super) fn token(&self, id: u32) -> Option<String> {
        self.0.tokenizer.id_to_token(id)
    }

    /// The tokenizer in the format of `tokenizer.json`.
    ///
    /// # Errors
    /// [`Error::Model`] when the crate cannot write it.
    pub(super) fn to_json(&self) -> Result<String> {
        self.calling(|tokenizer| tokenizer.to_string(true))
    }

    /// The `tokenizers` crate's own.
    pub(super) fn inner(&self) -> &tokenizers::Tokenizer {
        &self.0.tokenizer
    }

    /// Calls the crate, which may panic where a file makes promises that it does not keep.
    fn calling<T>(&self, call: impl FnOnce(&tokenizers::Tokenizer) -> tokenizers::Result<T>) -> Result<T> {
        let done = quietly(|| call(&self.0.tokenizer).map_err(|e| e.to_string())).unwrap_or_else(Err);
        done.map_err(|e| Error::model(&self.0.path, format!("the tokenizer failed ({e})"), "fetch the tokenizer again"))
    }
}

#[cfg(test)]
mod tests;
