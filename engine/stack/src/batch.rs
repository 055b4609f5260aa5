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

/// Rewrites and retrieves every query, `batch` at a time, in order. For an [empty](Query::is_empty) query nothing is
/// asked: its rewrite and its ranking are empty. `observer` is told how many queries are done.
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
        let owned: Vec<Query> = part.iter().filter(|q| !q.is_empty()).map(|q| (*q).clone()).collect();
        let mut rewrites = if owned.is_empty() { Vec::new() } else { rewriter.rewrite(&owned, Deadline::NONE) };
        if rewrites.len() != owned.len() {
            // Nobody knows which rewrite belongs to which query.
            let found = format!("it gave {} answers to {} queries", rewrites.len(), owned.len());
            rewrites = owned.iter().map(|_| Err(broken(rewriter, &found))).collect();
        }
        let (mut plans, mut requests) = (Vec::with_capacity(owned.len()), Vec::with_capacity(owned.len()));
        for (query, rewrite) in owned.iter().zip(rewrites) {
            let (rewrite, fallback) = match rewrite {
                Ok(rewrite) => (rewrite, None),
                Err(error) => (Rewrite::plain(query.text.clone()), Some(error)),
            };
            requests.push(Request::new(query, &rewrite, k));
            plans.push((rewrite, fallback));
        }
        let rankings = if requests.is_empty() { Vec::new() } else { retrieve(retriever, &requests, Deadline::NONE) };
        let mut found =
            plans.into_iter().zip(rankings).map(|((rewrite, fallback), ranking)| Ranked { rewrite, fallback, ranking });
        all.extend(part.iter().filter_map(|query| match query.is_empty() {
            true => {
                let (rewrite, ranking) = (Rewrite::plain(String::new()), Ok(Ranking::default()));
                Some(Ranked { rewrite, fallback: None, ranking })
            }
            false => found.next(),
        }));
        observer.progress(Progress::new("searching", all.len() as u64, queries.len() as u64));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Identity;
    use querywright_types::{Hit, RetrieverCard};

    /// Finds document 7 for everything; must not be asked for nothing.
    struct Seven(RetrieverCard);

    impl Retriever for Seven {
        fn card(&self) -> &RetrieverCard {
            &self.0
        }

        fn retrieve(&self, requests: &[Request], _: Deadline) -> Vec<Result<Ranking, Fault>> {
            assert!(requests.iter().all(|request| !request.text.is_empty() || !request.history.is_empty()));
            requests.iter().map(|_| Ok(Ranking { hits: vec![Hit { doc: 7, score: 1.0 }] })).collect()
        }
    }

    #[test]
    fn empty_queries_keep_their_place_and_ask_nobody() {
        let card = RetrieverCard::new("seven", "0").with_version("1").with_content("things");
        let queries = [Query::text("a"), Query::text(" \u{200b}"), Query::text("").with_history([1])];
        let queries: Vec<&Query> = queries.iter().collect();
        for batch in [1, 8] {
            let ranked = rank_all(&Identity, &Seven(card.clone()), &queries, 5, batch, &());
            let hits: Vec<usize> = ranked.iter().map(|r| r.ranking.as_ref().unwrap().hits.len()).collect();
            assert_eq!(hits, [1, 0, 1]);
            assert!(ranked.iter().all(|r| r.fallback.is_none()));
        }
    }
}
