//! Generation: prompts in batches, several completions over one shared prompt cache.

use std::sync::Arc;

use rayon::prelude::*;

use super::decoder::{Decoder, Deltas};
use super::sampling::{Sampler, SamplingConfig};
use super::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::kernels::{Cache, Continuation};
use crate::types::Deadline;

/// A prompt in tokens: what it continues, and its own part.
#[derive(Debug, Clone)]
pub struct PromptTokens {
    /// The number of the prompt's random stream: equal streams, seeds and weights give equal completions.
    pub stream: u64,
    /// The tokens after the shared prefix; at least one.
    pub tokens: Vec<u32>,
}

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
}

/// Why a completion ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
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
pub struct Completion {
    /// All tokens drawn, those of the stop string or the end-of-text token included: what the policy chose.
    pub tokens: Vec<u32>,
    /// Each token's log-probability at the sampling temperature.
    pub log_probabilities: Vec<f32>,
    /// The text before the stop string.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
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
    /// When to give up; what is unfinished then ends with [`Finish::Deadline`].
    pub deadline: Deadline,
}

/// A sequence in flight.
struct Active {
    prompt: usize,
    completion: usize,
    sequence: Continuation,
    sampler: Sampler,
    tokens: Vec<u32>,
    log_probabilities: Vec<f32>,
}

/// Computes a prefix once for all prompts that continue it. Valid for these deltas alone.
pub fn prefix(decoder: &Decoder, tokens: &[u32], deltas: &Deltas) -> Result<Prefix> {
    if tokens.is_empty() {
        return Ok(Prefix::NONE);
    }
    let mut sequence = [decoder.continuation(Vec::new())];
    decoder.forward_cached(tokens, &mut sequence, &[tokens.len()], deltas)?;
    let [sequence] = sequence;
    let cache = sequence.into_cache(decoder.config().head_dim);
    Ok(Prefix { tokens: tokens.to_vec(), cache: Some(Arc::new(cache)) })
}

/// Prompt tokens that one pass takes at most, so that memory stays bounded.
const PREFILL: usize = 2048;

/// Generates `options.completions` completions of every prompt; the result has one list a prompt, in order.
pub fn generate(
    decoder: &Decoder,
    tokenizer: &Tokenizer,
    prefix: &Prefix,
    prompts: &[PromptTokens],
    deltas: &Deltas,
    options: &GenerateOptions,
) -> Result<Vec<Vec<Completion>>> {
    options.sampling.validate()?;
    check_lengths(decoder, prefix, prompts, options)?;
    let mut results: Vec<Vec<Option<Completion>>> = vec![vec![None; options.completions]; prompts.len()];
    let mut active = Vec::new();
    let mut first = 0;
    while first < prompts.len() {
        let mut last = first;
        let mut tokens = 0;
        while last < prompts.len() && (last == first || tokens + prompts[last].tokens.len() <= PREFILL) {
            tokens += prompts[last].tokens.len();
            last += 1;
        }
        prefill(decoder, prefix, first..last, prompts, deltas, options, &mut active)?;
        first = last;
    }
    let finisher = Finisher { tokenizer, options };
    finisher.collect(&mut active, &mut results)?;
    while !active.is_empty() {
        let tokens: Vec<u32> = active.iter().filter_map(|a| a.tokens.last().copied()).collect();
        let mut sequences: Vec<Continuation> = active.iter_mut().map(|a| std::mem::take(&mut a.sequence)).collect();
        let hidden = decoder.forward_cached(&tokens, &mut sequences, &vec![1; tokens.len()], deltas)?;
        let mut logits = decoder.logits(&hidden)?.flatten_all()?.to_vec1::<f32>()?;
        let vocabulary = logits.len() / active.len();
        active.par_iter_mut().zip(sequences).zip(logits.par_chunks_mut(vocabulary)).for_each(
            |((a, sequence), logits)| {
                a.sequence = sequence;
                a.step(&[&prefix.tokens, &prompts[a.prompt].tokens], logits);
            },
        );
        finisher.collect(&mut active, &mut results)?;
    }
    Ok(results.into_iter().map(|of_prompt| of_prompt.into_iter().flatten().collect()).collect())
}

fn check_lengths(
    decoder: &Decoder,
    prefix: &Prefix,
    prompts: &[PromptTokens],
    options: &GenerateOptions,
) -> Result<()> {
    let limit = decoder.config().max_position_embeddings;
    for (index, prompt) in prompts.iter().enumerate() {
        if prompt.tokens.is_empty() {
            let remedy = "a prompt needs at least one token after its prefix";
            return Err(Error::argument("prompt", format!("prompt {index} is empty"), remedy));
        }
        let length = prefix.tokens.len() + prompt.tokens.len();
        if length + options.sampling.max_completion_length > limit {
            return Err(Error::argument(
                "prompt",
                format!(
                    "prompt {index} has {length} tokens and may grow by {}, the model's context is {limit}",
                    options.sampling.max_completion_length
                ),
                "shorten the query or the examples, or lower max_completion_length",
            ));
        }
    }
    Ok(())
}

/// Computes prompts `range` and draws the first token of each of their completions.
fn prefill(
    decoder: &Decoder,
    prefix: &Prefix,
    range: std::ops::Range<usize>,
    prompts: &[PromptTokens],
    deltas: &Deltas,
    options: &GenerateOptions,
    active: &mut Vec<Active>,
) -> Result<()> {
    let root: Vec<Arc<Cache>> = prefix.cache.iter().cloned().collect();
    let batch = &prompts[range.clone()];
    let tokens: Vec<u32> = batch.iter().flat_map(|p| p.tokens.iter().copied()).collect();
    let rows: Vec<usize> = batch.iter().map(|p| p.tokens.len()).collect();
    let mut sequences: Vec<Continuation> = batch.iter().map(|_| decoder.continuation(root.clone())).collect();
    let hidden = decoder.forward_cached(&tokens, &mut sequences, &rows, deltas)?;
    let mut ends = Vec::with_capacity(rows.len());
    let mut end = 0u32;
    for rows in &rows {
        end += *rows as u32;
        ends.push(end - 1);
    }
    let last = hidden.index_select(&candle_core::Tensor::new(ends, hidden.device())?, 0)?;
    let logits = decoder.logits(&last)?.flatten_all()?.to_vec1::<f32>()?;
    let vocabulary = logits.len() / rows.len().max(1);
    let head_dim = decoder.config().head_dim;
    for ((index, sequence), logits) in range.zip(sequences).zip(logits.chunks(vocabulary)) {
        let mut caches = root.clone();
        caches.push(Arc::new(sequence.into_cache(head_dim)));
        let mut group: Vec<Active> = (0..options.completions)
            .map(|completion| Active {
                prompt: index,
                completion,
                sequence: decoder.continuation(caches.clone()),
                sampler: Sampler::new(options.sampling.clone(), options.seed, prompts[index].stream, completion),
                tokens: Vec::new(),
                log_probabilities: Vec::new(),
            })
            .collect();
        let seen: [&[u32]; 2] = [&prefix.tokens, &prompts[index].tokens];
        group.par_iter_mut().for_each(|a| a.step(&seen, &mut logits.to_vec()));
        active.append(&mut group);
    }
    Ok(())
}

impl Active {
    fn step(&mut self, prompt: &[&[u32]; 2], logits: &mut [f32]) {
        let draw = self.sampler.draw(logits, &[prompt[0], prompt[1], &self.tokens]);
        self.tokens.push(draw.token);
        self.log_probabilities.push(draw.log_probability);
    }
}

/// Decides which sequences are finished.
struct Finisher<'a> {
    tokenizer: &'a Tokenizer,
    options: &'a GenerateOptions<'a>,
}

impl Finisher<'_> {
    /// Moves finished sequences from `active` to their place in `results`.
    fn collect(&self, active: &mut Vec<Active>, results: &mut [Vec<Option<Completion>>]) -> Result<()> {
        let late = self.options.deadline.check().is_err();
        let mut still = Vec::with_capacity(active.len());
        for sequence in active.drain(..) {
            match self.finished(&sequence, late)? {
                None => still.push(sequence),
                Some((text, finish)) => {
                    let Active { prompt, completion, tokens, log_probabilities, .. } = sequence;
                    results[prompt][completion] = Some(Completion { tokens, log_probabilities, text, finish });
                }
            }
        }
        *active = still;
        Ok(())
    }

    fn finished(&self, sequence: &Active, late: bool) -> Result<Option<(String, Finish)>> {
        let Some(last) = sequence.tokens.last() else { return Ok(None) };
        if self.tokenizer.eos_ids().contains(last) {
            let text = self.tokenizer.decode(&sequence.tokens[..sequence.tokens.len() - 1])?;
            return Ok(Some((text, Finish::Stop)));
        }
        let text = self.tokenizer.decode(&sequence.tokens)?;
        let stop = self.options.stop.iter().filter(|s| !s.is_empty()).filter_map(|s| text.find(s.as_str())).min();
        if let Some(at) = stop {
            return Ok(Some((text[..at].to_owned(), Finish::Stop)));
        }
        if sequence.tokens.len() >= self.options.sampling.max_completion_length {
            return Ok(Some((text, Finish::Length)));
        }
        Ok(late.then_some((text, Finish::Deadline)))
    }
}

#[cfg(test)]
mod tests;
