//! Covisitation: what came after the items of a history in the sequences of others.
//!
//! With d the distance of two items in a training sequence (1 for neighbours) and n(b) how often b came after any item,
//!
//! ```text
//! c(a, b) = Σ over b after a, d <= window  window_decay^(d-1)  +  backward * the same over a after b
//! w(a, b) = c(a, b) / (sqrt(Σ_x c(a, x)) * (n(b) + 100)^damping)
//! score(b) = Σ over items a of the history  history_decay^age(a) * w(a, b)     age 0 for the newest
//! ```
//!
//! So an item that comes after everything is held back, but one that was seen twice is not pushed to the front for
//! being rare, which is what the 100 is for. The defaults hold for two catalogues that differ in every way: industrial
//! products with three training events an item (nDCG@10 of dev 0.059) and the films of MovieLens-100K with sixty
//! (0.094). On neither did another value of one setting gain more than 0.003.

use std::collections::HashMap;

use crate::bm25::best;
use crate::each::each;
use crate::followers::Followers;
use crate::sequences::{Event, Training, check, events, training_digest};
use querywright_data::catalog::Catalog;
use querywright_data::digest::sha256_of;
use querywright_types::{
    Deadline, Error, Fault, Hit, Ordinal, Query, QueryLanguage, Ranking, Request, Result, Retriever, RetrieverCard,
    Rewrite,
};

/// What is added to the frequency of an item before it is held back for it.
const SMOOTHING: f64 = 100.0;

/// Pairs that are held at least before equal ones are added up.
const LEAST_PAIRS: usize = 1 << 20;

/// The settings of [`Covisitation`].
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CovisitationConfig {
    /// How far apart two items of a training sequence may be to count as a pair. Default 10.
    pub window: usize,
    /// How much each further step between them takes off, from 0 (only neighbours count) to 1 (nothing). Default 0.7.
    pub window_decay: f64,
    /// How much an item counts that came before, from 0 (only those that came after count) to 1 (order is ignored).
    /// Default 0.3.
    pub backward: f64,
    /// How much frequent items are held back, from 0 (not at all) to 1. Default 0.5.
    pub damping: f64,
    /// How many items of a request's history are read, from its end. Default 10.
    pub history: usize,
    /// How much less each older item of a history counts, from 0 (only the newest does) to 1 (all alike). Default 0.7.
    pub history_decay: f64,
    /// How many items are kept for each, the heaviest. Default 100.
    pub neighbours: usize,
}

impl Default for CovisitationConfig {
    fn default() -> Self {
        Self {
            window: 10,
            window_decay: 0.7,
            backward: 0.3,
            damping: 0.5,
            history: 10,
            history_decay: 0.7,
            neighbours: 100,
        }
    }
}

impl CovisitationConfig {
    fn check(&self) -> Result<()> {
        let counts = [("window", self.window), ("history", self.history), ("neighbours", self.neighbours)];
        if let Some((name, _)) = counts.iter().find(|(_, count)| *count == 0) {
            return Err(Error::argument(*name, "found 0", "give at least 1"));
        }
        let shares = [
            ("window_decay", self.window_decay),
            ("backward", self.backward),
            ("damping", self.damping),
            ("history_decay", self.history_decay),
        ];
        match shares.iter().find(|(_, share)| !(0.0..=1.0).contains(share)) {
            Some((name, share)) => Err(Error::argument(*name, format!("found {share}"), "give a number from 0 to 1")),
            None => Ok(()),
        }
    }
}

/// Ranks the items that came after those of the request's history in training sequences. Its text is not read. A
/// request without a history, or with one that no training sequence knows, has an empty ranking.
#[derive(Debug, Clone)]
pub struct Covisitation {
    config: CovisitationConfig,
    /// The neighbours of all items, one item's after the other's, the heaviest first.
    neighbours: Vec<(Ordinal, f32)>,
    /// Where the neighbours of each item begin, and where the last one's end.
    starts: Vec<usize>,
    card: RetrieverCard,
}

impl Covisitation {
    /// Counts pairs in the histories and relevant items of training queries. `training` must hold no query that is
    /// measured or tuned on: for that there is [`CrossFit`](crate::CrossFit).
    ///
    /// # Errors
    /// [`Error::Argument`] for a setting outside its range, and for an item that the catalogue lacks.
    pub fn learn(catalog: &Catalog, training: &Training<'_>, config: CovisitationConfig) -> Result<Self> {
        config.check()?;
        check(catalog, training)?;
        let mut pairs = Pairs::new();
        let mut frequency = vec![0_u32; catalog.len()];
        events(training, |event| {
            frequency[event.item as usize] += 1;
            pairs.add_event(&event, &config);
        });
        let mut neighbours = Vec::new();
        let mut starts = vec![0];
        let mut pairs = pairs.merged().into_iter().peekable();
        for item in 0..catalog.len() as Ordinal {
            let mut own: Vec<(Ordinal, f64)> = Vec::new();
            while let Some((_, other, count)) = pairs.next_if(|pair| pair.0 == item) {
                own.push((other, count));
            }
            let all = own.iter().map(|pair| pair.1).sum::<f64>().sqrt();
            for (other, count) in &mut own {
                let seen = f64::from(frequency[*other as usize]);
                *count /= all * (seen + SMOOTHING).powf(config.damping);
            }
            // Stable: of equal weights the lower ordinal goes first.
            own.sort_by(|a, b| b.1.total_cmp(&a.1));
            own.truncate(config.neighbours);
            neighbours.extend(own.into_iter().map(|(other, weight)| (other, weight as f32)));
            starts.push(neighbours.len());
        }
        neighbours.shrink_to_fit();
        let card = card(catalog, training, &config);
        Ok(Self { config, neighbours, starts, card })
    }

    /// The settings.
    pub fn config(&self) -> &CovisitationConfig {
        &self.config
    }

    /// Whether no pair was learned, so that every ranking is empty: no training query has a history.
    pub fn is_empty(&self) -> bool {
        self.neighbours.is_empty()
    }

    /// What comes after an item and with which weight, the heaviest first; nothing for an item that was never seen.
    pub fn neighbours(&self, item: Ordinal) -> &[(Ordinal, f32)] {
        let mut bounds = self.starts.iter().skip(item as usize);
        match (bounds.next(), bounds.next()) {
            (Some(start), Some(end)) => &self.neighbours[*start..*end],
            _ => &[],
        }
    }

    pub(crate) fn search(&self, request: &Request) -> Ranking {
        let mut scores: HashMap<Ordinal, f64> = HashMap::new();
        let mut share = 1.0;
        for item in request.history.iter().rev().take(self.config.history) {
            for (other, weight) in self.neighbours(*item) {
                *scores.entry(*other).or_default() += share * f64::from(*weight);
            }
            share *= self.config.history_decay;
        }
        best(scores.into_iter().filter(|(_, score)| *score as f32 > 0.0).collect(), request)
    }
}

fn card(catalog: &Catalog, training: &Training<'_>, config: &CovisitationConfig) -> RetrieverCard {
    let CovisitationConfig { window, window_decay, backward, damping, history, history_decay, neighbours } = config;
    let settings =
        format!("{window} {window_decay} {backward} {damping} {history} {history_decay} {neighbours} {SMOOTHING}");
    let digest = sha256_of(&["covisitation", "1", catalog.digest(), &settings, &training_digest(training)]);
    RetrieverCard::new("covisitation", digest)
        .with_version(env!("CARGO_PKG_VERSION"))
        .with_languages([QueryLanguage::Plain, QueryLanguage::Boolean, QueryLanguage::Natural])
        .with_text(false)
        .with_history(true)
        .with_documents(catalog.len())
}

impl Retriever for Covisitation {
    fn card(&self) -> &RetrieverCard {
        &self.card
    }

    fn retrieve(&self, requests: &[Request], deadline: Deadline) -> Vec<Result<Ranking, Fault>> {
        let search = |request: &Request| deadline.check_for(&self.card.name).map(|()| self.search(request));
        each(requests, search)
    }
}

impl Followers for Covisitation {
    fn followers(&self, query: &Query, count: usize) -> Vec<Hit> {
        self.search(&by_history(query, count)).hits
    }
}

/// The request that asks for what follows a query's history.
pub(crate) fn by_history(query: &Query, count: usize) -> Request {
    Request::new(query, &Rewrite::plain(""), count)
}

/// Counts of ordered pairs. Equal ones are added up from time to time, so that the memory is that of different pairs.
struct Pairs {
    list: Vec<(Ordinal, Ordinal, f64)>,
    /// At which length equal pairs are added up.
    limit: usize,
}

impl Pairs {
    fn new() -> Self {
        Self { list: Vec::new(), limit: LEAST_PAIRS }
    }

    fn add_event(&mut self, event: &Event<'_>, config: &CovisitationConfig) {
        let mut count = 1.0;
        for earlier in event.before.iter().rev().take(config.window) {
            if *earlier != event.item || event.repeats {
                self.add(*earlier, event.item, count);
                self.add(event.item, *earlier, config.backward * count);
            }
            count *= config.window_decay;
        }
    }

    fn add(&mut self, item: Ordinal, other: Ordinal, count: f64) {
        if count > 0.0 {
            self.list.push((item, other, count));
            if self.list.len() >= self.limit {
                self.merge();
                self.limit = LEAST_PAIRS.max(2 * self.list.len());
            }
        }
    }

    fn merge(&mut self) {
        // By count as well: the sum does not depend on the order of the training queries.
        self.list.sort_unstable_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)).then(a.2.total_cmp(&b.2)));
        self.list.dedup_by(|next, kept| {
            let equal = (next.0, next.1) == (kept.0, kept.1);
            if equal {
                kept.2 += next.2;
            }
            equal
        });
    }

    /// All pairs, each once, sorted.
    fn merged(mut self) -> Vec<(Ordinal, Ordinal, f64)> {
        self.merge();
        self.list
    }
}

#[cfg(test)]
mod tests;
