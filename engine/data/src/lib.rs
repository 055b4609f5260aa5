//! Documents, queries, judgements and runs ([`catalog`]), what a ranking is worth ([`metrics`]), what work costs
//! ([`cost`]), and files that are made once and kept ([`made_once`]).
#![deny(missing_docs, missing_debug_implementations)]

pub mod catalog;
pub mod cost;
pub mod digest;
pub mod made_once;
pub mod metrics;
