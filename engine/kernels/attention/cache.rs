//! Keys and values: packed ones that many sequences share, and those of one sequence that grows.

use std::sync::Arc;

use rayon::prelude::*;

use super::Heads;
use crate::kernels::packed::{PackedMatrix, Precision};

/// The keys and values of a finished stretch of tokens in every layer, packed; shared by all that continues it.
#[derive(Debug)]
pub struct Cache {
    len: usize,
    /// For each layer and key head: keys as (dim, len), values as (len, dim).
    pub(super) layers: Vec<Vec<(PackedMatrix, PackedMatrix)>>,
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

    /// What it continues.
    pub(super) fn caches(&self) -> &[Arc<Cache>] {
        &self.caches
    }

    /// Whether both continue the same caches.
    pub(super) fn continues_as(&self, other: &Self) -> bool {
        self.caches.len() == other.caches.len() && self.caches.iter().zip(&other.caches).all(|(a, b)| Arc::ptr_eq(a, b))
    }

    /// Appends the keys and values of rows of queries, keys and values; returns how many own rows there were before.
    pub(super) fn append(&mut self, layer: usize, qkv: &[f32], heads: Heads) -> usize {
        let width = heads.keys * heads.dim;
        let (keys, values) = &mut self.own[layer];
        let before = keys.len() / width;
        for row in qkv.chunks_exact(heads.width()) {
            keys.extend_from_slice(&row[heads.key(0)..][..width]);
            values.extend_from_slice(&row[heads.value(0)..][..width]);
        }
        before
    }

    /// A head's own keys and values, each row `heads.keys * heads.dim` values behind the one before, and their number.
    pub(super) fn own(&self, layer: usize, heads: Heads, head: usize) -> (&[f32], &[f32], usize) {
        let (keys, values) = &self.own[layer];
        let from = head * heads.dim;
        (keys.get(from..).unwrap_or(&[]), values.get(from..).unwrap_or(&[]), keys.len() / (heads.keys * heads.dim))
    }

    /// Packs the sequence's own part, so that others can continue it.
    pub fn into_cache(self, heads: Heads) -> Cache {
        let (len, dim, width) = (self.len, heads.dim, heads.keys * heads.dim);
        let pack = |(keys, values): &(Vec<f32>, Vec<f32>)| {
            let head = |head: usize| {
                let at = |row: usize, i: usize| row * width + head * dim + i;
                let keys = PackedMatrix::pack(dim, len, Precision::F32, |i, j| keys[at(j, i)]);
                let values = PackedMatrix::pack(len, dim, Precision::F32, |i, j| values[at(i, j)]);
                (keys, values)
            };
            (0..heads.keys).map(head).collect()
        };
        Cache { len, layers: self.own.par_iter().map(pack).collect() }
    }
}
