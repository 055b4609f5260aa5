//! Making the graph. Nodes are added some at a time: what each is linked to is looked for on all threads, in the graph as
//! it was before and among the others that are added with it; then the links are set in order. So the graph is the same on
//! any number of threads.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::{Graph, HnswConfig, MOST_LAYERS, NONE, Near, Vectors, Visits};
use querywright_types::{Observe, Progress};

/// Nodes that are added at once, at most, and as a share of those that are there.
const BATCH: usize = 256;
const SHARE: usize = 16;

/// The links that a new node is to have: its layers from the ground up.
type Chosen = Vec<Vec<Near>>;

/// The graph of these vectors.
pub(crate) fn build(vectors: Vectors<'_>, config: &HnswConfig, observer: &dyn Observe) -> Graph {
    let count = vectors.count();
    let levels: Vec<u8> = (0..count as u64).map(|node| level(node, config.m)).collect();
    // From the highest layer down, so that the entry stays, and else mixed: neighbours in a catalogue are often alike.
    let mut order: Vec<u32> = (0..count as u32).collect();
    order.sort_by_key(|node| (std::cmp::Reverse(levels.get(*node as usize).copied()), mixed(u64::from(*node) ^ 1)));
    let mut graph = Graph::new(levels, config.m, order.first().copied().unwrap_or(0));
    let visits = Visits::default();
    let mut done = 1;
    while done < count {
        observer.progress(Progress::new("linking vectors", done as u64, count as u64));
        let next = count.min(done + (done / SHARE).clamp(1, BATCH));
        let batch = &order[done..next];
        let choose = |at: usize| graph.chosen(vectors, batch, at, config, &visits);
        let chosen: Vec<Chosen> = (0..batch.len()).into_par_iter().map(choose).collect();
        graph.link(vectors, batch, &chosen);
        done = next;
    }
    graph
}

impl Graph {
    /// What a new node is linked to on each of its layers.
    fn chosen(&self, vectors: Vectors<'_>, batch: &[u32], at: usize, config: &HnswConfig, visits: &Visits) -> Chosen {
        let Some(node) = batch.get(at).copied() else { return Vec::new() };
        let query = vectors.row(node);
        let level = |node: u32| self.levels.get(node as usize).map_or(0, |level| usize::from(*level));
        let highest = level(node);
        let mut seen = visits.take(vectors.count());
        let mut entries = vec![self.descended(vectors, query, highest, &mut seen)];
        let mut chosen = vec![Vec::new(); highest + 1];
        for layer in (0..=highest.min(self.top())).rev() {
            let found = self.nearest(vectors, query, (layer, &entries), config.ef_construction, &mut seen, |_| true);
            let others = batch.iter().take(at).filter(|other| level(**other) >= layer);
            let mut candidates: Vec<Near> =
                others.map(|other| Near { score: vectors.score(*other, query), node: *other }).collect();
            candidates.extend(&found);
            candidates.sort_unstable_by(|a, b| b.cmp(a));
            candidates.truncate(config.ef_construction);
            if let Some(chosen) = chosen.get_mut(layer) {
                *chosen = spread(vectors, &candidates, config.m);
            }
            entries = found;
        }
        visits.give_back(seen);
        chosen
    }

    /// Sets the links of new nodes, and those back to them. A node that then has too many keeps the best.
    fn link(&mut self, vectors: Vectors<'_>, batch: &[u32], chosen: &[Chosen]) {
        let mut back: BTreeMap<(usize, u32), Vec<u32>> = BTreeMap::new();
        for (node, chosen) in batch.iter().zip(chosen) {
            for (layer, links) in chosen.iter().enumerate() {
                for link in links {
                    back.entry((layer, link.node)).or_default().push(*node);
                    // Others of the batch are linked to it, too: its own links are among what it may keep.
                    back.entry((layer, *node)).or_default().push(link.node);
                }
            }
        }
        let places: Vec<((usize, u32), Vec<u32>)> = back
            .into_par_iter()
            .map(|((layer, node), new)| {
                let most = if layer == 0 { 2 * self.m } else { self.m };
                let query = vectors.row(node);
                let mut all: Vec<u32> = self.links(layer, node).chain(new).collect();
                all.sort_unstable();
                all.dedup();
                let mut candidates: Vec<Near> =
                    all.into_iter().map(|link| Near { score: vectors.score(link, query), node: link }).collect();
                candidates.sort_unstable_by(|a, b| b.cmp(a));
                let kept = if candidates.len() > most { spread(vectors, &candidates, most) } else { candidates };
                ((layer, node), kept.into_iter().map(|near| near.node).collect())
            })
            .collect();
        for ((layer, node), links) in places {
            let places = self.places(layer, node);
            places.fill(NONE);
            places.iter_mut().zip(links).for_each(|(place, link)| *place = link);
        }
    }
}

/// Algorithm 4 of the paper: of candidates, best first, those that are nearer to the node than to any that was taken, so that
/// links lead in all directions; then the best of the others, up to `most`.
fn spread(vectors: Vectors<'_>, candidates: &[Near], most: usize) -> Vec<Near> {
    let (mut taken, mut left): (Vec<Near>, Vec<Near>) = (Vec::with_capacity(most), Vec::new());
    for candidate in candidates {
        if taken.len() >= most {
            break;
        }
        let row = vectors.row(candidate.node);
        if taken.iter().any(|other| vectors.score(other.node, row) > candidate.score) {
            left.push(*candidate);
        } else {
            taken.push(*candidate);
        }
    }
    let room = most.saturating_sub(taken.len());
    taken.extend(left.into_iter().take(room));
    taken
}

/// The highest layer of a node: `⌊−ln u / ln m⌋` for a `u` that its number alone decides.
fn level(node: u64, m: usize) -> u8 {
    let u = ((mixed(node) >> 11) as f64 + 1.0) / (1_u64 << 53) as f64;
    let level = (-u.ln() / (m as f64).ln()) as usize;
    level.min(MOST_LAYERS) as u8
}

/// A number whose bits look like chance (splitmix64).
fn mixed(number: u64) -> u64 {
    let z = number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
