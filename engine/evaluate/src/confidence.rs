//! How sure a model must be for its rewrite to be used.

/// Shares of the queries for which the model may be declined, in tenths. More candidates would find more noise.
const TENTHS: std::ops::RangeInclusive<usize> = 1..=9;

/// A query on which a model was measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sureness {
    /// How sure the model was; none where no answer of it was used, so that none can be declined.
    pub(super) confidence: Option<f32>,
    /// The measure with the model's rewrite.
    pub(super) with: f64,
    /// The measure without the model.
    pub(super) without: f64,
}

impl Sureness {
    /// The measure where the model must be this sure.
    pub(super) fn gated(&self, least: f64) -> f64 {
        if is_below(self.confidence, least) { self.without } else { self.with }
    }
}

/// Whether a confidence, where there is one, is less than it must be: in single precision, as the rewriter compares.
pub(super) fn is_below(confidence: Option<f32>, least: f64) -> bool {
    confidence.is_some_and(|confidence| confidence < least as f32)
}

/// The least confidence with the highest mean over these queries, out of a few. None where none of them gains more than one
/// standard error over using every rewrite. That is no proof: confirm it on other queries.
pub(super) fn least_confidence(queries: &[Sureness]) -> Option<f64> {
    let mut sorted: Vec<f32> = queries.iter().filter_map(|query| query.confidence).collect();
    sorted.sort_unstable_by(f32::total_cmp);
    sorted.dedup();
    let mut best: Option<(f64, f64)> = None;
    for tenth in TENTHS {
        let Some(confidence) = sorted.get(tenth * sorted.len() / 10) else { continue };
        // Four digits can be read; rounded down, so that the query itself is used.
        let least = (f64::from(*confidence) * 1e4).floor() / 1e4;
        let gains: Vec<f64> = queries.iter().map(|query| query.gated(least) - query.with).collect();
        let (gain, error) = mean_and_error(&gains);
        if gain > 1e-9 && gain > error && best.is_none_or(|(_, most)| gain > most) {
            best = Some((least, gain));
        }
    }
    best.map(|(least, _)| least)
}

/// The mean with its standard error.
fn mean_and_error(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (count - 1.0).max(1.0);
    (mean, (variance / count).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The model is worth 0.2 where it is sure, and costs 0.2 elsewhere.
    fn queries(sure: impl Fn(usize) -> bool) -> Vec<Sureness> {
        let query = |i: usize| {
            let gain = if sure(i) { 0.2 } else { -0.2 };
            Sureness { confidence: Some(-((i * 37 % 100) as f32) / 50.0), with: 0.5 + gain, without: 0.5 }
        };
        (0..100).map(query).collect()
    }

    #[test]
    fn confidence_that_tells_good_rewrites_from_bad_ones_is_found() {
        let queries = queries(|i| i * 37 % 100 < 60);
        let least = least_confidence(&queries).unwrap();
        assert!((-1.25..=-1.1).contains(&least), "{least}");
        let mean = |of: &dyn Fn(&Sureness) -> f64| queries.iter().map(of).sum::<f64>() / 100.0;
        assert!(mean(&|q| q.gated(least)) > mean(&|q| q.with) + 0.07);
        assert_eq!(least, (least * 1e4).round() / 1e4, "four digits");
    }

    #[test]
    fn confidence_that_tells_nothing_gives_no_threshold() {
        assert_eq!(least_confidence(&queries(|_| true)), None, "every rewrite is good");
        assert_eq!(least_confidence(&[]), None);
        let alike: Vec<Sureness> =
            queries(|i| i % 2 == 0).iter().map(|q| Sureness { confidence: Some(-0.5), ..*q }).collect();
        assert_eq!(least_confidence(&alike), None, "all equally sure");
        let unknown: Vec<Sureness> = queries(|_| false).iter().map(|q| Sureness { confidence: None, ..*q }).collect();
        assert_eq!(least_confidence(&unknown), None, "nothing can be declined");
    }
}
