//! The inverted index: one Tantivy segment whose document numbers are the catalogue's ordinals.
//!
//! Tantivy keeps the dictionary, the postings and the positions. Two things of its own scoring are not used:
//! - its k1 and b are constants of its code; here they are settings;
//! - its document lengths are rounded to one byte (as Lucene's are: exact up to 40 words, then within some 6 %); here
//!   they are exact, kept as a column beside the postings, at four bytes a document and field in memory.

use std::io;
use std::sync::Arc;

use tantivy::directory::Directory;
use tantivy::postings::{Postings, SegmentPostings};
use tantivy::schema::{FAST, Field, IndexRecordOption, Schema, TextFieldIndexing, TextOptions};
use tantivy::tokenizer::{TextAnalyzer, Token, TokenStream, Tokenizer, TokenizerManager};
use tantivy::{
    DocSet, Index, InvertedIndexReader, SegmentReader, SingleSegmentIndexWriter, TERMINATED, TantivyDocument,
    TantivyError, Term,
};

use querywright_data::catalog::Catalog;
use querywright_text::DocId;
use querywright_text::analysis::Analyzer;
use querywright_text::bm25::{InvertedIndex, LengthNorms};
use querywright_text::query::{CONTENTS, Leaf};
use querywright_types::Ordinal;

/// Raise with every change of what is written below.
pub(super) const FORMAT_VERSION: u32 = 1;

/// The name of the joined field in queries.
pub(super) const CONTENTS_NAME: &str = "contents";

/// Positions between the fields of a document in the joined field, so that no phrase matches across two fields.
const GAP_BETWEEN_FIELDS: &str = "        ";

/// What Tantivy's writer may hold before it would spill; a single segment never does.
const WRITER_BYTES: usize = 15_000_000;

/// An index that is open for searching.
pub(super) struct TextIndex {
    documents: usize,
    /// The joined field first, then one for each field of the catalogue.
    fields: Vec<FieldIndex>,
}

/// The postings of one field.
struct FieldIndex {
    field: Field,
    postings: Arc<InvertedIndexReader>,
    norms: LengthNorms,
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
            let Some(place) = names.iter().position(|n| n == name) else {
                return Err(TantivyError::InternalError(format!("the catalogue does not name its field {name:?}")));
            };
            counts[CONTENTS] += count;
            counts[place + 1] += count;
            document.add_text(texts[place + 1], analysed);
        }
        document.add_text(texts[CONTENTS], contents);
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

fn text_name(field: usize) -> String {
    format!("text{field}")
}

fn length_name(field: usize) -> String {
    format!("length{field}")
}

/// The terms of a text, each behind the position that it stands at, and how many there are.
///
/// Analysis is the most expensive step and each text goes into two fields, so it is done once and handed over as terms with
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
        let fields = (0..=named).map(|field| FieldIndex::open(&segment, field, k1, b)).collect::<Result<_, _>>()?;
        Ok(Self { documents, fields })
    }

    /// Calls `visit` with every document that holds the leaf, in order, and how often it does.
    pub(super) fn frequencies(&self, leaf: &Leaf, mut visit: impl FnMut(DocId, u32)) -> io::Result<()> {
        let field = self.field(leaf.field)?;
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

    /// The saturated frequency of a term in a document.
    pub(super) fn saturation(&self, field: usize, document: DocId, frequency: u32) -> io::Result<f64> {
        Ok(self.field(field)?.norms.saturation(document, frequency))
    }

    /// A field by its number; a query is compiled from the names of these fields, so it knows no other.
    fn field(&self, number: usize) -> io::Result<&FieldIndex> {
        let fields = self.fields.len();
        self.fields
            .get(number)
            .ok_or_else(|| io::Error::other(format!("the query asks for field {number} of an index of {fields}")))
    }
}

impl InvertedIndex for TextIndex {
    fn documents(&self) -> usize {
        self.documents
    }

    fn documents_with_field(&self, field: usize) -> io::Result<u64> {
        Ok(self.field(field)?.norms.documents())
    }

    fn document_frequency(&self, field: usize, term: &str) -> io::Result<u64> {
        let field = self.field(field)?;
        field.postings.doc_freq(&field.term(term)).map(u64::from)
    }

    fn saturations(&self, leaf: &Leaf, mut visit: impl FnMut(DocId, f64)) -> io::Result<()> {
        let norms = &self.field(leaf.field)?.norms;
        self.frequencies(leaf, |document, frequency| visit(document, norms.saturation(document, frequency)))
    }
}

impl FieldIndex {
    fn open(segment: &SegmentReader, number: usize, k1: f32, b: f32) -> tantivy::Result<Self> {
        let field = segment.schema().get_field(&text_name(number))?;
        let column = segment.fast_fields().u64(&length_name(number))?.first_or_default_col(0);
        let lengths = (0..segment.max_doc()).map(|document| column.get_val(document));
        let norms = LengthNorms::new(lengths, f64::from(k1), f64::from(b));
        Ok(Self { field, postings: segment.inverted_index(field)?, norms })
    }

    fn term(&self, term: &str) -> Term {
        Term::from_field_text(self.field, term)
    }

    /// How often the words stand at their distances: documents that hold all of them, then their positions.
    fn phrase_frequencies(&self, words: &[(u32, String)], mut visit: impl FnMut(DocId, u32)) -> io::Result<()> {
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
            // Every cursor moves to `document`; one that lands beyond it sets a new target for all.
            let mut target = document;
            for (_, cursor) in &mut cursors {
                target = target.max(if cursor.doc() < target { cursor.seek(target) } else { cursor.doc() });
            }
            if target == TERMINATED {
                return Ok(());
            }
            if target > document {
                document = target;
                continue;
            }
            if cursors.iter().all(|(_, cursor)| cursor.doc() == document) {
                phrase_starts(&mut cursors, &mut starts, &mut positions);
                if !starts.is_empty() {
                    visit(document, starts.len() as u32);
                }
            }
            document += 1;
        }
    }
}

/// Fills `starts` with the positions at which the phrase begins in the document that all cursors stand at. `positions`
/// is memory to work in.
fn phrase_starts(cursors: &mut [(u32, SegmentPostings)], starts: &mut Vec<u32>, positions: &mut Vec<u32>) {
    for (nth, (offset, cursor)) in cursors.iter_mut().enumerate() {
        positions.clear();
        cursor.append_positions_with_offset(0, positions);
        let begins = positions.iter().filter_map(|p| p.checked_sub(*offset));
        if nth == 0 {
            starts.clear();
            starts.extend(begins);
        } else {
            let begins: Vec<u32> = begins.collect();
            starts.retain(|start| begins.binary_search(start).is_ok());
        }
    }
}
