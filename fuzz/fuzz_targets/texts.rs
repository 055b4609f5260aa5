//! Arbitrary text as a plugin's manifest and as a run's configuration, arbitrary bytes as a GGUF file. Each is read or
//! refused with an error.
#![no_main]

use std::io::Write;

use libfuzzer_sys::fuzz_target;
use querywright::model::ModelSource;
use querywright::plugin::Manifest;
use querywright::train::TrainConfig;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes) {
        drop(Manifest::parse(text, "plugin.toml"));
        if let Ok(config) = TrainConfig::parse(text, &[], "run.toml") {
            drop(config.validate());
        }
    }
    let mut file = tempfile::Builder::new().suffix(".gguf").tempfile().expect("a file");
    file.write_all(b"GGUF\x03\0\0\0").and_then(|()| file.write_all(bytes)).expect("a written file");
    if let Ok(source) = ModelSource::open(file.path()) {
        drop((source.tokenizer(), source.digest()));
    }
});
