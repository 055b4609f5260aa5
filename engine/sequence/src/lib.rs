//! Models over sequences, trained here: which item comes after those of a history.
//!
//! [`SequenceModel::Sasrec`] is self-attention over the items of a history (Kang and McAuley, Self-Attentive Sequential
//! Recommendation, ICDM 2018), [`SequenceModel::Gru4rec`] a recurrent network (Tan, Xu and Liu, Improved Recurrent Neural
//! Networks for Session-based Recommendations, DLRS 2016), both in the form that RecBole has given them: one vector for what
//! comes next, compared with the vectors of all items, trained by cross-entropy over all of them. They know items by number
//! and read no text, so an item that no training sequence has cannot be ranked. A [`Recommender`] is a trained one as a
//! retriever.
//!
//! The settings have RecBole's names and defaults ([`SequenceConfig`]), and so have the weights on disk. candle
//! differentiates. What has no backward pass there (its fused layer norm and softmax) is written out of parts that have.
#![deny(missing_docs, missing_debug_implementations)]
#![warn(unreachable_pub)]

mod config;
mod dropout;
mod examples;
mod gru4rec;
mod layers;
mod network;
mod recommender;
mod sasrec;
mod store;
mod training;

pub use config::{Gru4recConfig, SasrecConfig, SequenceConfig, SequenceModel};
pub use recommender::{Recommender, Sequences};

use querywright_types::Error;

/// What candle cannot do with shapes that were checked is a mistake of ours.
fn broken(error: candle_core::Error) -> Error {
    Error::bug("sequence", error.to_string())
}
