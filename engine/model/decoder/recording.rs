//! What a pass leaves behind for the way back.

use super::Decoder;
use crate::error::{Error, Result};

/// The rows of one block, each field a matrix with a row for each token. `B` is a buffer or a slice of one.
#[derive(Debug, Clone)]
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
    pub(super) fn new(decoder: &Decoder, rows: usize) -> Self {
        let [input, qkv, raw, attended, log_sums, middle, gate_up] = widths(decoder).map(|w| vec![0.0; rows * w]);
        Self { input, qkv, raw, attended, log_sums, middle, gate_up }
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

fn cut_mut(buffer: &mut [f32], room: usize, from: usize, count: usize) -> &mut [f32] {
    let width = buffer.len() / room.max(1);
    &mut buffer[from * width..(from + count) * width]
}

fn cut(buffer: &[f32], room: usize, count: usize) -> &[f32] {
    &buffer[..buffer.len() / room.max(1) * count]
}

/// Values of a row of each field.
fn widths(decoder: &Decoder) -> [usize; 7] {
    let (heads, config) = (decoder.heads, &decoder.config);
    let raw = if config.qk_norm { (heads.queries + heads.keys) * heads.dim } else { 0 };
    let (hidden, wide) = (config.hidden_size, config.intermediate_size);
    [hidden, heads.width(), raw, heads.queries * heads.dim, heads.queries, hidden, 2 * wide]
}

/// The rows of one or more passes over a decoder. What sampling records, training goes back through.
#[derive(Debug, Clone)]
pub struct Recording {
    layers: Vec<LayerRecord<Vec<f32>>>,
    /// (rows, hidden): the input of the last norm.
    last: Vec<f32>,
    positions: Vec<usize>,
    room: usize,
    /// The rows of the pass under way.
    pass: usize,
}

impl Recording {
    /// Room for so many rows.
    pub fn new(decoder: &Decoder, room: usize) -> Self {
        Self {
            layers: (0..decoder.layers.len()).map(|_| LayerRecord::new(decoder, room)).collect(),
            last: vec![0.0; room * decoder.config.hidden_size],
            positions: Vec::with_capacity(room),
            room,
            pass: 0,
        }
    }

    /// Bytes that a row takes.
    pub fn bytes_per_row(decoder: &Decoder) -> usize {
        let layer: usize = widths(decoder).iter().sum();
        4 * (layer * decoder.layers.len() + decoder.config.hidden_size)
    }

    /// Rows held.
    pub fn rows(&self) -> usize {
        self.positions.len()
    }

    /// Rows that it has room for beyond those that it holds.
    pub fn spare(&self) -> usize {
        self.room - self.positions.len()
    }

    /// A copy of these rows alone, in this order, with room for `spare` more.
    pub fn select(&self, decoder: &Decoder, rows: &[usize], spare: usize) -> Self {
        let mut selected = Self::new(decoder, rows.len() + spare);
        let copy = |from: &[f32], to: &mut [f32]| {
            let width = from.len() / self.room.max(1);
            for (to, row) in to.chunks_exact_mut(width.max(1)).zip(rows) {
                to.copy_from_slice(&from[row * width..(row + 1) * width]);
            }
        };
        for (from, to) in self.layers.iter().zip(&mut selected.layers) {
            copy(&from.input, &mut to.input);
            copy(&from.qkv, &mut to.qkv);
            copy(&from.raw, &mut to.raw);
            copy(&from.attended, &mut to.attended);
            copy(&from.log_sums, &mut to.log_sums);
            copy(&from.middle, &mut to.middle);
            copy(&from.gate_up, &mut to.gate_up);
        }
        copy(&self.last, &mut selected.last);
        selected.positions = rows.iter().map(|row| self.positions[*row]).collect();
        selected
    }

    /// A pass over tokens at these positions begins.
    pub(super) fn begin(&mut self, positions: &[usize]) -> Result<()> {
        if positions.len() > self.spare() {
            let found = format!("{} rows for a room of {}", self.rows() + positions.len(), self.room);
            return Err(Error::argument("recording", found, "make it with room for every token"));
        }
        self.pass = positions.len();
        self.positions.extend_from_slice(positions);
        Ok(())
    }

    /// Where a block of the pass under way writes.
    pub(super) fn layer(&mut self, index: usize) -> LayerRecord<&mut [f32]> {
        self.layers[index].rows_mut(self.room, self.positions.len() - self.pass, self.pass)
    }

    /// The pass gave `x`.
    pub(super) fn end(&mut self, x: &[f32]) {
        let from = self.positions.len() - self.pass;
        cut_mut(&mut self.last, self.room, from, self.pass).copy_from_slice(x);
    }

    /// All rows of a block.
    pub(super) fn recorded(&self, index: usize) -> LayerRecord<&[f32]> {
        self.layers[index].rows(self.room, self.positions.len())
    }

    /// All rows before the last norm.
    pub(super) fn last(&self) -> &[f32] {
        cut(&self.last, self.room, self.positions.len())
    }

    pub(super) fn positions(&self) -> &[usize] {
        &self.positions
    }
}
