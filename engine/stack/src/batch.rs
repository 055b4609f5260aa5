//! Whole query sets through rewriter and retriever.

use querywright_types::{
    Deadline, Error, Fault, Observe, Progress, Query, Ranking, Request, Retriever, Rewrite, Rewriter, retrieve,
};

use crate::worker::broken;

/// What became of one query of a set.
#[derive(Debug)]
#[non_exhaustive]
pub struct Ranked {
    /// What was searched for: the rewrite, or the original query where there was none.
    pub rewrite: Rewrite,
    /// Why the original query was searched for.
    pub fallback: Option<Error>,
    /// What came back, held to the contract of [`Retriever`].
    pub ranking: Result<Ranking, Fault>,
}

/// Rewrites and retrieves every query, `batch` at a time, in order. `observer` is told how many queries are done.
pub fn rank_all(
    rewriter: &dyn Rewriter,
    retriever: &dyn Retriever,
    queries: &[&Query],
    k: usize,
    batch: usize,
    observer: &dyn Observe,
) -> Vec<Ranked> {
    let mut all = Vec::with_capacity(queries.len());
    for part in queries.chunks(batch.max(1)) {
        let owned: Vec<Query> = part.iter().map(|q| (*q).clone()).collect();
        let mut rewrites = rewriter.rewrite(&owned, Deadline::NONE);
        if rewrites.len() != part.len() {
            // Nobody knows which rewrite belongs to which query.
            let found = format!("it gave {} answers to {} queries", rewrites.len(), part.len());
            rewrites = part.iter().map(|_| Err(broken(rewriter, &found))).collect();
        }
        let (mut plans, mut requests) = (Vec::with_capacity(part.len()), Vec::with_capacity(part.len()));
        for (query, rewrite) in part.iter().zip(rewrites) {
            let (rewrite, fallback) = match rewrite {
                Ok(rewrite) => (rewrite, None),
                Err(error) => (Rewrite::plain(query.text.clone()), Some(error)),
            };
            requests.push(Request::new(query, &rewrite, k));
            plans.push((rewrite, fallback));
        }
        let rankings = retrieve(retriever, &requests, Deadline::NONE);
        all.extend(plans.into_iter().zip(rankings).map(|((rewrite, fallback), ranking)| Ranked {
            rewrite,
            fallback,
            ranking,
        }));
        observer.progress(Progress::new("searching", all.len() as u64, queries.len() as u64));
    }
    all
}
