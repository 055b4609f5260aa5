//! Scoring a batch of rewrites against a retriever.

use std::collections::HashMap;

use super::cache::{Key, Scores, key};
use super::{Reward, RewardCache, RewardFunction};
use querywright_types::{Deadline, Fault, Judgements, Ordinal, Query, Request, Retriever, Rewrite, retrieve};

/// One completion to be scored.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// The user's query.
    pub query: &'a Query,
    /// Its judgements.
    pub judgements: &'a Judgements,
    /// What the query is without a model: what gains are measured against.
    pub original: &'a Rewrite,
    /// What the model wrote. None where the answer's format was broken.
    pub rewrite: Option<&'a Rewrite>,
    /// How many terms of it the model wrote.
    pub generated: usize,
}

/// The rewards of a batch, and how many requests they took.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ScoredBatch {
    /// One entry for each candidate, in their order. None: the environment failed, the sample must be dropped.
    pub rewards: Vec<Option<Reward>>,
    /// The failures that remained after all retries, one for each request.
    pub faults: Vec<Fault>,
    /// Requests that were sent again after a failure.
    pub retried: usize,
    /// Different requests that the cache could not answer.
    pub retrieved: usize,
}

/// A request that has no scores yet.
struct Pending<'a> {
    key: Key,
    request: Request,
    judgements: &'a Judgements,
}

/// What the candidates of a batch need.
#[derive(Default)]
struct Wanted<'a> {
    /// The keys of each candidate with a rewrite: its own, and that of the raw query where gains are wanted.
    keys: Vec<Option<(Key, Option<Key>)>>,
    /// None until the request succeeds.
    scores: HashMap<Key, Option<Scores>>,
    pending: Vec<Pending<'a>>,
}

impl RewardFunction {
    /// Rewards of a batch. Equal requests are sent once, all that the cache does not know in one call; requests that
    /// fail are sent again, they alone, up to `retries` times. Rankings are scored in the order in which the retriever
    /// gave them. A broken format costs no retrieval.
    pub fn score_batch(
        &self,
        retriever: &dyn Retriever,
        candidates: &[Candidate<'_>],
        cache: &RewardCache,
        retries: usize,
    ) -> ScoredBatch {
        let mut batch = ScoredBatch::default();
        let mut wanted = self.look_up(retriever, candidates, cache);
        let mut pending = std::mem::take(&mut wanted.pending);
        batch.retrieved = pending.len();
        for attempt in 0..=retries {
            if pending.is_empty() {
                break;
            }
            batch.retried += if attempt > 0 { pending.len() } else { 0 };
            (pending, batch.faults) = self.attempt(retriever, pending, |key, found| {
                cache.put(key, found.clone());
                wanted.scores.insert(key, Some(found));
            });
        }
        let known = |key: &Key| wanted.scores.get(key).cloned().flatten();
        batch.rewards = candidates
            .iter()
            .zip(wanted.keys)
            .map(|(candidate, keys)| match (candidate.rewrite, keys) {
                (Some(rewrite), Some((own, raw))) => {
                    let raw = match raw {
                        Some(raw) => known(&raw)?,
                        None => Scores::default(),
                    };
                    self.reward(rewrite, candidate.generated, &known(&own)?, &raw)
                }
                _ => Some(self.broken_format()),
            })
            .collect();
        batch
    }

    /// The requests of a batch, each once, with the scores that the cache knows.
    fn look_up<'a>(&self, retriever: &dyn Retriever, candidates: &[Candidate<'a>], cache: &RewardCache) -> Wanted<'a> {
        let mut wanted = Wanted { keys: Vec::with_capacity(candidates.len()), ..Wanted::default() };
        for candidate in candidates {
            let Some(rewrite) = candidate.rewrite else {
                wanted.keys.push(None);
                continue;
            };
            let mut want = |rewrite: &Rewrite| {
                let request = Request::new(candidate.query, rewrite, self.depth());
                let key = key(&retriever.card().digest, &request, candidate.judgements, self.measures());
                wanted.scores.entry(key).or_insert_with(|| {
                    let known = cache.get(&key);
                    if known.is_none() {
                        wanted.pending.push(Pending { key, request, judgements: candidate.judgements });
                    }
                    known
                });
                key
            };
            let raw = self.needs_raw().then_some(candidate.original);
            let keys = (want(rewrite), raw.map(want));
            wanted.keys.push(Some(keys));
        }
        wanted
    }

    /// Sends what is pending once; gives back what failed, with its faults.
    fn attempt<'a>(
        &self,
        retriever: &dyn Retriever,
        pending: Vec<Pending<'a>>,
        mut found: impl FnMut(Key, Scores),
    ) -> (Vec<Pending<'a>>, Vec<Fault>) {
        let requests: Vec<Request> = pending.iter().map(|p| p.request.clone()).collect();
        let answers = retrieve(retriever, &requests, Deadline::NONE);
        let (mut failed, mut faults) = (Vec::new(), Vec::new());
        for (request, answer) in pending.into_iter().zip(answers) {
            match answer {
                Ok(ranking) => {
                    let ranked: Vec<Ordinal> = ranking.hits.iter().map(|hit| hit.doc).collect();
                    found(request.key, self.measures().map(|m| m.score(&ranked, request.judgements)).collect());
                }
                Err(fault) => {
                    faults.push(fault);
                    failed.push(request);
                }
            }
        }
        (failed, faults)
    }
}
