//! Arbitrary bytes as a component. With `plugins/*/dist` as a corpus these include mutated real components.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use querywright::catalog::{Catalog, CatalogBuilder};
use querywright::plugin::{Grant, Limits, Plugin, PluginOptions};
use querywright::types::{Deadline, Request, Retriever};

static CATALOG: LazyLock<Catalog> = LazyLock::new(|| {
    let mut builder = CatalogBuilder::new();
    builder.push("a", [("text", "first")]).expect("a document");
    builder.finish()
});

fuzz_target!(|bytes: &[u8]| {
    let limits = Limits { memory_mib: 64, call_ms: 200, load_ms: 200, compile_ms: 5_000, ..Limits::default() };
    let options = PluginOptions { grant: Grant { limits, ..Grant::default() }, ..PluginOptions::default() };
    if let Ok(plugin) = Plugin::from_bytes("fuzzed", bytes, &CATALOG, options, &()) {
        let request = Request::plain("first", 3);
        drop(plugin.retrieve(&[request], Deadline::NONE));
    }
});
