//! A prompt that is being read.

use std::ops::Range;
use std::sync::Arc;

use super::HostDecoder;
use super::blocks::{Blocks, Chain, LONGEST, end_of_block};
use crate::batcher::Job;
use querywright_kernels::{Cache, Continuation};

/// Prompt tokens that a pass reads beside the next tokens of others. Longer prompts are read in chunks of so many, whatever
/// else there is, so that their sums do not depend on it.
pub(super) const CHUNK: usize = LONGEST;

/// A prompt of which some tokens were read.
pub(super) struct Reading {
    pub(super) job: Arc<Job>,
    /// Behind the blocks, where there are some.
    sequence: Continuation,
    read: usize,
    /// The blocks behind it, where they are kept.
    chain: Option<Chain>,
    /// Those that the pass under way computes.
    closing: Vec<Arc<Cache>>,
}

impl Reading {
    pub(super) fn new(job: Arc<Job>, decoder: &HostDecoder, blocks: &mut Blocks) -> Self {
        let prefix = &job.request.prefix;
        let chain = job.request.keep_prompt.then(|| blocks.begin(prefix.tokens(), prefix.cache()));
        let mut reading = Self { job, sequence: Continuation::default(), read: 0, chain, closing: Vec::new() };
        reading.sequence = decoder.continuation(reading.before());
        reading
    }

    /// What its sequence continues.
    fn before(&self) -> Vec<Arc<Cache>> {
        match &self.chain {
            Some(chain) => chain.caches().to_vec(),
            None => self.job.request.prefix.cache().into_iter().cloned().collect(),
        }
    }

    fn prompt(&self) -> &[u32] {
        &self.job.request.prompt.tokens
    }

    /// What the next pass reads: a chunk, or blocks and what is behind them. A prompt's last tokens are no block: what comes
    /// next is asked of them.
    fn pieces(&self) -> Vec<Range<usize>> {
        let (mut pieces, mut from, length) = (Vec::new(), self.read, self.prompt().len());
        while from < length {
            let end = if self.chain.is_some() { end_of_block(from) } else { from + CHUNK }.min(length);
            if !pieces.is_empty() && end - self.read > CHUNK {
                break;
            }
            pieces.push(from..end);
            from = end;
        }
        pieces
    }

    fn is_block(&self, piece: &Range<usize>) -> bool {
        self.chain.is_some() && piece.end < self.prompt().len()
    }

    /// The next block with what stands before it, where a block comes next.
    pub(super) fn next_block(&self) -> Option<(u64, &[u32])> {
        let chain = self.chain.as_ref()?;
        let piece = self.read..end_of_block(self.read).min(self.prompt().len());
        self.is_block(&piece).then(|| (chain.parent(), &self.prompt()[piece]))
    }

    /// Goes on by all blocks that were read before.
    pub(super) fn skip(&mut self, blocks: &mut Blocks) {
        while let Some((_, block)) = self.next_block() {
            let block = block.to_vec();
            if !self.chain.as_mut().is_some_and(|chain| blocks.find(chain, &block)) {
                break;
            }
            self.read += block.len();
        }
    }

    /// The tokens of the next pass, sequence by sequence, and whether what comes behind them is asked for.
    pub(super) fn tokens(&self) -> impl Iterator<Item = (&[u32], bool)> {
        self.pieces().into_iter().map(|piece| (&self.prompt()[piece.clone()], piece.end == self.prompt().len()))
    }

    /// How many they are.
    pub(super) fn rows(&self) -> usize {
        self.pieces().last().map_or(0, |last| last.end - self.read)
    }

    /// The sequences of the next pass, one a piece. Those behind a block continue what the pass makes of it.
    pub(super) fn begin_pass(&mut self, decoder: &HostDecoder) -> Vec<Continuation> {
        if self.chain.is_none() {
            return vec![std::mem::take(&mut self.sequence)];
        }
        let mut before = self.before();
        let mut sequences = Vec::new();
        for piece in self.pieces() {
            if !self.is_block(&piece) {
                sequences.push(decoder.continuation(before.clone()));
                continue;
            }
            let (sequence, cache) = decoder.closing(before.clone(), piece.len());
            before.push(cache.clone());
            self.closing.push(cache);
            sequences.push(sequence);
        }
        sequences
    }

    /// Takes its sequences back from a pass.
    pub(super) fn end_pass(&mut self, sequences: &mut impl Iterator<Item = Continuation>, blocks: &mut Blocks) {
        let (pieces, mut closed) = (self.pieces(), std::mem::take(&mut self.closing).into_iter());
        for (piece, sequence) in pieces.into_iter().zip(sequences) {
            let block = if self.is_block(&piece) { closed.next() } else { None };
            match (block, &mut self.chain) {
                (Some(cache), Some(chain)) => blocks.read(chain, &self.job.request.prompt.tokens[piece.clone()], cache),
                _ => self.sequence = sequence,
            }
            self.read = piece.end;
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.read == self.prompt().len()
    }

    /// Its request, and all that its completion continues.
    pub(super) fn done(mut self) -> (Arc<Job>, Vec<Arc<Cache>>) {
        let own = Arc::new(std::mem::take(&mut self.sequence).into_cache());
        let caches = self.before().into_iter().chain([own]).collect();
        (self.job, caches)
    }
}
