//! Raw dense retrieval on ESCI's and Amazon-C4's layouts, beside transformers and pytrec_eval (xtask/golden/products.py).

use std::collections::HashMap;
use std::sync::Arc;

use querywright_data::catalog::Dataset;
use querywright_data::metrics::Measure;
use querywright_testing::golden;
use querywright_types::{Deadline, Ordinal, Request, retrieve};

use crate::{Dense, Encoder, EncoderConfig};

/// By data set, system, query and measure.
type Figures = HashMap<String, HashMap<String, HashMap<String, HashMap<String, f64>>>>;

#[test]
fn raw_vectors_reach_on_esci_and_amazon_c4_what_transformers_by_brute_force_reaches() {
    let figures: Figures = serde_json::from_slice(&std::fs::read(golden("products.json")).unwrap()).unwrap();
    let encoder = Arc::new(Encoder::open(&golden("tiny-bert"), &EncoderConfig::default()).unwrap());
    for name in ["esci", "amazon-c4"] {
        let data = Dataset::open(golden(name)).unwrap();
        let dense = Dense::in_memory(Arc::clone(&data.catalog), Arc::clone(&encoder), "products", &()).unwrap();
        let right = &figures[name]["dense"];
        let mut seen = 0;
        for (query, judgements) in data.judged("test").unwrap() {
            // Where two documents of other grades are too near for rounding there is no golden value.
            let Some(right) = right.get(&query.id) else { continue };
            let ranking =
                retrieve(&dense, &[Request::plain(query.text.clone(), 100)], Deadline::NONE).remove(0).unwrap();
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
