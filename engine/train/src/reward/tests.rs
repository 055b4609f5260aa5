use std::sync::Mutex;

use super::*;
use querywright_types::{
    Deadline, Fault, FaultKind, Hit, Judgements, Order, Query, Ranking, Request, Retriever, RetrieverCard,
};

/// Ranks the documents whose numbers stand in the text; fails as often as told for texts that hold "fail".
struct Numbers {
    card: RetrieverCard,
    failures: Mutex<usize>,
    calls: Mutex<Vec<usize>>,
    short: bool,
}

impl Numbers {
    fn new(failures: usize) -> Self {
        let card = RetrieverCard::new("numbers", "d").with_version("1").with_content("numbers");
        Self { card, failures: Mutex::new(failures), calls: Mutex::default(), short: false }
    }

    fn calls(&self) -> Vec<usize> {
        self.calls.lock().unwrap().clone()
    }
}

impl Retriever for Numbers {
    fn card(&self) -> &RetrieverCard {
        &self.card
    }

    fn retrieve(&self, requests: &[Request], _: Deadline) -> Vec<Result<Ranking, Fault>> {
        self.calls.lock().unwrap().push(requests.len());
        let mut failures = self.failures.lock().unwrap();
        let answer = |request: &Request| {
            if request.text.contains("fail") && *failures > 0 {
                *failures -= 1;
                let detail = "no answer".to_owned();
                return Err(Fault::new("numbers", FaultKind::Timeout, detail));
            }
            let docs = request.text.split_whitespace().filter_map(|w| w.parse().ok());
            let docs = docs.filter(|d| !request.exclude.contains(d)).take(request.k);
            Ok(Ranking { hits: docs.map(|doc| Hit { doc, score: 1.0 }).collect() })
        };
        requests.iter().take(if self.short { 0 } else { usize::MAX }).map(answer).collect()
    }
}

fn function(config: RewardConfig) -> RewardFunction {
    RewardFunction::new(&config).unwrap()
}

fn measures(names: &[(&str, f64)]) -> BTreeMap<String, f64> {
    names.iter().map(|(name, weight)| ((*name).to_owned(), *weight)).collect()
}

/// The rewards of rewrites of one query ("2 1", document 1 is right), None being a broken format.
fn score(function: &RewardFunction, retriever: &Numbers, texts: &[Option<&str>], retries: usize) -> ScoredBatch {
    let query = Query::new("q", "2 1");
    let raw = Rewrite::plain(&query.text);
    let judgements = Judgements::new(vec![(1, 1)]);
    let rewrites: Vec<Option<Rewrite>> = texts.iter().map(|t| t.map(Rewrite::plain)).collect();
    let candidates: Vec<Candidate<'_>> = rewrites
        .iter()
        .map(|r| Candidate {
            query: &query,
            judgements: &judgements,
            original: &raw,
            rewrite: r.as_ref(),
            generated: 0,
        })
        .collect();
    function.score_batch(retriever, &candidates, &RewardCache::new(100), retries)
}

fn values(batch: &ScoredBatch) -> Vec<Option<f32>> {
    batch.rewards.iter().map(|r| r.as_ref().map(|r| r.value)).collect()
}

#[test]
fn a_reward_is_the_weighted_sum_of_its_parts() {
    let function = function(RewardConfig {
        measures: measures(&[("RR@10", 1.0), ("P@1", 0.5)]),
        gains: measures(&[("RR@10", 2.0)]),
        format_bonus: 0.25,
        length_penalty: 0.1,
        length_limit: 2,
        ..RewardConfig::default()
    });
    let batch = score(&function, &Numbers::new(0), &[Some("1"), Some("2 3 4 1"), None], 0);
    // The raw query has RR 1/2.
    assert_eq!(values(&batch), [Some(1.0 + 0.5 + 2.0 * 0.5 + 0.25), Some(0.25 - 0.5 + 0.25 - 0.2), Some(-1.0)]);
    for reward in batch.rewards.iter().flatten() {
        assert!((reward.parts.values().sum::<f32>() - reward.value).abs() < 1e-6);
    }
    let parts = &batch.rewards[1].as_ref().unwrap().parts;
    assert_eq!(parts.keys().collect::<Vec<_>>(), ["P@1", "RR@10", "format", "gain:RR@10", "length"]);
    assert_eq!((parts["gain:RR@10"], parts["length"]), (-0.5, -0.2));
}

#[test]
fn a_generated_term_that_changes_nothing_is_worse_than_none_and_one_that_helps_pays_for_itself() {
    let function =
        function(RewardConfig { measures: measures(&[("RR@10", 1.0)]), term_cost: 0.01, ..RewardConfig::default() });
    // The query finds the right document at the second place.
    let value = |generated, score| function.reward(&Rewrite::plain("2 1"), generated, &[score], &[]).unwrap().value;
    assert!(value(0, 0.5) > value(1, 0.5) && value(1, 0.5) > value(3, 0.5));
    assert!(value(3, 1.0) > value(0, 0.5));
    let reward = function.reward(&Rewrite::plain("2 1"), 3, &[0.5], &[]).unwrap();
    assert_eq!((reward.value, reward.parts["terms"]), (0.47, -0.03));
    let query = Query::new("q", "2 1");
    let (rewrite, judgements) = (Rewrite::plain("2 1"), Judgements::new(vec![(1, 1)]));
    let original = Rewrite::plain("2 1");
    let candidates = [(Some(&rewrite), 2), (Some(&rewrite), 0), (None, 7)].map(|(rewrite, generated)| Candidate {
        query: &query,
        judgements: &judgements,
        original: &original,
        rewrite,
        generated,
    });
    let batch = function.score_batch(&Numbers::new(0), &candidates, &RewardCache::new(10), 0);
    assert_eq!((values(&batch), batch.retrieved), (vec![Some(0.48), Some(0.5), Some(-1.0)], 1), "one ranking");
}

#[test]
fn the_preset_rec_r1_rewards_as_its_paper_says() {
    let function = function(RewardConfig {
        preset: RewardPreset::RecR1,
        measures: measures(&[("RR@10", 1.0)]),
        ..RewardConfig::default()
    });
    let batch = score(&function, &Numbers::new(0), &[None, Some("1"), Some("2 1"), Some("9")], 0);
    assert_eq!(values(&batch), [Some(-2.0), Some(1.1), Some(0.6), Some(0.0)]);
    let both = RewardConfig { preset: RewardPreset::RecR1, gains: measures(&[("RR", 1.0)]), ..RewardConfig::default() };
    assert!(RewardFunction::new(&both).unwrap_err().to_string().contains("rec-r1"));
}

#[test]
fn a_failure_is_retried_alone_and_then_it_is_no_reward() {
    let function = function(RewardConfig { measures: measures(&[("RR@10", 1.0)]), ..RewardConfig::default() });
    let healed = Numbers::new(2);
    let batch = score(&function, &healed, &[Some("1"), Some("fail 1")], 2);
    assert_eq!(values(&batch), [Some(1.0), Some(1.0)]);
    assert_eq!((healed.calls(), batch.retried, batch.faults.len()), (vec![2, 1, 1], 2, 0));

    let broken = Numbers::new(usize::MAX);
    let batch = score(&function, &broken, &[Some("1"), Some("fail 1"), None], 2);
    assert_eq!(values(&batch), [Some(1.0), None, Some(-1.0)]);
    assert_eq!(batch.faults.len(), 1);
    assert_eq!(batch.faults[0].kind, FaultKind::Timeout);
}

#[test]
fn a_raw_query_that_fails_leaves_its_gains_without_a_reward() {
    let function = function(RewardConfig { gains: measures(&[("RR", 1.0)]), ..RewardConfig::default() });
    let query = Query::text("fail 1");
    let raw = Rewrite::plain(&query.text);
    let judgements = Judgements::new(vec![(1, 1)]);
    let rewrite = Rewrite::plain("1");
    let candidate =
        Candidate { query: &query, judgements: &judgements, original: &raw, rewrite: Some(&rewrite), generated: 0 };
    let batch = function.score_batch(&Numbers::new(9), &[candidate], &RewardCache::new(10), 1);
    assert_eq!(batch.rewards, [None]);
}

#[test]
fn a_retriever_that_gives_too_few_rankings_has_failed() {
    let function = function(RewardConfig::default());
    let retriever = Numbers { short: true, ..Numbers::new(0) };
    let batch = score(&function, &retriever, &[Some("1")], 1);
    assert_eq!((batch.rewards, batch.faults.len()), (vec![None], 1));
}

#[test]
fn equal_requests_are_sent_once_and_never_again() {
    let function = function(RewardConfig { gains: measures(&[("RR@10", 1.0)]), ..RewardConfig::default() });
    let retriever = Numbers::new(0);
    let cache = RewardCache::new(100);
    let (query, judgements) = (Query::text("2 1"), Judgements::new(vec![(1, 1)]));
    let raw = Rewrite::plain(&query.text);
    let rewrites = ["1", "1", "2 1", "3 1"].map(Rewrite::plain);
    let candidates: Vec<Candidate<'_>> = rewrites
        .iter()
        .map(|r| Candidate { query: &query, judgements: &judgements, original: &raw, rewrite: Some(r), generated: 0 })
        .collect();
    let first = function.score_batch(&retriever, &candidates, &cache, 0);
    // "1", the raw query "2 1" (which is also a rewrite), and "3 1".
    assert_eq!((retriever.calls(), first.retrieved), (vec![3], 3));
    assert_eq!((cache.hits(), cache.misses(), cache.len()), (0, 3, 3));
    let second = function.score_batch(&retriever, &candidates, &cache, 0);
    assert_eq!(second.rewards, first.rewards);
    assert_eq!((retriever.calls().len(), second.retrieved, cache.hits()), (1, 0, 3));
}

#[test]
fn the_cache_tells_requests_apart_by_everything_that_decides_their_score() {
    let judgements = Judgements::new(vec![(1, 1)]);
    let request = Request::new(&Query::text("q"), &Rewrite::plain("a"), 10);
    let ndcg = ["nDCG@10".parse::<Measure>().unwrap()];
    let key = |digest: &str, r: &Request, j: &Judgements, m: &[Measure]| cache::key(digest, r, j, m.iter().copied());
    let base = key("d", &request, &judgements, &ndcg);
    let ordered = |first: &[u32], among| {
        let rewrite = Rewrite::plain("a").with_order(Order::new(first.to_vec(), among));
        Request::new(&Query::text("q"), &rewrite, 10)
    };
    assert_eq!(base, key("d", &request.clone(), &judgements, &ndcg));
    let others = [
        key("e", &request, &judgements, &ndcg),
        key("d", &Request::plain("b", 10), &judgements, &ndcg),
        key("d", &request.clone().with_language(QueryLanguage::Boolean), &judgements, &ndcg),
        key("d", &request.clone().with_history([1]), &judgements, &ndcg),
        key("d", &request.clone().with_exclude([1]), &judgements, &ndcg),
        key("d", &request.clone().with_k(11), &judgements, &ndcg),
        key("d", &ordered(&[1], 5), &judgements, &ndcg),
        key("d", &ordered(&[2, 1], 5), &judgements, &ndcg),
        key("d", &ordered(&[1], 6), &judgements, &ndcg),
        key("d", &request, &Judgements::new(vec![(1, 2)]), &ndcg),
        key("d", &request, &judgements, &["nDCG@9".parse().unwrap()]),
    ];
    let distinct: std::collections::HashSet<_> = others.iter().chain([&base]).collect();
    assert_eq!(distinct.len(), 12);
}

#[test]
fn the_cache_stays_within_its_bound_and_keeps_entries_in_use() {
    let cache = RewardCache::new(10);
    let key = |i: u8| [i; 32];
    for i in 0..100 {
        cache.put(key(i), cache::Scores::from([f64::from(i)]));
        assert!(cache.get(&key(0)).is_some(), "the entry in use was dropped after {i}");
        assert!(cache.len() <= 10);
    }
    assert!(cache.get(&key(50)).is_none());
    let nothing = RewardCache::new(0);
    nothing.put(key(1), cache::Scores::from([1.0]));
    assert!(nothing.is_empty());
}

#[test]
fn the_cache_serves_many_threads() {
    let function = function(RewardConfig { measures: measures(&[("RR@10", 1.0)]), ..RewardConfig::default() });
    let (retriever, cache) = (Numbers::new(0), RewardCache::new(100));
    let (query, judgements, rewrite) = (Query::text("2 1"), Judgements::new(vec![(1, 1)]), Rewrite::plain("2 1"));
    let raw = Rewrite::plain(&query.text);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let candidate = Candidate {
                    query: &query,
                    judgements: &judgements,
                    original: &raw,
                    rewrite: Some(&rewrite),
                    generated: 0,
                };
                let batch = function.score_batch(&retriever, &[candidate], &cache, 0);
                assert_eq!(values(&batch), [Some(0.5)]);
            });
        }
    });
    assert_eq!(cache.hits() + cache.misses(), 4);
    assert_eq!(cache.len(), 1);
}

#[test]
fn words_are_counted_without_operators_and_punctuation() {
    assert_eq!(words(&Rewrite::plain("red  AND shoe - size")), 4);
    let boolean = Rewrite::new("(red OR (NOT blue)) AND title:shoe^2", QueryLanguage::Boolean);
    assert_eq!(words(&boolean), 3);
    assert_eq!(words(&Rewrite::plain("")), 0);
}

#[test]
fn the_depth_follows_the_cutoffs_and_settings_that_cannot_work_are_refused() {
    let depth =
        |names: &[(&str, f64)]| function(RewardConfig { measures: measures(names), ..Default::default() }).depth();
    assert_eq!((depth(&[("nDCG@10", 1.0), ("R@50", 1.0)]), depth(&[("RR", 1.0)])), (50, 1000));
    let refuse = |config: RewardConfig| RewardFunction::new(&config).unwrap_err().to_string();
    assert!(refuse(RewardConfig { k: Some(5), ..Default::default() }).contains("at least 10"));
    assert!(refuse(RewardConfig { k: Some(0), ..Default::default() }).starts_with("reward.k"));
    assert!(refuse(RewardConfig { measures: BTreeMap::new(), ..Default::default() }).starts_with("reward.measures"));
    assert!(refuse(RewardConfig { term_cost: -0.1, ..Default::default() }).starts_with("reward.term_cost"));
    let preset = RewardConfig { preset: RewardPreset::RecR1, term_cost: 0.1, ..Default::default() };
    assert!(refuse(preset).contains("term cost of 0.1"));
    let nan = measures(&[("nDCG@10", f64::NAN)]);
    assert!(refuse(RewardConfig { measures: nan, ..Default::default() }).starts_with("reward.measures.nDCG@10"));
    assert!(refuse(RewardConfig { format_penalty: -2.0, ..Default::default() }).starts_with("reward.format_penalty"));
    assert!(
        RewardFunction::new(&RewardConfig { measures: measures(&[("nDGC@10", 1.0)]), ..Default::default() }).is_err()
    );
    assert!(serde_json::from_str::<RewardConfig>(r#"{"lenght_limit": 3}"#).is_err());
    let preset: RewardConfig = serde_json::from_str(r#"{"preset": "rec-r1"}"#).unwrap();
    assert_eq!(preset.preset, RewardPreset::RecR1);
}

#[test]
fn with_one_target_far_down_completions_that_bring_it_nearer_earn_more_by_the_log_rank() {
    let deep = |target: usize| (0..target as u32).map(|n| (n + 10).to_string()).collect::<Vec<_>>().join(" ") + " 1";
    let (far, near) = (deep(600), deep(250));
    let earned = |weights: &[(&str, f64)]| {
        let function = function(RewardConfig { measures: measures(weights), ..RewardConfig::default() });
        values(&score(&function, &Numbers::new(0), &[Some(&far), Some(&near), Some("1")], 0))
    };
    assert_eq!(earned(&[("nDCG@10", 1.0)]), [Some(0.0), Some(0.0), Some(1.0)]);
    let mixed = [("nDCG@10", 0.6), ("LogRank@1000", 0.4)];
    let [Some(far), Some(near), Some(first)] = earned(&mixed)[..] else { panic!("a reward each") };
    assert!(far > 0.0 && near > far + 0.04 && (first - 1.0).abs() < 1e-6, "{far} {near} {first}");
    let mixed = function(RewardConfig { measures: measures(&mixed), ..RewardConfig::default() });
    assert_eq!((mixed.depth(), mixed.main_measure().unwrap().to_string()), (1000, "nDCG@10".to_owned()));
}

#[test]
fn the_gain_of_a_reward_is_its_main_measure_less_what_there_was_whatever_the_weights() {
    let config = |measures: &[(&str, f64)], gains: &[(&str, f64)]| RewardConfig {
        measures: measures.iter().map(|(name, weight)| ((*name).to_owned(), *weight)).collect(),
        gains: gains.iter().map(|(name, weight)| ((*name).to_owned(), *weight)).collect(),
        format_bonus: 0.5,
        ..RewardConfig::default()
    };
    for config in [
        config(&[("nDCG@10", 4.0), ("R@10", 1.0)], &[]),
        config(&[("R@10", 1.0)], &[("nDCG@10", 2.0)]),
        config(&[("nDCG@10", 1.0)], &[("nDCG@10", 1.0)]),
    ] {
        let function = RewardFunction::new(&config).unwrap();
        let scores: Vec<f64> = function.measures().map(|m| if m == Measure::NDCG_10 { 0.75 } else { 1.0 }).collect();
        let raw: Vec<f64> = function.measures().map(|_| 0.25).collect();
        let reward = function.reward(&Rewrite::plain("tea"), 1, &scores, &raw).unwrap();
        let gain = function.gain(&reward, 0.25).unwrap();
        assert!((gain - 0.5).abs() < 1e-6, "{config:?}: {gain}");
        assert_eq!(function.gain(&function.broken_format(), 0.25), None);
    }
}

#[test]
fn the_reward_of_an_order_is_the_ndcg_of_the_permuted_ranking() {
    let function = function(RewardConfig::default());
    let retriever = Numbers::new(0);
    let (query, found) = (Query::new("q", "5 3 8 1 9 2"), [5u32, 3, 8, 1, 9, 2]);
    let grades = [(8u32, 3), (1, 1), (2, 2), (7, 1)];
    let judgements = Judgements::new(grades.to_vec());
    let original = Rewrite::plain(&query.text);
    let gain = |doc: u32| grades.iter().find(|(judged, _)| *judged == doc).map_or(0.0, |(_, grade)| f64::from(*grade));
    let dcg = |docs: &[u32]| -> f64 {
        docs.iter().enumerate().map(|(place, doc)| gain(*doc) / ((place + 2) as f64).log2()).sum()
    };
    let ideal = dcg(&[8, 2, 1, 7]);
    let orders: [&[u32]; 5] = [&[8], &[2, 8, 1], &[9, 3, 5, 1, 8, 2], &[1, 2], &[]];
    let rewrites = orders.map(|first| original.clone().with_order(Order::new(first.to_vec(), 6)));
    let candidates: Vec<Candidate<'_>> = rewrites
        .iter()
        .map(|rewrite| Candidate {
            query: &query,
            judgements: &judgements,
            original: &original,
            rewrite: Some(rewrite),
            generated: 0,
        })
        .collect();
    let batch = function.score_batch(&retriever, &candidates, &RewardCache::new(100), 0);
    for (first, reward) in orders.iter().zip(&batch.rewards) {
        let behind = found.iter().filter(|doc| !first.contains(doc));
        let docs: Vec<u32> = first.iter().chain(behind).copied().collect();
        let (got, want) = (reward.as_ref().unwrap().value, dcg(&docs) / ideal);
        assert!((f64::from(got) - want).abs() < 1e-6, "{first:?}: {got}, not {want}");
    }
    assert_eq!(retriever.calls(), [1], "the same text is searched for once");
}
