use super::*;
use crate::rollout::fixture::Fixture;
use querywright_data::catalog::CatalogBuilder;
use querywright_retrieve::{Bm25, Bm25Config};
use querywright_rewrite::PromptConfig;
use querywright_types::Query;
use std::sync::Arc;

/// What is found for queries over documents, each query with the places of its relevant documents.
fn found(documents: &[&str], queries: &[(&str, &[u32])], restricted_to: &'static [&str]) -> Vec<Target> {
    let fixture = if restricted_to.is_empty() { Fixture::new() } else { Fixture::restricted(restricted_to) };
    found_by(fixture, documents, queries)
}

/// The same, by the prompts of a fixture.
fn found_by(mut fixture: Fixture, documents: &[&str], queries: &[(&str, &[u32])]) -> Vec<Target> {
    let mut builder = CatalogBuilder::new();
    for (i, text) in documents.iter().enumerate() {
        builder.push(&format!("d{i}"), [("title", *text)]).unwrap();
    }
    let m = &mut fixture.materials;
    m.catalog = Arc::new(builder.finish());
    m.retriever = Arc::new(Bm25::in_memory(m.catalog.clone(), Bm25Config::default()).unwrap());
    let labelled = queries.iter().enumerate().map(|(i, (text, relevant))| {
        let judgements = relevant.iter().map(|doc| (*doc, 1)).collect();
        (Query::new(format!("q{i}"), *text), Judgements::new(judgements))
    });
    m.train = labelled.collect();
    let (originals, feedback) = (m.originals().unwrap(), RelevanceFeedback::new(&m.catalog));
    let search = Search {
        config: &WarmStartConfig { nothing: 1.0, ..Default::default() },
        materials: m,
        originals: &originals,
        feedback: &feedback,
        task: Task::Search,
        mode: fixture.config.prompt.mode,
        measure: "nDCG@10".parse().unwrap(),
        depth: 10,
        max_tokens: 24,
        retries: 2,
        seed: 0,
    };
    search.run(&()).unwrap()
}

fn texts(targets: &[Target]) -> Vec<(usize, &str)> {
    targets.iter().map(|t| (t.query, t.target.as_str())).collect()
}

const SHOP: [&str; 4] = ["steel kettle", "solar lantern", "dome tent", "garden hose"];

#[test]
fn a_word_is_kept_that_finds_more_for_two_queries_and_one_that_does_for_one_alone_is_not() {
    let queries: [(&str, &[u32]); 3] = [("boil water", &[0]), ("hot tea", &[0]), ("see at night", &[1])];
    let targets = found(&SHOP, &queries, &[]);
    assert_eq!(texts(&targets), [(0, "kettle"), (1, "kettle")]);
    assert_eq!((targets[0].before, targets[0].after), (0.0, 1.0));
}

#[test]
fn in_the_mode_keywords_a_list_with_commas_is_found() {
    let prompt = PromptConfig { mode: Mode::Keywords, ..Fixture::new().config.prompt };
    let fixture = Fixture::new().prompted(prompt, |_: &Query| Ok(Vec::new()));
    let queries: [(&str, &[u32]); 2] = [("boil water", &[0, 1]), ("hot tea", &[0, 1])];
    let targets = found_by(fixture, &SHOP, &queries);
    assert_eq!(texts(&targets), [(0, "kettle, lantern"), (1, "kettle, lantern")]);
}

#[test]
fn a_word_that_serves_half_of_the_relevant_documents_alone_is_not_kept() {
    // d0 and d2 choose, d1 and d3 confirm.
    let shared = ["anorak red", "anorak blue", "anorak red", "anorak blue", "socks", "hat", "belt", "scarf"];
    let relevant: &[u32] = &[0, 1, 2, 3];
    assert_eq!(texts(&found(&shared, &[("rain", relevant)], &[])), [(0, "anorak")], "it holds on the other half");
    let apart = ["red", "blue", "red", "green", "socks", "hat", "belt", "scarf"];
    assert!(found(&apart, &[("rain", relevant)], &[]).is_empty());
}

#[test]
fn where_nothing_is_an_answer_it_is_an_example_for_queries_without_a_better_rewrite() {
    let queries: [(&str, &[u32]); 3] = [("boil water", &[0]), ("hot tea", &[0]), ("garden hose", &[3])];
    let targets = found(&SHOP, &queries, &["kettle", "lantern"]);
    assert_eq!(texts(&targets), [(0, "kettle"), (1, "kettle"), (2, "")]);
    let targets = found(&SHOP, &queries, &["lantern"]);
    assert!(texts(&targets).iter().all(|(_, text)| text.is_empty()), "words that may not be written: {targets:?}");
}

#[test]
fn judgements_are_halved_where_there_are_enough_and_the_irrelevant_ones_stand_in_both() {
    let few = Judgements::new(vec![(1, 1), (2, 0), (3, 1)]);
    assert!(halves(&few).1.is_none());
    let enough = Judgements::new(vec![(1, 1), (2, 0), (3, 2), (5, 1), (8, 1)]);
    let (chooses, confirms) = halves(&enough);
    let confirms = confirms.unwrap();
    let docs = |half: &Half| half.judgements.iter().map(|j| j.0).collect::<Vec<_>>();
    assert_eq!((docs(&chooses), chooses.other), (vec![1, 2, 5], vec![3, 8]));
    assert_eq!((docs(&confirms), confirms.other), (vec![2, 3, 8], vec![1, 5]));
}

#[test]
fn of_words_that_add_nearly_as_much_the_first_is_taken() {
    let fixture = Fixture::new();
    let rewrite = Rewrite::plain("x");
    let (chooses, confirms) = halves(&Judgements::default());
    let mut state = State {
        query: 0,
        labelled: &fixture.materials.train[0],
        original: &rewrite,
        chooses,
        confirms,
        words: ["a", "b", "c"].map(str::to_owned).to_vec(),
        chosen: Vec::new(),
        singles: Vec::new(),
        before: 0.2,
        after: 0.2,
        done: false,
        failed: false,
    };
    state.take_best(&[None, Some(0.52), Some(0.6)], 0.02);
    assert_eq!((state.chosen.join(" "), state.after, state.done), ("b".into(), 0.52, false));
    state.take_best(&[Some(0.53), Some(0.53)], 0.02);
    assert!(state.done && state.chosen.len() == 1, "a hundredth is not enough");
}

#[test]
fn the_best_order_of_what_is_found_is_an_example_and_one_that_gains_nothing_is_one_of_nothing() {
    let mut fixture = Fixture::ordering();
    let labelled = |name: &str, grades: Vec<(u32, i32)>| (Query::new(name, "thing"), Judgements::new(grades));
    let m = &mut fixture.materials;
    m.train = vec![labelled("q0", vec![(2, 2), (1, 1)]), labelled("q1", vec![(0, 1)])];
    let m = &fixture.materials;
    let (originals, feedback) = (m.originals().unwrap(), RelevanceFeedback::new(&m.catalog));
    let config = WarmStartConfig { nothing: 1.0, ..Default::default() };
    let search = |max_tokens| Search {
        config: &config,
        materials: m,
        originals: &originals,
        feedback: &feedback,
        task: Task::Search,
        mode: Mode::Rerank,
        measure: "nDCG@10".parse().unwrap(),
        depth: 10,
        max_tokens,
        retries: 0,
        seed: 0,
    };
    let targets = search(24).run(&()).unwrap();
    assert_eq!(texts(&targets), [(0, "C B"), (1, "")]);
    assert!(targets[0].before < 0.7 && (targets[0].after - 1.0).abs() < 1e-9, "{targets:?}");
    // A label and the space before it are two tokens, the stop is one.
    assert_eq!(texts(&search(3).run(&()).unwrap())[0], (0, "C"), "what has no room is not named");
}
