//! Buffers that generation keeps from call to call, and how large they may become.

use std::collections::{HashMap, HashSet};

use super::forward::Activations;
use super::{CudaDecoder, State};
use crate::completion::{GenerateOptions, PromptTokens};
use crate::sequence::Call;
use querywright_kernels::device::{Buffer, Graph, Mailbox};
use querywright_types::Result;

/// Prompt tokens that one pass takes at most.
pub(super) const PREFILL: usize = 8192;

/// The share of free memory that a call may take; buffers are up to an eighth larger than what they are asked to hold.
pub(super) const USED: (usize, usize) = (4, 5);

/// Words of 32 bits that a row of a decoding step reads: its number in 0..1 (two of them), token, position, cache row, slot,
/// the end of its cache rows, and a chunk, of which there are no more than rows.
pub(super) const CONTROL: usize = 16;

/// Rows of a step of so many sequences: a graph is captured for each such number.
pub(super) fn batch_of(sequences: usize) -> usize {
    match sequences {
        ..=64 => sequences.next_power_of_two(),
        more => more.next_multiple_of(64),
    }
}

/// Buffers of generation. They stay, with the graphs that know where they are, until larger ones are needed.
pub(super) struct Workspace {
    /// First, so that they are dropped before what they refer to.
    pub(super) graphs: HashMap<GraphKey, Graph>,
    /// Steps that were launched before, so that they can be captured.
    pub(super) launched: HashSet<GraphKey>,
    /// Keys and values of each layer: (rows, 2 · key width).
    pub(super) cache: Vec<Buffer>,
    pub(super) rows: usize,
    /// The tokens whose keys and values are in the cache's first rows.
    pub(super) prefix: Vec<u32>,
    pub(super) batch: usize,
    pub(super) step: Step,
}

impl Workspace {
    /// The prefix was computed with other weights.
    pub(super) fn forget_prefix(&mut self) {
        self.prefix.clear();
    }
}

/// Buffers of a decoding step.
pub(super) struct Step {
    pub(super) control: Buffer,
    pub(super) x: Buffer,
    /// The cosines and sines of the rows' positions.
    pub(super) angles: Buffer,
    pub(super) activations: Activations,
    pub(super) hidden: Buffer,
    pub(super) logits: Buffer,
    /// Token, log-probability and entropy of each sequence.
    pub(super) sampled: Buffer,
    /// What was sampled in this step and in the one before it, on the host.
    pub(super) mailboxes: [Mailbox; 2],
}

/// What a captured step depends on besides its buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct GraphKey {
    pub(super) rows: usize,
    pub(super) how: How,
    /// How many chunks the rows are in, where they are in chunks.
    pub(super) chunks: Option<usize>,
}

/// How tokens are sampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum How {
    Greedy,
    /// At a scale of the logits (the bits of an f32).
    Plain(u32),
    /// Not in the step itself: on the host, where distributions are truncated or penalised, or among the tokens that a
    /// grammar allows.
    Host,
}

impl How {
    pub(super) fn of(options: &GenerateOptions) -> Self {
        let sampling = options.sampling;
        match () {
            () if sampling.is_plain() => Self::Plain((1.0 / sampling.temperature).to_bits()),
            () if sampling.temperature == 0.0 && sampling.repetition_penalty == 1.0 => Self::Greedy,
            () => Self::Host,
        }
    }
}

impl CudaDecoder {
    /// Bytes of a workspace: keys and values of so many rows, and the buffers of a step of so many sequences.
    pub(super) fn workspace_bytes(&self, state: &State, rows: usize, batch: usize) -> usize {
        let (hidden, vocabulary) = (self.config.hidden_size, self.config.vocab_size);
        let cached = state.blocks.len() * 2 * self.heads.key_width() * self.format.bytes();
        let x = (4 + self.format.bytes()) * hidden + 4 * self.config.head_dim;
        let step = self.activation_bytes(&state.blocks) + x + 4 * vocabulary;
        rows * cached + batch * (step + 4 * CONTROL + 12)
    }

    /// Bytes of the passes over a prefix and prompts, and of sampling tokens of so many sequences.
    pub(super) fn prefill_bytes(&self, state: &State, call: &Call<'_>, prompts: &[PromptTokens]) -> usize {
        let (hidden, vocabulary) = (self.config.hidden_size, self.config.vocab_size);
        let sequences = prompts.len() * call.options.completions;
        let lengths = || prompts.iter().map(|p| p.tokens.len());
        // The prefix and every prompt are passed over in one piece.
        let longest = lengths().max().unwrap_or_default().max(call.prefix.len());
        let rows = (call.prefix.len() + lengths().sum::<usize>()).min(PREFILL.max(longest));
        let logits = 4 * vocabulary + hidden * self.format.bytes();
        // The tokens that grammars allow: no more than all, for each sequence.
        let lists = if prompts.iter().any(|p| p.grammar.is_some()) { 4 * vocabulary * sequences } else { 0 };
        rows * (self.activation_bytes(&state.blocks) + 4 * hidden) + sequences.min(self.head_rows()) * logits + lists
    }

    /// Makes sure that there is a workspace of so many cache rows and sequences at least, and room for `passing` bytes
    /// beside it.
    pub(super) fn make_workspace(&self, state: &mut State, rows: usize, batch: usize, passing: usize) -> Result<()> {
        let batch = batch_of(batch);
        if state.workspace.as_ref().is_some_and(|w| w.rows >= rows && w.batch >= batch)
            && passing / 8 * 9 <= self.device.available()?
        {
            return Ok(());
        }
        // What there is goes first: both at once may not fit. It grows in both sizes, where that fits.
        if let Some(old) = state.workspace.take() {
            let (most_rows, most_batch) = (rows.max(old.rows), batch.max(old.batch));
            drop(old);
            let grown = self.workspace_bytes(state, most_rows, most_batch) + passing;
            if grown <= self.device.available()? / USED.1 * USED.0 {
                return self.new_workspace(state, most_rows, most_batch);
            }
        }
        self.new_workspace(state, rows, batch)
    }

    fn new_workspace(&self, state: &mut State, rows: usize, batch: usize) -> Result<()> {
        let bytes = rows * 2 * self.heads.key_width() * self.format.bytes();
        let cache = state.blocks.iter().map(|_| self.device.allocate(bytes)).collect::<Result<_>>()?;
        let (hidden, vocabulary) = (self.config.hidden_size, self.config.vocab_size);
        let step = Step {
            control: self.device.allocate(4 * CONTROL * batch)?,
            x: self.device.allocate(4 * batch * hidden)?,
            angles: self.angles(batch)?,
            activations: self.activations(&state.blocks, batch)?,
            hidden: self.device.allocate(batch * hidden * self.format.bytes())?,
            logits: self.device.allocate(4 * batch * vocabulary)?,
            sampled: self.device.allocate(12 * batch)?,
            mailboxes: [self.device.mailbox(3 * batch)?, self.device.mailbox(3 * batch)?],
        };
        state.workspace = Some(Workspace {
            cache,
            rows,
            prefix: Vec::new(),
            batch,
            step,
            graphs: HashMap::new(),
            launched: HashSet::new(),
        });
        Ok(())
    }
}
