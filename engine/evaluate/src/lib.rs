//! Evaluation: one system over a query set, systems side by side, and the report.
//!
//! [`Evaluation`] runs a rewriter and a retriever over judged queries and scores every ranking as trec_eval would.
//! [`Comparison`] sets several such systems side by side: means with 95% intervals, differences to a chosen system,
//! paired tests corrected for their number. [`Gate`] tests on development queries what may be shipped. [`Probes`] look
//! for reward hacking. [`Report`] is one HTML page of a comparison, the curves of a training run and a sample of rewrites. [`Skills`]
//! say what an adapter costs a model's general skills.
#![deny(missing_docs, missing_debug_implementations)]

mod changes;
mod comparison;
mod confidence;
mod cost;
mod gate;
mod given;
mod headroom;
mod probes;
mod report;
mod samples;
mod skills;
mod system;
mod table;
mod tune;

pub use changes::{Change, Changes};
pub use comparison::{Against, Comparison, Cost, MeasureComparison, Row};
pub use cost::{CostRow, CostTable};
pub use gate::{Challenge, GATED, Gate, Shipped};
pub use given::GivenRewrites;
pub use headroom::Headroom;
pub use probes::{Probe, ProbeExample, ProbeRate, Probes, RateAgainst, SystemProbes};
pub use report::Report;
pub use samples::{Sample, SampleRewrite, samples};
pub use skills::{LostSkill, Skills, SkillsAgainst, SkillsConfig, SystemSkills};
pub use system::{Evaluated, Evaluation, Summary, System};
pub use tune::{
    FEWEST as FEWEST_TO_TUNE, Fused, FusionWeight, FusionWeights, Trial, TunedBase, Tuning, learn_neighbours,
};
