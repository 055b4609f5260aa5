//! Dense retrieval: documents and queries are vectors, and the nearest ones are found by looking at all.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;

use crate::encoder::{Encoder, EncoderConfig, Role};
use crate::store;
use crate::words::words;
use querywright_data::catalog::Catalog;
use querywright_data::digest::sha256_of;
use querywright_types::{
    Deadline, Error, Fault, FaultKind, Hit, Observe, Ordinal, QueryLanguage, Ranking, Request, Result, Retriever,
    RetrieverCard,
};

/// The encoder that is used where none is named: small and English.
const MODEL: &str = "all-minilm-l6-v2";

/// Rows that a thread looks at in one go, and queries that are compared with a row while it is at hand.
const ROWS: usize = 1024;
const QUERIES: usize = 16;

/// Documents that are encoded between two looks at progress and at the disk.
const DOCUMENTS: usize = 4096;

/// Dense retrieval in a configuration: `[retriever.dense]`.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DenseConfig {
    /// The encoder: a name of `model list`, `hf:owner/name`, or a folder. Default `all-minilm-l6-v2`.
    pub model: String,
    /// The weight of the vectors' ranking beside that of BM25, by reciprocal ranks. Default: none, the vectors rank alone;
    /// 1 weighs both alike.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hybrid: Option<f64>,
    /// What takes the place of what the encoder's folder says. Default: nothing.
    pub encoder: EncoderConfig,
}

impl Default for DenseConfig {
    fn default() -> Self {
        Self { model: MODEL.to_owned(), hybrid: None, encoder: EncoderConfig::default() }
    }
}

/// The vectors of a catalogue. Searching takes `&self` from any number of threads, looks at every document, and orders
/// equal scores by ordinal.
pub struct Dense {
    catalog: Arc<Catalog>,
    encoder: Arc<Encoder>,
    /// Of all documents, row by row.
    vectors: Vec<f32>,
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
        let key = sha256_of(&[&store::FORMAT_VERSION.to_string(), catalog.digest(), encoder.digest()]);
        let size = (catalog.len(), encoder.width());
        let vectors = store::open_or_make(folder, &key, size, || encoded(&catalog, &encoder, observer))?;
        Ok(Self::new(catalog, encoder, content, vectors))
    }

    fn new(catalog: Arc<Catalog>, encoder: Arc<Encoder>, content: &str, vectors: Vec<f32>) -> Self {
        let version = store::FORMAT_VERSION.to_string();
        let digest = sha256_of(&["dense", &version, catalog.digest(), encoder.digest(), encoder.prefix(Role::Query)]);
        let card = RetrieverCard::new("dense", digest)
            .with_version(env!("CARGO_PKG_VERSION"))
            .with_languages([QueryLanguage::Natural, QueryLanguage::Plain])
            .with_content(content)
            .with_documents(catalog.len());
        Self { catalog, encoder, vectors, card }
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
            Ok(()) => rank(&self.vectors, queries, width, requests).into_iter().map(Ok).collect(),
            Err(late) => vec![Err(late); requests.len()],
        };
        parts.flat_map(answers).collect()
    }

    fn answered(&self, requests: &[Request], deadline: Deadline) -> Result<Vec<Result<Ranking, Fault>>> {
        let texts: Vec<Cow<'_, str>> = requests.iter().map(|request| self.text(request)).collect();
        let queries = self.encoder.encode(&texts, Role::Query, deadline, &())?;
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
        match self.answered(requests, deadline) {
            Ok(answers) => answers,
            Err(error) if error.is_deadline() || requests.len() == 1 => vec![Err(fault(error)); requests.len()],
            Err(_) => {
                let alone = |request: &Request| self.answered(std::slice::from_ref(request), deadline);
                let first =
                    |mut answers: Vec<Result<Ranking, Fault>>| answers.pop().unwrap_or_else(|| Ok(Ranking::default()));
                requests.iter().map(|request| alone(request).map_err(fault).and_then(first)).collect()
            }
        }
    }
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
        vectors.extend(encoder.encode(&texts, Role::Document, Deadline::NONE, &tell)?);
    }
}

/// The best documents for each query, from the products of all rows with all queries.
fn rank(vectors: &[f32], queries: &[f32], width: usize, requests: &[Request]) -> Vec<Ranking> {
    let count = requests.len();
    let queries: Vec<&[f32]> = queries.chunks_exact(width).collect();
    // Row by row of documents; each row is read once for all queries.
    let blocks: Vec<Vec<f32>> = vectors
        .par_chunks(ROWS * width)
        .map(|rows| rows.chunks_exact(width).flat_map(|row| queries.iter().map(|query| dot(row, query))).collect())
        .collect();
    let of = |(at, request): (usize, &Request)| {
        let scores = blocks.iter().flat_map(|block| block.iter().skip(at).step_by(count).copied());
        Ranking::best((0..).zip(scores).map(|(doc, score)| Hit { doc, score }), request)
    };
    requests.par_iter().enumerate().map(of).collect()
}

/// The product of two vectors. It is summed in one order, in sixteen parts that a compiler can keep in registers, so that a
/// score does not depend on what is asked beside it.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<16>(), b.as_chunks::<16>());
    let mut sums = [0.0_f32; 16];
    for (a, b) in a.iter().zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    // Adding 0 makes a negative zero a positive one: the two are equal, and a tie goes by ordinal.
    sums.iter().sum::<f32>() + rest + 0.0
}

#[cfg(test)]
mod tests;
