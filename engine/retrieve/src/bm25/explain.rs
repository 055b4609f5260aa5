//! Why a document scores what it scores.

use std::fmt;
use std::io;

use super::index::{CONTENTS_NAME, TextIndex};
use querywright_text::bm25::leaf_idf;
use querywright_text::query::{CONTENTS, Leaf, Node};
use querywright_types::Ordinal;

/// The parts of a document's score for one request.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct Explanation {
    /// The document.
    pub document: Ordinal,
    /// Whether the query matches it at all.
    pub matches: bool,
    /// Its score, the sum of the contributions; 0 when it does not match.
    pub score: f32,
    /// What each term or phrase adds, in the order of the query; empty when it does not match.
    pub contributions: Vec<Contribution>,
}

/// What one term or phrase of the query adds to the score: `weight * idf * saturated`.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct Contribution {
    /// The term as it stands in the index, with its field: "contents:relat", "title:\"dark knight\"".
    pub term: String,
    /// How often it is in the document.
    pub frequency: u32,
    /// Its inverse document frequency.
    pub idf: f32,
    /// Its frequency, saturated by k1 and weighed against the document's length: from 0 to 1.
    pub saturated: f32,
    /// Its boost; a word written twice has 2.
    pub weight: f32,
    /// What it adds to the score.
    pub contribution: f32,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.matches {
            return writeln!(f, "document {}: no match", self.document);
        }
        writeln!(f, "document {}: {:.4}", self.document, self.score)?;
        for c in &self.contributions {
            let Contribution { term, frequency, idf, saturated, weight, contribution } = c;
            writeln!(
                f,
                "  {contribution:>8.4}  {term}  (weight {weight} * idf {idf:.4} * tf {saturated:.4}, {frequency} times)"
            )?;
        }
        Ok(())
    }
}

impl TextIndex {
    pub(super) fn explain(&self, node: &Node, document: Ordinal, fields: &[String]) -> io::Result<Explanation> {
        let mut contributions = Vec::new();
        let matches = self.contributions(node, document, fields, &mut contributions)?;
        if !matches {
            contributions.clear();
        }
        let score = contributions.iter().map(|c| f64::from(c.contribution)).sum::<f64>() as f32;
        Ok(Explanation { document, matches, score, contributions })
    }

    /// Whether the node matches the document; adds the contributions of what does.
    fn contributions(
        &self,
        node: &Node,
        document: Ordinal,
        fields: &[String],
        out: &mut Vec<Contribution>,
    ) -> io::Result<bool> {
        let (must, should, must_not) = match node {
            Node::Leaf(leaf) => {
                let found = self.contribution(leaf, document, fields)?;
                let matches = found.is_some();
                out.extend(found);
                return Ok(matches);
            }
            Node::Group { must, should, must_not } => (must, should, must_not),
        };
        let before = out.len();
        for forbidden in must_not {
            let matches = self.contributions(forbidden, document, fields, out)?;
            out.truncate(before);
            if matches {
                return Ok(false);
            }
        }
        for required in must {
            if !self.contributions(required, document, fields, out)? {
                out.truncate(before);
                return Ok(false);
            }
        }
        let mut any = !must.is_empty();
        for optional in should {
            any |= self.contributions(optional, document, fields, out)?;
        }
        Ok(any)
    }

    fn contribution(&self, leaf: &Leaf, document: Ordinal, fields: &[String]) -> io::Result<Option<Contribution>> {
        let mut frequency = 0;
        self.frequencies(leaf, |found, times| {
            if found == document {
                frequency = times;
            }
        })?;
        if frequency == 0 {
            return Ok(None);
        }
        let (idf, saturated) = (leaf_idf(self, leaf)?, self.saturation(leaf.field, document, frequency)?);
        let field = if leaf.field == CONTENTS { None } else { fields.get(leaf.field - 1) };
        let words = leaf.terms.iter().map(|t| t.1.as_str()).collect::<Vec<_>>().join(" ");
        let quote = if leaf.terms.len() > 1 { "\"" } else { "" };
        Ok(Some(Contribution {
            term: format!("{}:{quote}{words}{quote}", field.map_or(CONTENTS_NAME, String::as_str)),
            frequency,
            idf: idf as f32,
            saturated: saturated as f32,
            weight: leaf.weight as f32,
            contribution: (leaf.weight * idf * saturated) as f32,
        }))
    }
}
