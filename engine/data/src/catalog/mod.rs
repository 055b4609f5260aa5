//! Documents, queries and judgements: the data that everything is measured and trained on.
//!
//! A [`Catalog`] holds documents in a compact arena and gives every one an ordinal. A [`Dataset`] adds queries,
//! judgements ([`Qrels`]) and named splits. [`Dataset::open`] reads these layouts:
//!
//! | layout | documents | queries | judgements | splits |
//! |---|---|---|---|---|
//! | data folder | `corpus.jsonl` | `queries.jsonl` | `qrels.tsv` (TREC) | `NAME.txt`: query ids |
//! | BEIR | `corpus.jsonl` | `queries.jsonl` | `qrels/NAME.tsv` | the queries of each file |
//! | RecBole | `*.item` | histories of `*.inter` | the item that came next | leave-one-out over time |
//! | MovieLens | `u.item`, `movies.dat`, `movies.csv` | histories of ratings | the film that came next | leave-one-out over time |
//! | Amazon Reviews 2023 | `meta_NAME.jsonl` | histories of ratings or reviews | the item that came next | the authors', else leave-one-out |
//! | ESCI (feature `parquet`) | `…_products.parquet` | `…_examples.parquet` | exact, substitute, complement, irrelevant | the authors' |
//! | Amazon-C4, BLaIR, Rec-R1 | `sampled_item_metadata_*.jsonl` | `.csv`, `.json` | the items of the row | the files |
//!
//! [`GivenRewrite`] and [`GivenPreference`] read what somebody wrote for queries, [`DocumentChanges`] documents that come and
//! go. [`Run`] reads and writes rankings as TREC run files. All files are read line by line, compressed by gzip
//! (`corpus.jsonl.gz`) or not, and every error names the file and its bad lines and says what would be right. What is read
//! in another way than it is written makes a [`Warning`].

mod amazon;
mod arena;
mod changes;
mod csv;
mod dataset;
pub mod demo;
mod documents;
mod encoding;
mod esci;
mod folder;
mod given;
mod ids;
mod items;
mod json;
mod lines;
mod movielens;
mod open;
mod options;
#[cfg(feature = "parquet")]
mod parquet;
mod paths;
mod qrels;
mod recbole;
mod records;
mod run;
mod searches;
mod sequences;
mod settings;
mod warning;

pub use changes::DocumentChanges;
pub use dataset::Dataset;
pub use documents::{Catalog, CatalogBuilder, DocumentRef, MOST_FIELD_NAMES};
pub use given::{GivenPreference, GivenQuery, GivenRewrite};
pub use options::OpenOptions;
pub use qrels::Qrels;
pub use querywright_types::Output;
pub use run::Run;
pub use warning::{Warning, WarningKind};

#[cfg(test)]
mod tests;
