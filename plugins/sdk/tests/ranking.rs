//! `rank` and `top`, compared with sorting all items.

use querywright_plugin::{Hit, Request, rank, top};

fn items(hits: &[Hit]) -> Vec<u32> {
    hits.iter().map(|hit| hit.item).collect()
}

#[test]
fn the_best_items_that_are_not_excluded_come_first_and_equal_scores_by_ordinal() {
    let scored: Vec<(u32, f32)> = (0..500).rev().map(|item| (item, (item * 7919 % 23) as f32 - 5.0)).collect();
    for k in [1, 2, 10, 499, 500, 501, u32::MAX] {
        let request = Request { exclude: vec![9, 1, 400, 1], ..Request::plain("", k) };
        let mut want: Vec<(u32, f32)> =
            scored.iter().copied().filter(|(item, _)| !request.exclude.contains(item)).collect();
        want.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let first = |want: &[(u32, f32)]| want.iter().take(k as usize).map(|w| w.0).collect::<Vec<_>>();
        assert_eq!(items(&top(scored.clone(), &request)), first(&want));
        want.retain(|(_, score)| *score > 0.0);
        assert_eq!(items(&rank(scored.clone(), &request)), first(&want));
    }
}

#[test]
fn scores_that_are_not_finite_are_left_out() {
    let scored = [(0, f32::NAN), (1, f32::INFINITY), (2, f32::NEG_INFINITY), (3, -1.0), (4, 0.0), (5, 2.0)];
    assert_eq!(items(&top(scored, &Request::plain("", 9))), [5, 4, 3]);
    assert_eq!(items(&rank(scored, &Request::plain("", 9))), [5]);
}
