//! Querywright: no rewrite rule is written by hand.
#![deny(missing_docs)]

pub mod catalog;
pub mod error;
pub mod evaluate;
pub mod kernels;
pub mod metrics;
pub mod model;
pub mod plugin;
pub mod retrieve;
pub mod rewrite;
pub mod sources;
pub mod stack;
pub mod train;
pub mod types;

pub use error::{Error, Result};
