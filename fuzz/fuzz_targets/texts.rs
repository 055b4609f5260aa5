//! Arbitrary text as a plugin's manifest and as a run's configuration. Each is read or refused with an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use querywright::plugin::Manifest;
use querywright::train::TrainConfig;

fuzz_target!(|text: &str| {
    drop(Manifest::parse(text, "plugin.toml"));
    if let Ok(config) = TrainConfig::parse(text, &[], "run.toml") {
        drop(config.validate());
    }
});
