//! The measures against pytrec_eval, the tests against scipy: `xtask/golden/measures.py`.

use std::collections::HashMap;

use super::significance::{PairedDifference, bootstrap_mean, holm, paired_t_test, randomisation_test};
use super::*;
use querywright_types::{Hit, Judgements, Ordinal, Ranking};

#[derive(serde::Deserialize)]
struct Golden {
    names: Vec<String>,
    queries: Vec<GoldenQuery>,
    tests: Vec<GoldenTest>,
    holm: Vec<(Vec<f64>, Vec<f64>)>,
}

#[derive(serde::Deserialize)]
struct GoldenQuery {
    qrels: HashMap<String, i32>,
    run: Vec<(String, f64)>,
    order: Vec<String>,
    values: Vec<f64>,
}

#[derive(serde::Deserialize)]
struct GoldenTest {
    system: Vec<f64>,
    baseline: Vec<f64>,
    t: f64,
    p: f64,
    randomisation_p: Option<f64>,
    bootstrap: Option<(f64, f64)>,
}

fn golden() -> Golden {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/measures.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn measure(name: &str) -> Measure {
    name.parse().unwrap()
}

#[test]
fn every_measure_agrees_with_pytrec_eval_over_fuzzed_runs_with_ties_and_negative_grades() {
    let golden = golden();
    let mut compared = 0;
    for (number, query) in golden.queries.iter().enumerate() {
        let ids: Vec<&str> = query.run.iter().map(|(id, _)| id).chain(query.qrels.keys()).map(String::as_str).collect();
        let ordinal = |id: &str| ids.iter().position(|known| *known == id).unwrap() as Ordinal;
        let hits = query.run.iter().map(|(id, score)| Hit { doc: ordinal(id), score: *score as f32 }).collect();
        let ranked = trec_order(&Ranking { hits }, |doc| ids[doc as usize]);
        assert_eq!(ranked.iter().map(|doc| ids[*doc as usize]).collect::<Vec<_>>(), query.order, "query {number}");
        let judgements = Judgements::new(query.qrels.iter().map(|(id, grade)| (ordinal(id), *grade)).collect());
        for (name, expected) in golden.names.iter().zip(&query.values) {
            let value = measure(name).score(&ranked, &judgements);
            assert!((value - expected).abs() < 1e-9, "query {number}, {name}: {value}, pytrec_eval says {expected}");
            compared += 1;
        }
    }
    assert!(compared > 2000, "{compared}");
}

#[test]
fn a_query_without_results_or_without_relevant_documents_scores_0() {
    let judged = Judgements::new(vec![(0, 1)]);
    let hopeless = Judgements::new(vec![(0, 0), (1, -1)]);
    for name in ["nDCG", "nDCG@10", "R@10", "P@10", "RR", "RR@10", "AP", "AP@10", "HR@10", "Judged@10"] {
        assert_eq!(measure(name).score(&[], &judged), 0.0, "{name}");
        assert_eq!(measure(name).score(&[3, 4], &hopeless), 0.0, "{name}");
    }
}

#[test]
fn a_document_that_stands_twice_counts_at_its_better_place_alone() {
    let hits = vec![Hit { doc: 1, score: 1.0 }, Hit { doc: 0, score: 2.0 }, Hit { doc: 1, score: 3.0 }];
    assert_eq!(trec_order(&Ranking { hits }, |doc| ["a", "b"][doc as usize]), [1, 0]);
}

#[test]
fn names_survive_parsing_and_display() {
    for name in ["nDCG@10", "nDCG", "R@100", "P@5", "RR", "RR@10", "AP", "AP@1000", "HR@10", "LogRank@9", "Judged@10"] {
        assert_eq!(measure(name).to_string(), name);
        let json = serde_json::to_string(&measure(name)).unwrap();
        assert_eq!(json, format!("\"{name}\""));
        assert_eq!(serde_json::from_str::<Measure>(&json).unwrap(), measure(name));
    }
    assert_eq!(measure("Success@3"), measure("HR@3"));
    assert_eq!(measure("nDCG@10"), Measure::NDCG_10);
}

#[test]
fn a_bad_measure_is_refused_with_what_would_be_right() {
    for (name, hint) in [
        ("NDCG@10", "did you mean \"nDCG@10\"?"),
        ("ndgc@5", "did you mean \"nDCG@5\"?"),
        ("MRR", "did you mean \"RR\"?"),
        ("Recall@100", "did you mean \"R@100\"?"),
        ("map", "did you mean \"AP\"?"),
        ("bleu-score", "there are nDCG@k"),
        ("", "there are nDCG@k"),
        ("nDCG@0", "whole number of at least 1, such as \"nDCG@10\""),
        ("R@-5", "whole number of at least 1, such as \"R@10\""),
        ("P@ten", "whole number of at least 1, such as \"P@10\""),
        ("R@", "whole number of at least 1, such as \"R@10\""),
        ("R", "such as \"R@10\""),
    ] {
        let error = name.parse::<Measure>().unwrap_err();
        assert!(matches!(error, querywright_types::Error::Argument { .. }));
        assert!(error.to_string().contains(hint), "{name}: {error}");
    }
}

#[test]
fn the_tests_of_significance_agree_with_scipy() {
    for (number, case) in golden().tests.iter().enumerate() {
        let test = paired_t_test(&case.system, &case.baseline).unwrap();
        assert!((test.t - case.t).abs() < 1e-9 * case.t.abs().max(1.0), "case {number}: {test:?}");
        assert!((test.p - case.p).abs() < 1e-8 * case.p.max(1e-4), "case {number}: {test:?}, scipy says {}", case.p);
        if let Some(exact) = case.randomisation_p {
            let p = randomisation_test(&case.system, &case.baseline, 40_000, 7).unwrap();
            assert!((p - exact).abs() < 0.01, "case {number}: {p}, all sign patterns give {exact}");
        }
        if let Some((low, high)) = case.bootstrap {
            let interval = bootstrap_mean(&case.system, 0.95, 20_000, 7).unwrap();
            let tolerance = 0.03 * (high - low);
            assert!((interval.low - low).abs() < tolerance, "case {number}: {interval:?}, scipy says {low}");
            assert!((interval.high - high).abs() < tolerance, "case {number}: {interval:?}, scipy says {high}");
        }
    }
}

#[test]
fn holm_agrees_with_its_definition() {
    for (p_values, expected) in golden().holm {
        let adjusted = holm(&p_values);
        assert_eq!(adjusted.len(), expected.len());
        for (a, e) in adjusted.iter().zip(&expected) {
            assert!((a - e).abs() < 1e-15, "{p_values:?}: {adjusted:?}");
        }
    }
}

#[test]
fn equal_systems_do_not_differ() {
    let scores = [0.3, 0.7, 1.0, 0.0];
    let test = paired_t_test(&scores, &scores).unwrap();
    assert_eq!((test.t, test.p), (0.0, 1.0));
    assert_eq!(randomisation_test(&scores, &scores, 99, 1).unwrap(), 1.0);
    let difference = PairedDifference::of(&scores, &scores).unwrap();
    assert_eq!((difference.wins, difference.ties, difference.losses), (0, 4, 0));
}

#[test]
fn the_same_difference_on_every_query_is_certain() {
    let test = paired_t_test(&[1.0, 2.0, 3.0], &[0.5, 1.5, 2.5]).unwrap();
    assert_eq!((test.t, test.p), (f64::INFINITY, 0.0));
}

#[test]
fn a_seed_decides_what_is_sampled() {
    let (a, b): (Vec<f64>, Vec<f64>) = (0..100).map(|i| (f64::from(i % 7), f64::from(i % 5) + 0.8)).unzip();
    assert_eq!(bootstrap_mean(&a, 0.9, 500, 3).unwrap(), bootstrap_mean(&a, 0.9, 500, 3).unwrap());
    assert_ne!(bootstrap_mean(&a, 0.9, 500, 3).unwrap(), bootstrap_mean(&a, 0.9, 500, 4).unwrap());
    assert_eq!(randomisation_test(&a, &b, 500, 3).unwrap(), randomisation_test(&a, &b, 500, 3).unwrap());
    assert_ne!(randomisation_test(&a, &b, 500, 3).unwrap(), randomisation_test(&a, &b, 500, 4).unwrap());
}

#[test]
fn comparisons_that_mean_nothing_are_refused() {
    let refused = [
        paired_t_test(&[1.0], &[0.0]).unwrap_err(),
        paired_t_test(&[1.0, 0.5], &[0.0]).unwrap_err(),
        randomisation_test(&[], &[], 10, 0).unwrap_err(),
        randomisation_test(&[1.0], &[f64::NAN], 10, 0).unwrap_err(),
        randomisation_test(&[1.0], &[0.0], 0, 0).unwrap_err(),
        bootstrap_mean(&[], 0.95, 10, 0).unwrap_err(),
        bootstrap_mean(&[1.0], 95.0, 10, 0).unwrap_err(),
    ];
    for (error, words) in
        refused.iter().zip(["at least two", "same queries", "at least one", "NaN", "found 0", "at least one", "95"])
    {
        assert!(error.to_string().contains(words), "{error} should say {words}");
    }
}

#[test]
fn the_log_rank_grows_by_the_same_with_each_halving_of_the_rank_from_nothing_beyond_the_cutoff_to_one() {
    let judgements = Judgements::new(vec![(7, 1), (3, 0)]);
    let at = |rank: usize, name: &str| {
        let mut ranked: Vec<Ordinal> = (100..1200).collect();
        ranked[rank - 1] = 7;
        measure(name).score(&ranked, &judgements)
    };
    let score = |rank| at(rank, "LogRank@1000");
    assert_eq!(score(1), 1.0);
    assert!((score(300) - (1.0 - 300f64.ln() / 1001f64.ln())).abs() < 1e-12);
    assert!((score(2) - score(4) - (score(200) - score(400))).abs() < 1e-12);
    assert!(score(1000) > 0.0 && score(1001) == 0.0);
    assert!(at(300, "nDCG@10") == 0.0 && at(300, "nDCG@1000") - at(400, "nDCG@1000") < 0.006, "what others say of it");
    assert_eq!((at(1, "LogRank@1"), at(2, "LogRank@1")), (1.0, 0.0));
    assert_eq!(measure("LogRank@10").score(&[], &judgements), 0.0);
    assert!("LogRank".parse::<Measure>().unwrap_err().to_string().contains("LogRank@10"));
    assert!("logrank@10".parse::<Measure>().unwrap_err().to_string().contains("\"LogRank@10\""));
}
