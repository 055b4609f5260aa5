//! Text and history in, ranking out: BM25 over Tantivy, pseudo-relevance feedback on the same index, and fusion.
//!
//! ```text
//! Request ─ boolean::parse ─┐                      ┌─ bm25::Bm25 (Retriever) ─┐
//!           plain words ────┴─ analysis::Analyzer ─┤                          ├─ fusion::Fusion (Retriever)
//!                                                  └─ rm3::Rm3  (Rewriter)    │
//!                                      any other retriever ───────────────────┘
//! ```

pub mod analysis;
pub mod bm25;
pub mod boolean;
pub mod fusion;
pub mod rm3;

pub use bm25::{Bm25, Bm25Config};
pub use fusion::{Fusion, reciprocal_rank_fusion};
pub use rm3::{Rm3, Rm3Config};
