//! Tuning: a search over the settings of a base on training queries, without a model.
//!
//! Coordinate ascent: one setting after the other is moved to the value of a short list that scores best, until none
//! moves. Retrieval costs microseconds, so this takes seconds. Two things keep it from learning noise: a step must gain
//! more than its standard error over the queries that are searched on, and what the search found must hold on the
//! queries that it has not seen, setting by setting.

use std::collections::BTreeMap;
use std::sync::Arc;

use querywright_data::catalog::Catalog;
use querywright_data::metrics::Measure;
use querywright_rewrite::{BaseConfig, Feedback, FeedbackConfig, Neighbours, NeighboursConfig};
use querywright_text::boolean::can_name;
use querywright_types::{Error, Judgements, Observe, Progress, Query, QueryLanguage, Result, Retriever};

/// Queries below which nothing is tuned: what so few say is chance.
pub const FEWEST: usize = 30;
/// Queries that are searched on, at most; half as many again confirm.
const SEARCHED: usize = 1000;
/// Rounds over all settings, at most.
const ROUNDS: usize = 3;
/// A step must gain this many standard errors of its mean gain.
const STANDARD_ERRORS: f64 = 1.0;

/// What is tuned, on what.
pub struct Tuning<'a> {
    /// Names the hits; the order of equal scores needs their ids.
    pub catalog: &'a Catalog,
    /// What ranks.
    pub retriever: &'a dyn Retriever,
    /// Training queries with their judgements. The same ones always: which of them are searched on and which confirm is
    /// taken from their order.
    pub queries: &'a [(&'a Query, &'a Judgements)],
    /// What is maximised.
    pub measure: Measure,
    /// Where feedback words come from; none leaves feedback out.
    pub feedback: Option<Feedback>,
    /// What was relevant to these queries, in words; none leaves neighbours out. See [`learn_neighbours`].
    pub neighbours: Option<Arc<Neighbours>>,
    /// Judged queries of another split, which must confirm that neighbours help. Empty: the held-back ones are enough.
    pub elsewhere: &'a [(&'a Query, &'a Judgements)],
    /// The weights of retrievers in a fusion, where they are tuned, too.
    pub fusion: Option<FusionWeights<'a>>,
}

/// The weight of a retriever in a fusion.
#[derive(Debug, Clone, PartialEq)]
pub struct FusionWeight {
    /// Its key: "retriever.covisitation".
    pub key: String,
    /// Where the search begins.
    pub start: f64,
    /// What is tried.
    pub values: Vec<f64>,
}

/// From the weights in a fusion to what ranks with them.
pub type Fused<'a> = dyn Fn(&[f64]) -> Result<Arc<dyn Retriever>> + 'a;

/// The weights in a fusion that are tuned.
pub struct FusionWeights<'a> {
    /// The weights, in the order in which they are tried. There is at least one.
    pub weights: Vec<FusionWeight>,
    /// What ranks with some values of them, in the same order. With those of the start it is the retriever that is tuned.
    pub fused: &'a Fused<'a>,
}

impl std::fmt::Debug for FusionWeights<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FusionWeights").field("weights", &self.weights).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Tuning<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tuning")
            .field("queries", &self.queries.len())
            .field("measure", &self.measure)
            .finish_non_exhaustive()
    }
}

/// A value that was tried.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct Trial {
    /// The setting, by its key: "fields.title".
    pub setting: String,
    /// Its value.
    pub value: String,
    /// The mean over the queries that are searched on.
    pub score: f64,
    /// Whether it was kept.
    pub kept: bool,
}

/// What came of tuning.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct TunedBase {
    /// The best settings; the raw query where nothing was better.
    pub base: BaseConfig,
    /// The best [weights](Tuning::fusion) by their keys, where some were tuned: those of the start where no others were
    /// better.
    pub fusion_weights: BTreeMap<String, f64>,
    /// All that was tried, in order.
    pub trials: Vec<Trial>,
    /// Queries that were searched on.
    pub searched: usize,
    /// Queries that confirmed.
    pub confirmed: usize,
    /// Means of the raw query: over the queries that are searched on, and over those that confirm.
    pub raw: (f64, f64),
    /// Means of the base.
    pub tuned: (f64, f64),
}

/// What is searched for the best of: how the retriever is asked, and the weights in a fusion that are tuned.
#[derive(Debug, Clone, PartialEq)]
struct Point {
    base: BaseConfig,
    weights: Vec<f64>,
}

/// A setting of a base, or a weight in a fusion by its place, and how it may be changed.
#[derive(Debug, Clone, PartialEq)]
enum Setting {
    Weight(usize, FusionWeight),
    Contents,
    Field(String),
    Phrases,
    AllWords,
    FeedbackWeight,
    FeedbackSize,
    NeighboursWeight,
    NeighboursTerms,
    History,
    HistoryDecay,
}

impl Setting {
    fn key(&self) -> String {
        match self {
            Self::Weight(_, weight) => weight.key.clone(),
            Self::Contents => "contents".to_owned(),
            Self::Field(name) => format!("fields.{name}"),
            Self::Phrases => "phrases".to_owned(),
            Self::AllWords => "all_words".to_owned(),
            Self::FeedbackWeight => "feedback.weight".to_owned(),
            Self::FeedbackSize => "feedback.docs, feedback.terms".to_owned(),
            Self::NeighboursWeight => "neighbours.weight".to_owned(),
            Self::NeighboursTerms => "neighbours.terms".to_owned(),
            Self::History => "history".to_owned(),
            Self::HistoryDecay => "history_decay".to_owned(),
        }
    }

    /// The point with each of this setting's values, and how the value is written.
    fn variants(&self, point: &Point) -> Vec<(String, Point)> {
        let base = &point.base;
        if let Self::Weight(place, weight) = self {
            let with = |value: &f64| (value.to_string(), point.weighing(*place, *value));
            return weight.values.iter().map(with).collect();
        }
        let bases = self.bases(base).into_iter();
        bases.map(|(value, base)| (value, Point { base, weights: point.weights.clone() })).collect()
    }

    /// The base with each of this setting's values.
    fn bases(&self, base: &BaseConfig) -> Vec<(String, BaseConfig)> {
        let weights = |values: &[f32], change: &dyn Fn(&mut BaseConfig, f32)| {
            let with = |value: &f32| {
                let mut base = base.clone();
                change(&mut base, *value);
                (value.to_string(), base)
            };
            values.iter().map(with).collect()
        };
        match self {
            Self::Weight(..) => Vec::new(),
            Self::Contents => weights(&[0.0, 0.1, 0.25, 0.5, 1.0], &|base, v| base.contents = v),
            Self::Field(name) => weights(&[0.0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.5], &|base, v| {
                base.fields.insert(name.clone(), v);
            }),
            Self::Phrases => weights(&[0.0, 0.05, 0.1, 0.2, 0.4, 0.8], &|base, v| base.phrases = v),
            Self::AllWords => weights(&[0.0, 0.1, 0.2, 0.4, 0.8], &|base, v| base.all_words = v),
            Self::FeedbackWeight => weights(&[0.0, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.5], &|base, v| {
                base.feedback.weight = v;
            }),
            Self::FeedbackSize if base.feedback.weight == 0.0 => Vec::new(),
            Self::FeedbackSize => [(3, 10), (5, 10), (10, 10), (5, 20), (10, 20), (10, 40), (20, 40)]
                .map(|(docs, terms)| {
                    let feedback = FeedbackConfig { docs, terms, ..base.feedback };
                    (format!("{docs}, {terms}"), BaseConfig { feedback, ..base.clone() })
                })
                .to_vec(),
            Self::NeighboursWeight => weights(&[0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0], &|base, v| {
                base.neighbours.weight = v;
            }),
            Self::NeighboursTerms if base.neighbours.is_off() => Vec::new(),
            Self::NeighboursTerms => [10, 20, 40]
                .map(|terms| {
                    let neighbours = NeighboursConfig { terms, ..base.neighbours.clone() };
                    (terms.to_string(), BaseConfig { neighbours, ..base.clone() })
                })
                .to_vec(),
            Self::History => [1, 2, 3, 5, 10, 0]
                .map(|history| (history.to_string(), BaseConfig { history, ..base.clone() }))
                .to_vec(),
            Self::HistoryDecay => weights(&[0.1, 0.25, 0.4, 0.55, 0.7, 0.85, 1.0], &|base, v| base.history_decay = v),
        }
    }

    /// The point with this setting as where the search began.
    fn reset(&self, point: &Point) -> Point {
        let (Point { mut base, weights }, raw) = (point.clone(), BaseConfig::default());
        match self {
            Self::Weight(place, weight) => return point.weighing(*place, weight.start),
            Self::Contents => base.contents = raw.contents,
            Self::Field(name) => drop(base.fields.remove(name)),
            Self::Phrases => base.phrases = raw.phrases,
            Self::AllWords => base.all_words = raw.all_words,
            Self::FeedbackWeight => base.feedback.weight = raw.feedback.weight,
            Self::FeedbackSize => (base.feedback.docs, base.feedback.terms) = (raw.feedback.docs, raw.feedback.terms),
            Self::NeighboursWeight => base.neighbours.weight = raw.neighbours.weight,
            Self::NeighboursTerms => base.neighbours.terms = raw.neighbours.terms,
            Self::History => base.history = raw.history,
            Self::HistoryDecay => base.history_decay = raw.history_decay,
        }
        Point { base, weights }
    }
}

impl Point {
    /// The same with another weight in the fusion.
    fn weighing(&self, place: usize, weight: f64) -> Self {
        let mut point = self.clone();
        point.weights.iter_mut().skip(place).take(1).for_each(|own| *own = weight);
        point
    }
}

impl Tuning<'_> {
    /// Searches. `observer` is told about every setting that is tried. Fewer than [`FEWEST`] queries say nothing: the
    /// base is then the raw query.
    ///
    /// # Errors
    /// [`Error::Argument`] without a query, [`Error::Fault`] when the retriever fails: no score is made of a fault.
    pub fn run(&self, observer: &dyn Observe) -> Result<TunedBase> {
        let (searched, confirming) = self.split()?;
        let (seen, unseen) = (Scorer::new(self, &searched), Scorer::new(self, &confirming));
        let enough = self.queries.len() >= FEWEST;
        let (settings, starts) = if enough { (self.settings(), self.starts()) } else { Default::default() };
        let raw = self.at(BaseConfig::default());
        let raw_means = (seen.mean(&raw)?, unseen.mean(&raw)?);
        let mut trials = Vec::new();
        let mut best = (raw, raw_means);
        for (number, start) in starts.iter().enumerate() {
            let mut ascent = Ascent { scores: seen.score(start)?, point: start.clone(), trials: Vec::new() };
            for round in 0..ROUNDS {
                let before = ascent.point.clone();
                for (place, setting) in settings.iter().enumerate() {
                    let done = ((number * ROUNDS + round) * settings.len() + place) as u64;
                    let all = (starts.len() * ROUNDS * settings.len()) as u64;
                    observer.progress(Progress::new("tuning", done, all));
                    ascent.climb(setting, &seen, round > 0)?;
                }
                if ascent.point == before {
                    break;
                }
            }
            trials.append(&mut ascent.trials);
            let point = unseen.confirmed(ascent.point, &settings, &mut trials)?;
            let means = (seen.mean(&point)?, unseen.mean(&point)?);
            // Better on both, or nothing was learned. Of two starts, the better one on all queries.
            let holds = means.0 > raw_means.0 && means.1 > raw_means.1;
            if holds && 2.0 * means.0 + means.1 > 2.0 * best.1.0 + best.1.1 {
                best = (point, means);
            }
        }
        if enough && let Some(point) = self.with_neighbours(&best.0, (&seen, &unseen), &mut trials)? {
            best = (point.clone(), (seen.mean(&point)?, unseen.mean(&point)?));
        }
        let (point, tuned) = best;
        let Point { base, weights } = without_zeros(point);
        let fusion_weights = self.weights().map(|weight| weight.key.clone()).zip(weights).collect();
        let (searched, confirmed) = (searched.len(), confirming.len());
        Ok(TunedBase { base, fusion_weights, trials, searched, confirmed, raw: raw_means, tuned })
    }

    /// A base with the weights of the start.
    fn at(&self, base: BaseConfig) -> Point {
        Point { base, weights: self.weights().map(|weight| weight.start).collect() }
    }

    fn weights(&self) -> impl Iterator<Item = &FusionWeight> {
        self.fusion.iter().flat_map(|fusion| &fusion.weights)
    }

    /// Where the search begins: the raw query, and all fields alike, since from either the other is many steps away.
    fn starts(&self) -> Vec<Point> {
        let fields = self.fields();
        let mut starts = vec![self.at(BaseConfig::default())];
        if fields.len() > 1 && self.retriever.card().languages.contains(&QueryLanguage::Boolean) {
            let fields = fields.into_iter().map(|name| (name, 0.25)).collect();
            starts.push(self.at(BaseConfig { contents: 0.0, fields, ..BaseConfig::default() }));
        }
        starts
    }

    /// The fields that a query can name.
    fn fields(&self) -> Vec<String> {
        let fields = &self.retriever.card().fields;
        fields.iter().filter(|name| can_name(name, fields)).cloned().collect()
    }

    /// The queries to search on and those that confirm: of three in a row the last one confirms, where there are enough.
    fn split(&self) -> Result<(Vec<Labelled<'_>>, Vec<Labelled<'_>>)> {
        if self.queries.is_empty() {
            return Err(Error::argument("queries", "there is no judged query", "tune on a split that has some"));
        }
        // Spread over all of them: neighbours in a file are often alike.
        let most = SEARCHED + SEARCHED / 2;
        let step = self.queries.len().div_ceil(most).max(1);
        let taken: Vec<Labelled<'_>> = self.queries.iter().step_by(step).copied().collect();
        let part = |confirms: bool| {
            let of = taken.iter().enumerate().filter(move |(place, _)| (place % 3 == 2) == confirms);
            of.map(|(_, labelled)| *labelled).collect()
        };
        Ok((part(false), part(true)))
    }

    /// What the retriever and the queries allow, in the order in which it is tried.
    fn settings(&self) -> Vec<Setting> {
        let card = self.retriever.card();
        let weights = self.weights().enumerate().map(|(place, weight)| {
            let mut weight = weight.clone();
            weight.values.push(weight.start);
            weight.values.sort_by(f64::total_cmp);
            weight.values.dedup();
            Setting::Weight(place, weight)
        });
        if !card.languages.contains(&QueryLanguage::Boolean) {
            return weights.collect();
        }
        // A single field is the contents once more.
        let fields = || self.fields().into_iter().filter(|_| card.fields.len() > 1).map(Setting::Field);
        let histories = self.queries.iter().filter(|(query, _)| !query.history.is_empty()).count();
        if 2 * histories > self.queries.len() {
            return weights
                .chain([Setting::HistoryDecay, Setting::History])
                .chain(fields())
                .chain([Setting::Contents])
                .collect();
        }
        let feedback = [Setting::FeedbackWeight, Setting::FeedbackSize];
        let feedback = feedback.into_iter().filter(|_| self.feedback.is_some());
        let words = [Setting::Contents, Setting::Phrases, Setting::AllWords];
        weights.chain(fields()).chain(words).chain(feedback).collect()
    }
}

/// A query with its judgements.
pub(crate) type Labelled<'a> = (&'a Query, &'a Judgements);

/// Where the search stands.
struct Ascent {
    point: Point,
    scores: Vec<f64>,
    trials: Vec<Trial>,
}

impl Ascent {
    /// Moves one setting to its best value, where that gains enough: of all values, or of the first one and those beside
    /// its own.
    fn climb(&mut self, setting: &Setting, scorer: &Scorer<'_>, nearby: bool) -> Result<()> {
        let mut best: Option<(usize, Point, Vec<f64>)> = None;
        let variants = setting.variants(&self.point);
        let now = variants.iter().position(|(_, point)| *point == self.point).filter(|_| nearby);
        for (place, (value, point)) in variants.into_iter().enumerate() {
            if now.is_some_and(|now| place > 0 && place.abs_diff(now) > 1) {
                continue;
            }
            if point == self.point || asks_for_nothing(&point.base) {
                continue;
            }
            let scores = scorer.score(&point)?;
            let score = mean(&scores);
            if best.as_ref().is_none_or(|(_, _, best)| score > mean(best)) {
                best = Some((self.trials.len(), point, scores));
            }
            self.trials.push(Trial { setting: setting.key(), value, score, kept: false });
        }
        if let Some((place, point, scores)) = best
            && gains(&scores, &self.scores)
        {
            (self.point, self.scores) = (point, scores);
            if let Some(trial) = self.trials.get_mut(place) {
                trial.kept = true;
            }
        }
        Ok(())
    }
}

/// Whether the mean gain is more than [`STANDARD_ERRORS`] of it.
fn gains(scores: &[f64], than: &[f64]) -> bool {
    let gains: Vec<f64> = scores.iter().zip(than).map(|(new, old)| new - old).collect();
    let (count, gain) = (gains.len() as f64, mean(&gains));
    let variance = gains.iter().map(|g| (g - gain).powi(2)).sum::<f64>() / (count - 1.0).max(1.0);
    gain > 1e-9 && gain > STANDARD_ERRORS * (variance / count).sqrt()
}

fn asks_for_nothing(base: &BaseConfig) -> bool {
    base.contents == 0.0 && base.fields.values().all(|weight| *weight == 0.0)
}

fn without_zeros(mut point: Point) -> Point {
    point.base.fields.retain(|_, weight| *weight != 0.0);
    point
}

/// Not a number where there is no value.
fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

mod neighbours;
mod scorer;
#[cfg(test)]
mod tests;

pub use neighbours::learn_neighbours;
use scorer::Scorer;
