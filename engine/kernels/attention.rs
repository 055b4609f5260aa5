//! Causal attention with grouped keys, over trees of shared prefixes.
//!
//! Many completions share a prompt, and many prompts share a prefix. Both passes use that: training packs everything
//! into one sequence whose [`Segment`]s form a tree ([`attend_tree`], differentiable), generation keeps one [`Cache`]
//! per stretch of tokens under all its continuations ([`attend_cached`]). Either way each token attends to its
//! ancestors and to what precedes it in its own segment, and nothing is computed twice.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::exp::{add_scaled, dot, exp_shifted};
use super::packed::{PackedMatrix, Precision};
use super::storage::{values, with_values};

/// A stretch of a packed sequence: rows `start..start + len`, continuing the segment `parent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// First row.
    pub start: usize,
    /// Rows.
    pub len: usize,
    /// The segment that this one continues; comes earlier in the list.
    pub parent: Option<usize>,
}

/// The segments of a packed sequence, parents before children.
#[derive(Debug, Clone, Default)]
pub struct PackedTree {
    segments: Vec<Segment>,
    rows: usize,
}

impl PackedTree {
    /// Appends a segment of `len` rows under `parent`; returns its number.
    ///
    /// # Panics
    /// When `parent` is not an earlier segment.
    pub fn push(&mut self, len: usize, parent: Option<usize>) -> usize {
        assert!(parent.is_none_or(|p| p < self.segments.len()), "a parent comes before its children");
        self.segments.push(Segment { start: self.rows, len, parent });
        self.rows += len;
        self.segments.len() - 1
    }

    /// Rows of the packed sequence.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The segments.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The position of every row: its distance from the root.
    pub fn positions(&self) -> Vec<usize> {
        let mut ends = Vec::with_capacity(self.segments.len());
        let mut positions = Vec::with_capacity(self.rows);
        for segment in &self.segments {
            let base = segment.parent.map_or(0, |p| ends[p]);
            positions.extend(base..base + segment.len);
            ends.push(base + segment.len);
        }
        positions
    }

    /// The row ranges from the root to `segment`, itself included.
    fn path(&self, segment: usize) -> Vec<(usize, usize)> {
        let mut path = Vec::new();
        let mut next = Some(segment);
        while let Some(index) = next {
            let s = self.segments[index];
            path.push((s.start, s.len));
            next = s.parent;
        }
        path.reverse();
        path
    }
}

/// The number of query heads, of key heads and the values of a head.
#[derive(Debug, Clone, Copy)]
struct Heads {
    group: usize,
    keys: usize,
    dim: usize,
}

impl Heads {
    fn new(q: &Tensor, k: &Tensor, dim: usize) -> Result<Self> {
        let (q, k) = (q.dim(1)?, k.dim(1)?);
        if dim == 0 || k == 0 || !k.is_multiple_of(dim) || !q.is_multiple_of(k) {
            candle_core::bail!("queries of {q} values and keys of {k} do not split into heads of {dim}");
        }
        Ok(Self { group: q / k, keys: k / dim, dim })
    }

    fn scale(self) -> f32 {
        1.0 / (self.dim as f32).sqrt()
    }

    /// The rows of one key head, `width` values apart, gathered along a path.
    fn gather(self, from: &[f32], head: usize, path: &[(usize, usize)]) -> Vec<f32> {
        let (width, dim) = (self.keys * self.dim, self.dim);
        let rows = path.iter().flat_map(|(start, len)| *start..start + len);
        rows.flat_map(|r| &from[r * width + head * dim..][..dim]).copied().collect()
    }

    /// The query rows of one key head: (row, member of the group) in that order, `dim` values each.
    fn gather_group(self, from: &[f32], head: usize, rows: std::ops::Range<usize>) -> Vec<f32> {
        let (width, block) = (self.group * self.keys * self.dim, self.group * self.dim);
        rows.flat_map(|r| &from[r * width + head * block..][..block]).copied().collect()
    }
}

/// Attention within a packed tree: `q` (rows, heads x dim), `k` and `v` (rows, key heads x dim), result shaped as `q`.
pub fn attend_tree(q: &Tensor, k: &Tensor, v: &Tensor, dim: usize, tree: &Arc<PackedTree>) -> Result<Tensor> {
    let heads = Heads::new(q, k, dim)?;
    if q.dim(0)? != tree.rows() || k.dims() != v.dims() || k.dim(0)? != tree.rows() {
        candle_core::bail!("{:?}, {:?}, {:?} do not fit a tree of {} rows", q.dims(), k.dims(), v.dims(), tree.rows());
    }
    q.contiguous()?.apply_op3(&k.contiguous()?, &v.contiguous()?, Tree { heads, tree: tree.clone() })
}

struct Tree {
    heads: Heads,
    tree: Arc<PackedTree>,
}

/// One segment's share of the work for one key head.
struct Share {
    segment: Segment,
    head: usize,
    path: Vec<(usize, usize)>,
    ancestors: usize,
}

impl Tree {
    fn shares(&self) -> Vec<Share> {
        let segments = self.tree.segments.iter().enumerate();
        segments
            .flat_map(|(index, segment)| {
                let path = self.tree.path(index);
                let ancestors = path.iter().map(|p| p.1).sum::<usize>() - segment.len;
                (0..self.heads.keys).map(move |head| Share { segment: *segment, head, path: path.clone(), ancestors })
            })
            .filter(|share| share.segment.len > 0)
            .collect()
    }

    /// The attention probabilities of a share: (row, member) by path position.
    fn probabilities(&self, share: &Share, queries: &[f32], keys: &[f32]) -> Vec<f32> {
        let (dim, length) = (self.heads.dim, share.ancestors + share.segment.len);
        let rows = share.segment.len * self.heads.group;
        let transposed = PackedMatrix::pack(dim, length, Precision::F32, |i, j| keys[j * dim + i]);
        let mut scores = vec![0.0; rows * length];
        transposed.multiply_serial(queries, &mut scores);
        for (row, scores) in scores.chunks_exact_mut(length).enumerate() {
            let (seen, hidden) = scores.split_at_mut(share.ancestors + row / self.heads.group + 1);
            let inverse = 1.0 / exp_shifted(seen, self.heads.scale()).sum;
            seen.iter_mut().for_each(|p| *p *= inverse);
            hidden.fill(0.0);
        }
        scores
    }
}

impl CustomOp3 for Tree {
    fn name(&self) -> &'static str {
        "tree-attention"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (q, k, v) = (values(s1, l1)?, values(s2, l2)?, values(s3, l3)?);
        let heads = self.heads;
        let results: Vec<(Share, Vec<f32>)> = self
            .shares()
            .into_par_iter()
            .map(|share| {
                let rows = share.segment.start..share.segment.start + share.segment.len;
                let queries = heads.gather_group(q, share.head, rows);
                let keys = heads.gather(k, share.head, &share.path);
                let held = heads.gather(v, share.head, &share.path);
                let weights = self.probabilities(&share, &queries, &keys);
                let length = share.ancestors + share.segment.len;
                let held = PackedMatrix::pack(length, heads.dim, Precision::F32, |i, j| held[i * heads.dim + j]);
                let mut out = vec![0.0; queries.len()];
                held.multiply_serial(&weights, &mut out);
                (share, out)
            })
            .collect();
        let mut out = vec![0.0; q.len()];
        let (width, block) = (heads.group * heads.keys * heads.dim, heads.group * heads.dim);
        for (share, rows) in &results {
            for (i, row) in rows.chunks_exact(block).enumerate() {
                out[(share.segment.start + i) * width + share.head * block..][..block].copy_from_slice(row);
            }
        }
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }

    /// Probabilities are formed again rather than kept. With P the probabilities and D = rowsum(dO ∘ O):
    /// dV = Pᵀ dO, dS = P ∘ (dO Vᵀ − D), dQ = dS K / √d, dK = dSᵀ Q / √d (arXiv 2205.14135, appendix B).
    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        out: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let heads = self.heads;
        let (mut dq, mut dk, mut dv) =
            (vec![0.0; q.elem_count()], vec![0.0; k.elem_count()], vec![0.0; v.elem_count()]);
        let mut slices = |q: &[f32], k: &[f32], v: &[f32], out: &[f32], grad: &[f32]| {
            let results: Vec<(Share, [Vec<f32>; 3])> = self
                .shares()
                .into_par_iter()
                .map(|share| {
                    let gradients = self.share_gradients(&share, q, k, v, out, grad);
                    (share, gradients)
                })
                .collect();
            let (width, block, key_width) =
                (heads.group * heads.keys * heads.dim, heads.group * heads.dim, heads.keys * heads.dim);
            // In the order of the shares, so that sums come out the same on every run.
            for (share, [dqs, dks, dvs]) in &results {
                for (i, row) in dqs.chunks_exact(block).enumerate() {
                    dq[(share.segment.start + i) * width + share.head * block..][..block].copy_from_slice(row);
                }
                let path = share.path.iter().flat_map(|(start, len)| *start..start + len);
                for (i, row) in path.enumerate() {
                    let (to, from) = (row * key_width + share.head * heads.dim, i * heads.dim);
                    add_scaled(&mut dk[to..to + heads.dim], &dks[from..from + heads.dim], 1.0);
                    add_scaled(&mut dv[to..to + heads.dim], &dvs[from..from + heads.dim], 1.0);
                }
            }
        };
        with_values(q, |q| {
            with_values(k, |k| {
                with_values(v, |v| with_values(out, |out| with_values(grad, |grad| slices(q, k, v, out, grad))))
            })
        })?????;
        let tensor = |values: Vec<f32>, like: &Tensor| Tensor::from_vec(values, like.shape(), like.device());
        Ok((Some(tensor(dq, q)?), Some(tensor(dk, k)?), Some(tensor(dv, v)?)))
    }
}

impl Tree {
    /// The gradients of one share with respect to its queries and to the keys and values along its path.
    fn share_gradients(
        &self,
        share: &Share,
        q: &[f32],
        k: &[f32],
        v: &[f32],
        out: &[f32],
        grad: &[f32],
    ) -> [Vec<f32>; 3] {
        let (heads, dim) = (self.heads, self.heads.dim);
        let range = share.segment.start..share.segment.start + share.segment.len;
        let queries = heads.gather_group(q, share.head, range.clone());
        let outs = heads.gather_group(out, share.head, range.clone());
        let grads = heads.gather_group(grad, share.head, range);
        let keys = heads.gather(k, share.head, &share.path);
        let held = heads.gather(v, share.head, &share.path);
        let (length, rows) = (share.ancestors + share.segment.len, share.segment.len * heads.group);
        let weights = self.probabilities(share, &queries, &keys);
        let mut ds = vec![0.0; rows * length];
        PackedMatrix::pack(dim, length, Precision::F32, |i, j| held[j * dim + i]).multiply_serial(&grads, &mut ds);
        for row in 0..rows {
            let pull = dot(&grads[row * dim..][..dim], &outs[row * dim..][..dim]);
            let weights = &weights[row * length..][..length];
            for (ds, p) in ds[row * length..][..length].iter_mut().zip(weights) {
                *ds = p * (*ds - pull) * heads.scale();
            }
        }
        let mut dq = vec![0.0; rows * dim];
        PackedMatrix::pack(length, dim, Precision::F32, |i, j| keys[i * dim + j]).multiply_serial(&ds, &mut dq);
        let transposed = |m: &[f32]| {
            (0..length).flat_map(|j| (0..rows).map(move |r| (r, j))).map(|(r, j)| m[r * length + j]).collect::<Vec<_>>()
        };
        let (mut dk, mut dv) = (vec![0.0; length * dim], vec![0.0; length * dim]);
        PackedMatrix::pack(rows, dim, Precision::F32, |i, j| queries[i * dim + j])
            .multiply_serial(&transposed(&ds), &mut dk);
        PackedMatrix::pack(rows, dim, Precision::F32, |i, j| grads[i * dim + j])
            .multiply_serial(&transposed(&weights), &mut dv);
        [dq, dk, dv]
    }
}

/// The keys and values of a finished stretch of tokens in every layer, packed; shared by all that continues it.
#[derive(Debug)]
pub struct Cache {
    len: usize,
    /// For each layer and key head: keys as (dim, len), values as (len, dim).
    layers: Vec<Vec<(PackedMatrix, PackedMatrix)>>,
}

impl Cache {
    /// Tokens held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds no token.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// A sequence that grows: the caches that it continues, and keys and values of its own.
#[derive(Debug, Clone, Default)]
pub struct Continuation {
    caches: Vec<Arc<Cache>>,
    /// For each layer: keys and values, one row a token.
    own: Vec<(Vec<f32>, Vec<f32>)>,
    len: usize,
}

impl Continuation {
    /// Continues `caches`, the first being the root.
    pub fn new(caches: Vec<Arc<Cache>>, layers: usize) -> Self {
        Self { caches, own: vec![(Vec::new(), Vec::new()); layers], len: 0 }
    }

    /// Tokens before the next one.
    pub fn position(&self) -> usize {
        self.caches.iter().map(|c| c.len).sum::<usize>() + self.len
    }

    /// Counts `tokens` as seen, after a pass over all layers.
    pub fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }

    /// Packs the sequence's own part, so that others can continue it; `dim` values a head.
    pub fn into_cache(self, dim: usize) -> Cache {
        let len = self.len;
        let pack = |(keys, held): &(Vec<f32>, Vec<f32>)| {
            let width = keys.len().checked_div(len).unwrap_or(0);
            (0..width / dim)
                .map(|head| {
                    let at = |row: usize, i: usize| row * width + head * dim + i;
                    let keys = PackedMatrix::pack(dim, len, Precision::F32, |i, j| keys[at(j, i)]);
                    let held = PackedMatrix::pack(len, dim, Precision::F32, |i, j| held[at(i, j)]);
                    (keys, held)
                })
                .collect()
        };
        Cache { len, layers: self.own.par_iter().map(pack).collect() }
    }
}

/// Attention of new tokens to everything before them, without gradients. The rows of `q`, `k`, `v` belong to the
/// `sequences` in order, `rows` to each; their keys and values are appended to the sequence.
pub fn attend_cached(
    layer: usize,
    (q, k, v): (&Tensor, &Tensor, &Tensor),
    dim: usize,
    sequences: &mut [Continuation],
    rows: &[usize],
) -> Result<Tensor> {
    let heads = Heads::new(q, k, dim)?;
    let key_width = heads.keys * dim;
    let width = heads.group * key_width;
    with_values(k, |k| {
        with_values(v, |v| {
            let mut at = 0;
            for (sequence, rows) in sequences.iter_mut().zip(rows) {
                let (keys, held) = &mut sequence.own[layer];
                keys.extend_from_slice(&k[at * key_width..(at + rows) * key_width]);
                held.extend_from_slice(&v[at * key_width..(at + rows) * key_width]);
                at += rows;
            }
        })
    })??;
    let sequences: &[Continuation] = sequences;
    let mut starts = Vec::with_capacity(rows.len());
    let mut total = 0;
    for rows in rows {
        starts.push(total);
        total += rows;
    }
    // Neighbours that continue the same caches are taken together: one product with the shared keys serves them all.
    let mut groups: Vec<std::ops::Range<usize>> = Vec::new();
    for index in 0..sequences.len() {
        let same = |a: &Continuation, b: &Continuation| {
            a.caches.len() == b.caches.len() && a.caches.iter().zip(&b.caches).all(|(a, b)| Arc::ptr_eq(a, b))
        };
        match groups.last_mut() {
            Some(group) if same(&sequences[group.start], &sequences[index]) => group.end = index + 1,
            _ => groups.push(index..index + 1),
        }
    }
    let tasks: Vec<_> = groups.iter().flat_map(|g| (0..heads.keys).map(move |h| (g.clone(), h))).collect();
    let mut out = vec![0.0; total * width];
    with_values(q, |q| {
        let results: Vec<Vec<f32>> = tasks
            .par_iter()
            .map(|(group, head)| {
                let from = starts[group.start];
                let to = starts[group.end - 1] + rows[group.end - 1];
                let queries = heads.gather_group(q, *head, from..to);
                let task = Cached {
                    heads,
                    layer,
                    head: *head,
                    sequences: &sequences[group.clone()],
                    rows: &rows[group.clone()],
                };
                task.attend(&queries)
            })
            .collect();
        let block = heads.group * dim;
        for ((group, head), result) in tasks.iter().zip(&results) {
            for (i, row) in result.chunks_exact(block).enumerate() {
                out[(starts[group.start] + i) * width + head * block..][..block].copy_from_slice(row);
            }
        }
    })?;
    Tensor::from_vec(out, (total, width), q.device())
}

/// One key head's work for neighbouring sequences that continue the same caches.
struct Cached<'a> {
    heads: Heads,
    layer: usize,
    head: usize,
    sequences: &'a [Continuation],
    rows: &'a [usize],
}

impl Cached<'_> {
    fn attend(&self, queries: &[f32]) -> Vec<f32> {
        let Heads { group, dim, keys } = self.heads;
        let width = keys * dim;
        let count = queries.len() / dim;
        let caches = &self.sequences[0].caches;
        let shared: Vec<(usize, Vec<f32>)> = caches
            .iter()
            .filter(|cache| cache.len > 0)
            .map(|cache| {
                let mut scores = vec![0.0; count * cache.len];
                cache.layers[self.layer][self.head].0.multiply_serial(queries, &mut scores);
                (cache.len, scores)
            })
            .collect();
        let total: usize = shared.iter().map(|s| s.0).sum();
        let mut weights: Vec<Vec<f32>> = shared.iter().map(|(len, _)| vec![0.0; count * len]).collect();
        let mut out = vec![0.0; queries.len()];
        let mut row = 0;
        let mut line = Vec::new();
        for (sequence, rows) in self.sequences.iter().zip(self.rows) {
            let (own_keys, own_values) = &sequence.own[self.layer];
            let before = own_keys.len() / width - rows;
            for i in 0..rows * group {
                let seen = before + i / group + 1;
                line.clear();
                for (len, scores) in &shared {
                    line.extend_from_slice(&scores[row * len..(row + 1) * len]);
                }
                let query = &queries[row * dim..(row + 1) * dim];
                line.extend((0..seen).map(|j| dot(query, &own_keys[j * width + self.head * dim..][..dim])));
                let inverse = 1.0 / exp_shifted(&mut line, self.heads.scale()).sum;
                line.iter_mut().for_each(|p| *p *= inverse);
                let mut at = 0;
                for ((len, _), weights) in shared.iter().zip(&mut weights) {
                    weights[row * len..(row + 1) * len].copy_from_slice(&line[at..at + len]);
                    at += len;
                }
                let out = &mut out[row * dim..(row + 1) * dim];
                for (j, p) in line[total..].iter().enumerate() {
                    add_scaled(out, &own_values[j * width + self.head * dim..][..dim], *p);
                }
                row += 1;
            }
        }
        for (cache, weights) in caches.iter().filter(|c| c.len > 0).zip(&weights) {
            cache.layers[self.layer][self.head].1.multiply_add_serial(weights, &mut out);
        }
        out
    }
}

#[cfg(test)]
mod tests;
