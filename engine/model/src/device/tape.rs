//! What is learned from: the tokens of a prefix, prompts that continue it, and the completions of each.

use super::DeviceDecoder;
use crate::error::{Error, Result};
use crate::kernels::LoraDelta;
use crate::kernels::device::{Buffer, Device, Tree};
use crate::model::adapter::Projection;
use crate::model::host::{Deltas, Predictions};

/// Tokens, and the deltas under which they are to be seen. The pass over them is made when its numbers are asked for.
#[derive(Debug, Clone)]
pub struct DeviceTape {
    prefix: Vec<u32>,
    prompts: Vec<Prompt>,
    pub(super) deltas: Vec<[Option<LoraDelta>; Projection::COUNT]>,
    /// Rows of a tile of attention.
    tile: usize,
}

#[derive(Debug, Clone)]
struct Prompt {
    tokens: Vec<u32>,
    /// The tokens of each completion but the last, which is never fed.
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
    /// Rows of one stretch; they are continued until `end`.
    pub(super) fn push(&mut self, tokens: &[u32], position: usize, end: usize) {
        self.tokens.extend_from_slice(tokens);
        self.positions.extend((position..position + tokens.len()).map(|p| p as i32));
        self.ends.resize(self.tokens.len(), end as i32);
    }

    /// Ends on a device, and the largest of each tile.
    pub(super) fn upload_ends(&self, device: &Device, tile: usize) -> Result<(Buffer, Buffer)> {
        let tiles: Vec<i32> = self.ends.chunks(tile).map(|t| t.iter().copied().max().unwrap_or_default()).collect();
        Ok((device.upload(&self.ends)?, device.upload(&tiles)?))
    }
}

/// A tree of `rows` rows.
pub(super) fn tree((ends, tile_ends): &(Buffer, Buffer), rows: usize) -> Tree<'_> {
    Tree { ends: ends.view(), tile_ends: tile_ends.view(), rows }
}

fn fed(completion: &[u32]) -> &[u32] {
    &completion[..completion.len().saturating_sub(1)]
}

impl DeviceTape {
    pub(crate) fn of(
        decoder: &DeviceDecoder,
        deltas: &Deltas,
        prefix: &[u32],
        groups: &[(&[u32], Vec<&[u32]>)],
    ) -> Result<Self> {
        let prompts = groups.iter().map(|(prompt, completions)| Prompt {
            tokens: prompt.to_vec(),
            completions: completions.iter().map(|c| fed(c).to_vec()).collect(),
        });
        let tape = Self {
            prefix: prefix.to_vec(),
            prompts: prompts.collect(),
            deltas: deltas.to_vec(),
            tile: decoder.format.tile(),
        };
        let layout = tape.layout();
        decoder.check(&layout.tokens)?;
        let limit = decoder.config.max_position_embeddings;
        match layout.positions.iter().max().filter(|last| **last as usize >= limit) {
            None => Ok(tape),
            Some(last) => Err(Error::argument(
                "prompt",
                format!("position {last} lies outside the model's context of {limit} tokens"),
                "shorten the prompt or lower max_completion_length",
            )),
        }
    }

    pub(crate) fn replace(&mut self, decoder: &DeviceDecoder, completions: &[(usize, usize, &[u32])]) -> Result<()> {
        for (prompt, index, tokens) in completions {
            decoder.check(tokens)?;
            if let Some(old) = self.prompts.get_mut(*prompt).and_then(|p| p.completions.get_mut(*index)) {
                *old = fed(tokens).to_vec();
            }
        }
        Ok(())
    }

    pub(crate) fn retain(&mut self, prompts: &[usize]) {
        self.prompts = prompts.iter().filter_map(|p| self.prompts.get(*p).cloned()).collect();
    }

    pub(crate) fn rows(&self) -> usize {
        self.prefix.len() + self.prompts.iter().map(Prompt::rows).sum::<usize>()
    }

    pub(crate) fn predictions<'t>(&self, tokens: impl Iterator<Item = Vec<&'t [u32]>>) -> Predictions {
        let mut predictions = Predictions::default();
        let mut row = self.prefix.len();
        for (prompt, completions) in self.prompts.iter().zip(tokens) {
            let mut first = row + prompt.tokens.len();
            let last = first.saturating_sub(1);
            for (fed, completion) in prompt.completions.iter().zip(completions) {
                predictions.rows.extend(std::iter::once(last).chain(first..first + fed.len()).take(completion.len()));
                predictions.targets.extend_from_slice(completion);
                first += fed.len();
            }
            row += prompt.rows();
        }
        predictions
    }

    pub(super) fn tile(&self) -> usize {
        self.tile
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
