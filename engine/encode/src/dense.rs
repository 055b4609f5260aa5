//! Dense retrieval: documents and queries are vectors, and the nearest ones are found, by looking at all or through a graph.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use crate::encoder::{Encoder, EncoderConfig, InputType};
use crate::hnsw::{HnswConfig, Vectors};
use crate::store::{self, Kept};
use crate::words::words;
use querywright_data::catalog::Catalog;
use querywright_data::digest::sha256_of;
use querywright_types::{
    Deadline, Error, Fault, FaultKind, Observe, Ordinal, QueryLanguage, Ranking, Request, Result, Retriever,
    RetrieverCard,
};

mod scan;

pub use scan::Recall;
use scan::{QUERIES, Scan};

/// The encoder that is used where none is named: small and English.
const MODEL: &str = "all-minilm-l6-v2";

/// Documents that are encoded between two looks at progress and at the disk.
const DOCUMENTS: usize = 4096;

/// Dense retrieval in a configuration: `[retriever.dense]`.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DenseConfig {
    /// The encoder: a name of `model list`, `hf:owner/name`, or a folder. Default `all-minilm-l6-v2`.
    pub model: String,
    /// The weight of the vectors' ranking beside that of BM25. Default: none, the vectors rank alone; 1 weighs both alike.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hybrid: Option<f64>,
    /// How the two rankings become one. Default `ranks`.
    #[serde(skip_serializing_if = "is_default")]
    pub fusion: HybridFusion,
    /// Whether tuning the base (`train.tune`) tunes the weight `hybrid`, too, from the one given on. Default false.
    #[serde(skip_serializing_if = "is_default")]
    pub tune_hybrid: bool,
    /// How the nearest documents are found. Default `exact`: all are looked at.
    #[serde(skip_serializing_if = "is_default")]
    pub index: VectorIndex,
    /// In which precision all documents are looked at, where `index` is `exact`. Default `f32`.
    #[serde(skip_serializing_if = "is_default")]
    pub precision: VectorPrecision,
    /// How the graph is made and searched, where `index` is `hnsw`.
    #[serde(skip_serializing_if = "is_default")]
    pub hnsw: HnswConfig,
    /// What takes the place of what the encoder's folder says. Default: nothing.
    pub encoder: EncoderConfig,
}

impl Default for DenseConfig {
    fn default() -> Self {
        Self {
            model: MODEL.to_owned(),
            hybrid: None,
            fusion: HybridFusion::default(),
            tune_hybrid: false,
            index: VectorIndex::default(),
            hnsw: HnswConfig::default(),
            precision: VectorPrecision::default(),
            encoder: EncoderConfig::default(),
        }
    }
}

/// How the rankings of BM25 and of the vectors become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum HybridFusion {
    /// By reciprocal ranks, with the constant 60.
    #[default]
    Ranks,
    /// By scores, each as a share of the best of its ranking.
    Scores,
}

/// How the nearest documents are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum VectorIndex {
    /// All are looked at.
    #[default]
    Exact,
    /// Through a graph (HNSW), which misses some: for catalogues of more than some hundred thousand documents.
    Hnsw,
}

/// In which precision all documents are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum VectorPrecision {
    /// Single precision.
    #[default]
    F32,
    /// bf16 chooses what may be among the best, and single precision orders these: the ranking is the same. Faster where the
    /// processor multiplies bf16, and takes half as much memory again.
    Bf16,
}

impl DenseConfig {
    /// Refuses settings of the search that do not go together. The message names the key.
    ///
    /// # Errors
    /// [`Error::Argument`]: the key, what was found, what would be right.
    pub fn validate(&self) -> Result<()> {
        self.hnsw.validate()?;
        if self.index == VectorIndex::Hnsw && self.precision != VectorPrecision::F32 {
            let remedy = "leave it out, or set index = \"exact\"";
            return Err(Error::argument("precision", "bf16, and a graph is gone through in single precision", remedy));
        }
        if self.index == VectorIndex::Exact && self.hnsw != HnswConfig::default() {
            let remedy = "set it to hnsw (index=hnsw), or leave the settings of the graph out";
            return Err(Error::argument("index", "settings of a graph, and index is exact", remedy));
        }
        Ok(())
    }
}

/// What stands as it is by default is not written, so that the digest of older runs stays.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The vectors of a catalogue. Searching takes `&self` from any number of threads, looks at every document unless it is told
/// otherwise ([`with_search`](Self::with_search)), and orders equal scores by ordinal.
pub struct Dense {
    catalog: Arc<Catalog>,
    encoder: Arc<Encoder>,
    /// Of all documents, row by row.
    vectors: Vec<f32>,
    scan: Scan,
    card: RetrieverCard,
}

impl std::fmt::Debug for Dense {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dense").field("encoder", &self.encoder).field("card", &self.card).finish_non_exhaustive()
    }
}

impl Dense {
    /// Encodes a catalogue, and keeps the vectors in memory alone. `content` says what it holds, in a few words for the
    /// rewriter's prompt.
    ///
    /// # Errors
    /// Those of [`Encoder::encode`].
    pub fn in_memory(
        catalog: Arc<Catalog>,
        encoder: Arc<Encoder>,
        content: &str,
        observer: &(dyn Observe + Sync),
    ) -> Result<Self> {
        let vectors = encoded(&catalog, &encoder, observer)?;
        Ok(Self::new(catalog, encoder, content, vectors))
    }

    /// Opens the vectors of this catalogue by this encoder in `folder`, after making them there if they are missing.
    ///
    /// The folder may hold those of any number of catalogues and encoders, each under the digest of all that shapes them:
    /// documents, weights, tokenizer, pooling, prefix, length. A file becomes visible in one step when it is complete; one
    /// that was cut off or damaged is made anew (its digest is checked). They may be deleted at any time. Never use a
    /// folder that others can write to.
    ///
    /// # Errors
    /// Those of [`Encoder::encode`], and a folder that cannot be read or written.
    pub fn open_or_build(
        catalog: Arc<Catalog>,
        encoder: Arc<Encoder>,
        content: &str,
        folder: &Path,
        observer: &(dyn Observe + Sync),
    ) -> Result<Self> {
        let key = key(&catalog, &encoder);
        let kept = Kept { kind: "vectors", key: &key, width: encoder.width(), rows: Some(catalog.len()) };
        let vectors = store::open_or_make(folder, kept, || encoded(&catalog, &encoder, observer))?;
        Ok(Self::new(catalog, encoder, content, vectors))
    }

    /// The same, searched as a configuration's `index`, `hnsw` and `precision` say. A graph is made, and with a folder kept
    /// there, under a digest of the vectors and its settings, as the vectors are.
    ///
    /// # Errors
    /// Settings that do not go together, and a folder that cannot be read or written.
    pub fn with_search(
        mut self,
        config: &DenseConfig,
        folder: Option<&Path>,
        observer: &(dyn Observe + Sync),
    ) -> Result<Self> {
        let key = key(&self.catalog, &self.encoder);
        self.scan = Scan::of(config, self.rows(), &key, folder, observer)?;
        // In bf16 the ranking is the same.
        if let Scan::Graph { recall, .. } = &self.scan {
            self.card.version += &format!(" (hnsw, recall@10 {:.3})", recall.at_10);
            self.card.digest = sha256_of(&[&self.card.digest, &format!("{} {:?}", scan::GRAPH_VERSION, config.hnsw)]);
        }
        Ok(self)
    }

    /// How much of what is nearest is found; none where all documents are looked at.
    pub fn recall(&self) -> Option<Recall> {
        match &self.scan {
            Scan::Graph { recall, .. } => Some(*recall),
            _ => None,
        }
    }

    fn rows(&self) -> Vectors<'_> {
        Vectors { values: &self.vectors, width: self.encoder.width() }
    }

    fn new(catalog: Arc<Catalog>, encoder: Arc<Encoder>, content: &str, vectors: Vec<f32>) -> Self {
        let version = store::FORMAT_VERSION.to_string();
        let digest =
            sha256_of(&["dense", &version, catalog.digest(), encoder.digest(), encoder.prefix(InputType::Query)]);
        let card = RetrieverCard::new("dense", digest)
            .with_version(env!("CARGO_PKG_VERSION"))
            .with_languages([QueryLanguage::Natural, QueryLanguage::Plain])
            .with_content(content)
            .with_documents(catalog.len());
        Self { catalog, encoder, vectors, scan: Scan::All, card }
    }

    /// The catalogue that is searched.
    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// What makes the vectors.
    pub fn encoder(&self) -> &Arc<Encoder> {
        &self.encoder
    }

    /// The vector of a document; none where the catalogue has no such document.
    pub fn vector(&self, document: Ordinal) -> Option<&[f32]> {
        let width = self.encoder.width();
        let start = (document as usize).checked_mul(width)?;
        self.vectors.get(start..start + width)
    }

    /// Ranks by vectors of one's own, one a request, whose texts are not read: the mean of the vectors of pseudo-documents,
    /// or of documents that were liked.
    ///
    /// # Errors
    /// [`Error::Argument`] where a vector has another width than the documents', or holds what is no number.
    pub fn search(&self, vectors: &[Vec<f32>], requests: &[Request]) -> Result<Vec<Ranking>> {
        let width = self.encoder.width();
        if vectors.len() != requests.len() {
            let found = format!("{} for {} requests", vectors.len(), requests.len());
            return Err(Error::argument("vectors", found, "give one for each request"));
        }
        if let Some(wrong) = vectors.iter().find(|v| v.len() != width || v.iter().any(|value| !value.is_finite())) {
            let found = format!("one of {} values, or with one that is no number", wrong.len());
            return Err(Error::argument("vectors", found, format!("give {width} finite values each")));
        }
        Ok(self.nearest(&vectors.concat(), requests, Deadline::NONE).into_iter().collect::<Result<_, Fault>>()?)
    }

    /// Ranks requests by their vectors, one behind the other. Those that are not begun when the deadline passes have no
    /// answer in time.
    fn nearest(&self, queries: &[f32], requests: &[Request], deadline: Deadline) -> Vec<Result<Ranking, Fault>> {
        let width = self.encoder.width();
        let parts = queries.chunks(width * QUERIES).zip(requests.chunks(QUERIES));
        let answers = |(queries, requests): (&[f32], &[Request])| match deadline.check_for("dense") {
            Ok(()) => self.scan.rank(self.rows(), queries, requests).into_iter().map(Ok).collect(),
            Err(late) => vec![Err(late); requests.len()],
        };
        parts.flat_map(answers).collect()
    }

    fn answered(&self, requests: &[Request], deadline: Deadline) -> Result<Vec<Result<Ranking, Fault>>> {
        let texts: Vec<Cow<'_, str>> = requests.iter().map(|request| self.text(request)).collect();
        let queries = self.encoder.encode(&texts, InputType::Query, deadline, &())?;
        Ok(self.nearest(&queries, requests, deadline))
    }

    /// What is encoded of a request: of a Boolean one its words, for its syntax says nothing to an encoder.
    fn text<'r>(&self, request: &'r Request) -> Cow<'r, str> {
        match request.language {
            QueryLanguage::Boolean => Cow::Owned(words(&request.text, self.catalog.field_names())),
            _ => Cow::Borrowed(&request.text),
        }
    }
}

impl Retriever for Dense {
    fn card(&self) -> &RetrieverCard {
        &self.card
    }

    /// All requests are encoded together; where that fails each is encoded alone, so that a fault stays with its request.
    fn retrieve(&self, requests: &[Request], deadline: Deadline) -> Vec<Result<Ranking, Fault>> {
        let fault = |error: Error| match error {
            Error::Fault(fault) => fault,
            error if error.is_deadline() => Fault::new("dense", FaultKind::Timeout, error.to_string()),
            error => Fault::new("dense", FaultKind::Index, error.to_string()),
        };
        let nothing = || Fault::new("dense", FaultKind::Contract, "a request without an answer");
        match self.answered(requests, deadline) {
            Ok(answers) => answers,
            Err(error) if error.is_deadline() || requests.len() == 1 => vec![Err(fault(error)); requests.len()],
            Err(_) => {
                let alone = |request: &Request| self.answered(std::slice::from_ref(request), deadline);
                let first = |mut answers: Vec<Result<Ranking, Fault>>| answers.pop().unwrap_or_else(|| Err(nothing()));
                requests.iter().map(|request| alone(request).map_err(fault).and_then(first)).collect()
            }
        }
    }
}

/// The digest of all that shapes the vectors.
fn key(catalog: &Catalog, encoder: &Encoder) -> String {
    sha256_of(&[&store::FORMAT_VERSION.to_string(), catalog.digest(), encoder.digest()])
}

fn encoded(catalog: &Catalog, encoder: &Encoder, observer: &(dyn Observe + Sync)) -> Result<Vec<f32>> {
    let mut vectors = Vec::with_capacity(catalog.len() * encoder.width());
    let mut texts = Vec::with_capacity(DOCUMENTS.min(catalog.len()));
    let mut documents = catalog.documents();
    loop {
        texts.clear();
        texts.extend(documents.by_ref().take(DOCUMENTS).map(|document| document.text_of_all_fields()));
        if texts.is_empty() {
            return Ok(vectors);
        }
        let done = vectors.len() / encoder.width().max(1);
        let tell = |more: querywright_types::Progress<'_>| {
            let now = done as u64 + more.done;
            observer.progress(querywright_types::Progress::new("encoding documents", now, catalog.len() as u64));
        };
        vectors.extend(encoder.encode(&texts, InputType::Document, Deadline::NONE, &tell)?);
    }
}

#[cfg(test)]
mod tests;
