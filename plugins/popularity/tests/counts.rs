//! The counts, compared with counting by hand.

use popularity::{Popularity, days};
use querywright_plugin::testing::run;
use querywright_plugin::{Document, Fault, Recommender, Request};

const DAY: i64 = 86_400;

fn catalog(field: &str, values: &[&str]) -> Vec<Document> {
    let document = |(item, value): (usize, &&str)| Document::new(item as u32, &format!("d{item}"), &[(field, value)]);
    values.iter().enumerate().map(document).collect()
}

fn items(plugin: &mut Popularity, request: &Request) -> Vec<(u32, f32)> {
    plugin.recommend(request).unwrap().iter().map(|hit| (hit.item, hit.score)).collect()
}

#[test]
fn without_a_window_all_interactions_count_and_equal_counts_are_ordered_by_ordinal() {
    let documents = catalog("interactions", &["1 2", "ann@5", "3 bob@4 9", "", "7"]);
    let request = Request { exclude: vec![0], ..Request::plain("whatever", 3) };
    let answers = run::<Popularity>(documents, &[request]);
    let found: Vec<_> = answers[0].as_ref().unwrap().iter().map(|hit| (hit.item, hit.score)).collect();
    assert_eq!(found, [(2, 3.0), (1, 1.0), (4, 1.0)]);
}

#[test]
fn a_window_ends_with_the_latest_interaction_and_agrees_with_counting_by_hand() {
    // A small generator with a fixed seed, so that the test needs no crate for it.
    let mut seed = 7u64;
    let mut random = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let times: Vec<Vec<i64>> =
        (0..200).map(|_| (0..random(20)).map(|_| random(100 * DAY as u64) as i64 - 50 * DAY).collect()).collect();
    let values: Vec<String> =
        times.iter().map(|t| t.iter().map(i64::to_string).collect::<Vec<_>>().join(" ")).collect();
    let latest = *times.iter().flatten().max().unwrap();
    for window in [0.01, 1.0, 10.0, 1000.0] {
        let mut plugin = Popularity::default();
        plugin.load(catalog("interactions", &values.iter().map(String::as_str).collect::<Vec<_>>())).unwrap();
        plugin.count(Some(window));
        let count = |t: &Vec<i64>| t.iter().filter(|t| (latest - **t) as f64 <= window * DAY as f64).count() as f32;
        let mut want: Vec<(u32, f32)> = (0..).zip(times.iter().map(count)).filter(|(_, count)| *count > 0.0).collect();
        want.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        assert_eq!(items(&mut plugin, &Request::plain("", 1000)), want, "{window} days");
    }
}

#[test]
fn counts_that_were_made_before_are_read_if_there_are_no_interactions() {
    let answers = run::<Popularity>(catalog("popularity", &["2.5", "", "10", "0"]), &[Request::plain("", 9)]);
    let found: Vec<u32> = answers[0].as_ref().unwrap().iter().map(|hit| hit.item).collect();
    assert_eq!(found, [2, 0]);
}

#[test]
fn a_bad_time_or_number_is_refused_with_the_id_of_its_document() {
    for (field, value) in [("interactions", "1 yesterday"), ("popularity", "NaN"), ("popularity", "-1")] {
        let loaded = Popularity::default().load(catalog(field, &["", value]));
        assert!(matches!(&loaded, Err(Fault::Invalid(why)) if why.contains("d1") && why.contains(field)), "{loaded:?}");
    }
    assert_eq!(days(b" 30\n").ok(), Some(30.0));
    for wrong in [&b""[..], b"0", b"-3", b"inf", b"\xff"] {
        assert!(days(wrong).is_err());
    }
}
