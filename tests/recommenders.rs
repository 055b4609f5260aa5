//! The recommenders of `plugins/` in the sandbox, each compared with an independent implementation: the native retriever,
//! the vectors of the host, direct formulas, a search engine on a local port.

mod guests;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use guests::{built, catalog, component, manifest, request};
use querywright::catalog::{Catalog, CatalogBuilder, Dataset, demo};
use querywright::error::FaultKind;
use querywright::plugin::{Grant, Manifest, Metering, Plugin, PluginOptions, Services, TextEncoder, TextRole, Wanted};
use querywright::retrieve::{Bm25, Bm25Config};
use querywright::stack::reciprocal_rank_fusion;
use querywright::types::{Deadline, Hit, Query, QueryLanguage, Ranking, Request, Retriever, Rewrite};

#[test]
fn the_bm25_plugin_ranks_and_scores_as_the_native_retriever_does() {
    let shop = demo::demo(demo::SEED).unwrap();
    let native = Bm25::in_memory(shop.catalog.clone(), Bm25Config::default()).unwrap();
    for metering in [Metering::Clock, Metering::Fuel] {
        let options = PluginOptions { metering, ..PluginOptions::default() };
        let plugin = Plugin::from_bytes("bm25", &component("bm25"), &shop.catalog, options, &()).unwrap();
        let mut requests = Vec::new();
        for query in shop.split("test").unwrap() {
            requests.push(request(&query.text));
            for text in [
                format!("{} title:({})", query.text, query.text),
                format!("\"{}\" OR {}^2", query.text, query.text),
                query.text.split(' ').collect::<Vec<_>>().join(" AND "),
                query.text.split(' ').collect::<Vec<_>>().join(" -"),
            ] {
                requests.push(request(&text).with_language(QueryLanguage::Boolean).with_k(50));
            }
        }
        let (mut found, mut same) = (0, 0);
        for ((request, ours), theirs) in requests
            .iter()
            .zip(native.retrieve(&requests, Deadline::NONE))
            .zip(plugin.retrieve(&requests, Deadline::NONE))
        {
            let (ours, theirs) = (ours.unwrap(), theirs.unwrap());
            assert_eq!(ours.hits.len(), theirs.hits.len(), "{}", request.text);
            // The two logarithms may differ in the last bit, so documents of nearly equal scores may change places.
            for (a, b) in ours.hits.iter().zip(&theirs.hits) {
                assert!((a.score - b.score).abs() <= 1e-6 * a.score.abs(), "{}: {a:?} {b:?}", request.text);
                same += usize::from(a.doc == b.doc);
            }
            found += ours.hits.len();
        }
        assert!(found > 5_000 && same * 1000 >= found * 995, "{same} of {found} places hold the same document");
    }
}

/// Counts letters, so that texts with the same letters have similar vectors; a query's begins with an `x`.
#[derive(Default)]
struct Letters {
    digest: Option<String>,
    encoded: AtomicUsize,
}

impl TextEncoder for Letters {
    fn dimensions(&self) -> usize {
        26
    }
    fn digest(&self) -> Option<String> {
        self.digest.clone()
    }
    fn encode(&self, texts: &[String], role: TextRole, _: Deadline) -> querywright::Result<Vec<Vec<f32>>> {
        self.encoded.fetch_add(texts.len(), Ordering::SeqCst);
        Ok(texts
            .iter()
            .map(|text| if role == TextRole::Query { letters(&format!("x{text}")) } else { letters(text) })
            .collect())
    }
}

fn letters(text: &str) -> Vec<f32> {
    let mut vector = [0f32; 26];
    text.bytes().filter(u8::is_ascii_lowercase).for_each(|b| vector[usize::from(b - b'a')] += 1.0);
    let norm = vector.iter().map(|v| v * v).sum::<f32>().sqrt().max(1e-9);
    vector.map(|v| v / norm).to_vec()
}

/// The hybrid plugin with an encoder.
fn hybrid(encoder: &Arc<Letters>, catalog: &Catalog, cache: Option<&Path>) -> querywright::Result<Plugin> {
    let options = PluginOptions {
        manifest: Some(Manifest::read(&built("dense", "plugin.toml"))?),
        grant: Grant { embed: true, ..Grant::default() },
        services: Services { encoder: Some(encoder.clone()), ..Services::default() },
        cache: cache.map(Path::to_owned),
        ..PluginOptions::default()
    };
    Plugin::from_bytes("dense", &component("dense"), catalog, options, &())
}

#[test]
fn the_dense_plugin_fuses_words_and_the_hosts_vectors_as_the_native_parts_do() {
    let shop = demo::demo(demo::SEED).unwrap();
    let plugin = hybrid(&Arc::default(), &shop.catalog, None).unwrap();
    let native = Bm25::in_memory(shop.catalog.clone(), Bm25Config::default()).unwrap();
    let vectors: Vec<Vec<f32>> = shop.catalog.documents().map(|d| letters(&d.text_of_all_fields())).collect();
    for text in ["a warm blanket", "kettle", "zzz"] {
        let deep = request(text).with_k(100);
        let words = native.retrieve(std::slice::from_ref(&deep), Deadline::NONE).remove(0).unwrap();
        let query = letters(&format!("x{text}"));
        let score = |vector: &Vec<f32>| vector.iter().zip(&query).map(|(a, b)| a * b).sum();
        let near = Ranking::best((0..).zip(&vectors).map(|(doc, v)| Hit { doc, score: score(v) }), &deep);
        let wanted = reciprocal_rank_fusion(&[words, near], 10);
        let found = plugin.retrieve(&[request(text)], Deadline::NONE).remove(0).unwrap();
        assert_eq!(found.hits.len(), 10);
        for (hit, want) in found.hits.iter().zip(&wanted.hits) {
            // Equal inner products may differ by the order of their sums, and change places: a rank more or less.
            assert!((hit.score - want.score).abs() < 3e-4, "{text}: {hit:?} {want:?}");
        }
    }
}

#[test]
fn a_plugin_with_an_encoder_of_a_known_digest_is_kept_and_its_card_tells_encoders_apart() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("compiled");
    let (catalog, encoded) = (catalog("first"), |encoder: &Letters| encoder.encoded.load(Ordering::SeqCst));
    let known = |digest: &str| Arc::new(Letters { digest: Some(digest.into()), ..Letters::default() });
    let open = |encoder: &Arc<Letters>| hybrid(encoder, &catalog, Some(&cache)).unwrap();
    let one = known("one");
    let first = open(&one);
    assert_eq!(encoded(&one), 3);
    let again = open(&one);
    assert_eq!(encoded(&one), 3, "its documents lie in the memory that was kept");
    let ask = |plugin: &Plugin| plugin.retrieve(&[request("second")], Deadline::NONE).remove(0).unwrap();
    assert_eq!(ask(&first), ask(&again));
    let other = known("other");
    assert_ne!(open(&other).card().digest, first.card().digest, "caches must not serve rankings of other vectors");
    assert_eq!(encoded(&other), 3);
    let unknown: Arc<Letters> = Arc::default();
    drop([open(&unknown), open(&unknown)]);
    assert_eq!(encoded(&unknown), 6, "what is not known to be the same is loaded again");
}

/// Next items of real histories. The plugin gets the sessions as an artifact, and is compared with its formula.
#[test]
fn the_covisit_plugin_ranks_real_histories_as_its_formula_says() {
    let Some(folder) = querywright_testing::data("amazon-industrial") else { return };
    let data = Dataset::open(&folder).unwrap();
    let target = |query: &Query| data.qrels.get(&query.id).unwrap().iter().find(|j| j.1 > 0).unwrap().0;
    let id = |item: u32| data.catalog.document(item).id;
    let mut sessions = String::new();
    let mut weights: HashMap<u32, HashMap<u32, f64>> = HashMap::new();
    for query in data.split("train").unwrap() {
        let visits: Vec<u32> = query.history.iter().copied().chain([target(query)]).collect();
        for (place, item) in visits.iter().enumerate() {
            // All on one day, so that no weight decays.
            sessions.push_str(&format!("{}\t{}\t{place}\n", query.id, id(*item)));
            for (steps, later) in visits[place + 1..].iter().enumerate().take(10).filter(|(_, later)| *later != item) {
                *weights.entry(*item).or_default().entry(*later).or_default() += 1.0 / (steps + 1) as f64;
            }
        }
    }
    // The hundred largest followers of each item, and the sum of the weights of all its followers.
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
    let manifest = manifest("covisit", Wanted { artifact: ["sessions.tsv".to_owned()].into(), ..Wanted::default() });
    let options = PluginOptions {
        manifest: Some(manifest),
        grant: Grant { artifact: ["sessions.tsv".to_owned()].into(), ..Grant::default() },
        services: Services {
            artifacts: [("sessions.tsv".to_owned(), Arc::from(sessions.into_bytes()))].into(),
            ..Services::default()
        },
        ..PluginOptions::default()
    };
    let plugin = Plugin::from_bytes("covisit", &component("covisit"), &data.catalog, options, &()).unwrap();
    let queries: Vec<&Query> = data.split("test").unwrap().into_iter().take(1_000).collect();
    let requests: Vec<Request> = queries.iter().map(|q| Request::new(q, &Rewrite::plain(""), 10)).collect();
    let (mut hits, mut found) = (0, 0);
    for (query, answer) in queries.iter().zip(plugin.retrieve(&requests, Deadline::NONE)) {
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
    // Item n has n recent interactions, and 40 - n old ones.
    for n in 0..40 {
        let times = (0..n).map(|i| 100 * DAY - i).chain((n..40).map(|i| 50 * DAY - i));
        let text = times.map(|t| t.to_string()).collect::<Vec<_>>().join(" ");
        builder.push(&n.to_string(), [("interactions", text)]).unwrap();
    }
    let catalog = builder.finish();
    let load = |window: Option<&str>| {
        let manifest =
            manifest("popularity", Wanted { artifact: ["window-days".to_owned()].into(), ..Wanted::default() });
        let artifacts = window.map(|days| ("window-days".to_owned(), Arc::from(days.as_bytes())));
        let options = PluginOptions {
            manifest: Some(manifest),
            grant: Grant { artifact: ["window-days".to_owned()].into(), ..Grant::default() },
            services: Services { artifacts: artifacts.into_iter().collect(), ..Services::default() },
            ..PluginOptions::default()
        };
        Plugin::from_bytes("popularity", &component("popularity"), &catalog, options, &()).unwrap()
    };
    let ranked = |plugin: &Plugin| {
        let request = request("anything").with_exclude([38]).with_k(5);
        let ranking = plugin.retrieve(&[request], Deadline::NONE).remove(0).unwrap();
        ranking.hits.iter().map(|hit| (hit.doc, hit.score)).collect::<Vec<_>>()
    };
    assert_eq!(ranked(&load(Some("7"))), [(39, 39.0), (37, 37.0), (36, 36.0), (35, 35.0), (34, 34.0)]);
    assert_eq!(ranked(&load(None)), [(0, 40.0), (1, 40.0), (2, 40.0), (3, 40.0), (4, 40.0)]);
}

/// A search engine with the `_search` endpoint on a local port. It sends these answers in turn, and the bodies of its
/// requests to the receiver.
fn engine(answers: &'static [(u16, &'static str)]) -> (String, std::sync::mpsc::Receiver<String>) {
    use std::io::{BufRead, BufReader, Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (sender, received) = std::sync::mpsc::channel();
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
            sender.send(String::from_utf8(asked).unwrap()).unwrap();
            let head = format!("HTTP/1.1 {status} x\r\ncontent-type: application/json\r\nconnection: close\r\n");
            stream.write_all(format!("{head}content-length: {}\r\n\r\n{body}", body.len()).as_bytes()).unwrap();
        }
    });
    (address, received)
}

#[test]
fn the_remote_plugin_asks_a_search_engine_over_http() {
    let (address, received) = engine(&[
        (
            200,
            r#"{"timed_out": false, "_shards": {"total": 1, "successful": 1, "skipped": 0, "failed": 0},
                "hits": {"hits": [{"_id": "b", "_score": 2.5}, {"_id": "unknown", "_score": 2.0},
                                  {"_id": "a", "_score": 1.0}]}}"#,
        ),
        (503, r#"{"error": "busy"}"#),
    ]);
    let host = [address.clone()];
    let manifest = manifest(
        "remote",
        Wanted { artifact: ["remote.json".to_owned()].into(), http: host.clone().into(), ..Wanted::default() },
    );
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
        Plugin::from_bytes("remote", &component("remote"), &catalog("first"), options, &()).unwrap()
    };
    let ask = |plugin: &Plugin| plugin.retrieve(&[request("blue lamp").with_exclude([2])], Deadline::NONE).remove(0);
    let denied = ask(&load(&[])).unwrap_err();
    assert!(denied.kind == FaultKind::Refused && denied.detail.contains("http"), "{denied}");
    let plugin = load(&host);
    let ranking = ask(&plugin).unwrap();
    let hits: Vec<(u32, f32)> = ranking.hits.iter().map(|hit| (hit.doc, hit.score)).collect();
    assert_eq!(hits, [(1, 2.5), (0, 1.0)], "hits that the catalogue does not have are ignored");
    let asked = received.recv_timeout(Duration::from_secs(10)).unwrap();
    assert!(asked.contains("blue lamp") && asked.contains("\"c\""), "the excluded item is sent: {asked}");
    let busy = ask(&plugin).unwrap_err();
    // An instance that has seen other callers is not quoted.
    assert_eq!(busy.kind, FaultKind::Network, "{busy}");
    let gone = ask(&plugin).unwrap_err();
    assert_eq!(gone.kind, FaultKind::Network, "nobody listens any more: {gone}");
}
