//! Text and history in, ranking out: BM25 over Tantivy, pseudo-relevance feedback on the same index, fusion, and
//! policies for retrievers that fail.
//!
//! ```text
//! Request ── text: analysis, queries, formula ──┬─ bm25::Bm25 (Retriever) ─┐
//!                                               └─ rm3::Rm3 (Rewriter)     ├─ fusion::Fusion (Retriever)
//!                                   any other retriever ── guard::Guard ───┘
//! ```

pub mod bm25;
pub mod fusion;
pub mod guard;
pub mod rm3;

pub use bm25::{Bm25, Bm25Config};
pub use fusion::{Fusion, reciprocal_rank_fusion};
pub use guard::{BackOff, Guard, GuardCounts};
pub use rm3::{Rm3, Rm3Config};
