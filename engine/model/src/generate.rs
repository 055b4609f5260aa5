//! Generation: several completions of each prompt, over one shared prefix.

use std::sync::Arc;

use super::adapter::Deltas;
use super::completion::{Completion, GenerateOptions, PromptTokens};
use super::config::ModelConfig;
use super::decoder::{Decoder, Tape};
use super::sequence::Call;
use super::tokenizer::Tokenizer;
use querywright_kernels::Cache;
use querywright_types::{Error, Result};

/// A prefix that many prompts continue, computed once.
#[derive(Debug, Clone)]
pub struct Prefix {
    tokens: Vec<u32>,
    cache: Option<Arc<Cache>>,
}

impl Prefix {
    /// Nothing shared.
    pub const NONE: Self = Self { tokens: Vec::new(), cache: None };

    /// The prefix's tokens.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Its keys and values, where the backend does not keep them itself.
    pub(super) fn cache(&self) -> Option<&Arc<Cache>> {
        self.cache.as_ref()
    }
}

/// Computes a prefix once for all prompts that continue it. Valid only for these deltas.
///
/// # Errors
/// A token outside the vocabulary, a prefix that is too long.
pub fn prefix(decoder: &Decoder, tokens: &[u32], deltas: &Deltas) -> Result<Prefix> {
    Ok(Prefix { tokens: tokens.to_vec(), cache: decoder.prefix(tokens, deltas)? })
}

/// Generates `options.completions` completions of every prompt; the result has one list a prompt, in order.
///
/// # Errors
/// Settings without meaning, an empty prompt, or one that is too long with what may follow it.
pub fn generate(
    decoder: &Decoder,
    tokenizer: &Tokenizer,
    prefix: &Prefix,
    prompts: &[PromptTokens],
    deltas: &Deltas,
    options: &GenerateOptions,
) -> Result<Vec<Vec<Completion>>> {
    let call = Call { prefix: &prefix.tokens, prompts, deltas, options, tokenizer };
    check(decoder.config(), &call)?;
    decoder.generate(&call, prefix.cache.as_ref())
}

/// As [`generate`], and records everything for learning; no tape comes of it where the decoder does not record.
///
/// # Errors
/// Those of [`generate`].
pub fn generate_recorded(
    decoder: &Decoder,
    tokenizer: &Tokenizer,
    prefix: &[u32],
    prompts: &[PromptTokens],
    deltas: &Deltas,
    options: &GenerateOptions,
) -> Result<(Vec<Vec<Completion>>, Option<Tape>)> {
    let call = Call { prefix, prompts, deltas, options, tokenizer };
    check(decoder.config(), &call)?;
    decoder.generate_recorded(&call)
}

/// Refuses settings without meaning, an empty prompt, and one that is too long with what may follow it.
pub(super) fn check(config: &ModelConfig, call: &Call<'_>) -> Result<()> {
    let sampling = call.options.sampling;
    sampling.validate()?;
    let (limit, longest) = (config.max_position_embeddings, sampling.max_completion_length);
    for (index, prompt) in call.prompts.iter().enumerate() {
        if prompt.tokens.is_empty() {
            let remedy = "a prompt needs at least one token after its prefix";
            return Err(Error::argument("prompt", format!("prompt {index} is empty"), remedy));
        }
        if let Some(grammar) = &prompt.grammar {
            config.check_tokens(&[grammar.largest()])?;
        }
        let length = call.prefix.len() + prompt.tokens.len();
        if length + longest > limit {
            return Err(Error::argument(
                "prompt",
                format!("prompt {index} has {length} tokens and may grow by {longest}, the model's context is {limit}"),
                "shorten the query or the examples, or lower max_completion_length",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
