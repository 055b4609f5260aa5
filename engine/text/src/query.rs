//! From a parsed query to the terms and phrases that an index is asked for.

use std::collections::HashMap;

use super::analysis::{Analyzer, Token};
use super::boolean::{Clause, Group};

/// Terms of a query beyond this many are not searched for (Lucene's limit, too).
pub const MOST_TERMS: usize = 1024;

/// The field that joins all fields of a document. Words without a field are looked for here. In an index it comes
/// first, then the named fields in their order.
pub const CONTENTS: usize = 0;

/// The product of nested boosts is at most this, so that scores stay finite.
const LARGEST_WEIGHT: f64 = 1e6;

/// A query ready to be matched.
#[derive(Debug)]
pub enum Node {
    /// A term or a phrase.
    Leaf(Leaf),
    /// Several nodes.
    Group {
        /// All of these must match.
        must: Vec<Node>,
        /// These add to the score; where `must` is empty, one of them must match.
        should: Vec<Node>,
        /// None of these may match.
        must_not: Vec<Node>,
    },
}

/// A term, or a phrase of several terms at fixed distances.
#[derive(Debug)]
pub struct Leaf {
    /// Which field: [`CONTENTS`], or 1 + the place of the field's name.
    pub field: usize,
    /// The terms with their distances from the phrase's beginning; never empty.
    pub terms: Vec<(u32, String)>,
    /// The factor on the score.
    pub weight: f64,
}

/// Makes nodes of text, at most [`MOST_TERMS`] terms in all.
#[derive(Debug)]
pub struct Compiler {
    analyzer: Analyzer,
    terms_left: usize,
}

impl Compiler {
    /// A compiler for one query.
    pub fn new(analyzer: Analyzer) -> Self {
        Self { analyzer, terms_left: MOST_TERMS }
    }

    /// A bag of words over all fields. A repeated word counts as often as it is there.
    pub fn plain<'t>(&mut self, tokens: impl Iterator<Item = Token<'t>>) -> Node {
        Node::any_of(self.leaves(CONTENTS, tokens, 1.0))
    }

    /// A bracket; none when nothing in it can match (stop words only, or nothing but NOT).
    pub fn group(&mut self, group: &Group<'_>, weight: f64) -> Option<Node> {
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
                let field = field.map_or(CONTENTS, |f| f + 1);
                let weight = (weight * f64::from(boost)).min(LARGEST_WEIGHT);
                let tokens = self.analyzer.tokens(text);
                if !phrase {
                    let leaves = self.leaves(field, tokens, weight);
                    return (!leaves.is_empty()).then(|| Node::any_of(leaves));
                }
                let tokens: Vec<_> = tokens.take(self.terms_left).collect();
                self.terms_left -= tokens.len();
                let begin = tokens.first()?.position;
                let terms = tokens.into_iter().map(|t| (t.position - begin, t.stem)).collect();
                Some(Node::Leaf(Leaf { field, terms, weight }))
            }
        }
    }

    fn leaves<'t>(&mut self, field: usize, tokens: impl Iterator<Item = Token<'t>>, weight: f64) -> Vec<Node> {
        let leaf = |t: Token<'t>| Node::Leaf(Leaf { field, terms: vec![(0, t.stem)], weight });
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
            if let Node::Leaf(Leaf { field, terms, weight }) = &node
                && let [(_, term)] = terms.as_slice()
            {
                let place = *places.entry((*field, term.clone())).or_insert(merged.len());
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

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(text: &str) -> Vec<(String, f64)> {
        let analyzer = Analyzer::english();
        match Compiler::new(analyzer).plain(analyzer.tokens(text)) {
            Node::Group { should, .. } => should.iter().map(leaf).collect(),
            only => vec![leaf(&only)],
        }
    }

    fn leaf(node: &Node) -> (String, f64) {
        let Node::Leaf(leaf) = node else { panic!("a group in a bag of words") };
        (leaf.terms.iter().map(|t| t.1.as_str()).collect::<Vec<_>>().join(" "), leaf.weight)
    }

    #[test]
    fn a_word_written_twice_is_one_term_of_twice_the_weight() {
        assert_eq!(leaves("tea kettle teas"), [("tea".to_owned(), 2.0), ("kettl".to_owned(), 1.0)]);
    }

    #[test]
    fn a_query_has_no_more_terms_than_the_limit() {
        let text: Vec<String> = (0..MOST_TERMS + 10).map(|n| format!("w{n}")).collect();
        assert_eq!(leaves(&text.join(" ")).len(), MOST_TERMS);
    }

    #[test]
    fn nested_boosts_stay_finite() {
        let parsed = super::super::boolean::parse("((tea^1000)^1000)^1000", &[]);
        let node = Compiler::new(Analyzer::english()).group(&parsed, 1.0).unwrap();
        assert_eq!(leaf(&node), ("tea".to_owned(), LARGEST_WEIGHT));
    }
}
