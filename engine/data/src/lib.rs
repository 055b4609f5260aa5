//! Documents, queries, judgements and runs ([`catalog`]), and what a ranking is worth ([`metrics`]).
#![deny(missing_docs)]

pub mod catalog;
pub mod digest;
pub mod metrics;
