//! The forward pass: new tokens that continue sequences, through all blocks.

use std::sync::Arc;

use super::HostDecoder;
use super::recording::{LayerRecord, Recording};
use crate::adapter::Deltas;
use crate::config::ModelConfig;
use querywright_kernels::{Angles, AttentionRows, Cache, Continuation, Placed, apply, attend, swiglu};
use querywright_types::Result;

impl HostDecoder {
    /// Hidden states after the last norm (rows, hidden) of new tokens, `rows[i]` of them continuing `sequences[i]`.
    /// Where a recording is given, it takes up these rows behind those that it has.
    ///
    /// # Errors
    /// A token outside the vocabulary, a position outside the context, a recording without room.
    pub fn forward(
        &self,
        tokens: &[u32],
        sequences: &mut [Continuation],
        rows: &[usize],
        deltas: &Deltas,
        recording: Option<&mut Recording>,
    ) -> Result<Vec<f32>> {
        let positions: Vec<usize> =
            sequences.iter().zip(rows).flat_map(|(s, rows)| s.position()..s.position() + rows).collect();
        self.config.check_positions(positions.iter().copied())?;
        let mut x = self.embed(tokens)?;
        let mut pass = Pass::new(self, deltas, tokens.len(), &positions);
        match recording {
            Some(recording) => {
                recording.begin(&positions)?;
                for index in 0..self.blocks.len() {
                    pass.block(index, &mut x, recording.layer(index), sequences, rows);
                }
                recording.end(&x);
            }
            None => {
                let mut scratch = LayerRecord::new(self, tokens.len());
                for index in 0..self.blocks.len() {
                    let record = scratch.rows_mut(tokens.len(), 0, tokens.len());
                    pass.block(index, &mut x, record, sequences, rows);
                }
            }
        }
        sequences.iter_mut().zip(rows).for_each(|(s, rows)| s.advance(*rows));
        self.norm.apply(&x, &mut pass.h);
        Ok(pass.h)
    }

    /// All logits (rows, vocabulary) of hidden states: for sampling.
    pub fn logits(&self, hidden: &[f32]) -> Vec<f32> {
        let mut logits = Vec::new();
        self.logits_into(hidden, &mut logits);
        logits
    }

    /// As [`logits`](Self::logits), into a buffer that is used again.
    pub(super) fn logits_into(&self, hidden: &[f32], logits: &mut Vec<f32>) {
        logits.resize(hidden.len() / self.config.hidden_size * self.head.output(), 0.0);
        let head = [Placed { layer: &self.head, delta: None, column: 0 }];
        apply(&head, hidden, logits, self.head.output(), false);
    }

    /// An empty continuation of cached segments, the root first.
    pub fn continuation(&self, caches: Vec<Arc<Cache>>) -> Continuation {
        Continuation::new(caches, self.blocks.len())
    }

    /// A segment behind cached ones that the next pass computes as a whole, and what it becomes.
    pub(super) fn closing(&self, caches: Vec<Arc<Cache>>, tokens: usize) -> (Continuation, Arc<Cache>) {
        Continuation::closing(caches, self.blocks.len(), tokens)
    }

    fn embed(&self, tokens: &[u32]) -> Result<Vec<f32>> {
        self.config.check_tokens(tokens)?;
        let width = self.config.hidden_size;
        let row = |token: &u32| &self.embedding[*token as usize * width..][..width];
        Ok(tokens.iter().flat_map(row).copied().collect())
    }
}

/// Buffers and angles of one pass over some rows.
struct Pass<'a> {
    decoder: &'a HostDecoder,
    deltas: &'a Deltas,
    angles: Angles,
    /// (rows, hidden): what a block's layers read.
    h: Vec<f32>,
    /// (rows, intermediate): what the last layer of a block reads.
    activated: Vec<f32>,
}

impl<'a> Pass<'a> {
    fn new(decoder: &'a HostDecoder, deltas: &'a Deltas, rows: usize, positions: &[usize]) -> Self {
        let ModelConfig { hidden_size, intermediate_size, .. } = decoder.config;
        Self {
            decoder,
            deltas,
            angles: decoder.rope.angles(positions),
            h: vec![0.0; rows * hidden_size],
            activated: vec![0.0; rows * intermediate_size],
        }
    }

    /// One block: `x` is its input and becomes its output.
    fn block(
        &mut self,
        index: usize,
        x: &mut [f32],
        record: LayerRecord<&mut [f32]>,
        sequences: &mut [Continuation],
        rows: &[usize],
    ) {
        let HostDecoder { heads, rope, config, blocks, .. } = self.decoder;
        let block = &blocks[index];
        let [qkv, output, gate_up, down] = block.groups.each_ref().map(|g| g.placed(self.deltas.get(index)));
        let (heads, hidden, wide) = (*heads, config.hidden_size, config.intermediate_size);
        record.input.copy_from_slice(x);
        block.attention_norm.apply(x, &mut self.h);
        apply(&qkv, &self.h, record.qkv, heads.width(), false);
        let (q, k) = (heads.queries * heads.dim, heads.keys * heads.dim);
        if let (Some(query_norm), Some(key_norm)) = (&block.query_norm, &block.key_norm) {
            for (raw, row) in record.raw.chunks_exact_mut(q + k).zip(record.qkv.chunks_exact(heads.width())) {
                raw.copy_from_slice(&row[..q + k]);
            }
            query_norm.apply_columns(record.qkv, heads.width(), 0..q);
            key_norm.apply_columns(record.qkv, heads.width(), q..q + k);
        }
        rope.rotate(record.qkv, heads.width(), q + k, &self.angles);
        let operands = AttentionRows { qkv: record.qkv, out: record.attended, log_sums: record.log_sums };
        attend(index, heads, operands, sequences, rows);
        apply(&output, record.attended, x, hidden, true);
        record.middle.copy_from_slice(x);
        block.mlp_norm.apply(x, &mut self.h);
        apply(&gate_up, &self.h, record.gate_up, 2 * wide, false);
        swiglu(record.gate_up, wide, &mut self.activated);
        apply(&down, &self.activated, x, hidden, true);
    }
}
