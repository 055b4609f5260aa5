//! The values that flow through the house, and the two contracts ([`Retriever`], [`Rewriter`]) that they flow between.
//!
//! The way of the data, one direction: [`Query`] → [`Rewrite`] → [`Ranking`] → reward → advantage → gradient → adapter.

mod contract;
pub mod error;
mod query;
mod ranking;

pub use contract::{Deadline, QueryLanguage, Retriever, RetrieverCard, Rewriter};
pub use error::{Error, Result};
pub use query::{Query, Request, Rewrite};
pub use ranking::{Hit, Judgements, Ranking};

/// A document's position in its catalogue, counted from 0. Items cross every border as ordinals, never as strings.
pub type Ordinal = u32;
