//! A graph in which near vectors are found without looking at all: hierarchical navigable small worlds (Malkov and Yashunin,
//! arXiv 1603.09320).
//!
//! Every vector is a node of the ground layer, and of each higher one with a probability of `1/m`. A search goes greedily
//! down the layers and then keeps the `ef` best nodes of the ground layer that it met. Nearness is the product of two
//! vectors, as in the exact search, by the same function: what is found has the score that it would have there.
//!
//! **Why not a crate.** usearch needs a C++ compiler and its runtime, and keeps a second copy of the vectors; hnsw_rs brings 60
//! crates (a logger, memory maps) and a graph that borrows from its reader; instant-distance was last released in 2023 and
//! has one `ef` for all requests; arroy and hannoy need LMDB. None gives the same graph on any number of threads, and a
//! request's own `k`, excluded documents and order of ties are what a retriever is held to here.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Mutex, PoisonError};

use querywright_kernels::dot;
use querywright_types::{Error, Result};

mod build;

pub(crate) use build::build;

/// No link.
const NONE: u32 = u32::MAX;

/// Layers above the ground, at most: with 16 links a node, more than there are ordinals.
const MOST_LAYERS: usize = 16;

/// How the graph is made and searched: `[retriever.dense.hnsw]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HnswConfig {
    /// Links that a new node makes on each layer, from 4 to 128; a node of the ground layer has twice as many at most. More of
    /// them find more, take more memory (8 bytes each a vector) and more time. Default 32.
    pub m: usize,
    /// Nodes among which the links of a new one are chosen, from `m` to 4096. More of them make a better graph, and take
    /// longer. Default 200.
    pub ef_construction: usize,
    /// Nodes that a search keeps, from 1 to 1,000,000; at least as many as the request asks for in any case. More of them
    /// find more, and take longer. It may be changed without making the graph again. Default 200.
    pub ef_search: usize,
}

impl Default for HnswConfig {
    /// The values of the Rec-R1 paper for making the graph.
    fn default() -> Self {
        Self { m: 32, ef_construction: 200, ef_search: 200 }
    }
}

impl HnswConfig {
    /// Refuses values that make no graph. The message names the key.
    ///
    /// # Errors
    /// [`Error::Argument`]: the key, what was found, what would be right.
    pub fn validate(&self) -> Result<()> {
        let ranges = [
            ("m", self.m, 4..=128),
            ("ef_construction", self.ef_construction, self.m..=4096),
            ("ef_search", self.ef_search, 1..=1_000_000),
        ];
        match ranges.into_iter().find(|(_, value, range)| !range.contains(value)) {
            Some((key, value, range)) => {
                let remedy = format!("give a number from {} to {}", range.start(), range.end());
                Err(Error::argument(format!("hnsw.{key}"), format!("found {value}"), remedy))
            }
            None => Ok(()),
        }
    }
}

/// Vectors, one behind the other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Vectors<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) width: usize,
}

impl<'a> Vectors<'a> {
    pub(crate) fn count(self) -> usize {
        self.values.len() / self.width.max(1)
    }

    pub(crate) fn row(self, node: u32) -> &'a [f32] {
        let start = node as usize * self.width;
        &self.values[start..start + self.width]
    }

    /// How near a vector is to a query.
    pub(crate) fn score(self, node: u32, query: &[f32]) -> f32 {
        score(self.row(node), query)
    }
}

/// How near two vectors are: their product, summed in one order, so that it does not depend on what is asked beside it. Adding
/// 0 makes a negative zero a positive one: the two are equal, and a tie goes by ordinal.
pub(crate) fn score(row: &[f32], query: &[f32]) -> f32 {
    dot(row, query) + 0.0
}

/// The links between the vectors of a catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Graph {
    m: usize,
    /// Where searches begin: on the highest layer.
    entry: u32,
    /// The highest layer of each node.
    levels: Vec<u8>,
    /// `2 m` places of each node, [`NONE`] behind its links.
    ground: Vec<u32>,
    /// The links above the ground, layer by layer, `m` places each.
    upper: Vec<Vec<u32>>,
}

/// A node and how near it is. The greater is the nearer; of equally near ones the one of the lower ordinal.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Near {
    pub(crate) score: f32,
    pub(crate) node: u32,
}

impl Eq for Near {}

impl PartialOrd for Near {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Near {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.score.total_cmp(&other.score).then(other.node.cmp(&self.node))
    }
}

impl Graph {
    /// Without links yet.
    fn new(levels: Vec<u8>, m: usize, entry: u32) -> Self {
        let ground = vec![NONE; levels.len() * 2 * m];
        let upper = levels.iter().map(|level| vec![NONE; usize::from(*level) * m]).collect();
        Self { m, entry, levels, ground, upper }
    }

    fn top(&self) -> usize {
        self.levels.get(self.entry as usize).map_or(0, |level| usize::from(*level))
    }

    /// The places for the links of a node of this layer.
    fn places(&mut self, layer: usize, node: u32) -> &mut [u32] {
        let (m, node) = (self.m, node as usize);
        match layer {
            0 => &mut self.ground[node * 2 * m..(node + 1) * 2 * m],
            _ => &mut self.upper[node][(layer - 1) * m..layer * m],
        }
    }

    /// The neighbours of a node on a layer.
    fn links(&self, layer: usize, node: u32) -> impl Iterator<Item = u32> {
        let (m, node) = (self.m, node as usize);
        let places = match layer {
            0 => &self.ground[node * 2 * m..(node + 1) * 2 * m],
            _ => &self.upper[node][(layer - 1) * m..layer * m],
        };
        places.iter().copied().take_while(|link| *link != NONE)
    }

    /// The nearest to a query that `accept` takes, best first: `ef` at most, and maybe fewer than there are.
    pub(crate) fn search(
        &self,
        vectors: Vectors<'_>,
        query: &[f32],
        ef: usize,
        visits: &Visits,
        accept: impl Fn(u32) -> bool,
    ) -> Vec<Near> {
        if self.levels.is_empty() {
            return Vec::new();
        }
        let mut seen = visits.take(vectors.count());
        let entry = self.descended(vectors, query, 0, &mut seen);
        let found = self.nearest(vectors, query, (0, &[entry]), ef, &mut seen, accept);
        visits.give_back(seen);
        found
    }

    /// The nearest node that is found greedily from the top down to the layer above `layer`.
    fn descended(&self, vectors: Vectors<'_>, query: &[f32], layer: usize, seen: &mut Seen) -> Near {
        let mut at = Near { score: vectors.score(self.entry, query), node: self.entry };
        for above in (layer + 1..=self.top()).rev() {
            let found = self.nearest(vectors, query, (above, &[at]), 1, seen, |_| true);
            at = found.first().copied().unwrap_or(at);
        }
        at
    }

    /// Algorithm 2 of the paper: the `ef` nearest that are met from `entries` on, and that `accept` takes. The others are gone
    /// through all the same.
    fn nearest(
        &self,
        vectors: Vectors<'_>,
        query: &[f32],
        (layer, entries): (usize, &[Near]),
        ef: usize,
        seen: &mut Seen,
        accept: impl Fn(u32) -> bool,
    ) -> Vec<Near> {
        seen.clear();
        let mut open: BinaryHeap<Near> = BinaryHeap::new();
        let mut best: BinaryHeap<Reverse<Near>> = BinaryHeap::new();
        let keep = |best: &mut BinaryHeap<Reverse<Near>>, near: Near| {
            if accept(near.node) {
                best.push(Reverse(near));
                if best.len() > ef {
                    best.pop();
                }
            }
        };
        for entry in entries.iter().filter(|entry| seen.is_new(entry.node)).collect::<Vec<_>>() {
            open.push(*entry);
            keep(&mut best, *entry);
        }
        while let Some(next) = open.pop() {
            let full = |best: &BinaryHeap<Reverse<Near>>, near: Near| {
                best.len() >= ef && best.peek().is_some_and(|worst| near < worst.0)
            };
            if full(&best, next) {
                break;
            }
            for node in self.links(layer, next.node) {
                if !seen.is_new(node) {
                    continue;
                }
                let near = Near { score: vectors.score(node, query), node };
                if !full(&best, near) {
                    open.push(near);
                    keep(&mut best, near);
                }
            }
        }
        let mut found: Vec<Near> = best.into_iter().map(|near| near.0).collect();
        found.sort_unstable_by(|a, b| b.cmp(a));
        found
    }

    /// As words: `m`, the entry, the nodes, their layers, and the links.
    pub(crate) fn words(&self) -> Vec<u32> {
        let mut words = vec![self.m as u32, self.entry, self.levels.len() as u32];
        words.extend(self.levels.iter().map(|level| u32::from(*level)));
        words.extend(&self.ground);
        words.extend(self.upper.iter().flatten());
        words
    }

    /// From [`words`](Self::words); none where they are of another catalogue or setting, or no graph.
    pub(crate) fn of_words(words: &[u32], nodes: usize, m: usize) -> Option<Self> {
        let (head, rest) = words.split_at_checked(3)?;
        let [own_m, entry, own_nodes] = *head else { return None };
        let (levels, rest) = rest.split_at_checked(nodes)?;
        if own_m as usize != m || own_nodes as usize != nodes || (nodes > 0 && entry as usize >= nodes) {
            return None;
        }
        let levels: Vec<u8> = levels.iter().map(|level| u8::try_from(*level).ok()).collect::<Option<_>>()?;
        let (ground, mut rest) = rest.split_at_checked(nodes.checked_mul(2 * m)?)?;
        let mut upper = Vec::with_capacity(nodes);
        for level in &levels {
            let (own, after) = rest.split_at_checked(usize::from(*level) * m)?;
            upper.push(own.to_vec());
            rest = after;
        }
        let graph = Self { m, entry, levels, ground: ground.to_vec(), upper };
        (rest.is_empty() && graph.is_whole()).then_some(graph)
    }

    /// Whether every link leads to a node of its layer.
    fn is_whole(&self) -> bool {
        let top = self.top();
        self.levels.iter().all(|level| usize::from(*level) <= top.min(MOST_LAYERS))
            && (0..self.levels.len() as u32).zip(&self.levels).all(|(node, level)| {
                (0..=usize::from(*level)).all(|layer| {
                    let reaches = |link: u32| self.levels.get(link as usize).is_some_and(|l| usize::from(*l) >= layer);
                    self.links(layer, node).all(reaches)
                })
            })
    }
}

/// Which nodes a search has met.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    marks: Vec<u32>,
    /// The mark of the search at hand.
    mark: u32,
}

impl Seen {
    fn clear(&mut self) {
        self.mark = self.mark.wrapping_add(1);
        if self.mark == 0 {
            self.marks.fill(0);
            self.mark = 1;
        }
    }

    fn is_new(&mut self, node: u32) -> bool {
        self.marks.get_mut(node as usize).is_some_and(|mark| std::mem::replace(mark, self.mark) != self.mark)
    }
}

/// Marks that searches lend, so that each thread has its own and they are made once.
#[derive(Debug, Default)]
pub(crate) struct Visits(Mutex<Vec<Seen>>);

impl Visits {
    fn take(&self, nodes: usize) -> Seen {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        seen.marks.resize(nodes, 0);
        seen
    }

    fn give_back(&self, seen: Seen) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(seen);
    }
}

#[cfg(test)]
mod tests;
