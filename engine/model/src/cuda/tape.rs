//! What is learned from on a GPU: the tokens of a prefix, prompts that continue it, and the completions of each.

use super::CudaDecoder;
use crate::adapter::{BlockDeltas, Deltas};
use crate::backend::{BackendTape, Group};
use crate::completion::inputs_of;
use querywright_kernels::device::{Buffer, Device, Format, KeyPlan, PackedTree};
use querywright_types::{Error, Result};

/// Tokens, and the deltas that apply to them. The pass over them is made when its numbers are asked for.
#[derive(Debug, Clone)]
pub(crate) struct CudaTape {
    prefix: Vec<u32>,
    prompts: Vec<Prompt>,
    pub(super) deltas: Vec<BlockDeltas>,
}

#[derive(Debug, Clone)]
struct Prompt {
    tokens: Vec<u32>,
    /// The inputs of each completion: its tokens but the last.
    completions: Vec<Vec<u32>>,
}

impl Prompt {
    fn rows(&self) -> usize {
        self.tokens.len() + self.completions.iter().map(Vec::len).sum::<usize>()
    }
}

/// The rows of a tape in depth-first order.
#[derive(Debug, Default)]
pub(super) struct Layout {
    pub(super) tokens: Vec<u32>,
    pub(super) positions: Vec<i32>,
    /// For each row, the end of what continues it.
    pub(super) ends: Vec<i32>,
}

impl Layout {
    /// Rows of one segment; they are continued until `end`.
    pub(super) fn push(&mut self, tokens: &[u32], position: usize, end: usize) {
        self.tokens.extend_from_slice(tokens);
        self.positions.extend((position..position + tokens.len()).map(|p| p as i32));
        self.ends.resize(self.tokens.len(), end as i32);
    }

    /// Ends on a device, and the largest of each tile.
    pub(super) fn upload_ends(&self, device: &Device, format: Format) -> Result<(Buffer, Buffer)> {
        Ok((device.upload(&self.ends)?, device.upload(&self.tile_ends(format))?))
    }

    /// How the gradient of its keys is divided.
    pub(super) fn plan(&self, format: Format) -> KeyPlan {
        KeyPlan::new(&self.tile_ends(format), format)
    }

    fn tile_ends(&self, format: Format) -> Vec<i32> {
        self.ends.chunks(format.tile()).map(|tile| tile.iter().copied().max().unwrap_or_default()).collect()
    }
}

/// A tree of `rows` rows.
pub(super) fn tree((ends, tile_ends): &(Buffer, Buffer), rows: usize) -> PackedTree<'_> {
    PackedTree { ends: ends.view(), tile_ends: tile_ends.view(), rows }
}

impl CudaTape {
    pub(super) fn of(decoder: &CudaDecoder, deltas: &Deltas, prefix: &[u32], groups: &[Group<'_>]) -> Result<Self> {
        let prompts = groups.iter().map(|(prompt, completions)| Prompt {
            tokens: prompt.to_vec(),
            completions: completions.iter().map(|c| inputs_of(c).to_vec()).collect(),
        });
        let tape = Self { prefix: prefix.to_vec(), prompts: prompts.collect(), deltas: deltas.to_vec() };
        let layout = tape.layout();
        decoder.config.check_tokens(&layout.tokens)?;
        decoder.config.check_positions(layout.positions.iter().map(|p| *p as usize))?;
        Ok(tape)
    }

    pub(super) fn replace(&mut self, decoder: &CudaDecoder, completions: &[(usize, usize, &[u32])]) -> Result<()> {
        for (prompt, index, tokens) in completions {
            decoder.config.check_tokens(tokens)?;
            let old = self.prompts.get_mut(*prompt).and_then(|p| p.completions.get_mut(*index));
            let missing = || Error::bug("tape on a GPU", format!("no completion {index} of prompt {prompt}"));
            *old.ok_or_else(missing)? = inputs_of(tokens).to_vec();
        }
        Ok(())
    }

    pub(super) fn retain(&mut self, prompts: &[usize]) -> Result<()> {
        let kept: Option<Vec<Prompt>> = prompts.iter().map(|p| self.prompts.get(*p).cloned()).collect();
        self.prompts =
            kept.ok_or_else(|| Error::bug("tape on a GPU", format!("{prompts:?} of {} prompts", self.prompts.len())))?;
        Ok(())
    }

    pub(super) fn layout(&self) -> Layout {
        let mut layout = Layout::default();
        layout.push(&self.prefix, 0, self.rows());
        for prompt in &self.prompts {
            let (from, shared) = (layout.tokens.len(), self.prefix.len() + prompt.tokens.len());
            layout.push(&prompt.tokens, self.prefix.len(), from + prompt.rows());
            for completion in &prompt.completions {
                let end = layout.tokens.len() + completion.len();
                layout.push(completion, shared, end);
            }
        }
        layout
    }
}

impl BackendTape for CudaTape {
    fn rows(&self) -> usize {
        self.prefix.len() + self.prompts.iter().map(Prompt::rows).sum::<usize>()
    }

    fn predicting_rows(&self) -> Vec<Vec<Vec<usize>>> {
        let mut row = self.prefix.len();
        let of_prompt = |prompt: &Prompt| {
            let mut first = row + prompt.tokens.len();
            let last = first.saturating_sub(1);
            row += prompt.rows();
            let of_completion = |inputs: &Vec<u32>| {
                first += inputs.len();
                std::iter::once(last).chain(first - inputs.len()..first).collect()
            };
            prompt.completions.iter().map(of_completion).collect()
        };
        self.prompts.iter().map(of_prompt).collect()
    }
}
