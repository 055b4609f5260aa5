//! Rewards: a weighted sum of the measures of a rewrite's ranking, their gain over the raw query, whether the answer
//! kept its format, and the length of what was written.
//!
//! ```text
//! broken format:  -format_penalty
//! otherwise:      sum(weight * measure) + sum(weight * (measure - measure of the raw query))
//!                 + format_bonus - length_penalty * max(0, words - length_limit) - term_cost * generated terms
//! ```
//!
//! The raw query is here what a query is without a model, so with a base what the base makes of it. A gain is a constant
//! of the query apart from the measure: it changes no difference between the completions of a group.
//!
//! A failure of the environment has no reward at all ([`None`]): the request is retried, then the sample is dropped and
//! counted. [`RewardFunction::score_batch`] does so for a batch, through a [`RewardCache`].

mod cache;
mod score;

use std::collections::BTreeMap;

use querywright_data::metrics::Measure;
use querywright_types::{Error, QueryLanguage, Result, Rewrite};

pub use cache::RewardCache;
pub use score::{Candidate, ScoredBatch};

#[cfg(test)]
mod tests;

/// Retrieval depth where no measure has a cutoff.
const DEFAULT_DEPTH: usize = 1000;

/// Formulas with a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum RewardPreset {
    /// The weighted sum of the other settings.
    #[default]
    Weighted,
    /// Rec-R1 (arXiv 2503.24289): -2 for a broken format, 0.1 + measure where the measure is above 0, otherwise 0.
    /// Takes one measure; the other weights are fixed.
    RecR1,
}

/// The settings of the reward.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RewardConfig {
    /// Default `weighted`.
    pub preset: RewardPreset,
    /// Weight of each measure of the rewrite's ranking, by ir_measures name. Default `{"nDCG@10" = 1.0}`.
    pub measures: BTreeMap<String, f64>,
    /// Weight of each measure's gain over what the query is without a model (its base, where there is one). Default: none.
    pub gains: BTreeMap<String, f64>,
    /// How many documents are retrieved. Default: the largest cutoff among the measures, 1000 if one has none.
    pub k: Option<usize>,
    /// Subtracted for a broken format. Default 1.
    pub format_penalty: f64,
    /// Added for a kept format. Default 0.
    pub format_bonus: f64,
    /// Subtracted for each word over `length_limit`. Default 0.
    pub length_penalty: f64,
    /// Words of the query without a penalty. Default 32.
    pub length_limit: usize,
    /// Subtracted for each generated term, so that a term which changes nothing is worse than none. Default 0.
    #[serde(skip_serializing_if = "is_zero")]
    pub term_cost: f64,
}

/// A default is not written: checkpoints from before the key resume.
fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

impl RewardConfig {
    /// The measure that weighs most: what chooses the best adapter, and what a base is tuned for.
    ///
    /// # Errors
    /// Those of [`RewardFunction::new`].
    pub fn main_measure(&self) -> Result<Measure> {
        let measure = RewardFunction::new(self)?.main_measure();
        measure.ok_or_else(|| Error::bug("train::reward", "a reward without a measure"))
    }
}

impl Default for RewardConfig {
    fn default() -> Self {
        Self {
            preset: RewardPreset::Weighted,
            measures: BTreeMap::from([("nDCG@10".to_owned(), 1.0)]),
            gains: BTreeMap::new(),
            k: None,
            format_penalty: 1.0,
            format_bonus: 0.0,
            length_penalty: 0.0,
            length_limit: 32,
            term_cost: 0.0,
        }
    }
}

/// A reward and its parts.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Reward {
    /// The sum of the parts.
    pub value: f32,
    /// What each part contributed, weights applied: `nDCG@10`, `gain:nDCG@10`, `format`, `length`, `terms`.
    pub parts: BTreeMap<String, f32>,
}

/// A checked [`RewardConfig`], ready to score.
#[derive(Debug, Clone, PartialEq)]
pub struct RewardFunction {
    terms: Vec<MeasureTerm>,
    depth: usize,
    format_penalty: f64,
    format_bonus: f64,
    bonus_needs_relevance: bool,
    length_penalty: f64,
    length_limit: usize,
    term_cost: f64,
}

/// One measure with its two weights.
#[derive(Debug, Clone, PartialEq)]
struct MeasureTerm {
    measure: Measure,
    name: String,
    weight: f64,
    gain_weight: f64,
}

impl RewardFunction {
    /// Checks the settings.
    ///
    /// # Errors
    /// For a measure that does not exist, a weight that is not a number, no measure at all, a depth that is 0 or
    /// smaller than a measure's cutoff, or settings that contradict the preset.
    pub fn new(config: &RewardConfig) -> Result<Self> {
        let rec_r1 = config.preset == RewardPreset::RecR1;
        let penalised = config.length_penalty != 0.0 || config.term_cost != 0.0;
        if rec_r1 && (config.measures.len() != 1 || !config.gains.is_empty() || penalised) {
            let found = format!(
                "{} measures, {} gains, a length penalty of {} and a term cost of {}",
                config.measures.len(),
                config.gains.len(),
                config.length_penalty,
                config.term_cost
            );
            let remedy = "give the preset rec-r1 one measure alone, or use `weighted`";
            return Err(Error::argument("reward", found, remedy));
        }
        let terms = measure_terms(config)?;
        let needed = terms.iter().map(|t| t.measure.cutoff().unwrap_or(DEFAULT_DEPTH)).max().unwrap_or(DEFAULT_DEPTH);
        let cutoff = terms.iter().filter_map(|t| t.measure.cutoff()).max().unwrap_or(1);
        let depth = config.k.unwrap_or(needed);
        if depth < cutoff {
            let right = format!("give at least {cutoff}, the largest cutoff of the measures, or leave it out");
            return Err(Error::argument("reward.k", format!("{depth}"), right));
        }
        for (key, value) in [
            ("reward.format_penalty", config.format_penalty),
            ("reward.format_bonus", config.format_bonus),
            ("reward.length_penalty", config.length_penalty),
            ("reward.term_cost", config.term_cost),
        ] {
            finite(key, value)?;
            if value < 0.0 {
                return Err(Error::argument(key, format!("{value}"), "give 0 or more; the sign is in the name"));
            }
        }
        Ok(Self {
            terms,
            depth,
            format_penalty: if rec_r1 { 2.0 } else { config.format_penalty },
            format_bonus: if rec_r1 { 0.1 } else { config.format_bonus },
            bonus_needs_relevance: rec_r1,
            length_penalty: config.length_penalty,
            length_limit: config.length_limit,
            term_cost: config.term_cost,
        })
    }

    /// How many documents a request asks for.
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// Whether the raw query must be retrieved as well.
    pub fn needs_raw(&self) -> bool {
        self.terms.iter().any(|t| t.gain_weight != 0.0)
    }

    /// The measure that weighs most, of equals the first by name: what chooses the best adapter and measures headroom.
    pub fn main_measure(&self) -> Option<Measure> {
        let weight = |t: &MeasureTerm| t.weight.abs() + t.gain_weight.abs();
        self.terms.iter().rev().max_by(|a, b| weight(a).total_cmp(&weight(b))).map(|t| t.measure)
    }

    /// The main measure of a rewarded rewrite less `without`, its value without the model; none for a broken format.
    pub fn gain(&self, reward: &Reward, without: f64) -> Option<f64> {
        let main = self.main_measure()?;
        let term = self.terms.iter().find(|term| term.measure == main)?;
        if let Some(part) = reward.parts.get(&term.name).filter(|_| term.weight != 0.0) {
            return Some(f64::from(*part) / term.weight - without);
        }
        let part = reward.parts.get(&format!("gain:{}", term.name)).filter(|_| term.gain_weight != 0.0)?;
        Some(f64::from(*part) / term.gain_weight)
    }

    /// The measures whose scores [`RewardFunction::reward`] takes, in that order.
    pub fn measures(&self) -> impl ExactSizeIterator<Item = Measure> + '_ {
        self.terms.iter().map(|t| t.measure)
    }

    /// The objectives of the reward, for [`Reward::objective`]: the parts that differ between completions, each with its
    /// weight. That of the format is what lies between a kept and a broken one.
    pub fn objectives(&self) -> Vec<(String, f64)> {
        let measures = self.terms.iter().map(|term| (term.name.clone(), term.weight));
        let costs = [
            ("format", self.format_bonus + self.format_penalty),
            ("length", self.length_penalty),
            ("terms", self.term_cost),
        ];
        let all = measures.chain(costs.map(|(name, weight)| (name.to_owned(), weight)));
        all.filter(|(_, weight)| *weight != 0.0).collect()
    }

    /// The reward of a broken format.
    pub fn broken_format(&self) -> Reward {
        Reward::of(vec![("format".to_owned(), -self.format_penalty)])
    }

    /// The reward of a rewrite with `generated` terms of the model's whose ranking scored `scores`, where the raw query's
    /// ranking scored `raw` (both in the order of [`RewardFunction::measures`]; `raw` may be empty unless
    /// [`RewardFunction::needs_raw`]). None where one of them is missing.
    pub fn reward(&self, rewrite: &Rewrite, generated: usize, scores: &[f64], raw: &[f64]) -> Option<Reward> {
        let mut parts = Vec::new();
        let mut relevant = false;
        for (i, term) in self.terms.iter().enumerate() {
            let score = *scores.get(i)?;
            relevant |= score > 0.0;
            if term.weight != 0.0 {
                parts.push((term.name.clone(), term.weight * score));
            }
            if term.gain_weight != 0.0 {
                let gain = score - raw.get(i)?;
                parts.push((format!("gain:{}", term.name), term.gain_weight * gain));
            }
        }
        if self.format_bonus != 0.0 {
            let earned = relevant || !self.bonus_needs_relevance;
            parts.push(("format".to_owned(), if earned { self.format_bonus } else { 0.0 }));
        }
        if self.length_penalty != 0.0 {
            let over = words(rewrite).saturating_sub(self.length_limit);
            parts.push(("length".to_owned(), 0.0 - self.length_penalty * over as f64));
        }
        if self.term_cost != 0.0 {
            parts.push(("terms".to_owned(), 0.0 - self.term_cost * generated as f64));
        }
        Some(Reward::of(parts))
    }
}

impl Reward {
    /// The value of a part without its weight; 0 where the reward has no such part, as a measure where nothing was retrieved.
    pub fn objective(&self, part: &str, weight: f64) -> f64 {
        self.parts.get(part).map_or(0.0, |value| f64::from(*value) / weight)
    }

    fn of(parts: Vec<(String, f64)>) -> Self {
        let value = parts.iter().map(|(_, part)| part).sum::<f64>() as f32;
        Self { value, parts: parts.into_iter().map(|(name, part)| (name, part as f32)).collect() }
    }
}

/// How many words a query has: pieces between blanks that hold a letter or a digit. Operators of a Boolean query are
/// not words.
pub fn words(rewrite: &Rewrite) -> usize {
    let operator = |w: &str| rewrite.language == QueryLanguage::Boolean && matches!(w, "AND" | "OR" | "NOT");
    rewrite
        .text
        .split_whitespace()
        .filter(|w| w.chars().any(char::is_alphanumeric))
        .filter(|w| !operator(w.trim_matches(['(', ')'])))
        .count()
}

/// The measures with their weights, each once; at least one.
fn measure_terms(config: &RewardConfig) -> Result<Vec<MeasureTerm>> {
    let mut terms: Vec<MeasureTerm> = Vec::new();
    for (key, weights, gain) in [("measures", &config.measures, false), ("gains", &config.gains, true)] {
        for (name, weight) in weights {
            let key = format!("reward.{key}.{name}");
            finite(&key, *weight)?;
            let measure = name.parse::<Measure>().map_err(|error| match error {
                Error::Argument { found, remedy, .. } => Error::argument(key, found, remedy),
                other => other,
            })?;
            let weight = if config.preset == RewardPreset::RecR1 { 1.0 } else { *weight };
            let at = terms.iter().position(|t| t.measure == measure).unwrap_or_else(|| {
                terms.push(MeasureTerm { measure, name: measure.to_string(), weight: 0.0, gain_weight: 0.0 });
                terms.len() - 1
            });
            *(if gain { &mut terms[at].gain_weight } else { &mut terms[at].weight }) += weight;
        }
    }
    if terms.is_empty() {
        return Err(Error::argument("reward.measures", "none", "name at least one, as \"nDCG@10\" = 1.0"));
    }
    Ok(terms)
}

fn finite(key: &str, value: f64) -> Result<()> {
    match value.is_finite() {
        true => Ok(()),
        false => Err(Error::argument(key, format!("{value}"), "give a finite number")),
    }
}
