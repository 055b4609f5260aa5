//! From texts and queries to scores, without an index: what the native retriever and the plugin `bm25` share.
//!
//! ```text
//! document ── analysis::Analyzer ──> terms ──> an index (bm25::InvertedIndex)
//!                                                        │
//! query ── boolean::parse ──> clauses ── query::Compiler ──> query::Node ── bm25::matches ──> (document, score)
//! ```
//!
//! Nothing here depends on the rest of the project, so that it compiles for WebAssembly as part of a plugin.
#![deny(missing_docs, missing_debug_implementations)]

pub mod analysis;
pub mod bm25;
pub mod boolean;
pub mod query;

/// The number of a document in its index, counted from 0.
pub type DocId = u32;
