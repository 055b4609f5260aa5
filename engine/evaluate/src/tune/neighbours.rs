//! Words of what was relevant to similar training queries: learning them, and whether they pay.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use querywright_data::catalog::Catalog;
use querywright_rewrite::{JudgedWords, Neighbours, NeighboursConfig};
use querywright_text::analysis::Analyzer;
use querywright_types::{Ordinal, Result};
use rayon::prelude::*;

use super::{Ascent, Labelled, Point, Scorer, Setting, Trial, Tuning, gains, mean};

/// Training queries that are learned from, at most, spread over all of them: their words are kept in a file.
const MOST_QUERIES: usize = 20_000;
/// Relevant documents of a query that are read, at most: the best grades first.
const MOST_RELEVANT: usize = 64;
/// Documents that say how common words are, at most, spread over the catalogue.
const MOST_DOCUMENTS: usize = 200_000;
/// Words of a query that are kept.
const KEPT: usize = 40;
/// Documents that are analysed at a time.
const BATCH: usize = 4096;
/// How long a word may be, in characters.
const LENGTHS: std::ops::RangeInclusive<usize> = 2..=20;

/// Learns in which words what was relevant to training queries is written. Of each query's relevant documents these
/// words are kept that stand out from the catalogue most:
///
/// ```text
/// P(w|R) = Σ_{d in R} grade(d) · tf(w, d) / |d|  /  Σ grade       P(w|C) the mean of tf(w, d) / |d| over the catalogue
/// L(t, w) = P(w|R) · ln(P(w|R) / P(w|C))                          the part of w in the divergence of R from C
/// ```
///
/// None where no query has words and a relevant document.
///
/// # Errors
/// [`Error::Bug`](querywright_types::Error::Bug) where a word cannot be kept.
pub fn learn_neighbours(catalog: &Catalog, queries: &[Labelled<'_>]) -> Result<Option<Neighbours>> {
    let asked = |(query, judged): &&Labelled<'_>| {
        query.history.is_empty() && !query.text.trim().is_empty() && judged.findable() > 0
    };
    let asked: Vec<&Labelled<'_>> = queries.iter().filter(asked).collect();
    let step = asked.len().div_ceil(MOST_QUERIES).max(1);
    let relevant: Vec<(&Labelled<'_>, Vec<(Ordinal, i32)>)> =
        asked.into_iter().step_by(step).map(|labelled| (labelled, best_grades(labelled))).collect();
    if relevant.is_empty() {
        return Ok(None);
    }
    let needed: BTreeSet<Ordinal> = relevant.iter().flat_map(|(_, docs)| docs.iter().map(|doc| doc.0)).collect();
    let words = Words::read(catalog, &needed);
    let judged = relevant.par_iter().map(|((query, _), docs)| JudgedWords {
        id: query.id.clone(),
        text: query.text.clone(),
        words: words.telling(docs),
    });
    Neighbours::new(judged.collect()).map(Some)
}

/// The relevant documents of the best grades.
fn best_grades((_, judgements): &Labelled<'_>) -> Vec<(Ordinal, i32)> {
    let mut docs: Vec<(Ordinal, i32)> = judgements.iter().filter(|(_, grade)| *grade > 0).collect();
    docs.sort_by_key(|(doc, grade)| (std::cmp::Reverse(*grade), *doc));
    docs.truncate(MOST_RELEVANT);
    docs
}

/// What documents say, stem by stem.
#[derive(Default)]
struct Words {
    numbers: HashMap<String, u32>,
    stems: Vec<Stem>,
    /// Documents that the means of all stems are over.
    sampled: usize,
    /// The share of each stem in a relevant document.
    shares: HashMap<Ordinal, Vec<(u32, f32)>>,
}

#[derive(Default)]
struct Stem {
    /// The sum of its shares over the sampled documents.
    common: f64,
    /// How often each word stands for it in relevant documents.
    surfaces: BTreeMap<String, u32>,
}

/// A document's words in lower case, each with its stem and how often it is there.
type Counted = BTreeMap<String, (String, u32)>;

impl Words {
    fn read(catalog: &Catalog, needed: &BTreeSet<Ordinal>) -> Self {
        let step = catalog.len().div_ceil(MOST_DOCUMENTS).max(1);
        let sampled = |doc: Ordinal| (doc as usize).is_multiple_of(step);
        let read: Vec<Ordinal> =
            (0..).take(catalog.len()).filter(|doc| sampled(*doc) || needed.contains(doc)).collect();
        let mut words = Self::default();
        for batch in read.chunks(BATCH) {
            let counted: Vec<Counted> =
                batch.par_iter().map(|doc| count(&catalog.document(*doc).text_of_all_fields())).collect();
            for (doc, counted) in batch.iter().zip(counted) {
                words.add(*doc, counted, sampled(*doc), needed.contains(doc));
            }
        }
        words
    }

    fn add(&mut self, doc: Ordinal, counted: Counted, sampled: bool, relevant: bool) {
        let length: u32 = counted.values().map(|word| word.1).sum();
        let mut shares: BTreeMap<u32, f32> = BTreeMap::new();
        self.sampled += usize::from(sampled);
        for (surface, (stem, count)) in counted {
            let next = self.stems.len() as u32;
            let number = *self.numbers.entry(stem).or_insert(next);
            if number == next {
                self.stems.push(Stem::default());
            }
            let Some(stem) = self.stems.get_mut(number as usize) else { continue };
            let share = f64::from(count) / f64::from(length);
            if sampled {
                stem.common += share;
            }
            if relevant {
                *stem.surfaces.entry(surface).or_default() += count;
                *shares.entry(number).or_default() += share as f32;
            }
        }
        if relevant {
            self.shares.insert(doc, shares.into_iter().collect());
        }
    }

    /// The words in which these documents, with their grades, stand out from the catalogue, the first one most.
    fn telling(&self, docs: &[(Ordinal, i32)]) -> Vec<(String, f32)> {
        let all: f64 = docs.iter().map(|doc| f64::from(doc.1)).sum();
        let mut model: BTreeMap<u32, f64> = BTreeMap::new();
        for (doc, grade) in docs {
            for (stem, share) in self.shares.get(doc).into_iter().flatten() {
                *model.entry(*stem).or_default() += f64::from(*grade) * f64::from(*share) / all;
            }
        }
        let lifted = |(number, share): (u32, f64)| {
            let stem = self.stems.get(number as usize)?;
            // A relevant document that was not sampled may hold what no sampled one does: it is as rare as can be seen.
            let common = stem.common.max(1e-3) / self.sampled.max(1) as f64;
            let lift = (share * (share / common).ln()) as f32;
            // As common as elsewhere, but for the rounding of shares: it tells nothing.
            Some((commonest(stem)?, lift)).filter(|(_, lift)| *lift > 1e-6)
        };
        let mut words: Vec<(String, f32)> = model.into_iter().filter_map(lifted).collect();
        words.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        words.truncate(KEPT);
        words
    }
}

/// The word that stands for a stem most often, where it is one that a query can ask for.
fn commonest(stem: &Stem) -> Option<String> {
    let plain = |word: &&String| word.chars().all(char::is_alphanumeric) && LENGTHS.contains(&word.chars().count());
    let words = stem.surfaces.iter().filter(|(word, _)| plain(word));
    words.max_by_key(|(word, count)| (**count, std::cmp::Reverse(*word))).map(|(word, _)| word.clone())
}

fn count(text: &str) -> Counted {
    let mut counted = Counted::new();
    for token in Analyzer::english().tokens(text) {
        counted.entry(token.surface.to_lowercase()).or_insert((token.stem, 0)).1 += 1;
    }
    counted
}

impl Tuning<'_> {
    /// The point with words of neighbours, where they help: the queries that are searched on, those that confirm, and by
    /// more than chance those of another split. Training queries that ask for the same may be in all parts of their own
    /// split and in no other, so that only another one says what strangers' queries get.
    pub(super) fn with_neighbours(
        &self,
        point: &Point,
        (seen, unseen): (&Scorer<'_>, &Scorer<'_>),
        trials: &mut Vec<Trial>,
    ) -> Result<Option<Point>> {
        let Some(known) = self.neighbours.as_ref().filter(|known| !known.is_empty()) else { return Ok(None) };
        let mut start = point.clone();
        start.base.neighbours =
            NeighboursConfig { known: Some(known.clone()), file: known.file_name(), ..Default::default() };
        let mut ascent = Ascent { scores: seen.score(&start)?, point: start.clone(), trials: Vec::new() };
        let mut settings = vec![Setting::NeighboursWeight, Setting::NeighboursTerms];
        settings.extend(self.feedback.is_some().then_some(Setting::FeedbackWeight));
        for setting in &settings {
            ascent.climb(setting, seen, false)?;
        }
        trials.append(&mut ascent.trials);
        let found = ascent.point;
        if found.base.neighbours.is_off() || unseen.mean(&found)? <= unseen.mean(point)? {
            return Ok(None);
        }
        if self.elsewhere.is_empty() {
            return Ok(Some(found));
        }
        let elsewhere = Scorer::new(self, self.elsewhere);
        let (with, without) = (elsewhere.score(&found)?, elsewhere.score(point)?);
        let kept = gains(&with, &without);
        let value = format!("{}, on another split", found.base.neighbours.weight);
        trials.push(Trial { setting: Setting::NeighboursWeight.key(), value, score: mean(&with), kept });
        Ok(kept.then_some(found))
    }
}
