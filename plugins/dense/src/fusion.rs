//! Reciprocal rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009): a document's score is the sum of `1 / (60 + rank)`
//! over the rankings that have it, ranks counted from 1. BM25's scores and inner products need not be comparable.

use std::collections::HashMap;

use querywright_plugin::{Hit, Request, rank};

/// How little the first ranks stand out.
const CONSTANT: f64 = 60.0;

/// How deep each ranking goes at least, whatever the request's k.
pub const LEAST_DEPTH: u32 = 100;

/// One ranking out of several.
pub fn fuse(rankings: &[Vec<Hit>], request: &Request) -> Vec<Hit> {
    let mut sums: HashMap<u32, f64> = HashMap::new();
    for ranking in rankings {
        for (place, hit) in ranking.iter().enumerate() {
            *sums.entry(hit.item).or_default() += 1.0 / (CONSTANT + 1.0 + place as f64);
        }
    }
    rank(sums.into_iter().map(|(item, sum)| (item, sum as f32)), request)
}
