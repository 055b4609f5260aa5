//! BM25 as a plugin, compared with the native implementation over Tantivy's postings and with Tantivy's own search:
//! microseconds a search over synthetic catalogues, with reused and with fresh instances, the cost of crossing the host
//! boundary, two threads against one, memory.
//!
//!     cargo bench --bench plugin                 20,000 and 200,000 documents
//!     cargo bench --bench plugin -- 1000000

use std::time::Instant;

use querywright::catalog::{Catalog, CatalogBuilder};
use querywright::error::{Fault, FaultKind};
use querywright::plugin::{Grant, Limits, Metering, Plugin, PluginOptions, Reuse};
use querywright::retrieve::{Bm25, Bm25Config};
use querywright::types::{Deadline, Hit, Ranking, Request, Retriever, RetrieverCard};
use rand::{Rng, SeedableRng};
use tantivy::schema::{IndexRecordOption, Schema, TextFieldIndexing, TextOptions};

/// Words of the synthetic vocabulary. Their frequencies fall as 1 / rank.
const WORDS: usize = 30_000;
/// Searches in one measurement.
const SEARCHES: usize = 1_000;

fn main() -> anyhow::Result<()> {
    let sizes: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let component = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/plugins/bm25/dist/bm25.wasm"))?;
    for size in if sizes.is_empty() { vec![20_000, 200_000] } else { sizes } {
        measure(size, &component)?;
    }
    Ok(())
}

/// All measurements over a synthetic catalogue of `size` documents.
fn measure(size: usize, component: &[u8]) -> anyhow::Result<()> {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(7);
    let catalog = std::sync::Arc::new(synthetic(size, &mut rng)?);
    let requests: Vec<Request> = (0..SEARCHES).map(|_| request(&words(3, &mut rng))).collect();
    println!("{size} documents, {SEARCHES} requests of 3 words, medians of 5 measurements in turn");
    let native = Bm25::in_memory(catalog.clone(), Bm25Config::default())?;
    let limits = Limits { memory_mib: 2048, load_ms: 600_000, instances: 64, ..Limits::default() };
    let load = |metering, reuse| -> anyhow::Result<Plugin> {
        let grant = Grant { limits, ..Grant::default() };
        let options = PluginOptions { grant, metering, reuse, ..PluginOptions::default() };
        Ok(Plugin::from_bytes("bm25", component, &catalog, options, &())?)
    };
    let begun = Instant::now();
    let plugin = load(Metering::Clock, Reuse::UntilFault)?;
    println!("  prepared in {:.2} s", begun.elapsed().as_secs_f64());
    let (fuel, fresh) = (load(Metering::Fuel, Reuse::EachSearch)?, load(Metering::Clock, Reuse::EachSearch)?);
    let tantivy = Tantivy::over(&catalog)?;
    compare(
        &[
            ("native", &native),
            ("plugin", &plugin),
            ("plugin, a fresh instance each", &fresh),
            ("plugin, fresh and with fuel", &fuel),
            ("Tantivy's own search", &tantivy),
        ],
        &requests,
    )?;
    // No document has this word, so the time is that of crossing the host boundary.
    let empty = vec![request("nosuchword"); SEARCHES];
    let mut crossings: Vec<f64> = (0..5).map(|_| one_by_one(&plugin, &empty)).collect::<anyhow::Result<_>>()?;
    println!("  {:<32} {:>9.1} µs", "a search that finds nothing", median(&mut crossings));
    let mut speedups: Vec<f64> = (0..5).map(|_| two_threads(&plugin, &requests)).collect::<anyhow::Result<_>>()?;
    println!("  {:<32} {:>9.2} times one", "two threads", median(&mut speedups));
    drop((plugin, fuel, fresh));
    memory(&load(Metering::Clock, Reuse::UntilFault)?, &requests)
}

/// Microseconds a search of each retriever, and their ratio to the first one.
fn compare(retrievers: &[(&str, &dyn Retriever)], requests: &[Request]) -> anyhow::Result<()> {
    let mut readings = vec![Vec::new(); retrievers.len()];
    for _ in 0..5 {
        for ((_, retriever), readings) in retrievers.iter().zip(&mut readings) {
            readings.push(one_by_one(*retriever, requests)?);
        }
    }
    let medians: Vec<f64> = readings.iter_mut().map(|r| median(r)).collect();
    for ((name, _), found) in retrievers.iter().zip(&medians) {
        println!("  {name:<32} {found:>9.1} µs a search, {:.2} of native", found / medians[0]);
    }
    Ok(())
}

/// The throughput of two threads relative to one.
fn two_threads(plugin: &Plugin, requests: &[Request]) -> anyhow::Result<f64> {
    let alone = one_by_one(plugin, requests)? * 2.0;
    let begun = Instant::now();
    std::thread::scope(|scope| -> anyhow::Result<()> {
        let workers: Vec<_> = (0..2).map(|_| scope.spawn(|| one_by_one(plugin, requests))).collect();
        for worker in workers {
            worker.join().map_err(|_| anyhow::anyhow!("a worker panicked"))??;
        }
        Ok(())
    })?;
    Ok(alone * SEARCHES as f64 / (begun.elapsed().as_secs_f64() * 1e6))
}

/// Tantivy with its defaults: analysis, scoring, top documents, block-max pruning.
struct Tantivy {
    card: RetrieverCard,
    searcher: tantivy::Searcher,
    parser: tantivy::query::QueryParser,
}

impl Tantivy {
    fn over(catalog: &Catalog) -> anyhow::Result<Self> {
        let indexing =
            TextFieldIndexing::default().set_tokenizer("default").set_index_option(IndexRecordOption::WithFreqs);
        let mut schema = Schema::builder();
        let text = schema.add_text_field("text", TextOptions::default().set_indexing_options(indexing));
        let index = tantivy::Index::create_in_ram(schema.build());
        let mut writer = index.writer_with_num_threads(1, 200 << 20)?;
        for document in catalog.documents() {
            writer.add_document(tantivy::doc!(text => document.text_of_all_fields()))?;
        }
        writer.commit()?;
        let card = RetrieverCard::new("tantivy", "tantivy");
        let parser = tantivy::query::QueryParser::for_index(&index, vec![text]);
        Ok(Self { card, searcher: index.reader()?.searcher(), parser })
    }
}

impl Retriever for Tantivy {
    fn card(&self) -> &RetrieverCard {
        &self.card
    }

    fn retrieve(&self, requests: &[Request], _: Deadline) -> Vec<Result<Ranking, Fault>> {
        let answer = |request: &Request| {
            let (query, _) = self.parser.parse_query_lenient(&request.text);
            let best = tantivy::collector::TopDocs::with_limit(request.k).order_by_score();
            let found = self
                .searcher
                .search(&query, &best)
                .map_err(|e| Fault::new("tantivy", FaultKind::Index, e.to_string()))?;
            Ok(Ranking { hits: found.iter().map(|(score, at)| Hit { doc: at.doc_id, score: *score }).collect() })
        };
        requests.iter().map(answer).collect()
    }
}

/// The memory that instances add to this process. Pages that they share are counted once (proportional set size).
fn memory(plugin: &Plugin, requests: &[Request]) -> anyhow::Result<()> {
    let Some(none) = proportional() else {
        println!("  memory: not reported by this system");
        return Ok(());
    };
    let grown = |from: u64| proportional().unwrap_or(from).saturating_sub(from) as f64 / 1024.0;
    plugin.warm(1)?;
    one_by_one(plugin, requests.get(..1).unwrap_or(requests))?;
    let one = grown(none);
    one_by_one(plugin, requests)?;
    let busy = grown(none);
    let before = proportional().unwrap_or(none);
    plugin.warm(64)?;
    println!("  an instance takes {one:.1} MiB after its first search, {busy:.1} MiB after {SEARCHES};");
    println!("  63 more instances that wait take {:.1} MiB together", grown(before));
    Ok(())
}

/// The proportional set size of this process, in KiB.
fn proportional() -> Option<u64> {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").ok()?;
    rollup.lines().find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix(" kB")?.trim().parse().ok())
}

/// Microseconds a search.
fn one_by_one(retriever: &dyn Retriever, requests: &[Request]) -> anyhow::Result<f64> {
    let begun = Instant::now();
    for request in requests {
        for answer in retriever.retrieve(std::slice::from_ref(request), Deadline::NONE) {
            std::hint::black_box(answer?);
        }
    }
    Ok(begun.elapsed().as_secs_f64() * 1e6 / requests.len() as f64)
}

fn median(readings: &mut [f64]) -> f64 {
    readings.sort_by(f64::total_cmp);
    readings[readings.len() / 2]
}

fn request(text: &str) -> Request {
    Request::plain(text, 10)
}

/// Random words whose frequencies fall as 1 / rank.
fn words(count: usize, rng: &mut impl Rng) -> String {
    let word = |u: f64| format!("w{}x", ((WORDS as f64).powf(u)) as usize);
    (0..count).map(|_| word(rng.random())).collect::<Vec<_>>().join(" ")
}

fn synthetic(size: usize, rng: &mut impl Rng) -> anyhow::Result<Catalog> {
    let mut builder = CatalogBuilder::new();
    for n in 0..size {
        let length = rng.random_range(4..16);
        builder.push(&n.to_string(), [("text", words(length, rng))])?;
    }
    Ok(builder.finish())
}
