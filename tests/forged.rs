//! Components that no compiler would make: modules written by hand and random modules behind the exports of the contract.
//! Each ends in an answer or a typed error, and the host goes on.

#[path = "forged/compiling.rs"]
mod compiling;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use querywright::catalog::{Catalog, CatalogBuilder};
use querywright::error::{Fault, FaultKind};
use querywright::plugin::{
    Grant, Inspection, Limits, LogSink, Manifest, Metering, Plugin, PluginOptions, Services, Wanted,
};
use querywright::types::{Deadline, Ranking, Request, Retriever};
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use wasm_smith::Config;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// The part of WASI that the modules use.
const WASI: [&str; 2] = [
    "package wasi:io@0.2.0; interface streams {
         resource output-stream {
             check-write: func() -> result<u64>;
             write: func(bytes: list<u8>) -> result;
         }
     }",
    "package wasi:cli@0.2.0; interface stdout {
         use wasi:io/streams@0.2.0.{output-stream};
         get-stdout: func() -> output-stream;
     }
     interface environment { get-arguments: func() -> list<string>; }
     interface exit { exit: func(status: result); }",
];

const WORLDS: &str = "package forged:worlds;
     world plain { include querywright:plugin/plugin@0.1.0; }
     world wasi { include querywright:plugin/plugin@0.1.0; import wasi:cli/stdout@0.2.0; import wasi:io/streams@0.2.0;
         import wasi:cli/environment@0.2.0; import wasi:cli/exit@0.2.0; }
     interface foreign { open: func() -> u32; }
     world foreign-import { include querywright:plugin/plugin@0.1.0; import foreign; }";

/// A core module as a component of the contract.
fn component(module: &[u8], world: &str) -> Vec<u8> {
    let world = if world == "log" { "plain" } else { world };
    let mut resolve = Resolve::default();
    let contract = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("wit");
    resolve.push_dir(contract).unwrap();
    for (nth, text) in WASI.iter().enumerate() {
        resolve.push_str(format!("wasi{nth}.wit"), text).unwrap();
    }
    let package = resolve.push_str("worlds.wit", WORLDS).unwrap();
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    let mut module = module.to_vec();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    ComponentEncoder::default().module(&module).unwrap().encode().unwrap()
}

/// A plugin that finds the first document, with parts that a test replaces.
struct Forged {
    /// More fields of the module: tables, memories, functions.
    fields: String,
    /// Instructions of `load`, before it returns.
    load: String,
    /// Instructions of `recommend`, before it returns.
    before: String,
    /// Address and length of the list of answers, and of the hits of the first answer.
    answers: (u32, u32),
    hits: (u32, u32),
    /// Instructions that return the address of an allocation, `$at` by default.
    allocated: String,
    world: &'static str,
    /// Pages of its memory: the initial number, and optionally the maximum.
    pages: &'static str,
    /// The name on the card: six bytes. The byte after it is the query language.
    name: &'static str,
}

impl Default for Forged {
    fn default() -> Self {
        Self {
            fields: String::new(),
            load: String::new(),
            before: String::new(),
            answers: (32, 1),
            hits: (64, 1),
            allocated: "local.get $at".into(),
            world: "plain",
            name: "forged",
            pages: "2",
        }
    }
}

impl Forged {
    fn bytes(&self) -> Vec<u8> {
        component(&self.module(), self.world)
    }

    fn module(&self) -> Vec<u8> {
        let word = |word: u32| word.to_le_bytes().iter().map(|byte| format!("\\{byte:02x}")).collect::<String>();
        let words = |list: &[u32]| list.iter().map(|w| word(*w)).collect::<String>();
        let interface = "querywright:plugin/recommender@0.1.0";
        let Self { fields, load, before, allocated, .. } = self;
        let text = format!(
            r#"(module
                {imports}
                (memory (export "memory") {pages})
                {fields}
                (global $free (mut i32) (i32.const 4096))
                (data (i32.const 16) "{list}")
                (data (i32.const 32) "{answer}")
                (data (i32.const 64) "{hit}")
                (data (i32.const 128) "{card}")
                (data (i32.const 192) "{name}\00")
                (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (local $at i32)
                    global.get $free i32.const 7 i32.add i32.const -8 i32.and local.tee $at
                    local.get 3 i32.add global.set $free
                    {allocated})
                (func (export "{interface}#describe") (result i32) i32.const 128)
                (func (export "{interface}#load") (param i32 i32) (result i32) (local $n i32) (local $h i32) {load} i32.const 256)
                (func (export "{interface}#commit") (result i32) i32.const 256)
                (func (export "{interface}#recommend") (param i32 i32) (result i32) (local $n i32) (local $h i32) {before} i32.const 16)
            )"#,
            imports = match self.world {
                "wasi" => {
                    r#"(import "wasi:cli/stdout@0.2.0" "get-stdout" (func $get_stdout (result i32)))
                    (import "wasi:io/streams@0.2.0" "[resource-drop]output-stream" (func $drop_stream (param i32)))
                    (import "wasi:io/streams@0.2.0" "[method]output-stream.check-write"
                        (func $check_write (param i32 i32)))
                    (import "wasi:io/streams@0.2.0" "[method]output-stream.write"
                        (func $write (param i32 i32 i32) (result i32)))
                    (import "wasi:cli/environment@0.2.0" "get-arguments" (func $get_arguments (param i32)))
                    (import "wasi:cli/exit@0.2.0" "exit" (func $exit (param i32)))"#
                }
                "log" => r#"(import "querywright:plugin/log@0.1.0" "write" (func $log (param i32 i32 i32)))"#,
                "large" => r#"(import "wasi:cli/stdout@0.2.0" "get" (func $get (param i32)))"#,
                "foreign-import" => r#"(import "forged:worlds/foreign" "open" (func $open (result i32)))"#,
                _ => "",
            },
            name = self.name,
            pages = self.pages,
            list = words(&[self.answers.0, self.answers.1]),
            answer = words(&[0, self.hits.0, self.hits.1, 0]),
            hit = words(&[0, 1.0f32.to_bits()]),
            // Name, version, languages (the byte after the name: plain), fields, reads-history.
            card = words(&[192, 6, 192, 6, 198, 1, 0, 0, 0]),
        );
        wat::parse_str(&text).unwrap_or_else(|e| panic!("{e}\n{text}"))
    }

    fn plugin(&self) -> Result<Plugin, String> {
        plugin(&self.bytes())
    }

    fn fault(&self) -> Fault {
        let plugin = self.plugin().unwrap();
        let fault = ask(&plugin).unwrap_err();
        assert_eq!(ask(&plugin).unwrap_err().kind, fault.kind, "the next call gets a fresh instance");
        fault
    }
}

fn catalog() -> Catalog {
    let mut builder = CatalogBuilder::new();
    builder.push("a", [("text", "first")]).unwrap();
    builder.finish()
}

fn limits() -> Limits {
    Limits { memory_mib: 64, call_ms: 1_500, load_ms: 500, compile_ms: 40_000, ..Limits::default() }
}

fn plugin(bytes: &[u8]) -> Result<Plugin, String> {
    let options = PluginOptions {
        grant: Grant { limits: limits(), ..Grant::default() },
        metering: Metering::Clock,
        ..PluginOptions::default()
    };
    Plugin::from_bytes("forged", bytes, &catalog(), options, &()).map_err(|e| e.to_string())
}

fn ask(plugin: &Plugin) -> Result<Ranking, Fault> {
    let request = Request::plain("x", 10);
    plugin.retrieve(&[request], Deadline::NONE).remove(0)
}

#[test]
fn an_honest_module_written_by_hand_ranks() {
    let ranking = ask(&Forged::default().plugin().unwrap()).unwrap();
    assert_eq!((ranking.hits.len(), ranking.hits[0].doc, ranking.hits[0].score), (1, 0, 1.0));
}

#[test]
fn forged_lengths_and_addresses_are_traps() {
    for (what, forged) in [
        ("answers beyond the memory", Forged { answers: (32, u32::MAX), ..Forged::default() }),
        ("answers at its end", Forged { answers: (131_068, 1), ..Forged::default() }),
        ("more hits than it has bytes", Forged { hits: (64, 1 << 30), ..Forged::default() }),
        ("hits whose length overflows", Forged { hits: (u32::MAX - 7, u32::MAX), ..Forged::default() }),
        ("hits at an odd address", Forged { hits: (65, 1), ..Forged::default() }),
        ("answers at an odd address", Forged { answers: (33, 1), ..Forged::default() }),
    ] {
        let fault = forged.fault();
        assert_eq!(fault.kind, FaultKind::Trap, "{what}: {fault}");
    }
    for (what, allocated) in
        [("beyond the memory", "i32.const -16"), ("at an odd address", "local.get $at i32.const 1 i32.or")]
    {
        let refused = Forged { allocated: allocated.into(), ..Forged::default() }.plugin().map(|_| ()).unwrap_err();
        assert!(refused.starts_with("plugin forged: load failed"), "an allocation {what}: {refused}");
    }
    for name in [r"\ff\fe\fd\fc\fb\fa", r"forge\c3", r"\ed\a0\80abc"] {
        let refused = Forged { name, ..Forged::default() }.plugin().map(|_| ()).unwrap_err();
        assert!(refused.contains("describe failed") && refused.contains("utf-8"), "a name of {name}: {refused}");
    }
    // A list of answers of the right length, with an unknown variant case.
    let answers = Forged { answers: (128, 1), ..Forged::default() };
    assert_eq!(answers.fault().kind, FaultKind::Trap);
}

#[test]
fn tables_and_memories_are_counted_together() {
    // A table that grows cannot be part of a snapshot. It is refused before anything runs.
    let grow = "(loop $more
        ref.null func i32.const 1000 table.grow $t i32.const -1 i32.ne br_if $more) unreachable";
    let bomb = Forged { fields: "(table $t 1 funcref)".into(), before: grow.into(), ..Forged::default() };
    let refused = bomb.plugin().map(|_| ()).unwrap_err();
    assert!(refused.contains("unsupported `table.grow`"), "{refused}");
    let tables = |count: usize, elements: usize| format!("(table {elements} funcref)").repeat(count);
    let memories = |count: usize, pages: usize| format!("(memory {pages})").repeat(count);
    for (what, fields, part) in [
        ("a table", tables(1, 100_000_000), "limits.table_elements"),
        ("tables of the limit together", tables(3, 9_000), "limits.table_elements"),
        ("tables", tables(70, 1), "70 tables"),
        ("memories", memories(70, 1), "71 memories"),
        ("memories of the limit together", memories(3, 500), "limits.memory_mib"),
        ("a memory", memories(1, 60_000), "limits.memory_mib"),
    ] {
        let refused = Forged { fields, ..Forged::default() }.plugin().map(|_| ()).unwrap_err();
        assert!(refused.contains(part), "{what}: {refused}");
    }
    let begun = "(loop $more i32.const 16 memory.grow i32.const -1 i32.ne br_if $more) unreachable";
    let fault = Forged { before: begun.into(), ..Forged::default() }.fault();
    assert!(fault.detail.contains("limits.memory_mib = 64"), "{fault}");
}

#[test]
fn a_full_memory_is_read_out_or_refused_with_what_to_do() {
    // The limit of 64 MiB is 1,024 pages.
    for pages in ["1024", "1023", "2 6"] {
        assert!(ask(&Forged { pages, ..Forged::default() }.plugin().unwrap()).is_ok(), "{pages}");
    }
    let grow = "(loop $more i32.const 1 memory.grow i32.const -1 i32.ne br_if $more)";
    let greedy = Forged { load: grow.into(), before: grow.into(), ..Forged::default() };
    assert!(ask(&greedy.plugin().unwrap()).is_ok());
    for pages in ["2 2", "2 3"] {
        let refused = Forged { pages, ..Forged::default() }.plugin().map(|_| ()).unwrap_err();
        assert!(refused.contains("leave two pages free below the maximum of its memory"), "{pages}: {refused}");
    }
}

#[test]
fn a_component_that_wizer_does_not_support_is_refused() {
    for fields in ["(global $g (mut i32) (i32.const 0)) (func (export \"wizer-initialize\"))", "(tag $t (param i32))"] {
        let loaded = Forged { fields: fields.into(), ..Forged::default() }.plugin();
        match loaded {
            Ok(plugin) => assert!(ask(&plugin).is_ok(), "{fields}"),
            Err(refused) => assert!(refused.starts_with("plugin forged: ") && refused.len() < 500, "{refused}"),
        }
    }
    // wizer panics over modules without exports, and over one that imports a tag.
    for text in [
        "(component (core module $m (memory 1)) (core instance (instantiate $m)))",
        "(component (core module $m (global (mut i32) (i32.const 0))) (core instance (instantiate $m)))",
        "(component (core module $m (import \"a\" \"t\" (tag))))",
    ] {
        let refused = plugin(&wat::parse_str(text).unwrap()).map(|_| ()).unwrap_err();
        assert!(refused.starts_with("plugin forged: ") && refused.len() < 500, "{refused}");
    }
}

#[test]
fn return_values_of_wasi_are_bounded_whatever_their_type() {
    let wide = "x".repeat(90_000);
    let types = format!(
        "package wasi:cli@0.2.0;
        interface stdout {{ enum wide {{ %{wide} }} get: func() -> tuple<wide, wide, wide>; }}"
    );
    let mut resolve = Resolve::default();
    resolve.push_dir(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("wit")).unwrap();
    resolve.push_str("cli.wit", &types).unwrap();
    let worlds = "package forged:worlds;
        world large { include querywright:plugin/plugin@0.1.0; import wasi:cli/stdout@0.2.0; }";
    let package = resolve.push_str("worlds.wit", worlds).unwrap();
    let world = resolve.select_world(&[package], Some("large")).unwrap();
    let forged = Forged { world: "large", before: "i32.const 512 call $get".into(), ..Forged::default() };
    let mut module = forged.module();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    let bytes = ComponentEncoder::default().module(&module).unwrap().encode().unwrap();
    let fault = ask(&plugin(&bytes).unwrap()).unwrap_err();
    assert!(fault.detail.contains("answers at most 65536 bytes"), "{fault}");
}

#[test]
fn wasi_handles_are_bounded_and_do_not_outlive_the_snapshot() {
    // Prints 300 times, each time through a handle of its own, and reads its arguments; in `load`, too.
    let print = "i32.const 300 local.set $n (loop $more
        call $get_stdout local.tee $h i32.const 512 call $check_write
        local.get $h i32.const 192 i32.const 6 call $write if unreachable end
        local.get $h call $drop_stream
        i32.const 512 call $get_arguments i32.const 516 i32.load if unreachable end
        local.get $n i32.const 1 i32.sub local.tee $n br_if $more)";
    let honest = Forged { world: "wasi", load: print.into(), before: print.into(), ..Forged::default() };
    let lines: Arc<Mutex<Vec<String>>> = Arc::default();
    let sink = lines.clone();
    let log: LogSink = Arc::new(move |_, _, line| sink.lock().unwrap().push(line.to_owned()));
    let sha256 = Inspection::of("forged", &honest.bytes()).unwrap().sha256;
    let mut manifest = Manifest::new("forged", "1.0.0", sha256);
    (manifest.capabilities, manifest.limits) = (Wanted { log: true, ..Wanted::default() }, limits());
    let options = |log_granted| PluginOptions {
        manifest: Some(manifest.clone()),
        grant: Grant { log: log_granted, limits: limits(), ..Grant::default() },
        services: Services { log: Some(log.clone()), ..Services::default() },
        ..PluginOptions::default()
    };
    for (granted, printed) in [(false, 0), (true, 600)] {
        let plugin = Plugin::from_bytes("forged", &honest.bytes(), &catalog(), options(granted), &()).unwrap();
        assert_eq!(ask(&plugin).unwrap().hits.len(), 1);
        let lines = std::mem::take(&mut *lines.lock().unwrap());
        assert!(lines.len() == printed && lines.iter().all(|line| line == "forged"), "{} lines", lines.len());
    }
    let exit = Forged { before: "i32.const 0 call $exit".into(), world: "wasi", ..Forged::default() }.fault();
    assert!(exit.kind == FaultKind::Trap && exit.detail.contains("it called wasi:cli/exit#exit"), "{exit}");
    let leak = "(loop $more call $get_stdout drop br $more)";
    let fault = Forged { before: leak.into(), world: "wasi", ..Forged::default() }.fault();
    assert!(fault.kind == FaultKind::Trap && fault.detail.contains("256 WASI handles"), "{fault}");
    let once = Forged { load: "call $get_stdout drop".into(), world: "wasi", ..Forged::default() };
    let refused = once.plugin().map(|_| ()).unwrap_err();
    assert!(refused.contains("holds 1 WASI handles"), "{refused}");
}

#[test]
fn bytes_that_cross_to_the_host_take_fuel() {
    // Logs 60 KiB that nobody granted, over and over: a dozen instructions each, and the host copies every byte.
    let flood = "(loop $more i32.const 2 i32.const 65536 i32.const 61440 call $log br $more)";
    let forged = Forged { before: flood.into(), world: "log", ..Forged::default() };
    let limits = Limits { fuel: 100_000_000, ..limits() };
    let options = PluginOptions {
        grant: Grant { limits, ..Grant::default() },
        metering: Metering::Fuel,
        ..PluginOptions::default()
    };
    let plugin = Plugin::from_bytes("forged", &forged.bytes(), &catalog(), options, &()).unwrap();
    let begun = Instant::now();
    let fault = ask(&plugin).unwrap_err();
    let out = "used up limits.fuel = 100000000";
    assert!(fault.kind == FaultKind::Trap && fault.detail.contains(out), "{fault}");
    // 1,600 calls. Without the charge there are millions, which move 500 GB.
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(ask(&plugin).unwrap_err(), fault, "the same every time");
}

#[test]
fn a_name_cannot_forge_a_line_or_disguise_itself() {
    // A line feed and an override, which shows the letters after it from right to left.
    for (name, shown) in [(r"a\0aWARN", "a WARN"), (r"a\e2\80\aebc", "a bc"), (r"a\1b[2Kb", "a [2Kb")] {
        let plugin = Forged { name, ..Forged::default() }.plugin().unwrap();
        assert_eq!(plugin.card().name, shown);
    }
    let options = PluginOptions::default();
    let forged = "x\u{1b}[2K\r\u{202e}plugin bank: ok";
    let said = Plugin::from_bytes(forged, b"", &catalog(), options, &()).map(|_| ()).unwrap_err().to_string();
    assert!(!said.chars().any(|c| c.is_control() || c == '\u{202e}'), "{said:?}");
}

#[test]
fn undeclared_imports_and_exponential_types_are_refused_before_anything_runs() {
    let foreign = Forged { world: "foreign-import", before: "call $open drop".into(), ..Forged::default() };
    let refused = foreign.plugin().map(|_| ()).unwrap_err();
    assert!(refused.contains("it imports forged:worlds/foreign, which no host provides"), "{refused}");
    // Each type holds the one before it twice: a few hundred bytes describe 2^60 values.
    let twice = |n: usize| format!("(type $t{n} (tuple $t{} $t{}))", n - 1, n - 1);
    let types: String = (1..60).map(twice).collect();
    let text = format!("(component (type $t0 (tuple u64 u64)) {types} (import \"x\" (func (param \"p\" $t59))))");
    let begun = Instant::now();
    let refused = plugin(&wat::parse_str(text).unwrap()).map(|_| ()).unwrap_err();
    assert!(refused.starts_with("plugin forged: it is broken") && refused.len() < 500, "{refused}");
    // Nested components: each is a section of the one around it.
    let mut deep = b"\0asm\x0d\0\x01\0".to_vec();
    for _ in 0..5_000 {
        let mut around = b"\0asm\x0d\0\x01\0\x04".to_vec();
        let mut length = deep.len();
        while length > 127 {
            around.push((length & 127) as u8 | 128);
            length >>= 7;
        }
        around.push(length as u8);
        around.append(&mut deep);
        deep = around;
    }
    let refused = plugin(&deep).map(|_| ()).unwrap_err();
    assert!(refused.starts_with("plugin forged: ") && refused.len() < 500, "{refused}");
    assert!(begun.elapsed() < Duration::from_secs(5));
}

/// Random modules behind the exports of the contract. `QUERYWRIGHT_CHANCE` sets their number, 60 by default.
#[test]
fn modules_of_chance_end_in_answers_or_typed_errors() {
    let count: u64 = std::env::var("QUERYWRIGHT_CHANCE").ok().and_then(|n| n.parse().ok()).unwrap_or(60);
    let exports = Forged::default().module();
    let (mut made, mut ran, mut loaded) = (0u64, 0u64, 0u64);
    for seed in 0..count {
        let mut bytes = vec![0; 20_000];
        ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut bytes);
        let config = Config {
            exports: Some(exports.clone()),
            max_imports: 0,
            allow_start_export: seed % 2 == 0,
            disallow_traps: seed % 3 == 0,
            max_memory32_bytes: 1 << 20,
            memory64_enabled: false,
            gc_enabled: false,
            exceptions_enabled: false,
            threads_enabled: false,
            // These features cannot be part of a snapshot and are refused early, so only half of the modules have them.
            bulk_memory_enabled: seed % 2 == 0,
            reference_types_enabled: seed % 2 == 0,
            simd_enabled: seed % 2 == 0,
            relaxed_simd_enabled: false,
            ..Config::default()
        };
        let Ok(module) = wasm_smith::Module::new(config, &mut arbitrary::Unstructured::new(&bytes)) else { continue };
        made += 1;
        let bytes = component(&module.to_bytes(), "plain");
        let begun = Instant::now();
        match plugin(&bytes) {
            Ok(plugin) => {
                loaded += 1;
                drop(ask(&plugin));
            }
            Err(error) => {
                assert!(error.starts_with("plugin forged: ") && error.len() < 3_000, "seed {seed}: {error}");
                ran += u64::from(error.contains("load failed: "));
            }
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "seed {seed}: {:?}", begun.elapsed());
    }
    println!("{made} modules, {ran} of them ran and failed, {loaded} loaded");
    assert!(made * 2 > count && (ran + loaded) * 4 > made, "{made} of {count} made, {ran} ran, {loaded} loaded");
    assert!(ask(&Forged::default().plugin().unwrap()).is_ok(), "the host goes on");
}
