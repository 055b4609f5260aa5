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
use querywright_rewrite::{Mode, Task};
use querywright_types::{Judgements, Ordinal, QueryLanguage, Result};

use super::super::materials::Labelled;

/// How many documents each word of a catalogue stands in.
#[derive(Debug, Default)]
pub(crate) struct RelevanceFeedback {
    frequencies: HashMap<String, u32>,
    documents: f64,
}

/// What proposals are for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Form {
    pub(crate) task: Task,
    pub(crate) mode: Mode,
    pub(crate) language: QueryLanguage,
    /// Words of the documents at most.
    pub(crate) fresh: usize,
}

/// For next items, how many other documents must hold a word for half of its weight.
const OTHERS: f64 = 5.0;

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
    /// For next items see [`of_titles`](Self::of_titles). Empty when nothing is relevant. No word stands in a proposal for
    /// which `allowed` says no.
    pub(super) fn proposals(
        &self,
        catalog: &Catalog,
        (query, judgements): &Labelled,
        form: Form,
        allowed: &dyn Fn(&str) -> Result<bool>,
    ) -> Result<Vec<String>> {
        let own = words(&query.text);
        if form.task == Task::Recommend {
            return self.of_titles(catalog, judgements, form.fresh, allowed);
        }
        let texts = relevant_texts(catalog, judgements, false);
        let ranked = first(self.shared_words(&texts, &own), form.fresh, allowed)?;
        let holding = |word: &String| texts.iter().filter(|text| text.contains(word)).count() * 2 >= texts.len();
        let mut held: Vec<&String> = Vec::new();
        for word in own.iter().filter(|word| !texts.is_empty() && holding(word)) {
            if allowed(word)? {
                held.push(word);
            }
        }
        let alone = (!held.is_empty()).then(|| held.iter().map(|w| w.as_str()).collect::<Vec<_>>().join(" "));
        let phrased = (form.language == QueryLanguage::Boolean).then(|| phrases(&own, &texts).join(" "));
        let phrased = phrased.filter(|text| !text.is_empty());
        let kept = if form.mode == Mode::Rewrite { held } else { Vec::new() };
        let longer = (1..=ranked.len()).map(|count| {
            let best = in_order(ranked.iter().take(count), &texts);
            kept.iter().copied().chain(best).map(String::as_str).collect::<Vec<_>>().join(" ")
        });
        Ok(phrased.into_iter().chain(alone).chain(longer).collect())
    }

    /// Words to try one by one, `form.fresh` at most: those of the query that half of the relevant documents hold (in a
    /// Boolean language the longest runs of them first, as phrases), then those that relevant documents share and the
    /// query lacks. In the mode `rewrite` the words of the query are there whether a document holds them or not. For
    /// next items, words of the targets' titles that several documents share.
    pub(crate) fn candidates(
        &self,
        catalog: &Catalog,
        (query, judgements): &Labelled,
        form: Form,
    ) -> Result<Vec<String>> {
        let own = words(&query.text);
        if form.task == Task::Recommend {
            let mut found = self.of_titles(catalog, judgements, form.fresh, &|_| Ok(true))?;
            // Each word alone comes first.
            found.truncate(found.len().div_ceil(2));
            return Ok(found);
        }
        let texts = relevant_texts(catalog, judgements, false);
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        let holding = |word: &String| texts.iter().filter(|text| text.contains(word)).count() * 2 >= texts.len();
        let phrases = (form.language == QueryLanguage::Boolean).then(|| phrases(&own, &texts)).into_iter().flatten();
        let held = own.iter().filter(|word| form.mode == Mode::Rewrite || holding(word)).cloned();
        let mut found: Vec<String> = Vec::new();
        for word in phrases.chain(held).chain(self.shared_words(&texts, &own)) {
            if !found.contains(&word) {
                found.push(word);
            }
        }
        found.truncate(form.fresh);
        Ok(found)
    }

    /// Words in the order in which the first of the relevant documents has them.
    pub(crate) fn in_order(catalog: &Catalog, judgements: &Judgements, words: &[String]) -> Vec<String> {
        in_order(words.iter(), &relevant_texts(catalog, judgements, false)).into_iter().cloned().collect()
    }

    /// For next items: each of the best `fresh` words of the targets' titles alone, then the best 2, 3, … of them. A word
    /// of the history's titles is as good as another: it then counts once more. A query has one target as a rule, and its
    /// rarest word ("57511ee") says nothing of any other query. So words count that several documents share:
    /// `idf * others / (others + 5)`.
    fn of_titles(
        &self,
        catalog: &Catalog,
        judgements: &Judgements,
        fresh: usize,
        allowed: &dyn Fn(&str) -> Result<bool>,
    ) -> Result<Vec<String>> {
        let texts = relevant_texts(catalog, judgements, true);
        let mut weighed: Vec<(f64, String)> = Vec::new();
        for (weight, word) in self.weighed(&texts, &[]) {
            let others = f64::from(self.frequencies.get(&word).copied().unwrap_or(0)) - 1.0;
            if others >= 1.0 {
                weighed.push((weight * others / (others + OTHERS), word));
            }
        }
        let ranked = first(sorted(weighed), fresh, allowed)?;
        let together = (2..=ranked.len()).map(|count| {
            let best = in_order(ranked.iter().take(count), &texts);
            best.into_iter().map(String::as_str).collect::<Vec<_>>().join(" ")
        });
        Ok(ranked.iter().cloned().chain(together).collect())
    }

    /// The words that the texts share and `own` lacks, the best first.
    fn shared_words(&self, texts: &[Vec<String>], own: &[String]) -> Vec<String> {
        sorted(self.weighed(texts, own))
    }

    /// The words of the texts that `own` lacks, with r/R times the inverse document frequency.
    fn weighed(&self, texts: &[Vec<String>], own: &[String]) -> Vec<(f64, String)> {
        let own: HashSet<&String> = own.iter().collect();
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
        shares.into_iter().map(|(word, share)| (weight(word, share), word.clone())).collect()
    }
}

/// Words by their weights, the heaviest first.
fn sorted(mut weighed: Vec<(f64, String)>) -> Vec<String> {
    weighed.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    weighed.into_iter().map(|(_, word)| word).collect()
}

/// The first `most` words that are allowed.
fn first(words: Vec<String>, most: usize, allowed: &dyn Fn(&str) -> Result<bool>) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for word in words {
        if found.len() == most {
            break;
        }
        if allowed(&word)? {
            found.push(word);
        }
    }
    Ok(found)
}

/// Words in the order in which the first text has them.
fn in_order<'w>(words: impl Iterator<Item = &'w String>, texts: &[Vec<String>]) -> Vec<&'w String> {
    let place =
        |word: &String| texts.first().and_then(|text| text.iter().position(|w| w == word)).unwrap_or(usize::MAX);
    let mut words: Vec<&String> = words.collect();
    words.sort_by_key(|word| place(word));
    words
}

/// The words of the documents of the best grade; of their `titles` alone, where they have any.
fn relevant_texts(catalog: &Catalog, judgements: &Judgements, titles: bool) -> Vec<Vec<String>> {
    let mut relevant: Vec<(Ordinal, i32)> = judgements.iter().filter(|j| j.1 > 0).collect();
    relevant.sort_by_key(|(doc, grade)| (std::cmp::Reverse(*grade), *doc));
    let best = relevant.first().map_or(0, |r| r.1);
    relevant.retain(|r| r.1 == best);
    relevant.truncate(MOST_DOCUMENTS);
    let of_document = |doc: Ordinal| {
        let document = catalog.document(doc);
        let title = if titles { words(document.title()) } else { Vec::new() };
        if title.is_empty() { words(&document.text_of_all_fields()) } else { title }
    };
    relevant.iter().map(|(doc, _)| of_document(*doc)).collect()
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
    use querywright_types::Query;

    const EXPAND: Form = Form { task: Task::Search, mode: Mode::Expand, language: QueryLanguage::Plain, fresh: 4 };
    const REWRITE: Form = Form { mode: Mode::Rewrite, ..EXPAND };
    const BOOLEAN: Form = Form { language: QueryLanguage::Boolean, ..EXPAND };

    /// What is proposed for a query of which the first two documents are relevant.
    fn proposals(query: &str, form: Form, fresh: usize) -> Vec<String> {
        allowed(query, Form { fresh, ..form }, |_| true)
    }

    /// The same of words that may be written.
    fn allowed(query: &str, form: Form, may: impl Fn(&str) -> bool) -> Vec<String> {
        let labelled = (Query::text(query), Judgements::new(vec![(0, 1), (1, 1), (3, 0)]));
        let catalog = catalog();
        RelevanceFeedback::new(&catalog).proposals(&catalog, &labelled, form, &|word| Ok(may(word))).unwrap()
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
            for task in [Task::Search, Task::Recommend] {
                let labelled = (Query::text("my feet hurt on the mat"), Judgements::default());
                let found = feedback.proposals(&catalog, &labelled, Form { task, ..form }, &|_| Ok(true)).unwrap();
                assert!(found.is_empty(), "{found:?}");
            }
        }
    }

    #[test]
    fn words_side_by_side_in_half_of_the_relevant_documents_are_phrases_in_a_boolean_language() {
        let query = "Fatigue-mat, quiet anti mat";
        assert_eq!(proposals(query, BOOLEAN, 0)[..1], ["\"fatigue mat\" \"quiet anti\""]);
        assert_eq!(proposals(query, EXPAND, 0).len(), 1, "no quotes for a bag of words");
        assert_eq!(proposals("mat quiet", BOOLEAN, 0), ["mat quiet"]);
    }
    #[test]
    fn a_word_that_may_not_be_written_takes_no_place_in_a_proposal() {
        let query = "my feet hurt on the mat";
        assert_eq!(allowed(query, EXPAND, |word| word != "anti")[..3], ["mat", "fatigue", "quiet fatigue"]);
        assert_eq!(allowed(query, REWRITE, |word| word != "mat")[..2], ["anti", "anti fatigue"]);
    }

    #[test]
    fn of_a_next_item_the_words_of_its_title_are_proposed_that_other_documents_share() {
        let mut builder = CatalogBuilder::new();
        builder.push("a", [("title", "Brass 57511ee pipe fitting"), ("text", "solder")]).unwrap();
        for number in 0..40 {
            let title = ["brass rod", "pipe", "solder", "glue"][number % 4];
            builder.push(&format!("o{number}"), [("title", title)]).unwrap();
        }
        builder.push("b", [("title", "pipe fitting")]).unwrap();
        let catalog = builder.finish();
        let labelled = (Query::text("brass rod\nglue").with_history([1, 4]), Judgements::new(vec![(0, 1)]));
        let proposed = |fresh| {
            let form = Form { task: Task::Recommend, fresh, ..EXPAND };
            RelevanceFeedback::new(&catalog).proposals(&catalog, &labelled, form, &|_| Ok(true)).unwrap()
        };
        // In one other title; in eleven and ten others, the word of the history among them. "57511ee" is in none.
        assert_eq!(proposed(2), ["brass", "pipe", "brass pipe"]);
        assert_eq!(proposed(9), ["brass", "pipe", "fitting", "brass pipe", "brass pipe fitting"]);
    }
}
