//! The inverted index: one Tantivy segment whose document numbers are the catalogue's ordinals.
//!
//! Tantivy keeps the dictionary, the postings and the positions. Two things of its own scoring are not used:
//! - its k1 and b are constants of its code; here they are settings;
//! - its document lengths are rounded to one byte (as Lucene's are: exact up to 40 words, then within some 6 %); here
//!   they are exact, kept as a column beside the postings, at four bytes a document and field in memory.

use std::io;
use std::sync::Arc;

use tantivy::directory::Directory;
use tantivy::postings::Postings;
use tantivy::schema::{FAST, Field, IndexRecordOption, Schema, TextFieldIndexing, TextOptions};
use tantivy::tokenizer::{TextAnalyzer, Token, TokenStream, Tokenizer, TokenizerManager};
use tantivy::{
    DocSet, Index, InvertedIndexReader, SegmentReader, SingleSegmentIndexWriter, TERMINATED, TantivyDocument,
    TantivyError, Term,
};

use super::score::Leaf;
use crate::catalog::Catalog;
use crate::retrieve::analysis::Analyzer;
use crate::types::Ordinal;

/// Raise with every change of what is written below.
pub(super) const FORMAT_VERSION: u32 = 1;

/// The index of all fields joined comes first, then one for each field.
pub(super) const CONTENTS: usize = 0;

/// The name of the joined field in queries.
pub(super) const CONTENTS_NAME: &str = "contents";

/// Positions between the fields of a document in the joined field, so that no phrase matches across two fields.
const GAP_BETWEEN_FIELDS: &str = "        ";

/// What Tantivy's writer may hold before it would spill; a single segment never does.
const WRITER_BYTES: usize = 15_000_000;

/// An index that is open for searching.
pub(super) struct TextIndex {
    documents: usize,
    fields: Vec<FieldIndex>,
}

/// The postings of one field.
struct FieldIndex {
    field: Field,
    postings: Arc<InvertedIndexReader>,
    /// How many documents have a word in this field: Lucene's N.
    documents: u64,
    /// k1 * (1 - b + b * length / average length), by document.
    norms: Vec<f32>,
}

/// Writes the index of a catalogue into an empty directory.
pub(super) fn build(directory: Box<dyn Directory>, catalog: &Catalog, analyzer: Analyzer) -> tantivy::Result<Index> {
    let names = catalog.field_names();
    let (schema, texts, lengths) = schema(names.len());
    let mut writer: SingleSegmentIndexWriter = Index::builder()
        .schema(schema)
        .tokenizers(tokenizers())
        .single_segment_index_writer(directory, WRITER_BYTES)?;
    let mut counts = vec![0_u64; texts.len()];
    for ordinal in 0..catalog.len() {
        let mut document = TantivyDocument::new();
        counts.fill(0);
        let mut contents = String::new();
        for (name, text) in catalog.document(ordinal as Ordinal).fields() {
            let (analysed, count) = analysed(analyzer, text);
            if !contents.is_empty() {
                contents.push_str(GAP_BETWEEN_FIELDS);
            }
            contents.push_str(&analysed);
            let slot = names.iter().position(|n| n == name).map_or(CONTENTS, |n| n + 1);
            for slot in [CONTENTS, slot] {
                if let Some(counted) = counts.get_mut(slot) {
                    *counted += count;
                }
            }
            if let Some(&field) = texts.get(slot).filter(|_| slot != CONTENTS) {
                document.add_text(field, analysed);
            }
        }
        if let Some(&field) = texts.first() {
            document.add_text(field, contents);
        }
        for (&field, &count) in lengths.iter().zip(&counts) {
            document.add_u64(field, count);
        }
        writer.add_document(document)?;
    }
    writer.finalize()
}

/// The fields of the index: the texts (the joined one first) and the column of lengths of each.
fn schema(named: usize) -> (Schema, Vec<Field>, Vec<Field>) {
    let indexing = TextFieldIndexing::default()
        .set_tokenizer(ANALYSED)
        .set_fieldnorms(false)
        .set_index_option(IndexRecordOption::WithFreqsAndPositions);
    let mut schema = Schema::builder();
    // Numbers, not the catalogue's names: Tantivy has rules for names that a data set need not know.
    let (texts, lengths) = (0..=named)
        .map(|n| {
            let text =
                schema.add_text_field(&text_name(n), TextOptions::default().set_indexing_options(indexing.clone()));
            (text, schema.add_u64_field(&length_name(n), FAST))
        })
        .unzip();
    (schema.build(), texts, lengths)
}

fn text_name(slot: usize) -> String {
    format!("text{slot}")
}

fn length_name(slot: usize) -> String {
    format!("length{slot}")
}

/// The terms of a text, each behind the position that it stands at, and how many there are.
///
/// Analysis is the dearest step and each text goes into two fields, so it is done once and handed over as terms with
/// one space between positions: "the cat of Rome" is " cat  rome". No term holds a space.
fn analysed(analyzer: Analyzer, text: &str) -> (String, u64) {
    let (mut analysed, mut position, mut count) = (String::with_capacity(text.len()), 0, 0);
    for token in analyzer.tokens(text) {
        while position < token.position {
            analysed.push(' ');
            position += 1;
        }
        analysed.push_str(&token.stem);
        count += 1;
    }
    (analysed, count)
}

const ANALYSED: &str = "analysed";

pub(super) fn tokenizers() -> TokenizerManager {
    // With the defaults: the writer looks one up for every field, numbers included.
    let tokenizers = TokenizerManager::default();
    tokenizers.register(ANALYSED, TextAnalyzer::from(AnalysedText));
    tokenizers
}

/// Reads what [`analysed`] wrote.
#[derive(Clone)]
struct AnalysedText;

struct AnalysedTerms<'a> {
    terms: std::iter::Enumerate<std::str::Split<'a, char>>,
    token: Token,
}

impl Tokenizer for AnalysedText {
    type TokenStream<'a> = AnalysedTerms<'a>;

    fn token_stream<'a>(&'a mut self, text: &'a str) -> AnalysedTerms<'a> {
        AnalysedTerms { terms: text.split(' ').enumerate(), token: Token::default() }
    }
}

impl TokenStream for AnalysedTerms<'_> {
    fn advance(&mut self) -> bool {
        let Some((position, term)) = self.terms.find(|(_, term)| !term.is_empty()) else { return false };
        self.token.position = position;
        self.token.text.clear();
        self.token.text.push_str(term);
        true
    }

    fn token(&self) -> &Token {
        &self.token
    }

    fn token_mut(&mut self) -> &mut Token {
        &mut self.token
    }
}

impl TextIndex {
    /// Opens what [`build`] wrote for a catalogue of so many documents and named fields.
    pub(super) fn open(index: &Index, documents: usize, named: usize, k1: f32, b: f32) -> tantivy::Result<Self> {
        let segments = index.searchable_segments()?;
        let [segment] = segments.as_slice() else {
            return Err(TantivyError::InternalError(format!("{} segments instead of one", segments.len())));
        };
        // Not through an IndexReader: that one writes a lock file into the folder, which may be read-only.
        let segment = SegmentReader::open(segment)?;
        if segment.max_doc() as usize != documents {
            return Err(TantivyError::InternalError(format!("{} documents, not {documents}", segment.max_doc())));
        }
        let fields = (0..=named).map(|slot| FieldIndex::open(&segment, slot, k1, b)).collect::<Result<_, _>>()?;
        Ok(Self { documents, fields })
    }

    /// How many documents there are.
    pub(super) fn documents(&self) -> usize {
        self.documents
    }

    /// How many documents hold a term in a field.
    pub(super) fn document_frequency(&self, slot: usize, term: &str) -> io::Result<u64> {
        let Some(field) = self.fields.get(slot) else { return Ok(0) };
        field.postings.doc_freq(&field.term(term)).map(u64::from)
    }

    /// The inverse document frequency of a leaf, as Lucene has it; a phrase has the sum of its words'.
    pub(super) fn idf(&self, leaf: &Leaf) -> io::Result<f64> {
        let documents = self.fields.get(leaf.slot).map_or(0, |f| f.documents) as f64;
        let mut sum = 0.0;
        for (_, term) in &leaf.terms {
            let holding = self.document_frequency(leaf.slot, term)? as f64;
            sum += (1.0 + (documents - holding + 0.5) / (holding + 0.5)).ln();
        }
        Ok(sum)
    }

    /// Calls `visit` with every document that holds the leaf, in order, and its saturated frequency there.
    pub(super) fn saturations(&self, leaf: &Leaf, mut visit: impl FnMut(Ordinal, f64)) -> io::Result<()> {
        self.frequencies(leaf, |document, frequency| visit(document, self.saturated(leaf.slot, document, frequency)))
    }

    /// The same with how often each document holds it.
    pub(super) fn frequencies(&self, leaf: &Leaf, mut visit: impl FnMut(Ordinal, u32)) -> io::Result<()> {
        let Some(field) = self.fields.get(leaf.slot) else { return Ok(()) };
        match leaf.terms.as_slice() {
            [] => Ok(()),
            [(_, term)] => {
                let found = field.postings.read_block_postings(&field.term(term), IndexRecordOption::WithFreqs)?;
                let Some(mut blocks) = found else { return Ok(()) };
                while blocks.block_len() > 0 {
                    for (&document, &frequency) in blocks.docs().iter().zip(blocks.freqs()) {
                        visit(document, frequency);
                    }
                    blocks.advance();
                }
                Ok(())
            }
            words => field.phrase_frequencies(words, visit),
        }
    }

    /// A word's saturated frequency: tf / (tf + norm), between 0 and 1.
    pub(super) fn saturated(&self, slot: usize, document: Ordinal, frequency: u32) -> f64 {
        let norm = self.fields.get(slot).and_then(|f| f.norms.get(document as usize)).copied().unwrap_or_default();
        let frequency = f64::from(frequency);
        frequency / (frequency + f64::from(norm))
    }
}

impl FieldIndex {
    fn open(segment: &SegmentReader, slot: usize, k1: f32, b: f32) -> tantivy::Result<Self> {
        let field = segment.schema().get_field(&text_name(slot))?;
        let column = segment.fast_fields().u64(&length_name(slot))?.first_or_default_col(0);
        let lengths = || (0..segment.max_doc()).map(|document| column.get_val(document));
        let documents = lengths().filter(|&length| length > 0).count() as u64;
        let average = lengths().sum::<u64>() as f64 / documents.max(1) as f64;
        let (k1, b) = (f64::from(k1), f64::from(b));
        let norms = lengths().map(|length| (k1 * (1.0 - b + b * length as f64 / average.max(1.0))) as f32).collect();
        Ok(Self { field, postings: segment.inverted_index(field)?, documents, norms })
    }

    fn term(&self, term: &str) -> Term {
        Term::from_field_text(self.field, term)
    }

    /// How often the words stand at their distances: documents that hold all of them, then their positions.
    fn phrase_frequencies(&self, words: &[(u32, String)], mut visit: impl FnMut(Ordinal, u32)) -> io::Result<()> {
        let mut cursors = Vec::with_capacity(words.len());
        for (offset, word) in words {
            let option = IndexRecordOption::WithFreqsAndPositions;
            let Some(postings) = self.postings.read_postings(&self.term(word), option)? else { return Ok(()) };
            cursors.push((*offset, postings));
        }
        let mut starts: Vec<u32> = Vec::new();
        let mut positions: Vec<u32> = Vec::new();
        let mut document = 0;
        loop {
            // Every cursor moves to `document`; one that lands beyond sets a new aim for all.
            let mut aim = document;
            for (_, cursor) in &mut cursors {
                aim = aim.max(if cursor.doc() < aim { cursor.seek(aim) } else { cursor.doc() });
            }
            if aim == TERMINATED {
                return Ok(());
            }
            if aim > document {
                document = aim;
                continue;
            }
            if cursors.iter().all(|(_, cursor)| cursor.doc() == document) {
                for (nth, (offset, cursor)) in cursors.iter_mut().enumerate() {
                    positions.clear();
                    cursor.append_positions_with_offset(0, &mut positions);
                    let begins = positions.iter().filter_map(|p| p.checked_sub(*offset));
                    if nth == 0 {
                        starts.clear();
                        starts.extend(begins);
                    } else {
                        let begins: Vec<u32> = begins.collect();
                        starts.retain(|start| begins.binary_search(start).is_ok());
                    }
                }
                if !starts.is_empty() {
                    visit(document, starts.len() as u32);
                }
            }
            document += 1;
        }
    }
}
