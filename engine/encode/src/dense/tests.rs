use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::*;
use querywright_data::catalog::CatalogBuilder;
use querywright_testing::golden;
use querywright_types::{Progress, retrieve};

fn encoder(name: &str) -> Arc<Encoder> {
    Arc::new(Encoder::open(&golden(name), &EncoderConfig::default()).unwrap())
}

fn catalog(texts: &[&str]) -> Arc<Catalog> {
    let mut builder = CatalogBuilder::new();
    for (at, text) in texts.iter().enumerate() {
        builder.push(&format!("d{at}"), [("title", *text)]).unwrap();
    }
    Arc::new(builder.finish())
}

/// Some words, in an order that a number decides.
fn texts(count: usize) -> Vec<String> {
    let words = ["warm", "dry", "door", "front", "the", "and", "draught", "cold", "air", "9"];
    let word = |n: usize, at: usize| words[(n * 7 + at * at * 3 + n / 5) % words.len()];
    (0..count).map(|n| (0..3 + n % 5).map(|at| word(n, at)).collect::<Vec<_>>().join(" ")).collect()
}

fn dense(name: &str, count: usize) -> Dense {
    let texts = texts(count);
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    Dense::in_memory(catalog(&texts), encoder(name), "doors", &()).unwrap()
}

#[test]
fn the_ranking_is_that_of_a_scan_over_all_documents() {
    // Compared by the angle and by the product; more rows than a block has, more queries than a pass has.
    for (name, count) in [("tiny-bert", scan::ROWS + 300), ("tiny-roberta", 60)] {
        let dense = dense(name, count);
        let requests: Vec<Request> = texts(QUERIES + 5)
            .into_iter()
            .enumerate()
            .map(|(at, text)| Request::plain(text, [1, 10, 5000][at % 3]).with_exclude([3, 0]))
            .collect();
        let answers = retrieve(&dense, &requests, Deadline::NONE);
        for (request, answer) in requests.iter().zip(answers) {
            let encoder = dense.encoder();
            let query = encoder.encode(&[&request.text], InputType::Query, Deadline::NONE, &()).unwrap();
            let score = |doc: u32| dense.rows().score(doc, &query);
            let mut right: Vec<(u32, f32)> =
                (0..count as u32).filter(|doc| ![3, 0].contains(doc)).map(|doc| (doc, score(doc))).collect();
            right.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap().then(a.0.cmp(&b.0)));
            right.truncate(request.k);
            let found: Vec<(u32, f32)> = answer.unwrap().hits.iter().map(|hit| (hit.doc, hit.score)).collect();
            assert_eq!(found, right);
            for (doc, score) in found.iter().take(10) {
                let exact: f64 =
                    dense.vector(*doc).unwrap().iter().zip(&query).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                assert!((exact - f64::from(*score)).abs() < 1e-4, "{exact} {score}");
            }
        }
    }
}

/// A catalogue of texts that all differ.
fn varied(name: &str, count: usize) -> Dense {
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let text = |_| {
        let words = 2 + next() % 5;
        let word = |_| (0..1 + next() % 4).map(|_| char::from(b'a' + (next() % 26) as u8)).collect::<String>();
        (0..words).map(word).collect::<Vec<_>>().join(" ")
    };
    let texts: Vec<String> = (0..count).map(text).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    Dense::in_memory(catalog(&texts), encoder(name), "doors", &()).unwrap()
}

/// A configuration of the search alone.
fn search(index: VectorIndex, precision: VectorPrecision) -> DenseConfig {
    let hnsw = match index {
        VectorIndex::Hnsw => HnswConfig { m: 8, ef_construction: 60, ef_search: 60 },
        _ => HnswConfig::default(),
    };
    DenseConfig { index, precision, hnsw, ..DenseConfig::default() }
}

/// The same vectors, found by looking at all of them.
fn again(dense: &Dense) -> Dense {
    Dense::new(dense.catalog.clone(), dense.encoder.clone(), "doors", dense.vectors.clone())
}

/// Requests of some sizes, with and without excluded documents.
fn requests() -> Vec<Request> {
    let of = |(at, text): (usize, String)| Request::plain(text, [1, 10, 100][at % 3]).with_exclude([3, 0, 9_000_000]);
    texts(QUERIES + 5).into_iter().enumerate().map(of).collect()
}

/// The share of the right hits that are found, with the same scores; lists must be as long as the right ones.
fn share(found: &Dense, right: &Dense, requests: &[Request]) -> f64 {
    let [found, right] = [found, right].map(|dense| retrieve(dense, requests, Deadline::NONE));
    let (mut same, mut all) = (0, 0);
    for (found, right) in found.into_iter().zip(right) {
        let (found, right) = (found.unwrap().hits, right.unwrap().hits);
        assert_eq!(found.len(), right.len());
        same += right.iter().filter(|hit| found.contains(hit)).count();
        all += right.len();
    }
    same as f64 / all as f64
}

#[test]
fn documents_that_are_looked_at_in_bf16_are_ranked_as_in_single_precision_hit_by_hit() {
    let requests = requests();
    for name in ["tiny-bert", "tiny-roberta"] {
        let exact = varied(name, 800);
        let rounded = search(VectorIndex::Exact, VectorPrecision::Bf16);
        let rounded = again(&exact).with_search(&rounded, None, &()).unwrap();
        let [found, right] = [&rounded, &exact].map(|dense| retrieve(dense, &requests, Deadline::NONE));
        assert_eq!(found, right, "{name}");
        assert_eq!(rounded.card(), exact.card());
    }
    let none = Dense::in_memory(catalog(&[]), encoder("tiny-bert"), "doors", &()).unwrap();
    let none = none.with_search(&search(VectorIndex::Exact, VectorPrecision::Bf16), None, &()).unwrap();
    assert!(retrieve(&none, &requests[..1], Deadline::NONE)[0].as_ref().unwrap().hits.is_empty());
}

#[test]
fn a_graph_finds_nearly_all_says_how_much_and_is_read_again_on_the_second_start() {
    let folder = tempfile::tempdir().unwrap();
    let config = search(VectorIndex::Hnsw, VectorPrecision::F32);
    let (exact, requests) = (varied("tiny-bert", 800), requests());
    let linked = AtomicU64::new(0);
    let tell = |progress: Progress<'_>| {
        linked.fetch_max(progress.done, Ordering::Relaxed);
    };
    let open = |config: &DenseConfig| again(&exact).with_search(config, Some(folder.path()), &tell).unwrap();
    let first = open(&config);
    assert!(linked.swap(0, Ordering::Relaxed) > 700);
    let recall = first.recall().unwrap();
    assert!(recall.at_10 > 0.9 && recall.at_10 <= 1.0 && recall.sampled == 100, "{recall:?}");
    assert!(share(&first, &exact, &requests) > 0.9);
    assert!(first.card().version.contains("recall@10") && first.card().digest != exact.card().digest);
    let second = open(&config);
    assert_eq!(linked.load(Ordering::Relaxed), 0, "it lay there");
    assert_eq!(second.recall(), first.recall());
    assert_eq!(retrieve(&second, &requests, Deadline::NONE), retrieve(&first, &requests, Deadline::NONE));
    // The graph of another ef is the same one, and what it finds is measured again.
    let hnsw = HnswConfig { ef_search: 1, ..config.hnsw };
    let narrow = open(&DenseConfig { hnsw, ..config.clone() });
    assert_eq!(linked.load(Ordering::Relaxed), 0);
    assert!(narrow.recall().unwrap().at_10 <= recall.at_10 && narrow.card().digest != first.card().digest);
    // Other links are another graph, and a damaged one is made anew.
    open(&DenseConfig { hnsw: HnswConfig { m: 6, ..config.hnsw }, ..config.clone() });
    assert!(linked.swap(0, Ordering::Relaxed) > 700);
    for entry in std::fs::read_dir(folder.path()).unwrap().map(Result::unwrap) {
        if entry.path().extension().is_some_and(|kind| kind == "hnsw") {
            let mut bytes = std::fs::read(entry.path()).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            std::fs::write(entry.path(), bytes).unwrap();
        }
    }
    assert_eq!(retrieve(&open(&config), &requests, Deadline::NONE), retrieve(&first, &requests, Deadline::NONE));
    assert!(linked.load(Ordering::Relaxed) > 700, "made anew");
}

#[test]
fn through_a_graph_there_are_never_fewer_hits_than_documents_and_ties_go_by_ordinal() {
    let config = search(VectorIndex::Hnsw, VectorPrecision::F32);
    // Of equal vectors, most of which no link leads to.
    let same = vec!["warm door"; 400];
    let exact = Dense::in_memory(catalog(&same), encoder("tiny-bert"), "doors", &()).unwrap();
    let equal = again(&exact).with_search(&config, None, &()).unwrap();
    for request in [
        Request::plain("cold air", 10),
        Request::plain("cold air", 99).with_exclude(0..390),
        Request::plain("cold air", 5000),
        Request::plain("cold air", 3).with_exclude(0..400),
        Request::plain("cold air", 60).with_exclude([5, 5, 7]),
    ] {
        let request = [request];
        let [found, right] = [&equal, &exact].map(|dense| retrieve(dense, &request, Deadline::NONE));
        assert_eq!(found[0].as_ref().unwrap().hits.len(), right[0].as_ref().unwrap().hits.len());
        if request[0].k == 10 || request[0].exclude.len() > 300 {
            assert_eq!(found, right);
        }
    }
    for count in [0, 1, 2, 5] {
        let few = dense("tiny-bert", count).with_search(&config, None, &()).unwrap();
        assert_eq!(share(&few, &dense("tiny-bert", count), &[Request::plain("warm", 1)]).max(0.0), share_of(count));
    }
}

/// Where there is nothing to find there is no share.
fn share_of(count: usize) -> f64 {
    if count == 0 { 0.0 } else { 1.0 }
}

#[test]
fn settings_of_the_search_that_do_not_go_together_are_refused_by_their_key() {
    let both = search(VectorIndex::Hnsw, VectorPrecision::Bf16);
    let idle = DenseConfig { hnsw: HnswConfig { m: 16, ..HnswConfig::default() }, ..DenseConfig::default() };
    let wrong = HnswConfig { ef_search: 0, ..HnswConfig::default() };
    let wrong = DenseConfig { hnsw: wrong, index: VectorIndex::Hnsw, ..DenseConfig::default() };
    for (config, key) in [(both, "precision"), (idle, "index is exact"), (wrong, "hnsw.ef_search")] {
        let refused = dense("tiny-bert", 3).with_search(&config, None, &()).unwrap_err().to_string();
        assert!(refused.contains(key), "{refused}");
    }
}

#[test]
fn equal_documents_are_ordered_by_ordinal_and_a_document_finds_itself() {
    let texts = ["warm door", "cold air", "warm door", "the front", "warm door"];
    let dense = Dense::in_memory(catalog(&texts), encoder("tiny-distilbert"), "doors", &()).unwrap();
    let answer = retrieve(&dense, &[Request::plain("warm door", 5)], Deadline::NONE).remove(0).unwrap();
    assert_eq!(answer.hits.iter().map(|hit| hit.doc).take(3).collect::<Vec<_>>(), [0, 2, 4]);
    assert!(answer.hits.iter().take(3).all(|hit| (hit.score - 1.0).abs() < 1e-5));
    let own = dense.vector(1).unwrap().to_vec();
    let found = dense.search(&[own], &[Request::plain("not read", 1)]).unwrap();
    assert_eq!(found[0].hits[0].doc, 1);
    assert!(dense.search(&[vec![0.0; 3]], &[Request::plain("", 1)]).unwrap_err().to_string().contains("20 finite"));
    assert!(dense.search(&[], &[Request::plain("", 1)]).unwrap_err().to_string().contains("for 1 requests"));
    assert_eq!(dense.vector(5), None);
}

#[test]
fn an_empty_catalogue_and_no_requests_have_empty_answers() {
    let dense = Dense::in_memory(catalog(&[]), encoder("tiny-bert"), "nothing", &()).unwrap();
    assert!(retrieve(&dense, &[], Deadline::NONE).is_empty());
    assert!(retrieve(&dense, &[Request::plain("x", 3)], Deadline::NONE)[0].as_ref().unwrap().hits.is_empty());
}

#[test]
fn a_late_request_is_a_fault_and_never_half_a_ranking() {
    let dense = dense("tiny-bert", 5);
    let late = Deadline::after(Duration::ZERO);
    let answers = dense.retrieve(&[Request::plain("a", 3), Request::plain("b", 3)], late);
    assert_eq!(answers.len(), 2);
    assert!(answers.iter().all(|answer| answer.as_ref().unwrap_err().kind == FaultKind::Timeout));
    // Encoded in time, and the deadline passed then.
    let requests: Vec<Request> = texts(QUERIES + 3).into_iter().map(|text| Request::plain(text, 3)).collect();
    let queries = vec![0.5; requests.len() * dense.encoder().width()];
    let answers = dense.nearest(&queries, &requests, late);
    assert_eq!(answers.len(), requests.len());
    assert!(answers.iter().all(|answer| answer.as_ref().unwrap_err().kind == FaultKind::Timeout));
    assert!(dense.nearest(&queries, &requests, Deadline::NONE).iter().all(Result::is_ok));
}

#[test]
fn a_boolean_request_is_encoded_by_its_words() {
    let dense = dense("tiny-bert", 20);
    let boolean =
        Request::plain("(warm dry)^2 title:\"front door\" air^0.31", 20).with_language(QueryLanguage::Boolean);
    assert_eq!(dense.text(&boolean), "warm dry front door air");
    let plain = Request::plain("warm dry front door air", 20);
    let answers = retrieve(&dense, &[boolean, plain.clone()], Deadline::NONE);
    assert_eq!(answers[0], answers[1]);
    let kept = Request::plain("(warm dry)^2", 20).with_language(QueryLanguage::Natural);
    assert_eq!(dense.text(&kept), "(warm dry)^2", "other languages have no such syntax");
}

#[test]
fn the_card_says_what_it_reads_and_tells_everything_apart_that_ranks_otherwise() {
    let card = dense("tiny-bert", 4).card().clone();
    assert_eq!((card.name.as_str(), card.languages[0]), ("dense", QueryLanguage::Natural));
    assert!(card.fields.is_empty() && card.reads_text && !card.reads_history);
    assert_eq!((card.documents, card.content.as_str()), (Some(4), "doors"));
    let with = |config: EncoderConfig| {
        let encoder = Arc::new(Encoder::open(&golden("tiny-bert"), &config).unwrap());
        Dense::in_memory(catalog(&["warm"]), encoder, "doors", &()).unwrap().card().digest.clone()
    };
    let given = |text: &str| Some(text.to_owned());
    let digests: BTreeSet<String> = [
        EncoderConfig::default(),
        EncoderConfig { query_prefix: given("find: "), ..EncoderConfig::default() },
        EncoderConfig { document_prefix: given("text: "), ..EncoderConfig::default() },
        EncoderConfig { max_tokens: Some(9), ..EncoderConfig::default() },
    ]
    .map(with)
    .into();
    assert_eq!(digests.len(), 4);
    assert!(!digests.contains(&card.digest), "another catalogue");
}

#[test]
fn the_second_start_encodes_nothing_and_ranks_alike() {
    let folder = tempfile::tempdir().unwrap();
    let texts = texts(40);
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let catalog = catalog(&texts);
    let (encoder, encoded) = (encoder("tiny-modernbert"), AtomicU64::new(0));
    let tell = |progress: Progress<'_>| {
        encoded.fetch_max(progress.done, Ordering::Relaxed);
    };
    let opened = |catalog: &Arc<Catalog>| {
        Dense::open_or_build(catalog.clone(), encoder.clone(), "doors", folder.path(), &tell).unwrap()
    };
    let first = opened(&catalog);
    assert_eq!(encoded.swap(0, Ordering::Relaxed), 40);
    let second = opened(&catalog);
    assert_eq!(encoded.load(Ordering::Relaxed), 0, "they lay there");
    assert_eq!(first.vectors, second.vectors);
    assert_eq!(first.card().digest, second.card().digest);
    let request = [Request::plain("warm front door", 7)];
    assert_eq!(first.retrieve(&request, Deadline::NONE), second.retrieve(&request, Deadline::NONE));
    // Another catalogue is another file.
    opened(&self::catalog(&texts[1..]));
    assert_eq!(encoded.load(Ordering::Relaxed), 39);
}
