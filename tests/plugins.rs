//! The plugin host with real components: one that ranks, one that calls every host interface, one that misbehaves.

mod guests;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use guests::{built, catalog, component, digest, request};
use querywright::catalog::demo;
use querywright::error::FaultKind;
use querywright::plugin::{
    Grant, Limits, LogLevel, Manifest, Metering, Plugin, PluginOptions, Reuse, Services, TextEncoder, TextRole, Wanted,
    check,
};
use querywright::types::{Deadline, Retriever};

/// Small limits, so that faults come soon.
fn tight() -> Limits {
    Limits {
        memory_mib: 64,
        call_ms: 1_500,
        fuel: 100_000_000,
        load_ms: 500,
        load_fuel: 200_000_000,
        ..Limits::default()
    }
}

fn options(metering: Metering) -> PluginOptions {
    PluginOptions { grant: Grant { limits: tight(), ..Grant::default() }, metering, ..PluginOptions::default() }
}

fn load(name: &str, first: &str, options: PluginOptions) -> Result<Plugin, String> {
    Plugin::from_bytes(name, &component(name), &catalog(first), options, &()).map_err(|e| e.to_string())
}

#[test]
fn faults_of_a_call_are_typed_and_the_next_call_is_right() {
    for metering in [Metering::Clock, Metering::Fuel] {
        let plugin = load("hostile", "", options(metering)).unwrap();
        let clock = metering == Metering::Clock;
        let out = if clock { "longer than limits.call_ms = 1500" } else { "used up limits.fuel = 100000000" };
        let of_loop = if clock { FaultKind::Timeout } else { FaultKind::Trap };
        for (text, kind, part) in [
            ("loop", of_loop, out),
            // By the clock the instance has served another request, so the fault does not quote the plugin.
            ("trap", FaultKind::Trap, if clock { "unreachable" } else { "on demand" }),
            ("recurse", FaultKind::Trap, "in function"),
            ("memory", FaultKind::Trap, "limits.memory_mib = 64"),
            ("nan", FaultKind::Contract, "score NaN"),
            ("infinite", FaultKind::Contract, "score inf"),
            ("unknown", FaultKind::Contract, "document 4294967295, and there are 3"),
            ("duplicate", FaultKind::Contract, "twice"),
            ("unsorted", FaultKind::Contract, "higher score"),
            ("many", FaultKind::Contract, "11 hits where at most 10"),
            ("fewer", FaultKind::Contract, "0 answers to 1"),
            ("more", FaultKind::Contract, "2 answers to 1"),
        ] {
            let begun = Instant::now();
            let fault = plugin.retrieve(&[request(text)], Deadline::NONE).remove(0).unwrap_err();
            assert_eq!(fault.kind, kind, "{text}: {fault}");
            assert!(fault.detail.contains(part), "{text}: {fault}");
            assert!(begun.elapsed() < Duration::from_secs(20), "{text} took {:?}", begun.elapsed());
            let next = plugin.retrieve(&[request("fine")], Deadline::NONE).remove(0).unwrap();
            assert_eq!(next.hits[0].doc, 0, "after {text}");
        }
        let excluded = request("excluded").with_exclude([1]);
        assert!(
            plugin
                .retrieve(&[excluded], Deadline::NONE)
                .remove(0)
                .unwrap_err()
                .detail
                .contains("document 1, which was excluded")
        );
    }
}

#[test]
fn a_gigantic_answer_is_an_error_that_stays_small() {
    let plugin = load("hostile", "", options(Metering::Clock)).unwrap();
    for text in ["huge-list", "huge-text"] {
        let fault = plugin.retrieve(&[request(text)], Deadline::NONE).remove(0).unwrap_err();
        assert!(fault.detail.len() < 1000, "{text}: {} bytes", fault.detail.len());
        assert!(!fault.detail.contains('\u{1b}'), "{text}");
        assert!(plugin.retrieve(&[request("fine")], Deadline::NONE).remove(0).is_ok());
    }
}

#[test]
fn one_bad_request_does_not_affect_the_others_of_its_batch() {
    let plugin = load("hostile", "", options(Metering::Clock)).unwrap();
    let texts: Vec<&str> = ["fine", "trap", "fine", "nan", "fine", "loop", "fine", "fewer", "fine"].repeat(3);
    let answers = plugin.retrieve(&texts.iter().map(|text| request(text)).collect::<Vec<_>>(), Deadline::NONE);
    assert_eq!(answers.len(), texts.len());
    for (text, answer) in texts.iter().zip(&answers) {
        assert_eq!(answer.is_ok(), *text == "fine", "{text}: {answer:?}");
    }
}

#[test]
fn a_plugin_that_cannot_load_is_refused_in_time_with_the_limit_that_it_reached() {
    for metering in [Metering::Clock, Metering::Fuel] {
        let out = if metering == Metering::Clock { "limits.load_ms = 500" } else { "limits.load_fuel = 200000000" };
        for (first, part) in [
            ("load:loop", out),
            ("commit:loop", out),
            ("load:trap", "load failed"),
            ("commit:trap", "commit failed"),
            ("load:memory", "limits.memory_mib = 64"),
            ("commit:memory", "limits.memory_mib = 64"),
            ("load:fault", "load returned a fault"),
        ] {
            let error = load("hostile", first, options(metering)).map(|_| ()).unwrap_err();
            assert!(error.contains(part) && error.starts_with("plugin hostile: "), "{first}: {error}");
            assert!(error.len() < 1500 && !error.contains('\u{7}'), "{first}: {} bytes", error.len());
        }
    }
}

#[test]
fn later_requests_see_state_only_if_instances_are_reused() {
    let ask = |reuse| {
        let plugin = load("hostile", "", PluginOptions { reuse, ..options(Metering::Clock) }).unwrap();
        let score = |text: &str| plugin.retrieve(&[request(text)], Deadline::NONE).remove(0).unwrap().hits[0].score;
        score("remember:secret");
        (score("recall"), score("count"))
    };
    assert_eq!(ask(Reuse::EachSearch), (0.0, 1.0));
    assert_eq!(ask(Reuse::Searches(2)), (6.0, 1.0), "the third search gets a fresh instance");
    assert_eq!(ask(Reuse::UntilFault), (6.0, 3.0));
    let fuel = load("hostile", "", options(Metering::Fuel)).unwrap();
    let counts = fuel.retrieve(&vec![request("count"); 20], Deadline::NONE);
    assert!(counts.into_iter().all(|answer| answer.unwrap().hits[0].score == 1.0), "with fuel no instance is reused");
}

#[test]
fn a_fault_never_holds_what_another_caller_asked() {
    let lines: Arc<Mutex<Vec<String>>> = Arc::default();
    let sink = lines.clone();
    let log = move |_: &str, _: LogLevel, line: &str| sink.lock().unwrap().push(line.to_owned());
    let services = Services { log: Some(Arc::new(log)), ..Services::default() };
    let plugin = load("hostile", "", PluginOptions { services, ..options(Metering::Clock) }).unwrap();
    let ask = |texts: &[&str]| {
        let requests: Vec<querywright::types::Request> = texts.iter().map(|text| request(text)).collect();
        plugin.retrieve(&requests, Deadline::NONE)
    };
    assert!(ask(&["remember:secret"])[0].is_ok());
    let fault = ask(&["repeat"]).remove(0).unwrap_err();
    assert!(fault.kind == FaultKind::Refused && !fault.to_string().contains("secret"), "{fault}");
    assert!(lines.lock().unwrap().iter().any(|line| line.contains("secret")), "the operator can read it");
    // Two callers in one batch.
    for answer in ask(&["remember:secret", "repeat", "remember:secret", "repeat"]) {
        assert!(answer.is_ok() || !answer.unwrap_err().to_string().contains("secret"));
    }
    // An instance that has seen this request alone may say why.
    let fresh = PluginOptions { reuse: Reuse::EachSearch, ..options(Metering::Clock) };
    let fresh = load("hostile", "", fresh).unwrap();
    let fault = fresh.retrieve(&[request("trap")], Deadline::NONE).remove(0).unwrap_err();
    assert!(fault.detail.contains("on demand"), "{fault}");
}

#[test]
fn an_interface_that_was_not_granted_is_a_typed_error_and_one_that_was_granted_works() {
    struct Ones;
    impl TextEncoder for Ones {
        fn dimensions(&self) -> usize {
            2
        }
        fn encode(&self, texts: &[String], _: TextRole, _: Deadline) -> querywright::Result<Vec<Vec<f32>>> {
            Ok(texts.iter().map(|_| vec![1.0, 0.0]).collect())
        }
    }
    let bytes = component("greedy");
    let manifest = Manifest::read(&built("greedy", "plugin.toml")).unwrap();
    let lines: Arc<Mutex<Vec<String>>> = Arc::default();
    let sink = lines.clone();
    let services = Services {
        log: Some(Arc::new(move |id: &str, level: LogLevel, line: &str| {
            sink.lock().unwrap().push(format!("{id} {level:?} {line}"))
        })),
        encoder: Some(Arc::new(Ones)),
        artifacts: [("weights".to_owned(), Arc::from([7u8; 5])), ("secret".to_owned(), Arc::from([0u8; 9]))].into(),
    };
    let ask = |grant: Grant, text: &str| {
        let options = PluginOptions {
            manifest: Some(manifest.clone()),
            grant,
            services: services.clone(),
            ..PluginOptions::default()
        };
        let plugin = Plugin::from_bytes("greedy", &bytes, &catalog(""), options, &()).unwrap();
        plugin.retrieve(&[request(text)], Deadline::NONE).remove(0).unwrap_err().detail
    };
    let nothing = Grant::default;
    assert_eq!(ask(nothing(), "log"), "done");
    assert!(lines.lock().unwrap().is_empty(), "{lines:?}");
    assert!(ask(nothing(), "embed").contains("Denied"));
    assert!(ask(nothing(), "artifact:weights").contains("Unknown"));
    assert!(ask(nothing(), "http://127.0.0.1:1/").contains("Denied"));
    let all = || Grant {
        log: true,
        embed: true,
        artifact: ["weights", "missing", "secret"].map(str::to_owned).into(),
        http: ["127.0.0.1:1".to_owned(), "127.0.0.1:2".to_owned()].into(),
        limits: Limits::default(),
    };
    assert_eq!(ask(all(), "log"), "done");
    assert_eq!(*lines.lock().unwrap(), ["querywright/greedy Warn a line [2J and another"]);
    assert_eq!(ask(all(), "embed"), "Ok([[1.0, 0.0]])");
    assert_eq!(ask(all(), "artifact:weights"), "Ok(5)");
    assert!(ask(all(), "artifact:missing").contains("Unknown"));
    assert!(ask(all(), "artifact:secret").contains("Unknown"), "granted, but the manifest does not ask for it");
    assert!(ask(all(), "http://127.0.0.1:1/").contains("Network"), "nobody listens there");
    assert!(ask(all(), "http://127.0.0.1:2/").contains("Denied"), "granted, but the manifest does not ask for it");
    let digest_with = |weights: &[u8]| {
        let mut services = services.clone();
        services.artifacts.insert("weights".into(), Arc::from(weights));
        let options =
            PluginOptions { manifest: Some(manifest.clone()), grant: all(), services, ..PluginOptions::default() };
        let plugin = Plugin::from_bytes("greedy", &bytes, &catalog(""), options, &()).unwrap();
        plugin.card().digest.clone()
    };
    assert_eq!(digest_with(b"one"), digest_with(b"one"));
    assert_ne!(digest_with(b"one"), digest_with(b"two"), "caches must not serve rankings of other weights");
    let few = Grant { limits: Limits { host_bytes: 4, ..Limits::default() }, ..all() };
    let said = ask(few, "artifact:weights");
    assert!(said.contains("TooLarge") || said.contains("fuel"), "{said}");
}

#[test]
fn a_request_ends_with_its_time_while_it_waits_for_the_encoder() {
    const SLEEP: Duration = Duration::from_secs(2);
    /// Sleeps once, whatever its deadline.
    #[derive(Default)]
    struct Sleepy(AtomicBool);
    impl TextEncoder for Sleepy {
        fn dimensions(&self) -> usize {
            2
        }
        fn encode(&self, texts: &[String], _: TextRole, _: Deadline) -> querywright::Result<Vec<Vec<f32>>> {
            if !self.0.swap(true, Ordering::SeqCst) {
                std::thread::sleep(SLEEP);
            }
            Ok(vec![vec![1.0, 0.0]; texts.len()])
        }
    }
    let load = |call_ms| {
        let options = PluginOptions {
            manifest: Some(Manifest::read(&built("greedy", "plugin.toml")).unwrap()),
            grant: Grant { embed: true, limits: Limits { call_ms, ..Limits::default() }, ..Grant::default() },
            services: Services { encoder: Some(Arc::new(Sleepy::default())), ..Services::default() },
            ..PluginOptions::default()
        };
        Plugin::from_bytes("greedy", &component("greedy"), &catalog(""), options, &()).unwrap()
    };
    let ask = |plugin: &Plugin, deadline| plugin.retrieve(&[request("embed")], deadline).remove(0).unwrap_err();
    // By the limit of a request, and by the deadline that comes with it.
    for (call_ms, deadline) in [(100, None), (60_000, Some(Duration::from_millis(100)))] {
        let (plugin, begun) = (load(call_ms), Instant::now());
        let late = ask(&plugin, deadline.map_or(Deadline::NONE, Deadline::after));
        assert!(late.kind == FaultKind::Timeout && begun.elapsed() < SLEEP, "{late}");
        // It keeps its thread until it wakes up.
        std::thread::sleep(SLEEP);
        let next = ask(&plugin, Deadline::NONE);
        assert!(next.detail.contains("Ok([[1.0, 0.0]])"), "the next request finds a fresh instance: {next}");
    }
}

#[test]
fn a_check_finds_plugins_that_remember_break_the_contract_or_fail() {
    let failed = |name: &str, texts: &[&str]| -> Vec<&'static str> {
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        let report = check(name, &component(name), &catalog("second"), &options(Metering::Clock), &texts).unwrap();
        assert_eq!(report.passed, report.items.iter().all(|item| item.failure.is_none()));
        report.items.iter().filter(|item| item.failure.is_some()).map(|item| item.rule).collect()
    };
    assert!(failed("bm25", &["second", "third"]).is_empty());
    let remembers = failed("hostile", &["count", "fine", "count"]);
    assert!(remembers.iter().any(|rule| rule.starts_with("forgets")), "{remembers:?}");
    for text in ["nan", "trap", "many", "fewer"] {
        let broken = failed("hostile", &[text]);
        assert!(broken.iter().any(|rule| rule.starts_with("answers ordinary requests")), "{text}: {broken:?}");
    }
}

#[test]
fn excess_log_lines_are_dropped_and_have_no_control_characters() {
    let lines: Arc<Mutex<Vec<String>>> = Arc::default();
    let sink = lines.clone();
    let mut manifest = Manifest::new("flood", "1.0.0", digest("hostile"));
    manifest.capabilities = Wanted { log: true, ..Wanted::default() };
    manifest.limits.call_ms = 5_000;
    let options = PluginOptions {
        manifest: Some(manifest),
        grant: Grant { log: true, limits: Limits { call_ms: 5_000, ..Limits::default() }, ..Grant::default() },
        services: Services {
            log: Some(Arc::new(move |_: &str, _: LogLevel, line: &str| sink.lock().unwrap().push(line.to_owned()))),
            ..Services::default()
        },
        ..PluginOptions::default()
    };
    let plugin = load("hostile", "", options).unwrap();
    assert!(plugin.retrieve(&[request("flood")], Deadline::NONE).remove(0).is_ok());
    let lines = lines.lock().unwrap();
    assert!((100..5_000).contains(&lines.len()), "{}", lines.len());
    assert!(lines.iter().all(|line| !line.chars().any(char::is_control)));
}

#[test]
fn a_file_that_is_not_a_plugin_is_refused_with_what_it_is() {
    let refusal = |bytes: &[u8]| {
        let loaded = Plugin::from_bytes("x", bytes, &catalog(""), PluginOptions::default(), &());
        loaded.map(|_| ()).unwrap_err().to_string()
    };
    let good = component("hostile");
    assert!(refusal(b"").contains("no WebAssembly file"));
    assert!(refusal(b"hello, world").contains("no WebAssembly file"));
    assert!(refusal(b"\0asm\x01\0\0\0").contains("a core module"));
    assert!(refusal(&good[..good.len() / 2]).contains("broken"));
    assert!(refusal(b"\0asm\x0d\0\x01\0").contains("does not export querywright:plugin/recommender@0.1.0"));
    // One changed byte, in forty places in turn: an error or a plugin that still answers, never a panic.
    for place in (8..good.len()).step_by(good.len() / 40) {
        let mut bytes = good.clone();
        bytes[place] ^= 0x55;
        if let Ok(plugin) = Plugin::from_bytes("x", &bytes, &catalog(""), options(Metering::Clock), &()) {
            drop(plugin.retrieve(&[request("fine")], Deadline::NONE));
        }
    }
    let place = good.windows(17).rposition(|w| w == b"recommender@0.1.0").unwrap();
    let mut bytes = good.clone();
    // Another version in every copy of the export's name, of the same length.
    for at in 0..=place {
        if good[at..].starts_with(b"querywright:plugin/recommender@0.1.0") {
            bytes[at + 31..at + 36].copy_from_slice(b"0.9.0");
        }
    }
    let error = refusal(&bytes);
    assert!(error.contains("0.9.0") && error.contains("0.1.0"), "{error}");
    for (key, limits) in [
        ("call_ms", Limits { call_ms: u64::MAX, ..Limits::default() }),
        ("memory_mib", Limits { memory_mib: u64::MAX, ..Limits::default() }),
        ("fuel", Limits { fuel: 0, ..Limits::default() }),
    ] {
        let options = PluginOptions { grant: Grant { limits, ..Grant::default() }, ..PluginOptions::default() };
        let error = Plugin::from_bytes("x", &good, &catalog(""), options, &()).unwrap_err().to_string();
        assert!(error.contains(&format!("limits.{key}: found")), "{error}");
    }
    let options = PluginOptions {
        grant: Grant { limits: Limits { component_mib: 1, ..Limits::default() }, ..Grant::default() },
        ..PluginOptions::default()
    };
    let large = Plugin::from_bytes("x", &vec![0; 2 << 20], &catalog(""), options, &()).unwrap_err().to_string();
    assert!(large.contains("limits.component_mib = 1"), "{large}");
}

#[test]
fn another_digest_is_refused_and_a_cache_serves_only_what_was_written() {
    let bytes = component("bm25");
    let shop = demo::demo(demo::SEED).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("cache");
    let load = |bytes: &[u8]| {
        let options = PluginOptions { cache: Some(own.clone()), ..PluginOptions::default() };
        Plugin::from_bytes("bm25", bytes, &shop.catalog, options, &())
    };
    let ask = |plugin: &Plugin| plugin.retrieve(&[request("cold feet in bed")], Deadline::NONE).remove(0).unwrap();
    let first = ask(&load(&bytes).unwrap());
    let mut files = std::fs::read_dir(&own).unwrap().map(|file| file.unwrap().path());
    let entry = files.find(|path| path.extension().is_some_and(|extension| extension == "compiled")).unwrap();
    let kept = std::fs::read(&entry).unwrap();
    assert_eq!(ask(&load(&bytes).unwrap()), first, "from the cache");
    for damaged in [kept[..kept.len() / 2].to_vec(), [&kept[..100], &[0xAA; 64], &kept[164..]].concat(), Vec::new()] {
        std::fs::write(&entry, &damaged).unwrap();
        assert_eq!(ask(&load(&bytes).unwrap()), first, "compiled again");
        assert_eq!(std::fs::read(&entry).unwrap().len(), kept.len());
    }
    // Several loads at the same time, with an empty cache.
    std::fs::remove_file(&entry).unwrap();
    std::thread::scope(|scope| {
        let loads: Vec<_> = (0..4).map(|_| scope.spawn(|| ask(&load(&bytes).unwrap()))).collect();
        loads.into_iter().for_each(|load| assert_eq!(load.join().unwrap(), first));
    });
    let mut manifest = guests::manifest("bm25", Wanted::default());
    let pinned = |manifest: &Manifest| {
        let options = PluginOptions { manifest: Some(manifest.clone()), ..PluginOptions::default() };
        Plugin::from_bytes("bm25", &bytes, &shop.catalog, options, &())
    };
    assert_eq!(ask(&pinned(&manifest).unwrap()), first);
    manifest.sha256 = "0".repeat(64);
    assert!(pinned(&manifest).unwrap_err().to_string().contains("fetch the plugin again"));
}

/// Resident memory of this process, in KiB. None if the system does not report it.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.trim().parse().ok())
}

/// `QUERYWRIGHT_SOAK` sets the number of requests, 20,000 by default. One request of a hundred is a fault.
#[test]
fn a_soak_with_faults_keeps_memory_flat_and_answers_correct() {
    let count: usize = std::env::var("QUERYWRIGHT_SOAK").ok().and_then(|n| n.parse().ok()).unwrap_or(20_000);
    let plugin = load("hostile", "", options(Metering::Clock)).unwrap();
    let faults = ["trap", "nan", "recurse", "unknown", "fewer"];
    let mut before = None;
    for turn in 0..count / 100 {
        let mut batch = vec![request("fine"); 100];
        batch[turn % 100] = request(faults[turn % faults.len()]);
        for (place, answer) in plugin.retrieve(&batch, Deadline::NONE).into_iter().enumerate() {
            assert_eq!(answer.is_ok(), place != turn % 100, "turn {turn}, request {place}: {answer:?}");
            assert!(answer.is_err() || answer.unwrap().hits[0].doc == 0);
        }
        if turn == count / 400 {
            before = resident();
        }
    }
    if let (Some(before), Some(after)) = (before, resident()) {
        println!("{count} requests; {before} KiB after a quarter, {after} at the end");
        // Other tests run in this process at the same time, so the bound is wide: it finds leaks only.
        assert!(after < before + (256 << 10), "{before} KiB became {after}");
    }
}

#[test]
fn the_copies_of_the_contract_are_equal() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    for entry in std::fs::read_dir(root.join("wit")).unwrap() {
        let path = entry.unwrap().path();
        let copy = root.join("plugins/sdk/wit").join(path.file_name().unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), std::fs::read_to_string(&copy).unwrap(), "{copy:?}");
    }
}
