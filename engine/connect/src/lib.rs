//! Search engines that are there already, as retrievers: Elasticsearch, OpenSearch and Quickwit, Solr, PostgreSQL. This crate is
//! internal to Querywright and has no stable interface: depend on `querywright` instead.
//!
//! [`Connected`] is the retriever: it splits a batch, asks, takes out what is excluded, and gives hits their ordinals
//! (`names.rs`). What differs from engine to engine is how a query is written (`elastic.rs`, `solr.rs`, `postgres.rs`); those over
//! HTTP share connections, deadlines and retries (`http.rs`).
#![deny(missing_docs, missing_debug_implementations)]

mod config;
mod connected;
mod elastic;
mod http;
mod names;
mod postgres;
mod solr;

pub use config::{ConnectConfig, EngineKind};
pub use connected::Connected;

#[cfg(test)]
mod tests;
