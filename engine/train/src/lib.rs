//! Training: GRPO against a retriever, and what it is compared with ([`Method`]).
//!
//! Query → rewrite → ranking → reward → advantage → gradient → adapter. [`Trainer`] runs the loop. Losses, advantages,
//! optimiser and schedules are pure functions, each in its own file.
#![deny(missing_docs, missing_debug_implementations)]

pub mod advantage;
pub mod checkpoint;
mod config;
pub mod curriculum;
pub mod learner;
pub mod log;
pub mod loss;
mod materials;
mod method;
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
    Arithmetic, BaseModelConfig, Choice, Chosen, DataConfig, DataProfile, Lengths, MachineProfile, ResplitConfig,
    RetrieverConfig, RunConfig, SplitPlan, TrainConfig, choose,
};
pub use materials::{Labelled, Materials, learnable};
pub use method::{DpoConfig, Method, RejectionConfig, SftConfig, TeacherConfig};
pub use spending::RunCost;
pub use trainer::{Observer, Outcome, Trainer};
pub use warm_start::WarmStartConfig;
