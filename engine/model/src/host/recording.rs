//! What a forward pass leaves behind for the backward pass.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::HostDecoder;
use crate::config::ModelConfig;
use querywright_kernels::SampledDistribution;
use querywright_types::{Error, Result};

/// The rows of one block, each field a matrix with a row for each token. `B` is a buffer or a slice of one.
#[derive(Debug, Clone, Default)]
pub(super) struct LayerRecord<B> {
    /// (rows, hidden): the block's input.
    pub(super) input: B,
    /// (rows, queries + keys + values): as attention read them.
    pub(super) qkv: B,
    /// (rows, queries + keys) before their norms; without columns in models that have none.
    pub(super) raw: B,
    /// (rows, queries): what attention gave.
    pub(super) attended: B,
    /// (rows, query heads): logarithms of the sums of exponentials.
    pub(super) log_sums: B,
    /// (rows, hidden): the input of the feed-forward half.
    pub(super) middle: B,
    /// (rows, twice intermediate): before the activation.
    pub(super) gate_up: B,
}

impl LayerRecord<Vec<f32>> {
    pub(super) fn new(decoder: &HostDecoder, rows: usize) -> Self {
        let mut record = Self::default();
        record.resize(decoder, rows);
        record
    }

    /// Room for so many rows, whose values are unspecified.
    fn resize(&mut self, decoder: &HostDecoder, rows: usize) {
        let Self { input, qkv, raw, attended, log_sums, middle, gate_up } = self;
        let fields = [input, qkv, raw, attended, log_sums, middle, gate_up];
        fields.into_iter().zip(widths(&decoder.config)).for_each(|(buffer, width)| resize(buffer, rows * width));
    }

    /// The rows `from..from + count` of buffers that have room for `room` rows.
    pub(super) fn rows_mut(&mut self, room: usize, from: usize, count: usize) -> LayerRecord<&mut [f32]> {
        let cut = |buffer| cut_mut(buffer, room, from, count);
        LayerRecord {
            input: cut(&mut self.input),
            qkv: cut(&mut self.qkv),
            raw: cut(&mut self.raw),
            attended: cut(&mut self.attended),
            log_sums: cut(&mut self.log_sums),
            middle: cut(&mut self.middle),
            gate_up: cut(&mut self.gate_up),
        }
    }

    fn rows(&self, room: usize, count: usize) -> LayerRecord<&[f32]> {
        LayerRecord {
            input: cut(&self.input, room, count),
            qkv: cut(&self.qkv, room, count),
            raw: cut(&self.raw, room, count),
            attended: cut(&self.attended, room, count),
            log_sums: cut(&self.log_sums, room, count),
            middle: cut(&self.middle, room, count),
            gate_up: cut(&self.gate_up, room, count),
        }
    }
}

/// As `Vec::resize`, without copying anything.
fn resize(buffer: &mut Vec<f32>, length: usize) {
    if buffer.capacity() < length {
        *buffer = vec![0.0; length];
    } else {
        buffer.resize(length, 0.0);
    }
}

fn cut_mut(buffer: &mut [f32], room: usize, from: usize, count: usize) -> &mut [f32] {
    let width = buffer.len() / room.max(1);
    &mut buffer[from * width..(from + count) * width]
}

fn cut(buffer: &[f32], room: usize, count: usize) -> &[f32] {
    &buffer[..buffer.len() / room.max(1) * count]
}

/// Values of a row of each field.
fn widths(config: &ModelConfig) -> [usize; 7] {
    let (queries, keys) = (config.num_attention_heads, config.num_key_value_heads);
    let raw = if config.qk_norm { (queries + keys) * config.head_dim } else { 0 };
    let (hidden, wide) = (config.hidden_size, config.intermediate_size);
    let qkv = (queries + 2 * keys) * config.head_dim;
    [hidden, qkv, raw, queries * config.head_dim, queries, hidden, 2 * wide]
}

impl ModelConfig {
    /// Bytes of a token's row in what sampling records on the processor for learning. With `bf16`, as where the
    /// processor multiplies it, the distribution behind the row is kept, too.
    pub fn recorded_row_bytes(&self, bf16: bool) -> usize {
        let layer: usize = widths(self).iter().sum();
        let distribution = if bf16 { 2 * self.vocab_size } else { 0 };
        4 * (layer * self.num_hidden_layers + self.hidden_size) + distribution
    }
}

/// What a recording keeps of all blocks, and the input of the last norm (rows, hidden).
#[derive(Debug, Clone, Default)]
struct Buffers {
    layers: Vec<LayerRecord<Vec<f32>>>,
    last: Vec<f32>,
}

/// The buffers of the recording that was dropped last: a recording takes hundreds of megabytes, and memory that comes
/// from the system anew for every step is cleared for every step.
#[derive(Debug, Clone, Default)]
pub(super) struct Spare(Arc<Mutex<Option<Buffers>>>);

impl Spare {
    fn take(&self) -> Option<Buffers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The rows of one or more forward passes: what sampling records and the backward pass reads.
#[derive(Debug, Clone)]
pub struct Recording {
    buffers: Buffers,
    /// Where the buffers go in the end, if the decoder still exists.
    spare: Weak<Mutex<Option<Buffers>>>,
    positions: Vec<usize>,
    /// The distribution sampled from behind each row, where it was kept.
    distributions: Vec<Option<SampledDistribution>>,
    room: usize,
    /// The rows of the pass under way.
    pass: usize,
}

impl Recording {
    /// Room for so many rows.
    pub(super) fn new(decoder: &HostDecoder, room: usize) -> Self {
        let mut buffers = decoder.spare.take().unwrap_or_default();
        buffers.layers.resize_with(decoder.blocks.len(), LayerRecord::default);
        buffers.layers.iter_mut().for_each(|layer| layer.resize(decoder, room));
        resize(&mut buffers.last, room * decoder.config.hidden_size);
        Self {
            buffers,
            spare: Arc::downgrade(&decoder.spare.0),
            positions: Vec::with_capacity(room),
            distributions: Vec::with_capacity(room),
            room,
            pass: 0,
        }
    }

    /// Bytes that a row takes, with the distribution behind it.
    pub(super) fn bytes_per_row(decoder: &HostDecoder) -> usize {
        decoder.config.recorded_row_bytes(decoder.keeps_distributions())
    }

    /// Keeps the distribution sampled from behind each row of the last pass.
    pub(super) fn keep(&mut self, distributions: impl Iterator<Item = Option<SampledDistribution>>) {
        let from = self.positions.len() - self.pass;
        self.distributions[from..].iter_mut().zip(distributions).for_each(|(to, distribution)| *to = distribution);
    }

    /// The distribution sampled from behind a row.
    pub(super) fn distribution(&self, row: usize) -> Option<&SampledDistribution> {
        self.distributions.get(row)?.as_ref()
    }

    /// Rows held.
    pub(super) fn rows(&self) -> usize {
        self.positions.len()
    }

    /// Rows that it has room for beyond those that it holds.
    pub(super) fn spare(&self) -> usize {
        self.room - self.positions.len()
    }

    /// Keeps only these different rows, in this order, with room for `spare` more. They are copied block by block, each
    /// into the buffers of the one before, so that no two recordings are ever held.
    pub(super) fn select(&mut self, decoder: &HostDecoder, rows: &[usize], spare: usize) {
        let (old, room) = (self.room.max(1), rows.len() + spare);
        let copy = |from: &[f32], to: &mut [f32]| {
            let width = from.len() / old;
            for (to, row) in to.chunks_exact_mut(width.max(1)).zip(rows) {
                to.copy_from_slice(&from[row * width..(row + 1) * width]);
            }
        };
        let mut to = LayerRecord::default();
        for layer in &mut self.buffers.layers {
            to.resize(decoder, room);
            copy(&layer.input, &mut to.input);
            copy(&layer.qkv, &mut to.qkv);
            copy(&layer.raw, &mut to.raw);
            copy(&layer.attended, &mut to.attended);
            copy(&layer.log_sums, &mut to.log_sums);
            copy(&layer.middle, &mut to.middle);
            copy(&layer.gate_up, &mut to.gate_up);
            std::mem::swap(layer, &mut to);
        }
        let mut last = vec![0.0; room * decoder.config.hidden_size];
        copy(&self.buffers.last, &mut last);
        self.buffers.last = last;
        self.distributions = rows.iter().map(|row| self.distributions[*row].take()).collect();
        self.positions = rows.iter().map(|row| self.positions[*row]).collect();
        self.room = room;
    }

    /// A pass over tokens at these positions begins.
    pub(super) fn begin(&mut self, positions: &[usize]) -> Result<()> {
        if positions.len() > self.spare() {
            let found = format!("{} rows for a room of {}", self.rows() + positions.len(), self.room);
            return Err(Error::bug("recording", found));
        }
        self.pass = positions.len();
        self.positions.extend_from_slice(positions);
        self.distributions.resize(self.positions.len(), None);
        Ok(())
    }

    /// Where a block of the pass under way writes.
    pub(super) fn layer(&mut self, index: usize) -> LayerRecord<&mut [f32]> {
        self.buffers.layers[index].rows_mut(self.room, self.positions.len() - self.pass, self.pass)
    }

    /// The pass gave `x`.
    pub(super) fn end(&mut self, x: &[f32]) {
        let from = self.positions.len() - self.pass;
        cut_mut(&mut self.buffers.last, self.room, from, self.pass).copy_from_slice(x);
    }

    /// All rows of a block.
    pub(super) fn recorded(&self, index: usize) -> LayerRecord<&[f32]> {
        self.buffers.layers[index].rows(self.room, self.positions.len())
    }

    /// All rows before the last norm.
    pub(super) fn last(&self) -> &[f32] {
        cut(&self.buffers.last, self.room, self.positions.len())
    }

    pub(super) fn positions(&self) -> &[usize] {
        &self.positions
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        if let Some(spare) = self.spare.upgrade() {
            *spare.lock().unwrap_or_else(PoisonError::into_inner) = Some(std::mem::take(&mut self.buffers));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::HostTape;
    use super::*;
    use crate::backend::{BackendTape, Learn};
    use crate::source::ModelSource;
    use querywright_kernels::Precision;

    #[test]
    fn prompts_are_dropped_from_a_recording_without_a_second_one_beside_it() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/tiny-qwen3");
        let decoder = HostDecoder::load(&ModelSource::open(path.as_ref()).unwrap(), Precision::F32, &()).unwrap();
        let groups: [(&[u32], Vec<&[u32]>); 3] =
            [(&[3, 4], vec![&[5, 6, 7]]), (&[8, 9, 10], vec![&[11, 12]]), (&[13], vec![&[14, 15], &[16, 17, 18]])];
        let mut tape = HostTape::of(&decoder, &[], &[1, 2], &groups).unwrap();
        tape.retain(&decoder, &[2, 0]).unwrap();
        assert!(decoder.spare.take().is_none(), "the old buffers would have gone there");

        let alone = HostTape::of(&decoder, &[], &[1, 2], &[groups[2].clone(), groups[0].clone()]).unwrap();
        let predictions = alone.predictions([&groups[2], &groups[0]].into_iter().map(|g| g.1.clone()));
        let statistics = |tape: &HostTape| {
            let own = tape.predictions([&groups[2], &groups[0]].into_iter().map(|g| g.1.clone()));
            decoder.predicted(tape, &own, 1.0).unwrap()
        };
        assert_eq!(predictions.rows.len(), 8);
        assert_eq!(statistics(&tape), statistics(&alone));
        assert_eq!(decoder.bytes(&tape), tape.rows() * decoder.config.recorded_row_bytes(false));
    }
}
