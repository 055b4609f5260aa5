//! Causal attention with grouped keys, over trees of shared stretches.
//!
//! Many completions share a prompt, and many prompts share a prefix. Each stretch of tokens is computed once and its
//! keys and values are kept in a [`Cache`] under all that continues it; a token attends to the caches before it and to
//! what precedes it in its own [`Continuation`]. Training goes the same way back over the [`Tree`] of stretches
//! ([`attend_backward`]).
//!
//! Rows hold queries, keys and values side by side: `queries` heads, `keys` heads, `keys` heads of `dim` values.

mod backward;
mod cache;

use rayon::prelude::*;

pub use backward::{Attended, Node, Tree, attend_backward};
pub use cache::{Cache, Continuation};

use super::exp::exp_shifted;
use super::packed::PackedMatrix;
use super::product::{Part, Rows, sum_of_products};

/// The number of query heads, of key heads, and the values of a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Query heads; a multiple of `keys`.
    pub queries: usize,
    /// Key heads, and value heads.
    pub keys: usize,
    /// Values of a head.
    pub dim: usize,
    /// Whether keys and values are kept in bf16; only where that is native.
    pub bf16: bool,
}

impl Heads {
    /// Values of a row of queries, keys and values.
    pub fn width(self) -> usize {
        (self.queries + 2 * self.keys) * self.dim
    }

    /// Query heads of one key head.
    fn group(self) -> usize {
        self.queries / self.keys
    }

    fn scale(self) -> f32 {
        1.0 / (self.dim as f32).sqrt()
    }

    /// Where the keys of a head begin in a row.
    fn key(self, head: usize) -> usize {
        (self.queries + head) * self.dim
    }

    /// Where the values of a head begin in a row.
    fn value(self, head: usize) -> usize {
        (self.queries + self.keys + head) * self.dim
    }

    /// The query rows of one key head, (row, member of the group) in that order, `dim` values each, out of rows of
    /// `width` values.
    fn gather(self, from: &[f32], width: usize, head: usize, rows: impl Iterator<Item = usize>) -> Vec<f32> {
        let block = self.group() * self.dim;
        let mut gathered = Vec::with_capacity(rows.size_hint().0 * block);
        rows.for_each(|r| gathered.extend_from_slice(&from[r * width + head * block..][..block]));
        gathered
    }
}

/// Rows that one task takes.
const CHUNK: usize = 48;

/// Attention of new rows to everything before them. `qkv` holds the rows of `sequences` in order, `rows` to each; their
/// keys and values are appended to the sequences. Writes rows of `heads.queries * heads.dim` values to `out` and, for
/// the way back, the logarithm of each row's and query head's sum of exponentials to `log_sums`.
pub fn attend(
    layer: usize,
    qkv: &[f32],
    heads: Heads,
    sequences: &mut [Continuation],
    rows: &[usize],
    out: &mut [f32],
    log_sums: &mut [f32],
) {
    let mut pieces = Vec::with_capacity(sequences.len());
    let mut first = 0;
    for (index, (sequence, rows)) in sequences.iter().zip(rows).enumerate() {
        for from in (0..*rows).step_by(CHUNK) {
            let count = CHUNK.min(rows - from);
            pieces.push(Piece { sequence: index, first: first + from, rows: count, before: sequence.len() + from });
        }
        first += rows;
    }
    append(layer, qkv, heads, sequences, rows);
    let sequences: &[Continuation] = sequences;
    // Neighbours that continue the same caches are taken together: one product with the shared keys serves them all.
    let mut batches: Vec<&[Piece]> = Vec::new();
    let mut rest = pieces.as_slice();
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
    let tasks: Vec<(&[Piece], usize)> =
        batches.iter().flat_map(|batch| (0..heads.keys).map(|head| (*batch, head))).collect();
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
        let caches = || caches.iter().filter(|c| !c.is_empty()).map(|c| (c.len(), &c.layers[self.layer][self.head]));
        let shared: usize = caches().map(|c| c.0).sum();
        // Scores of one row side by side: the caches, then the sequence's own positions.
        let stride = shared + self.pieces.iter().map(|piece| piece.before + piece.rows).max().unwrap_or(0);
        let mut scores = vec![0.0; count * stride];
        let all = Rows::new(&queries, dim);
        let mut column = 0;
        for (len, stretch) in caches() {
            product(&all, &stretch.keys, &mut scores, stride, column..column + len);
            column += len;
        }
        let mut sums = Vec::with_capacity(count);
        let mut row = 0;
        for piece in self.pieces {
            let own = self.sequences[piece.sequence].own(self.layer, self.head);
            let (lines, seen) = (row * stride..(row + piece.rows * group) * stride, piece.before + piece.rows);
            let queries = Rows::new(&queries[row * dim..(row + piece.rows * group) * dim], dim);
            product(&queries, &own.keys, &mut scores[lines.clone()], stride, shared..shared + seen);
            for (i, line) in scores[lines].chunks_exact_mut(stride).enumerate() {
                let (seen, hidden) = line.split_at_mut(shared + piece.before + i / group + 1);
                let found = exp_shifted(seen, self.heads.scale());
                let inverse = 1.0 / found.sum;
                seen.iter_mut().for_each(|p| *p *= inverse);
                hidden.fill(0.0);
                sums.push(found.log_sum());
            }
            row += piece.rows * group;
        }
        let mut out = vec![0.0; count * dim];
        let mut column = 0;
        for (len, stretch) in caches() {
            add_product(&Rows::columns(&scores, stride, column, len), &stretch.values, &mut out);
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
}

/// `out[:, columns] = x · m` for the first columns of `m`, on this thread.
fn product(x: &Rows<'_>, m: &PackedMatrix, out: &mut [f32], stride: usize, columns: std::ops::Range<usize>) {
    let part = Part { column: columns.start, columns: columns.len(), factors: &[(x, m)] };
    sum_of_products(&[part], out, stride, false, false);
}

/// `out += x · m` for the first rows of `m`, on this thread.
fn add_product(x: &Rows<'_>, m: &PackedMatrix, out: &mut [f32]) {
    sum_of_products(&[Part::whole(0, &[(x, m)])], out, m.outer(), true, false);
}

#[cfg(test)]
mod tests;
