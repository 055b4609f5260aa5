//! The front door: a rewriter, a retriever and the policy between them.
//!
//! [`Stack`] serves single queries under a deadline: a rewrite that comes late or fails falls back to the original
//! query and never becomes an error. [`rank_all`] runs whole query sets for training and evaluation.

mod batch;
mod cache;
mod search;
mod worker;

pub use batch::{Ranked, rank_all};
pub use search::{Answer, NamedHit, Stack, StackBuilder, Trace, TraceOutcome};
