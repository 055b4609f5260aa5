//! Keys and values: those that many sequences share, and those of one sequence that grows.

use std::sync::{Arc, OnceLock};

use super::heads::Heads;
use crate::growing::GrowingMatrix;

/// Keys and values of one head, packed for products as they come: keys as (dim, positions), values as (positions, dim).
#[derive(Debug, Clone)]
pub(super) struct KeysValues {
    pub(super) keys: GrowingMatrix,
    pub(super) values: GrowingMatrix,
}

impl KeysValues {
    /// No positions yet, and room for some.
    pub(super) fn new(heads: Heads, capacity: usize) -> Self {
        let Heads { dim, bf16, .. } = heads;
        Self { keys: GrowingMatrix::columns(dim, bf16), values: GrowingMatrix::rows(dim, capacity, bf16) }
    }
}

/// The keys and values of a segment of tokens in every layer, shared by all that continues it.
#[derive(Debug)]
pub struct Cache {
    len: usize,
    /// By layer, and there by key head. A layer is there once a pass has computed it.
    layers: Vec<OnceLock<Vec<KeysValues>>>,
}

impl Cache {
    /// Tokens held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Memory of its keys and values.
    pub fn bytes(&self) -> usize {
        self.layers.iter().filter_map(OnceLock::get).flatten().map(|head| head.keys.bytes() + head.values.bytes()).sum()
    }

    /// Whether it holds no token.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The keys and values of a layer's heads.
    pub(super) fn layer(&self, layer: usize) -> &[KeysValues] {
        let computed = self.layers[layer].get();
        assert!(computed.is_some(), "layer {layer} of a segment is read before it is computed");
        computed.map_or(&[], Vec::as_slice)
    }
}

/// A sequence that grows: the caches that it continues, and keys and values of its own.
#[derive(Debug, Clone, Default)]
pub struct Continuation {
    caches: Vec<Arc<Cache>>,
    /// By layer and key head; a layer has none before its first token.
    own: Vec<Vec<KeysValues>>,
    len: usize,
    /// What the own part becomes, where the next pass completes it.
    closes: Option<Arc<Cache>>,
}

impl Continuation {
    /// Continues `caches`, the first being the root.
    pub fn new(caches: Vec<Arc<Cache>>, layers: usize) -> Self {
        Self { caches, own: vec![Vec::new(); layers], len: 0, closes: None }
    }

    /// A segment of `len` tokens, all of which the next pass computes, and what it becomes: other sequences of the same pass
    /// may continue that.
    pub fn closing(caches: Vec<Arc<Cache>>, layers: usize, len: usize) -> (Self, Arc<Cache>) {
        let cache = Arc::new(Cache { len, layers: (0..layers).map(|_| OnceLock::new()).collect() });
        (Self { closes: Some(cache.clone()), ..Self::new(caches, layers) }, cache)
    }

    /// Tokens before the next one.
    pub fn position(&self) -> usize {
        self.caches.iter().map(|c| c.len).sum::<usize>() + self.len
    }

    /// Counts `tokens` as seen, after a pass over all layers.
    pub fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }

    /// Forgets the last `tokens` that it has seen of its own: a draft that was not accepted.
    pub fn forget(&mut self, tokens: usize) {
        assert!(tokens <= self.len, "{tokens} tokens are forgotten of {}", self.len);
        self.len -= tokens;
        for own in self.own.iter_mut().flatten() {
            own.keys.truncate_columns(self.len);
            own.values.truncate_rows(self.len);
        }
    }

    /// What it continues.
    pub(super) fn caches(&self) -> &[Arc<Cache>] {
        &self.caches
    }

    /// Own tokens that were seen in earlier passes.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Whether both continue the same caches.
    pub(super) fn continues_as(&self, other: &Self) -> bool {
        self.caches.len() == other.caches.len() && self.caches.iter().zip(&other.caches).all(|(a, b)| Arc::ptr_eq(a, b))
    }

    /// Appends the keys and values of rows of queries, keys and values.
    pub(super) fn append(&mut self, layer: usize, qkv: &[f32], heads: Heads) {
        let own = &mut self.own[layer];
        if own.is_empty() {
            let rows = qkv.len() / heads.width();
            own.extend((0..heads.keys).map(|_| KeysValues::new(heads, rows)));
        }
        for row in qkv.chunks_exact(heads.width()) {
            for (head, own) in own.iter_mut().enumerate() {
                own.keys.push_column(&row[heads.key(head)..][..heads.dim]);
                own.values.push_row(&row[heads.value(head)..][..heads.dim]);
            }
        }
        if let Some(cache) = &self.closes {
            assert_eq!(qkv.len(), cache.len * heads.width(), "one pass computes the whole of a segment that it closes");
            let first = cache.layers[layer].set(std::mem::take(own)).is_ok();
            assert!(first, "a segment is computed once");
        }
    }

    /// The own keys and values of a head.
    pub(super) fn own(&self, layer: usize, head: usize) -> &KeysValues {
        match &self.closes {
            Some(cache) => &cache.layer(layer)[head],
            None => &self.own[layer][head],
        }
    }

    /// Closes the sequence's own part, so that others can continue it.
    pub fn into_cache(self) -> Cache {
        Cache { len: self.len, layers: self.own.into_iter().map(OnceLock::from).collect() }
    }
}
