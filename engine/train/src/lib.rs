//! Learning: GRPO against a retriever.
//!
//! Query → rewrite → ranking → reward → advantage → gradient → adapter. [`Trainer`] runs the loop; losses, advantages,
//! optimiser and schedules are pure functions of their own.

pub mod advantage;
pub mod checkpoint;
mod config;
pub mod curriculum;
pub mod guidance;
pub mod learner;
pub mod log;
pub mod loss;
mod materials;
pub mod optimizer;
pub mod reward;
mod rollout;
pub mod schedule;
mod trainer;

pub use config::{DataSection, ModelSection, RetrieverSection, RunSection, TrainConfig};
pub use materials::{Labelled, Materials};
pub use trainer::{Observer, Outcome, Trainer};
