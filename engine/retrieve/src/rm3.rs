//! RM3: pseudo-relevance feedback as a rewriter, the baseline that a learned rewriter must beat.
//!
//! The best documents for the query are taken to be relevant; the words that stand out in them are added to it
//! (Lavrenko and Croft 2001; Abdul-Jaleel and others, TREC 2004). With R the [`Rm3Config::fb_docs`] first documents:
//!
//! ```text
//! P(w|R) ∝ Σ_{d in R} score(d) * tf(w, d) / |d|       the fb_terms likeliest, scaled to sum 1
//! P'(w)  = λ * P(w|query) + (1 - λ) * P(w|R)          λ = original_query_weight
//! ```
//!
//! Defaults and details are Anserini's: a word that more than a tenth of all documents hold, or that is not 2 to 20
//! letters and digits, is no expansion term; of each document only its `fb_terms` most frequent words count, and |d| is
//! how often these are there. (The papers divide by the whole length. That lets short documents speak louder and is
//! worse on three of our four collections.) The rewrite is a Boolean query of weighted terms,
//! "batman^0.3125 gotham^0.0521 …".
//!
//! A query without words but with a history takes the most recent items of the history for its relevant documents.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::sync::Arc;

use super::bm25::Bm25;
use super::each::each;
use super::first_searches::{FirstSearches, Found};
use querywright_types::{Deadline, Error, Ordinal, Query, QueryLanguage, Request, Result, Rewrite, Rewriter};

/// Words in more than this share of the documents are no expansion terms.
const MOST_COMMON: f64 = 0.1;

/// How long an expansion term may be, in characters.
const LENGTHS: std::ops::RangeInclusive<usize> = 2..=20;

/// The settings of [`Rm3`], under Pyserini's names.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rm3Config {
    /// How many documents are taken to be relevant. Default 10.
    pub fb_docs: usize,
    /// How many words they give. Default 10.
    pub fb_terms: usize,
    /// The weight of the original query, from 0 to 1. Default 0.5.
    pub original_query_weight: f64,
}

impl Default for Rm3Config {
    fn default() -> Self {
        Self { fb_docs: 10, fb_terms: 10, original_query_weight: 0.5 }
    }
}

/// RM3 over a BM25 index.
#[derive(Debug, Clone)]
pub struct Rm3 {
    index: Arc<Bm25>,
    config: Rm3Config,
    searches: Option<FirstSearches>,
}

/// A probability for each stem.
type Model = BTreeMap<String, f64>;

/// How often each word stands for each stem.
type Surfaces = HashMap<String, BTreeMap<String, u32>>;

impl Rm3 {
    /// Feedback from this index.
    ///
    /// # Errors
    /// [`Error::Argument`] for a weight outside 0 to 1.
    pub fn new(index: Arc<Bm25>, config: Rm3Config) -> Result<Self> {
        let weight = config.original_query_weight;
        if !(0.0..=1.0).contains(&weight) {
            let remedy = "give a number from 0 to 1, such as 0.5";
            return Err(Error::argument("original_query_weight", weight.to_string(), remedy));
        }
        Ok(Self { index, config, searches: None })
    }

    /// Shares its first searches with others over the same index.
    pub fn sharing(mut self, searches: FirstSearches) -> Self {
        self.searches = Some(searches);
        self
    }

    /// The words that stand out in the best documents, at most `fb_terms`, the heaviest first: each once, as it stands
    /// there, in lower case, with P(w|R).
    ///
    /// # Errors
    /// Those of the index.
    pub fn terms(&self, query: &Query) -> Result<Vec<(String, f64)>> {
        let mut surfaces = Surfaces::new();
        let (_, feedback) = self.models(query, &mut surfaces)?;
        let word = |stem: &str| self.word_for(stem, surfaces.get(stem)?).map(str::to_owned);
        Ok(heaviest(feedback).into_iter().filter_map(|(stem, share)| Some((word(&stem)?, share))).collect())
    }

    /// As [`terms`](Self::terms), without the shares: candidates for a model to choose from.
    ///
    /// # Errors
    /// Those of the index.
    pub fn words(&self, query: &Query) -> Result<Vec<String>> {
        Ok(self.terms(query)?.into_iter().map(|term| term.0).collect())
    }

    /// P(w|query) and P(w|R), the likeliest words only.
    fn models(&self, query: &Query, surfaces: &mut Surfaces) -> Result<(Model, Model)> {
        let asked = self.query_model(&query.text, surfaces);
        let relevant = if asked.is_empty() { self.recent(query).into() } else { self.found(query)? };
        let feedback = self.relevance_model(&relevant, surfaces)?;
        Ok((asked, feedback))
    }

    fn rewrite_one(&self, query: &Query) -> Result<Rewrite> {
        let mut surfaces = Surfaces::new();
        let (asked, feedback) = self.models(query, &mut surfaces)?;
        if feedback.is_empty() {
            return Ok(Rewrite::plain(query.text.clone()));
        }
        let original = if asked.is_empty() { 0.0 } else { self.config.original_query_weight };
        let mut mixed: Model = asked.into_iter().map(|(stem, p)| (stem, original * p)).collect();
        for (stem, p) in feedback {
            *mixed.entry(stem).or_default() += (1.0 - original) * p;
        }
        Ok(Rewrite::new(self.render(mixed, &surfaces), QueryLanguage::Boolean))
    }

    /// P(w|query): each word's share of the query.
    fn query_model(&self, text: &str, surfaces: &mut Surfaces) -> Model {
        let counts = self.count(text, surfaces);
        let length: u32 = counts.values().sum();
        counts.into_iter().map(|(stem, count)| (stem, f64::from(count) / f64::from(length))).collect()
    }

    /// What is [`retrieved`](Self::retrieved), or what another one has retrieved before.
    fn found(&self, query: &Query) -> Result<Found> {
        match &self.searches {
            Some(searches) => searches.find(query, self.config.fb_docs, || self.retrieved(query)),
            None => Ok(self.retrieved(query)?.into()),
        }
    }

    /// The first documents of the search, with their scores.
    fn retrieved(&self, query: &Query) -> Result<Vec<(Ordinal, f64)>> {
        let request = Request::new(query, &Rewrite::plain(query.text.clone()), self.config.fb_docs);
        Ok(self.index.search(&request)?.hits.iter().map(|hit| (hit.doc, f64::from(hit.score))).collect())
    }

    /// The last items of the history, each once and all alike.
    fn recent(&self, query: &Query) -> Vec<(Ordinal, f64)> {
        let mut items: Vec<Ordinal> = Vec::new();
        for &item in query.history.iter().rev() {
            if items.len() == self.config.fb_docs {
                break;
            }
            if !items.contains(&item) && (item as usize) < self.index.catalog().len() {
                items.push(item);
            }
        }
        items.into_iter().map(|item| (item, 1.0)).collect()
    }

    /// P(w|R), the likeliest words only.
    fn relevance_model(&self, relevant: &[(Ordinal, f64)], surfaces: &mut Surfaces) -> Result<Model> {
        let mut weights = Model::new();
        for &(ordinal, score) in relevant {
            let fields: Vec<&str> = self.index.catalog().document(ordinal).fields().map(|f| f.1).collect();
            let counts = self.characteristic(self.count(&fields.join("\n"), surfaces))?;
            let length: u32 = counts.iter().map(|c| c.1).sum();
            for (stem, count) in counts {
                *weights.entry(stem).or_default() += score * f64::from(count) / f64::from(length);
            }
        }
        let mut likeliest = heaviest(weights);
        likeliest.truncate(self.config.fb_terms);
        let sum: f64 = likeliest.iter().map(|term| term.1).sum();
        Ok(likeliest.into_iter().map(|(stem, weight)| (stem, weight / sum)).collect())
    }

    /// The most frequent words of a document that may expand a query.
    fn characteristic(&self, counts: BTreeMap<String, u32>) -> Result<Vec<(String, u32)>> {
        let mut frequent: Vec<(String, u32)> = counts.into_iter().collect();
        frequent.sort_by_key(|c| std::cmp::Reverse(c.1));
        let mut chosen = Vec::with_capacity(self.config.fb_terms.min(frequent.len()));
        for (stem, count) in frequent {
            if chosen.len() == self.config.fb_terms {
                break;
            }
            if self.may_expand(&stem)? {
                chosen.push((stem, count));
            }
        }
        Ok(chosen)
    }

    fn may_expand(&self, stem: &str) -> Result<bool> {
        if !LENGTHS.contains(&stem.chars().count()) || !stem.chars().all(char::is_alphanumeric) {
            return Ok(false);
        }
        let holding = self.index.document_frequency(stem)? as f64;
        Ok(holding <= MOST_COMMON * self.index.catalog().len() as f64)
    }

    /// How often each stem is in a text; records the words that stand for it in `surfaces`.
    fn count(&self, text: &str, surfaces: &mut Surfaces) -> BTreeMap<String, u32> {
        let mut counts = BTreeMap::new();
        for token in self.index.analyzer().tokens(text) {
            *surfaces.entry(token.stem.clone()).or_default().entry(token.surface.to_lowercase()).or_default() += 1;
            *counts.entry(token.stem).or_default() += 1;
        }
        counts
    }

    /// "word^weight …", the heaviest first, every word one that the index analyses to the stem again.
    fn render(&self, model: Model, surfaces: &Surfaces) -> String {
        let mut text = String::new();
        for (stem, weight) in heaviest(model) {
            // Six digits are more than the ranking needs and are still read by people.
            let weight = (weight * 1e6).round() / 1e6;
            let Some(word) = surfaces.get(&stem).and_then(|words| self.word_for(&stem, words)) else { continue };
            if weight > 0.0 {
                let space = if text.is_empty() { "" } else { " " };
                // Writing to a String does not fail.
                let _ = write!(text, "{space}{word}^{weight}");
            }
        }
        text
    }

    /// The commonest word that stands for the stem and survives being read again as a query.
    fn word_for<'s>(&self, stem: &str, words: &'s BTreeMap<String, u32>) -> Option<&'s str> {
        let survives = |word: &str| {
            let mut tokens = self.index.analyzer().tokens(word);
            let same = tokens.next().is_some_and(|token| token.stem == stem) && tokens.next().is_none();
            same && !word.contains(['"', '^', '(', ')', '\u{201c}', '\u{201d}', '\u{201e}'])
        };
        let mut best: Option<(&str, u32)> = None;
        for (word, &count) in words {
            if best.is_none_or(|b| count > b.1) && survives(word) {
                best = Some((word, count));
            }
        }
        best.map(|b| b.0)
    }
}

/// The stems of a model, the heaviest first.
fn heaviest(model: Model) -> Vec<(String, f64)> {
    let mut stems: Vec<(String, f64)> = model.into_iter().collect();
    // Stable, and a BTreeMap is sorted: of equal weights the first in the alphabet comes first.
    stems.sort_by(|a, b| b.1.total_cmp(&a.1));
    stems
}

impl Rewriter for Rm3 {
    fn name(&self) -> &str {
        "rm3"
    }

    fn rewrite(&self, queries: &[Query], deadline: Deadline) -> Vec<Result<Rewrite>> {
        each(queries, |query| deadline.check().and_then(|()| self.rewrite_one(query)))
    }
}

#[cfg(test)]
mod tests;
