//! BM25 over a Tantivy index ([`Bm25`], a retriever), and pseudo-relevance feedback on the same index ([`Rm3`], a
//! rewriter).
#![deny(missing_docs, missing_debug_implementations)]

pub mod bm25;
pub mod rm3;

pub use bm25::{Bm25, Bm25Config};
pub use rm3::{Rm3, Rm3Config};
