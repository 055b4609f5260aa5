//! Rankings, compared with a direct implementation of the formulas in double precision. The encoder hashes words.

use std::collections::HashMap;

use querywright_plugin::testing::run;
use querywright_plugin::{Document, Fault, Hit, Recommender, Request};

use crate::{Encode, Host, Hybrid};

/// More than 8 and not a multiple of it, so that both loops of the inner product run.
const DIMENSIONS: usize = 21;

/// Sums a pseudo-random vector for each word, then scales the sum to length 1. A query is told from a document by a word
/// before it.
#[derive(Default)]
struct Words;

fn vector(text: &str) -> Vec<f32> {
    let mut sums = [0f64; DIMENSIONS];
    for word in text.split_whitespace() {
        let mut hash = word.bytes().fold(17u64, |h, b| h.wrapping_mul(6_364_136_223_846_793_005) ^ u64::from(b));
        for sum in &mut sums {
            hash = hash.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *sum += (hash >> 40) as f64 / f64::from(1u32 << 23) - 1.0;
        }
    }
    let length = sums.iter().map(|x| x * x).sum::<f64>().sqrt().max(1e-9);
    sums.iter().map(|x| (x / length) as f32).collect()
}

fn query_vector(text: &str) -> Vec<f32> {
    vector(&format!("query {text}"))
}

impl Encode for Words {
    fn documents(&mut self, texts: &[String]) -> Result<Vec<Vec<f32>>, Fault> {
        Ok(texts.iter().map(|text| vector(text)).collect())
    }

    fn queries(&mut self, texts: &[String]) -> Result<Vec<Vec<f32>>, Fault> {
        Ok(texts.iter().map(|text| query_vector(text)).collect())
    }
}

fn texts() -> Vec<String> {
    let text = |n: usize| format!("w{} w{} w{}{}", n % 7, n % 31, n * n % 53, " w1 again".repeat(n % 3));
    (0..300).map(text).collect()
}

fn catalog() -> Vec<Document> {
    let texts = texts();
    (0..).zip(&texts).map(|(item, text)| Document::new(item, "", &[("text", text)])).collect()
}

/// BM25 of each document that holds a word of the query.
fn lexical(query: &str) -> Vec<(u32, f64)> {
    let all: Vec<Vec<String>> = texts().iter().map(|text| text.split(' ').map(str::to_owned).collect()).collect();
    let average = all.iter().map(Vec::len).sum::<usize>() as f64 / all.len() as f64;
    let score = |words: &Vec<String>| -> f64 {
        let norm = 1.2 * (1.0 - 0.75 + 0.75 * words.len() as f64 / average);
        let one = |word: &str| {
            let holding = all.iter().filter(|words| words.iter().any(|w| w == word)).count() as f64;
            let idf = (1.0 + (all.len() as f64 - holding + 0.5) / (holding + 0.5)).ln();
            let frequency = words.iter().filter(|w| *w == word).count() as f64;
            idf * frequency / (frequency + norm)
        };
        query.split_whitespace().map(one).sum()
    };
    (0..).zip(all.iter().map(score)).filter(|(_, score)| *score > 0.0).collect()
}

/// The inner product with each document.
fn dense(query: &str) -> Vec<(u32, f64)> {
    let query = query_vector(query);
    let score = |text: &String| vector(text).iter().zip(&query).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
    (0..).zip(texts().iter().map(score)).collect()
}

/// The score of each document after fusion, from the two rankings of the request.
fn oracle(request: &Request) -> HashMap<u32, f64> {
    let mut sums = HashMap::new();
    for mut ranking in [lexical(&request.text), dense(&request.text)] {
        ranking.retain(|(item, _)| !request.exclude.contains(item));
        // Single precision, in which scores are compared: what is equal there goes by item.
        ranking.sort_by(|a, b| (b.1 as f32).total_cmp(&(a.1 as f32)).then(a.0.cmp(&b.0)));
        ranking.truncate(request.k.max(100) as usize);
        for (rank, (item, _)) in (1..).zip(ranking) {
            *sums.entry(item).or_insert(0.0) += 1.0 / (60.0 + f64::from(rank));
        }
    }
    sums
}

#[test]
fn words_and_vectors_are_fused_as_the_formula_says() {
    let ask = |text: &str, k, exclude: &[u32]| Request { exclude: exclude.to_vec(), ..Request::plain(text, k) };
    let requests = [
        ask("w1 w2", 10, &[]),
        ask("w6", 400, &[0, 5, 299]),
        ask("w0 w0 w9", 1, &[0]),
        ask("nowhere at all", 20, &[]),
        ask("again w52 again", 150, &[]),
        ask(" ", 5, &[]),
    ];
    let answers = run::<Hybrid<Words>>(catalog(), &requests);
    for (request, answer) in requests.iter().zip(answers) {
        let hits = answer.unwrap();
        if request.text.trim().is_empty() {
            assert!(hits.is_empty());
            continue;
        }
        let scores = oracle(request);
        let mut best: Vec<f64> = scores.values().copied().collect();
        best.sort_by(|a, b| b.total_cmp(a));
        assert_eq!(hits.len(), best.len().min(request.k as usize), "{}", request.text);
        for (hit, best) in hits.iter().zip(best) {
            let score = f64::from(hit.score);
            // Inner products that differ by the order of a sum may change places: a rank more or less.
            assert!((score - best).abs() < 3e-4 && (score - scores[&hit.item]).abs() < 3e-4, "{request:?}: {hit:?}");
        }
    }
}

#[test]
fn what_both_rankings_have_stands_above_what_one_has() {
    let documents = ["steel kettle", "wool blanket", "kettle of copper", "lantern"];
    let documents = (0..).zip(documents).map(|(item, text)| Document::new(item, "", &[("title", text)]));
    let answer = run::<Hybrid<Words>>(documents.collect(), &[Request::plain("kettle", 10)]).remove(0).unwrap();
    assert_eq!(answer.len(), 4, "a vector has a place for every document");
    let mut first = [answer[0].item, answer[1].item];
    first.sort_unstable();
    assert_eq!(first, [0, 2]);
    assert!(answer[0].score > 1.0 / 61.0 && answer[3].score < 1.0 / 61.0, "{answer:?}");
}

#[test]
fn a_batch_has_the_same_answers_as_its_requests_alone() {
    let requests = ["w1", "w2 w3", "", "w1"].map(|text| Request::plain(text, 7));
    let scores = |answers: &[Result<Vec<Hit>, Fault>]| -> Vec<Vec<(u32, f32)>> {
        answers.iter().map(|a| a.as_ref().unwrap().iter().map(|h| (h.item, h.score)).collect()).collect()
    };
    let together = scores(&run::<Hybrid<Words>>(catalog(), &requests));
    let alone: Vec<_> =
        requests.iter().flat_map(|r| scores(&run::<Hybrid<Words>>(catalog(), std::slice::from_ref(r)))).collect();
    assert_eq!(together, alone);
}

/// Fails for one text.
#[derive(Default)]
struct Choosy;

impl Encode for Choosy {
    fn documents(&mut self, texts: &[String]) -> Result<Vec<Vec<f32>>, Fault> {
        Words.documents(texts)
    }

    fn queries(&mut self, texts: &[String]) -> Result<Vec<Vec<f32>>, Fault> {
        match texts.iter().any(|text| text == "bad") {
            true => Err(Fault::Internal("bad".into())),
            false => Words.queries(texts),
        }
    }
}

#[test]
fn a_query_that_cannot_be_encoded_costs_no_other_its_answer() {
    let requests = ["w1", "bad", "w2"].map(|text| Request::plain(text, 3));
    let answers = run::<Hybrid<Choosy>>(catalog(), &requests);
    assert_eq!(answers.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
}

/// Returns longer vectors each time.
#[derive(Default)]
struct Careless(usize);

impl Encode for Careless {
    fn documents(&mut self, texts: &[String]) -> Result<Vec<Vec<f32>>, Fault> {
        self.0 += 1;
        Ok(vec![vec![0.0; self.0]; texts.len()])
    }

    fn queries(&mut self, texts: &[String]) -> Result<Vec<Vec<f32>>, Fault> {
        self.documents(texts)
    }
}

#[test]
fn a_denied_encoder_or_one_with_vectors_of_different_lengths_is_a_fault() {
    let denied = Hybrid::<Host>::default().load(catalog());
    assert!(matches!(denied, Err(Fault::Denied(what)) if what == "embed"));
    let careless = Hybrid::<Careless>::default().load(catalog());
    assert!(matches!(careless, Err(Fault::Unreadable(_))));
}
