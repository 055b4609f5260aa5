//! Sampling on the processor: prompts in batches, a pass for every token of all sequences, drafts for a few.

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::{HostDecoder, HostTape, Recording};
use crate::adapter::Deltas;
use crate::backend::{Backend, Generate};
use crate::completion::{Completion, Completions, rows_of};
use crate::sequence::{Active, Call, Results};
use querywright_kernels::{Cache, Continuation, SampledDistribution};
use querywright_types::{Error, Result};

/// Sequences in flight up to which tokens are drafted: with more, a pass is bound by arithmetic, not by memory.
const DRAFTING: usize = 2;
/// Tokens of a draft at most.
const DRAFT: usize = 4;
/// Tokens by which a place in the request is found at most.
const LONGEST_MATCH: usize = 3;

/// Prompt tokens that one pass takes at most, so that memory stays bounded.
pub(super) const PREFILL: usize = 2048;

impl Generate for HostDecoder {
    type Tape = HostTape;

    fn prefix(&self, tokens: &[u32], deltas: &Deltas) -> Result<Option<Arc<Cache>>> {
        if tokens.is_empty() {
            return Ok(None);
        }
        let mut sequence = [self.continuation(Vec::new())];
        self.forward(tokens, &mut sequence, &[tokens.len()], deltas, None)?;
        let [sequence] = sequence;
        Ok(Some(Arc::new(sequence.into_cache())))
    }

    fn records(&self, rows: usize, room: usize) -> bool {
        rows.saturating_mul(Recording::bytes_per_row(self)) <= room
    }

    fn generate(&self, call: &Call<'_>, cache: Option<&Arc<Cache>>) -> Result<Vec<Vec<Completion>>> {
        Ok(self.scope(|| self.run(call, cache, None))?.0)
    }

    fn generate_recorded(&self, call: &Call<'_>) -> Result<(Completions, Option<HostTape>)> {
        self.scope(|| {
            let mut tape = HostTape::new(self, call.deltas, call.prefix, rows_of(call.prompts, call.options))?;
            let (completions, _) = self.run(call, None, Some(&mut tape))?;
            Ok((completions, Some(tape)))
        })
    }
}

impl HostDecoder {
    /// All completions, and the passes that they took after those over the prompts.
    pub(crate) fn run(
        &self,
        call: &Call<'_>,
        cache: Option<&Arc<Cache>>,
        tape: Option<&mut HostTape>,
    ) -> Result<(Vec<Vec<Completion>>, usize)> {
        let root: Vec<Arc<Cache>> = cache.into_iter().cloned().collect();
        let mut generation = Generation::new(self, call.deltas, std::slice::from_ref(call), tape);
        let mut results = Results::new(call);
        let mut first = 0;
        while first < call.prompts.len() {
            let (mut last, mut tokens) = (first, 0);
            while let Some(next) = call.prompts.get(last).map(|p| p.tokens.len())
                && (last == first || tokens + next <= PREFILL)
            {
                tokens += next;
                last += 1;
            }
            generation.prefill(call, first..last, &root)?;
            first = last;
        }
        generation.collect(&mut results);
        let mut passes = 0;
        while !generation.active.is_empty() {
            passes += 1;
            generation.pass()?;
            generation.collect(&mut results);
        }
        Ok((results.complete()?, passes))
    }
}

/// What is kept of a sequence in flight.
#[derive(Debug)]
pub(super) struct Own {
    /// The place of its call among those of the generation.
    pub(super) call: usize,
    sequence: Continuation,
    /// Where its inputs were recorded.
    rows: Vec<usize>,
    /// What its last token was sampled from, where that is kept.
    distribution: Option<SampledDistribution>,
    /// Why it cannot go on, where others can.
    pub(super) failed: Option<Error>,
}

impl Own {
    pub(super) fn new(call: usize, sequence: Continuation) -> Self {
        Self { call, sequence, rows: Vec::new(), distribution: None, failed: None }
    }
}

/// Sequences that take part in a pass and are not sampled from: prompts that are being read.
#[derive(Default)]
pub(super) struct Beside<'a> {
    pub(super) sequences: Vec<Continuation>,
    /// The next tokens of each.
    pub(super) tokens: Vec<&'a [u32]>,
    /// Whether the logits behind its last token are wanted.
    pub(super) wanted: Vec<bool>,
}

/// A generation under way: one call, or several that share an adapter and passes.
pub(super) struct Generation<'a> {
    decoder: &'a HostDecoder,
    deltas: &'a Deltas,
    calls: &'a [Call<'a>],
    tape: Option<&'a mut HostTape>,
    /// Whether a sequence that fails leaves the others alone.
    pub(super) apart: bool,
    pub(super) active: Vec<Active<Own>>,
    /// A buffer.
    pub(super) logits: Vec<f32>,
}

impl<'a> Generation<'a> {
    pub(super) fn new(
        decoder: &'a HostDecoder,
        deltas: &'a Deltas,
        calls: &'a [Call<'a>],
        tape: Option<&'a mut HostTape>,
    ) -> Self {
        Self { decoder, deltas, calls, tape, apart: false, active: Vec::new(), logits: Vec::new() }
    }

    /// A forward pass over prompts `range` of the one call, and the first token of each of their completions. `root` is the
    /// cached prefix, where there is one and nothing is recorded.
    fn prefill(&mut self, call: &Call<'_>, range: Range<usize>, root: &[Arc<Cache>]) -> Result<()> {
        let decoder = self.decoder;
        let batch: Vec<&[u32]> = call.prompts[range.clone()].iter().map(|p| p.tokens.as_slice()).collect();
        let (hidden, caches): (Vec<f32>, Vec<Vec<Arc<Cache>>>) = match self.tape.as_deref_mut() {
            Some(tape) => {
                let hidden = tape.forward_prompts(decoder, call.deltas, &batch)?;
                (hidden, range.clone().map(|prompt| tape.caches(prompt)).collect())
            }
            None => {
                let rows: Vec<usize> = batch.iter().map(|p| p.len()).collect();
                let mut sequences: Vec<Continuation> =
                    batch.iter().map(|_| decoder.continuation(root.to_vec())).collect();
                let hidden = decoder.forward(&batch.concat(), &mut sequences, &rows, call.deltas, None)?;
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
        for ((prompt, caches), logits) in range.zip(caches).zip(logits.chunks(decoder.config().vocab_size)) {
            let begin =
                |completion| Active::new(call, prompt, completion, Own::new(0, decoder.continuation(caches.clone())));
            let mut group: Vec<Active<Own>> = (0..call.options.completions).map(begin).collect();
            group.par_iter_mut().try_for_each(|a| step(call, a, &mut logits.to_vec()))?;
            self.active.append(&mut group);
        }
        Ok(())
    }

    /// A forward pass over the last token of every sequence, and the next one.
    fn pass(&mut self) -> Result<()> {
        self.pass_with(Beside::default())?;
        Ok(())
    }

    /// As [`pass`](Self::pass), and over the tokens of other sequences, which come back with the logits behind the last token
    /// of those that ask for them.
    pub(super) fn pass_with(&mut self, beside: Beside<'_>) -> Result<(Vec<Continuation>, Vec<f32>)> {
        let (decoder, calls) = (self.decoder, self.calls);
        // What is recorded goes token by token: a draft that was not taken would leave dead rows.
        let drafting = self.tape.is_none() && self.active.len() <= DRAFTING;
        let draft = |a: &Active<Own>| if drafting { draft(&calls[a.state.call], a) } else { Vec::new() };
        let drafts: Vec<Vec<u32>> = self.active.iter().map(draft).collect();
        let with_draft = self.active.iter().zip(&drafts);
        let mut tokens: Vec<u32> =
            with_draft.flat_map(|(a, draft)| a.tokens.last().into_iter().chain(draft)).copied().collect();
        let mut rows: Vec<usize> = drafts.iter().map(|draft| 1 + draft.len()).collect();
        let mut sequences: Vec<Continuation> =
            self.active.iter_mut().map(|a| std::mem::take(&mut a.state.sequence)).collect();
        let (own, own_rows) = (sequences.len(), tokens.len());
        sequences.extend(beside.sequences);
        rows.extend(beside.tokens.iter().map(|tokens| tokens.len()));
        beside.tokens.iter().for_each(|others| tokens.extend_from_slice(others));
        let recording = match self.tape.as_deref_mut() {
            Some(tape) => {
                let from = tape.recording.rows();
                self.active.iter_mut().enumerate().for_each(|(i, a)| a.state.rows.push(from + i));
                Some(&mut tape.recording)
            }
            None => None,
        };
        let mut hidden = decoder.forward(&tokens, &mut sequences, &rows, self.deltas, recording)?;
        let others = sequences.split_off(own);
        // Of the others only the last rows of some are worth logits.
        let (width, vocabulary) = (decoder.config().hidden_size, decoder.config().vocab_size);
        let (mut end, mut kept) = (own_rows, own_rows);
        for (rows, wanted) in rows[own..].iter().zip(beside.wanted) {
            end += rows;
            if wanted {
                hidden.copy_within((end - 1) * width..end * width, kept * width);
                kept += 1;
            }
        }
        decoder.logits_into(&hidden[..kept * width], &mut self.logits);
        let first = self.logits.split_off(own_rows * vocabulary);
        self.sample(sequences, &rows[..own], &drafts)?;
        Ok((others, first))
    }

    /// Samples from the logits of a pass: `rows` of them for each sequence.
    fn sample(&mut self, sequences: Vec<Continuation>, rows: &[usize], drafts: &[Vec<u32>]) -> Result<()> {
        let (calls, apart) = (self.calls, self.apart);
        // A distribution that was truncated or penalised is not the one that the trainer computes.
        let plain = calls.iter().all(|call| call.options.sampling.is_plain());
        let keep = self.tape.is_some() && plain && self.decoder.keeps_distributions();
        let vocabulary = self.decoder.config().vocab_size;
        let mut rest = self.logits.as_mut_slice();
        let mut own = Vec::with_capacity(rows.len());
        for rows in rows {
            let (first, after) = std::mem::take(&mut rest).split_at_mut(rows * vocabulary);
            own.push(first);
            rest = after;
        }
        let all = self.active.par_iter_mut().zip(sequences).zip(own.into_par_iter().zip(drafts));
        all.try_for_each(|((a, sequence), (logits, draft))| -> Result<()> {
            a.state.sequence = sequence;
            let call = &calls[a.state.call];
            // Where distributions are kept nothing is drafted: a pass gives one token, from among these.
            let allowed = if keep { a.allowed() } else { None };
            if let Err(error) = steps(call, a, logits, vocabulary, draft) {
                if !apart {
                    return Err(error);
                }
                a.state.failed = Some(error);
                return Ok(());
            }
            if keep && let (Some(token), Some(log_p)) = (a.tokens.last(), a.log_probabilities.last()) {
                let scale = 1.0 / call.options.sampling.temperature;
                let log_sum = logits[*token as usize] * scale - log_p;
                a.state.distribution = Some(match allowed {
                    None => SampledDistribution::new(logits, scale, log_sum),
                    Some(allowed) => SampledDistribution::within(&allowed, logits, scale, log_sum),
                });
            }
            Ok(())
        })?;
        if let Some(tape) = self.tape.as_deref_mut().filter(|_| keep) {
            tape.recording.keep(self.active.iter_mut().map(|a| a.state.distribution.take()));
        }
        Ok(())
    }

    /// Moves finished sequences to the results, and their rows to the tape.
    fn collect(&mut self, results: &mut Results) {
        let mut tape = self.tape.as_deref_mut();
        results.collect(&mut self.active, |prompt, completion, own: Own| {
            if let Some(tape) = &mut tape {
                tape.take(prompt, completion, own.rows);
            }
        });
    }
}

/// Tokens that may come next: what was looked up, as far as the grammar allows it, and what the grammar leaves no choice
/// about.
fn draft(call: &Call<'_>, a: &Active<Own>) -> Vec<u32> {
    // The pass samples one token more than it is given.
    let room = (call.options.sampling.max_completion_length - a.tokens.len()).saturating_sub(1).min(DRAFT);
    let found = looked_up(call, a, room);
    let Some(mut walk) = a.walk.clone() else { return found };
    let mut found = found.into_iter();
    let mut draft = Vec::with_capacity(room);
    while draft.len() < room {
        let next = match *walk.allowed() {
            [only] => {
                found = if found.next() == Some(only) { found } else { Vec::new().into_iter() };
                Some(only)
            }
            _ => found.next(),
        };
        let Some(next) = next.filter(|next| walk.advance(*next)) else { break };
        draft.push(next);
    }
    draft
}

/// The tokens behind the place in the request where the last tokens stand, too. A rewrite copies much of its query (prompt
/// lookup decoding).
fn looked_up(call: &Call<'_>, a: &Active<Own>, room: usize) -> Vec<u32> {
    let request = &call.prompts[a.prompt].tokens;
    for length in (1..=LONGEST_MATCH.min(a.tokens.len())).rev() {
        let last = &a.tokens[a.tokens.len() - length..];
        if let Some(at) = request.windows(length).position(|window| window == last) {
            return request[at + length..].iter().take(room).copied().collect();
        }
    }
    Vec::new()
}

/// Samples the token behind each row, as long as the draft foretold it: every token is sampled from its own distribution,
/// so drafts change how fast a completion comes and never which one.
fn steps(call: &Call<'_>, a: &mut Active<Own>, logits: &mut [f32], vocabulary: usize, draft: &[u32]) -> Result<()> {
    for (row, logits) in logits.chunks_exact_mut(vocabulary).enumerate() {
        step(call, a, logits)?;
        if a.ended.is_some() || a.tokens.last() != draft.get(row) {
            a.state.sequence.forget(draft.len() - row);
            break;
        }
    }
    Ok(())
}

/// Samples a sequence's next token.
pub(super) fn step(call: &Call<'_>, a: &mut Active<Own>, logits: &mut [f32]) -> Result<()> {
    let allowed = a.allowed();
    let sampled = a.sample(call, logits, allowed.as_deref())?;
    a.push(call, sampled)
}
