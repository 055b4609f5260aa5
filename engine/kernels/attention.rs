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

use super::exp::{add_scaled, dot, exp_shifted};
use super::packed::{PackedMatrix, Part, Precision, Rows, sum_of_products};

/// The number of query heads, of key heads, and the values of a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Query heads; a multiple of `keys`.
    pub queries: usize,
    /// Key heads, and value heads.
    pub keys: usize,
    /// Values of a head.
    pub dim: usize,
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

/// New rows of a sequence above which its own keys are packed for products; fewer are multiplied one by one.
const PACKED_ROWS: usize = 8;
/// Positions of a packed block of own keys: blocks that a row does not see yet are left out.
const BLOCK: usize = 128;
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
    let width = heads.width();
    let mut chunks = Vec::new();
    let mut first = 0;
    for (index, (sequence, rows)) in sequences.iter_mut().zip(rows).enumerate() {
        let before = sequence.append(layer, &qkv[first * width..(first + rows) * width], heads);
        for from in (0..*rows).step_by(CHUNK) {
            let len = CHUNK.min(rows - from);
            chunks.push(Stretch { sequence: index, first: first + from, rows: len, before: before + from });
        }
        first += rows;
    }
    let sequences: &[Continuation] = sequences;
    let packed: Vec<Vec<OwnBlocks>> = sequences
        .par_iter()
        .zip(rows)
        .with_min_len(4)
        .map(|(sequence, rows)| match *rows >= PACKED_ROWS {
            true => (0..heads.keys).map(|head| OwnBlocks::new(sequence, layer, head, heads)).collect(),
            false => Vec::new(),
        })
        .collect();
    // Neighbours that continue the same caches are taken together: one product with the shared keys serves them all.
    let mut batches: Vec<&[Stretch]> = Vec::new();
    let mut rest = chunks.as_slice();
    while let Some(head) = rest.first() {
        let mut total = 0;
        let fits = |s: &&Stretch| {
            total += s.rows;
            total <= CHUNK && sequences[s.sequence].continues_as(&sequences[head.sequence])
        };
        let count = rest.iter().take_while(fits).count().max(1);
        let (batch, after) = rest.split_at(count);
        batches.push(batch);
        rest = after;
    }
    let tasks: Vec<(&[Stretch], usize)> =
        batches.iter().flat_map(|batch| (0..heads.keys).map(|head| (*batch, head))).collect();
    let run = |(batch, head): &(&[Stretch], usize)| {
        Batch { heads, layer, head: *head, sequences, packed: &packed, stretches: batch }.attend(qkv)
    };
    let results: Vec<(Vec<f32>, Vec<f32>)> = tasks.par_iter().map(run).collect();
    let (group, block) = (heads.group(), heads.group() * heads.dim);
    for ((batch, head), (values, sums)) in tasks.iter().zip(&results) {
        let rows = batch.iter().flat_map(|s| s.first..s.first + s.rows);
        for ((row, values), sums) in rows.zip(values.chunks_exact(block)).zip(sums.chunks_exact(group)) {
            out[row * heads.queries * heads.dim + head * block..][..block].copy_from_slice(values);
            log_sums[row * heads.queries + head * group..][..group].copy_from_slice(sums);
        }
    }
}

/// Some rows of a sequence.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    sequence: usize,
    /// The first row of `qkv`.
    first: usize,
    rows: usize,
    /// Own rows of the sequence before these.
    before: usize,
}

/// A sequence's own keys and values of one head, packed: keys as (dim, positions), values as (positions, dim).
struct OwnBlocks(Vec<(PackedMatrix, PackedMatrix)>);

impl OwnBlocks {
    fn new(sequence: &Continuation, layer: usize, head: usize, heads: Heads) -> Self {
        let (keys, values, len) = sequence.own(layer, heads, head);
        let (dim, width) = (heads.dim, heads.keys * heads.dim);
        let block = |from: usize| {
            let count = BLOCK.min(len - from);
            (
                PackedMatrix::pack(dim, count, Precision::F32, |i, j| keys[(from + j) * width + i]),
                PackedMatrix::pack(count, dim, Precision::F32, |i, j| values[(from + i) * width + j]),
            )
        };
        Self((0..len).step_by(BLOCK).map(block).collect())
    }
}

/// One key head's work for neighbouring stretches that continue the same caches.
struct Batch<'a> {
    heads: Heads,
    layer: usize,
    head: usize,
    sequences: &'a [Continuation],
    packed: &'a [Vec<OwnBlocks>],
    stretches: &'a [Stretch],
}

impl Batch<'_> {
    /// (row, member) by value, and the log-sums of each.
    fn attend(&self, qkv: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let Heads { dim, keys, .. } = self.heads;
        let (group, width) = (self.heads.group(), keys * dim);
        let rows = self.stretches.iter().flat_map(|s| s.first..s.first + s.rows);
        let queries = self.heads.gather(qkv, self.heads.width(), self.head, rows);
        let count = queries.len() / dim;
        let caches = self.sequences[self.stretches[0].sequence].caches();
        let shared: usize = caches.iter().map(|c| c.len()).sum();
        // Whole blocks are multiplied: a row needs room for those positions of its last block that it does not see.
        let room = |s: &Stretch| match self.packed[s.sequence].get(self.head) {
            Some(blocks) => blocks.0.iter().take((s.before + s.rows).div_ceil(BLOCK)).map(|b| b.0.outer()).sum(),
            None => s.before + s.rows,
        };
        let longest = self.stretches.iter().map(room).max().unwrap_or(0);
        let stride = shared + longest;
        // Scores of one row side by side: the caches, then the sequence's own positions.
        let mut scores = vec![0.0; count * stride];
        let all = Rows::new(&queries, dim);
        let mut column = 0;
        for cache in caches {
            let keys = &cache.layers[self.layer][self.head].0;
            if !cache.is_empty() {
                product(&all, keys, &mut scores, stride, column);
            }
            column += cache.len();
        }
        let mut row = 0;
        let mut sums = Vec::with_capacity(count);
        for stretch in self.stretches {
            let own = &self.packed[stretch.sequence];
            let these = row * dim..(row + stretch.rows * group) * dim;
            let seen = stretch.before + stretch.rows;
            let lines = &mut scores[row * stride..(row + stretch.rows * group) * stride];
            if let Some(blocks) = own.get(self.head) {
                let queries = Rows::new(&queries[these], dim);
                for (index, (keys, _)) in blocks.0.iter().enumerate().take(seen.div_ceil(BLOCK)) {
                    product(&queries, keys, lines, stride, shared + index * BLOCK);
                }
            } else {
                let (keys, _, _) = self.sequences[stretch.sequence].own(self.layer, self.heads, self.head);
                for (line, query) in lines.chunks_exact_mut(stride).zip(queries[these].chunks_exact(dim)) {
                    for (j, score) in line[shared..shared + seen].iter_mut().enumerate() {
                        *score = dot(query, &keys[j * width..][..dim]);
                    }
                }
            }
            for (i, line) in lines.chunks_exact_mut(stride).enumerate() {
                let (seen, hidden) = line.split_at_mut(shared + stretch.before + i / group + 1);
                let found = exp_shifted(seen, self.heads.scale());
                let inverse = 1.0 / found.sum;
                seen.iter_mut().for_each(|p| *p *= inverse);
                hidden.fill(0.0);
                sums.push(found.max + found.sum.ln());
            }
            row += stretch.rows * group;
        }
        let mut out = vec![0.0; count * dim];
        let mut column = 0;
        for cache in caches {
            if !cache.is_empty() {
                let weights = Rows::columns(&scores, stride, column, cache.len());
                add_product(&weights, &cache.layers[self.layer][self.head].1, &mut out);
            }
            column += cache.len();
        }
        let mut row = 0;
        for stretch in self.stretches {
            let seen = stretch.before + stretch.rows;
            let lines = &scores[row * stride..(row + stretch.rows * group) * stride];
            let out = &mut out[row * dim..(row + stretch.rows * group) * dim];
            if let Some(blocks) = self.packed[stretch.sequence].get(self.head) {
                for (index, (_, values)) in blocks.0.iter().enumerate().take(seen.div_ceil(BLOCK)) {
                    let weights = Rows::columns(lines, stride, shared + index * BLOCK, values.inner());
                    add_product(&weights, values, out);
                }
            } else {
                let (_, values, _) = self.sequences[stretch.sequence].own(self.layer, self.heads, self.head);
                for (line, out) in lines.chunks_exact(stride).zip(out.chunks_exact_mut(dim)) {
                    for (j, weight) in line[shared..shared + seen].iter().enumerate() {
                        add_scaled(out, &values[j * width..][..dim], *weight);
                    }
                }
            }
            row += stretch.rows * group;
        }
        (out, sums)
    }
}

/// `out[:, column..] = x · m` on this thread.
fn product(x: &Rows<'_>, m: &PackedMatrix, out: &mut [f32], stride: usize, column: usize) {
    sum_of_products(&[Part { column, factors: &[(x, m)] }], out, stride, false, false);
}

fn add_product(x: &Rows<'_>, m: &PackedMatrix, out: &mut [f32]) {
    sum_of_products(&[Part { column: 0, factors: &[(x, m)] }], out, m.outer(), true, false);
}

#[cfg(test)]
mod tests;
