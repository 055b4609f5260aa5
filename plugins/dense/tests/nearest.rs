//! Rankings, compared with inner products in double precision. The encoder hashes words.

use dense::{Dense, Encode, Host};
use querywright_plugin::testing::run;
use querywright_plugin::{Document, Fault, Recommender, Request};

/// More than 8 and not a multiple of it, so that both loops of the inner product run.
const DIMENSIONS: usize = 21;

/// Sums a pseudo-random vector for each word, then scales the sum to length 1.
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

impl Encode for Words {
    fn encode(&mut self, texts: &[String]) -> Result<Vec<Vec<f32>>, Fault> {
        Ok(texts.iter().map(|text| vector(text)).collect())
    }
}

fn texts() -> Vec<String> {
    (0..300).map(|n| format!("w{} w{} w{}", n % 7, n % 31, n * n % 53)).collect()
}

fn catalog() -> Vec<Document> {
    let texts = texts();
    (0..).zip(&texts).map(|(item, text)| Document::new(item, "", &[("text", text)])).collect()
}

#[test]
fn the_nearest_documents_are_found() {
    let ask = |text: &str, k, exclude: &[u32]| Request { exclude: exclude.to_vec(), ..Request::plain(text, k) };
    let requests = [ask("w1 w2", 10, &[]), ask("w6", 400, &[0, 5, 299]), ask("w0 w0 w9", 1, &[0]), ask(" ", 5, &[])];
    let answers = run::<Dense<Words>>(catalog(), &requests);
    for (request, answer) in requests.iter().zip(answers) {
        let hits = answer.unwrap();
        if request.text.trim().is_empty() {
            assert!(hits.is_empty());
            continue;
        }
        let query = vector(&request.text);
        let score = |text: &String| -> f64 {
            vector(text).iter().zip(&query).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
        };
        let scores: Vec<f64> = texts().iter().map(score).collect();
        let mut best: Vec<f64> =
            (0..).zip(&scores).filter(|(item, _)| !request.exclude.contains(item)).map(|(_, s)| *s).collect();
        best.sort_by(|a, b| b.total_cmp(a));
        assert_eq!(hits.len(), best.len().min(request.k as usize), "hits with negative scores count as well");
        for (hit, best) in hits.iter().zip(best) {
            assert!((f64::from(hit.score) - best).abs() < 1e-6 && (scores[hit.item as usize] - best).abs() < 1e-6);
        }
    }
}

#[test]
fn a_batch_has_the_same_answers_as_its_requests_alone() {
    let requests = ["w1", "w2 w3", "", "w1"].map(|text| Request::plain(text, 7));
    let scores = |answers: &[Result<Vec<querywright_plugin::Hit>, Fault>]| -> Vec<Vec<(u32, f32)>> {
        answers.iter().map(|a| a.as_ref().unwrap().iter().map(|h| (h.item, h.score)).collect()).collect()
    };
    let together = scores(&run::<Dense<Words>>(catalog(), &requests));
    let alone: Vec<_> =
        requests.iter().flat_map(|r| scores(&run::<Dense<Words>>(catalog(), std::slice::from_ref(r)))).collect();
    assert_eq!(together, alone);
}

/// Returns longer vectors each time.
#[derive(Default)]
struct Careless(usize);

impl Encode for Careless {
    fn encode(&mut self, texts: &[String]) -> Result<Vec<Vec<f32>>, Fault> {
        self.0 += 1;
        Ok(vec![vec![0.0; self.0]; texts.len()])
    }
}

#[test]
fn a_denied_encoder_or_one_with_vectors_of_different_lengths_is_a_fault() {
    let denied = Dense::<Host>::default().load(catalog());
    assert!(matches!(denied, Err(Fault::Denied(what)) if what == "embed"));
    let careless = Dense::<Careless>::default().load(catalog());
    assert!(matches!(careless, Err(Fault::Unreadable(_))));
}
