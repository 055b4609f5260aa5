//! The plugin, run natively. `tests/recommenders.rs` of the engine compares it with the native retriever.

use bm25::Bm25;
use querywright_plugin::testing::run;
use querywright_plugin::{Document, QueryLanguage, Request};

fn documents() -> Vec<Document> {
    let texts = [
        ("Tea kettle", "a steel kettle for tea"),
        ("Coffee pot", "keeps coffee warm, not tea"),
        ("Garden chair", "folds up"),
        ("Kettle of fish", "a story"),
    ];
    let document = |(item, (title, text)): (usize, &(&str, &str))| {
        Document::new(item as u32, &item.to_string(), &[("title", title), ("text", text)])
    };
    texts.iter().enumerate().map(document).collect()
}

fn items(text: &str, language: QueryLanguage) -> Vec<u32> {
    let request = Request { language, ..Request::plain(text, 10) };
    let answers = run::<Bm25>(documents(), &[request]);
    answers[0].as_ref().unwrap().iter().map(|hit| hit.item).collect()
}

#[test]
fn the_formula_is_that_of_lucene() {
    let answers = run::<Bm25>(documents(), &[Request::plain("chairs", 10)]);
    let hits = answers[0].as_ref().unwrap();
    // "chair" once in one of four documents; "garden chair" + "folds up" are 4 words (up is none of the stop words).
    let lengths = [2.0 + 3.0, 2.0 + 4.0, 2.0 + 2.0, 2.0 + 1.0];
    let average = lengths.iter().sum::<f64>() / 4.0;
    let idf = (1.0 + (4.0 - 1.0 + 0.5) / (1.0 + 0.5_f64)).ln();
    let want = idf / (1.0 + 1.2 * (0.25 + 0.75 * 4.0 / average));
    assert_eq!(hits.len(), 1);
    assert!((f64::from(hits[0].score) - want).abs() < 1e-6, "{} {want}", hits[0].score);
}

#[test]
fn the_boolean_language_is_read() {
    let boolean = QueryLanguage::Boolean;
    assert_eq!(items("kettle AND tea", boolean), [0]);
    assert_eq!(items("tea -kettle", boolean), [1]);
    assert_eq!(items("\"kettle of fish\"", boolean), [3]);
    assert_eq!(items("title:(tea pot)", boolean).len(), 2);
    assert_eq!(items("text:story^2", boolean), [3]);
    assert_eq!(items("\"tea steel\"", boolean), [] as [u32; 0], "no phrase across two fields");
    assert_eq!(items("\"steel kettle tea\"", boolean), [] as [u32; 0], "the stop word between them counts");
    assert_eq!(items("tea AND", QueryLanguage::Plain).len(), 2);
}
