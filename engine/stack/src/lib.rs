//! A rewriter in front of a retriever, and the policy between them.
//!
//! [`Stack`] serves single queries under one deadline: a rewrite that comes late or fails falls back to the original
//! query and never becomes an error. [`rewrite_one`] rewrites alone. [`rank_all`] runs whole query sets for training and evaluation. [`Fusion`] makes one
//! retriever out of several, [`Guard`] lets one that fails rest, [`Identity`] is the rewriter that changes nothing.
#![deny(missing_docs, missing_debug_implementations)]

mod batch;
mod builder;
mod cache;
mod fusion;
mod guard;
mod identity;
mod rewriting;
mod search;
mod trace;
mod worker;

pub use batch::{Ranked, rank_all};
pub use builder::StackBuilder;
pub use fusion::{Fusion, FusionMethod, fuse, reciprocal_rank_fusion};
pub use guard::{BackOffConfig, Guard, GuardCounts};
pub use identity::Identity;
pub use search::{SearchOptions, Stack};
pub use trace::{Answer, FurtherRewrite, NamedHit, Trace, TraceOutcome};
pub use worker::rewrite_one;
