//! Runs plugins natively, without WebAssembly, and checks their answers against the contract.

use crate::{Document, Fault, Hit, Lifecycle, Recommender, Request};

/// Documents in one call of `load`.
const BATCH: usize = 1024;

/// Loads documents into a new plugin and sends it requests, in one batch.
///
/// # Panics
/// If loading fails or an answer breaks the contract, with a message for the test.
pub fn run<T: Recommender>(documents: Vec<Document>, requests: &[Request]) -> Vec<Result<Vec<Hit>, Fault>> {
    let mut plugin = Lifecycle::<T>::default();
    let mut rest = documents;
    while !rest.is_empty() {
        let after = rest.split_off(rest.len().min(BATCH));
        if let Err(fault) = plugin.load(rest) {
            panic!("load returned {fault:?}");
        }
        rest = after;
    }
    if let Err(fault) = plugin.commit() {
        panic!("commit returned {fault:?}");
    }
    let answers = plugin.recommend(requests);
    assert_eq!(answers.len(), requests.len(), "one answer for each request");
    for (request, answer) in requests.iter().zip(&answers) {
        let Ok(hits) = answer else { continue };
        assert!(hits.len() <= request.k as usize, "{} hits for k = {}", hits.len(), request.k);
        for (place, hit) in hits.iter().enumerate() {
            assert!(hit.score.is_finite(), "hit {place} has the score {}", hit.score);
            assert!(place == 0 || hits[place - 1].score >= hit.score, "hit {place} is better than the one before it");
            assert!(!hits[..place].iter().any(|other| other.item == hit.item), "item {} comes twice", hit.item);
            assert!(!request.exclude.contains(&hit.item), "item {} was excluded", hit.item);
        }
    }
    answers
}
