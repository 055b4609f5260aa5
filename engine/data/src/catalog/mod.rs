//! Documents, queries and judgements: the data that everything is measured and trained on.
//!
//! A [`Catalog`] holds documents in a compact arena and gives every one an ordinal. A [`Dataset`] adds queries,
//! judgements ([`Qrels`]) and named splits. [`Dataset::open`] reads three layouts:
//!
//! | layout | documents | queries | judgements | splits |
//! |---|---|---|---|---|
//! | data folder | `corpus.jsonl` | `queries.jsonl` | `qrels.tsv` (TREC) | `NAME.txt`: query ids |
//! | BEIR | `corpus.jsonl` | `queries.jsonl` | `qrels/NAME.tsv` | the queries of each file |
//! | RecBole | `*.item` | histories of `*.inter` | the item that came next | leave-one-out over time |
//!
//! [`Run`] reads and writes rankings as TREC run files. All files are read line by line, and every error names the file
//! and the line and says what would be right.

mod arena;
mod dataset;
pub mod demo;
mod documents;
mod folder;
mod ids;
mod lines;
mod open;
mod paths;
mod qrels;
mod recbole;
mod records;
mod run;

pub use dataset::Dataset;
pub use documents::{Catalog, CatalogBuilder, DocumentRef};
pub use qrels::Qrels;
pub use run::Run;

#[cfg(test)]
mod tests;
