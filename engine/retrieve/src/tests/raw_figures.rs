//! Raw BM25 on ESCI's and Amazon-C4's layouts, beside an implementation of another hand: Lucene's formula by brute force over
//! all documents, measured by pytrec_eval (xtask/golden/products.py).

use std::collections::HashMap;
use std::sync::Arc;

use querywright_data::catalog::Dataset;
use querywright_data::metrics::Measure;
use querywright_testing::golden;
use querywright_types::{Deadline, Ordinal, QueryLanguage, Request, retrieve};

use crate::{Bm25, Bm25Config};

/// By data set, system, query and measure.
type Figures = HashMap<String, HashMap<String, HashMap<String, HashMap<String, f64>>>>;

#[test]
fn raw_bm25_reaches_on_esci_and_amazon_c4_what_the_formula_by_brute_force_reaches() {
    let figures: Figures = serde_json::from_slice(&std::fs::read(golden("products.json")).unwrap()).unwrap();
    let exact = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(golden("esci")).unwrap().flatten() {
        std::fs::copy(file.path(), exact.path().join(file.file_name())).unwrap();
    }
    std::fs::write(exact.path().join("querywright.toml"), "grades = \"exact\"\n").unwrap();
    let folders =
        [("esci", golden("esci")), ("esci-exact", exact.path().to_path_buf()), ("amazon-c4", golden("amazon-c4"))];
    for (name, folder) in folders {
        let data = Dataset::open(folder).unwrap();
        let index = Bm25::in_memory(Arc::clone(&data.catalog), Bm25Config::default()).unwrap();
        let right = &figures[name]["bm25"];
        let mut seen = 0;
        for (query, judgements) in data.judged("test").unwrap() {
            // Where two documents of other grades are too near for rounding there is no golden value.
            let Some(right) = right.get(&query.id) else { continue };
            let request = Request::plain(query.text.clone(), 100).with_language(QueryLanguage::Plain);
            let ranking = retrieve(&index, &[request], Deadline::NONE).remove(0).unwrap();
            let found: Vec<Ordinal> = ranking.hits.iter().map(|hit| hit.doc).collect();
            for (measure, right) in right {
                let ours = measure.parse::<Measure>().unwrap().score(&found, judgements);
                assert!((ours - right).abs() < 1e-6, "{name} {} {measure}: {ours}, {right}", query.id);
            }
            seen += 1;
        }
        assert_eq!(seen, right.len(), "{name}");
    }
}
