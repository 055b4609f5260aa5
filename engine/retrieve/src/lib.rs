//! BM25 over a Tantivy index ([`Bm25`], a retriever), and pseudo-relevance feedback on the same index ([`Rm3`], a
//! rewriter). What training queries with histories say without a model: [`Covisitation`] and [`Popularity`], retrievers.
#![deny(missing_docs, missing_debug_implementations)]

pub mod bm25;
pub mod covisitation;
mod cross_fit;
mod each;
mod first_searches;
mod followers;
mod popularity;
pub mod rm3;
mod sequences;

pub use bm25::{Bm25, Bm25Config};
pub use covisitation::{Covisitation, CovisitationConfig};
pub use cross_fit::CrossFit;
pub use first_searches::FirstSearches;
pub use followers::{FollowerWords, Followers};
pub use popularity::Popularity;
pub use rm3::{Rm3, Rm3Config};
pub use sequences::{Event, Training, events, sequence_folds, training_digest};

#[cfg(test)]
mod tests {
    mod raw_figures;
}
