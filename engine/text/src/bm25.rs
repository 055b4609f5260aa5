//! BM25: the formula, and its sums over the postings of an index.
//!
//! The score of a document is the sum over the query's terms of
//!
//! ```text
//! weight * ln(1 + (N - n + 0.5) / (n + 0.5)) * tf / (tf + k1 * (1 - b + b * length / average length))
//! ```
//!
//! (Robertson and Zaragoza 2009, in the form of Lucene's `BM25Similarity`: the constant factor k1 + 1 is left out, which
//! changes no order.) N is the number of documents that have a word in the field, n that of documents that hold the
//! term, tf the term's frequency in the document, length its number of words in the field. A phrase is one term whose
//! inverse document frequency is the sum of its words'.
//!
//! Scores are summed in double precision and rounded once, so that the order in which a query names its terms cannot
//! decide between two documents. Every posting of every term is read. No block is skipped by an upper bound: that costs
//! little on catalogues of up to some million documents and keeps the ranking exact for any k, boost and query.

use std::io;

use super::DocId;
use super::query::{Leaf, Node};

/// What the formula asks of an index. Fields are numbered as in [`Leaf::field`], documents from 0.
pub trait InvertedIndex {
    /// How many documents there are.
    fn documents(&self) -> usize;

    /// N: how many documents have a word in a field.
    fn documents_with_field(&self, field: usize) -> io::Result<u64>;

    /// n: how many documents hold a term in a field.
    fn document_frequency(&self, field: usize, term: &str) -> io::Result<u64>;

    /// Calls `visit` with every document that holds the term or phrase, in order, and its [`saturation`] there.
    fn saturations(&self, leaf: &Leaf, visit: impl FnMut(DocId, f64)) -> io::Result<()>;
}

/// Inverse document frequency: `ln(1 + (N - n + 0.5) / (n + 0.5))` for N `documents`, of which n are `holding` the term.
#[must_use]
pub fn inverse_document_frequency(documents: u64, holding: u64) -> f64 {
    let (documents, holding) = (documents as f64, holding as f64);
    (1.0 + (documents - holding + 0.5) / (holding + 0.5)).ln()
}

/// Saturated term frequency: `tf / (tf + norm)`, from 0 to 1.
#[inline]
#[must_use]
pub fn saturation(frequency: u32, norm: f32) -> f64 {
    let frequency = f64::from(frequency);
    frequency / (frequency + f64::from(norm))
}

/// The part of the formula that depends on the lengths of documents in one field. It is kept at 4 bytes a document.
#[derive(Debug, Default)]
pub struct LengthNorms {
    documents: u64,
    norms: Vec<f32>,
}

impl LengthNorms {
    /// Computes `k1 * (1 - b + b * length / average length)` from the length of every document, in words. Documents
    /// without a word in the field count neither for N nor for the average.
    pub fn new(lengths: impl Iterator<Item = u64> + Clone, k1: f64, b: f64) -> Self {
        let documents = lengths.clone().filter(|&length| length > 0).count() as u64;
        let average = lengths.clone().sum::<u64>() as f64 / documents.max(1) as f64;
        let norms = lengths.map(|length| (k1 * (1.0 - b + b * length as f64 / average.max(1.0))) as f32).collect();
        Self { documents, norms }
    }

    /// N: how many documents have a word in the field.
    pub fn documents(&self) -> u64 {
        self.documents
    }

    /// The [`saturation`] of a frequency in a document. A document beyond the last one gets 1; [`matches()`] refuses it.
    #[inline]
    pub fn saturation(&self, document: DocId, frequency: u32) -> f64 {
        saturation(frequency, self.norms.get(document as usize).copied().unwrap_or_default())
    }
}

/// The inverse document frequency of a term; that of a phrase is the sum of its words'.
///
/// # Errors
/// When the index cannot be read.
pub fn leaf_idf(index: &impl InvertedIndex, leaf: &Leaf) -> io::Result<f64> {
    let documents = index.documents_with_field(leaf.field)?;
    let mut sum = 0.0;
    for (_, term) in &leaf.terms {
        sum += inverse_document_frequency(documents, index.document_frequency(leaf.field, term)?);
    }
    Ok(sum)
}

/// A document with its score.
pub type Match = (DocId, f64);

/// Everything that a query matches, sorted by document.
///
/// # Errors
/// When the index cannot be read, or names a document that it does not have.
pub fn matches(index: &impl InvertedIndex, node: &Node) -> io::Result<Vec<Match>> {
    let (must, should, must_not) = match node {
        Node::Leaf(_) => return any_of(index, std::slice::from_ref(node)),
        Node::Group { must, should, must_not } => (must, should, must_not),
    };
    let mut found = match must.split_first() {
        None => any_of(index, should)?,
        Some((first, others)) => {
            let mut found = matches(index, first)?;
            for other in others {
                if found.is_empty() {
                    break;
                }
                join(&mut found, &matches(index, other)?, true);
            }
            if !should.is_empty() && !found.is_empty() {
                join(&mut found, &any_of(index, should)?, false);
            }
            found
        }
    };
    if !must_not.is_empty() && !found.is_empty() {
        let forbidden = any_of(index, must_not)?;
        found.retain(|m| forbidden.binary_search_by_key(&m.0, |f| f.0).is_err());
    }
    Ok(found)
}

fn any_of(index: &impl InvertedIndex, nodes: &[Node]) -> io::Result<Vec<Match>> {
    let mut sum = Sum::new(index.documents());
    for node in nodes {
        match node {
            Node::Leaf(leaf) => {
                let factor = leaf.weight * leaf_idf(index, leaf)?;
                index.saturations(leaf, |document, saturation| sum.add(document, factor * saturation))?;
            }
            group => matches(index, group)?.into_iter().for_each(|(document, score)| sum.add(document, score)),
        }
    }
    sum.into_matches()
}

/// Adds to each match the score that `other` has for it; drops it where it has none and `required`. Both are sorted.
fn join(found: &mut Vec<Match>, other: &[Match], required: bool) {
    let mut other = other.iter().peekable();
    found.retain_mut(|(document, score)| {
        while other.next_if(|o| o.0 < *document).is_some() {}
        let added = other.next_if(|o| o.0 == *document).map(|o| o.1);
        *score += added.unwrap_or_default();
        added.is_some() || !required
    });
}

/// One sum for each document, and a bit for each that has been met (a boost of 0 matches with a score of 0).
struct Sum {
    scores: Vec<f64>,
    met: Vec<u64>,
    /// A document that was named although the index does not have it.
    unknown: Option<DocId>,
}

impl Sum {
    fn new(documents: usize) -> Self {
        Self { scores: vec![0.0; documents], met: vec![0; documents.div_ceil(64)], unknown: None }
    }

    #[inline]
    fn add(&mut self, document: DocId, score: f64) {
        let place = document as usize;
        if let (Some(sum), Some(met)) = (self.scores.get_mut(place), self.met.get_mut(place / 64)) {
            *sum += score;
            *met |= 1 << (place % 64);
        } else {
            self.unknown = Some(document);
        }
    }

    fn into_matches(self) -> io::Result<Vec<Match>> {
        if let Some(document) = self.unknown {
            let found = format!("the index names document {document} and has {}", self.scores.len());
            return Err(io::Error::new(io::ErrorKind::InvalidData, found));
        }
        let mut matches = Vec::with_capacity(self.met.iter().map(|m| m.count_ones() as usize).sum());
        for (nth, (scores, mut met)) in self.scores.chunks(64).zip(self.met).enumerate() {
            while met != 0 {
                let bit = met.trailing_zeros();
                met &= met - 1;
                matches.extend(scores.get(bit as usize).map(|&score| (nth as DocId * 64 + bit, score)));
            }
        }
        Ok(matches)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One field; `postings[term]` are the documents of the term "0", "1" and so on, each with a saturation of 0.5.
    struct Postings {
        documents: usize,
        postings: Vec<Vec<DocId>>,
    }

    impl Postings {
        fn of(&self, term: &str) -> &[DocId] {
            &self.postings[term.parse::<usize>().unwrap()]
        }
    }

    impl InvertedIndex for Postings {
        fn documents(&self) -> usize {
            self.documents
        }

        fn documents_with_field(&self, _: usize) -> io::Result<u64> {
            Ok(self.documents as u64)
        }

        fn document_frequency(&self, _: usize, term: &str) -> io::Result<u64> {
            Ok(self.of(term).len() as u64)
        }

        fn saturations(&self, leaf: &Leaf, mut visit: impl FnMut(DocId, f64)) -> io::Result<()> {
            self.of(&leaf.terms[0].1).iter().for_each(|document| visit(*document, 0.5));
            Ok(())
        }
    }

    fn leaf(term: &str) -> Node {
        Node::Leaf(Leaf { field: 0, terms: vec![(0, term.to_owned())], weight: 1.0 })
    }

    #[test]
    fn a_common_term_weighs_less_than_a_rare_one_and_never_less_than_nothing() {
        assert!((inverse_document_frequency(4, 1) - (1.0 + 3.5 / 1.5_f64).ln()).abs() < 1e-12);
        assert!(inverse_document_frequency(4, 1) > inverse_document_frequency(4, 3));
        assert!(inverse_document_frequency(4, 4) > 0.0);
    }

    #[test]
    fn a_document_of_average_length_has_k1_for_its_norm_and_empty_documents_count_for_nothing() {
        let norms = LengthNorms::new([4, 0, 2, 6].into_iter(), 1.2, 0.75);
        assert_eq!(norms.documents(), 3);
        assert_eq!(norms.saturation(0, 3), saturation(3, 1.2));
        assert!(norms.saturation(2, 3) > norms.saturation(0, 3) && norms.saturation(3, 3) < norms.saturation(0, 3));
    }

    #[test]
    fn groups_select_and_add_as_their_clauses_say() {
        let index = Postings { documents: 70, postings: vec![vec![0, 1, 65], vec![1, 65], vec![65, 69]] };
        let group = |must, should, must_not| Node::Group { must, should, must_not };
        let found = |node: &Node| matches(&index, node).unwrap();
        let documents = |node: &Node| found(node).iter().map(|m| m.0).collect::<Vec<_>>();
        assert_eq!(documents(&group(vec![], vec![leaf("1"), leaf("2")], vec![])), [1, 65, 69]);
        assert_eq!(documents(&group(vec![leaf("0"), leaf("1")], vec![leaf("2")], vec![])), [1, 65]);
        assert_eq!(documents(&group(vec![leaf("0")], vec![], vec![leaf("2")])), [0, 1]);
        let sum = found(&group(vec![leaf("0")], vec![leaf("2")], vec![]))[2].1;
        let want = 0.5 * (inverse_document_frequency(70, 3) + inverse_document_frequency(70, 2));
        assert!((sum - want).abs() < 1e-12);
    }

    #[test]
    fn an_index_that_names_a_document_it_does_not_have_is_refused() {
        let index = Postings { documents: 2, postings: vec![vec![0, 2]] };
        let error = matches(&index, &leaf("0")).unwrap_err();
        assert_eq!(error.to_string(), "the index names document 2 and has 2");
    }
}
