//! Proposals from relevance feedback, for groups that found nothing.
//!
//! On a hard query all completions of a small policy may miss, and the group has no learning signal. But the judgements
//! say which documents are relevant, and retrieval is cheap. Two kinds of rewrite are proposed: words that the relevant
//! documents share and the rest of the catalogue does not (true relevance feedback: r/R times the inverse document
//! frequency), and words of the query that those documents hold side by side, as a phrase where the retriever reads
//! phrases. [`inject`](super::inject) scores the proposals like any completion; the policy's own gradient decides what
//! it makes of the one that is injected. (Mixed-policy groups: LUFFY, arXiv 2504.14945, takes them from a bigger model;
//! here the retriever's own documents are the source.)

use std::collections::{HashMap, HashSet};

use querywright_data::catalog::Catalog;
use querywright_rewrite::Mode;
use querywright_types::{Judgements, Ordinal, Query, QueryLanguage};

/// How many documents each word of a catalogue stands in.
#[derive(Debug, Default)]
pub(crate) struct RelevanceFeedback {
    frequencies: HashMap<String, u32>,
    documents: f64,
}

/// Relevant documents that are read at most, those of the best grade alone.
const MOST_DOCUMENTS: usize = 32;

impl RelevanceFeedback {
    /// Counts the words of a catalogue.
    pub(crate) fn new(catalog: &Catalog) -> Self {
        let mut frequencies: HashMap<String, u32> = HashMap::new();
        for document in catalog.documents() {
            for word in words(&document.text_of_all_fields()).into_iter().collect::<HashSet<_>>() {
                *frequencies.entry(word).or_default() += 1;
            }
        }
        Self { frequencies, documents: catalog.len() as f64 }
    }

    /// Rewrites to try, in this order:
    ///
    /// 1. in a Boolean language, the words of the query that stand side by side in half of the relevant documents, as
    ///    phrases;
    /// 2. the words of the query that half of the relevant documents hold (in the mode `expand`, where the query stays,
    ///    they count once more);
    /// 3. the best 1, 2, … up to `fresh` words that relevant documents share and the query lacks, in the order in which
    ///    one of the documents has them; in the mode `rewrite` behind the words of 2.
    ///
    /// Empty when nothing is relevant.
    pub(super) fn proposals(
        &self,
        catalog: &Catalog,
        query: &Query,
        judgements: &Judgements,
        (mode, language): (Mode, QueryLanguage),
        fresh: usize,
    ) -> Vec<String> {
        let own = words(&query.text);
        let texts = relevant_texts(catalog, judgements);
        let ranked = self.shared_words(&texts, &own, fresh);
        let place =
            |word: &String| texts.first().and_then(|text| text.iter().position(|w| w == word)).unwrap_or(usize::MAX);
        let holding = |word: &String| texts.iter().filter(|text| text.contains(word)).count() * 2 >= texts.len();
        let held: Vec<&String> = own.iter().filter(|w| !texts.is_empty() && holding(w)).collect();
        let alone = (!held.is_empty()).then(|| held.iter().map(|w| w.as_str()).collect::<Vec<_>>().join(" "));
        let phrased = (language == QueryLanguage::Boolean).then(|| phrases(&own, &texts).join(" "));
        let phrased = phrased.filter(|text| !text.is_empty());
        let kept = if mode == Mode::Rewrite { held } else { Vec::new() };
        let longer = (1..=ranked.len()).map(|count| {
            let mut list: Vec<&String> = ranked.iter().take(count).collect();
            list.sort_by_key(|word| place(word));
            kept.iter().copied().chain(list).map(String::as_str).collect::<Vec<_>>().join(" ")
        });
        phrased.into_iter().chain(alone).chain(longer).collect()
    }

    /// Words to try one by one: those of the query that half of the relevant documents hold (in a Boolean language the
    /// longest runs of them first, as phrases), then those that relevant documents share and the query lacks; `most` in
    /// all. In the mode `rewrite` the words of the query are there whether a document holds them or not.
    pub(crate) fn candidates(
        &self,
        catalog: &Catalog,
        query: &Query,
        judgements: &Judgements,
        (mode, language): (Mode, QueryLanguage),
        most: usize,
    ) -> Vec<String> {
        let own = words(&query.text);
        let texts = relevant_texts(catalog, judgements);
        if texts.is_empty() {
            return Vec::new();
        }
        let holding = |word: &String| texts.iter().filter(|text| text.contains(word)).count() * 2 >= texts.len();
        let phrases = (language == QueryLanguage::Boolean).then(|| phrases(&own, &texts)).into_iter().flatten();
        let held = own.iter().filter(|word| mode == Mode::Rewrite || holding(word)).cloned();
        let mut found: Vec<String> = Vec::new();
        for word in phrases.chain(held).chain(self.shared_words(&texts, &own, most)) {
            if !found.contains(&word) {
                found.push(word);
            }
        }
        found.truncate(most);
        found
    }

    /// Words in the order in which the first of the relevant documents has them.
    pub(crate) fn in_order(&self, catalog: &Catalog, judgements: &Judgements, mut words: Vec<String>) -> Vec<String> {
        let texts = relevant_texts(catalog, judgements);
        let first = texts.first().map(Vec::as_slice).unwrap_or_default();
        words.sort_by_key(|word| first.iter().position(|w| w == word).unwrap_or(usize::MAX));
        words
    }

    /// The `most` words that the texts share and `own` lacks, the best first: r/R times the inverse document frequency.
    fn shared_words(&self, texts: &[Vec<String>], own: &[String], most: usize) -> Vec<String> {
        let mut shares: HashMap<&String, f64> = HashMap::new();
        for text in texts {
            for word in text.iter().collect::<HashSet<_>>() {
                if !own.contains(word) && word.chars().any(char::is_alphabetic) && word.chars().count() > 2 {
                    *shares.entry(word).or_default() += 1.0 / texts.len() as f64;
                }
            }
        }
        let weight = |word: &String, share: f64| {
            let frequency = f64::from(self.frequencies.get(word).copied().unwrap_or(0));
            share * ((self.documents + 1.0) / (frequency + 0.5)).ln()
        };
        let mut ranked: Vec<(f64, &String)> =
            shares.into_iter().map(|(word, share)| (weight(word, share), word)).collect();
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(b.1)));
        ranked.into_iter().take(most).map(|(_, word)| word.clone()).collect()
    }
}

/// The words of the documents of the best grade.
fn relevant_texts(catalog: &Catalog, judgements: &Judgements) -> Vec<Vec<String>> {
    let mut relevant: Vec<(Ordinal, i32)> = judgements.iter().filter(|j| j.1 > 0).collect();
    relevant.sort_by_key(|(doc, grade)| (std::cmp::Reverse(*grade), *doc));
    let best = relevant.first().map_or(0, |r| r.1);
    relevant.retain(|r| r.1 == best);
    relevant.truncate(MOST_DOCUMENTS);
    relevant.iter().map(|(doc, _)| words(&catalog.document(*doc).text_of_all_fields())).collect()
}

/// The longest runs of the query's words that at least half of the texts hold side by side, each as a phrase.
fn phrases(own: &[String], texts: &[Vec<String>]) -> Vec<String> {
    let together = |run: &[String]| {
        let holding = texts.iter().filter(|text| text.windows(run.len()).any(|window| window == run)).count();
        holding > 0 && holding * 2 >= texts.len()
    };
    let mut found = Vec::new();
    let mut rest = own;
    while rest.len() > 1 {
        // A run that a text holds is held without its last word, too.
        let runs = (2..=rest.len()).filter_map(|length| rest.get(..length));
        let longest = runs.take_while(|run| together(run)).last();
        found.extend(longest.map(|run| format!("\"{}\"", run.join(" "))));
        rest = rest.get(longest.map_or(1, <[String]>::len)..).unwrap_or_default();
    }
    found
}

/// Lower-case runs of letters and digits.
fn words(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).map(str::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use querywright_data::catalog::CatalogBuilder;

    const EXPAND: (Mode, QueryLanguage) = (Mode::Expand, QueryLanguage::Plain);
    const REWRITE: (Mode, QueryLanguage) = (Mode::Rewrite, QueryLanguage::Plain);
    const BOOLEAN: (Mode, QueryLanguage) = (Mode::Expand, QueryLanguage::Boolean);

    /// What is proposed for a query of which the first two documents are relevant.
    fn proposals(query: &str, form: (Mode, QueryLanguage), fresh: usize) -> Vec<String> {
        let judgements = Judgements::new(vec![(0, 1), (1, 1), (3, 0)]);
        let catalog = catalog();
        RelevanceFeedback::new(&catalog).proposals(&catalog, &Query::text(query), &judgements, form, fresh)
    }

    fn catalog() -> Catalog {
        let mut builder = CatalogBuilder::new();
        for (id, text) in
            [("a", "quiet anti fatigue mat"), ("b", "anti fatigue mat red"), ("c", "red mat"), ("d", "red lamp quiet")]
        {
            builder.push(id, [("title", text)]).unwrap();
        }
        builder.finish()
    }

    #[test]
    fn the_words_that_relevant_documents_share_are_proposed_strongest_first() {
        assert_eq!(proposals("my feet hurt on the mat", EXPAND, 4)[..3], ["mat", "anti", "anti fatigue"]);
    }

    #[test]
    fn a_proposal_that_replaces_the_query_keeps_the_words_that_relevant_documents_hold() {
        let query = "my feet hurt on the mat";
        assert_eq!(proposals(query, REWRITE, 4)[..2], ["mat", "mat anti"], "what the relevant documents lack goes");
        assert_eq!(proposals(query, REWRITE, 0), ["mat"]);
    }

    #[test]
    fn nothing_is_proposed_where_nothing_is_relevant() {
        let catalog = catalog();
        let feedback = RelevanceFeedback::new(&catalog);
        for form in [EXPAND, REWRITE] {
            let query = Query::text("my feet hurt on the mat");
            assert!(feedback.proposals(&catalog, &query, &Judgements::default(), form, 4).is_empty());
        }
    }

    #[test]
    fn words_side_by_side_in_half_of_the_relevant_documents_are_phrases_in_a_boolean_language() {
        let query = "Fatigue-mat, quiet anti mat";
        assert_eq!(proposals(query, BOOLEAN, 0)[..1], ["\"fatigue mat\" \"quiet anti\""]);
        assert_eq!(proposals(query, EXPAND, 0).len(), 1, "no quotes for a bag of words");
        assert_eq!(proposals("mat quiet", BOOLEAN, 0), ["mat quiet"]);
    }
}
