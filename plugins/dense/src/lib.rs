//! Dense retrieval: exact nearest-neighbour search over the vectors of the host's encoder.
//!
//! The score is the inner product of two vectors of length 1, from -1 to 1. The query is compared with every document.
//! Documents are encoded in `load`, not in `commit`, because `limits.host_bytes` bounds what one call may move through
//! the host. A vector takes 4 bytes of the plugin's memory for each dimension. A blank text has no hits. The queries of
//! a batch are encoded one by one: an encoder that pads a batch could round differently, and a request must have the
//! same answer in any batch.

use querywright_plugin::host::{self, EmbedError};
use querywright_plugin::{Card, Document, Fault, Hit, QueryLanguage, Recommender, Request, card, top};

/// Texts in one call of the encoder.
const BATCH: usize = 64;

/// A text encoder.
pub trait Encode: Default {
    /// One vector for each text, all of the same length.
    ///
    /// # Errors
    /// Why there are none.
    fn encode(&mut self, texts: &[String]) -> Result<Vec<Vec<f32>>, Fault>;
}

/// The encoder of the host.
#[derive(Default)]
pub struct Host;

impl Encode for Host {
    fn encode(&mut self, texts: &[String]) -> Result<Vec<Vec<f32>>, Fault> {
        host::embed(texts).map_err(|error| match error {
            EmbedError::Denied => Fault::Denied("embed".into()),
            EmbedError::TooLarge => Fault::Internal("the texts exceed limits.host_bytes".into()),
            EmbedError::Failed(why) => Fault::Internal(format!("the encoder failed: {why}")),
        })
    }
}

/// The vectors of a catalogue.
#[derive(Default)]
pub struct Dense<E> {
    encoder: E,
    items: Vec<u32>,
    /// The vectors of all items, concatenated.
    vectors: Vec<f32>,
    dimensions: usize,
}

impl<E: Encode> Dense<E> {
    /// Checked vectors: one for each text, all of the same length, finite.
    fn encode(&mut self, texts: &[String]) -> Result<Vec<Vec<f32>>, Fault> {
        let vectors = self.encoder.encode(texts)?;
        if self.dimensions == 0 {
            self.dimensions = vectors.first().map_or(0, Vec::len);
        }
        let fine = |vector: &Vec<f32>| {
            vector.len() == self.dimensions && !vector.is_empty() && vector.iter().all(|x| x.is_finite())
        };
        if vectors.len() == texts.len() && vectors.iter().all(fine) {
            Ok(vectors)
        } else {
            Err(Fault::Unreadable(format!("the encoder did not return {} vectors of equal length", texts.len())))
        }
    }

    fn nearest(&self, query: &[f32], request: &Request) -> Vec<Hit> {
        let vectors = self.vectors.chunks_exact(self.dimensions.max(1));
        top(self.items.iter().zip(vectors).map(|(item, vector)| (*item, dot(query, vector))), request)
    }
}

impl<E: Encode> Recommender for Dense<E> {
    fn card() -> Card {
        card("dense", env!("CARGO_PKG_VERSION"), QueryLanguage::Natural)
    }

    fn load(&mut self, documents: Vec<Document>) -> Result<(), Fault> {
        for batch in documents.chunks(BATCH) {
            let texts: Vec<String> = batch.iter().map(Document::text).collect();
            for (document, vector) in batch.iter().zip(self.encode(&texts)?) {
                self.items.push(document.item);
                self.vectors.extend(vector);
            }
        }
        Ok(())
    }

    fn recommend(&mut self, request: &Request) -> Result<Vec<Hit>, Fault> {
        if request.text.trim().is_empty() || self.items.is_empty() {
            return Ok(Vec::new());
        }
        let vectors = self.encode(std::slice::from_ref(&request.text))?;
        Ok(vectors.first().map(|query| self.nearest(query, request)).unwrap_or_default())
    }
}

/// The inner product of two vectors of equal length, in eight partial sums that fit vector registers.
#[cfg_attr(target_arch = "wasm32", target_feature(enable = "simd128"))]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a, b) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f32 = a.remainder().iter().zip(b.remainder()).map(|(x, y)| x * y).sum();
    let mut sums = [0f32; 8];
    for (a, b) in a.zip(b) {
        for (sum, (x, y)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += x * y;
        }
    }
    sums.iter().sum::<f32>() + rest
}

querywright_plugin::register!(Dense<Host>);
