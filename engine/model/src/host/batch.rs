//! A running batch on the processor: each pass reads chunks of prompts and gives every sequence a token.

use std::collections::HashSet;
use std::sync::Arc;

use super::HostDecoder;
use super::blocks::Blocks;
use super::generate::{Beside, Generation, Own, PREFILL, step};
use super::reading::{CHUNK, Reading};
use crate::adapter::Deltas;
use crate::backend::Batching;
use crate::batcher::Job;
use crate::completion::{Completion, GenerateOptions};
use crate::sequence::{Active, Call};
use crate::tokenizer::Tokenizer;
use querywright_types::{Error, Result};

/// Sequences of several requests that share passes.
#[derive(Default)]
pub(crate) struct HostBatch {
    /// Prompts that are not read to their end.
    reading: Vec<Reading>,
    /// Beginnings of earlier ones.
    blocks: Blocks,
    /// How many of them do not wait for a block that another one reads.
    fresh: usize,
    /// The requests of `active`, one each.
    jobs: Vec<Arc<Job>>,
    active: Vec<Active<Own>>,
    /// A buffer.
    logits: Vec<f32>,
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
        let HostBatch { reading, blocks, .. } = batch;
        reading.extend(joining.into_iter().map(|job| Reading::new(job, self, blocks)));
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
        // Asked once: a request may be cancelled at any moment, and the two lists belong together.
        let stays: Vec<bool> = self.jobs.iter().map(|job| !job.is_cancelled()).collect();
        let (mut of_active, mut of_jobs) = (stays.iter(), stays.iter());
        self.active.retain(|_| of_active.next() == Some(&true));
        self.jobs.retain(|_| of_jobs.next() == Some(&true));
    }

    /// Ends requests whose time is over before their prompt was read. Others end with their next token.
    fn leave_late(&mut self) -> Vec<(Arc<Job>, Result<Completion>)> {
        let late = |reading: &mut Reading| reading.job.request.deadline.passed();
        let ended = |Reading { job, .. }: Reading| {
            let late = job.request.deadline.check();
            (job, late.and(Err(Error::bug("running batch", "a deadline that passed and has not passed"))))
        };
        self.reading.extract_if(.., late).map(ended).collect()
    }

    /// A forward pass over the next chunks of prompts and the last token of every sequence, and the next token of each.
    fn advance(
        &mut self,
        decoder: &HostDecoder,
        deltas: &Deltas,
        tokenizer: &Tokenizer,
        ended: &mut Vec<(Arc<Job>, Result<Completion>)>,
    ) -> Result<()> {
        self.skip();
        let count = self.next_to_read();
        if count == 0 && self.active.is_empty() {
            return Ok(());
        }
        let now = &mut self.reading[..count];
        let sequences = now.iter_mut().flat_map(|reading| reading.begin_pass(decoder)).collect();
        let (tokens, wanted) = now.iter().flat_map(Reading::tokens).unzip();
        let options: Vec<GenerateOptions<'_>> = self.jobs.iter().map(|job| job.options()).collect();
        let calls: Vec<Call<'_>> =
            self.jobs.iter().zip(&options).map(|(job, options)| job.call(options, deltas, tokenizer)).collect();
        let mut generation = Generation::new(decoder, deltas, &calls, None);
        generation.apart = true;
        generation.active = std::mem::take(&mut self.active);
        generation.logits = std::mem::take(&mut self.logits);
        generation.active.iter_mut().enumerate().for_each(|(place, a)| a.state.call = place);
        let (sequences, first) = generation.pass_with(Beside { sequences, tokens, wanted })?;
        (self.active, self.logits) = (generation.active, generation.logits);
        self.jobs.iter().zip(&self.active).for_each(|(job, a)| job.observe(&a.tokens));
        let (HostBatch { reading, blocks, .. }, mut sequences) = (&mut *self, sequences.into_iter());
        reading[..count].iter_mut().for_each(|reading| reading.end_pass(&mut sequences, blocks));
        self.begin(count, &first, decoder, (deltas, tokenizer), ended);
        self.collect(ended);
        Ok(())
    }

    /// Goes on by what was read before. Of prompts that go on alike one is read; the others find its block with the next pass.
    fn skip(&mut self) {
        let HostBatch { reading, blocks, .. } = self;
        reading.iter_mut().for_each(|reading| reading.skip(blocks));
        let mut seen = HashSet::new();
        let block = |reading: &Reading| reading.next_block().map(|(parent, tokens)| (parent, tokens.to_vec()));
        let waits: Vec<bool> = reading.iter().map(|r| block(r).is_some_and(|block| !seen.insert(block))).collect();
        let mut of = waits.iter();
        let later: Vec<Reading> = reading.extract_if(.., |_| of.next() == Some(&true)).collect();
        self.fresh = reading.len();
        reading.extend(later);
    }

    /// How many of the prompts, the oldest first, are read in the next pass.
    fn next_to_read(&self) -> usize {
        let mut room = if self.active.is_empty() { PREFILL } else { CHUNK };
        let fits = self.reading.iter().take(self.fresh).enumerate().take_while(|(place, reading)| {
            let fits = *place == 0 || reading.rows() <= room;
            room = room.saturating_sub(reading.rows());
            fits
        });
        fits.count()
    }

    /// The first tokens of those of the first `count` prompts that were read to their end, from their logits.
    fn begin(
        &mut self,
        count: usize,
        logits: &[f32],
        decoder: &HostDecoder,
        (deltas, tokenizer): (&Deltas, &Tokenizer),
        ended: &mut Vec<(Arc<Job>, Result<Completion>)>,
    ) {
        let mut logits = logits.chunks(decoder.config().vocab_size);
        for reading in self.reading.extract_if(..count, |reading| reading.is_done()) {
            let (job, caches) = reading.done();
            let Some(logits) = logits.next() else {
                ended.push((job, Err(Error::bug("running batch", "a prompt without logits"))));
                continue;
            };
            let options = job.options();
            let call = job.call(&options, deltas, tokenizer);
            let mut first = Active::new(&call, 0, 0, Own::new(0, decoder.continuation(caches)));
            if let Err(error) = step(&call, &mut first, &mut logits.to_vec()) {
                ended.push((job, Err(error)));
                continue;
            }
            job.observe(&first.tokens);
            self.active.push(first);
            self.jobs.push(job);
        }
    }

    /// Moves what has ended to `ended`.
    fn collect(&mut self, ended: &mut Vec<(Arc<Job>, Result<Completion>)>) {
        let (jobs, active) = (std::mem::take(&mut self.jobs), std::mem::take(&mut self.active));
        for (job, mut a) in jobs.into_iter().zip(active) {
            match (a.state.failed.take(), a.take_completion()) {
                (Some(error), _) => ended.push((job, Err(error))),
                (None, Some(completion)) => ended.push((job, Ok(completion))),
                (None, None) => {
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
