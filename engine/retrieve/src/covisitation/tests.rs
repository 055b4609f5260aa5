use super::*;
use crate::sequences::tests::{borrowed, catalog, queries};
use querywright_types::{FaultKind, Judgements, Query, retrieve};

/// Settings under which a weight can be computed by hand: only what follows counts, and nothing is held back.
fn bare() -> CovisitationConfig {
    CovisitationConfig { window_decay: 0.5, backward: 0.0, damping: 0.0, history_decay: 0.5, ..Default::default() }
}

fn learn(of: &[(&[Ordinal], Ordinal)], config: CovisitationConfig) -> Covisitation {
    Covisitation::learn(&catalog(8), &borrowed(&queries(of)), config).unwrap()
}

fn request(history: &[Ordinal]) -> Request {
    Request::plain("", 10).with_history(history.iter().copied())
}

fn found(covisitation: &Covisitation, request: Request) -> Vec<(Ordinal, f32)> {
    let ranking = retrieve(covisitation, &[request], Deadline::NONE).remove(0).unwrap();
    ranking.hits.iter().map(|hit| (hit.doc, hit.score)).collect()
}

fn close(found: &[(Ordinal, f32)], right: &[(Ordinal, f64)]) {
    let docs = |list: Vec<Ordinal>| list;
    assert_eq!(docs(found.iter().map(|f| f.0).collect()), docs(right.iter().map(|r| r.0).collect()), "{found:?}");
    for (found, right) in found.iter().zip(right) {
        assert!((f64::from(found.1) - right.1).abs() < 1e-6, "{found:?}, {right:?}");
    }
}

/// 0 1 2 by one user, 0 1 3 by another, 0 1 2 by a third: 1 came after 0 three times, 2 after 1 twice.
const THREE: [(&[Ordinal], Ordinal); 3] = [(&[0, 1], 2), (&[0, 1], 3), (&[0, 1], 2)];

#[test]
fn scores_are_those_of_the_formula() {
    let learned = learn(&THREE, bare());
    // c(1, 2) = 2, c(1, 3) = 1; c(0, 1) = 3, c(0, 2) = 2 * 0.5, c(0, 3) = 0.5.
    let (one, zero) = (3.0_f64.sqrt(), 4.5_f64.sqrt());
    close(learned.neighbours(1), &[(2, 2.0 / one), (3, 1.0 / one)]);
    close(learned.neighbours(0), &[(1, 3.0 / zero), (2, 1.0 / zero), (3, 0.5 / zero)]);
    close(&found(&learned, request(&[1])), &[(2, 2.0 / one), (3, 1.0 / one)]);
    let mixed = [(2, 2.0 / one + 0.5 / zero), (3, 1.0 / one + 0.25 / zero)];
    close(&found(&learned, request(&[0, 1]).with_exclude([0, 1])), &mixed);
    let all = found(&learned, request(&[0, 1]));
    close(&all, &[mixed[0], (1, 1.5 / zero), mixed[1]]);
    close(&found(&learned, request(&[0, 1]).with_k(1)), &mixed[..1]);
}

#[test]
fn every_setting_is_read() {
    let with = |change: fn(&mut CovisitationConfig)| {
        let mut config = bare();
        change(&mut config);
        learn(&THREE, config)
    };
    let zero = with(|c| c.window = 1);
    close(zero.neighbours(0), &[(1, 3.0 / 3.0_f64.sqrt())]);
    close(with(|c| c.neighbours = 1).neighbours(1), &[(2, 2.0 / 3.0_f64.sqrt())]);
    // Of 1: 2 came after it twice and 3 once, and it came three times after 0.
    let row = 4.5_f64.sqrt();
    close(with(|c| c.backward = 0.5).neighbours(1), &[(2, 2.0 / row), (0, 1.5 / row), (3, 1.0 / row)]);
    // 2 was an event twice and 3 once.
    let damped = [(2, 2.0 / (3.0_f64.sqrt() * 102.0_f64.sqrt())), (3, 1.0 / (3.0_f64.sqrt() * 101.0_f64.sqrt()))];
    close(with(|c| c.damping = 0.5).neighbours(1), &damped);
    let newest = [(2, 2.0 / 3.0_f64.sqrt()), (3, 1.0 / 3.0_f64.sqrt())];
    close(&found(&with(|c| c.history = 1), request(&[0, 1])), &newest);
    close(&found(&with(|c| c.history_decay = 0.0), request(&[0, 1])), &newest);
}

#[test]
fn equal_scores_go_by_ordinal_also_where_neighbours_are_cut_off() {
    let learned = learn(&[(&[0], 5), (&[0], 3), (&[0], 4)], CovisitationConfig { neighbours: 2, ..bare() });
    assert_eq!(found(&learned, request(&[0])).iter().map(|hit| hit.0).collect::<Vec<_>>(), [3, 4]);
}

#[test]
fn what_no_training_sequence_knows_has_no_hits_and_no_fault() {
    let learned = learn(&THREE, CovisitationConfig::default());
    for history in [&[][..], &[7], &[2], &[99, Ordinal::MAX]] {
        let hits = found(&learned, request(history));
        assert!(hits.is_empty() || history == [2], "{history:?}: {hits:?}");
    }
    assert!(!found(&learned, request(&[2])).is_empty(), "what came before counts a little");
    assert!(!learned.is_empty() && learn(&[(&[], 2)], CovisitationConfig::default()).is_empty());
    let late = learned.retrieve(&[request(&[1]), request(&[])], Deadline::after(std::time::Duration::ZERO));
    assert!(late.iter().all(|answer| answer.as_ref().is_err_and(|fault| fault.kind == FaultKind::Timeout)));
}

#[test]
fn an_item_follows_itself_only_where_people_come_back_to_items() {
    let judged = Judgements::new(vec![(1, 1), (2, 0), (3, 2)]);
    let query = Query::new("q", "").with_history([1]);
    let learn = |query: &Query| Covisitation::learn(&catalog(4), &[(query, &judged)], bare()).unwrap();
    assert_eq!(learn(&query).neighbours(1), [(3, 1.0)], "item 2 was judged not to be relevant");
    let half = 0.5_f64.sqrt();
    close(learn(&query.with_repeats(true)).neighbours(1), &[(1, half), (3, half)]);
}

#[test]
fn the_order_of_training_queries_changes_no_score_and_the_training_queries_change_the_digest() {
    let mut reversed = THREE;
    reversed.reverse();
    let config = CovisitationConfig::default;
    let (one, other) = (learn(&THREE, config()), learn(&reversed, config()));
    assert_eq!(one.neighbours, other.neighbours);
    let digests = [
        one.card().digest.clone(),
        learn(&THREE[..2], config()).card().digest.clone(),
        learn(&THREE, CovisitationConfig { damping: 0.6, ..config() }).card().digest.clone(),
        learn(&THREE, CovisitationConfig { neighbours: 7, ..config() }).card().digest.clone(),
    ];
    assert!((1..4).all(|n| !digests[..n].contains(&digests[n])));
    assert_eq!(one.card().digest, learn(&THREE, config()).card().digest);
    let card = one.card();
    assert!(card.reads_history && !card.reads_text && card.documents == Some(8));
}

#[test]
fn settings_outside_their_range_and_items_that_the_catalogue_lacks_are_refused() {
    let refused = |change: fn(&mut CovisitationConfig), part: &str| {
        let mut config = CovisitationConfig::default();
        change(&mut config);
        let error = Covisitation::learn(&catalog(8), &[], config).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    };
    refused(|c| c.window = 0, "window: found 0");
    refused(|c| c.neighbours = 0, "neighbours: found 0");
    refused(|c| c.history = 0, "history: found 0");
    refused(|c| c.damping = -0.1, "damping: found -0.1");
    refused(|c| c.backward = 1.5, "backward: found 1.5");
    refused(|c| c.window_decay = f64::NAN, "window_decay: found NaN");
    refused(|c| c.history_decay = f64::INFINITY, "history_decay: found inf");
    let unknown = queries(&[(&[0, 8], 1)]);
    let error = Covisitation::learn(&catalog(8), &borrowed(&unknown), CovisitationConfig::default()).unwrap_err();
    assert!(error.to_string().contains("\"q0\" has the item 8, and there are 8"), "{error}");
}

#[test]
fn pairs_that_are_added_up_in_between_come_to_the_same() {
    let mut pairs = Pairs { list: Vec::new(), limit: 3 };
    for (item, other) in [(1, 2), (0, 1), (1, 2), (1, 0), (0, 1), (1, 2), (2, 2)] {
        pairs.add(item, other, 0.5);
    }
    pairs.add(3, 3, 0.0);
    assert_eq!(pairs.merged(), [(0, 1, 1.0), (1, 0, 0.5), (1, 2, 1.5), (2, 2, 0.5)]);
}
