//! Documents, queries, judgements and runs ([`catalog`]), and what a ranking is worth ([`metrics`]).
#![deny(missing_docs, missing_debug_implementations)]

pub mod catalog;
pub mod digest;
pub mod metrics;
