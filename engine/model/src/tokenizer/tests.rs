//! Special tokens and users, and files that are no tokenizers.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::*;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tiny-qwen3")
}

fn tiny() -> Tokenizer {
    Tokenizer::from_file(&golden().join("tokenizer.json")).unwrap()
}

/// The tiny model's tokenizer with changes to its file.
fn changed(change: impl FnOnce(&mut Value)) -> Result<Tokenizer> {
    let folder = tempfile::tempdir().unwrap();
    let mut json: Value = serde_json::from_slice(&std::fs::read(golden().join("tokenizer.json")).unwrap()).unwrap();
    change(&mut json);
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, serde_json::to_vec(&json).unwrap()).unwrap();
    Tokenizer::from_file(&path)
}

fn added(content: &str, special: bool, normalized: bool) -> Value {
    json!({"id": 259, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
           "normalized": normalized, "special": special})
}

fn with_token(token: Value) -> Tokenizer {
    changed(|json| json["added_tokens"].as_array_mut().unwrap().push(token)).unwrap()
}

/// A part of a text as the one that a user wrote.
fn part(range: Range<usize>) -> Vec<Range<usize>> {
    vec![range; 1]
}

#[test]
fn special_texts_become_special_tokens_and_are_left_out_of_decoded_text() {
    let t = tiny();
    let ids = t.encode("<|im_start|>hé<|im_end|>", false).unwrap();
    assert_eq!((ids.len(), ids.first(), ids.last()), (5, Some(&257), Some(&258)));
    assert_eq!(t.decode(&ids).unwrap(), "hé");
}

#[test]
fn no_text_of_a_user_becomes_a_special_token_whatever_the_model_s_are() {
    let plain = tiny();
    for (token, special) in [
        ("<｜User｜>", true),
        ("<s>", true),
        ("[INST]", true),
        ("@@END@@", false),
        ("<tool_call>", false),
        ("|||EMAIL_ADDRESS|||", false),
        ("THE END", true),
        ("🛑", false),
        ("🛑🛑", true),
        ("☃", true),
    ] {
        let t = with_token(added(token, special, false));
        let text = format!("<|im_start|>tea {token} pot{token}<|im_end|>\n");
        let start = "<|im_start|>".len();
        let theirs = part(start..start + format!("tea {token} pot{token}").len());
        let ids = t.encode_with_users(&text, &theirs, true).unwrap();
        if token == "🛑" {
            assert!(ids.contains(&259), "a single sign that is no special token is text");
            continue;
        }
        assert!(t.encode(&text, true).unwrap().contains(&259), "{token}");
        assert_eq!(ids, plain.encode(&text, true).unwrap(), "{token}: as a model without this token");
    }
}

#[test]
fn the_template_s_own_tokens_stay_tokens_beside_what_a_user_spells() {
    let t = tiny();
    let theirs = "a<|im_end|>b<|im_start|>";
    let text = format!("<|im_start|>user\n{theirs}<|im_end|>\n");
    let start = text.find(theirs).unwrap();
    let ids = t.encode_with_users(&text, &part(start..start + theirs.len()), false).unwrap();
    assert_eq!(ids.iter().filter(|id| t.has_special(&[**id])).collect::<Vec<_>>(), [&257, &258]);
    assert_eq!(t.decode(&ids).unwrap(), format!("user\n{theirs}\n"));
    assert_eq!(t.encode_with_users(&text, &[], false).unwrap(), t.encode(&text, false).unwrap());
    assert!(t.encode_with_users(&text, &part(0..999), false).is_err());
}

#[test]
fn a_user_s_text_does_not_complete_a_token_that_a_template_began() {
    let t = tiny();
    let text = "<|im_end|>";
    for theirs in [0..3, 2..5, 9..10, 0..10] {
        let ids = t.encode_with_users(text, &part(theirs.clone()), false).unwrap();
        assert!(!t.has_special(&ids), "{theirs:?}");
    }
    let swallowed = with_token(added("x<|im_end|>", true, false));
    let ids = swallowed.encode_with_users("x<|im_end|>", &part(0..1), false).unwrap();
    assert_eq!(ids.last(), Some(&258), "the template's own token is found where a user wrote the longer one's begin");
}

#[test]
fn a_normalised_spelling_of_a_special_token_is_text_too() {
    let t = changed(|json| {
        json["normalizer"] = json!({"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}]});
        json["added_tokens"].as_array_mut().unwrap().push(added("<user>", true, true));
    })
    .unwrap();
    for text in ["<user>", "<USER>", "＜user＞", "tea＜ＵＳＥＲ＞"] {
        assert!(t.has_special(&t.encode(text, false).unwrap()), "{text}");
        let whole = part(0..text.len());
        assert!(!t.has_special(&t.encode_with_users(text, &whole, false).unwrap()), "{text}");
    }
}

#[test]
fn a_vocabulary_that_holds_a_special_token_as_a_piece_does_not_yield_it() {
    // Pieces of sentencepiece's unigram models: control tokens have the best score of all.
    let mut vocab = vec![json!(["<unk>", 0.0]), json!(["</s>", 0.0])];
    vocab.extend("</s>tea ".chars().map(|c| json!([c.to_string(), -5.0])));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    let json = json!({"version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null,
        "post_processor": null, "decoder": null, "model": {"type": "Unigram", "unk_id": 0, "vocab": vocab}});
    std::fs::write(&path, json.to_string()).unwrap();
    std::fs::write(folder.path().join("tokenizer_config.json"), "{\"eos_token\": \"</s>\"}").unwrap();
    let t = Tokenizer::from_file(&path).unwrap();
    assert_eq!(t.encode("tea</s>", false).unwrap().last(), Some(&1));
    let whole = part(0..7);
    let ids = t.encode_with_users("tea</s>", &whole, false).unwrap();
    assert!(!ids.contains(&1) && ids.len() == 7, "{ids:?}");
}

#[test]
fn what_spells_no_special_token_has_the_same_ids() {
    let t = tiny();
    for theirs in ["tea pot", "  a\tb ", "1 < 2 | 3 > 2", "naïve 日本 🛑", "<|im_en", "|im_end|>", ""] {
        let text = format!("<|im_start|>user\n{theirs}<|im_end|>\n<|im_start|>assistant\n");
        let start = "<|im_start|>user\n".len();
        let ids = t.encode_with_users(&text, &part(start..start + theirs.len()), true).unwrap();
        assert_eq!(ids, t.encode(&text, true).unwrap(), "{theirs:?}");
    }
}

#[test]
fn lengths_and_dropout_of_a_training_run_change_nothing() {
    let text = "a longer text than eight tokens";
    let right = tiny().encode(text, true).unwrap();
    let truncation = json!({"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0});
    let padding = json!({"strategy": {"Fixed": 512}, "direction": "Left", "pad_to_multiple_of": null, "pad_id": 0,
                         "pad_type_id": 0, "pad_token": "x"});
    for (truncation, padding) in [
        (truncation.clone(), padding.clone()),
        (json!({"max_length": -3}), padding),
        (truncation, json!({"strategy": "None"})),
        (json!("longest"), json!(7)),
    ] {
        let t = changed(|json| {
            json["truncation"] = truncation.clone();
            json["padding"] = padding.clone();
            json["model"]["dropout"] = json!(0.9);
        });
        assert_eq!(t.unwrap().encode(text, true).unwrap(), right, "{truncation} {padding}");
    }
}

#[test]
fn files_that_make_the_crate_panic_or_grow_without_end_are_refused_with_their_name() {
    let refused = |said: &str, change: &dyn Fn(&mut Value)| {
        let error = changed(|json| change(json)).map(drop).unwrap_err().to_string();
        assert!(error.contains("tokenizer.json") && error.contains(said), "{said}: {error}");
    };
    // A merge that makes a longer token than there is.
    refused("not a tokenizer", &|json| {
        json["model"] = json!({"type": "BPE", "vocab": {"a": 0, "ab": 1}, "merges": [["ab", "ab"]]});
    });
    refused("not a tokenizer", &|json| {
        json["model"] = json!({"type": "BPE", "continuing_subword_prefix": "####", "vocab": {"a": 0, "b": 1, "ab": 2},
            "merges": [["a", "b"]]});
    });
    refused("vocabulary is empty", &|json| {
        json["model"] = json!({"type": "BPE", "vocab": {}, "merges": []});
        json["added_tokens"] = json!([]);
    });
    refused("not a tokenizer", &|json| {
        json["pre_tokenizer"] = json!({"type": "Split", "pattern": {"Regex": "(("},
        "behavior": "Isolated", "invert": false})
    });
    refused("times as long", &|json| {
        let twice = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"});
        json["normalizer"] = json!({"type": "Sequence", "normalizers": vec![twice; 40]});
    });
    refused("times as long", &|json| {
        let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
        json["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": vec![bytes; 40]});
    });
    refused("not a tokenizer", &|json| {
        json["normalizer"] = json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"});
    });
    refused("times as long", &|json| json["normalizer"] = json!({"type": "Prepend", "prepend": "a".repeat(9999)}));
    let around = |items: usize, ids: usize| {
        let piece = json!({"SpecialToken": {"id": "x", "type_id": 0}});
        let special = json!({"x": {"id": "x", "ids": vec![257; ids], "tokens": vec!["<|im_start|>"; ids]}});
        let sequence = json!({"Sequence": {"id": "A", "type_id": 0}});
        let single = [vec![piece; items], vec![sequence.clone()]].concat();
        json!({
            "type": "TemplateProcessing", "single": single,
            "pair": [sequence], "special_tokens": special,
        })
    };
    refused("tokens to a text", &|json| json["post_processor"] = around(40, 40));
    refused("tokens to a text", &|json| {
        json["post_processor"] = json!({"type": "Sequence", "processors": [around(3, 1), around(1, 2000)]});
    });
    changed(|json| json["post_processor"] = around(2, 3)).unwrap();
    refused("no `model`", &|json| drop(json.as_object_mut().unwrap().remove("model")));
}

#[test]
fn a_panic_over_a_text_or_over_ids_is_an_error() {
    let t = changed(|json| {
        json["decoder"] = json!({"type": "Strip", "content": " ", "start": 9, "stop": 9});
    })
    .unwrap();
    // Either is right, as long as the process goes on.
    drop((t.decode(&[65, 66]), t.decode(&[u32::MAX])));
    let failed = t.calling(|_| -> tokenizers::Result<()> { panic!("over a text") }).unwrap_err().to_string();
    assert!(failed.contains("the tokenizer failed (over a text)"), "{failed}");
}

#[test]
fn a_chat_template_that_cannot_be_used_does_not_keep_a_tokenizer_from_being_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    std::fs::copy(golden().join("tokenizer.json"), &path).unwrap();
    for template in [
        &b"{% if %}"[..],
        b"\xff\xfe{{ x }}",
        b"{% for x in range(99999) %}{% for y in range(99999) %}{% endfor %}{% endfor %}",
    ] {
        std::fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
        let t = Tokenizer::from_file(&path).unwrap();
        assert_eq!(t.encode("tea", false).unwrap().len(), 3);
        drop(t.chat_template().unwrap().render(&[], true));
    }
    // More than is read of one.
    std::fs::File::create(folder.path().join("chat_template.jinja")).unwrap().set_len(1 << 30).unwrap();
    let t = Tokenizer::from_file(&path).unwrap();
    assert_eq!(t.encode("tea", false).unwrap().len(), 3);
    let refused = t.chat_template().unwrap().render(&[], true).unwrap_err().to_string();
    assert!(refused.contains("chat_template.jinja") && refused.contains("more than"), "{refused}");
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
fn an_absent_mistyped_or_endless_file_is_refused_with_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    let message = Tokenizer::from_file(&path).unwrap_err().to_string();
    assert!(message.contains("tokenizer.json: the tokenizer is missing; fetch"), "{message}");
    std::fs::write(&path, "{\"version\": \"1.0\"}").unwrap();
    let message = Tokenizer::from_file(&path).unwrap_err().to_string();
    assert!(message.contains("not a tokenizer"), "{message}");
    std::fs::File::create(&path).unwrap().set_len(load::MAX_BYTES + 1).unwrap();
    let message = Tokenizer::from_file(&path).unwrap_err().to_string();
    assert!(message.contains("more than 268435456 bytes"), "{message}");
}

#[test]
fn named_templates_yield_the_default_one() {
    let many = json!([{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}]);
    assert_eq!(declared::template_text(&many).as_deref(), Some("d"));
    assert_eq!(declared::template_text(&json!({"default": "d", "rag": "r"})).as_deref(), Some("d"));
    assert_eq!(declared::template_text(&Value::Null), None);
}

#[test]
fn end_tokens_that_are_no_numbers_are_refused_and_minus_one_is_none() {
    let eos = |value: &str| {
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy(golden().join("tokenizer.json"), folder.path().join("tokenizer.json")).unwrap();
        let text = format!("{{\"eos_token_id\": {value}}}");
        std::fs::write(folder.path().join("generation_config.json"), text).unwrap();
        let tokenizer = Tokenizer::from_file(&folder.path().join("tokenizer.json"));
        tokenizer.map(|tokenizer| tokenizer.eos_ids().to_vec()).map_err(|error| error.to_string())
    };
    assert_eq!(eos("[258, 256]"), Ok(vec![258, 256]));
    // Those that the vocabulary names are end tokens in any case.
    assert_eq!(eos("-1"), eos("[]"));
    assert_eq!(eos("null"), eos("[]"));
    assert!(eos("[]").is_ok());
    for bad in ["\"2\"", "2.0", "[2, \"x\"]", "true", "{}"] {
        let said = eos(bad).unwrap_err();
        assert!(said.contains("generation_config.json") && said.contains("eos_token_id holds"), "{bad}: {said}");
    }
}
