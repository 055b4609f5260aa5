//! BM25 in the sandbox: the analysis, the Boolean language and the scoring of the native retriever, compiled from the
//! same files, over an index of its own. k1 is 1.2, b is 0.75. Rankings equal the native ones but for the last bit of
//! scores: the logarithm is the C library's there and Rust's here.

mod index;

use querywright_plugin::{Card, Document, Fault, Hit, QueryLanguage, Recommender, Request};

use index::{Builder, TextIndex};

/// BM25 over everything that was loaded.
#[derive(Default)]
pub struct Bm25 {
    builder: Builder,
    index: TextIndex,
}

impl Recommender for Bm25 {
    fn card() -> Card {
        Card {
            name: "bm25".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            languages: vec![QueryLanguage::Plain, QueryLanguage::Boolean],
            fields: Vec::new(),
            reads_history: false,
        }
    }

    fn load(&mut self, documents: Vec<Document>) -> Result<(), Fault> {
        documents.iter().for_each(|document| self.builder.add(document));
        Ok(())
    }

    fn commit(&mut self) -> Result<(), Fault> {
        self.index = std::mem::take(&mut self.builder).finish();
        Ok(())
    }

    fn recommend(&mut self, request: &Request) -> Result<Vec<Hit>, Fault> {
        self.index.search(request).map_err(|e| Fault::Internal(e.to_string()))
    }
}

querywright_plugin::register!(Bm25);
