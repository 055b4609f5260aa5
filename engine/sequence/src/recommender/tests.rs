use std::cell::RefCell;

use super::*;
use querywright_data::catalog::CatalogBuilder;
use querywright_types::{Ordinal, Progress, retrieve};

type Owned = Vec<(Query, Judgements)>;

fn catalog(items: usize) -> Catalog {
    let mut builder = CatalogBuilder::new();
    for n in 0..items {
        builder.push(&format!("i{n}"), [("title", format!("item {n}"))]).unwrap();
    }
    builder.finish()
}

fn queries(of: impl IntoIterator<Item = (Vec<Ordinal>, Ordinal)>) -> Owned {
    let pair = |(history, item)| (Query::text("").with_history(history), Judgements::new(vec![(item, 1)]));
    of.into_iter().map(pair).collect()
}

fn borrowed(of: &Owned) -> Pairs<'_> {
    of.iter().map(|(query, judgements)| (query, judgements)).collect()
}

/// Two circles of items, one forwards and one by threes: what comes next depends on the newest two..
fn circles() -> (Owned, Owned) {
    let at = |start: u32, step: u32, place: u32| (start + step * place) % 18;
    let walk = |start: u32, step: u32, length: u32| {
        ((0..length).map(|place| at(start, step, place)).collect::<Vec<_>>(), at(start, step, length))
    };
    let mut training: Vec<_> = (0..18)
        .flat_map(|start| [1, 5].into_iter().flat_map(move |step| (2..6).map(move |length| (start, step, length))))
        .collect();
    let development: Vec<_> = (0..18).flat_map(|start| [(start, 1, 4), (start, 5, 4)]).collect();
    training.retain(|walked| !development.contains(walked));
    let walked =
        |of: Vec<(u32, u32, u32)>| queries(of.into_iter().map(|(start, step, length)| walk(start, step, length)));
    (walked(training), walked(development))
}

fn small() -> SequenceConfig {
    let mut config = SequenceConfig {
        epochs: 20,
        train_batch_size: 32,
        learning_rate: 0.02,
        max_seq_length: 5,
        ..Default::default()
    };
    config.sasrec.hidden_size = 16;
    config.sasrec.inner_size = 16;
    config.sasrec.n_layers = 1;
    config.sasrec.hidden_dropout_prob = 0.1;
    config.sasrec.attn_dropout_prob = 0.1;
    config.gru4rec.hidden_size = 16;
    config.gru4rec.embedding_size = 16;
    config
}

fn learned(model: SequenceModel, config: &SequenceConfig) -> (Recommender, Vec<String>) {
    struct Told(RefCell<Vec<String>>);
    impl Observe for Told {
        fn note(&self, text: &str) {
            self.0.borrow_mut().push(text.to_owned());
        }
    }
    let (training, development) = circles();
    let (training, development) = (borrowed(&training), borrowed(&development));
    let sequences = Sequences { training: &training, development: &development };
    let told = Told(RefCell::default());
    (Recommender::learn(&catalog(20), sequences, model, config, &told).unwrap(), told.0.into_inner())
}

fn found(recommender: &Recommender, requests: &[Request]) -> Vec<Vec<(Ordinal, f32)>> {
    let rankings = retrieve(recommender, requests, Deadline::NONE).into_iter();
    rankings.map(|ranking| ranking.unwrap().hits.iter().map(|hit| (hit.doc, hit.score)).collect()).collect()
}

fn after(history: &[Ordinal], k: usize) -> Request {
    Request::plain("is not read", k).with_history(history.iter().copied())
}

#[test]
fn what_comes_next_is_learned_from_the_order_of_a_history() {
    for model in SequenceModel::ALL {
        let (recommender, told) = learned(model, &small());
        let (_, development) = circles();
        let right = development.iter().filter(|(query, judgements)| {
            let best = found(&recommender, &[after(&query.history, 1)]).remove(0).remove(0).0;
            judgements.grade(best) == Some(1)
        });
        // By popularity alone one of eighteen would be right, by the newest item alone half of them.
        let right = right.count();
        assert!(right > 24, "{}: {right} of {}; {told:?}", model.name(), development.len());
        assert!(told.len() == 1 && told[0].contains("36 development queries"), "{told:?}");
        let card = recommender.card();
        assert!(card.reads_history && !card.reads_text && card.name == model.name() && card.documents == Some(20));
    }
}

#[test]
fn a_ranking_holds_known_items_without_what_is_excluded_and_depends_on_nothing_beside_it() {
    let (recommender, _) = learned(SequenceModel::Sasrec, &SequenceConfig { epochs: 1, ..small() });
    let known = [
        after(&[3, 4], 99),
        after(&[3, 4], 99).with_exclude([3, 4, 5]),
        after(&[19, 3, 18, 4], 99),
        after(&[4, 3], 99),
    ];
    let together = found(&recommender, &known);
    assert_eq!(together[0].len(), 18, "items 18 and 19 are in no training sequence");
    assert!(together[1].iter().all(|(item, _)| ![3, 4, 5].contains(item)) && together[1].len() == 15);
    assert_eq!(together[2], together[0], "items that nobody knows are passed over");
    assert_ne!(together[3], together[0], "the order counts");
    for (request, ranking) in known.iter().zip(&together) {
        assert_eq!(found(&recommender, std::slice::from_ref(request)), std::slice::from_ref(ranking), "bit for bit");
    }
    let longer = after(&[9, 8, 3, 4, 5, 6, 7], 9);
    assert_eq!(
        found(&recommender, &[longer]),
        found(&recommender, &[after(&[3, 4, 5, 6, 7], 9)]),
        "the newest five are read"
    );
    let late = recommender.retrieve(&known, Deadline::after(std::time::Duration::ZERO));
    assert!(late.iter().all(|answer| answer.as_ref().unwrap_err().kind == FaultKind::Timeout));
}

#[test]
fn a_request_without_a_history_that_is_known_is_answered_by_what_is_popular() {
    let (recommender, _) = learned(SequenceModel::Gru4rec, &SequenceConfig { epochs: 1, ..small() });
    let (training, _) = circles();
    let popular = Popularity::learn(&catalog(20), &borrowed(&training)).unwrap();
    for request in [Request::plain("anything", 5), after(&[18, 19], 5).with_exclude([0])] {
        let expected = retrieve(&popular, std::slice::from_ref(&request), Deadline::NONE).remove(0).unwrap();
        assert_eq!(retrieve(&recommender, &[request], Deadline::NONE).remove(0).unwrap(), expected);
    }
}

#[test]
fn the_same_seed_learns_the_same_whatever_the_threads_and_another_another() {
    for model in SequenceModel::ALL {
        let config = SequenceConfig { epochs: 2, ..small() };
        let digest = |config: &SequenceConfig, threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| learned(model, config).0.card().digest.clone())
        };
        let one = digest(&config, 1);
        assert_eq!(one, digest(&config, 3));
        assert_ne!(one, digest(&SequenceConfig { seed: 1, ..config }, 1));
    }
}

#[test]
fn training_ends_after_its_time_and_keeps_what_is_best_by_then() {
    let (training, _) = circles();
    let training = borrowed(&training);
    let sequences = Sequences { training: &training, development: &[] };
    let seen = RefCell::new(Vec::new());
    let watch = |progress: Progress<'_>| seen.borrow_mut().push(progress.done);
    let hurried = SequenceConfig { max_minutes: 1e-9, ..small() };
    let recommender = Recommender::learn(&catalog(20), sequences, SequenceModel::Gru4rec, &hurried, &watch).unwrap();
    assert_eq!(seen.take(), [1], "one step, and what it came to");
    assert_eq!(found(&recommender, &[after(&[3, 4], 5)])[0].len(), 5);
}

#[test]
fn without_development_queries_a_tenth_of_the_sequences_says_when_it_is_enough() {
    let training = queries((0..20).map(|n| (vec![3 * n, 3 * n + 1], 3 * n + 2)));
    let training = borrowed(&training);
    let (learned, asked, held_back) = dealt(&training, &[]);
    assert_eq!((learned.len(), asked.len(), held_back), (18, 2, true));
    let strangers = queries([(vec![90, 91], 92), (vec![0], 93)]);
    assert_eq!(dealt(&training, &borrowed(&strangers)).1.len(), 2, "what nobody knows says nothing of when to end");
    let without_history = queries([(vec![], 3)]);
    assert_eq!(dealt(&training, &borrowed(&without_history)).1.len(), 2);
    let other = queries([(vec![1], 3)]);
    let other = borrowed(&other);
    let (_, asked, held_back) = dealt(&training, &other);
    assert_eq!((asked.len(), held_back), (1, false));
    let single = queries([(vec![1], 2), (vec![1, 2], 3)]);
    let single = borrowed(&single);
    assert!(dealt(&single, &[]).1.is_empty() && dealt(&single, &[]).0.len() == 2);
}

#[test]
fn a_model_on_disk_is_that_of_its_sequences_and_settings_and_of_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let (training, development) = circles();
    let (training, development) = (borrowed(&training), borrowed(&development));
    let trained = RefCell::new(0);
    let open = |training: &Training<'_>, model, config: &SequenceConfig| {
        let watch = |progress: Progress<'_>| *trained.borrow_mut() += u32::from(progress.done == 1);
        let sequences = Sequences { training, development: &development };
        let opened = Recommender::open_or_learn(&catalog(20), sequences, model, config, folder.path(), &watch).unwrap();
        opened.card().digest.clone()
    };
    let config = SequenceConfig { epochs: 1, ..small() };
    let first = open(&training, SequenceModel::Sasrec, &config);
    assert_eq!(first, open(&training, SequenceModel::Sasrec, &config));
    assert_eq!(trained.take(), 1, "it was read the second time");
    let mut other_shape = config.clone();
    other_shape.gru4rec.num_layers = 2;
    assert_eq!(first, open(&training, SequenceModel::Sasrec, &other_shape), "the other model's shape is no matter");
    assert_eq!(trained.take(), 0);
    let others = [
        open(&training, SequenceModel::Gru4rec, &config),
        open(&training, SequenceModel::Sasrec, &SequenceConfig { learning_rate: 0.03, ..config.clone() }),
        open(&training[1..], SequenceModel::Sasrec, &config),
    ];
    assert_eq!(trained.take(), 3);
    assert!(others.iter().all(|digest| *digest != first));
}

#[test]
fn what_cannot_be_learned_from_is_refused() {
    let learn = |training: &Owned, config: &SequenceConfig| {
        let training = borrowed(training);
        let sequences = Sequences { training: &training, development: &[] };
        Recommender::learn(&catalog(3), sequences, SequenceModel::Sasrec, config, &()).unwrap_err().to_string()
    };
    let right = queries([(vec![0], 1), (vec![0, 1], 2)]);
    assert!(learn(&queries([(vec![], 1)]), &small()).contains("no training query has a history"));
    assert!(learn(&queries([(vec![0], 9)]), &small()).contains("ordinals"));
    assert!(learn(&right, &SequenceConfig { epochs: 0, ..small() }).contains("epochs"));
}
