//! The inputs and results of generation: prompts, options, completions.

use std::sync::Arc;

use super::grammar::Grammar;
use super::sampling::SamplingConfig;
use querywright_types::Deadline;

/// A prompt in tokens: the part after the prefix that many prompts share.
#[derive(Debug, Clone)]
pub struct PromptTokens {
    /// The number of the prompt's random stream: equal streams, seeds and weights give equal completions.
    pub stream: u64,
    /// The tokens after the shared prefix; at least one.
    pub tokens: Vec<u32>,
    /// What its completions may consist of; all is allowed where there is none.
    pub grammar: Option<Arc<Grammar>>,
}

impl PromptTokens {
    /// A prompt whose completions are free.
    pub fn free(stream: u64, tokens: Vec<u32>) -> Self {
        Self { stream, tokens, grammar: None }
    }
}

/// Why a completion ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Finish {
    /// A stop string or an end-of-text token.
    Stop,
    /// The length allowed was used up: a truncated completion.
    Length,
    /// The deadline passed.
    Deadline,
}

/// One completion.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Completion {
    /// All tokens sampled, those of the stop string or the end-of-text token included: what the policy chose.
    pub tokens: Vec<u32>,
    /// Each token's log-probability at the sampling temperature.
    pub log_probabilities: Vec<f32>,
    /// The entropy of each token's distribution, in nats.
    pub entropies: Vec<f32>,
    /// The text before the stop string. Under a grammar it has whole words only: the beginning of a word at which a
    /// completion was cut off is left out.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
}

impl Completion {
    /// A completion that ended, each of whose tokens has this log-probability and this entropy; not a number where nobody
    /// sampled it.
    pub fn of(tokens: Vec<u32>, text: String, number: f32) -> Self {
        let numbers = vec![number; tokens.len()];
        Self { tokens, log_probabilities: numbers.clone(), entropies: numbers, text, finish: Finish::Stop }
    }
}

/// What to generate, and how.
#[derive(Debug, Clone)]
pub struct GenerateOptions<'a> {
    /// Sampling settings.
    pub sampling: &'a SamplingConfig,
    /// Completions of each prompt.
    pub completions: usize,
    /// Texts that end a completion.
    pub stop: &'a [String],
    /// The seed.
    pub seed: u64,
    /// When to stop; what is unfinished then ends with [`Finish::Deadline`].
    pub deadline: Deadline,
}

/// Rows that a recording of these prompts takes at most, without their prefix.
pub(super) fn rows_of(prompts: &[PromptTokens], options: &GenerateOptions) -> usize {
    let of_completions = options.completions * options.sampling.max_completion_length.saturating_sub(1);
    prompts.iter().map(|p| p.tokens.len() + of_completions).sum()
}

/// The completions of each prompt.
pub(super) type Completions = Vec<Vec<Completion>>;

/// The tokens of a completion that are inputs under teacher forcing: all but the last, which predicts nothing.
pub(super) fn inputs_of(completion: &[u32]) -> &[u32] {
    &completion[..completion.len().saturating_sub(1)]
}
