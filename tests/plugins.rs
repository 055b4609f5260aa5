//! The host against real components: one that ranks, one that asks for everything, one that does everything wrong.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use querywright::catalog::{Catalog, CatalogBuilder, Dataset, demo};
use querywright::error::FaultKind;
use querywright::plugin::{
    Grant, Inspection, Limits, LogLevel, Manifest, Metering, Plugin, PluginOptions, Reuse, Services, TextEncoder,
    Wanted, check,
};
use querywright::retrieve::{Bm25, Bm25Config};
use querywright::types::{Query, QueryLanguage, Request, Retriever, Rewrite};

fn component(name: &str) -> Vec<u8> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    std::fs::read(root.join(format!("plugins/{name}/dist/{name}.wasm"))).unwrap()
}

fn digest(name: &str) -> String {
    Inspection::of(name, &component(name)).unwrap().sha256
}

/// A catalogue whose first document has this text.
fn catalog(first: &str) -> Catalog {
    let mut builder = CatalogBuilder::new();
    for (id, text) in [("a", first), ("b", "second"), ("c", "third")] {
        builder.push(id, [("text", text)]).unwrap();
    }
    builder.finish()
}

fn request(text: &str) -> Request {
    Request { text: text.into(), language: QueryLanguage::Plain, history: vec![], exclude: vec![], k: 10 }
}

/// Little of everything, so that faults come soon.
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
    Plugin::from_bytes(name, &component(name), &catalog(first), options, &|_, _| {}).map_err(|e| e.to_string())
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
            ("trap", FaultKind::Trap, "on demand"),
            ("recurse", FaultKind::Trap, "in function"),
            ("memory", FaultKind::Trap, "limits.memory_mib = 64"),
            ("nan", FaultKind::Parse, "score NaN"),
            ("infinite", FaultKind::Parse, "score inf"),
            ("unknown", FaultKind::Parse, "item 4294967295, and the catalogue has 3"),
            ("duplicate", FaultKind::Parse, "second time"),
            ("unsorted", FaultKind::Parse, "higher score"),
            ("many", FaultKind::Parse, "11 hits where at most 10"),
            ("fewer", FaultKind::Parse, "0 answers to 1"),
            ("more", FaultKind::Parse, "2 answers to 1"),
        ] {
            let begun = Instant::now();
            let fault = plugin.retrieve(&[request(text)]).remove(0).unwrap_err();
            assert_eq!(fault.kind, kind, "{text}: {fault}");
            assert!(fault.detail.contains(part), "{text}: {fault}");
            assert!(begun.elapsed() < Duration::from_secs(20), "{text} took {:?}", begun.elapsed());
            let next = plugin.retrieve(&[request("fine")]).remove(0).unwrap();
            assert_eq!(next.hits[0].doc, 0, "after {text}");
        }
        let excluded = Request { exclude: vec![1], ..request("excluded") };
        assert!(plugin.retrieve(&[excluded]).remove(0).unwrap_err().detail.contains("item 1, which was excluded"));
    }
}

#[test]
fn gigantic_answers_end_in_an_error_and_not_in_the_hosts_memory() {
    let plugin = load("hostile", "", options(Metering::Clock)).unwrap();
    for text in ["huge-list", "huge-text"] {
        let fault = plugin.retrieve(&[request(text)]).remove(0).unwrap_err();
        assert!(fault.detail.len() < 1000, "{text}: {} bytes", fault.detail.len());
        assert!(!fault.detail.contains('\u{1b}'), "{text}");
        assert!(plugin.retrieve(&[request("fine")]).remove(0).is_ok());
    }
}

#[test]
fn one_bad_request_spoils_no_other_of_its_batch() {
    let plugin = load("hostile", "", options(Metering::Clock)).unwrap();
    let texts: Vec<&str> = ["fine", "trap", "fine", "nan", "fine", "loop", "fine", "fewer", "fine"].repeat(3);
    let answers = plugin.retrieve(&texts.iter().map(|text| request(text)).collect::<Vec<_>>());
    assert_eq!(answers.len(), texts.len());
    for (text, answer) in texts.iter().zip(&answers) {
        assert_eq!(answer.is_ok(), *text == "fine", "{text}: {answer:?}");
    }
}

#[test]
fn a_plugin_that_cannot_load_is_refused_in_time_with_the_limit_that_it_hit() {
    for metering in [Metering::Clock, Metering::Fuel] {
        let out = if metering == Metering::Clock { "limits.load_ms = 500" } else { "limits.load_fuel = 200000000" };
        for (first, part) in [
            ("load:loop", out),
            ("commit:loop", out),
            ("load:trap", "load failed"),
            ("commit:trap", "commit failed"),
            ("load:memory", "limits.memory_mib = 64"),
            ("commit:memory", "limits.memory_mib = 64"),
            ("load:fault", "load said"),
        ] {
            let error = load("hostile", first, options(metering)).map(|_| ()).unwrap_err();
            assert!(error.contains(part) && error.starts_with("plugin hostile: "), "{first}: {error}");
            assert!(error.len() < 1500 && !error.contains('\u{7}'), "{first}: {} bytes", error.len());
        }
    }
}

#[test]
fn state_is_seen_by_later_requests_only_where_instances_are_kept() {
    let ask = |reuse| {
        let plugin = load("hostile", "", PluginOptions { reuse, ..options(Metering::Clock) }).unwrap();
        let score = |text: &str| plugin.retrieve(&[request(text)]).remove(0).unwrap().hits[0].score;
        score("remember:secret");
        (score("recall"), score("count"))
    };
    assert_eq!(ask(Reuse::EachSearch), (0.0, 1.0));
    assert_eq!(ask(Reuse::Searches(2)), (6.0, 1.0), "the third search finds a fresh instance");
    assert_eq!(ask(Reuse::UntilFault), (6.0, 3.0));
    let fuel = load("hostile", "", options(Metering::Fuel)).unwrap();
    let counts = fuel.retrieve(&vec![request("count"); 20]);
    assert!(counts.into_iter().all(|answer| answer.unwrap().hits[0].score == 1.0), "with fuel nothing is kept");
}

#[test]
fn what_was_not_granted_is_a_typed_answer_and_what_was_granted_works() {
    struct Ones;
    impl TextEncoder for Ones {
        fn dimensions(&self) -> usize {
            2
        }
        fn encode(&self, texts: &[String]) -> Result<Vec<Vec<f32>>, String> {
            Ok(texts.iter().map(|_| vec![1.0, 0.0]).collect())
        }
    }
    let bytes = component("greedy");
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let manifest = Manifest::read(&root.join("plugins/greedy/dist/plugin.toml")).unwrap();
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
        let plugin = Plugin::from_bytes("greedy", &bytes, &catalog(""), options, &|_, _| {}).unwrap();
        plugin.retrieve(&[request(text)]).remove(0).unwrap_err().detail
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
        let plugin = Plugin::from_bytes("greedy", &bytes, &catalog(""), options, &|_, _| {}).unwrap();
        plugin.card().digest.clone()
    };
    assert_eq!(digest_with(b"one"), digest_with(b"one"));
    assert_ne!(digest_with(b"one"), digest_with(b"two"), "caches must not serve what other weights ranked");
    let few = Grant { limits: Limits { host_bytes: 4, ..Limits::default() }, ..all() };
    let said = ask(few, "artifact:weights");
    assert!(said.contains("TooLarge") || said.contains("fuel"), "{said}");
}

#[test]
fn a_check_finds_out_who_remembers_breaks_the_contract_or_fails() {
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
fn a_flood_of_logs_is_cut_off_and_cannot_rewrite_a_terminal() {
    let lines: Arc<Mutex<Vec<String>>> = Arc::default();
    let sink = lines.clone();
    let manifest = Manifest {
        id: "flood".into(),
        version: "1.0.0".into(),
        sha256: digest("hostile"),
        capabilities: Wanted { log: true, ..Wanted::default() },
        limits: Limits { call_ms: 5_000, ..Limits::default() },
    };
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
    assert!(plugin.retrieve(&[request("flood")]).remove(0).is_ok());
    let lines = lines.lock().unwrap();
    assert!((100..5_000).contains(&lines.len()), "{}", lines.len());
    assert!(lines.iter().all(|line| !line.chars().any(char::is_control)));
}

#[test]
fn files_that_are_no_plugins_are_refused_with_what_they_are() {
    let refusal = |bytes: &[u8]| {
        let loaded = Plugin::from_bytes("x", bytes, &catalog(""), PluginOptions::default(), &|_, _| {});
        loaded.map(|_| ()).unwrap_err().to_string()
    };
    let good = component("hostile");
    assert!(refusal(b"").contains("no WebAssembly file"));
    assert!(refusal(b"hello, world").contains("no WebAssembly file"));
    assert!(refusal(b"\0asm\x01\0\0\0").contains("a core module"));
    assert!(refusal(&good[..good.len() / 2]).contains("broken"));
    assert!(refusal(b"\0asm\x0d\0\x01\0").contains("does not export querywright:plugin/recommender@0.1.0"));
    // A byte changed in forty places, one at a time: an error or a plugin that still answers, never a panic.
    for place in (8..good.len()).step_by(good.len() / 40) {
        let mut bytes = good.clone();
        bytes[place] ^= 0x55;
        if let Ok(plugin) = Plugin::from_bytes("x", &bytes, &catalog(""), options(Metering::Clock), &|_, _| {}) {
            drop(plugin.retrieve(&[request("fine")]));
        }
    }
    let place = good.windows(17).rposition(|w| w == b"recommender@0.1.0").unwrap();
    let mut bytes = good.clone();
    // The name of the export, wherever it stands, with another version of equal length.
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
        let error = Plugin::from_bytes("x", &good, &catalog(""), options, &|_, _| {}).unwrap_err().to_string();
        assert!(error.contains(&format!("limits.{key}: found")), "{error}");
    }
    let options = PluginOptions {
        grant: Grant { limits: Limits { component_mib: 1, ..Limits::default() }, ..Grant::default() },
        ..PluginOptions::default()
    };
    let large = Plugin::from_bytes("x", &vec![0; 2 << 20], &catalog(""), options, &|_, _| {}).unwrap_err().to_string();
    assert!(large.contains("limits.component_mib = 1"), "{large}");
}

#[test]
fn a_pinned_digest_holds_and_a_cache_serves_only_what_was_written() {
    let bytes = component("bm25");
    let shop = demo::demo(demo::SEED).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("cache");
    let load = |bytes: &[u8]| {
        let options = PluginOptions { cache: Some(own.clone()), ..PluginOptions::default() };
        Plugin::from_bytes("bm25", bytes, &shop.catalog, options, &|_, _| {})
    };
    let ask = |plugin: &Plugin| plugin.retrieve(&[request("cold feet in bed")]).remove(0).unwrap();
    let first = ask(&load(&bytes).unwrap());
    let entry = std::fs::read_dir(&own).unwrap().next().unwrap().unwrap().path();
    let kept = std::fs::read(&entry).unwrap();
    assert_eq!(ask(&load(&bytes).unwrap()), first, "from the cache");
    for damaged in [kept[..kept.len() / 2].to_vec(), [&kept[..100], &[0xAA; 64], &kept[164..]].concat(), Vec::new()] {
        std::fs::write(&entry, &damaged).unwrap();
        assert_eq!(ask(&load(&bytes).unwrap()), first, "made anew");
        assert_eq!(std::fs::read(&entry).unwrap().len(), kept.len());
    }
    // Several first loads at the same time.
    std::fs::remove_file(&entry).unwrap();
    std::thread::scope(|scope| {
        let loads: Vec<_> = (0..4).map(|_| scope.spawn(|| ask(&load(&bytes).unwrap()))).collect();
        loads.into_iter().for_each(|load| assert_eq!(load.join().unwrap(), first));
    });
    let mut manifest = Manifest {
        id: "bm25".into(),
        version: "0.1.0".into(),
        sha256: digest("bm25"),
        capabilities: Wanted::default(),
        limits: Limits::default(),
    };
    let pinned = |manifest: &Manifest| {
        let options = PluginOptions { manifest: Some(manifest.clone()), ..PluginOptions::default() };
        Plugin::from_bytes("bm25", &bytes, &shop.catalog, options, &|_, _| {})
    };
    assert_eq!(ask(&pinned(&manifest).unwrap()), first);
    manifest.sha256 = "0".repeat(64);
    assert!(pinned(&manifest).unwrap_err().to_string().contains("fetch the plugin again"));
}

#[test]
fn the_bm25_plugin_ranks_and_scores_as_the_native_retriever_does() {
    let shop = demo::demo(demo::SEED).unwrap();
    let native = Bm25::in_memory(shop.catalog.clone(), Bm25Config::default()).unwrap();
    for metering in [Metering::Clock, Metering::Fuel] {
        let options = PluginOptions { metering, ..PluginOptions::default() };
        let plugin = Plugin::from_bytes("bm25", &component("bm25"), &shop.catalog, options, &|_, _| {}).unwrap();
        let mut requests = Vec::new();
        for query in shop.split("test").unwrap() {
            requests.push(request(&query.text));
            for text in [
                format!("{} title:({})", query.text, query.text),
                format!("\"{}\" OR {}^2", query.text, query.text),
                query.text.split(' ').collect::<Vec<_>>().join(" AND "),
                query.text.split(' ').collect::<Vec<_>>().join(" -"),
            ] {
                requests.push(Request { language: QueryLanguage::Boolean, k: 50, ..request(&text) });
            }
        }
        let (mut found, mut same) = (0, 0);
        for ((request, ours), theirs) in requests.iter().zip(native.retrieve(&requests)).zip(plugin.retrieve(&requests))
        {
            let (ours, theirs) = (ours.unwrap(), theirs.unwrap());
            assert_eq!(ours.hits.len(), theirs.hits.len(), "{}", request.text);
            // A logarithm may differ in its last bit, and then so may scores that are equal but for that.
            for (a, b) in ours.hits.iter().zip(&theirs.hits) {
                assert!((a.score - b.score).abs() <= 1e-6 * a.score.abs(), "{}: {a:?} {b:?}", request.text);
                same += usize::from(a.doc == b.doc);
            }
            found += ours.hits.len();
        }
        assert!(found > 5_000 && same * 1000 >= found * 995, "{same} of {found} places hold the same document");
    }
}

/// Resident memory of this process, in KiB; none where the system does not say.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.trim().parse().ok())
}

/// As many requests as `QUERYWRIGHT_SOAK` says, 20,000 by default; one of a hundred is a fault.
#[test]
fn a_soak_with_faults_keeps_memory_flat_and_answers_right() {
    let count: usize = std::env::var("QUERYWRIGHT_SOAK").ok().and_then(|n| n.parse().ok()).unwrap_or(20_000);
    let plugin = load("hostile", "", options(Metering::Clock)).unwrap();
    let faults = ["trap", "nan", "recurse", "unknown", "fewer"];
    let mut before = None;
    for turn in 0..count / 100 {
        let mut batch = vec![request("fine"); 100];
        batch[turn % 100] = request(faults[turn % faults.len()]);
        for (place, answer) in plugin.retrieve(&batch).into_iter().enumerate() {
            assert_eq!(answer.is_ok(), place != turn % 100, "turn {turn}, request {place}: {answer:?}");
            assert!(answer.is_err() || answer.unwrap().hits[0].doc == 0);
        }
        if turn == count / 400 {
            before = resident();
        }
    }
    if let (Some(before), Some(after)) = (before, resident()) {
        println!("{count} requests; {before} KiB after a quarter, {after} at the end");
        // Other tests run in this process at the same time, so the bound is one for leaks and not for noise.
        assert!(after < before + (256 << 10), "{before} KiB became {after}");
    }
}

#[test]
fn the_dense_plugin_ranks_by_the_hosts_vectors() {
    /// Counts letters: texts that share letters are near.
    struct Letters;
    impl TextEncoder for Letters {
        fn dimensions(&self) -> usize {
            26
        }
        fn encode(&self, texts: &[String]) -> Result<Vec<Vec<f32>>, String> {
            Ok(texts.iter().map(|text| letters(text)).collect())
        }
    }
    fn letters(text: &str) -> Vec<f32> {
        let mut vector = [0f32; 26];
        text.bytes().filter(u8::is_ascii_lowercase).for_each(|b| vector[usize::from(b - b'a')] += 1.0);
        let norm = vector.iter().map(|v| v * v).sum::<f32>().sqrt().max(1e-9);
        vector.map(|v| v / norm).to_vec()
    }
    let shop = demo::demo(demo::SEED).unwrap();
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let options = PluginOptions {
        manifest: Some(Manifest::read(&root.join("plugins/dense/dist/plugin.toml")).unwrap()),
        grant: Grant { embed: true, ..Grant::default() },
        services: Services { encoder: Some(Arc::new(Letters)), ..Services::default() },
        ..PluginOptions::default()
    };
    let plugin = Plugin::from_bytes("dense", &component("dense"), &shop.catalog, options, &|_, _| {}).unwrap();
    let query = "a warm blanket";
    let found = plugin.retrieve(&[request(query)]).remove(0).unwrap();
    assert_eq!(found.hits.len(), 10);
    let wanted = letters(query);
    let score = |text: &str| letters(text).iter().zip(&wanted).map(|(a, b)| a * b).sum::<f32>();
    let mut best: Vec<f32> = shop.catalog.documents().map(|d| score(&d.text_of_all_fields())).collect();
    best.sort_by(|a, b| b.total_cmp(a));
    for (hit, want) in found.hits.iter().zip(best) {
        assert!((hit.score - want).abs() < 1e-5, "{} {want}", hit.score);
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

/// Next items of real histories: the plugin with sessions as an artifact against its formula written down as it stands.
#[test]
fn the_covisit_plugin_ranks_real_histories_as_its_formula_says() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/data/amazon-industrial");
    if !folder.is_dir() {
        println!("skipped: {} is not there", folder.display());
        return;
    }
    let data = Dataset::open(&folder).unwrap();
    let target = |query: &Query| data.qrels.get(&query.id).unwrap().iter().find(|j| j.1 > 0).unwrap().0;
    let id = |item: u32| data.catalog.document(item).id;
    let mut sessions = String::new();
    let mut weights: HashMap<u32, HashMap<u32, f64>> = HashMap::new();
    for query in data.split("train").unwrap() {
        let visits: Vec<u32> = query.history.iter().copied().chain([target(query)]).collect();
        for (place, item) in visits.iter().enumerate() {
            // All on one day, so that no weight fades.
            sessions.push_str(&format!("{}\t{}\t{place}\n", query.id, id(*item)));
            for (steps, later) in visits[place + 1..].iter().enumerate().take(10).filter(|(_, later)| *later != item) {
                *weights.entry(*item).or_default().entry(*later).or_default() += 1.0 / (steps + 1) as f64;
            }
        }
    }
    // Followers of an item, and the sum of all their weights; the hundred largest are kept.
    let followers: HashMap<u32, (f64, Vec<(u32, f64)>)> = weights
        .into_iter()
        .map(|(item, row)| {
            let (all, mut row) = (row.values().sum(), row.into_iter().collect::<Vec<_>>());
            row.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            row.truncate(100);
            (item, (all, row))
        })
        .collect();
    let scores = |history: &[u32]| {
        let mut scores: HashMap<u32, f64> = HashMap::new();
        for (n, item) in history.iter().rev().take(10).enumerate() {
            let Some((all, row)) = followers.get(item) else { continue };
            row.iter().for_each(|(j, w)| *scores.entry(*j).or_default() += 0.8f64.powi(n as i32) * w / all);
        }
        scores.retain(|item, _| !history.contains(item));
        scores
    };
    let manifest = Manifest {
        id: "covisit".into(),
        version: "0.1.0".into(),
        sha256: digest("covisit"),
        capabilities: Wanted { artifact: ["sessions.tsv".to_owned()].into(), ..Wanted::default() },
        limits: Limits::default(),
    };
    let options = PluginOptions {
        manifest: Some(manifest),
        grant: Grant { artifact: ["sessions.tsv".to_owned()].into(), ..Grant::default() },
        services: Services {
            artifacts: [("sessions.tsv".to_owned(), Arc::from(sessions.into_bytes()))].into(),
            ..Services::default()
        },
        ..PluginOptions::default()
    };
    let plugin = Plugin::from_bytes("covisit", &component("covisit"), &data.catalog, options, &|_, _| {}).unwrap();
    let queries: Vec<&Query> = data.split("test").unwrap().into_iter().take(1_000).collect();
    let requests: Vec<Request> = queries.iter().map(|q| Request::new(q, &Rewrite::plain(""), 10)).collect();
    let (mut hits, mut found) = (0, 0);
    for (query, answer) in queries.iter().zip(plugin.retrieve(&requests)) {
        let (ranking, scores) = (answer.unwrap(), scores(&query.history));
        assert_eq!(ranking.hits.len(), scores.len().min(10), "{}", query.id);
        let mut best: Vec<f64> = scores.values().copied().collect();
        best.sort_by(|a, b| b.total_cmp(a));
        for (hit, best) in ranking.hits.iter().zip(best) {
            let right = f64::from(hit.score);
            let own = scores[&hit.doc];
            assert!((right - best).abs() < 1e-5 && (own - right).abs() < 1e-5, "{}: {hit:?} {own} {best}", query.id);
        }
        hits += ranking.hits.len();
        found += usize::from(ranking.hits.iter().any(|hit| hit.doc == target(query)));
    }
    println!("{hits} hits; {found} of {} targets among the first ten", queries.len());
    assert!(hits > 3_000 && found > 50);
}

#[test]
fn the_popularity_plugin_counts_within_its_window_in_the_sandbox() {
    const DAY: i64 = 86_400;
    let mut builder = CatalogBuilder::new();
    // Item n was had n times lately, and 40 - n times long ago.
    for n in 0..40 {
        let times = (0..n).map(|i| 100 * DAY - i).chain((n..40).map(|i| 50 * DAY - i));
        let text = times.map(|t| t.to_string()).collect::<Vec<_>>().join(" ");
        builder.push(&n.to_string(), [("interactions", text)]).unwrap();
    }
    let catalog = builder.finish();
    let load = |window: Option<&str>| {
        let manifest = Manifest {
            id: "popularity".into(),
            version: "0.1.0".into(),
            sha256: digest("popularity"),
            capabilities: Wanted { artifact: ["window-days".to_owned()].into(), ..Wanted::default() },
            limits: Limits::default(),
        };
        let artifacts = window.map(|days| ("window-days".to_owned(), Arc::from(days.as_bytes())));
        let options = PluginOptions {
            manifest: Some(manifest),
            grant: Grant { artifact: ["window-days".to_owned()].into(), ..Grant::default() },
            services: Services { artifacts: artifacts.into_iter().collect(), ..Services::default() },
            ..PluginOptions::default()
        };
        Plugin::from_bytes("popularity", &component("popularity"), &catalog, options, &|_, _| {}).unwrap()
    };
    let ranked = |plugin: &Plugin| {
        let request = Request { exclude: vec![38], k: 5, ..request("anything") };
        let ranking = plugin.retrieve(&[request]).remove(0).unwrap();
        ranking.hits.iter().map(|hit| (hit.doc, hit.score)).collect::<Vec<_>>()
    };
    assert_eq!(ranked(&load(Some("7"))), [(39, 39.0), (37, 37.0), (36, 36.0), (35, 35.0), (34, 34.0)]);
    assert_eq!(ranked(&load(None)), [(0, 40.0), (1, 40.0), (2, 40.0), (3, 40.0), (4, 40.0)]);
}

/// A search engine that speaks `_search` on a port of this machine; it gives these answers in turn and tells what it was
/// asked.
fn engine(answers: &'static [(u16, &'static str)]) -> (String, std::sync::mpsc::Receiver<String>) {
    use std::io::{BufRead, BufReader, Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for (status, body) in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let (mut line, mut length) = (String::new(), 0);
            while reader.read_line(&mut line).unwrap() > 2 {
                if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                line.clear();
            }
            let mut asked = vec![0; length];
            reader.read_exact(&mut asked).unwrap();
            tell.send(String::from_utf8(asked).unwrap()).unwrap();
            let head = format!("HTTP/1.1 {status} x\r\ncontent-type: application/json\r\nconnection: close\r\n");
            stream.write_all(format!("{head}content-length: {}\r\n\r\n{body}", body.len()).as_bytes()).unwrap();
        }
    });
    (address, told)
}

#[test]
fn the_remote_plugin_asks_a_search_engine_over_http() {
    let (address, told) = engine(&[
        (
            200,
            r#"{"timed_out": false, "_shards": {"total": 1, "successful": 1, "skipped": 0, "failed": 0},
                "hits": {"hits": [{"_id": "b", "_score": 2.5}, {"_id": "elsewhere", "_score": 2.0},
                                  {"_id": "a", "_score": 1.0}]}}"#,
        ),
        (503, r#"{"error": "busy"}"#),
    ]);
    let host = [address.clone()];
    let manifest = Manifest {
        id: "remote".into(),
        version: "0.1.0".into(),
        sha256: digest("remote"),
        capabilities: Wanted {
            artifact: ["remote.json".to_owned()].into(),
            http: host.clone().into(),
            ..Wanted::default()
        },
        limits: Limits::default(),
    };
    let settings = format!(r#"{{"url": "http://{address}/shop/_search", "fields": ["text"]}}"#);
    let load = |granted: &[String]| {
        let options = PluginOptions {
            manifest: Some(manifest.clone()),
            grant: Grant {
                artifact: ["remote.json".to_owned()].into(),
                http: granted.iter().cloned().collect(),
                ..Grant::default()
            },
            services: Services {
                artifacts: [("remote.json".to_owned(), Arc::from(settings.clone().into_bytes()))].into(),
                ..Services::default()
            },
            ..PluginOptions::default()
        };
        Plugin::from_bytes("remote", &component("remote"), &catalog("first"), options, &|_, _| {}).unwrap()
    };
    let ask = |plugin: &Plugin| plugin.retrieve(&[Request { exclude: vec![2], ..request("blue lamp") }]).remove(0);
    let denied = ask(&load(&[])).unwrap_err();
    assert!(denied.kind == FaultKind::Refused && denied.detail.contains("http"), "{denied}");
    let plugin = load(&host);
    let ranking = ask(&plugin).unwrap();
    let hits: Vec<(u32, f32)> = ranking.hits.iter().map(|hit| (hit.doc, hit.score)).collect();
    assert_eq!(hits, [(1, 2.5), (0, 1.0)], "what the catalogue lacks is passed over");
    let asked = told.recv_timeout(Duration::from_secs(10)).unwrap();
    assert!(asked.contains("blue lamp") && asked.contains("\"c\""), "the excluded item goes along: {asked}");
    let busy = ask(&plugin).unwrap_err();
    assert!(busy.detail.contains("503"), "{busy}");
    let gone = ask(&plugin).unwrap_err();
    assert_eq!(gone.kind, FaultKind::Network, "nobody listens any more: {gone}");
}
