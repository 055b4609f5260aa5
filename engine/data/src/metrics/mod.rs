//! How good a ranking is, and whether one system is better than another.
//!
//! [`Measure`] has the names of ir_measures and the semantics of trec_eval: gains are the grades themselves, the
//! discount is log2(rank + 1), a document is relevant when its grade is above 0, the ideal ranking holds every judged
//! document, and a query with nothing relevant or nothing retrieved scores 0. [`trec_order`] breaks ties of score as
//! trec_eval does, so that numbers agree with those of other tools to the last digit.
//!
//! The functions of [`significance`] compare two systems query by query, those of [`rates`] by what a query has or has not.
//!
//! ```
//! use querywright_data::metrics::Measure;
//! use querywright_types::Judgements;
//!
//! let judged = Judgements::new(vec![(7, 1)]);
//! let measure: Measure = "nDCG@10".parse()?;
//! assert_eq!(measure.score(&[7, 3], &judged), 1.0);
//! # Ok::<(), querywright_types::Error>(())
//! ```

mod measure;
mod order;
pub mod rates;
pub mod significance;

pub use measure::{Measure, MeasureKind};
pub use order::trec_order;

#[cfg(test)]
mod tests;
