//! Documents, queries and judgements: the data that everything is measured and trained on.
//!
//! A [`Catalog`] holds documents in a compact arena and gives every one an ordinal. A [`Dataset`] adds queries,
//! judgements ([`Qrels`]) and named splits. [`Dataset::open`] reads three layouts:
//!
//! | layout | recognised by | documents | queries | judgements and splits |
//! |---|---|---|---|---|
//! | data folder | `corpus.jsonl`, `qrels.tsv` | `corpus.jsonl` | `queries.jsonl` | `qrels.tsv` (TREC), `NAME.txt`: query ids |
//! | BEIR | `corpus.jsonl`, `qrels/` | `corpus.jsonl` | `queries.jsonl` | `qrels/NAME.tsv` with a header |
//! | RecBole | `*.inter` | `*.item` | made from the histories | each user's last interactions |
//!
//! [`Run`] reads and writes rankings as TREC run files. All files are read line by line, and every error names the file
//! and the line and says what would be right.

mod arena;
mod dataset;
mod documents;
mod folder;
mod ids;
mod lines;
mod qrels;
mod records;
mod recbole;
mod run;

pub use dataset::Dataset;
pub use documents::{Catalog, CatalogBuilder, DocumentRef};
pub use qrels::Qrels;
pub use run::Run;

#[cfg(test)]
mod tests;
