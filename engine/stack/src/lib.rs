//! The front door: a rewriter, a retriever and the policy between them.
//!
//! [`Stack`] serves single queries under a deadline: a rewrite that comes late or fails falls back to the original
//! query and never becomes an error. [`rank_all`] runs whole query sets for training and evaluation.

use querywright_data::catalog;
use querywright_types::{self as types, error};

mod batch;
mod cache;
mod fusion;
mod guard;
mod identity;
mod search;
mod worker;

pub use batch::{Ranked, rank_all};
pub use fusion::{Fusion, reciprocal_rank_fusion};
pub use guard::{BackOff, Guard, GuardCounts};
pub use identity::Identity;
pub use search::{Answer, NamedHit, Stack, StackBuilder, Trace, TraceOutcome};
