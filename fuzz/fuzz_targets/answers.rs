//! A plugin that returns arbitrary bytes. Its result is its memory from address 16, which holds the request's text, two
//! characters a byte.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use querywright::catalog::CatalogBuilder;
use querywright::plugin::{Plugin, PluginOptions};
use querywright::types::{Deadline, Request, Retriever};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

const MODULE: &str = r#"(module
    (memory (export "memory") 2)
    (global $free (mut i32) (i32.const 65536))
    (data (i32.const 8192) "\20\20\00\00\04\00\00\00\20\20\00\00\04\00\00\00\24\20\00\00\01\00\00\00\00\00\00\00\00\00\00\00echo\00")
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (local $at i32)
        global.get $free i32.const 7 i32.add i32.const -8 i32.and local.tee $at
        local.get 3 i32.add global.set $free
        local.get $at)
    (func (export "querywright:plugin/recommender@0.1.0#describe") (result i32) i32.const 8192)
    (func (export "querywright:plugin/recommender@0.1.0#load") (param i32 i32) (result i32) i32.const 12288)
    (func (export "querywright:plugin/recommender@0.1.0#commit") (result i32) i32.const 12288)
    (func $digit (param i32) (result i32) local.get 0 i32.load8_u i32.const 15 i32.and)
    (func (export "querywright:plugin/recommender@0.1.0#recommend") (param $requests i32) (param i32) (result i32)
        (local $from i32) (local $left i32) (local $to i32)
        local.get $requests i32.load local.set $from
        local.get $requests i32.load offset=4 i32.const 1 i32.shr_u local.set $left
        i32.const 16 local.set $to
        (block $done (loop $more
            local.get $left i32.eqz br_if $done
            local.get $to
            local.get $from call $digit i32.const 4 i32.shl
            local.get $from i32.const 1 i32.add call $digit i32.or
            i32.store8
            local.get $from i32.const 2 i32.add local.set $from
            local.get $to i32.const 1 i32.add local.set $to
            local.get $left i32.const 1 i32.sub local.set $left
            br $more))
        i32.const 16))"#;

static PLUGIN: LazyLock<Plugin> = LazyLock::new(|| {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../wit")).expect("the contract");
    let world = resolve.select_world(&[package], Some("plugin")).expect("its world");
    let mut module = wat::parse_str(MODULE).expect("the module");
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).expect("its types");
    let bytes = ComponentEncoder::default().module(&module).and_then(|mut e| e.encode()).expect("a component");
    let mut builder = CatalogBuilder::new();
    for id in ["a", "b", "c"] {
        builder.push(id, [("text", id)]).expect("a document");
    }
    Plugin::from_bytes("echo", &bytes, &builder.finish(), PluginOptions::default(), &()).expect("a plugin")
});

fuzz_target!(|bytes: &[u8]| {
    let nibble = |n: u8| char::from(b'0' + n);
    let text: String = bytes.iter().take(4000).flat_map(|b| [nibble(b >> 4), nibble(b & 15)]).collect();
    let request = Request::plain(text, 2).with_exclude([1]);
    let answers = PLUGIN.retrieve(&[request], Deadline::NONE);
    assert_eq!(answers.len(), 1);
    if let Ok(ranking) = &answers[0] {
        assert!(ranking.hits.len() <= 2);
        assert!(ranking.hits.iter().all(|hit| hit.doc < 3 && hit.doc != 1 && hit.score.is_finite()));
        assert!(ranking.hits.is_sorted_by(|a, b| a.score >= b.score && a.doc != b.doc));
    }
});
