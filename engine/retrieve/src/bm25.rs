//! BM25 over a Tantivy index: the native sparse retriever.
//!
//! The formula is that of [`querywright_text::bm25`], with exact document lengths. Equal scores are ordered by ordinal.
//!
//! All text fields of a document together are the field `contents`, where words without a field are looked for.

mod disk;
mod explain;
mod index;

use std::path::Path;
use std::sync::Arc;

use tantivy::TantivyError;
use tantivy::directory::RamDirectory;

pub use explain::{Contribution, Explanation};

use crate::each::each;
use index::TextIndex;
use querywright_data::catalog::Catalog;
use querywright_data::digest::sha256_of;
use querywright_text::analysis::{ANALYSIS_VERSION, Analyzer};
use querywright_text::bm25::{InvertedIndex, Match, matches};
use querywright_text::boolean;
use querywright_text::query::{CONTENTS, Compiler, Node};
use querywright_types::{
    Deadline, Error, Fault, FaultKind, Hit, Ordinal, QueryLanguage, Ranking, Request, Result, Retriever, RetrieverCard,
};

/// The settings of [`Bm25`].
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bm25Config {
    /// How soon repeating a term stops to help; 0 and more. Default 1.2, as in Lucene. Anserini uses 0.9.
    pub k1: f32,
    /// How much long documents are held back, from 0 (not at all) to 1. Default 0.75, as in Lucene. Anserini: 0.4.
    pub b: f32,
    /// The language that the card asks rewriters to write in: plain (default) or boolean. Both are always read.
    pub language: QueryLanguage,
    /// What the catalogue holds, in a few words for the rewriter's prompt. Default "documents".
    pub content: String,
    /// Reproduces a bug of the published Rec-R1 code, for comparing with its figures and for nothing else. That code
    /// wraps every query into `(contents:…)` and then takes the whole for a bag of words: operators, quotes and
    /// brackets do nothing; where the query begins with a letter its first word fuses with `contents:` into a word
    /// that no document holds and is lost; where it does not, the word "contents" is searched for as well. Default
    /// false. The spelling with hyphens is still read.
    #[serde(alias = "rec-r1-contents-prefix")]
    pub rec_r1_contents_prefix: bool,
}

impl Default for Bm25Config {
    fn default() -> Self {
        Self {
            k1: 1.2,
            b: 0.75,
            language: QueryLanguage::Plain,
            content: "documents".to_owned(),
            rec_r1_contents_prefix: false,
        }
    }
}

impl Bm25Config {
    /// Refuses what has no meaning.
    ///
    /// # Errors
    /// [`Error::Argument`], naming the key and what would be right.
    pub fn validate(&self) -> Result<()> {
        if !(self.k1.is_finite() && self.k1 >= 0.0) {
            return Err(Error::argument("k1", self.k1.to_string(), "give a number of 0 or more, such as 1.2"));
        }
        if !(0.0..=1.0).contains(&self.b) {
            return Err(Error::argument("b", self.b.to_string(), "give a number from 0 to 1, such as 0.75"));
        }
        if self.language == QueryLanguage::Natural {
            let remedy = "BM25 reads plain or boolean queries; choose one of these";
            return Err(Error::argument("language", "natural", remedy));
        }
        Ok(())
    }
}

/// BM25 over a catalogue. Searching takes `&self` from any number of threads.
pub struct Bm25 {
    catalog: Arc<Catalog>,
    config: Bm25Config,
    analyzer: Analyzer,
    index: TextIndex,
    card: RetrieverCard,
}

impl std::fmt::Debug for Bm25 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bm25").field("config", &self.config).field("card", &self.card).finish_non_exhaustive()
    }
}

impl Bm25 {
    /// Builds the index in memory.
    ///
    /// # Errors
    /// A setting without meaning, or an index that could not be built (out of memory).
    pub fn in_memory(catalog: Arc<Catalog>, config: Bm25Config) -> Result<Self> {
        config.validate()?;
        let analyzer = Analyzer::english();
        let index = index::build(Box::new(RamDirectory::create()), &catalog, analyzer)
            .and_then(|index| open(&index, &catalog, &config))
            .map_err(|e| fault(&e))?;
        Ok(Self::new(catalog, config, analyzer, index))
    }

    /// Opens the index of this catalogue in `folder`, after building it there if it is missing.
    ///
    /// The folder may hold the indexes of any number of catalogues, each under the digest of all that shapes it (the
    /// catalogue, the analysis, the format; k1 and b do not shape it). An index becomes visible in one step when it is
    /// complete: one that was cut off or damaged is built anew (its digests are checked, so all of it is read when it is
    /// opened), and processes that build at the same time do not meet. Indexes may be deleted at any time. Never use a folder that others can write to.
    ///
    /// # Errors
    /// A setting without meaning, or a folder that cannot be read or written.
    pub fn open_or_build(catalog: Arc<Catalog>, config: Bm25Config, folder: &Path) -> Result<Self> {
        config.validate()?;
        let analyzer = Analyzer::english();
        let index = disk::open_or_build(folder, &catalog, analyzer, |index| open(index, &catalog, &config))?;
        Ok(Self::new(catalog, config, analyzer, index))
    }

    fn new(catalog: Arc<Catalog>, config: Bm25Config, analyzer: Analyzer, index: TextIndex) -> Self {
        let other =
            if config.language == QueryLanguage::Boolean { QueryLanguage::Plain } else { QueryLanguage::Boolean };
        let digest = sha256_of(&[
            "bm25",
            &index::FORMAT_VERSION.to_string(),
            ANALYSIS_VERSION,
            catalog.digest(),
            &config.k1.to_string(),
            &config.b.to_string(),
            &config.rec_r1_contents_prefix.to_string(),
        ]);
        let card = RetrieverCard::new("bm25", digest)
            .with_version(env!("CARGO_PKG_VERSION"))
            .with_languages([config.language, other])
            .with_fields(catalog.field_names().iter().cloned())
            .with_content(config.content.clone())
            .with_documents(catalog.len());
        Self { catalog, config, analyzer, index, card }
    }

    /// The catalogue that is searched.
    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// The settings.
    pub fn config(&self) -> &Bm25Config {
        &self.config
    }

    /// How texts become terms.
    pub fn analyzer(&self) -> Analyzer {
        self.analyzer
    }

    /// How many documents hold a stem in any field.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn document_frequency(&self, stem: &str) -> Result<u64, Fault> {
        self.index.document_frequency(CONTENTS, stem).map_err(|e| unreadable(&e))
    }

    /// Ranks one request.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn search(&self, request: &Request) -> Result<Ranking, Fault> {
        let found = matches(&self.index, &self.parse(request)).map_err(|e| unreadable(&e))?;
        Ok(best(found, request))
    }

    /// Why a document scores what it scores.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn explain(&self, request: &Request, document: Ordinal) -> Result<Explanation, Fault> {
        self.index.explain(&self.parse(request), document, self.catalog.field_names()).map_err(|e| unreadable(&e))
    }

    fn parse(&self, request: &Request) -> Node {
        let mut compiler = Compiler::new(self.analyzer);
        if self.config.rec_r1_contents_prefix {
            let wrapped = format!("({}:{})", index::CONTENTS_NAME, request.text);
            return compiler.plain(self.analyzer.tokens_joined_by_colons(&wrapped));
        }
        let parsed = match request.language {
            QueryLanguage::Boolean => compiler.group(&boolean::parse(&request.text, self.catalog.field_names()), 1.0),
            _ => None,
        };
        parsed.unwrap_or_else(|| Compiler::new(self.analyzer).plain(self.analyzer.tokens(&request.text)))
    }
}

impl Retriever for Bm25 {
    fn card(&self) -> &RetrieverCard {
        &self.card
    }

    fn retrieve(&self, requests: &[Request], deadline: Deadline) -> Vec<Result<Ranking, Fault>> {
        let search = |request: &Request| deadline.check_for(&self.card.name).and_then(|()| self.search(request));
        each(requests, search)
    }
}

fn open(index: &tantivy::Index, catalog: &Catalog, config: &Bm25Config) -> tantivy::Result<TextIndex> {
    TextIndex::open(index, catalog.len(), catalog.field_names().len(), config.k1, config.b)
}

/// The best `k` that are not excluded; of equal scores the lower ordinal goes first.
pub(crate) fn best(matches: Vec<Match>, request: &Request) -> Ranking {
    Ranking::best(matches.into_iter().map(|(doc, score)| Hit { doc, score: score as f32 }), request)
}

fn unreadable(error: &std::io::Error) -> Fault {
    Fault::new("bm25", FaultKind::Index, error.to_string())
}

fn fault(error: &TantivyError) -> Error {
    Error::Fault(Fault::new("bm25", FaultKind::Index, error.to_string()))
}

#[cfg(test)]
mod tests;
