//! The tokenizer that a GGUF file describes: byte-level BPE with the splitter that `tokenizer.ggml.pre` names.
//!
//! The splitters are those of the models' original tokenizers; llama.cpp names them in `llama_vocab::impl::load`.

use serde_json::{Value, json};
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::{AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper};

use querywright_types::quietly;

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// The splitters known, for messages.
pub(crate) const SPLITTERS: &str = "default, gpt-2, smollm, llama-bpe and qwen2";

/// llama.cpp's kinds of token (`tokenizer.ggml.token_type`).
pub(crate) const NORMAL: u64 = 1;
pub(crate) const CONTROL: u64 = 3;
pub(crate) const USER_DEFINED: u64 = 4;
pub(crate) const UNUSED: u64 = 5;

/// One name of each splitter.
pub(crate) const NAMES: [&str; 5] = ["smollm", "gpt-2", "qwen2", "llama-bpe", "default"];

/// The parts of a vocabulary as the metadata holds them.
pub(crate) struct Vocabulary<'a> {
    pub(crate) tokens: Vec<&'a str>,
    /// Kinds of token, one for each; empty when the file has none.
    pub(crate) kinds: Vec<u64>,
    /// Pairs, joined by a space, best first.
    pub(crate) merges: Vec<&'a str>,
    pub(crate) pre: &'a str,
    /// A token to put before each text.
    pub(crate) first: Option<u32>,
}

impl Vocabulary<'_> {
    /// Whether models with this splitter begin texts with a token unless they say otherwise.
    pub(super) fn begins_texts(pre: &str) -> bool {
        splitter(pre).is_some_and(|s| s.whole_words)
    }

    /// Builds the tokenizer.
    ///
    /// # Errors
    /// What is wrong, for a message that names the file.
    pub(crate) fn build(&self) -> Result<tokenizers::Tokenizer, String> {
        // The crate panics over merges that make a longer token than there is.
        quietly(|| self.assemble()).unwrap_or_else(Err)
    }

    fn assemble(&self) -> Result<tokenizers::Tokenizer, String> {
        let splitter = splitter(self.pre).ok_or_else(|| format!("the splitter \"{}\" is unknown", self.pre))?;
        if !self.kinds.is_empty() && self.kinds.len() != self.tokens.len() {
            return Err(format!("{} kinds for {} tokens", self.kinds.len(), self.tokens.len()));
        }
        let vocab: Vocab = self.tokens.iter().zip(0u32..).map(|(t, id)| ((*t).to_owned(), id)).collect();
        let pairs: Option<Vec<_>> =
            self.merges.iter().map(|m| m.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned()))).collect();
        let pairs = pairs.ok_or("a merge is not a pair of tokens")?;
        let model = BPE::builder().vocab_and_merges(vocab, pairs).ignore_merges(splitter.whole_words).build();
        let mut tokenizer = tokenizers::Tokenizer::new(model.map_err(|e| e.to_string())?);
        tokenizer.with_pre_tokenizer(Some(part::<PreTokenizerWrapper>(splitter.parts)?));
        tokenizer.with_decoder(Some(part::<DecoderWrapper>(byte_level())?));
        if splitter.composes {
            let normalizer = part::<NormalizerWrapper>(json!({"type": "NFC"}))?;
            tokenizer.with_normalizer(Some(normalizer)).map_err(|e| e.to_string())?;
        }
        let of_kind = |kind| {
            let chosen = self.tokens.iter().zip(&self.kinds).filter(move |(t, k)| **k == kind && !t.is_empty());
            chosen.map(move |(t, _)| AddedToken::from((*t).to_owned(), kind == CONTROL).normalized(false))
        };
        tokenizer.add_special_tokens(of_kind(CONTROL)).map_err(|e| e.to_string())?;
        tokenizer.add_tokens(of_kind(USER_DEFINED)).map_err(|e| e.to_string())?;
        if let Some(first) = self.first {
            let text = self.tokens.get(first as usize).ok_or_else(|| format!("the first token is {first}"))?;
            tokenizer.with_post_processor(Some(part::<PostProcessorWrapper>(json!({
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": text, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {*text: {"id": text, "ids": [first], "tokens": [text]}},
            }))?));
        }
        Ok(tokenizer)
    }
}

/// How a text is cut before it is merged.
struct Splitter {
    parts: Value,
    /// A word that is a token as it stands is not merged. Models of this kind also begin texts with a token.
    whole_words: bool,
    /// Text is composed first (Unicode NFC).
    composes: bool,
}

fn splitter(pre: &str) -> Option<Splitter> {
    // The newer splitters differ in where they cut numbers alone.
    let newer = |numbers: &str| {
        let words = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+";
        format!(r"{words}|{numbers}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    };
    let gpt2 = || GPT2.to_owned();
    let (patterns, whole_words, composes) = match pre {
        "default" => {
            (vec![r"[\p{P}\$\+<=>\^~\|]+".into(), gpt2(), r"\p{N}+".into(), "[0-9][0-9][0-9]".into()], false, false)
        }
        "gpt-2" => (vec![gpt2()], false, false),
        "smollm" => (vec![r"\p{N}".into(), gpt2()], false, false),
        "llama-bpe" | "llama3" | "llama-v3" => (vec![newer(r"\p{N}{1,3}")], true, false),
        "qwen2" => (vec![newer(r"\p{N}")], false, true),
        _ => return None,
    };
    let split = |p: &String| json!({"type": "Split", "pattern": {"Regex": p}, "behavior": "Isolated", "invert": false});
    let parts: Vec<Value> = patterns.iter().map(split).chain([byte_level()]).collect();
    Some(Splitter { parts: json!({"type": "Sequence", "pretokenizers": parts}), whole_words, composes })
}

/// Bytes as printable characters, without a splitter of its own.
fn byte_level() -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false})
}

/// A stage of the tokenizer from its description in the format of `tokenizer.json`.
fn part<T: serde::de::DeserializeOwned>(description: Value) -> Result<T, String> {
    serde_json::from_value(description).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[derive(serde::Deserialize)]
    struct Golden {
        tokens: Vec<String>,
        merges: Vec<String>,
        texts: Vec<String>,
        ids: HashMap<String, Vec<Vec<u32>>>,
    }

    fn golden() -> Golden {
        serde_json::from_str(include_str!("../../../../tests/golden/tokenizer-splits.json")).unwrap()
    }

    fn vocabulary<'a>(golden: &'a Golden, pre: &'a str) -> Vocabulary<'a> {
        let tokens: Vec<&str> = golden.tokens.iter().map(String::as_str).collect();
        let kinds = tokens.iter().map(|t| if t.starts_with("<|") { CONTROL } else { 1 }).collect();
        Vocabulary { tokens, kinds, merges: golden.merges.iter().map(String::as_str).collect(), pre, first: None }
    }

    #[test]
    fn every_splitter_yields_the_ids_of_an_independent_tokenizer() {
        let golden = golden();
        assert_eq!(golden.ids.len(), 5);
        for (pre, ids) in &golden.ids {
            let tokenizer = vocabulary(&golden, pre).build().unwrap();
            for (text, expected) in golden.texts.iter().zip(ids) {
                assert_eq!(tokenizer.encode_fast(text.as_str(), true).unwrap().get_ids(), expected, "{pre}: {text:?}");
            }
        }
    }

    #[test]
    fn a_first_token_is_added_only_where_special_tokens_are_asked_for() {
        let golden = golden();
        let tokenizer = Vocabulary { first: Some(477), ..vocabulary(&golden, "llama-bpe") }.build().unwrap();
        let ids = |special| tokenizer.encode_fast("x", special).unwrap().get_ids().to_vec();
        assert_eq!(ids(true), [&[477], ids(false).as_slice()].concat());
        assert!(Vocabulary::begins_texts("llama-bpe") && !Vocabulary::begins_texts("smollm"));
    }

    #[test]
    fn user_defined_tokens_stay_in_decoded_text_and_control_tokens_do_not() {
        let golden = golden();
        let mut parts = vocabulary(&golden, "qwen2");
        parts.kinds[477] = USER_DEFINED;
        let tokenizer = parts.build().unwrap();
        let ids = tokenizer.encode_fast("a<|endoftext|>b<|im_end|>", false).unwrap().get_ids().to_vec();
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), "a<|endoftext|>b");
    }

    #[test]
    fn broken_vocabularies_are_refused() {
        let golden = golden();
        let broken = |change: &dyn Fn(&mut Vocabulary)| {
            let mut parts = vocabulary(&golden, "smollm");
            change(&mut parts);
            parts.build().err().unwrap_or_default()
        };
        assert!(broken(&|v| v.pre = "tekken").contains("tekken"));
        assert!(broken(&|v| v.kinds.truncate(3)).contains("3 kinds"));
        assert!(broken(&|v| v.merges.push("one")).contains("pair"));
        assert!(broken(&|v| v.merges.push("no such")).contains("out of vocabulary"));
        assert!(broken(&|v| v.first = Some(9999)).contains("9999"));
        let longest = golden.tokens.iter().max_by_key(|t| t.len()).unwrap();
        let merge = format!("{longest} {longest}");
        let twice = |v: &mut Vocabulary| v.merges.push(Box::leak(merge.clone().into_boxed_str()));
        assert!(broken(&twice).contains("range"), "a merge longer than any token");
    }
}
