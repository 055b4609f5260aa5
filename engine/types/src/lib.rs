//! The values that flow through Querywright, and the two contracts that they flow between.
//!
//! The data flow has one direction: [`Query`] → [`Rewrite`] → [`Ranking`] → reward → advantage → gradient → adapter.
//!
//! To bring a search engine of your own, implement [`Retriever`]: a [`RetrieverCard`] that says what it is, and one
//! method that ranks a batch of [`Request`]s before a [`Deadline`]. To rewrite queries in another way, implement
//! [`Rewriter`]. This crate depends on serde and thiserror alone, so that either compiles in seconds.
#![deny(missing_docs, missing_debug_implementations)]

mod card;
mod checked;
mod contract;
mod deadline;
pub mod error;
mod fault;
mod hex;
mod order;
mod output;
mod printable;
mod progress;
mod query;
mod quiet;
mod ranking;

pub use card::{QueryLanguage, RetrieverCard};
pub use checked::retrieve;
pub use contract::{Documents, Load, Retriever, Rewriter};
pub use deadline::Deadline;
pub use error::{Error, Result, did_you_mean, nearest};
pub use fault::{Fault, FaultKind};
pub use hex::hex;
pub use order::Order;
pub use output::{Output, sync_folder, write_beside};
pub use printable::{printable, printable_json};
pub use progress::{Observe, Progress};
pub use query::{Kept, Query, Request, Rewrite};
pub use quiet::quietly;
pub use ranking::{DocumentName, Hit, Judgements, Ranking};

/// A document's position in its catalogue, counted from 0. Documents cross every boundary as ordinals, never as strings.
pub type Ordinal = u32;
