//! Repair of groups that found nothing: one completion from relevance feedback.
//!
//! A small policy on a hard query draws completions that all miss, and the group teaches nothing. But the labels say
//! which documents are right, and retrieval is cheap: words that the relevant documents share and the rest of the
//! catalogue does not (true relevance feedback: r/R times the inverse document frequency) are tried on the retriever,
//! and so are words of the query that those documents hold side by side, as a phrase where the retriever reads phrases.
//! The best short list stands in for one completion of the group, where it earns more than all of them. It
//! is scored like any other; the policy still decides by its own gradient what it can make of it. (Mixed-policy groups:
//! LUFFY, arXiv 2504.14945, which takes them from a bigger model; here the retriever's own documents are the source.)

use std::collections::{HashMap, HashSet};

use crate::catalog::Catalog;
use crate::rewrite::Mode;
use crate::types::{Judgements, Ordinal, Query, QueryLanguage};

/// How many documents each word of a catalogue stands in.
#[derive(Debug, Default)]
pub struct Guidance {
    frequencies: HashMap<String, u32>,
    documents: f64,
}

/// Relevant documents that are read at most, the best grades first.
const MOST_DOCUMENTS: usize = 32;

impl Guidance {
    /// Counts the words of a catalogue.
    pub fn new(catalog: &Catalog) -> Self {
        let mut frequencies: HashMap<String, u32> = HashMap::new();
        for document in catalog.documents() {
            for word in words(&document.text_of_all_fields()).into_iter().collect::<HashSet<_>>() {
                *frequencies.entry(word).or_default() += 1;
            }
        }
        Self { frequencies, documents: catalog.len() as f64 }
    }

    /// Lists of words to try: in a Boolean language what of the query stands side by side in half of the relevant
    /// documents, as phrases; those words of the query that half of them hold (in the mode `expand`, where the query stays,
    /// they count once more); up to `fresh` words that relevant documents share and the query
    /// lacks, in the order in which one of them has them; in the mode `rewrite` the former with the latter behind them.
    /// Empty when nothing is relevant.
    pub fn proposals(
        &self,
        catalog: &Catalog,
        query: &Query,
        judgements: &Judgements,
        (mode, language): (Mode, QueryLanguage),
        fresh: usize,
    ) -> Vec<String> {
        let mut relevant: Vec<(Ordinal, i32)> = judgements.iter().filter(|j| j.1 > 0).collect();
        relevant.sort_by_key(|(doc, grade)| (std::cmp::Reverse(*grade), *doc));
        let best = relevant.first().map_or(0, |r| r.1);
        relevant.retain(|r| r.1 == best);
        relevant.truncate(MOST_DOCUMENTS);
        let own = words(&query.text);
        let mut shares: HashMap<String, f64> = HashMap::new();
        let texts: Vec<Vec<String>> =
            relevant.iter().map(|(doc, _)| words(&catalog.document(*doc).text_of_all_fields())).collect();
        for text in &texts {
            for word in text.iter().collect::<HashSet<_>>() {
                if !own.contains(word) && word.chars().any(char::is_alphabetic) && word.chars().count() > 2 {
                    *shares.entry(word.clone()).or_default() += 1.0 / texts.len() as f64;
                }
            }
        }
        let weight = |word: &str, share: f64| {
            let frequency = f64::from(self.frequencies.get(word).copied().unwrap_or(0));
            share * ((self.documents + 1.0) / (frequency + 0.5)).ln()
        };
        let mut ranked: Vec<(f64, String)> =
            shares.into_iter().map(|(word, share)| (weight(&word, share), word)).collect();
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        ranked.truncate(fresh);
        let place =
            |word: &String| texts.first().and_then(|text| text.iter().position(|w| w == word)).unwrap_or(usize::MAX);
        let holding = |word: &String| texts.iter().filter(|text| text.contains(word)).count() * 2 >= texts.len();
        let held: Vec<&String> = own.iter().filter(|w| !texts.is_empty() && holding(w)).collect();
        let alone = (!held.is_empty()).then(|| held.iter().map(|w| w.as_str()).collect::<Vec<_>>().join(" "));
        let phrased = (language == QueryLanguage::Boolean).then(|| phrases(&own, &texts)).flatten();
        let kept = if mode == Mode::Rewrite { held } else { Vec::new() };
        let longer = (1..=ranked.len()).map(|count| {
            let mut list: Vec<&String> = ranked.iter().take(count).map(|r| &r.1).collect();
            list.sort_by_key(|word| place(word));
            kept.iter().copied().chain(list).map(String::as_str).collect::<Vec<_>>().join(" ")
        });
        phrased.into_iter().chain(alone).chain(longer).collect()
    }
}

/// The longest runs of the query's words that at least half of the texts hold side by side, each as a phrase.
fn phrases(own: &[String], texts: &[Vec<String>]) -> Option<String> {
    let together = |run: &[String]| {
        let holding = texts.iter().filter(|text| text.windows(run.len()).any(|window| window == run)).count();
        holding > 0 && holding * 2 >= texts.len()
    };
    let mut found = Vec::new();
    let mut rest = own;
    while rest.len() > 1 {
        // What stands together in a text does so without its last word, too.
        let runs = (2..=rest.len()).filter_map(|length| rest.get(..length));
        let longest = runs.take_while(|run| together(run)).last();
        found.extend(longest.map(|run| format!("\"{}\"", run.join(" "))));
        rest = rest.get(longest.map_or(1, <[String]>::len)..).unwrap_or_default();
    }
    (!found.is_empty()).then(|| found.join(" "))
}

/// Lower-case runs of letters and digits.
fn words(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).map(str::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::CatalogBuilder;

    #[test]
    fn the_words_that_relevant_documents_share_are_proposed_strongest_first() {
        let mut builder = CatalogBuilder::new();
        for (id, text) in
            [("a", "quiet anti fatigue mat"), ("b", "anti fatigue mat red"), ("c", "red mat"), ("d", "red lamp quiet")]
        {
            builder.push(id, [("title", text)]).unwrap();
        }
        let catalog = builder.finish();
        let guidance = Guidance::new(&catalog);
        let query = Query::text("my feet hurt on the mat");
        let judgements = Judgements::new(vec![(0, 1), (1, 1), (3, 0)]);
        let (expand, rewrite) = ((Mode::Expand, QueryLanguage::Plain), (Mode::Rewrite, QueryLanguage::Plain));
        let proposals = guidance.proposals(&catalog, &query, &judgements, expand, 4);
        assert_eq!(proposals[..3], ["mat", "anti", "anti fatigue"]);
        let proposals = guidance.proposals(&catalog, &query, &judgements, rewrite, 4);
        assert_eq!(proposals[..2], ["mat", "mat anti"], "what the relevant documents lack of the query goes");
        assert_eq!(guidance.proposals(&catalog, &query, &judgements, rewrite, 0), ["mat"]);
        for way in [expand, rewrite] {
            assert!(guidance.proposals(&catalog, &query, &Judgements::default(), way, 4).is_empty());
        }
        let query = Query::text("Fatigue-mat, quiet anti mat");
        let boolean = (Mode::Expand, QueryLanguage::Boolean);
        let proposals = guidance.proposals(&catalog, &query, &judgements, boolean, 0);
        assert_eq!(proposals[..1], ["\"fatigue mat\" \"quiet anti\""], "what stands side by side in half of them");
        assert_eq!(
            guidance.proposals(&catalog, &query, &judgements, expand, 0).len(),
            1,
            "no quotes for a bag of words"
        );
        assert_eq!(guidance.proposals(&catalog, &Query::text("mat quiet"), &judgements, boolean, 0), ["mat quiet"]);
    }
}
