//! From a parsed query to scored documents.
//!
//! Scores are summed in double precision and rounded once, so that the order in which a query names its terms cannot
//! decide between two documents. Every posting of every term is read: no block is skipped by an upper bound, which
//! costs little on catalogues of up to some million documents and keeps the ranking exact for any k, boost and tree.

use std::collections::HashMap;
use std::io;

use super::index::{CONTENTS, TextIndex};
use crate::retrieve::analysis::{Analyzer, Token};
use crate::retrieve::boolean::{Clause, Group};
use crate::types::Ordinal;

/// Terms of a query beyond this many are not searched for (Lucene's limit, too).
pub const MOST_TERMS: usize = 1024;

/// The product of nested boosts is at most this, so that scores stay finite.
const LARGEST_WEIGHT: f64 = 1e6;

/// A query ready to be matched.
pub(super) enum Node {
    Leaf(Leaf),
    /// All of `must`, none of `must_not`; `should` adds, and is what matches where `must` is empty.
    Group {
        must: Vec<Node>,
        should: Vec<Node>,
        must_not: Vec<Node>,
    },
}

/// A term, or a phrase of several terms at fixed distances.
pub(super) struct Leaf {
    /// Which field: [`CONTENTS`] or 1 + the field's place in the catalogue.
    pub(super) slot: usize,
    /// The terms with their distances from the phrase's beginning; never empty.
    pub(super) terms: Vec<(u32, String)>,
    /// The factor on the score.
    pub(super) weight: f64,
}

/// Makes nodes of text, within the limit of terms.
pub(super) struct Compiler {
    pub(super) analyzer: Analyzer,
    pub(super) terms_left: usize,
}

impl Compiler {
    pub(super) fn new(analyzer: Analyzer) -> Self {
        Self { analyzer, terms_left: MOST_TERMS }
    }

    /// A bag of words over the joined field. A repeated word counts as often as it is there.
    pub(super) fn plain<'t>(&mut self, tokens: impl Iterator<Item = Token<'t>>) -> Node {
        Node::any_of(self.leaves(CONTENTS, tokens, 1.0))
    }

    /// A bracket; none when nothing in it can match (stop words only, or nothing but NOT).
    pub(super) fn group(&mut self, group: &Group<'_>, weight: f64) -> Option<Node> {
        let weight = (weight * f64::from(group.boost)).min(LARGEST_WEIGHT);
        let mut all =
            |clauses: &[Clause<'_>]| clauses.iter().filter_map(|c| self.clause(c, weight)).collect::<Vec<_>>();
        let (must, should, must_not) = (all(&group.must), all(&group.should), all(&group.must_not));
        if must.is_empty() && should.is_empty() {
            return None;
        }
        if must.is_empty() && must_not.is_empty() {
            return Some(Node::any_of(should));
        }
        Some(Node::Group { must, should, must_not })
    }

    fn clause(&mut self, clause: &Clause<'_>, weight: f64) -> Option<Node> {
        match *clause {
            Clause::Group(ref group) => self.group(group, weight),
            Clause::Words { field, text, phrase, boost } => {
                let slot = field.map_or(CONTENTS, |f| f + 1);
                let weight = (weight * f64::from(boost)).min(LARGEST_WEIGHT);
                let tokens = self.analyzer.tokens(text);
                if !phrase {
                    let leaves = self.leaves(slot, tokens, weight);
                    return (!leaves.is_empty()).then(|| Node::any_of(leaves));
                }
                let tokens: Vec<_> = tokens.take(self.terms_left).collect();
                self.terms_left -= tokens.len();
                let begin = tokens.first()?.position;
                let terms = tokens.into_iter().map(|t| (t.position - begin, t.stem)).collect();
                Some(Node::Leaf(Leaf { slot, terms, weight }))
            }
        }
    }

    fn leaves<'t>(&mut self, slot: usize, tokens: impl Iterator<Item = Token<'t>>, weight: f64) -> Vec<Node> {
        let leaf = |t: Token<'t>| Node::Leaf(Leaf { slot, terms: vec![(0, t.stem)], weight });
        let leaves: Vec<Node> = tokens.take(self.terms_left).map(leaf).collect();
        self.terms_left -= leaves.len();
        leaves
    }
}

impl Node {
    /// A disjunction in which equal terms are one term of their summed weight.
    fn any_of(nodes: Vec<Node>) -> Self {
        let mut places: HashMap<(usize, String), usize> = HashMap::new();
        let mut merged: Vec<Node> = Vec::with_capacity(nodes.len());
        for node in nodes {
            if let Node::Leaf(Leaf { slot, terms, weight }) = &node
                && let [(_, term)] = terms.as_slice()
            {
                let place = *places.entry((*slot, term.clone())).or_insert(merged.len());
                if let Some(Node::Leaf(earlier)) = merged.get_mut(place) {
                    earlier.weight += weight;
                    continue;
                }
            }
            merged.push(node);
        }
        match merged.pop() {
            Some(only) if merged.is_empty() => only,
            last => {
                merged.extend(last);
                Node::Group { must: Vec::new(), should: merged, must_not: Vec::new() }
            }
        }
    }
}

/// A document with its score so far.
pub(super) type Match = (Ordinal, f64);

impl TextIndex {
    /// Everything that a node matches, sorted by document.
    pub(super) fn matches(&self, node: &Node) -> io::Result<Vec<Match>> {
        let (must, should, must_not) = match node {
            Node::Leaf(_) => return self.any_of(std::slice::from_ref(node)),
            Node::Group { must, should, must_not } => (must, should, must_not),
        };
        let mut matches = match must.split_first() {
            None => self.any_of(should)?,
            Some((first, others)) => {
                let mut matches = self.matches(first)?;
                for other in others {
                    if matches.is_empty() {
                        break;
                    }
                    let found = self.matches(other)?;
                    join(&mut matches, &found, true);
                }
                if !should.is_empty() && !matches.is_empty() {
                    join(&mut matches, &self.any_of(should)?, false);
                }
                matches
            }
        };
        if !must_not.is_empty() && !matches.is_empty() {
            let forbidden = self.any_of(must_not)?;
            matches.retain(|m| forbidden.binary_search_by_key(&m.0, |f| f.0).is_err());
        }
        Ok(matches)
    }

    fn any_of(&self, nodes: &[Node]) -> io::Result<Vec<Match>> {
        let mut sum = Sum::new(self.documents());
        for node in nodes {
            match node {
                Node::Leaf(leaf) => {
                    let factor = leaf.weight * self.idf(leaf)?;
                    self.saturations(leaf, |document, saturation| sum.add(document, factor * saturation))?;
                }
                group => self.matches(group)?.into_iter().for_each(|(document, score)| sum.add(document, score)),
            }
        }
        Ok(sum.into_matches())
    }
}

/// Adds to each match the score that `found` has for it; drops it where it has none and `required`. Both are sorted.
fn join(matches: &mut Vec<Match>, found: &[Match], required: bool) {
    let mut found = found.iter().peekable();
    matches.retain_mut(|(document, score)| {
        while found.next_if(|f| f.0 < *document).is_some() {}
        let other = found.next_if(|f| f.0 == *document).map(|f| f.1);
        *score += other.unwrap_or_default();
        other.is_some() || !required
    });
}

/// One sum for each document, and a bit for each that has been met (a boost of 0 matches with a score of 0).
struct Sum {
    scores: Vec<f64>,
    met: Vec<u64>,
}

impl Sum {
    fn new(documents: usize) -> Self {
        Self { scores: vec![0.0; documents], met: vec![0; documents.div_ceil(64)] }
    }

    fn add(&mut self, document: Ordinal, score: f64) {
        let place = document as usize;
        if let (Some(sum), Some(met)) = (self.scores.get_mut(place), self.met.get_mut(place / 64)) {
            *sum += score;
            *met |= 1 << (place % 64);
        }
    }

    fn into_matches(self) -> Vec<Match> {
        let mut matches = Vec::with_capacity(self.met.iter().map(|m| m.count_ones() as usize).sum());
        for (nth, (scores, mut met)) in self.scores.chunks(64).zip(self.met).enumerate() {
            while met != 0 {
                let bit = met.trailing_zeros();
                met &= met - 1;
                matches.extend(scores.get(bit as usize).map(|&score| (nth as Ordinal * 64 + bit, score)));
            }
        }
        matches
    }
}
