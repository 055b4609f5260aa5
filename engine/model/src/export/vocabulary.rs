//! The tokenizer of a Hugging Face folder as the metadata of a GGUF file.
//!
//! GGUF names a splitter in place of describing it. Which one it is comes out by what it does: the texts below are cut
//! by each splitter that is known, and the one that yields the model's own tokens is named. llama.cpp's converter does
//! the same with a digest of one text.

use tokenizers::ModelWrapper;

use crate::gguf::{CONTROL, NAMES, NORMAL, Numbers, SPLITTERS, UNUSED, USER_DEFINED, Value, Vocabulary};
use crate::source::ModelSource;
use crate::tokenizer::Tokenizer;
use querywright_types::{Error, Result};

/// Texts on which the splitters differ: numbers, contractions, spaces, line ends, marks, other scripts, composed letters.
const TEXTS: [&str; 6] = [
    "I'm 7, she's 42; they'LL need 365 or 1234567 of v2.0b for $3.50!!",
    "  two  spaces\tand\n\n\n lines \r\n   end   ",
    "café cafe\u{301} Ωμέγα привет 東京タワー 안녕하세요 ไทย हिन्दी",
    "a_b-c/d\\e (f)[g]{h} <i> #j @k ~~ ... \u{2014} \u{201c}quoted\u{201d} \u{1f680}\u{1f44d}\u{1f3fd}",
    "HTTPServer2 don't DON'T x''''y =====  ++",
    "3 33 333 3333 33333 333333",
];

/// The keys of a tokenizer, without the `tokenizer.` before them.
pub(super) fn described(source: &ModelSource) -> Result<Vec<(&'static str, Value)>> {
    let tokenizer = source.tokenizer()?;
    let refused = |found: String| {
        Error::model(source.path(), found, "write it as safetensors (--format safetensors), which keeps any tokenizer")
    };
    let (tokens, kinds) = tokens(&tokenizer, source.config().vocab_size);
    let merges = merges(&tokenizer).map_err(&refused)?;
    let first = first(&tokenizer)?.map_err(&refused)?;
    let parts = |pre: &'static str| Vocabulary {
        tokens: tokens.iter().map(String::as_str).collect(),
        kinds: kinds.clone(),
        merges: merges.iter().map(String::as_str).collect(),
        pre,
        first,
    };
    let Some(pre) = NAMES.into_iter().find(|pre| cuts_alike(&parts(pre), tokenizer.inner())) else {
        let found =
            format!("no splitter that GGUF has a name for here ({SPLITTERS}) yields the tokens of its tokenizer");
        return Err(refused(found));
    };
    let text = |text: &str| Value::Text(text.to_owned());
    let mut all = vec![
        ("ggml.model", text("gpt2")),
        ("ggml.pre", text(pre)),
        ("ggml.token_type", Value::Numbers(Numbers::signed(kinds.iter().map(|kind| *kind as i32)))),
        ("ggml.add_bos_token", Value::Bool(first.is_some())),
        ("ggml.tokens", Value::Texts(tokens)),
        ("ggml.merges", Value::Texts(merges)),
    ];
    let eos = tokenizer.eos_ids();
    for (key, id) in [
        ("ggml.bos_token_id", tokenizer.bos_id()),
        ("ggml.eos_token_id", eos.first().copied()),
        ("ggml.eot_token_id", eos.get(1).copied()),
        ("ggml.eom_token_id", eos.get(2).copied()),
        ("ggml.padding_token_id", tokenizer.pad_id()),
    ] {
        all.extend(id.map(|id| (key, Value::Unsigned(id.into()))));
    }
    all.extend(tokenizer.chat_template().and_then(|template| Some(("chat_template", text(template.source()?)))));
    Ok(all)
}

/// All tokens with their kinds, one for each row of the embedding: rows without a token get a name that no text has.
fn tokens(tokenizer: &Tokenizer, rows: usize) -> (Vec<String>, Vec<u64>) {
    let added = tokenizer.inner().get_added_tokens_decoder();
    let rows = (0..rows as u32).map(|id| match (tokenizer.token(id), added.get(&id)) {
        (Some(token), Some(added)) if added.special => (token, CONTROL),
        (Some(token), Some(_)) => (token, USER_DEFINED),
        (Some(token), None) => (token, NORMAL),
        (None, _) => (format!("[PAD{id}]"), UNUSED),
    });
    rows.unzip()
}

/// The merges, best first, each as two tokens with a space between.
fn merges(tokenizer: &Tokenizer) -> std::result::Result<Vec<String>, String> {
    let ModelWrapper::BPE(model) = tokenizer.inner().get_model() else {
        return Err("its tokenizer is no byte-pair encoding".to_owned());
    };
    let described = serde_json::to_value(model).map_err(|e| e.to_string())?;
    let merges = described.get("merges").and_then(|merges| merges.as_array()).cloned().unwrap_or_default();
    let written = |merge: &serde_json::Value| match merge {
        serde_json::Value::String(pair) => Some(pair.clone()),
        serde_json::Value::Array(pair) => match pair.as_slice() {
            [a, b] => Some(format!("{} {}", a.as_str()?, b.as_str()?)),
            _ => None,
        },
        _ => None,
    };
    let is_pair = |merge: &String| merge.matches(' ').count() == 1;
    merges
        .iter()
        .map(|merge| written(merge).filter(is_pair))
        .collect::<Option<_>>()
        .ok_or_else(|| "a merge of its tokenizer is no pair of tokens without spaces".to_owned())
}

/// The token that the tokenizer puts before each text; what it puts behind one has no key.
fn first(tokenizer: &Tokenizer) -> Result<std::result::Result<Option<u32>, String>> {
    let (with, without) = (tokenizer.encode("a", true)?, tokenizer.encode("a", false)?);
    Ok(match with.strip_suffix(without.as_slice()) {
        Some([]) => Ok(None),
        Some([one]) => Ok(Some(*one)),
        _ => Err("its tokenizer puts other tokens around a text than one before it".to_owned()),
    })
}

/// Whether a vocabulary with a splitter yields the tokens of a tokenizer.
fn cuts_alike(parts: &Vocabulary<'_>, own: &tokenizers::Tokenizer) -> bool {
    let ids = |tokenizer: &tokenizers::Tokenizer, text: &str| {
        tokenizer.encode_fast(text, false).ok().map(|encoding| encoding.get_ids().to_vec())
    };
    let Ok(built) = parts.build() else { return false };
    TEXTS.iter().all(|text| ids(&built, text).is_some_and(|built| Some(built) == ids(own, text)))
}
