//! The inverted index in memory, with what the scoring asks of it.

use std::collections::HashMap;
use std::io;

use querywright_plugin::{Document, Hit, QueryLanguage, Request, top};

use querywright_text::DocId;
use querywright_text::analysis::Analyzer;
use querywright_text::bm25::{InvertedIndex, LengthNorms, matches};
use querywright_text::boolean;
use querywright_text::query::{CONTENTS, Compiler, Leaf, Node};

/// Positions between the fields of a document in the joined field, so that no phrase matches across two fields.
const GAP_BETWEEN_FIELDS: u32 = 8;
/// How soon repeating a term stops to help.
const K1: f64 = 1.2;
/// How much long documents are held back.
const B: f64 = 0.75;

/// Takes up documents.
#[derive(Default)]
pub struct Builder {
    names: Vec<String>,
    slots: Vec<Slot>,
    documents: usize,
}

/// The postings of one field.
#[derive(Default)]
struct Slot {
    terms: HashMap<String, Postings>,
    /// Words of each document, up to the last one that has any.
    lengths: Vec<u32>,
    norms: LengthNorms,
}

/// Where a term stands.
#[derive(Default)]
struct Postings {
    /// Documents in order, each with its frequency.
    documents: Vec<(DocId, u32)>,
    /// The saturated frequency of each: what every search needs, computed once.
    saturations: Vec<f64>,
    /// All positions, document by document.
    positions: Vec<u32>,
}

impl Slot {
    fn add(&mut self, document: DocId, term: String, position: u32) {
        let postings = self.terms.entry(term).or_default();
        match postings.documents.last_mut() {
            Some((last, frequency)) if *last == document => *frequency += 1,
            _ => postings.documents.push((document, 1)),
        }
        postings.positions.push(position);
        let place = document as usize;
        if self.lengths.len() <= place {
            self.lengths.resize(place + 1, 0);
        }
        self.lengths[place] += 1;
    }

    fn finish(&mut self, documents: usize) {
        let mut lengths = std::mem::take(&mut self.lengths);
        lengths.resize(documents, 0);
        self.norms = LengthNorms::new(lengths.into_iter().map(u64::from), K1, B);
        for postings in self.terms.values_mut() {
            let saturation = |(document, frequency): &(DocId, u32)| self.norms.saturation(*document, *frequency);
            postings.saturations = postings.documents.iter().map(saturation).collect();
        }
    }

    /// How often the words stand at their distances, document by document.
    fn phrase_frequencies(&self, words: &[(u32, String)], mut visit: impl FnMut(DocId, u32)) {
        let mut cursors = Vec::with_capacity(words.len());
        for (offset, word) in words {
            let Some(postings) = self.terms.get(word) else { return };
            cursors.push((*offset, Cursor { postings, place: 0, from: 0 }));
        }
        let Some((first, others)) = cursors.split_first_mut() else { return };
        while let Some((document, positions)) = first.1.here() {
            let mut starts: Vec<u32> = positions.iter().filter_map(|p| p.checked_sub(first.0)).collect();
            for (offset, cursor) in others.iter_mut() {
                cursor.seek(document);
                match cursor.here().filter(|(found, _)| *found == document) {
                    Some((_, positions)) => starts.retain(|start| positions.binary_search(&(start + *offset)).is_ok()),
                    None => starts.clear(),
                }
                if starts.is_empty() {
                    break;
                }
            }
            if !starts.is_empty() {
                visit(document, starts.len() as u32);
            }
            first.1.advance();
        }
    }
}

/// A place in the postings of a term.
struct Cursor<'a> {
    postings: &'a Postings,
    place: usize,
    from: usize,
}

impl<'a> Cursor<'a> {
    fn here(&self) -> Option<(DocId, &'a [u32])> {
        let (document, frequency) = *self.postings.documents.get(self.place)?;
        Some((document, self.postings.positions.get(self.from..self.from + frequency as usize)?))
    }

    fn advance(&mut self) {
        if let Some((_, frequency)) = self.postings.documents.get(self.place) {
            self.from += *frequency as usize;
            self.place += 1;
        }
    }

    fn seek(&mut self, document: DocId) {
        while self.postings.documents.get(self.place).is_some_and(|found| found.0 < document) {
            self.advance();
        }
    }
}

impl Builder {
    /// Takes up the next document.
    pub fn add(&mut self, document: &Document) {
        let (analyzer, item) = (Analyzer::english(), document.item);
        self.documents = self.documents.max(item as usize + 1);
        if self.slots.is_empty() {
            self.slots.push(Slot::default());
        }
        // Where the next field begins in the joined one; none as long as nothing was said.
        let mut end: Option<u32> = None;
        for field in &document.fields {
            let slot = match self.names.iter().position(|name| *name == field.name) {
                Some(place) => place + 1,
                None => {
                    self.names.push(field.name.clone());
                    self.slots.push(Slot::default());
                    self.names.len()
                }
            };
            let begin = end.map_or(0, |end| end + GAP_BETWEEN_FIELDS);
            end = end.map(|_| begin);
            for token in analyzer.tokens(&field.value) {
                self.slots[CONTENTS].add(item, token.stem.clone(), begin + token.position);
                self.slots[slot].add(item, token.stem, token.position);
                end = Some(begin + token.position);
            }
        }
    }

    /// The index of all documents.
    pub fn finish(mut self) -> TextIndex {
        self.slots.iter_mut().for_each(|slot| slot.finish(self.documents));
        TextIndex { names: self.names, slots: self.slots, documents: self.documents }
    }
}

/// An index that is ready for searching.
#[derive(Default)]
pub struct TextIndex {
    names: Vec<String>,
    slots: Vec<Slot>,
    documents: usize,
}

impl TextIndex {
    /// Ranks a request. (The shared scoring may fail to read an index; this one never does.)
    pub fn search(&self, request: &Request) -> io::Result<Vec<Hit>> {
        let analyzer = Analyzer::english();
        let parsed = match request.language {
            QueryLanguage::Boolean => Compiler::new(analyzer).group(&boolean::parse(&request.text, &self.names), 1.0),
            QueryLanguage::Plain | QueryLanguage::Natural => None,
        };
        let node: Node = parsed.unwrap_or_else(|| Compiler::new(analyzer).plain(analyzer.tokens(&request.text)));
        Ok(top(matches(self, &node)?.into_iter().map(|(item, score)| (item, score as f32)), request))
    }
}

impl InvertedIndex for TextIndex {
    fn documents(&self) -> usize {
        self.documents
    }

    fn documents_with_field(&self, field: usize) -> io::Result<u64> {
        Ok(self.slots.get(field).map_or(0, |slot| slot.norms.documents()))
    }

    fn document_frequency(&self, field: usize, term: &str) -> io::Result<u64> {
        let postings = self.slots.get(field).and_then(|slot| slot.terms.get(term));
        Ok(postings.map_or(0, |postings| postings.documents.len() as u64))
    }

    fn saturations(&self, leaf: &Leaf, mut visit: impl FnMut(DocId, f64)) -> io::Result<()> {
        // Without documents there are no fields.
        let Some(slot) = self.slots.get(leaf.field) else { return Ok(()) };
        match leaf.terms.as_slice() {
            [(_, term)] => {
                let Some(postings) = slot.terms.get(term) else { return Ok(()) };
                // The host counts or looks at the clock once a turn of a loop, so eight postings are one turn.
                let (documents, last) = postings.documents.as_chunks::<8>();
                let (saturations, rest) = postings.saturations.as_chunks::<8>();
                for (documents, saturations) in documents.iter().zip(saturations) {
                    for nth in 0..8 {
                        visit(documents[nth].0, saturations[nth]);
                    }
                }
                last.iter().zip(rest).for_each(|((document, _), saturation)| visit(*document, *saturation));
            }
            words => slot.phrase_frequencies(words, |document, frequency| {
                visit(document, slot.norms.saturation(document, frequency));
            }),
        }
        Ok(())
    }
}
