//! What settings score on some queries.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use querywright_data::metrics::trec_order;
use querywright_rewrite::{FeedbackConfig, NeighboursConfig};
use querywright_types::{Deadline, Error, Request, Result, retrieve};
use rayon::prelude::*;

use super::{Labelled, Point, Setting, Trial, Tuning, asks_for_nothing, mean, without_zeros};

/// Scores bases on some queries. What feedback gives is kept: it does not depend on the weights.
pub(super) struct Scorer<'a> {
    tuning: &'a Tuning<'a>,
    queries: &'a [Labelled<'a>],
    feedback: Mutex<HashMap<(usize, usize), AllWords>>,
    /// By their number.
    neighbours: Mutex<HashMap<usize, AllWords>>,
}

type Words = Vec<(String, f64)>;

/// The feedback words of every query.
type AllWords = Arc<Vec<Words>>;

impl<'a> Scorer<'a> {
    pub(super) fn new(tuning: &'a Tuning<'a>, queries: &'a [Labelled<'a>]) -> Self {
        Self { tuning, queries, feedback: Mutex::default(), neighbours: Mutex::default() }
    }

    /// The measure of each query.
    pub(super) fn score(&self, point: &Point) -> Result<Vec<f64>> {
        let base = &point.base;
        let words = self.words(&base.feedback)?;
        let depth = self.tuning.measure.cutoff().unwrap_or(1000);
        let neighbours = self.neighbour_words(&base.neighbours)?;
        let of = |all: &Option<AllWords>, place: usize| all.as_ref().and_then(|all| all.get(place).cloned());
        let request = |(place, (query, _)): (usize, &Labelled<'_>)| {
            let [words, others] = [&words, &neighbours].map(|all| of(all, place).unwrap_or_default());
            Request::new(query, &base.compose(query, &words, &others), depth)
        };
        let requests: Vec<Request> = self.queries.par_iter().enumerate().map(request).collect();
        let answers = match &self.tuning.fusion {
            Some(fusion) => retrieve(&(fusion.fused)(&point.weights)?, &requests, Deadline::NONE),
            None => retrieve(self.tuning.retriever, &requests, Deadline::NONE),
        };
        if answers.len() != self.queries.len() {
            let found = format!("{} answers for {} queries", answers.len(), self.queries.len());
            return Err(Error::bug("evaluate::tune", found));
        }
        let score = |(answer, (_, judgements)): (_, &Labelled<'_>)| {
            let ranking: querywright_types::Ranking = answer?;
            let order = trec_order(&ranking, |doc| self.tuning.catalog.id(doc));
            Ok(self.tuning.measure.score(&order, judgements))
        };
        answers.into_iter().map(|a| a.map_err(Error::Fault)).zip(self.queries).map(score).collect()
    }

    pub(super) fn mean(&self, point: &Point) -> Result<f64> {
        Ok(mean(&self.score(point)?))
    }

    /// The point without the settings that do not help on these queries, which the search has not seen.
    pub(super) fn confirmed(&self, mut point: Point, settings: &[Setting], trials: &mut Vec<Trial>) -> Result<Point> {
        let mut score = self.mean(&point)?;
        for setting in settings.iter().rev() {
            let simpler = setting.reset(&point);
            if without_zeros(simpler.clone()) == without_zeros(point.clone()) || asks_for_nothing(&simpler.base) {
                continue;
            }
            let without = self.mean(&simpler)?;
            let kept = without >= score;
            let value = match setting {
                Setting::Weight(_, weight) => format!("{}, on unseen queries", weight.start),
                _ => "as in the raw query, on unseen queries".to_owned(),
            };
            trials.push(Trial { setting: setting.key(), value, score: without, kept });
            if kept {
                (point, score) = (simpler, without);
            }
        }
        Ok(point)
    }

    /// The words of neighbours of every query; none where they have no weight.
    fn neighbour_words(&self, config: &NeighboursConfig) -> Result<Option<AllWords>> {
        if config.is_off() {
            return Ok(None);
        }
        let mut known = self.neighbours.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(words) = known.get(&config.terms) {
            return Ok(Some(words.clone()));
        }
        let words: Result<Vec<Words>> = self.queries.par_iter().map(|(query, _)| config.words(query)).collect();
        let words = Arc::new(words?);
        known.insert(config.terms, words.clone());
        Ok(Some(words))
    }

    /// The feedback words of every query; none where they have no weight.
    fn words(&self, config: &FeedbackConfig) -> Result<Option<AllWords>> {
        let Some(feedback) = self.tuning.feedback.as_ref().filter(|_| config.weight > 0.0) else { return Ok(None) };
        let mut known = self.feedback.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(words) = known.get(&(config.docs, config.terms)) {
            return Ok(Some(words.clone()));
        }
        let words: Result<Vec<Words>> = self.queries.par_iter().map(|(query, _)| feedback(query, config)).collect();
        let words = Arc::new(words?);
        known.insert((config.docs, config.terms), words.clone());
        Ok(Some(words))
    }
}
