use std::collections::HashMap as Map;
use std::sync::Mutex;

use querywright_data::catalog::CatalogBuilder;
use querywright_types::{Deadline, Fault, FaultKind, Hit, Ordinal, Ranking, Request, RetrieverCard};

use super::*;

/// Gives each query's document the first place where the query's form is liked, else the last one.
struct Taste {
    card: RetrieverCard,
    liked: fn(&str) -> bool,
    fails: bool,
}

impl Taste {
    fn new(liked: fn(&str) -> bool) -> Self {
        let card = RetrieverCard::new("taste", "0")
            .with_languages([QueryLanguage::Plain, QueryLanguage::Boolean])
            .with_fields(["title", "tags"])
            .with_documents(60);
        Self { card, liked, fails: false }
    }
}

impl Retriever for Taste {
    fn card(&self) -> &RetrieverCard {
        &self.card
    }

    fn retrieve(&self, requests: &[Request], _: Deadline) -> Vec<std::result::Result<Ranking, Fault>> {
        let hits =
            |first: Ordinal, second: Ordinal| vec![Hit { doc: first, score: 2.0 }, Hit { doc: second, score: 1.0 }];
        let answer = |request: &Request| {
            if self.fails {
                return Err(Fault::new("taste", FaultKind::Network, "down"));
            }
            let number = request.text.split(|c: char| !c.is_ascii_digit()).find(|d| !d.is_empty()).unwrap_or("0");
            let doc: Ordinal = number.parse().unwrap_or(0);
            let other = (doc + 1) % 60;
            Ok(Ranking { hits: if (self.liked)(&request.text) { hits(doc, other) } else { hits(other, doc) } })
        };
        requests.iter().map(answer).collect()
    }
}

fn tuned(retriever: &Taste, queries: usize, feedback: Option<Feedback>) -> Result<TunedBase> {
    fused(retriever, queries, feedback, None)
}

fn fused(
    retriever: &Taste,
    queries: usize,
    feedback: Option<Feedback>,
    fusion: Option<FusionWeights<'_>>,
) -> Result<TunedBase> {
    let mut builder = CatalogBuilder::new();
    for number in 0..60 {
        builder.push(&format!("d{number}"), [("title", "x"), ("tags", "y")]).unwrap();
    }
    let labelled: Vec<(Query, Judgements)> = (0..queries)
        .map(|n| (Query::new(format!("q{n}"), format!("{n} lamp")), Judgements::new(vec![(n as u32, 1)])))
        .collect();
    let queries: Vec<(&Query, &Judgements)> = labelled.iter().map(|(q, j)| (q, j)).collect();
    let catalog = builder.finish();
    let measure = "nDCG@10".parse().unwrap();
    let (neighbours, elsewhere) = (None, &[][..]);
    Tuning { catalog: &catalog, retriever, queries: &queries, measure, feedback, neighbours, elsewhere, fusion }
        .run(&())
}

#[test]
fn a_field_that_helps_is_found_and_what_does_not_help_stays_as_it_was() {
    let found = tuned(&Taste::new(|text| text.contains("tags:")), 60, None).unwrap();
    assert_eq!(found.base.fields.keys().collect::<Vec<_>>(), ["tags"], "{:?}", found.base);
    assert_eq!((found.base.phrases, found.base.all_words, found.base.contents), (0.0, 0.0, 1.0));
    assert_eq!((found.searched, found.confirmed), (40, 20));
    assert!(found.tuned.0 > found.raw.0 && found.tuned.1 > found.raw.1);
    assert!(found.trials.iter().any(|trial| trial.kept && trial.setting == "fields.tags"));
}

#[test]
fn a_field_that_no_query_can_name_is_left_out() {
    let mut retriever = Taste::new(|text| !text.contains("year"));
    retriever.card.fields = vec!["release year".into(), "tags".into()];
    let found = tuned(&retriever, 60, None).unwrap();
    assert!(found.trials.iter().all(|trial| !trial.setting.contains("year")), "{:?}", found.trials);
    assert!(found.trials.iter().any(|trial| trial.setting == "fields.tags"));
}

#[test]
fn a_handful_of_queries_tunes_nothing() {
    let found = tuned(&Taste::new(|text| text.contains("tags:")), FEWEST - 1, None).unwrap();
    assert!(found.base.is_raw() && found.trials.is_empty());
    let found = tuned(&Taste::new(|text| text.contains("tags:")), FEWEST, None).unwrap();
    assert!(!found.base.is_raw());
}

#[test]
fn where_nothing_helps_the_base_is_the_raw_query() {
    let found = tuned(&Taste::new(|_| true), 60, None).unwrap();
    assert!(found.base.is_raw() && found.raw == found.tuned, "{found:?}");
}

/// A gain that the queries to search on show by chance alone is gone on the others.
#[test]
fn what_unseen_queries_do_not_confirm_is_not_kept() {
    fn liked_by_two_of_three(text: &str) -> bool {
        let number: u32 = text.split(|c: char| !c.is_ascii_digit()).find(|d| !d.is_empty()).unwrap().parse().unwrap();
        (number % 3 == 2) != text.contains("title:")
    }
    let found = tuned(&Taste::new(liked_by_two_of_three), 60, None).unwrap();
    assert!(found.trials.iter().any(|trial| trial.kept && trial.setting == "fields.title"), "the search falls for it");
    assert!(found.base.is_raw(), "{:?}", found.base);
}

#[test]
fn feedback_is_asked_for_once_a_query_and_size_and_found_where_it_helps() {
    type Asked = Map<(String, usize, usize), usize>;
    let asked: Arc<Mutex<Asked>> = Arc::default();
    let counted = asked.clone();
    let feedback: Feedback = Arc::new(move |query, config| {
        *counted.lock().unwrap().entry((query.id.clone(), config.docs, config.terms)).or_default() += 1;
        Ok(vec![("wick".to_owned(), 1.0)])
    });
    let found = tuned(&Taste::new(|text| text.contains("wick")), 60, Some(feedback)).unwrap();
    assert!(found.base.feedback.weight > 0.0, "{:?}", found.base);
    assert!(asked.lock().unwrap().values().all(|times| *times == 1));
}

#[test]
fn a_retriever_of_plain_words_has_nothing_to_tune_and_one_that_fails_gives_no_figure() {
    let mut plain = Taste::new(|_| true);
    plain.card.languages = vec![QueryLanguage::Plain];
    let found = tuned(&plain, 60, None).unwrap();
    assert!(found.base.is_raw() && found.trials.is_empty());
    let failing = Taste { fails: true, ..Taste::new(|_| true) };
    assert!(matches!(tuned(&failing, 60, None).unwrap_err(), Error::Fault(_)));
    assert!(tuned(&Taste::new(|_| true), 0, None).unwrap_err().to_string().contains("no judged query"));
}

type Taken = fn(&str) -> bool;

/// A weight of covisitation, of which one value ranks as `taste` says, and all others as `start` does.
fn weighed(start: Taken, liked: f64, taste: Taken, card: &RetrieverCard) -> Result<TunedBase> {
    let ranks = |weights: &[f64]| -> Result<Arc<dyn Retriever>> {
        let liked = if weights == [liked] { taste } else { start };
        Ok(Arc::new(Taste { card: card.clone(), liked, fails: false }))
    };
    let weight =
        FusionWeight { key: "retriever.covisitation".into(), start: 0.6, values: vec![0.1, 0.3, 0.6, 1.0, 2.0] };
    let taste = Taste { card: card.clone(), ..Taste::new(start) };
    fused(&taste, 60, None, Some(FusionWeights { weights: vec![weight], fused: &ranks }))
}

fn weight(found: &TunedBase) -> Option<f64> {
    found.fusion_weights.get("retriever.covisitation").copied()
}

#[test]
fn the_weight_in_a_fusion_is_tuned_and_must_hold_on_unseen_queries_too() {
    let card = Taste::new(|_| false).card;
    let found = weighed(|_| false, 1.0, |_| true, &card).unwrap();
    assert_eq!(weight(&found), Some(1.0));
    assert!(found.base.is_raw() && found.tuned.0 > found.raw.0 && found.tuned.1 > found.raw.1, "{found:?}");
    assert!(found.trials.iter().any(|trial| trial.kept && trial.setting == "retriever.covisitation"));
    // With the weight a field helps: both are found.
    let found = weighed(|_| false, 2.0, |text| text.contains("tags:"), &card).unwrap();
    assert_eq!((weight(&found), found.base.fields.len()), (Some(2.0), 1), "{found:?}");
    fn by_chance(text: &str) -> bool {
        let number: u32 = text.split(|c: char| !c.is_ascii_digit()).find(|d| !d.is_empty()).unwrap().parse().unwrap();
        number % 3 != 2
    }
    let found = weighed(|text| !by_chance(text), 0.3, by_chance, &card).unwrap();
    assert_eq!(weight(&found), Some(0.6), "gone on the queries that were not searched on");
    assert!(fused(&Taste::new(|_| true), 60, None, None).unwrap().fusion_weights.is_empty());
}

#[test]
fn the_weight_in_a_fusion_is_tuned_where_the_retriever_reads_plain_words_alone() {
    let mut card = Taste::new(|_| false).card;
    card.languages = vec![QueryLanguage::Plain];
    let found = weighed(|_| false, 0.1, |_| true, &card).unwrap();
    assert_eq!(weight(&found), Some(0.1));
    assert!(found.base.is_raw() && found.trials.iter().all(|trial| trial.setting == "retriever.covisitation"));
}

/// Documents of two kinds; a query finds its own where it asks for the word that only its kind has.
fn kinds() -> (querywright_data::catalog::Catalog, Vec<(Query, Judgements)>) {
    let mut builder = CatalogBuilder::new();
    for number in 0..60 {
        let text = if number % 2 == 0 { "osteoporosis calcium common" } else { "fatigue sleep's common" };
        builder.push(&format!("d{number}"), [("title", text), ("tags", "")]).unwrap();
    }
    let ask = |n: u32| if n.is_multiple_of(2) { format!("{n} weak bones") } else { format!("{n} tired eyes") };
    let query = |n: u32| (Query::new(format!("q{n}"), ask(n)), Judgements::new(vec![(n, 1)]));
    (builder.finish(), (0..60).map(query).collect())
}

fn with_neighbours(liked: fn(&str) -> bool, elsewhere: &[(Query, Judgements)]) -> TunedBase {
    let (catalog, labelled) = kinds();
    let borrow = |of: &'static [(Query, Judgements)]| of.iter().map(|(q, j)| (q, j)).collect::<Vec<_>>();
    let queries = borrow(labelled.leak());
    let elsewhere = borrow(elsewhere.to_vec().leak());
    let neighbours = learn_neighbours(&catalog, &queries).unwrap().map(Arc::new);
    let (measure, retriever) = ("nDCG@10".parse().unwrap(), Taste::new(liked));
    let (catalog, queries, elsewhere) = (&catalog, queries.as_slice(), elsewhere.as_slice());
    let tuning = Tuning {
        catalog,
        retriever: &retriever,
        queries,
        measure,
        feedback: None,
        neighbours,
        elsewhere,
        fusion: None,
    };
    tuning.run(&()).unwrap()
}

#[test]
fn words_of_similar_judged_queries_are_kept_where_they_help() {
    let liked = |text: &str| text.contains("calcium") || text.contains("fatigue");
    let found = with_neighbours(liked, &[]);
    assert!(found.base.neighbours.weight > 0.0 && found.base.neighbours.known.is_some(), "{:?}", found.base);
    assert!(found.tuned.0 > 0.99 && found.tuned.1 > 0.99 && found.raw.0 < 0.99, "{found:?}");
    assert!(found.trials.iter().any(|trial| trial.setting == "neighbours.weight" && trial.kept));
    assert!(with_neighbours(|_| true, &[]).base.is_raw(), "nothing to gain");
}

/// Training queries about one thing stand in all parts of their own split; those of another split have no such sister.
#[test]
fn words_of_neighbours_that_another_split_does_not_confirm_are_not_kept() {
    let liked = |text: &str| text.contains("calcium") || text.contains("fatigue");
    let (_, labelled) = kinds();
    let confirming = with_neighbours(liked, &labelled);
    assert!(confirming.base.neighbours.weight > 0.0);
    let strangers: Vec<(Query, Judgements)> = labelled
        .into_iter()
        .map(|(query, judged)| {
            (Query::new(query.id, query.text.replace("weak bones", "x").replace("tired eyes", "y")), judged)
        })
        .collect();
    let found = with_neighbours(liked, &strangers);
    assert!(found.base.neighbours.is_off(), "{:?}", found.base);
    let last = found.trials.last().unwrap();
    assert!(last.setting == "neighbours.weight" && last.value.contains("another split") && !last.kept, "{last:?}");
}

#[test]
fn the_words_that_are_learned_are_those_in_which_relevant_documents_stand_out() {
    let (catalog, labelled) = kinds();
    let queries: Vec<(&Query, &Judgements)> = labelled.iter().map(|(q, j)| (q, j)).collect();
    let known = learn_neighbours(&catalog, &queries).unwrap().unwrap();
    let first: serde_json::Value = serde_json::from_slice(known.file().split(|b| *b == b'\n').next().unwrap()).unwrap();
    // A third of the document each, a sixth of the catalogue: 1/3 ln 2. "common" is as common everywhere.
    let words: Vec<(String, f64)> = serde_json::from_value(first["words"].clone()).unwrap();
    assert_eq!(words.iter().map(|word| word.0.as_str()).collect::<Vec<_>>(), ["calcium", "osteoporosis"]);
    assert!(words.iter().all(|word| (word.1 - 2.0f64.ln() / 3.0).abs() < 1e-6), "{words:?}");
    let second: Vec<&str> = std::str::from_utf8(known.file()).unwrap().lines().collect();
    assert!(
        second[1].contains("fatigue") && !second[1].contains("sleep's"),
        "a word with a sign asks for something else"
    );
    let history = Query::new("h", "weak bones").with_history([1]);
    assert_eq!(learn_neighbours(&catalog, &[(&history, &labelled[0].1)]).unwrap(), None);
}

#[test]
fn several_weights_of_a_fusion_are_tuned_together_and_one_that_does_not_help_stays_at_its_start() {
    // Half of the queries want the first weight at 2, the others are content; the second weight does nothing.
    let ranks = |weights: &[f64]| -> Result<Arc<dyn Retriever>> {
        assert_eq!(weights.len(), 2);
        Ok(Arc::new(Taste::new(if weights[0] == 2.0 { |_| true } else { |text: &str| text.len().is_multiple_of(2) })))
    };
    let weight = |key: &str, values: &[f64]| FusionWeight { key: key.into(), start: 1.0, values: values.to_vec() };
    let weights = vec![weight("dense.hybrid", &[2.0, 0.5]), weight("covisitation", &[0.3, 3.0])];
    let start = Taste::new(|text| text.len().is_multiple_of(2));
    let found = fused(&start, 60, None, Some(FusionWeights { weights, fused: &ranks })).unwrap();
    let found: Vec<(&str, f64)> = found.fusion_weights.iter().map(|(key, weight)| (key.as_str(), *weight)).collect();
    assert_eq!(found, [("covisitation", 1.0), ("dense.hybrid", 2.0)]);
}
