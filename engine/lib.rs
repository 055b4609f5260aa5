//! Querywright: no rewrite rule is written by hand.
#![deny(missing_docs)]

pub mod error;
pub mod kernels;
pub mod model;
pub mod types;

pub use error::{Error, Result};
