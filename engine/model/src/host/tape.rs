//! What a generation leaves for learning on the processor: the recorded rows of prefix, prompts and completions.
//!
//! The sampler and the trainer compute the same numbers with the same weights, so the sampler's pass is recorded and
//! the backward pass starts from it. A completion that was not sampled, or a batch that is too large to be recorded while
//! it is sampled, gets a teacher-forced pass afterwards, to the same end.

use std::sync::Arc;

use super::{HostDecoder, Recording};
use crate::adapter::Deltas;
use crate::backend::{BackendTape, Group};
use crate::completion::inputs_of;
use querywright_kernels::{Cache, Node, Tree};
use querywright_types::{Error, Result};

/// One row in so many may be unused before the rows in use are copied together.
const UNUSED: usize = 8;

/// A recorded prefix with its prompts and their completions.
#[derive(Debug, Clone)]
pub(crate) struct HostTape {
    pub(super) recording: Recording,
    prefix: Vec<usize>,
    prefix_cache: Option<Arc<Cache>>,
    prompts: Vec<Prompt>,
}

/// A recorded prompt.
#[derive(Debug, Clone)]
struct Prompt {
    /// Its rows after the prefix.
    rows: Vec<usize>,
    /// What its completions continue.
    caches: Vec<Arc<Cache>>,
    /// The rows of each completion's inputs: all its tokens but the last.
    completions: Vec<Vec<usize>>,
}

impl HostTape {
    /// Records a prefix, which may be empty; leaves room for `room` rows behind it.
    ///
    /// # Errors
    /// Those of [`HostDecoder::forward`].
    pub(super) fn new(decoder: &HostDecoder, deltas: &Deltas, prefix: &[u32], room: usize) -> Result<Self> {
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
    pub(super) fn of(decoder: &HostDecoder, deltas: &Deltas, prefix: &[u32], groups: &[Group<'_>]) -> Result<Self> {
        let rows =
            groups.iter().map(|(prompt, all)| prompt.len() + all.iter().map(|c| inputs_of(c).len()).sum::<usize>());
        let mut tape = Self::new(decoder, deltas, prefix, rows.sum())?;
        let prompts: Vec<&[u32]> = groups.iter().map(|g| g.0).collect();
        tape.forward_prompts(decoder, deltas, &prompts)?;
        let completions = groups.iter().enumerate().flat_map(|(i, (_, all))| all.iter().map(move |c| (i, *c)));
        let completions: Vec<(usize, &[u32])> = completions.collect();
        let rows = tape.forward(decoder, deltas, &completions)?;
        for ((prompt, _), rows) in completions.iter().zip(rows) {
            tape.prompts[*prompt].completions.push(rows);
        }
        Ok(tape)
    }

    /// Records further prompts; gives the hidden states of all their rows.
    pub(super) fn forward_prompts(
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
            self.prompts.push(Prompt { rows, caches, completions: Vec::new() });
            first += count;
        }
        Ok(hidden)
    }

    /// Puts tokens that the policy did not sample in the place of completions: (prompt, completion, tokens).
    ///
    /// # Errors
    /// Those of [`HostDecoder::forward`].
    pub(super) fn replace(
        &mut self,
        decoder: &HostDecoder,
        deltas: &Deltas,
        completions: &[(usize, usize, &[u32])],
    ) -> Result<()> {
        let known = |(prompt, index, _): &(usize, usize, &[u32])| {
            self.prompts.get(*prompt).is_some_and(|p| *index < p.completions.len())
        };
        if let Some((prompt, index, _)) = completions.iter().find(|c| !known(c)) {
            return Err(Error::bug("host tape", format!("no completion {index} of prompt {prompt}")));
        }
        let inputs: Vec<(usize, &[u32])> = completions.iter().map(|(prompt, _, tokens)| (*prompt, *tokens)).collect();
        let missing = inputs.iter().map(|(_, tokens)| inputs_of(tokens).len()).sum::<usize>();
        if missing > self.recording.spare() {
            let rows: Vec<usize> = (0..self.recording.rows()).collect();
            self.recording.select(decoder, &rows, missing);
        }
        let rows = self.forward(decoder, deltas, &inputs)?;
        for ((prompt, index, _), rows) in completions.iter().zip(rows) {
            self.prompts[*prompt].completions[*index] = rows;
        }
        Ok(())
    }

    /// A teacher-forced pass over completions of prompts; gives the rows of each.
    fn forward(
        &mut self,
        decoder: &HostDecoder,
        deltas: &Deltas,
        completions: &[(usize, &[u32])],
    ) -> Result<Vec<Vec<usize>>> {
        let tokens: Vec<u32> = completions.iter().flat_map(|(_, c)| inputs_of(c)).copied().collect();
        let rows: Vec<usize> = completions.iter().map(|(_, c)| inputs_of(c).len()).collect();
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

    /// Keeps only these prompts, in this order. Rows that are unused then are dropped where they are many.
    pub(super) fn retain(&mut self, decoder: &HostDecoder, prompts: &[usize]) -> Result<()> {
        let kept: Option<Vec<Prompt>> = prompts.iter().map(|p| self.prompts.get(*p).cloned()).collect();
        self.prompts =
            kept.ok_or_else(|| Error::bug("host tape", format!("{prompts:?} of {} prompts", self.prompts.len())))?;
        let segments = || {
            let own = self.prompts.iter().flat_map(|p| std::iter::once(&p.rows).chain(&p.completions));
            std::iter::once(&self.prefix).chain(own)
        };
        let rows: Vec<usize> = segments().flatten().copied().collect();
        if rows.len() * UNUSED >= self.recording.rows() * (UNUSED - 1) {
            return Ok(());
        }
        self.recording.select(decoder, &rows, 0);
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
        Ok(())
    }

    /// What was recorded.
    pub(super) fn recording(&self) -> &Recording {
        &self.recording
    }

    /// The segments of tokens for attention's backward pass.
    pub(super) fn tree(&self) -> Tree {
        let mut tree = vec![Node { parent: None, rows: self.prefix.clone() }];
        for prompt in &self.prompts {
            tree.push(Node { parent: Some(0), rows: prompt.rows.clone() });
            let parent = Some(tree.len() - 1);
            tree.extend(prompt.completions.iter().map(|rows| Node { parent, rows: rows.clone() }));
        }
        tree
    }

    /// Takes the rows of a completion that was recorded while it was sampled.
    pub(super) fn take(&mut self, prompt: usize, completion: usize, rows: Vec<usize>) {
        let completions = &mut self.prompts[prompt].completions;
        completions.resize(completions.len().max(completion + 1), Vec::new());
        completions[completion] = rows;
    }

    /// What completions of a prompt continue.
    pub(super) fn caches(&self, prompt: usize) -> Vec<Arc<Cache>> {
        self.prompts[prompt].caches.clone()
    }
}

impl BackendTape for HostTape {
    fn rows(&self) -> usize {
        self.recording.rows()
    }

    fn predicting_rows(&self) -> Vec<Vec<Vec<usize>>> {
        let of_prompt = |prompt: &Prompt| {
            let last = || prompt.rows.last().into_iter();
            prompt.completions.iter().map(|rows| last().chain(rows).copied().collect()).collect()
        };
        self.prompts.iter().map(of_prompt).collect()
    }
}
