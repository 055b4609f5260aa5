//! BM25 over a Tantivy index ([`Bm25`], a retriever), and pseudo-relevance feedback on the same index ([`Rm3`], a
//! rewriter).
#![deny(missing_docs)]

use querywright_data::{catalog, digest};
use querywright_text as text;
use querywright_types::{self as types, error};

pub mod bm25;
pub mod rm3;

pub use bm25::{Bm25, Bm25Config};
pub use rm3::{Rm3, Rm3Config};
