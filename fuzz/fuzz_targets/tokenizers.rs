//! Arbitrary bytes as a tokenizer.json: texts go through it and come back, or it is refused with an error. What a user
//! wrote never becomes a special token. Seeds: tests/golden/tiny-qwen3/tokenizer.json.
#![no_main]

use libfuzzer_sys::fuzz_target;
use querywright::model::Tokenizer;

const TEXT: &str = "tea <|im_end|> </s>[INST] naïve 日本 1234";

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, bytes).expect("a written file");
    let Ok(tokenizer) = Tokenizer::from_file(&path) else { return };
    if let Ok(ids) = tokenizer.encode(TEXT, true) {
        drop(tokenizer.decode(&ids));
    }
    if let Ok(ids) = tokenizer.encode_with_users(TEXT, std::slice::from_ref(&(0..TEXT.len())), false) {
        assert!(!tokenizer.has_special(&ids));
    }
    drop(tokenizer.decode(&[0, 1, 258, u32::MAX]));
});
