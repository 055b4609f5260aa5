//! The forward pass of attention over caches and growing sequences.

use std::ops::Range;

use rayon::prelude::*;

use super::cache::Continuation;
use super::heads::Heads;
use crate::growing::GrowingMatrix;
use crate::product::{Part, sum_of_products};
use crate::rows::Rows;
use crate::softmax::exp_shifted;

/// Rows that one task takes.
const CHUNK: usize = 48;

/// The operands of [`attend`], row by row.
#[derive(Debug)]
pub struct AttentionRows<'a> {
    /// Queries, keys and values.
    pub qkv: &'a [f32],
    /// Takes the results: `heads.queries * heads.dim` values a row.
    pub out: &'a mut [f32],
    /// Takes, for the backward pass, the logarithm of each row's and query head's sum of exponentials.
    pub log_sums: &'a mut [f32],
}

/// Attention of new rows to everything before them. `qkv` holds the rows of `sequences` in order, `rows` to each; their
/// keys and values are appended to the sequences.
pub fn attend(layer: usize, heads: Heads, operands: AttentionRows<'_>, sequences: &mut [Continuation], rows: &[usize]) {
    let AttentionRows { qkv, out, log_sums } = operands;
    let total: usize = rows.iter().sum();
    assert_eq!(sequences.len(), rows.len(), "a number of rows for each sequence");
    assert_eq!(qkv.len(), total * heads.width(), "queries, keys and values of each row");
    assert_eq!(out.len(), total * heads.queries * heads.dim, "a result for each query");
    assert_eq!(log_sums.len(), total * heads.queries, "a log-sum for each query");
    let pieces = pieces(sequences, rows);
    append(layer, qkv, heads, sequences, rows);
    let sequences: &[Continuation] = sequences;
    let tasks: Vec<(&[Piece], usize)> = batches(&pieces, sequences)
        .into_iter()
        .flat_map(|batch| (0..heads.keys).map(move |head| (batch, head)))
        .collect();
    let run = |(pieces, head): &(&[Piece], usize)| Batch { heads, layer, head: *head, sequences, pieces }.attend(qkv);
    let results: Vec<(Vec<f32>, Vec<f32>)> = tasks.par_iter().map(run).collect();
    let (group, block) = (heads.group(), heads.group() * heads.dim);
    for ((batch, head), (values, sums)) in tasks.iter().zip(&results) {
        let rows = batch.iter().flat_map(|piece| piece.first..piece.first + piece.rows);
        for ((row, values), sums) in rows.zip(values.chunks_exact(block)).zip(sums.chunks_exact(group)) {
            out[row * heads.queries * heads.dim + head * block..][..block].copy_from_slice(values);
            log_sums[row * heads.queries + head * group..][..group].copy_from_slice(sums);
        }
    }
}

/// The rows of each sequence in pieces of [`CHUNK`] at most, before they are appended.
fn pieces(sequences: &[Continuation], rows: &[usize]) -> Vec<Piece> {
    let mut pieces = Vec::with_capacity(sequences.len());
    let mut first = 0;
    for (index, (sequence, rows)) in sequences.iter().zip(rows).enumerate() {
        for from in (0..*rows).step_by(CHUNK) {
            let count = CHUNK.min(rows - from);
            pieces.push(Piece { sequence: index, first: first + from, rows: count, before: sequence.len() + from });
        }
        first += rows;
    }
    pieces
}

/// Neighbours that continue the same caches, together [`CHUNK`] rows at most: one product with the shared keys serves
/// them all.
fn batches<'a>(pieces: &'a [Piece], sequences: &[Continuation]) -> Vec<&'a [Piece]> {
    let mut batches = Vec::new();
    let mut rest = pieces;
    while let Some(head) = rest.first() {
        let mut total = 0;
        let fits = |piece: &&Piece| {
            total += piece.rows;
            total <= CHUNK && sequences[piece.sequence].continues_as(&sequences[head.sequence])
        };
        let count = rest.iter().take_while(fits).count().max(1);
        let (batch, after) = rest.split_at(count);
        batches.push(batch);
        rest = after;
    }
    batches
}

/// Appends each sequence's rows to it.
fn append(layer: usize, qkv: &[f32], heads: Heads, sequences: &mut [Continuation], rows: &[usize]) {
    let mut rest = qkv;
    let mut parts = Vec::with_capacity(rows.len());
    for rows in rows {
        let (own, after) = rest.split_at(rows * heads.width());
        parts.push(own);
        rest = after;
    }
    // A token is soon appended; waking another thread is worth it for many.
    const TOKENS: usize = 32;
    sequences.par_iter_mut().zip(parts).with_min_len(TOKENS).for_each(|(s, own)| s.append(layer, own, heads));
}

/// Some rows of a sequence.
#[derive(Debug, Clone, Copy)]
struct Piece {
    sequence: usize,
    /// The first row of `qkv`.
    first: usize,
    rows: usize,
    /// Own rows of the sequence before these.
    before: usize,
}

/// One key head's work for neighbouring pieces that continue the same caches.
struct Batch<'a> {
    heads: Heads,
    layer: usize,
    head: usize,
    sequences: &'a [Continuation],
    pieces: &'a [Piece],
}

impl Batch<'_> {
    /// (row, member) by value, and the log-sums of each.
    fn attend(&self, qkv: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let (dim, group) = (self.heads.dim, self.heads.group());
        let rows = self.pieces.iter().flat_map(|piece| piece.first..piece.first + piece.rows);
        let queries = self.heads.gather(qkv, self.heads.width(), self.head, rows);
        let count = queries.len() / dim;
        let caches = self.sequences[self.pieces[0].sequence].caches();
        let caches = || caches.iter().filter(|c| !c.is_empty()).map(|c| (c.len(), &c.layer(self.layer)[self.head]));
        let shared: usize = caches().map(|c| c.0).sum();
        // Scores of one row side by side: the caches, then the sequence's own positions.
        let stride = shared + self.pieces.iter().map(|piece| piece.before + piece.rows).fold(0, usize::max);
        let mut scores = vec![0.0; count * stride];
        let all = Rows::new(&queries, dim);
        let mut column = 0;
        for (len, cached) in caches() {
            product(&all, &cached.keys, &mut scores, stride, column..column + len);
            column += len;
        }
        let sums = self.own_scores(&queries, &mut scores, (shared, stride));
        let mut out = vec![0.0; count * dim];
        let mut column = 0;
        for (len, cached) in caches() {
            add_product(&Rows::columns(&scores, stride, column, len), &cached.values, &mut out);
            column += len;
        }
        let mut row = 0;
        for piece in self.pieces {
            let own = self.sequences[piece.sequence].own(self.layer, self.head);
            let next = row + piece.rows * group;
            let weights = &scores[row * stride..next * stride];
            let weights = Rows::columns(weights, stride, shared, piece.before + piece.rows);
            add_product(&weights, &own.values, &mut out[row * dim..next * dim]);
            row = next;
        }
        (out, sums)
    }

    /// Adds the scores of each sequence's own positions behind the `shared` ones, and turns each row of `stride` scores
    /// into probabilities; zero where a key lies behind the query. Gives the log-sums.
    fn own_scores(&self, queries: &[f32], scores: &mut [f32], (shared, stride): (usize, usize)) -> Vec<f32> {
        let (dim, group) = (self.heads.dim, self.heads.group());
        let mut sums = Vec::with_capacity(queries.len() / dim);
        let mut row = 0;
        for piece in self.pieces {
            let own = self.sequences[piece.sequence].own(self.layer, self.head);
            let next = row + piece.rows * group;
            let scores = &mut scores[row * stride..next * stride];
            let queries = Rows::new(&queries[row * dim..next * dim], dim);
            product(&queries, &own.keys, scores, stride, shared..shared + piece.before + piece.rows);
            for (i, scores) in scores.chunks_exact_mut(stride).enumerate() {
                let (seen, hidden) = scores.split_at_mut(shared + piece.before + i / group + 1);
                let found = exp_shifted(seen, self.heads.scale);
                let inverse = 1.0 / found.sum;
                seen.iter_mut().for_each(|p| *p *= inverse);
                hidden.fill(0.0);
                sums.push(found.log_sum());
            }
            row = next;
        }
        sums
    }
}

/// `out[:, columns] = x · m` for the first columns of `m`, on this thread.
pub(super) fn product(x: &Rows<'_>, m: &GrowingMatrix, out: &mut [f32], stride: usize, columns: Range<usize>) {
    let part = Part { column: columns.start, columns: columns.len(), factors: &[(x, m.view())] };
    sum_of_products(&[part], out, stride, false, false);
}

/// `out += x · m` for the first rows of `m`, on this thread.
pub(super) fn add_product(x: &Rows<'_>, m: &GrowingMatrix, out: &mut [f32]) {
    sum_of_products(&[Part::whole(0, &[(x, m.view())])], out, m.outer(), true, false);
}
