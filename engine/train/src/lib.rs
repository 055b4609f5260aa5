//! Training: GRPO against a retriever, and what it is compared with ([`Method`]).
//!
//! Query → rewrite → ranking → reward → advantage → gradient → adapter. [`Trainer`] runs the loop. Losses, advantages,
//! optimiser and schedules are pure functions, each in its own file.
#![deny(missing_docs, missing_debug_implementations)]

pub mod advantage;
pub mod checkpoint;
mod config;
pub mod curriculum;
mod epochs;
mod examples;
pub mod learner;
pub mod log;
pub mod loss;
mod materials;
pub mod optimizer;
mod provenance;
pub mod replay;
mod resume;
pub mod reward;
mod rollout;
pub mod run_folder;
pub mod schedule;
mod spending;
mod trainer;
mod warm_start;

pub use config::{
    Arithmetic, BaseModelConfig, Choice, Chosen, DataConfig, DataProfile, DpoConfig, Lengths, MachineProfile, Method,
    RejectionConfig, ResplitConfig, RetrieverConfig, RunConfig, SftConfig, SplitPlan, TeacherConfig, TrainConfig,
    WarmStartConfig, choose,
};
pub use materials::{Labelled, Materials, learnable};
pub use spending::RunCost;
pub use trainer::{Observer, Outcome, Trainer};
