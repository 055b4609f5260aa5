//! Systems side by side, with intervals and paired tests.

use serde::Serialize;

use super::System;
use querywright_data::metrics::Measure;
use querywright_data::metrics::significance::{
    Interval, PairedDifference, bootstrap_mean, holm, paired_t_test, randomisation_test,
};
use querywright_types::{Error, Result, nearest};

/// Bootstrap samples, and sign patterns of the randomisation test.
const ROUNDS: usize = 10_000;
/// The share of an interval.
const LEVEL: f64 = 0.95;
/// Fixed, so that the same scores always give the same table.
const SEED: u64 = 0;

/// Several systems on the same queries. Its JSON holds every figure; [`text`](Self::text) and
/// [`markdown`](Self::markdown) are for reading.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Comparison {
    /// How many queries.
    pub queries: usize,
    /// The name of the system that differences are taken to.
    pub reference: String,
    /// One table a measure, in the order of the systems' measures.
    pub measures: Vec<MeasureComparison>,
    /// The cost of each system, in the order given.
    pub costs: Vec<Cost>,
}

/// All systems under one measure.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct MeasureComparison {
    /// The measure.
    pub measure: Measure,
    /// One row a system, in the order given.
    pub rows: Vec<Row>,
}

/// One system under one measure.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Row {
    /// The system's name.
    pub system: String,
    /// The system that this row shows once more ([`Comparison::with_alias`]); none for a system of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub same_as: Option<String>,
    /// Its mean with the 95% bootstrap interval.
    pub mean: Interval,
    /// How it differs from the reference; none for the reference itself.
    pub against: Option<Against>,
}

/// A system against the reference, paired by query. All p-values are two-sided.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Against {
    /// Mean of `system - reference` with the 95% bootstrap interval.
    pub difference: Interval,
    /// Queries on which the system is better.
    pub wins: usize,
    /// Queries on which both are equal.
    pub ties: usize,
    /// Queries on which the system is worse.
    pub losses: usize,
    /// The paired t-test's p-value.
    pub t_test_p: f64,
    /// The same, corrected by Holm over the comparisons of this measure.
    pub t_test_p_holm: f64,
    /// The p-value of Fisher's randomisation test (10,000 sign patterns).
    pub randomisation_p: f64,
    /// The same, corrected by Holm over the comparisons of this measure.
    pub randomisation_p_holm: f64,
}

/// A system's cost, and how often it failed.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Cost {
    /// The system's name.
    pub system: String,
    /// Mean length of the rewrites, in words.
    pub mean_query_words: f64,
    /// Milliseconds a query, rewriting and retrieval.
    pub milliseconds_per_query: f64,
    /// Queries that fell back to the original text, because there was no usable rewrite.
    pub fallbacks: usize,
    /// Queries that the rewriter left as they are without a model: it wrote nothing, or was not sure enough.
    pub kept: usize,
    /// Queries whose retrieval failed; they count 0.
    pub faults: usize,
}

impl Comparison {
    /// Compares `systems`, which were measured on the same queries in the same order, with the one that is called
    /// `reference`. Measures that not all of them have are left out.
    ///
    /// # Errors
    /// When no system has the reference's name, two have the same name, they share no measure, were measured on
    /// different numbers of queries, or on fewer than two.
    pub fn of(systems: &[System], reference: &str) -> Result<Self> {
        let names = || systems.iter().map(|s| s.name.as_str());
        let Some(base) = systems.iter().find(|s| s.name == reference) else {
            let hint = match nearest(reference, names()) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("the systems are {}", names().collect::<Vec<_>>().join(", ")),
            };
            return Err(Error::argument("reference", format!("no system is called \"{reference}\""), hint));
        };
        if let Some((_, twice)) = names().enumerate().find(|(i, name)| names().take(*i).any(|n| n == *name)) {
            let found = format!("two systems are called \"{twice}\"");
            return Err(Error::argument("systems", found, "give each a name of its own"));
        }
        let mut measures = Vec::new();
        for (measure, base_values) in &base.scores {
            let values: Option<Vec<(&str, &[f64])>> =
                systems.iter().map(|s| Some((s.name.as_str(), s.values(*measure)?))).collect();
            if let Some(values) = values {
                measures.push(MeasureComparison::of(*measure, &values, (reference, base_values))?);
            }
        }
        if measures.is_empty() {
            return Err(Error::argument(
                "systems",
                "they share no measure",
                "measure all of them with the same measures",
            ));
        }
        let cost = |s: &System| Cost {
            system: s.name.clone(),
            mean_query_words: s.mean_query_words,
            milliseconds_per_query: s.seconds * 1e3 / s.queries().max(1) as f64,
            fallbacks: s.fallbacks,
            kept: s.kept,
            faults: s.faults,
        };
        let costs = systems.iter().map(cost).collect();
        Ok(Self { queries: base.queries(), reference: reference.to_owned(), measures, costs })
    }

    /// Shows the row of `system` once more under the name `alias`, such as "shipped": its figures and its tests are those
    /// of the system, and no further comparison is corrected for.
    ///
    /// # Errors
    /// [`Error::Argument`] when no system has the name, or one has the alias.
    pub fn with_alias(mut self, alias: &str, system: &str) -> Result<Self> {
        let known = |name: &str| self.costs.iter().any(|cost| cost.system == name);
        if known(alias) || !known(system) {
            let found = format!("\"{alias}\" for \"{system}\"");
            return Err(Error::argument("alias", found, "give a system of the table a name that none of them has"));
        }
        for measure in &mut self.measures {
            let row = measure.rows.iter().find(|row| row.system == system).cloned();
            measure.rows.extend(row.map(|row| Row { system: alias.into(), same_as: Some(system.into()), ..row }));
        }
        let cost = self.costs.iter().find(|cost| cost.system == system).cloned();
        self.costs.extend(cost.map(|cost| Cost { system: alias.into(), ..cost }));
        Ok(self)
    }

    /// The figures of a system under a measure.
    pub fn row(&self, measure: Measure, system: &str) -> Option<&Row> {
        self.measures.iter().find(|m| m.measure == measure)?.rows.iter().find(|row| row.system == system)
    }
}

impl MeasureComparison {
    fn of(measure: Measure, systems: &[(&str, &[f64])], reference: (&str, &[f64])) -> Result<Self> {
        let mut rows = Vec::with_capacity(systems.len());
        for (name, values) in systems {
            let mean = bootstrap_mean(values, LEVEL, ROUNDS, SEED)?;
            let against = if *name == reference.0 { None } else { Some(against(values, reference.1)?) };
            rows.push(Row { system: (*name).to_owned(), same_as: None, mean, against });
        }
        let mut compared: Vec<&mut Against> = rows.iter_mut().filter_map(|row| row.against.as_mut()).collect();
        let t_tests = holm(&compared.iter().map(|a| a.t_test_p).collect::<Vec<_>>());
        let randomisations = holm(&compared.iter().map(|a| a.randomisation_p).collect::<Vec<_>>());
        for (against, (t_test, randomisation)) in compared.iter_mut().zip(t_tests.into_iter().zip(randomisations)) {
            (against.t_test_p_holm, against.randomisation_p_holm) = (t_test, randomisation);
        }
        Ok(Self { measure, rows })
    }
}

/// One comparison, not corrected yet.
fn against(system: &[f64], reference: &[f64]) -> Result<Against> {
    let paired = PairedDifference::of(system, reference)?;
    let differences: Vec<f64> = system.iter().zip(reference).map(|(s, r)| s - r).collect();
    let t_test_p = paired_t_test(system, reference)?.p;
    let randomisation_p = randomisation_test(system, reference, ROUNDS, SEED)?;
    Ok(Against {
        difference: bootstrap_mean(&differences, LEVEL, ROUNDS, SEED)?,
        wins: paired.wins,
        ties: paired.ties,
        losses: paired.losses,
        t_test_p,
        t_test_p_holm: t_test_p,
        randomisation_p,
        randomisation_p_holm: randomisation_p,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A system with made-up scores under nDCG@10 and R@10.
    pub(crate) fn made_up(name: &str, values: &[f64]) -> System {
        System {
            name: name.into(),
            rewriter: name.into(),
            retriever: "bm25".into(),
            scores: vec![(Measure::NDCG_10, values.to_vec()), ("R@10".parse().unwrap(), values.to_vec())],
            seconds: 0.5,
            fallbacks: 1,
            kept: 0,
            faults: 0,
            mean_query_words: 3.25,
        }
    }

    /// Such a system with its rewrites: its name and the number of the query.
    pub(crate) fn evaluated(name: &str, values: &[f64]) -> crate::Evaluated {
        let shown: Vec<String> = (0..values.len()).map(|i| format!("{name} {i}")).collect();
        let rewrites = shown.iter().map(|text| querywright_types::Rewrite::plain(text.as_str())).collect();
        let system = made_up(name, values);
        crate::Evaluated { system, run: Default::default(), rewrites, shown, first_fallback: None }
    }

    #[test]
    fn differences_are_taken_to_the_reference_and_corrected_for_their_number() {
        let raw: Vec<f64> = (0..40).map(|i| f64::from(i % 5) / 10.0).collect();
        let better: Vec<f64> = raw.iter().enumerate().map(|(i, v)| v + 0.1 + (i % 3) as f64 / 50.0).collect();
        let noise: Vec<f64> = raw.iter().enumerate().map(|(i, v)| v + if i % 2 == 0 { 0.05 } else { -0.05 }).collect();
        let systems = [made_up("raw", &raw), made_up("trained", &better), made_up("noise", &noise)];
        let got = Comparison::of(&systems, "raw").unwrap();
        assert_eq!((got.queries, got.measures.len()), (40, 2));
        assert!(got.row(Measure::NDCG_10, "raw").unwrap().against.is_none());
        let trained = got.row(Measure::NDCG_10, "trained").unwrap().against.unwrap();
        let expected = better.iter().sum::<f64>() / 40.0 - raw.iter().sum::<f64>() / 40.0;
        assert!((trained.difference.mean - expected).abs() < 1e-12);
        assert!(trained.difference.low > 0.1 && trained.difference.high < 0.15, "{:?}", trained.difference);
        assert_eq!((trained.wins, trained.ties, trained.losses), (40, 0, 0));
        // Two comparisons: the smaller p is doubled, the greater stays.
        assert_eq!(trained.randomisation_p, 1.0 / 10_001.0);
        assert_eq!(trained.randomisation_p_holm, 2.0 / 10_001.0);
        let noise = got.row(Measure::NDCG_10, "noise").unwrap().against.unwrap();
        assert_eq!((noise.wins, noise.losses), (20, 20));
        assert!(noise.t_test_p_holm > 0.9 && noise.t_test_p_holm == noise.t_test_p);
        let json = serde_json::to_value(&got).unwrap();
        assert_eq!(json["measures"][0]["measure"], "nDCG@10");
        assert_eq!(json["costs"][1]["milliseconds_per_query"], 12.5);
    }

    #[test]
    fn what_is_shipped_is_shown_once_more_and_is_no_further_comparison() {
        let raw: Vec<f64> = (0..40).map(|i| f64::from(i % 5) / 10.0).collect();
        let better: Vec<f64> = raw.iter().enumerate().map(|(i, v)| v + 0.1 + (i % 3) as f64 / 50.0).collect();
        let systems = [made_up("raw", &raw), made_up("tuned", &better), made_up("trained", &raw)];
        let plain = Comparison::of(&systems, "trained").unwrap();
        let got = plain.clone().with_alias("shipped", "tuned").unwrap();
        let row = |name: &str| got.row(Measure::NDCG_10, name).unwrap();
        assert_eq!(row("tuned"), plain.row(Measure::NDCG_10, "tuned").unwrap(), "Holm's family is that of the systems");
        let expected = Row { system: "shipped".into(), same_as: Some("tuned".into()), ..row("tuned").clone() };
        assert_eq!(row("shipped"), &expected);
        assert_eq!((got.costs.len(), got.measures[1].rows.len()), (4, 4));
        let json = serde_json::to_value(&got.measures[0].rows).unwrap();
        assert_eq!((&json[3]["same_as"], json[1].get("same_as")), (&"tuned".into(), None));
        let text = got.text();
        assert!(text.contains("shipped = tuned  "), "{text}");
        for (alias, system) in [("raw", "tuned"), ("shipped", "gone")] {
            assert!(plain.clone().with_alias(alias, system).unwrap_err().to_string().starts_with("alias: "));
        }
    }

    #[test]
    fn systems_that_cannot_be_compared_are_refused() {
        let refuse = |systems: &[System], reference: &str, part: &str| {
            let error = Comparison::of(systems, reference).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        let (a, b) = (made_up("raw", &[0.1, 0.2]), made_up("rm3", &[0.1, 0.2, 0.3]));
        refuse(&[a.clone(), b.clone()], "rwa", "did you mean \"raw\"");
        refuse(&[a.clone(), b], "raw", "3 values against 2");
        refuse(&[a.clone(), a.clone()], "raw", "two systems are called \"raw\"");
        let mut other = made_up("other", &[0.1, 0.2]);
        other.scores.truncate(0);
        refuse(&[a, other], "raw", "share no measure");
        let single = [made_up("raw", &[0.1]), made_up("rm3", &[0.2])];
        refuse(&single, "raw", "at least two queries");
    }
}
