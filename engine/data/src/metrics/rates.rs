//! Shares of queries that have a property or not: their intervals, and whether two systems differ in one.

use statrs::distribution::{Binomial, DiscreteCDF};

use super::significance::Interval;
use querywright_types::{Error, Result};

/// The 97.5% point of the normal distribution: that of a 95% interval.
const Z: f64 = 1.959_963_984_540_054;

/// The share `count / total` with Wilson's score interval of 95% (1927), which stays within 0 and 1 and has a width for
/// shares of 0 and 1, too.
///
/// ```
/// let rate = querywright_data::metrics::rates::wilson(0, 20)?;
/// assert_eq!((rate.mean, rate.low), (0.0, 0.0));
/// assert!((rate.high - 0.1611).abs() < 1e-4);
/// # Ok::<(), querywright_types::Error>(())
/// ```
///
/// # Errors
/// When there is nothing to count, or more was counted than there is.
pub fn wilson(count: usize, total: usize) -> Result<Interval> {
    if total == 0 || count > total {
        return Err(Error::argument("rate", format!("{count} of {total}"), "count among at least one"));
    }
    let (n, share) = (total as f64, count as f64 / total as f64);
    let square = Z * Z / n;
    let centre = (share + square / 2.0) / (1.0 + square);
    let half = Z / (1.0 + square) * (share * (1.0 - share) / n + square / (4.0 * n)).sqrt();
    // At the ends the formula gives 0 and 1 but for rounding.
    let low = if count == 0 { 0.0 } else { (centre - half).max(0.0) };
    let high = if count == total { 1.0 } else { (centre + half).min(1.0) };
    Ok(Interval { mean: share, low, high })
}

/// McNemar's exact test (1947), two-sided: of the queries on which two systems differ, `gained` have the property under
/// the one alone and `lost` under the other alone. 1 where they differ on none.
///
/// # Errors
/// [`Error::Bug`] when the distribution cannot be made.
pub fn mcnemar(gained: usize, lost: usize) -> Result<f64> {
    let differ = (gained + lost) as u64;
    if differ == 0 {
        return Ok(1.0);
    }
    let coins = Binomial::new(0.5, differ).map_err(|e| Error::bug("metrics::mcnemar", e.to_string()))?;
    Ok((2.0 * coins.cdf(gained.min(lost) as u64)).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wilson_s_interval_is_that_of_scipy() {
        // scipy.stats.binomtest(count, total).proportion_ci(method="wilson")
        let table = [
            (10, 100, 0.055_229_137_06, 0.174_365_661_50),
            (0, 20, 0.0, 0.161_125_158_05),
            (20, 20, 0.838_874_841_95, 1.0),
            (1, 3, 0.061_491_944_72, 0.792_340_399_20),
        ];
        for (count, total, low, high) in table {
            let got = wilson(count, total).unwrap();
            assert!((got.low - low).abs() < 1e-9 && (got.high - high).abs() < 1e-9, "{count} of {total}: {got:?}");
        }
        assert!(wilson(0, 0).is_err() && wilson(3, 2).is_err());
    }

    #[test]
    fn mcnemar_s_test_is_that_of_scipy() {
        // scipy.stats.binomtest(min(gained, lost), gained + lost, 0.5).pvalue
        let table =
            [(12, 2, 0.012_939_453_125), (0, 5, 0.0625), (4, 4, 1.0), (0, 0, 1.0), (30, 45, 0.105_342_268_874_604_82)];
        for (gained, lost, p) in table {
            assert!((mcnemar(gained, lost).unwrap() - p).abs() < 1e-9, "{gained}, {lost}");
            assert_eq!(mcnemar(gained, lost).unwrap(), mcnemar(lost, gained).unwrap());
        }
    }
}
