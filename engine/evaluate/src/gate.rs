//! The gate: which of several systems may be shipped.

use querywright_data::metrics::Measure;
use querywright_data::metrics::significance::randomisation_test;
use querywright_types::{Error, Result};
use serde::Serialize;

use super::System;

/// Two-sided: one chance in twenty that a system that is no better passes.
const LEVEL: f64 = 0.1;
const ROUNDS: usize = 10_000;
const SEED: u64 = 0;

/// A system against the one that it would replace.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Challenge {
    /// The system.
    pub system: String,
    /// What it would replace.
    pub against: String,
    /// Its mean.
    pub mean: f64,
    /// The other's mean.
    pub against_mean: f64,
    /// The p-value of Fisher's randomisation test, two-sided.
    pub p: f64,
    /// Whether it is better, and not by chance.
    pub passed: bool,
}

/// Sends `systems` through the gate, the simplest first: each takes the place of the one before it that stands, where its
/// mean is higher with p below 0.1, two-sided. Gives the name of the one that stands at last, and every challenge. Measure
/// them on queries that none of them was made with.
///
/// # Errors
/// [`Error::Argument`] without a system, or where one was measured on other queries or by another measure.
pub fn gate(systems: &[System], measure: Measure) -> Result<(String, Vec<Challenge>)> {
    let absent = |name: &str| {
        Error::argument("gate", format!("{name} was not measured by {measure}"), "measure all systems alike")
    };
    let Some((first, challengers)) = systems.split_first() else {
        return Err(Error::argument("gate", "no system", "give at least the raw query"));
    };
    let mut standing = first;
    let mut challenges = Vec::new();
    for system in challengers {
        let old = standing.values(measure).ok_or_else(|| absent(&standing.name))?;
        let new = system.values(measure).ok_or_else(|| absent(&system.name))?;
        let p = randomisation_test(new, old, ROUNDS, SEED)?;
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let passed = mean(new) > mean(old) && p < LEVEL;
        challenges.push(Challenge {
            system: system.name.clone(),
            against: standing.name.clone(),
            mean: mean(new),
            against_mean: mean(old),
            p,
            passed,
        });
        if passed {
            standing = system;
        }
    }
    Ok((standing.name.clone(), challenges))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn system(name: &str, values: &[f64]) -> System {
        let mut system = System::empty(name);
        system.scores = vec![("nDCG@10".parse().unwrap(), values.to_vec())];
        system
    }

    #[test]
    fn a_system_passes_where_it_is_better_and_not_by_chance() {
        let raw: Vec<f64> = (0..60).map(|i| f64::from(i % 5) / 5.0).collect();
        let by = |gain: f64| raw.iter().map(|v| v + gain).collect::<Vec<_>>();
        let lucky: Vec<f64> = raw.iter().enumerate().map(|(i, v)| if i == 0 { v + 0.5 } else { *v }).collect();
        let measure = "nDCG@10".parse().unwrap();
        let found = |second: &[f64], third: &[f64]| {
            gate(&[system("raw", &raw), system("tuned", second), system("trained", third)], measure).unwrap()
        };
        assert_eq!(found(&by(0.1), &by(0.2)).0, "trained");
        assert_eq!(found(&lucky, &by(-0.1)).0, "raw");
        let (name, challenges) = found(&by(0.1), &by(0.05));
        assert_eq!(name, "tuned");
        assert_eq!((challenges[1].against.as_str(), challenges[1].passed), ("tuned", false));
        assert_eq!(found(&raw, &raw).0, "raw", "as good is not better");
        assert!(gate(&[], measure).is_err());
        assert!(gate(&[system("raw", &raw), system("x", &raw[1..])], measure).is_err());
    }
}
