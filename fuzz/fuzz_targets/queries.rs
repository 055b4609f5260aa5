//! Arbitrary text as a query, in both query languages of BM25. The ranking always keeps the retriever's contract, and
//! `explain` never panics on it.
#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use querywright::catalog::demo;
use querywright::retrieve::{Bm25, Bm25Config};
use querywright::types::{Deadline, QueryLanguage, Request, Retriever};

static BM25: LazyLock<Bm25> = LazyLock::new(|| {
    let shop = demo::demo(demo::SEED).expect("the shop");
    Bm25::in_memory(Arc::clone(&shop.catalog), Bm25Config::default()).expect("its index")
});

fuzz_target!(|text: &str| {
    for language in [QueryLanguage::Plain, QueryLanguage::Boolean] {
        let request = Request::plain(text, 7).with_language(language).with_exclude([3]);
        let ranking =
            BM25.retrieve(std::slice::from_ref(&request), Deadline::NONE).remove(0).expect("every text is a query");
        assert!(ranking.hits.len() <= 7 && ranking.hits.iter().all(|hit| hit.doc != 3 && hit.score.is_finite()));
        if let Some(best) = ranking.hits.first() {
            drop(BM25.explain(&request, best.doc));
        }
    }
});
