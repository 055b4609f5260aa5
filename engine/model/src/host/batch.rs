//! A running batch on the processor: prompts are read in chunks between passes, and each pass gives every sequence a token.

use std::sync::Arc;

use super::HostDecoder;
use super::generate::{Generation, Own, PREFILL, step};
use crate::adapter::Deltas;
use crate::backend::Batching;
use crate::batcher::Job;
use crate::completion::{Completion, GenerateOptions};
use crate::sequence::{Active, Call};
use crate::tokenizer::Tokenizer;
use querywright_kernels::{Cache, Continuation};
use querywright_types::{Error, Result};

/// Prompt tokens that are read between two passes while others wait for their next token. Longer prompts are read in chunks
/// of so many, whatever else there is, so that their sums do not depend on it.
const CHUNK: usize = 256;

/// Sequences of several requests that share passes.
#[derive(Default)]
pub(crate) struct HostBatch {
    /// Prompts that are not read to their end.
    reading: Vec<Reading>,
    /// The requests of `active`, one each.
    jobs: Vec<Arc<Job>>,
    active: Vec<Active<Own>>,
    /// A buffer.
    logits: Vec<f32>,
}

/// A prompt of which some tokens were read.
struct Reading {
    job: Arc<Job>,
    sequence: Continuation,
    read: usize,
}

impl Reading {
    fn root(job: &Job) -> Vec<Arc<Cache>> {
        job.request.prefix.cache().into_iter().cloned().collect()
    }

    /// The tokens that are read next.
    fn chunk(&self) -> &[u32] {
        let rest = &self.job.request.prompt.tokens[self.read..];
        &rest[..rest.len().min(CHUNK)]
    }

    fn is_done(&self) -> bool {
        self.read == self.job.request.prompt.tokens.len()
    }
}

impl std::fmt::Debug for HostBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostBatch")
            .field("reading", &self.reading.len())
            .field("active", &self.active.len())
            .finish_non_exhaustive()
    }
}

impl Batching for HostDecoder {
    type Batch = HostBatch;

    fn batch_limit(&self) -> usize {
        64
    }

    fn advance(
        &self,
        batch: &mut HostBatch,
        joining: Vec<Arc<Job>>,
        deltas: &Deltas,
        tokenizer: &Tokenizer,
    ) -> Vec<(Arc<Job>, Result<Completion>)> {
        batch.leave_cancelled();
        let mut ended = batch.leave_late();
        batch.reading.extend(joining.into_iter().map(|job| {
            let sequence = self.continuation(Reading::root(&job));
            Reading { job, sequence, read: 0 }
        }));
        match batch.advance(self, deltas, tokenizer, &mut ended) {
            Ok(()) => ended,
            Err(error) => ended.into_iter().chain(batch.fail(&error)).collect(),
        }
    }
}

impl HostBatch {
    /// Forgets requests that nobody waits for.
    fn leave_cancelled(&mut self) {
        self.reading.retain(|reading| !reading.job.is_cancelled());
        let mut stays = self.jobs.iter().map(|job| !job.is_cancelled());
        self.active.retain(|_| stays.next().unwrap_or_default());
        self.jobs.retain(|job| !job.is_cancelled());
    }

    /// Ends requests whose time is over before their prompt was read. Others end with their next token.
    fn leave_late(&mut self) -> Vec<(Arc<Job>, Result<Completion>)> {
        let late = |reading: &mut Reading| reading.job.request.deadline.passed();
        let ended = |Reading { job, .. }| {
            let late = job.request.deadline.check();
            (job, late.and(Err(Error::bug("running batch", "a deadline that passed and has not passed"))))
        };
        self.reading.extract_if(.., late).map(ended).collect()
    }

    /// Reads prompts, and gives every sequence its next token.
    fn advance(
        &mut self,
        decoder: &HostDecoder,
        deltas: &Deltas,
        tokenizer: &Tokenizer,
        ended: &mut Vec<(Arc<Job>, Result<Completion>)>,
    ) -> Result<()> {
        self.read(decoder, deltas, tokenizer)?;
        self.collect(ended);
        if !self.active.is_empty() {
            self.pass(decoder, deltas, tokenizer)?;
            self.collect(ended);
        }
        Ok(())
    }

    /// A forward pass over the next chunks of prompts, and the first tokens of those that end.
    fn read(&mut self, decoder: &HostDecoder, deltas: &Deltas, tokenizer: &Tokenizer) -> Result<()> {
        let mut room = if self.active.is_empty() { PREFILL } else { CHUNK };
        let fits = self.reading.iter().enumerate().take_while(|(place, reading)| {
            let fits = *place == 0 || reading.chunk().len() <= room;
            room = room.saturating_sub(reading.chunk().len());
            fits
        });
        let count = fits.count();
        let now = &mut self.reading[..count];
        if now.is_empty() {
            return Ok(());
        }
        let rows: Vec<usize> = now.iter().map(|reading| reading.chunk().len()).collect();
        let tokens = now.iter().map(Reading::chunk).collect::<Vec<_>>().concat();
        let mut sequences: Vec<Continuation> = now.iter_mut().map(|r| std::mem::take(&mut r.sequence)).collect();
        let hidden = decoder.forward(&tokens, &mut sequences, &rows, deltas, None)?;
        let width = decoder.config().hidden_size;
        let (mut end, mut last) = (0, Vec::new());
        for ((reading, sequence), rows) in now.iter_mut().zip(sequences).zip(&rows) {
            reading.sequence = sequence;
            reading.read += rows;
            end += rows;
            if reading.is_done() {
                last.extend_from_slice(&hidden[(end - 1) * width..end * width]);
            }
        }
        let logits = decoder.logits(&last);
        let mut logits = logits.chunks(decoder.config().vocab_size);
        for Reading { job, sequence, .. } in self.reading.extract_if(..count, |reading| reading.is_done()) {
            let logits = logits.next().ok_or_else(|| Error::bug("running batch", "a prompt without logits"))?;
            let caches = Reading::root(&job).into_iter().chain([Arc::new(sequence.into_cache())]).collect();
            let options = job.options();
            let call = job.call(&options, deltas, tokenizer);
            let mut first = Active::new(&call, 0, 0, Own::new(0, decoder.continuation(caches)));
            step(&call, &mut first, &mut logits.to_vec())?;
            job.observe(&first.tokens);
            self.active.push(first);
            self.jobs.push(job);
        }
        Ok(())
    }

    /// A forward pass over the last token of every sequence, and its next one.
    fn pass(&mut self, decoder: &HostDecoder, deltas: &Deltas, tokenizer: &Tokenizer) -> Result<()> {
        let options: Vec<GenerateOptions<'_>> = self.jobs.iter().map(|job| job.options()).collect();
        let calls: Vec<Call<'_>> =
            self.jobs.iter().zip(&options).map(|(job, options)| job.call(options, deltas, tokenizer)).collect();
        let mut generation = Generation::new(decoder, deltas, &calls, None);
        generation.active = std::mem::take(&mut self.active);
        generation.logits = std::mem::take(&mut self.logits);
        generation.active.iter_mut().enumerate().for_each(|(place, a)| a.state.call = place);
        let passed = generation.pass();
        (self.active, self.logits) = (generation.active, generation.logits);
        passed?;
        self.jobs.iter().zip(&self.active).for_each(|(job, a)| job.observe(&a.tokens));
        Ok(())
    }

    /// Moves what has ended to `ended`.
    fn collect(&mut self, ended: &mut Vec<(Arc<Job>, Result<Completion>)>) {
        let (jobs, active) = (std::mem::take(&mut self.jobs), std::mem::take(&mut self.active));
        for (job, mut a) in jobs.into_iter().zip(active) {
            match a.take_completion() {
                Some(completion) => ended.push((job, Ok(completion))),
                None => {
                    self.jobs.push(job);
                    self.active.push(a);
                }
            }
        }
    }

    /// Everybody's pass failed.
    fn fail(&mut self, error: &Error) -> Vec<(Arc<Job>, Result<Completion>)> {
        self.active.clear();
        let jobs = self.jobs.drain(..).chain(self.reading.drain(..).map(|reading| reading.job));
        jobs.map(|job| (job, Err(error.clone()))).collect()
    }
}
