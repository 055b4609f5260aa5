use super::*;
use crate::comparison::tests::evaluated;
use querywright_data::catalog::{Catalog, CatalogBuilder};
use querywright_types::{Hit, Judgements, Query, QueryLanguage, Ranking, Rewrite};

fn catalog() -> Catalog {
    let mut builder = CatalogBuilder::new();
    let documents = [
        ("a", "Stainless steel gooseneck kettle", "It boils a litre of water in three minutes flat."),
        ("b", "Wool blanket", "Warm feet in bed all winter long, they say."),
    ];
    for (id, title, text) in documents {
        builder.push(id, [("title", title), ("text", text)]).unwrap();
    }
    builder.finish()
}

/// A system with these rewrites, each of which found the document "b".
fn system(name: &str, queries: &[Query], rewrites: &[&str]) -> Evaluated {
    let mut found = evaluated(name, &vec![0.5; rewrites.len()]);
    found.rewrites = rewrites.iter().map(|text| Rewrite::new(*text, QueryLanguage::Boolean)).collect();
    for query in queries {
        let ranking = Ranking { hits: vec![Hit { doc: 1, score: 1.0 }] };
        found.run.rankings.insert(query.id.clone(), ranking);
    }
    found
}

#[test]
fn what_a_system_does_is_counted_with_examples_and_set_against_the_baseline() {
    let (catalog, judged) = (catalog(), Judgements::new(vec![(0, 1)]));
    let texts = ["boil water", "kettle for tea", "warm bed", "steel pot", "old pan", "tea"];
    let queries: Vec<Query> = texts.iter().enumerate().map(|(i, text)| Query::new(format!("q{i}"), *text)).collect();
    let pairs: Vec<(&Query, &Judgements)> = queries.iter().map(|query| (query, &judged)).collect();
    let evaluation = Evaluation { catalog: &catalog, queries: &pairs, measures: &[], batch: 1 };
    let zero = system("zero-shot", &queries, &texts);
    let trained = [
        // The relevant document's title, and a piece of its text.
        "(boil water)^2 stainless steel gooseneck kettle",
        "kettle AND \"a litre of water in three\"",
        // The text of what was found.
        "feet in bed all",
        "steel steel steel pot pot pot steel",
        "sartén para la cocina con tapa",
        "tea",
    ];
    let trained = system("trained", &queries, &trained);
    let got = Probes::of(&evaluation, &[&zero, &trained], "zero-shot").unwrap();
    let counts = |place: usize| got.systems[place].rates.iter().map(|rate| rate.count).collect::<Vec<_>>();
    assert_eq!(counts(0), [6, 0, 0, 0, 0, 0]);
    assert_eq!(counts(1), [2, 1, 2, 1, 1, 0]);
    let rate = |probe: Probe| got.systems[1].rates.iter().find(|rate| rate.probe == probe).unwrap();
    let found = |probe: Probe| rate(probe).examples[0].found.as_str();
    assert_eq!(found(Probe::CopyRelevant), "the title stainless steel gooseneck kettle");
    assert_eq!(rate(Probe::CopyRelevant).examples[1].found, "a litre of water");
    assert_eq!((found(Probe::CopyFound), found(Probe::Language)), ("feet in bed all", "Spanish"));
    let echo = rate(Probe::Echo).against.unwrap();
    assert_eq!((echo.gained, echo.lost), (0, 4));
    assert!((echo.p - 0.125).abs() < 1e-12 && (echo.difference + 4.0 / 6.0).abs() < 1e-12 && echo.p_holm > echo.p);
    assert!(got.systems[0].rates.iter().all(|rate| rate.against.is_none()), "the baseline stands alone");
    let text = got.text();
    assert!(text.contains("difference to zero-shot"), "{text}");
    assert!(text.contains("  echo                     33.3% [9.7, 70.0]  -66.7 points, p 0.7500\n"), "{text}");
    let shown = "  copies what is found, trained: warm bed\n    feet in bed all\n    (feet in bed all)\n";
    assert!(text.contains(shown), "{text}");
    let json = serde_json::to_value(&got).unwrap();
    assert_eq!(json["systems"][1]["rates"][2]["probe"], "copy_relevant");
    // Without a baseline there is nothing to set against.
    let alone = Probes::of(&evaluation, &[&trained], "zero-shot").unwrap();
    assert_eq!((alone.against, alone.systems[0].rates[0].against), (None, None));
    let fewer = Evaluation { queries: &pairs[1..], ..evaluation };
    assert!(Probes::of(&fewer, &[&zero], "").unwrap_err().to_string().contains("6 rewrites of zero-shot for 5"));
}
