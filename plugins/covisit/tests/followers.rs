//! Scores, compared with a direct implementation of the formula.

use std::collections::HashMap;

use covisit::{Covisit, FADING, HALF_LIFE_DAYS, NEIGHBOURS, REACH};
use querywright_plugin::testing::run;
use querywright_plugin::{Document, Fault, Recommender, Request};

const DAY: i64 = 86_400;

fn catalog(interactions: &[String]) -> Vec<Document> {
    let document =
        |(item, value): (usize, &String)| Document::new(item as u32, &format!("d{item}"), &[("interactions", value)]);
    interactions.iter().enumerate().map(document).collect()
}

/// Scores by the formula, pair by pair.
fn oracle(sessions: &[Vec<(u32, i64)>], history: &[u32]) -> HashMap<u32, f64> {
    let latest = sessions.iter().flatten().map(|i| i.1).max().unwrap_or(0);
    let mut weights: HashMap<u32, HashMap<u32, f64>> = HashMap::new();
    for session in sessions {
        for a in 0..session.len() {
            for b in a + 1..session.len().min(a + 1 + REACH) {
                if session[a].0 != session[b].0 {
                    let age = (latest - session[b].1) as f64 / DAY as f64;
                    *weights.entry(session[a].0).or_default().entry(session[b].0).or_default() +=
                        0.5f64.powf(age / HALF_LIFE_DAYS) / (b - a) as f64;
                }
            }
        }
    }
    let mut scores = HashMap::new();
    for (n, item) in history.iter().rev().take(REACH).enumerate() {
        let Some(row) = weights.get(item) else { continue };
        assert!(row.len() <= NEIGHBOURS, "the oracle cuts nothing off");
        for (follower, weight) in row {
            *scores.entry(*follower).or_default() += FADING.powi(n as i32) * weight / row.values().sum::<f64>();
        }
    }
    scores
}

#[test]
fn scores_are_those_of_the_formula() {
    let mut seed = 11u64;
    let mut random = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let items = 60;
    let mut sessions = Vec::new();
    let mut fields = vec![String::new(); items];
    for session in 0..120 {
        let (mut time, mut visits) = (random(90 * DAY as u64) as i64, Vec::new());
        for _ in 0..random(16) {
            time += 1 + random(600) as i64;
            let item = random(items as u64) as u32;
            visits.push((item, time));
            fields[item as usize] += &format!(" s{session}@{time}");
        }
        sessions.push(visits);
    }
    let requests: Vec<Request> = (0..200)
        .map(|_| {
            let history: Vec<u32> = (0..random(14)).map(|_| random(items as u64 + 3) as u32).collect();
            let exclude = history.iter().copied().step_by(2).collect();
            Request { history, exclude, ..Request::plain("", 1 + random(20) as u32) }
        })
        .collect();
    for (request, answer) in requests.iter().zip(run::<Covisit>(catalog(&fields), &requests)) {
        let mut want = oracle(&sessions, &request.history);
        want.retain(|item, _| !request.exclude.contains(item));
        let hits = answer.unwrap();
        assert_eq!(hits.len(), want.len().min(request.k as usize));
        let mut best: Vec<f64> = want.values().copied().collect();
        best.sort_by(|a, b| b.total_cmp(a));
        for (hit, best) in hits.iter().zip(best) {
            // Equal up to rounding; near-equal items may change places.
            assert!((f64::from(hit.score) - want[&hit.item]).abs() < 1e-6, "{hit:?}");
            assert!((f64::from(hit.score) - best).abs() < 1e-6, "{hit:?} {best}");
        }
    }
}

#[test]
fn a_file_of_sessions_gives_the_same_scores_as_the_field() {
    let ask = Request { history: vec![0], ..Request::plain("", 5) };
    let mut from_field = Covisit::default();
    from_field.load(catalog(&["a@1 b@100".into(), "a@2".into(), "b@200 77".into()])).unwrap();
    from_field.count();
    let mut from_file = Covisit::default();
    from_file.load(catalog(&["".into(), "".into(), "".into()])).unwrap();
    from_file.read(b"b\td2\t200\r\na\td0\t1\na\td1\t2\nb\td0\t100\nb\tgone\t150\n\n").unwrap();
    from_file.count();
    let found: Vec<_> = from_field.recommend(&ask).unwrap().iter().map(|h| (h.item, h.score)).collect();
    assert_eq!(found, from_file.recommend(&ask).unwrap().iter().map(|h| (h.item, h.score)).collect::<Vec<_>>());
    assert_eq!(found.iter().map(|f| f.0).collect::<Vec<_>>(), [2, 1], "the more recent of two followers comes first");
}

#[test]
fn a_line_that_cannot_be_read_is_named_and_an_empty_history_has_no_hits() {
    let result = Covisit::default().load(catalog(&["ann@soon".into()]));
    assert!(matches!(result, Err(Fault::Invalid(why)) if why.contains("d0") && why.contains("ann@soon")));
    for (bytes, line) in [(&b"a\td0\t1\na\td0"[..], "line 2"), (b"a\td0\tx", "line 1"), (b"\xff", "line 1")] {
        let result = Covisit::default().read(bytes);
        assert!(matches!(&result, Err(Fault::Unreadable(why)) if why.contains(line)), "{result:?}");
    }
    let answers = run::<Covisit>(catalog(&["a@1".into(), "a@2".into()]), &[Request::plain("words", 3)]);
    assert_eq!(answers[0].as_ref().unwrap().len(), 0);
}
