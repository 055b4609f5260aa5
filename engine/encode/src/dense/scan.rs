//! How the nearest vectors are found: by looking at all, or through a graph between them.

use std::path::Path;
use std::time::Instant;

use rayon::prelude::*;

use super::{DenseConfig, VectorIndex, VectorPrecision};
use crate::hnsw::{self, Graph, HnswConfig, Vectors, Visits};
use crate::store::{self, Kept};
use querywright_data::digest::sha256_of;
use querywright_kernels::{PackedMatrix, Precision};
use querywright_types::{Error, Hit, Observe, Ordinal, Ranking, Request, Result};

/// Rows that a thread looks at in one go, and queries that are compared with a row while it is at hand.
pub(super) const ROWS: usize = 1024;
pub(super) const QUERIES: usize = 16;

/// A change of how the graph is made is a new version: files of older ones are not read.
pub(super) const GRAPH_VERSION: u32 = 1;

/// Documents whose neighbours are looked for in both ways, for the recall.
const SAMPLED: usize = 100;

/// Of how many of the nearest the recall is the share that is found.
const RECALL_AT: usize = 10;

/// How the nearest vectors are found.
pub(super) enum Scan {
    /// All are looked at.
    All,
    /// All are looked at in bf16; what may be among the best is then ordered in single precision.
    Rounded {
        packed: PackedMatrix,
        /// The length of the longest vector.
        longest: f32,
    },
    /// Through a graph.
    Graph { graph: Graph, visits: Visits, ef: usize, recall: Recall },
}

/// How much of what is nearest a graph finds.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Recall {
    /// The share of the 10 nearest documents of a document that are found, itself apart; the mean over some documents.
    pub at_10: f64,
    /// Documents that were looked at.
    pub sampled: usize,
    /// Seconds that it took to make the graph.
    pub build_seconds: f64,
}

impl Scan {
    /// As a configuration says. A graph is kept in `folder` under a digest of the vectors' `key` and its settings.
    pub(super) fn of(
        config: &DenseConfig,
        vectors: Vectors<'_>,
        key: &str,
        folder: Option<&Path>,
        observer: &dyn Observe,
    ) -> Result<Self> {
        config.validate()?;
        let Vectors { values, width } = vectors;
        Ok(match (config.index, config.precision) {
            (VectorIndex::Hnsw, _) => Self::graph(&config.hnsw, vectors, key, folder, observer)?,
            (_, VectorPrecision::Bf16) => {
                let count = vectors.count();
                let pack = |i: usize, j: usize| values.get(j * width + i).copied().unwrap_or(0.0);
                let longest = values.chunks_exact(width.max(1)).map(length).fold(0.0, f32::max);
                Self::Rounded { packed: PackedMatrix::pack(width, count, Precision::Bf16, pack), longest }
            }
            _ => Self::All,
        })
    }

    fn graph(
        config: &HnswConfig,
        vectors: Vectors<'_>,
        key: &str,
        folder: Option<&Path>,
        observer: &dyn Observe,
    ) -> Result<Self> {
        let (m, ef) = (config.m, config.ef_search);
        let made = || -> Result<Vec<u32>> {
            let start = Instant::now();
            let graph = hnsw::build(vectors, config, observer);
            let seconds = start.elapsed().as_secs_f32();
            let recall = recall(vectors, &graph, ef) as f32;
            Ok([vec![ef as u32, recall.to_bits(), seconds.to_bits()], graph.words()].concat())
        };
        let version = GRAPH_VERSION.to_string();
        let key = sha256_of(&["hnsw", &version, key, &m.to_string(), &config.ef_construction.to_string()]);
        let kept = Kept { kind: "hnsw", key: &key, width: 1, rows: None };
        let words = match folder {
            Some(folder) => store::open_or_make(folder, kept, made)?,
            None => made()?,
        };
        // What was written is whole, by its digest.
        let read = words.split_at_checked(3).and_then(|(head, words)| {
            let graph = Graph::of_words(words, vectors.count(), m)?;
            let [own_ef, recall, seconds] = *head else { return None };
            Some((graph, own_ef, f32::from_bits(recall), f32::from_bits(seconds)))
        });
        let (graph, own_ef, at_10, seconds) =
            read.ok_or_else(|| Error::bug("dense graph", "a file that is no graph"))?;
        // The graph is the same for every ef, and what is found is not.
        let at_10 = if own_ef as usize == ef { f64::from(at_10) } else { self::recall(vectors, &graph, ef) };
        let recall = Recall { at_10, sampled: sample(vectors.count()).count(), build_seconds: f64::from(seconds) };
        Ok(Self::Graph { graph, visits: Visits::default(), ef, recall })
    }

    /// The best documents for each request, by its query.
    pub(super) fn rank(&self, vectors: Vectors<'_>, queries: &[f32], requests: &[Request]) -> Vec<Ranking> {
        match self {
            Self::All => rank_all(vectors, queries, requests),
            Self::Rounded { packed, longest } => rank_rounded(packed, *longest, vectors, queries, requests),
            Self::Graph { graph, visits, ef, .. } => {
                let one = |(query, request): (&[f32], &Request)| {
                    let found = through(graph, vectors, query, request, *ef, visits);
                    // Never fewer than there are.
                    found.map_or_else(|| rank_all(vectors, query, std::slice::from_ref(request)), |found| vec![found])
                };
                queries.par_chunks_exact(vectors.width.max(1)).zip(requests).flat_map_iter(one).collect()
            }
        }
    }
}

/// What the graph finds; none where all must be looked at, because much of the catalogue is asked for or the graph gives less
/// than there is.
fn through(
    graph: &Graph,
    vectors: Vectors<'_>,
    query: &[f32],
    request: &Request,
    ef: usize,
    visits: &Visits,
) -> Option<Ranking> {
    let count = vectors.count();
    if request.k >= count / 4 {
        return None;
    }
    let mut excluded: Vec<Ordinal> =
        request.exclude.iter().copied().filter(|document| (*document as usize) < count).collect();
    excluded.sort_unstable();
    excluded.dedup();
    let accept = |document: u32| excluded.binary_search(&document).is_err();
    let found = graph.search(vectors, query, ef.max(request.k), visits, accept);
    let there = count - excluded.len();
    (found.len() >= request.k.min(there)).then(|| {
        let hits = found.into_iter().take(request.k).map(|near| Hit { doc: near.node, score: near.score });
        Ranking { hits: hits.collect() }
    })
}

/// The documents of the recall: evenly over the catalogue.
fn sample(count: usize) -> impl Iterator<Item = u32> {
    (0..count as u32).step_by(count.div_ceil(SAMPLED).max(1))
}

/// The share of the nearest documents of some that the graph finds.
fn recall(vectors: Vectors<'_>, graph: &Graph, ef: usize) -> f64 {
    let visits = Visits::default();
    let shares: Vec<f64> = sample(vectors.count())
        .collect::<Vec<_>>()
        .into_par_iter()
        .filter_map(|document| {
            let query = vectors.row(document);
            let request = Request::plain("", RECALL_AT).with_exclude([document]);
            let right = rank_all(vectors, query, std::slice::from_ref(&request)).pop()?;
            let found = graph.search(vectors, query, ef.max(RECALL_AT), &visits, |node| node != document);
            let hits = right.hits.iter().filter(|hit| found.iter().take(RECALL_AT).any(|near| near.node == hit.doc));
            (!right.hits.is_empty()).then(|| hits.count() as f64 / right.hits.len() as f64)
        })
        .collect();
    if shares.is_empty() { 1.0 } else { shares.iter().sum::<f64>() / shares.len() as f64 }
}

/// The best documents for each query, from the products of all rows with all queries.
fn rank_all(vectors: Vectors<'_>, queries: &[f32], requests: &[Request]) -> Vec<Ranking> {
    let (count, width) = (requests.len(), vectors.width.max(1));
    let queries: Vec<&[f32]> = queries.chunks_exact(width).collect();
    // Row by row of documents; each row is read once for all queries.
    let blocks: Vec<Vec<f32>> = vectors
        .values
        .par_chunks(ROWS * width)
        .map(|rows| {
            rows.chunks_exact(width).flat_map(|row| queries.iter().map(|query| hnsw::score(row, query))).collect()
        })
        .collect();
    let of = |(at, request): (usize, &Request)| {
        let scores = blocks.iter().flat_map(|block| block.iter().skip(at).step_by(count).copied());
        Ranking::best((0..).zip(scores).map(|(doc, score)| Hit { doc, score }), request)
    };
    requests.par_iter().enumerate().map(of).collect()
}

/// The same ranking as that of [`rank_all`]. Products in bf16 are wrong by so much at most; so the best `k` are among those
/// that in bf16 lie no further than twice that below the `k`th.
fn rank_rounded(
    packed: &PackedMatrix,
    longest: f32,
    vectors: Vectors<'_>,
    queries: &[f32],
    requests: &[Request],
) -> Vec<Ranking> {
    let (count, width) = (vectors.count(), vectors.width.max(1));
    if count == 0 {
        return vec![Ranking::default(); requests.len()];
    }
    let mut products = vec![0.0; requests.len() * count];
    packed.multiply(queries, &mut products);
    let one = |((query, scores), request): ((&[f32], &[f32]), &Request)| {
        let wrong = rounding(width) * longest * length(query);
        let hits = || (0..).zip(scores).map(|(doc, score)| Hit { doc, score: *score });
        let best = Ranking::best(hits(), request);
        // Fewer than are asked for are all that there are.
        let least = best.hits.last().filter(|_| best.hits.len() >= request.k).map(|hit| hit.score - 2.0 * wrong);
        let near = hits().filter(|hit| least.is_none_or(|least| hit.score >= least));
        Ranking::best(near.map(|hit| Hit { score: vectors.score(hit.doc, query), ..hit }), request)
    };
    let rows = queries.par_chunks_exact(width).zip(products.par_chunks_exact(count));
    rows.zip(requests).map(one).collect()
}

/// By what share of the lengths' product a product of two vectors of `width` values is wrong, at most: each factor by half a
/// unit of the last of its 8 bits, 2⁻⁸ of it, and both sums (in single precision) by one of their 24 bits a value.
fn rounding(width: usize) -> f32 {
    let (factor, sum) = (2_f32.powi(-8), 2_f32.powi(-24));
    2.0 * factor + factor * factor + 2.0 * width as f32 * sum
}

fn length(vector: &[f32]) -> f32 {
    vector.iter().map(|x| x * x).sum::<f32>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// To 8 bits, the nearest, ties to the even one.
    fn rounded(value: f32) -> f32 {
        let bits = value.to_bits();
        f32::from_bits((bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff_0000)
    }

    #[test]
    fn a_product_in_bf16_is_wrong_by_no_more_than_the_bound_where_all_factors_are_rounded_to_one_side() {
        // Just above and just below the middle between two numbers of 8 bits.
        let width = 384;
        let (below, above) = (1.0 + 2_f32.powi(-8) - 2_f32.powi(-20), 1.0 + 2_f32.powi(-8) + 2_f32.powi(-20));
        for value in [below, above] {
            let vector = vec![value / 32.0; width];
            let exact: f64 = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
            let coarse: f64 = vector.iter().map(|x| f64::from(rounded(*x)) * f64::from(rounded(*x))).sum();
            let bound = f64::from(rounding(width) * length(&vector) * length(&vector));
            let wrong = (exact - coarse).abs();
            assert!(wrong <= bound && wrong > bound / 2.0, "{value}: wrong by {wrong}, the bound is {bound}");
        }
    }
}
