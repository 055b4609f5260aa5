//! BM25 over all words of a document, with k1 = 1.2 and b = 0.75: the analysis and the formula of the native retriever.

use std::collections::HashMap;

use querywright_plugin::{Hit, Request, top};
use querywright_text::analysis::Analyzer;
use querywright_text::bm25::{LengthNorms, inverse_document_frequency};

/// How soon repeating a term stops to help.
const K1: f64 = 1.2;
/// How much long documents are held back.
const B: f64 = 0.75;
/// Words of a query that are looked for.
const MOST_WORDS: usize = 1024;

/// An inverted index. Documents are numbered in the order in which they were added.
#[derive(Default)]
pub struct Lexical {
    /// The documents that hold a word, in order, each with how often.
    postings: HashMap<String, Vec<(u32, u32)>>,
    /// Words of each document.
    lengths: Vec<u64>,
    norms: LengthNorms,
}

impl Lexical {
    /// Adds the next document.
    pub fn add(&mut self, texts: impl Iterator<Item = impl AsRef<str>>) {
        let document = self.lengths.len() as u32;
        let mut length = 0;
        for text in texts {
            for token in Analyzer::english().tokens(text.as_ref()) {
                let postings = self.postings.entry(token.stem).or_default();
                match postings.last_mut() {
                    Some((last, frequency)) if *last == document => *frequency += 1,
                    _ => postings.push((document, 1)),
                }
                length += 1;
            }
        }
        self.lengths.push(length);
    }

    /// Computes what depends on all documents.
    pub fn finish(&mut self) {
        self.norms = LengthNorms::new(self.lengths.iter().copied(), K1, B);
    }

    /// The best documents that hold a word of the query; `items` names them.
    pub fn best(&self, items: &[u32], request: &Request) -> Vec<Hit> {
        let mut scores: HashMap<u32, f64> = HashMap::new();
        // Summed in the order of the query's words, so that a request has the same scores each time.
        for token in Analyzer::english().tokens(&request.text).take(MOST_WORDS) {
            let Some(postings) = self.postings.get(&token.stem) else { continue };
            let idf = inverse_document_frequency(self.norms.documents(), postings.len() as u64);
            for (document, frequency) in postings {
                *scores.entry(*document).or_default() += idf * self.norms.saturation(*document, *frequency);
            }
        }
        let named = |(document, score): (u32, f64)| Some((*items.get(document as usize)?, score as f32));
        top(scores.into_iter().filter_map(named), request)
    }
}
