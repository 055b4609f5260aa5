//! An objective: the tokens that the rows of a tape predict, and a weighted sum over them.

use querywright_kernels::TokenStatistics;

/// Tokens that the rows of a tape predict.
#[derive(Debug, Clone, Default)]
pub struct Predictions {
    /// For each token: the row whose hidden state predicts it.
    pub rows: Vec<usize>,
    /// The tokens.
    pub targets: Vec<u32>,
}

/// `Σ weights.0 · log p + weights.1 · entropy` over predictions, at a sampling temperature.
#[derive(Debug, Clone, Copy)]
pub struct Objective<'a> {
    /// What is predicted.
    pub predictions: &'a Predictions,
    /// What the logits are divided by.
    pub temperature: f32,
    /// The weights of each prediction's log-probability and of its distribution's entropy.
    pub weights: &'a [(f32, f32)],
    /// The statistics that the sampler gave each prediction, where its own distributions may be used; empty where they
    /// may not.
    pub sampled: &'a [TokenStatistics],
}
