//! The gate: what a run ships is the best of raw, tuned, trained and gated on development queries, with a test.

use std::ops::Range;

use querywright_data::catalog::Catalog;
use querywright_data::metrics::Measure;
use querywright_data::metrics::significance::randomisation_test;
use querywright_stack::Identity;
use querywright_types::{Error, Judgements, Observe, Query, Result, Retriever, Rewriter};
use serde::Serialize;

use super::confidence::{Sureness, least_confidence};
use super::system::{Evaluated, Evaluation};

/// The trained model with a least confidence, in tables.
pub const GATED: &str = "trained, gated";
/// Two-sided: one chance in twenty that a system that is no better passes.
const LEVEL: f64 = 0.1;
const ROUNDS: usize = 10_000;
const SEED: u64 = 0;
/// Queries that a model is tested on, at most: it takes milliseconds for each.
const MOST: usize = 400;
/// Fewer unseen queries than this are no test, and fewer queries no ground for a least confidence.
const FEWEST: usize = 100;

type Judged<'a> = (&'a Query, &'a Judgements);

/// What may be shipped is decided by these queries.
#[derive(Clone, Copy)]
pub struct Gate<'a> {
    /// Names the hits; the order of equal scores needs their ids.
    pub catalog: &'a Catalog,
    /// What ranks.
    pub retriever: &'a dyn Retriever,
    /// What systems are compared by.
    pub measure: Measure,
    /// Development queries with their judgements. Nothing was trained on them.
    pub queries: &'a [Judged<'a>],
    /// How many of them, the first ones, chose the trained adapter.
    pub chosen_on: usize,
    /// Whether these had a say in the tuned base, too.
    pub chose_the_base: bool,
    /// Queries that are rewritten at once.
    pub batch: usize,
}

impl std::fmt::Debug for Gate<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate")
            .field("queries", &self.queries.len())
            .field("chosen_on", &self.chosen_on)
            .field("measure", &self.measure)
            .finish_non_exhaustive()
    }
}

/// A system against the one that it would replace.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Challenge {
    /// The system.
    pub system: String,
    /// What it would replace.
    pub against: String,
    /// How many queries both were measured on.
    pub queries: usize,
    /// Its mean.
    pub mean: f64,
    /// The other's mean.
    pub against_mean: f64,
    /// The p-value of Fisher's randomisation test, two-sided.
    pub p: f64,
    /// Whether it is better, and not by chance: its mean is higher with p below 0.1.
    pub passed: bool,
}

impl Challenge {
    /// A system against another one, by their names and their values on the same queries.
    ///
    /// # Errors
    /// [`Error::Argument`] without a query, or where they were measured on different numbers of them.
    pub fn of(system: (&str, &[f64]), against: (&str, &[f64])) -> Result<Self> {
        let ((system, new), (against, old)) = (system, against);
        let p = randomisation_test(new, old, ROUNDS, SEED)?;
        let of = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let (mean, against_mean, queries) = (of(new), of(old), new.len());
        let passed = mean > against_mean && p < LEVEL;
        Ok(Self { system: system.to_owned(), against: against.to_owned(), queries, mean, against_mean, p, passed })
    }
}

/// What is shipped, and why.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Shipped {
    /// "raw", "tuned", "trained", or [`GATED`].
    pub system: String,
    /// The reason, for a person.
    pub sentence: String,
    /// How sure the model must be for its rewrite to be used, where [`GATED`] is shipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confidence: Option<f64>,
    /// Every system against the one that it would have replaced.
    pub challenges: Vec<Challenge>,
}

impl Gate<'_> {
    /// Decides. The simplest system stands, and the next one replaces it where it is better and not by chance
    /// ([`Challenge`]): raw, tuned, trained, and trained with a least confidence.
    ///
    /// Raw and tuned meet on all queries, or where some of them chose the base, on those that did not. The model is tested
    /// on [those that did not choose it](Self::for_the_model). A least confidence is chosen on every other one of these, and
    /// must pass on the ones between, so that noise does not choose it. `on_base` says whether the model's words are added
    /// to the tuned base, which is then what a query is without the model. `observer` is asked for at each measurement, by
    /// the system's name and the number of queries.
    ///
    /// Where the retriever fails, raw is shipped: a fault counts 0 in a mean, so that no test of such figures holds.
    ///
    /// # Errors
    /// Those of [`Evaluation::run`].
    pub fn decide<O: Observe>(
        &self,
        tuned: &dyn Rewriter,
        trained: &dyn Rewriter,
        on_base: bool,
        observer: impl Fn(&str, usize) -> O,
    ) -> Result<Shipped> {
        let measured = |name: &str, rewriter: &dyn Rewriter, queries: &[Judged<'_>]| {
            let measures = &[self.measure];
            let evaluation = Evaluation { catalog: self.catalog, queries, measures, batch: self.batch };
            evaluation.run(rewriter, self.retriever, &observer(name, queries.len()))
        };
        let (raw, tuned) = (measured("raw", &Identity, self.queries)?, measured("tuned", tuned, self.queries)?);
        let model = measured("trained", trained, self.for_the_model())?;
        let faults: usize = [&raw, &tuned, &model].iter().map(|found| found.system.faults).sum();
        if faults > 0 {
            return Ok(Shipped::after_faults(faults));
        }
        let (raw, tuned, with) = (self.values(&raw)?, self.values(&tuned)?, self.values(&model)?);
        let asked = |values: &'_ [f64]| values.get(self.range()).unwrap_or_default().to_vec();

        let first = match self.chose_the_base {
            true => Challenge::of(("tuned", &asked(&tuned)), ("raw", &asked(&raw)))?,
            false => Challenge::of(("tuned", &tuned), ("raw", &raw))?,
        };
        let (simple, old) = if first.passed { ("tuned", asked(&tuned)) } else { ("raw", asked(&raw)) };
        let second = Challenge::of(("trained", &with), (simple, &old))?;
        let (mut system, old) = if second.passed { ("trained", with.clone()) } else { (simple, old) };
        let mut challenges = vec![first, second];
        let mut confidence = None;
        let without = asked(if on_base { &tuned } else { &raw });
        if let Some((least, challenge)) = gated(&model, (&with, &without), (system, &old))? {
            if challenge.passed {
                (system, confidence) = (GATED, Some(least));
            }
            challenges.push(challenge);
        }
        let sentence = sentence(system, confidence, &challenges, self.measure);
        Ok(Shipped { system: system.to_owned(), sentence, confidence, challenges })
    }

    /// The queries that the model is tested on: those that did not choose its adapter, where there are at least 100 of them,
    /// else those that did; at most 400.
    pub fn for_the_model(&self) -> &[Judged<'_>] {
        self.queries.get(self.range()).unwrap_or_default()
    }

    fn range(&self) -> Range<usize> {
        let all = self.queries.len();
        let start = if all.saturating_sub(self.chosen_on) >= FEWEST { self.chosen_on } else { 0 };
        start..all.min(start + MOST)
    }

    fn values(&self, found: &Evaluated) -> Result<Vec<f64>> {
        let values = found.system.values(self.measure).map(<[f64]>::to_vec);
        values.ok_or_else(|| Error::bug("evaluate::gate", format!("no values of {}", self.measure)))
    }
}

/// A least confidence chosen on every other query, and how the model that must be that sure does against the standing system
/// on the queries between. `with` and `without` the model each query has a value.
fn gated(
    model: &Evaluated,
    (with, without): (&[f64], &[f64]),
    (standing, old): (&str, &[f64]),
) -> Result<Option<(f64, Challenge)>> {
    if with.len() < FEWEST {
        return Ok(None);
    }
    let sureness = |(rewrite, (with, without)): (&querywright_types::Rewrite, (&f64, &f64))| Sureness {
        confidence: rewrite.confidence.filter(|_| rewrite.kept.is_none()),
        with: *with,
        without: *without,
    };
    let all: Vec<Sureness> = model.rewrites.iter().zip(with.iter().zip(without)).map(sureness).collect();
    let choosing: Vec<Sureness> = all.iter().step_by(2).copied().collect();
    let Some(least) = least_confidence(&choosing) else { return Ok(None) };
    let confirming: Vec<f64> = all.iter().skip(1).step_by(2).map(|query| query.gated(least)).collect();
    let old: Vec<f64> = old.iter().skip(1).step_by(2).copied().collect();
    Ok(Some((least, Challenge::of((GATED, &confirming), (standing, &old))?)))
}

impl Shipped {
    fn after_faults(faults: usize) -> Self {
        let sentence =
            format!("Shipped: the raw query, because the retriever failed {faults} times while systems were compared");
        Self { system: "raw".to_owned(), sentence, confidence: None, challenges: Vec::new() }
    }
}

fn sentence(system: &str, confidence: Option<f64>, challenges: &[Challenge], measure: Measure) -> String {
    let told = challenges.iter().map(|c| {
        let Challenge { system, against, queries, mean, against_mean, p, .. } = c;
        format!("{system} {mean:.4} against {against_mean:.4} of {against}, {queries} queries, p {p:.4}")
    });
    let told = told.collect::<Vec<_>>().join("; ");
    let beaten = challenges.iter().rfind(|c| c.passed).map_or("raw", |c| c.against.as_str());
    let (what, why) = match (system, confidence) {
        ("raw", _) => ("the raw query".to_owned(), "nothing is better beyond chance".to_owned()),
        ("tuned", _) => {
            ("the tuned base, without a model".to_owned(), "it beats raw, and the model does not beat it".to_owned())
        }
        (_, None) => ("the trained model".to_owned(), format!("it beats {beaten} beyond chance")),
        (_, Some(least)) => {
            let what = format!("the trained model where its confidence is at least {least}, else the query without it");
            (what, format!("that beats {beaten} beyond chance"))
        }
    };
    format!("Shipped: {what}, because {why} (development queries, {measure}: {told})")
}

#[cfg(test)]
mod tests;
