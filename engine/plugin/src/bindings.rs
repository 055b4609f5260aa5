//! The contract in Rust, generated from `wit/`.
#![allow(missing_docs, dead_code, clippy::all, reason = "generated; the comments stand in wit/")]

wasmtime::component::bindgen!({ path: "wit", world: "plugin" });

pub(super) use self::querywright::plugin::types::{Field, QueryLanguage};
pub(super) use exports::querywright::plugin::recommender::{Card, Document, Fault, Hit, Request};

/// The WIT package that this host implements.
pub(super) const PACKAGE: &str = "querywright:plugin";
/// The version of that package.
pub(super) const VERSION: &str = "0.1.0";
/// The interface that a plugin exports.
pub(super) const RECOMMENDER: &str = "recommender";
/// The interfaces that a plugin may import: those with functions, and `types`.
pub(super) const IMPORTS: [&str; 5] = ["types", "log", "embed", "artifact", "http"];
