//! Generation: prompts in batches, several completions over one shared prompt cache.

use std::sync::Arc;

use rayon::prelude::*;

use super::config::ModelConfig;
use super::decoder::{Decoder, Tape};
use super::host::{Deltas, HostDecoder, Recording};
use super::sampling::{Sampler, SamplingConfig};
use super::tape::HostTape;
use super::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::kernels::{Cache, Continuation, DrawnDistribution};
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
    /// The entropy of each token's distribution, in nats.
    pub entropies: Vec<f32>,
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
    entropies: Vec<f32>,
    /// Where its fed tokens were recorded.
    rows: Vec<usize>,
    /// What its last token was drawn from, where that is kept.
    drawn: Option<DrawnDistribution>,
    /// What it has become, once it has ended.
    ended: Option<(String, Finish)>,
}

/// Computes a prefix once for all prompts that continue it. Valid for these deltas alone.
///
/// # Errors
/// A token outside the vocabulary, a prefix that is too long.
pub fn prefix(decoder: &Decoder, tokens: &[u32], deltas: &Deltas) -> Result<Prefix> {
    let cache = match decoder {
        Decoder::Host(host) if !tokens.is_empty() => {
            let mut sequence = [host.continuation(Vec::new())];
            host.forward(tokens, &mut sequence, &[tokens.len()], deltas, None)?;
            let [sequence] = sequence;
            Some(Arc::new(sequence.into_cache()))
        }
        // A device keeps the prefix that it computed last by itself.
        _ => None,
    };
    Ok(Prefix { tokens: tokens.to_vec(), cache })
}

/// Sequences in flight up to which tokens are drafted: with more, a pass is bound by arithmetic, not by memory.
const DRAFTING: usize = 2;
/// Tokens of a draft at most.
const DRAFT: usize = 4;
/// Tokens by which a place in the request is found at most.
const LONGEST_MATCH: usize = 3;

/// Prompt tokens that one pass takes at most, so that memory stays bounded.
const PREFILL: usize = 2048;

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
    let ending = Ending { tokenizer, options };
    check(decoder.config(), prefix.tokens.len(), prompts, options)?;
    match decoder {
        Decoder::Host(decoder) => {
            let root: Vec<Arc<Cache>> = prefix.cache.iter().cloned().collect();
            let generation = Generation { decoder, prefix: &prefix.tokens, prompts, deltas, options, ending };
            // Inside the pool a parallel loop starts without waking anybody from outside.
            Ok(rayon::scope(|_| generation.run(&root, None))?.0)
        }
        Decoder::Device(decoder) => decoder.generate(&prefix.tokens, prompts, deltas, options, &ending),
    }
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
    let ending = Ending { tokenizer, options };
    check(decoder.config(), prefix.len(), prompts, options)?;
    match decoder {
        Decoder::Host(decoder) => {
            let generation = Generation { decoder, prefix, prompts, deltas, options, ending };
            rayon::scope(|_| {
                let mut tape = HostTape::new(decoder, deltas, prefix, rows_of(prompts, options))?;
                let (completions, _) = generation.run(&[], Some(&mut tape))?;
                Ok((completions, Some(Tape::Host(tape))))
            })
        }
        Decoder::Device(decoder) => Ok((decoder.generate(prefix, prompts, deltas, options, &ending)?, None)),
    }
}

/// Refuses settings without meaning, an empty prompt, and one that is too long with what may follow it.
fn check(config: &ModelConfig, prefix: usize, prompts: &[PromptTokens], options: &GenerateOptions) -> Result<()> {
    options.sampling.validate()?;
    let (limit, longest) = (config.max_position_embeddings, options.sampling.max_completion_length);
    for (index, prompt) in prompts.iter().enumerate() {
        if prompt.tokens.is_empty() {
            let remedy = "a prompt needs at least one token after its prefix";
            return Err(Error::argument("prompt", format!("prompt {index} is empty"), remedy));
        }
        let length = prefix + prompt.tokens.len();
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

/// When a completion ends.
pub(super) struct Ending<'a> {
    tokenizer: &'a Tokenizer,
    options: &'a GenerateOptions<'a>,
}

impl Ending<'_> {
    /// What a completion has become, where its last token was the last one.
    pub(super) fn of(&self, tokens: &[u32]) -> Result<Option<(String, Finish)>> {
        if let Some((last, before)) = tokens.split_last()
            && self.tokenizer.eos_ids().contains(last)
        {
            return Ok(Some((self.tokenizer.decode(before)?, Finish::Stop)));
        }
        let forced = match () {
            () if tokens.len() >= self.options.sampling.max_completion_length => Some(Finish::Length),
            () => self.options.deadline.check().is_err().then_some(Finish::Deadline),
        };
        let stops = || self.options.stop.iter().filter(|s| !s.is_empty());
        if forced.is_none() && stops().next().is_none() {
            return Ok(None);
        }
        let text = self.tokenizer.decode(tokens)?;
        match stops().filter_map(|s| text.find(s.as_str())).min() {
            Some(at) => Ok(Some((text[..at].to_owned(), Finish::Stop))),
            None => Ok(forced.map(|finish| (text, finish))),
        }
    }
}

/// Rows that a recording of these prompts takes at most, without their prefix.
pub fn rows_of(prompts: &[PromptTokens], options: &GenerateOptions) -> usize {
    let fed = options.completions * options.sampling.max_completion_length.saturating_sub(1);
    prompts.iter().map(|p| p.tokens.len() + fed).sum()
}

/// One call of [`generate`].
struct Generation<'a> {
    decoder: &'a HostDecoder,
    prefix: &'a [u32],
    prompts: &'a [PromptTokens],
    deltas: &'a Deltas,
    options: &'a GenerateOptions<'a>,
    ending: Ending<'a>,
}

impl Generation<'_> {
    /// All completions, and the passes over the decoder behind the prompts that they took.
    fn run(&self, root: &[Arc<Cache>], mut tape: Option<&mut HostTape>) -> Result<(Vec<Vec<Completion>>, usize)> {
        let Self { decoder, prompts, options, deltas, .. } = *self;
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
            self.prefill(root, first..last, tape.as_deref_mut(), &mut active)?;
            first = last;
        }
        collect(&mut active, &mut results, tape.as_deref_mut());
        let mut passes = 0;
        let mut logits = Vec::new();
        // A distribution that was cut or bent is not the one that the trainer asks about.
        let keep = tape.is_some() && options.sampling.is_plain() && decoder.keeps_distributions();
        while !active.is_empty() {
            passes += 1;
            // What is recorded is fed token by token: a draft that was not taken would leave dead rows.
            let drafting = tape.is_none() && active.len() <= DRAFTING;
            let drafts: Vec<Vec<u32>> =
                active.iter().map(|a| if drafting { self.draft(a) } else { Vec::new() }).collect();
            let tokens: Vec<u32> = active
                .iter()
                .zip(&drafts)
                .flat_map(|(a, draft)| a.tokens.last().into_iter().chain(draft))
                .copied()
                .collect();
            let rows: Vec<usize> = drafts.iter().map(|draft| 1 + draft.len()).collect();
            let mut sequences: Vec<Continuation> = active.iter_mut().map(|a| std::mem::take(&mut a.sequence)).collect();
            let recording: Option<&mut Recording> = match tape.as_deref_mut() {
                Some(tape) => {
                    let from = tape.recording.rows();
                    active.iter_mut().enumerate().for_each(|(i, a)| a.rows.push(from + i));
                    Some(&mut tape.recording)
                }
                None => None,
            };
            let hidden = decoder.forward(&tokens, &mut sequences, &rows, deltas, recording)?;
            decoder.logits_into(&hidden, &mut logits);
            let vocabulary = decoder.config().vocab_size;
            let mut rest = logits.as_mut_slice();
            let mut own = Vec::with_capacity(rows.len());
            for rows in &rows {
                let (first, after) = std::mem::take(&mut rest).split_at_mut(rows * vocabulary);
                own.push(first);
                rest = after;
            }
            let steps = active.par_iter_mut().zip(sequences).zip(own.into_par_iter().zip(&drafts));
            steps.try_for_each(|((a, sequence), (logits, draft))| -> Result<()> {
                a.sequence = sequence;
                self.steps(a, logits, draft)?;
                if keep && let (Some(token), Some(log_p)) = (a.tokens.last(), a.log_probabilities.last()) {
                    let scale = 1.0 / options.sampling.temperature;
                    let log_sum = logits[*token as usize] * scale - log_p;
                    a.drawn = Some(DrawnDistribution::new(logits, scale, log_sum));
                }
                Ok(())
            })?;
            if let Some(tape) = tape.as_deref_mut().filter(|_| keep) {
                tape.recording.keep(active.iter_mut().map(|a| a.drawn.take()));
            }
            collect(&mut active, &mut results, tape.as_deref_mut());
        }
        Ok((results.into_iter().map(|of_prompt| of_prompt.into_iter().flatten().collect()).collect(), passes))
    }

    /// Computes prompts `range` and draws the first token of each of their completions.
    fn prefill(
        &self,
        root: &[Arc<Cache>],
        range: std::ops::Range<usize>,
        tape: Option<&mut HostTape>,
        active: &mut Vec<Active>,
    ) -> Result<()> {
        let Self { decoder, options, deltas, .. } = *self;
        let batch: Vec<&[u32]> = self.prompts[range.clone()].iter().map(|p| p.tokens.as_slice()).collect();
        let (hidden, caches): (Vec<f32>, Vec<Vec<Arc<Cache>>>) = match tape {
            Some(tape) => {
                let hidden = tape.feed_prompts(decoder, deltas, &batch)?;
                (hidden, range.clone().map(|prompt| tape.caches(prompt)).collect())
            }
            None => {
                let rows: Vec<usize> = batch.iter().map(|p| p.len()).collect();
                let mut sequences: Vec<Continuation> =
                    batch.iter().map(|_| decoder.continuation(root.to_vec())).collect();
                let hidden = decoder.forward(&batch.concat(), &mut sequences, &rows, deltas, None)?;
                let cached = |sequence: Continuation| {
                    let own = Arc::new(sequence.into_cache());
                    root.iter().cloned().chain([own]).collect()
                };
                (hidden, sequences.into_iter().map(cached).collect())
            }
        };
        let width = decoder.config().hidden_size;
        let mut end = 0;
        let mut last = Vec::with_capacity(batch.len() * width);
        for prompt in &batch {
            end += prompt.len();
            last.extend_from_slice(&hidden[(end - 1) * width..end * width]);
        }
        let logits = decoder.logits(&last);
        let vocabulary = logits.len() / batch.len().max(1);
        for ((index, caches), logits) in range.zip(caches).zip(logits.chunks(vocabulary)) {
            let begin = |completion| Active {
                prompt: index,
                completion,
                sequence: decoder.continuation(caches.clone()),
                sampler: Sampler::new(options.sampling.clone(), options.seed, self.prompts[index].stream, completion),
                tokens: Vec::new(),
                log_probabilities: Vec::new(),
                entropies: Vec::new(),
                rows: Vec::new(),
                drawn: None,
                ended: None,
            };
            let mut group: Vec<Active> = (0..options.completions).map(begin).collect();
            group.par_iter_mut().try_for_each(|a| self.step(a, &mut logits.to_vec()))?;
            active.append(&mut group);
        }
        Ok(())
    }

    /// Tokens that may come next: those behind the place in the request where the last tokens stand, too. A rewrite
    /// copies much of its query (prompt lookup decoding).
    fn draft(&self, a: &Active) -> Vec<u32> {
        let request = &self.prompts[a.prompt].tokens;
        // The pass draws one token more than it is given.
        let room = (self.options.sampling.max_completion_length - a.tokens.len()).saturating_sub(1).min(DRAFT);
        for length in (1..=LONGEST_MATCH.min(a.tokens.len())).rev() {
            let last = &a.tokens[a.tokens.len() - length..];
            if let Some(at) = request.windows(length).position(|window| window == last) {
                return request[at + length..].iter().take(room).copied().collect();
            }
        }
        Vec::new()
    }

    /// Draws the token behind each row, as long as the draft foretold it: every token is drawn from its own
    /// distribution, so drafts change how fast a completion comes and never which one.
    fn steps(&self, a: &mut Active, logits: &mut [f32], draft: &[u32]) -> Result<()> {
        let vocabulary = self.decoder.config().vocab_size;
        for (row, logits) in logits.chunks_exact_mut(vocabulary).enumerate() {
            self.step(a, logits)?;
            if a.ended.is_some() || a.tokens.last() != draft.get(row) {
                a.sequence.forget(draft.len() - row);
                break;
            }
        }
        Ok(())
    }

    /// Draws a sequence's next token, and finds out whether it was the last one.
    fn step(&self, a: &mut Active, logits: &mut [f32]) -> Result<()> {
        let draw = a.sampler.draw(logits, &[self.prefix, &self.prompts[a.prompt].tokens, &a.tokens]);
        a.tokens.push(draw.token);
        a.log_probabilities.push(draw.statistics.log_probability);
        a.entropies.push(draw.statistics.entropy);
        a.ended = self.ending.of(&a.tokens)?;
        Ok(())
    }
}

/// Moves finished sequences from `active` to their place in `results`, and their rows to the tape.
fn collect(active: &mut Vec<Active>, results: &mut [Vec<Option<Completion>>], mut tape: Option<&mut HostTape>) {
    let mut still = Vec::with_capacity(active.len());
    for mut sequence in active.drain(..) {
        let Some((text, finish)) = sequence.ended.take() else {
            still.push(sequence);
            continue;
        };
        let Active { prompt, completion, tokens, log_probabilities, entropies, rows, .. } = sequence;
        if let Some(prompt) = tape.as_deref_mut().and_then(|t| t.prompts.get_mut(prompt)) {
            prompt.completions.resize(prompt.completions.len().max(completion + 1), Vec::new());
            prompt.completions[completion] = rows;
        }
        results[prompt][completion] = Some(Completion { tokens, log_probabilities, entropies, text, finish });
    }
    *active = still;
}

#[cfg(test)]
mod tests;
