//! Training: GRPO against a retriever.
//!
//! Query → rewrite → ranking → reward → advantage → gradient → adapter. [`Trainer`] runs the loop. Losses, advantages,
//! optimiser and schedules are pure functions, each in its own file.
#![deny(missing_docs, missing_debug_implementations)]

use crate as train;
use querywright_data::{catalog, metrics};
use querywright_kernels as kernels;
use querywright_model as model;
use querywright_retrieve as retrieve;
use querywright_rewrite as rewrite;
use querywright_stack as stack;
use querywright_types::{self as types, error};

pub mod advantage;
pub mod checkpoint;
mod config;
pub mod curriculum;
pub mod learner;
pub mod log;
pub mod loss;
mod materials;
pub mod optimizer;
mod provenance;
pub mod reward;
mod rollout;
pub mod schedule;
mod trainer;

pub use config::{BaseModelConfig, DataConfig, RetrieverConfig, RunConfig, TrainConfig};
pub use materials::{Labelled, Materials};
pub use trainer::{Observer, Outcome, Trainer};
