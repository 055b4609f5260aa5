//! Arbitrary bytes as a GGUF file: it is read, with its tokenizer and its weights, or refused with an error. Seeds:
//! tests/golden/*.gguf without their first eight bytes.
#![no_main]

use std::io::Write;

use libfuzzer_sys::fuzz_target;
use querywright::model::{Decoder, DeviceChoice, ModelSource, Precision};

fuzz_target!(|bytes: &[u8]| {
    let mut file = tempfile::Builder::new().suffix(".gguf").tempfile().expect("a file");
    file.write_all(b"GGUF\x03\0\0\0").and_then(|()| file.write_all(bytes)).expect("a written file");
    if let Ok(source) = ModelSource::open(file.path()) {
        drop((source.tokenizer(), source.digest(), source.summary()));
        drop(Decoder::load_on(DeviceChoice::Cpu, &source, Precision::Auto, &()));
    }
});
