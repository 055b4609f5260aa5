//! What a generation leaves for learning: the recorded rows of prefix, prompts and completions.
//!
//! The sampler and the trainer compute the same numbers with the same weights, so the sampler's pass is recorded and
//! the trainer goes straight back through it. A completion that nobody sampled, or a batch that is too large to be
//! recorded while it is sampled, is fed afterwards, to the same end.

use std::sync::Arc;

use super::host::{Deltas, HostDecoder, Predictions, Recording};
use crate::error::Result;
use crate::kernels::{Cache, Node, Tree};

/// A recorded prefix with its prompts and their completions.
#[derive(Debug, Clone)]
pub struct HostTape {
    pub(super) recording: Recording,
    pub(super) prefix: Vec<usize>,
    prefix_cache: Option<Arc<Cache>>,
    pub(super) prompts: Vec<TapedPrompt>,
}

/// A recorded prompt.
#[derive(Debug, Clone)]
pub struct TapedPrompt {
    /// Its rows after the prefix.
    rows: Vec<usize>,
    /// What its completions continue.
    caches: Vec<Arc<Cache>>,
    /// The rows of each completion: all its tokens but the last, which is never fed.
    pub(super) completions: Vec<Vec<usize>>,
}

impl HostTape {
    /// Records a prefix, which may be empty; leaves room for `room` rows behind it.
    ///
    /// # Errors
    /// Those of [`HostDecoder::forward`].
    pub fn new(decoder: &HostDecoder, deltas: &Deltas, prefix: &[u32], room: usize) -> Result<Self> {
        let mut recording = Recording::new(decoder, prefix.len() + room);
        let mut cache = None;
        if !prefix.is_empty() {
            let mut sequence = [decoder.continuation(Vec::new())];
            decoder.forward(prefix, &mut sequence, &[prefix.len()], deltas, Some(&mut recording))?;
            let [sequence] = sequence;
            cache = Some(Arc::new(sequence.into_cache()));
        }
        Ok(Self { recording, prefix: (0..prefix.len()).collect(), prefix_cache: cache, prompts: Vec::new() })
    }

    /// Records a prefix, prompts that continue it and the completions of each.
    ///
    /// # Errors
    /// Those of [`HostDecoder::forward`].
    pub fn of(
        decoder: &HostDecoder,
        deltas: &Deltas,
        prefix: &[u32],
        groups: &[(&[u32], Vec<&[u32]>)],
    ) -> Result<Self> {
        let rows = groups.iter().map(|(prompt, all)| prompt.len() + all.iter().map(|c| fed(c).len()).sum::<usize>());
        let mut tape = Self::new(decoder, deltas, prefix, rows.sum())?;
        let prompts: Vec<&[u32]> = groups.iter().map(|g| g.0).collect();
        tape.feed_prompts(decoder, deltas, &prompts)?;
        let completions = groups.iter().enumerate().flat_map(|(i, (_, all))| all.iter().map(move |c| (i, *c)));
        let completions: Vec<(usize, &[u32])> = completions.collect();
        let rows = tape.feed(decoder, deltas, &completions)?;
        for ((prompt, _), rows) in completions.iter().zip(rows) {
            tape.prompts[*prompt].completions.push(rows);
        }
        Ok(tape)
    }

    /// Records further prompts; gives the hidden states of all their rows.
    pub(super) fn feed_prompts(
        &mut self,
        decoder: &HostDecoder,
        deltas: &Deltas,
        prompts: &[&[u32]],
    ) -> Result<Vec<f32>> {
        let root: Vec<Arc<Cache>> = self.prefix_cache.iter().cloned().collect();
        let mut sequences: Vec<_> = prompts.iter().map(|_| decoder.continuation(root.clone())).collect();
        let rows: Vec<usize> = prompts.iter().map(|p| p.len()).collect();
        let mut first = self.recording.rows();
        let hidden = decoder.forward(&prompts.concat(), &mut sequences, &rows, deltas, Some(&mut self.recording))?;
        for (sequence, count) in sequences.into_iter().zip(rows) {
            let mut caches = root.clone();
            caches.push(Arc::new(sequence.into_cache()));
            let rows = (first..first + count).collect();
            self.prompts.push(TapedPrompt { rows, caches, completions: Vec::new() });
            first += count;
        }
        Ok(hidden)
    }

    /// Takes tokens that somebody else chose as a completion of a prompt, in the place of its completion `index`.
    ///
    /// # Errors
    /// Those of [`HostDecoder::forward`].
    pub fn replace(
        &mut self,
        decoder: &HostDecoder,
        deltas: &Deltas,
        completions: &[(usize, usize, &[u32])],
    ) -> Result<()> {
        let feed: Vec<(usize, &[u32])> = completions.iter().map(|(prompt, _, tokens)| (*prompt, *tokens)).collect();
        let missing = feed.iter().map(|(_, tokens)| fed(tokens).len()).sum::<usize>();
        if missing > self.recording.spare() {
            let rows: Vec<usize> = (0..self.recording.rows()).collect();
            self.recording = self.recording.select(decoder, &rows, missing);
        }
        let rows = self.feed(decoder, deltas, &feed)?;
        for ((prompt, index, _), rows) in completions.iter().zip(rows) {
            if let Some(old) = self.prompts[*prompt].completions.get_mut(*index) {
                *old = rows;
            }
        }
        Ok(())
    }

    /// Feeds completions of prompts; gives the rows of each.
    fn feed(
        &mut self,
        decoder: &HostDecoder,
        deltas: &Deltas,
        completions: &[(usize, &[u32])],
    ) -> Result<Vec<Vec<usize>>> {
        let tokens: Vec<u32> = completions.iter().flat_map(|(_, c)| fed(c)).copied().collect();
        let rows: Vec<usize> = completions.iter().map(|(_, c)| fed(c).len()).collect();
        let mut first = self.recording.rows();
        if !tokens.is_empty() {
            let continued = |(prompt, _): &(usize, &[u32])| decoder.continuation(self.prompts[*prompt].caches.clone());
            let mut sequences: Vec<_> = completions.iter().map(continued).collect();
            decoder.forward(&tokens, &mut sequences, &rows, deltas, Some(&mut self.recording))?;
        }
        Ok(rows
            .into_iter()
            .map(|count| {
                first += count;
                (first - count..first).collect()
            })
            .collect())
    }

    /// Keeps these prompts alone, in this order. Rows that nobody needs any more are dropped where they are many.
    pub fn retain(&mut self, decoder: &HostDecoder, prompts: &[usize]) {
        self.prompts = prompts.iter().map(|p| self.prompts[*p].clone()).collect();
        let stretches = || {
            let own = self.prompts.iter().flat_map(|p| std::iter::once(&p.rows).chain(&p.completions));
            std::iter::once(&self.prefix).chain(own)
        };
        let rows: Vec<usize> = stretches().flatten().copied().collect();
        if rows.len() * WASTE >= self.recording.rows() * (WASTE - 1) {
            return;
        }
        self.recording = self.recording.select(decoder, &rows, 0);
        let mut next = 0;
        let mut renumber = |rows: &mut Vec<usize>| {
            for row in rows {
                *row = next;
                next += 1;
            }
        };
        renumber(&mut self.prefix);
        for prompt in &mut self.prompts {
            renumber(&mut prompt.rows);
            prompt.completions.iter_mut().for_each(&mut renumber);
        }
    }

    /// What was recorded.
    pub fn recording(&self) -> &Recording {
        &self.recording
    }

    /// The stretches of tokens for the way back.
    pub fn tree(&self) -> Tree {
        let mut tree = vec![Node { parent: None, rows: self.prefix.clone() }];
        for prompt in &self.prompts {
            tree.push(Node { parent: Some(0), rows: prompt.rows.clone() });
            let parent = Some(tree.len() - 1);
            tree.extend(prompt.completions.iter().map(|rows| Node { parent, rows: rows.clone() }));
        }
        tree
    }

    /// The predictions of all completions' tokens, prompt by prompt; `tokens` are the completions of each prompt.
    ///
    /// The first token of a completion is predicted by the prompt's last row, every further one by the row of the token
    /// before it.
    pub fn predictions<'t>(&self, tokens: impl Iterator<Item = Vec<&'t [u32]>>) -> Predictions {
        let mut predictions = Predictions::default();
        for (prompt, completions) in self.prompts.iter().zip(tokens) {
            for (rows, completion) in prompt.completions.iter().zip(completions) {
                predictions.rows.extend(prompt.rows.last().into_iter().chain(rows));
                predictions.targets.extend_from_slice(completion);
            }
        }
        predictions
    }

    pub(super) fn caches(&self, prompt: usize) -> Vec<Arc<Cache>> {
        self.prompts.get(prompt).map(|p| p.caches.clone()).unwrap_or_default()
    }
}

/// One row in so many may be dead weight before the rows are copied together.
const WASTE: usize = 8;

/// A completion's tokens but the last.
fn fed(completion: &[u32]) -> &[u32] {
    &completion[..completion.len().saturating_sub(1)]
}
