//! What a forward pass leaves behind for the backward pass.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::HostDecoder;
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
        fields.into_iter().zip(widths(decoder)).for_each(|(buffer, width)| resize(buffer, rows * width));
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
fn widths(decoder: &HostDecoder) -> [usize; 7] {
    let (heads, config) = (decoder.heads, &decoder.config);
    let raw = if config.qk_norm { (heads.queries + heads.keys) * heads.dim } else { 0 };
    let (hidden, wide) = (config.hidden_size, config.intermediate_size);
    [hidden, heads.width(), raw, heads.queries * heads.dim, heads.queries, hidden, 2 * wide]
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
        let layer: usize = widths(decoder).iter().sum();
        let distribution = if decoder.keeps_distributions() { 2 * decoder.config.vocab_size } else { 0 };
        4 * (layer * decoder.blocks.len() + decoder.config.hidden_size) + distribution
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

    /// A copy of only these rows, in this order, with room for `spare` more.
    pub(super) fn select(&self, decoder: &HostDecoder, rows: &[usize], spare: usize) -> Self {
        let mut selected = Self::new(decoder, rows.len() + spare);
        let copy = |from: &[f32], to: &mut [f32]| {
            let width = from.len() / self.room.max(1);
            for (to, row) in to.chunks_exact_mut(width.max(1)).zip(rows) {
                to.copy_from_slice(&from[row * width..(row + 1) * width]);
            }
        };
        for (from, to) in self.buffers.layers.iter().zip(&mut selected.buffers.layers) {
            copy(&from.input, &mut to.input);
            copy(&from.qkv, &mut to.qkv);
            copy(&from.raw, &mut to.raw);
            copy(&from.attended, &mut to.attended);
            copy(&from.log_sums, &mut to.log_sums);
            copy(&from.middle, &mut to.middle);
            copy(&from.gate_up, &mut to.gate_up);
        }
        copy(&self.buffers.last, &mut selected.buffers.last);
        selected.distributions = rows.iter().map(|row| self.distributions[*row].clone()).collect();
        selected.positions = rows.iter().map(|row| self.positions[*row]).collect();
        selected
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
