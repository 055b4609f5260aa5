//! Documents, queries, judgements and runs ([`catalog`]), what a ranking is worth ([`metrics`]), and what work costs
//! ([`cost`]).
#![deny(missing_docs, missing_debug_implementations)]

pub mod catalog;
pub mod cost;
pub mod digest;
pub mod metrics;
