//! Arbitrary bytes as the weights of a Hugging Face folder, and as its configuration. Seeds: the files of
//! tests/golden/tiny-*.
#![no_main]

use libfuzzer_sys::fuzz_target;
use querywright::model::{Decoder, DeviceChoice, ModelSource, Precision};

const CONFIG: &[u8] = include_bytes!("../../tests/golden/tiny-qwen3/config.json");
const WEIGHTS: &[u8] = include_bytes!("../../tests/golden/tiny-qwen3/model.safetensors");

fuzz_target!(|bytes: &[u8]| {
    // A configuration is an object; what begins otherwise is taken as weights, whose header has its length first.
    let (config, weights) = if bytes.first() == Some(&b'{') { (bytes, WEIGHTS) } else { (CONFIG, bytes) };
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("config.json"), config).expect("a written file");
    std::fs::write(folder.path().join("model.safetensors"), weights).expect("a written file");
    if let Ok(source) = ModelSource::open(folder.path()) {
        drop((source.digest(), source.summary()));
        // A configuration alone may ask for a decoder of any size.
        if config == CONFIG {
            drop(Decoder::load_on(DeviceChoice::Cpu, &source, Precision::Auto, &()));
        }
    }
});
