//! Ranks documents by the words that they share with the query. Rare words count more.

use std::collections::{HashMap, HashSet};

use querywright_plugin::{Card, Document, Fault, Hit, QueryLanguage, Recommender, Request, card, rank};

/// The documents that hold each word.
#[derive(Default)]
pub struct Words {
    documents: usize,
    holders: HashMap<String, Vec<u32>>,
}

fn words(text: &str) -> HashSet<String> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_lowercase).collect()
}

impl Recommender for Words {
    fn card() -> Card {
        card("my-plugin", env!("CARGO_PKG_VERSION"), QueryLanguage::Plain)
    }

    fn load(&mut self, documents: Vec<Document>) -> Result<(), Fault> {
        for document in documents {
            self.documents += 1;
            for word in words(&document.text()) {
                self.holders.entry(word).or_default().push(document.item);
            }
        }
        Ok(())
    }

    fn recommend(&mut self, request: &Request) -> Result<Vec<Hit>, Fault> {
        // Sorted, so that scores are always summed in the same order.
        let mut words: Vec<String> = words(&request.text).into_iter().collect();
        words.sort_unstable();
        let mut scores: HashMap<u32, f32> = HashMap::new();
        for word in words {
            let holders = self.holders.get(&word).map(Vec::as_slice).unwrap_or_default();
            let rarity = (1.0 + self.documents as f32 / (1.0 + holders.len() as f32)).ln();
            holders.iter().for_each(|item| *scores.entry(*item).or_default() += rarity);
        }
        Ok(rank(scores, request))
    }
}

querywright_plugin::register!(Words);

#[cfg(test)]
mod tests {
    use querywright_plugin::testing::run;

    use super::*;

    #[test]
    fn rare_words_count_more() {
        let texts = ["a red kettle", "a blue kettle", "a green kettle with a lid"];
        let documents = texts.iter().enumerate().map(|(i, text)| Document::new(i as u32, "", &[("text", text)]));
        let answers = run::<Words>(documents.collect(), &[Request::plain("kettle lid", 2)]);
        let hits = answers[0].as_ref().unwrap();
        assert_eq!((hits.len(), hits[0].item), (2, 2));
    }
}
