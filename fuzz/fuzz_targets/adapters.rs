//! Arbitrary bytes as what comes with an adapter: the configuration of PEFT, the settings of its prompts, its weights.
//! The first byte says which. Seeds: the files of tests/golden/peft-qwen3 with a byte before them.
#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use querywright::model::{Adapter, ModelConfig, ModelSource};
use querywright::rewrite::PromptConfig;

const CONFIG: &[u8] = include_bytes!("../../tests/golden/peft-qwen3/adapter_config.json");
const WEIGHTS: &[u8] = include_bytes!("../../tests/golden/peft-qwen3/adapter_model.safetensors");

static MODEL: LazyLock<ModelConfig> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/tiny-qwen3");
    ModelSource::open(&folder).expect("the tiny model").config().clone()
});

fuzz_target!(|bytes: &[u8]| {
    let Some((which, bytes)) = bytes.split_first() else { return };
    let (config, prompt, weights) = match which % 3 {
        0 => (bytes, &b""[..], WEIGHTS),
        1 => (CONFIG, bytes, WEIGHTS),
        _ => (CONFIG, &b""[..], bytes),
    };
    let folder = tempfile::tempdir().expect("a folder");
    for (name, content) in
        [("adapter_config.json", config), ("prompt.toml", prompt), ("adapter_model.safetensors", weights)]
    {
        std::fs::write(folder.path().join(name), content).expect("a written file");
    }
    drop(Adapter::load(folder.path(), &MODEL));
    drop(PromptConfig::read(folder.path()));
});
