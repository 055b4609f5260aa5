//! What the probes find in one rewrite.

use std::collections::{HashMap, HashSet};

use super::Probe;
use super::language::{drift, usual};
use super::words::{of_rewrite, words};
use crate::{Evaluated, Evaluation};
use querywright_types::{Error, Ordinal, Result};

/// Words in a row that are a copy and no coincidence.
const RUN: usize = 4;
/// Words of a title that make it one: of shorter titles many are what anybody would ask for.
const TITLE: usize = 3;
/// Documents of a ranking that are looked at.
const FIRST: usize = 10;
/// Relevant documents that are looked at.
const RELEVANT: usize = 50;
/// Repeats of words at least, and the share of all words that they are.
const REPEATS: (usize, usize) = (3, 4);
/// Words of a rewrite for each of the query, and words more than it has.
const GROWTH: (usize, usize) = (4, 16);

/// The queries of an evaluation in words.
pub(super) struct Looked<'a> {
    evaluation: &'a Evaluation<'a>,
    queries: Vec<Vec<String>>,
    usual: Option<usize>,
}

impl<'a> Looked<'a> {
    pub(super) fn at(evaluation: &'a Evaluation<'a>) -> Self {
        let asked = |query: &querywright_types::Query| match query.text.is_empty() {
            false => words(&query.text),
            // What is asked then is what the history holds.
            true => query.history.iter().flat_map(|item| words(evaluation.catalog.document(*item).title())).collect(),
        };
        let queries: Vec<Vec<String>> = evaluation.queries.iter().map(|(query, _)| asked(query)).collect();
        let usual = usual(queries.iter().map(Vec::as_slice));
        Self { evaluation, queries, usual }
    }

    /// Refuses a system that was measured on other queries.
    pub(super) fn require(&self, system: &Evaluated) -> Result<()> {
        match (self.queries.len(), system.rewrites.len()) {
            (own, rewrites) if own == rewrites => Ok(()),
            (own, rewrites) => {
                let found = format!("{rewrites} rewrites of {} for {own} queries", system.system.name);
                Err(Error::argument("probes", found, "give systems that were measured on these queries"))
            }
        }
    }

    /// What each probe finds in the rewrite of a query.
    pub(super) fn one(&self, system: &Evaluated, place: usize) -> [Option<String>; Probe::ALL.len()] {
        let (Some(query), Some(rewrite), Some((asked, judgements))) =
            (self.queries.get(place), system.rewrites.get(place), self.evaluation.queries.get(place))
        else {
            return Default::default();
        };
        let written = of_rewrite(rewrite, self.evaluation.catalog.field_names());
        let relevant = || judgements.iter().filter(|(_, grade)| *grade > 0).map(|(doc, _)| doc).take(RELEVANT);
        let hits = || system.run.rankings.get(&asked.id).map_or(&[][..], |ranking| ranking.hits.as_slice());
        Probe::ALL.map(|probe| match probe {
            Probe::Echo => echo(query, &written),
            Probe::Stuffing => stuffing(query, &written),
            Probe::CopyRelevant => self.copy(query, &written, relevant()),
            Probe::CopyFound => self.copy(query, &written, hits().iter().take(FIRST).map(|hit| hit.doc)),
            Probe::Language => drift(query, &written, self.usual).map(str::to_owned),
            Probe::Length => length(query, &written),
        })
    }

    /// What the rewrite has of one of these documents and not of the query.
    fn copy(
        &self,
        query: &[String],
        rewrite: &[String],
        mut documents: impl Iterator<Item = Ordinal>,
    ) -> Option<String> {
        let own: HashSet<&[String]> = query.windows(RUN).collect();
        let runs: HashSet<&[String]> = rewrite.windows(RUN).filter(|run| !own.contains(run)).collect();
        if rewrite.len() < TITLE {
            return None;
        }
        documents.find_map(|document| {
            let document = self.evaluation.catalog.document(document);
            let title = words(document.title());
            if title.len() >= TITLE && holds(rewrite, &title) && !holds(query, &title) {
                return Some(format!("the title {}", title.join(" ")));
            }
            let mut fields = document.fields().filter(|_| !runs.is_empty());
            fields.find_map(|(_, text)| {
                let text = words(text);
                text.windows(RUN).find(|run| runs.contains(run)).map(|run| run.join(" "))
            })
        })
    }
}

/// Whether the words stand in a row in a text.
fn holds(text: &[String], words: &[String]) -> bool {
    text.windows(words.len()).any(|run| run == words)
}

fn echo(query: &[String], rewrite: &[String]) -> Option<String> {
    let (own, new): (HashSet<&String>, HashSet<&String>) = (query.iter().collect(), rewrite.iter().collect());
    (own == new).then(|| "the query's words".to_owned())
}

/// How often each word stands in a text.
fn counted(words: &[String]) -> HashMap<&str, usize> {
    let mut counts = HashMap::new();
    words.iter().for_each(|word| *counts.entry(word.as_str()).or_default() += 1);
    counts
}

/// Words that stand more often than their due: once, and a word of the query once more than in the query. Where the query
/// has several words and stands as a whole more than once, as composing with plain weights writes it, that often.
fn stuffing(query: &[String], rewrite: &[String]) -> Option<String> {
    let (own, new) = (counted(query), counted(rewrite));
    let copies = match query.len() {
        0 | 1 => 1,
        length => rewrite.windows(length).filter(|run| *run == query).count().max(1),
    };
    let due = |word: &str| own.get(word).map_or(1, |count| count * copies + 1);
    let mut repeated: Vec<(&str, usize)> = new
        .iter()
        .map(|(word, count)| (*word, count.saturating_sub(due(word))))
        .filter(|(_, more)| *more > 0)
        .collect();
    let repeats: usize = repeated.iter().map(|(_, more)| more).sum();
    repeated.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    let named = repeated.iter().take(3).map(|(word, _)| format!("{word} x {}", new.get(word).unwrap_or(&0)));
    (repeats >= REPEATS.0 && repeats * REPEATS.1 >= rewrite.len()).then(|| named.collect::<Vec<_>>().join(", "))
}

fn length(query: &[String], rewrite: &[String]) -> Option<String> {
    let (asked, written) = (query.len(), rewrite.len());
    (written >= GROWTH.0 * asked && written >= asked + GROWTH.1).then(|| format!("{written} words for {asked}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rewrite_echoes_stuffs_and_grows_where_it_does_and_not_where_composing_repeats() {
        let all = |query: &str, rewrite: &str| {
            let (query, rewrite) = (words(query), words(rewrite));
            [echo(&query, &rewrite), stuffing(&query, &rewrite), length(&query, &rewrite)].map(|found| found.is_some())
        };
        assert_eq!(all("steel kettle", "Kettle, steel kettle"), [true, false, false]);
        assert_eq!(all("steel kettle", "kettle"), [false, false, false], "what drops a word is no echo");
        assert_eq!(all("steel kettle", "tea tea tea tea kettle"), [false, true, false]);
        assert_eq!(all("tea", "tea tea tea tea tea"), [true, true, false]);
        // The query three times and what was added, as plain weights are written; a stressed word stands once more.
        assert_eq!(all("steel kettle", "steel kettle steel kettle steel kettle tea kettle"), [false, false, false]);
        let long = (0..20).map(|i| format!("word{i}")).collect::<Vec<_>>().join(" ");
        assert_eq!(all("steel kettle", &long), [false, false, true]);
        assert_eq!(all(&long, &format!("{long} more words")), [false, false, false]);
        assert_eq!(all("", ""), [true, false, false]);
        let found = stuffing(&words("kettle"), &words("tea tea tea tea pot pot pot kettle"));
        assert_eq!(found.as_deref(), Some("tea x 4, pot x 3"));
    }
}
