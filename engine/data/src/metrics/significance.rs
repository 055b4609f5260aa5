//! Whether a difference between two systems, measured on the same queries, is more than chance.
//!
//! Everything here works on one value a query, the two systems' values in the same order. What uses random numbers
//! takes a seed and gives the same answer on every machine. For the choice of tests see Smucker, Allan and Carterette,
//! "A comparison of statistical significance tests for information retrieval evaluation" (CIKM 2007).

use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use statrs::distribution::{ContinuousCDF, StudentsT};

use querywright_types::{Error, Result};

/// How two systems differ, query by query.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct PairedDifference {
    /// How many queries.
    pub queries: usize,
    /// The mean of `system - baseline`.
    pub mean: f64,
    /// The standard deviation of the differences (unbiased); 0 for a single query.
    pub std_dev: f64,
    /// Queries on which the system is better.
    pub wins: usize,
    /// Queries on which both are equal.
    pub ties: usize,
    /// Queries on which the system is worse.
    pub losses: usize,
}

impl PairedDifference {
    /// Compares `system` with `baseline`.
    ///
    /// # Errors
    /// When the lengths differ, there is no query, or a value is not finite.
    pub fn of(system: &[f64], baseline: &[f64]) -> Result<Self> {
        let differences = differences(system, baseline)?;
        let mean = mean(&differences);
        let squares: f64 = differences.iter().map(|d| (d - mean).powi(2)).sum();
        Ok(Self {
            queries: differences.len(),
            mean,
            std_dev: (squares / (differences.len() - 1).max(1) as f64).sqrt(),
            wins: differences.iter().filter(|d| **d > 0.0).count(),
            ties: differences.iter().filter(|d| **d == 0.0).count(),
            losses: differences.iter().filter(|d| **d < 0.0).count(),
        })
    }
}

/// The outcome of a [`paired_t_test`].
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct TTest {
    /// The statistic; positive when the system is better. Infinite when every query differs by the same amount.
    pub t: f64,
    /// Queries less one.
    pub degrees_of_freedom: f64,
    /// Two-sided p-value.
    pub p: f64,
}

/// Student's paired t-test, two-sided. Systems that are equal on every query have t = 0 and p = 1.
///
/// # Errors
/// When the lengths differ, there are fewer than two queries, or a value is not finite.
pub fn paired_t_test(system: &[f64], baseline: &[f64]) -> Result<TTest> {
    let difference = PairedDifference::of(system, baseline)?;
    let too_few = || Error::argument("paired t-test", "fewer than two queries", "compare on at least two queries");
    let degrees_of_freedom = (difference.queries - 1) as f64;
    let t = match difference.std_dev / (difference.queries as f64).sqrt() {
        _ if difference.mean == 0.0 => 0.0,
        error => difference.mean / error,
    };
    let distribution = StudentsT::new(0.0, 1.0, degrees_of_freedom).map_err(|_| too_few())?;
    let p = if t.is_infinite() { 0.0 } else { (2.0 * distribution.sf(t.abs())).min(1.0) };
    Ok(TTest { t, degrees_of_freedom, p })
}

/// Fisher's randomisation test of the mean difference, two-sided: under the null hypothesis each query's difference
/// might as well have the other sign. Of `rounds` random sign patterns, those at least as extreme as the observed one
/// are counted, and p = (count + 1) / (rounds + 1), so it is never 0. 10,000 rounds are usual.
///
/// # Errors
/// When the lengths differ, there is no query, a value is not finite, or `rounds` is 0.
pub fn randomisation_test(system: &[f64], baseline: &[f64], rounds: usize, seed: u64) -> Result<f64> {
    at_least_one_round(rounds)?;
    let differences = differences(system, baseline)?;
    let observed = differences.iter().sum::<f64>().abs();
    // The same terms summed with other signs may fall a rounding error short of a sum that they equal.
    let extreme = observed - 1e-12 * differences.iter().map(|d| d.abs()).sum::<f64>();
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut count = 0usize;
    for _ in 0..rounds {
        let mut sum = 0.0;
        for chunk in differences.chunks(64) {
            let mut signs = random.next_u64();
            for difference in chunk {
                sum += if signs & 1 == 1 { -difference } else { *difference };
                signs >>= 1;
            }
        }
        count += usize::from(sum.abs() >= extreme);
    }
    Ok((count + 1) as f64 / (rounds + 1) as f64)
}

/// A mean and the interval around it.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct Interval {
    /// The mean of the values.
    pub mean: f64,
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

/// The percentile bootstrap interval of the mean (Efron 1979): the middle `level` (0.95 for a 95% interval) of the
/// means of `rounds` random samples with replacement. For a paired difference, give the differences.
///
/// # Errors
/// When there is no value, a value is not finite, `level` is not between 0 and 1, or `rounds` is 0.
pub fn bootstrap_mean(values: &[f64], level: f64, rounds: usize, seed: u64) -> Result<Interval> {
    at_least_one_round(rounds)?;
    usable("bootstrap", values)?;
    if !(level > 0.0 && level < 1.0) {
        return Err(Error::argument("level", format!("found {level}"), "give a share between 0 and 1, such as 0.95"));
    }
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut means: Vec<f64> = (0..rounds)
        .map(|_| {
            // Sampled as u32 so that 32-bit and 64-bit machines get the same sample.
            let sampled = |_| values[random.random_range(0..values.len() as u32) as usize];
            (0..values.len()).map(sampled).sum::<f64>() / values.len() as f64
        })
        .collect();
    means.sort_unstable_by(f64::total_cmp);
    let tail = (1.0 - level) / 2.0;
    Ok(Interval { mean: mean(values), low: quantile(&means, tail), high: quantile(&means, 1.0 - tail) })
}

/// Holm's correction (1979) for several comparisons at once: the adjusted p-values, in the order of `p_values`. A
/// comparison is significant at level α over the whole family when its adjusted value is below α.
pub fn holm(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|a, b| p_values[*a].total_cmp(&p_values[*b]));
    let mut adjusted = vec![0.0; p_values.len()];
    let mut largest = 0.0f64;
    for (rank, index) in order.into_iter().enumerate() {
        largest = largest.max(p_values[index] * (p_values.len() - rank) as f64).min(1.0);
        adjusted[index] = largest;
    }
    adjusted
}

/// Linear interpolation between the two nearest of the sorted values (numpy's default). `sorted` is not empty.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn differences(system: &[f64], baseline: &[f64]) -> Result<Vec<f64>> {
    if system.len() != baseline.len() {
        return Err(Error::argument(
            "paired comparison",
            format!("{} values against {}", system.len(), baseline.len()),
            "measure both systems on the same queries, in the same order",
        ));
    }
    usable("system", system)?;
    usable("baseline", baseline)?;
    Ok(system.iter().zip(baseline).map(|(s, b)| s - b).collect())
}

fn usable(name: &str, values: &[f64]) -> Result<()> {
    if values.is_empty() || values.len() > u32::MAX as usize {
        return Err(Error::argument(name, format!("{} values", values.len()), "measure on at least one query"));
    }
    match values.iter().find(|value| !value.is_finite()) {
        Some(bad) => Err(Error::argument(name, format!("the value {bad}"), "every query needs a finite value")),
        None => Ok(()),
    }
}

fn at_least_one_round(rounds: usize) -> Result<()> {
    match rounds {
        0 => Err(Error::argument("rounds", "found 0", "ask for at least one round; 10000 is usual")),
        _ => Ok(()),
    }
}
