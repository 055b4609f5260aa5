//! An objective: the tokens that the rows of a tape predict, and a weighted sum over them.

use std::sync::Arc;

use super::grammar::Grammar;
use querywright_kernels::{Targets, TokenStatistics};
use querywright_types::{Error, Result};

/// Tokens that the rows of a tape predict.
#[derive(Debug, Clone, Default)]
pub struct Predictions {
    /// For each token: the row whose hidden state predicts it.
    pub rows: Vec<usize>,
    /// The tokens.
    pub targets: Vec<u32>,
    /// The tokens that were allowed in the place of each; empty where all were, everywhere.
    pub(super) allowed: Vec<Option<Arc<[u32]>>>,
}

impl Predictions {
    /// Restricts what completions predict to what their grammars allow: `groups` are the grammar, if any, and the
    /// completions of each prompt, as these predictions were made from.
    ///
    /// # Errors
    /// [`Error::Bug`] for a token that a grammar does not allow, and for other completions.
    pub fn restrict<'t>(
        &mut self,
        groups: impl Iterator<Item = (Option<&'t Arc<Grammar>>, Vec<&'t [u32]>)>,
    ) -> Result<()> {
        let mut allowed = Vec::with_capacity(self.targets.len());
        for (grammar, completions) in groups {
            for tokens in completions {
                let Some(grammar) = grammar else {
                    allowed.extend(std::iter::repeat_n(None, tokens.len()));
                    continue;
                };
                let Some(masks) = grammar.masks(tokens) else {
                    return Err(Error::bug("predictions", "a completion that its grammar does not allow"));
                };
                allowed.extend(masks.into_iter().map(Some));
            }
        }
        if allowed.len() != self.targets.len() {
            let found = format!("masks of {} tokens for {}", allowed.len(), self.targets.len());
            return Err(Error::bug("predictions", found));
        }
        self.allowed = if allowed.iter().any(Option::is_some) { allowed } else { Vec::new() };
        Ok(())
    }

    /// Only these predictions, in this order.
    pub fn select(&self, indices: &[usize]) -> Self {
        Self {
            rows: indices.iter().map(|i| self.rows[*i]).collect(),
            targets: indices.iter().map(|i| self.targets[*i]).collect(),
            allowed: indices.iter().filter_map(|i| self.allowed.get(*i).cloned()).collect(),
        }
    }

    /// Whether there was no other choice than a token: whatever the weights, its log-probability and entropy are 0.
    pub(super) fn is_forced(&self, index: usize) -> bool {
        self.allowed.get(index).and_then(Option::as_ref).is_some_and(|allowed| allowed.len() == 1)
    }

    /// The tokens among those allowed.
    pub(super) fn within(&self) -> Targets<'_> {
        Targets::within(&self.targets, &self.allowed)
    }
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
