//! Text and history in, ranking out: BM25 over Tantivy, pseudo-relevance feedback on the same index, fusion, and
//! policies for retrievers that fail.
//!
//! ```text
//! Request ─ boolean::parse ─┐                      ┌─ bm25::Bm25 (Retriever) ─┐
//!           plain words ────┴─ analysis::Analyzer ─┤                          ├─ fusion::Fusion (Retriever)
//!                                                  └─ rm3::Rm3  (Rewriter)    │
//!                                      any other retriever ── guard::Guard ───┘
//! ```

use crate as retrieve;
use querywright_data::catalog;
use querywright_types::{self as types, error};

pub mod analysis;
pub mod bm25;
pub mod boolean;
pub mod rm3;

pub use bm25::{Bm25, Bm25Config};
pub use rm3::{Rm3, Rm3Config};
