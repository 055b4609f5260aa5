//! A hybrid recommender: words by BM25 and meaning by the vectors of the host's encoder, fused by reciprocal ranks.
//!
//! The host lends the encoder (`embed`). Documents are encoded in `load`, batch by batch, because a limit bounds what one
//! call may have encoded; their vectors then lie in the memory that every instance starts from, 4 bytes a dimension. A
//! request encodes its query alone, and compares the vector with every document's.
//!
//! Without the encoder there is no such ranking, and words alone would be another one under the same name: `load` then
//! returns the fault `denied`. A blank text has no hits.

mod fusion;
mod lexical;

use querywright_plugin::host::{self, EmbedError};
use querywright_plugin::{Card, Document, Fault, Hit, QueryLanguage, Recommender, Request, top};

use fusion::{LEAST_DEPTH, fuse};
use lexical::Lexical;

/// Texts in one call of the encoder: enough that it can compute texts of one length together.
const BATCH: usize = 256;

/// A text encoder. Vectors have the length 1.
pub trait Encode: Default {
    /// One vector for each document.
    ///
    /// # Errors
    /// Why there are none.
    fn documents(&mut self, texts: &[String]) -> Result<Vec<Vec<f32>>, Fault>;

    /// One vector for each query, which the texts beside it do not change.
    ///
    /// # Errors
    /// Why there are none.
    fn queries(&mut self, texts: &[String]) -> Result<Vec<Vec<f32>>, Fault>;
}

/// The encoder of the host.
#[derive(Default)]
pub struct Host;

impl Encode for Host {
    fn documents(&mut self, texts: &[String]) -> Result<Vec<Vec<f32>>, Fault> {
        host::embed(texts).map_err(fault)
    }

    fn queries(&mut self, texts: &[String]) -> Result<Vec<Vec<f32>>, Fault> {
        host::embed_queries(texts).map_err(fault)
    }
}

fn fault(error: EmbedError) -> Fault {
    match error {
        EmbedError::Denied => Fault::Denied("embed".into()),
        EmbedError::TooLarge => Fault::Internal("the texts exceed limits.host_bytes or limits.embed_texts".into()),
        EmbedError::Failed(why) => Fault::Internal(format!("the encoder failed: {why}")),
    }
}

/// The words and the vectors of a catalogue.
#[derive(Default)]
pub struct Hybrid<E> {
    encoder: E,
    items: Vec<u32>,
    words: Lexical,
    /// The vectors of all items, concatenated.
    vectors: Vec<f32>,
    dimensions: usize,
}

impl<E: Encode> Hybrid<E> {
    /// Refuses vectors unless there is one for each text, all of the same length, finite.
    fn check(&mut self, vectors: &[Vec<f32>], texts: usize) -> Result<(), Fault> {
        if self.dimensions == 0 {
            self.dimensions = vectors.first().map_or(0, Vec::len);
        }
        let fine = |vector: &Vec<f32>| {
            vector.len() == self.dimensions && !vector.is_empty() && vector.iter().all(|x| x.is_finite())
        };
        if vectors.len() == texts && vectors.iter().all(fine) {
            return Ok(());
        }
        Err(Fault::Unreadable(format!("the encoder did not return {texts} vectors of equal length")))
    }

    fn nearest(&self, query: &[f32], request: &Request) -> Vec<Hit> {
        let vectors = self.vectors.chunks_exact(self.dimensions.max(1));
        top(self.items.iter().zip(vectors).map(|(item, vector)| (*item, dot(query, vector))), request)
    }

    fn has_hits(&self, request: &Request) -> bool {
        !request.text.trim().is_empty() && !self.items.is_empty()
    }

    /// The ranking of a request whose query has this vector.
    fn fused(&self, query: &[f32], request: &Request) -> Vec<Hit> {
        let deep = Request { k: request.k.max(LEAST_DEPTH), ..request.clone() };
        fuse(&[self.words.best(&self.items, &deep), self.nearest(query, &deep)], request)
    }
}

impl<E: Encode> Recommender for Hybrid<E> {
    fn card() -> Card {
        Card {
            name: "dense".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            languages: vec![QueryLanguage::Natural, QueryLanguage::Plain],
            fields: Vec::new(),
            reads_history: false,
        }
    }

    fn load(&mut self, documents: Vec<Document>) -> Result<(), Fault> {
        for batch in documents.chunks(BATCH) {
            let texts: Vec<String> = batch.iter().map(Document::text).collect();
            let vectors = self.encoder.documents(&texts)?;
            self.check(&vectors, texts.len())?;
            for (document, vector) in batch.iter().zip(vectors) {
                self.items.push(document.item);
                self.words.add(document.fields.iter().map(|field| &field.value));
                self.vectors.extend(vector);
            }
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<(), Fault> {
        self.words.finish();
        Ok(())
    }

    fn recommend(&mut self, request: &Request) -> Result<Vec<Hit>, Fault> {
        if !self.has_hits(request) {
            return Ok(Vec::new());
        }
        let vectors = self.encoder.queries(std::slice::from_ref(&request.text))?;
        self.check(&vectors, 1)?;
        Ok(vectors.first().map(|query| self.fused(query, request)).unwrap_or_default())
    }

    /// All queries are encoded in one call, which the host's threads share. Where that fails each is encoded alone, so that
    /// a fault stays with its request.
    fn recommend_all(&mut self, requests: &[Request]) -> Vec<Result<Vec<Hit>, Fault>> {
        let asked: Vec<&Request> = requests.iter().filter(|request| self.has_hits(request)).collect();
        let texts: Vec<String> = asked.iter().map(|request| request.text.clone()).collect();
        let together = match texts.len() {
            0 | 1 => None,
            count => self.encoder.queries(&texts).ok().filter(|vectors| self.check(vectors, count).is_ok()),
        };
        let Some(vectors) = together else { return requests.iter().map(|request| self.recommend(request)).collect() };
        let mut vectors = vectors.iter();
        let mut answer = |request: &Request| match self.has_hits(request) {
            true => vectors.next().map(|query| self.fused(query, request)).unwrap_or_default(),
            false => Vec::new(),
        };
        requests.iter().map(|request| Ok(answer(request))).collect()
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

querywright_plugin::register!(Hybrid<Host>);

#[cfg(test)]
mod tests;
