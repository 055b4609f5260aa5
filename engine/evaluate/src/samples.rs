//! A sample of rewrites for the report.

use serde::Serialize;

use super::Evaluated;
use querywright_data::metrics::Measure;
use querywright_types::{Judgements, Query};

/// One query with each system's rewrite.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Sample {
    /// The query as it came.
    pub query: String,
    /// One rewrite a system, in the order of the systems.
    pub rewrites: Vec<SampleRewrite>,
}

/// A system's rewrite of a query, and its score.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SampleRewrite {
    /// The system's name.
    pub system: String,
    /// The rewrite.
    pub text: String,
    /// The value of the measure for this query.
    pub score: f64,
}

/// At most `count` queries out of `queries`, on which `systems` were measured: those that the last system improves
/// most over the first, those that it harms most, and others at even distances between. So the sample shows the whole
/// range. Empty when a system lacks the measure.
pub fn samples(
    queries: &[(&Query, &Judgements)],
    systems: &[&Evaluated],
    measure: Measure,
    count: usize,
) -> Vec<Sample> {
    let values: Option<Vec<&[f64]>> = systems.iter().map(|s| s.system.values(measure)).collect();
    let Some(values) = values else { return Vec::new() };
    let (Some(first), Some(last)) = (values.first(), values.last()) else { return Vec::new() };
    let mut gains: Vec<(usize, f64)> = last.iter().zip(*first).map(|(l, f)| l - f).enumerate().collect();
    gains.sort_by(|a, b| b.1.total_cmp(&a.1));
    let count = count.min(gains.len());
    let place = |i: usize| i * (gains.len() - 1) / (count - 1).max(1);
    let sample = |index: usize| {
        let rewrite = |(system, values): (&&Evaluated, &&[f64])| {
            Some(SampleRewrite {
                system: system.system.name.clone(),
                text: system.shown.get(index)?.clone(),
                score: *values.get(index)?,
            })
        };
        let query = queries.get(index)?.0.text.clone();
        Some(Sample { query, rewrites: systems.iter().zip(&values).filter_map(rewrite).collect() })
    };
    (0..count).filter_map(|i| gains.get(place(i))).filter_map(|(index, _)| sample(*index)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::comparison::tests::evaluated;
    use super::*;

    #[test]
    fn the_sample_runs_from_the_greatest_gain_to_the_greatest_loss() {
        let queries: Vec<Query> = (0..5).map(|i| Query::text(format!("query {i}"))).collect();
        let judged = Judgements::default();
        let pairs: Vec<(&Query, &Judgements)> = queries.iter().map(|q| (q, &judged)).collect();
        let (raw, trained) = (evaluated("raw", &[0.5; 5]), evaluated("trained", &[0.6, 0.1, 0.9, 0.5, 0.4]));
        let got = samples(&pairs, &[&raw, &trained], Measure::NDCG_10, 3);
        assert_eq!(got.iter().map(|s| s.query.as_str()).collect::<Vec<_>>(), ["query 2", "query 3", "query 1"]);
        assert_eq!(
            got[0].rewrites[1],
            SampleRewrite { system: "trained".into(), text: "trained 2".into(), score: 0.9 }
        );
        assert_eq!(samples(&pairs, &[&raw, &trained], Measure::NDCG_10, 9).len(), 5);
        assert_eq!(samples(&pairs, &[&raw, &trained], Measure::NDCG_10, 1)[0].query, "query 2");
        assert!(samples(&pairs, &[&raw, &trained], Measure::NDCG_10, 0).is_empty());
        assert!(samples(&pairs, &[&raw], "P@3".parse().unwrap(), 3).is_empty());
        assert!(samples(&[], &[], Measure::NDCG_10, 3).is_empty());
    }
}
