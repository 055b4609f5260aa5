use super::*;
use querywright_data::catalog::CatalogBuilder;
use querywright_types::{Deadline, Fault, FaultKind, Hit, Ranking, Request, RetrieverCard, Rewrite};

/// Finds the one document at the place that the text names ("3 …"), counted from 1; nothing for 0.
struct Places(RetrieverCard);

impl Retriever for Places {
    fn card(&self) -> &RetrieverCard {
        &self.0
    }

    fn retrieve(&self, requests: &[Request], _: Deadline) -> Vec<Result<Ranking, Fault>> {
        let answer = |request: &Request| {
            let Ok(place) = request.text.split(' ').next().unwrap().parse::<u32>() else {
                return Err(Fault::new("places", FaultKind::Network, "gone"));
            };
            let hit = |at: u32| Hit { doc: if at == place { 0 } else { at }, score: -(at as f32) };
            Ok(Ranking { hits: (1..=9).filter(|_| place > 0).map(hit).collect() })
        };
        requests.iter().map(answer).collect()
    }
}

/// Puts the document of the query with this number at the place that a function says, as sure as another one says.
struct Puts<P, C>(P, C);

impl<P, C> Rewriter for Puts<P, C>
where
    P: Fn(usize) -> usize + Send + Sync,
    C: Fn(usize) -> f32 + Send + Sync,
{
    fn name(&self) -> &str {
        "puts"
    }

    fn rewrite(&self, queries: &[Query], _: Deadline) -> Vec<Result<Rewrite>> {
        let one = |query: &Query| {
            let number = query.id.parse().unwrap();
            Ok(Rewrite::plain(format!("{} own", self.0(number))).with_confidence(self.1(number)))
        };
        queries.iter().map(one).collect()
    }
}

/// Where raw puts the document of a query.
fn raw(number: usize) -> usize {
    2 + number % 3
}

fn sure(_: usize) -> f32 {
    -0.5
}

fn decide(count: usize, chosen_on: usize, tuned: &dyn Rewriter, trained: &dyn Rewriter, on_base: bool) -> Shipped {
    let mut builder = CatalogBuilder::new();
    for i in 0..10 {
        builder.push(&format!("d{i}"), [("title", "x")]).unwrap();
    }
    let (catalog, judged) = (builder.finish(), Judgements::new(vec![(0, 1)]));
    let queries: Vec<Query> = (0..count).map(|i| Query::new(i.to_string(), format!("{} raw", raw(i)))).collect();
    let queries: Vec<Judged<'_>> = queries.iter().map(|query| (query, &judged)).collect();
    let retriever = Places(RetrieverCard::new("places", "0"));
    let measure = "RR@10".parse().unwrap();
    let (catalog, retriever, queries) = (&catalog, &retriever, queries.as_slice());
    let gate = Gate { catalog, retriever, measure, queries, chosen_on, chose_the_base: false, batch: 64 };
    gate.decide(tuned, trained, on_base, |_, _| ()).unwrap()
}

/// The first of them is best; higher places are worse.
fn ship(count: usize, trained: impl Fn(usize) -> usize + Send + Sync) -> Shipped {
    decide(count, 0, &Puts(raw, sure), &Puts(trained, sure), false)
}

#[test]
fn a_model_that_is_worse_or_better_by_chance_on_few_queries_is_not_shipped() {
    let worse = ship(150, |i| raw(i) + usize::from(i % 2 == 0));
    assert_eq!((worse.system.as_str(), worse.confidence), ("raw", None));
    assert!(
        worse.sentence.starts_with("Shipped: the raw query, because nothing is better beyond chance ("),
        "{worse:?}"
    );
    // Five queries of 150 found first, four lost.
    let lucky = ship(150, |i| match i {
        0..5 => 1,
        40..44 => 9,
        _ => raw(i),
    });
    let challenge = &lucky.challenges[1];
    assert!(challenge.mean > challenge.against_mean && !challenge.passed, "{challenge:?}");
    assert_eq!(lucky.system, "raw");
    assert_eq!(ship(150, raw).system, "raw", "as good is not better");
    // Three queries all won are no evidence.
    assert_eq!(ship(3, |_| 1).system, "raw");
    let twice = |trained: fn(usize) -> usize| ship(150, trained) == ship(150, trained);
    assert!(twice(|i| raw(i) + i % 2));
}

#[test]
fn of_models_that_are_no_better_few_pass_and_none_that_is_clearly_worse() {
    let random = |seed: usize, i: usize| ((seed * 7919 + i) as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
    // Every third query stands at the second place: half of these gain 0.5 and half lose it, or more of them lose it.
    let shipped = |losing: u64| {
        let model = |seed: usize| {
            let place = move |i: usize| match random(seed, i) % 10 {
                _ if raw(i) != 2 => raw(i),
                n => usize::from(n >= losing),
            };
            let confidence = move |i: usize| -((random(seed + 1000, i) % 97) as f32) / 97.0;
            decide(150, 0, &Puts(raw, sure), &Puts(place, confidence), false).system
        };
        (0..12).map(model).filter(|system| system != "raw").count()
    };
    let passed = shipped(5);
    assert!(passed <= 3, "{passed}");
    assert_eq!(shipped(9), 0);
}

#[test]
fn the_best_that_passes_is_shipped_and_the_simpler_one_of_equals() {
    let better = |by: usize| Puts(move |i| raw(i) - by, sure);
    let found = |tuned: &dyn Rewriter, trained: &dyn Rewriter| decide(150, 0, tuned, trained, true);
    let worse = Puts(|i| raw(i) + 1, sure);
    let trained = found(&better(0), &better(1));
    assert_eq!(trained.system, "trained");
    assert!(
        trained.sentence.starts_with("Shipped: the trained model, because it beats raw beyond chance"),
        "{trained:?}"
    );
    let tuned = found(&better(1), &better(1));
    assert_eq!(tuned.system, "tuned");
    assert_eq!((tuned.challenges[1].against.as_str(), tuned.challenges[1].passed), ("tuned", false));
    assert_eq!(found(&better(1), &worse).system, "tuned");
    assert_eq!(found(&worse, &worse).system, "raw");
}

#[test]
fn a_model_that_knows_when_it_is_wrong_is_shipped_where_it_is_sure() {
    // Sure of two queries in three, where it finds the document first; else it loses it.
    let knows = |i: usize| !(i / 2).is_multiple_of(3);
    let model = Puts(
        move |i| if knows(i) { 1 } else { 9 },
        move |i| if knows(i) { -0.1 - (i % 7) as f32 / 100.0 } else { -2.0 },
    );
    let found = decide(200, 0, &Puts(raw, sure), &model, false);
    assert_eq!(found.system, GATED, "{found:?}");
    let least = found.confidence.unwrap();
    assert!(least > -2.0 && least <= -0.1, "{least}");
    let last = found.challenges.last().unwrap();
    assert_eq!((last.against.as_str(), last.queries), ("trained", 100), "confirmed on the half that did not choose it");
    assert!(
        found.sentence.contains(&format!("confidence is at least {least}, else the query without it")),
        "{found:?}"
    );
    // Being sure says nothing here: the same model, with confidences that do not go with its gains.
    let blind = Puts(move |i| if knows(i) { 1 } else { 9 }, |i| -((i * 7 % 11) as f32) / 11.0);
    let found = decide(200, 0, &Puts(raw, sure), &blind, false);
    assert_eq!((found.system.as_str(), found.confidence), ("trained", None), "{found:?}");
    // What half of the queries say must hold on the other half.
    let half = Puts(
        |i| if i % 2 == 0 && i % 4 == 0 { 9 } else { 1 },
        |i| if i % 4 == 0 { -2.0 } else { -0.1 - i as f32 / 1e4 },
    );
    let found = decide(200, 0, &Puts(raw, sure), &half, false);
    assert_eq!((found.system.as_str(), found.challenges.len()), ("trained", 3), "{found:?}");
    // Fewer than 100 queries choose no confidence.
    let few = decide(80, 0, &Puts(raw, sure), &model, false);
    assert_eq!((few.confidence, few.challenges.len()), (None, 2));
}

#[test]
fn a_declined_rewrite_counts_as_what_the_query_is_without_the_model() {
    let tuned = |i: usize| raw(i) - 1;
    let model = Puts(|i| if i % 4 < 2 { 1 } else { 9 }, |i| if i % 4 < 2 { -0.1 } else { -2.0 });
    let mean = |on_base: bool| decide(200, 0, &Puts(tuned, sure), &model, on_base).challenges.last().unwrap().mean;
    assert!(mean(true) > mean(false) + 0.1, "{} {}", mean(true), mean(false));
}

#[test]
fn the_model_is_tested_on_queries_that_did_not_choose_it_where_there_are_enough() {
    // It is good on the first 100 alone, those that chose it.
    let fitted = Puts(|i| if i < 100 { 1 } else { raw(i) + 1 }, sure);
    let found = decide(220, 100, &Puts(raw, sure), &fitted, false);
    assert_eq!((found.system.as_str(), found.challenges[1].queries), ("raw", 120));
    let few = decide(150, 100, &Puts(raw, sure), &fitted, false);
    assert_eq!(few.challenges[1].queries, 150, "50 are no test");
    let many = decide(700, 100, &Puts(raw, sure), &Puts(raw, sure), false);
    assert_eq!((many.challenges[0].queries, many.challenges[1].queries), (700, 400));
}

#[test]
fn where_the_retriever_fails_the_raw_query_is_shipped_and_no_test_is_made() {
    let broken = Puts(|_| 1, sure);
    struct Broken;
    impl Rewriter for Broken {
        fn name(&self) -> &str {
            "broken"
        }

        fn rewrite(&self, queries: &[Query], _: Deadline) -> Vec<Result<Rewrite>> {
            queries.iter().map(|_| Ok(Rewrite::plain("no number"))).collect()
        }
    }
    let found = decide(120, 0, &broken, &Broken, false);
    assert_eq!((found.system.as_str(), found.challenges.len()), ("raw", 0));
    assert!(found.sentence.contains("failed 120 times"), "{found:?}");
}
