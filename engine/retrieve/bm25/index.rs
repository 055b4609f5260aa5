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
use tantivy::tokenizer::{Token, TokenStream, Tokenizer};
use tantivy::{
    DocSet, Index, IndexBuilder, InvertedIndexReader, SegmentReader, SingleSegmentIndexWriter, TERMINATED,
    TantivyDocument, TantivyError, Term,
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
    let mut writer: SingleSegmentIndexWriter =
        Index::builder().schema(schema).single_segment_index_writer_with(directory)?;
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

/// Starts the one segment; its documents keep the order in which they are added.
trait SingleSegment {
    fn single_segment_index_writer_with(self, directory: Box<dyn Directory>)
    -> tantivy::Result<SingleSegmentIndexWriter>;
}

impl SingleSegment for IndexBuilder {
    fn single_segment_index_writer_with(
        self,
        directory: Box<dyn Directory>,
    ) -> tantivy::Result<SingleSegmentIndexWriter> {
        let index = self.tokenizers(tokenizers()).create(directory)?;
        SingleSegmentIndexWriter::new(index, WRITER_BYTES)
    }
}
