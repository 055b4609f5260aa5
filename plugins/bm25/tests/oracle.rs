//! Rankings, compared with a direct implementation of the formula.

use bm25::Bm25;
use querywright_plugin::testing::run;
use querywright_plugin::{Document, QueryLanguage, Request};

/// The words of a document's two fields. Analysis does not change them: none is a stop word, none has a suffix.
type Texts = [Vec<String>; 2];

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    /// Words with low numbers are common, those with high ones rare.
    fn word(&mut self) -> String {
        let end = 1 + self.below(40);
        format!("w{}", self.below(end))
    }

    fn words(&mut self, most: u64) -> Vec<String> {
        (0..self.below(most + 1)).map(|_| self.word()).collect()
    }
}

fn texts(random: &mut Random) -> Vec<Texts> {
    (0..400).map(|_| [random.words(6), random.words(60)]).collect()
}

/// How often a document holds `phrase`, within one field.
fn frequency(texts: &Texts, phrase: &[String]) -> f64 {
    texts.iter().map(|text| text.windows(phrase.len()).filter(|window| *window == phrase).count()).sum::<usize>() as f64
}

/// The score of each document that holds one of the phrases; a word is a phrase of one.
fn oracle(all: &[Texts], phrases: &[Vec<String>]) -> Vec<(u32, f64)> {
    let length = |texts: &Texts| texts.iter().map(Vec::len).sum::<usize>() as f64;
    let documents = all.iter().filter(|texts| length(texts) > 0.0).count() as f64;
    let average = all.iter().map(length).sum::<f64>() / documents;
    let idf = |word: &String| {
        let holding = all.iter().filter(|texts| texts.iter().flatten().any(|w| w == word)).count() as f64;
        (1.0 + (documents - holding + 0.5) / (holding + 0.5)).ln()
    };
    let weights: Vec<f64> = phrases.iter().map(|phrase| phrase.iter().map(idf).sum()).collect();
    let score = |texts: &Texts| -> f64 {
        let norm = 1.2 * (1.0 - 0.75 + 0.75 * length(texts) / average);
        let saturated = |phrase: &Vec<String>| {
            let frequency = frequency(texts, phrase);
            frequency / (frequency + norm)
        };
        phrases.iter().zip(&weights).map(|(phrase, weight)| weight * saturated(phrase)).sum()
    };
    (0..).zip(all.iter().map(score)).filter(|(_, score)| *score > 0.0).collect()
}

#[test]
fn words_and_phrases_rank_as_the_formula_says() {
    let mut random = Random(3);
    let all = texts(&mut random);
    let documents: Vec<Document> = (0..)
        .zip(&all)
        .map(|(item, [title, text])| Document::new(item, "", &[("title", &title.join(" ")), ("text", &text.join(" "))]))
        .collect();
    let mut requests = Vec::new();
    let mut wanted = Vec::new();
    for nth in 0..300 {
        let phrases: Vec<Vec<String>> = (0..1 + random.below(4))
            .map(|_| (0..if nth % 2 == 0 { 1 } else { 1 + random.below(3) }).map(|_| random.word()).collect())
            .collect();
        let (text, language) = if nth % 2 == 0 {
            (phrases.concat().join(" "), QueryLanguage::Plain)
        } else {
            let quoted: Vec<String> = phrases.iter().map(|phrase| format!("\"{}\"", phrase.join(" "))).collect();
            (quoted.join(" OR "), QueryLanguage::Boolean)
        };
        let exclude = (0..random.below(30)).map(|_| random.below(420) as u32).collect();
        requests.push(Request { language, exclude, ..Request::plain(&text, 1 + random.below(50) as u32) });
        wanted.push(phrases);
    }
    let answers = run::<Bm25>(documents, &requests);
    let mut compared = 0;
    for ((request, phrases), answer) in requests.iter().zip(&wanted).zip(answers) {
        let mut want = oracle(&all, phrases);
        want.retain(|(item, _)| !request.exclude.contains(item));
        let own = |item: u32| want.iter().find(|w| w.0 == item).map_or(f64::NAN, |w| w.1);
        let mut best: Vec<f64> = want.iter().map(|w| w.1).collect();
        best.sort_by(|a, b| b.total_cmp(a));
        let hits = answer.unwrap();
        assert_eq!(hits.len(), best.len().min(request.k as usize), "{request:?}");
        for (hit, best) in hits.iter().zip(best) {
            // Sums in another order may be rounded differently, so items of nearly equal scores may change places.
            assert!((f64::from(hit.score) - own(hit.item)).abs() < 1e-5, "{request:?} {hit:?} {}", own(hit.item));
            assert!((f64::from(hit.score) - best).abs() < 1e-5, "{request:?} {hit:?} {best}");
            compared += 1;
        }
    }
    assert!(compared > 2_000, "{compared} hits compared");
}
