//! Attention that sees both ways, as encoders have it: each row of a text to all of its rows, or to those near by.

use std::ops::Range;

use rayon::prelude::*;

use super::forward::{add_product, product};
use super::heads::Heads;
use crate::growing::GrowingMatrix;
use crate::rows::Rows;
use crate::softmax::softmax;

/// Rows whose scores are in memory at once.
const CHUNK: usize = 96;

/// Multiplications of a text and head that are worth a task of their own.
const WORTH_A_TASK: usize = 1 << 17;

/// Attention within texts. `qkv` holds their rows one behind the other, `rows` to each; a row sees all rows of its text, or
/// with a `reach` those at most so many places before and behind it. The results, `heads.queries * heads.dim` values a
/// row, go to `out`. There is a key head for each query head. A row's result depends on its own text alone.
pub fn attend_both_ways(heads: Heads, qkv: &[f32], out: &mut [f32], rows: &[usize], reach: Option<usize>) {
    let total: usize = rows.iter().sum();
    assert_eq!(heads.queries, heads.keys, "a key head for each query head");
    assert_eq!(qkv.len(), total * heads.width(), "queries, keys and values of each row");
    let width = heads.queries * heads.dim;
    assert_eq!(out.len(), total * width, "a result for each query");
    let mut first = 0;
    let texts: Vec<Range<usize>> = rows
        .iter()
        .map(|rows| {
            first += rows;
            first - rows..first
        })
        .collect();
    let tasks: Vec<(&Range<usize>, usize)> =
        texts.iter().flat_map(|text| (0..heads.queries).map(move |head| (text, head))).collect();
    let longest = rows.iter().copied().max().unwrap_or(0);
    let work = longest * reach.map_or(longest, |reach| longest.min(2 * reach + 1)) * heads.dim;
    let run = |(text, head): &(&Range<usize>, usize)| {
        let own = &qkv[text.start * heads.width()..text.end * heads.width()];
        attend(heads, own, *head, reach)
    };
    let results: Vec<Vec<f32>> = tasks.par_iter().with_min_len((WORTH_A_TASK / work.max(1)).max(1)).map(run).collect();
    for ((text, head), values) in tasks.iter().zip(&results) {
        for (row, values) in (*text).clone().zip(values.chunks_exact(heads.dim)) {
            out[row * width + head * heads.dim..][..heads.dim].copy_from_slice(values);
        }
    }
}

/// One head of one text: `dim` values a row.
fn attend(heads: Heads, qkv: &[f32], head: usize, reach: Option<usize>) -> Vec<f32> {
    let (dim, width) = (heads.dim, heads.width());
    let rows = qkv.len() / width;
    let mut out = vec![0.0; rows * dim];
    let mut scores = Vec::new();
    let mut packed: Option<(Range<usize>, GrowingMatrix, GrowingMatrix)> = None;
    for from in (0..rows).step_by(CHUNK) {
        let to = rows.min(from + CHUNK);
        // What some row of these sees; without a reach it is everything, and packed once.
        let seen = reach.map_or(0..rows, |reach| from.saturating_sub(reach)..rows.min(to + reach));
        packed = packed.take().filter(|(range, ..)| *range == seen);
        let (_, keys, values) = packed.get_or_insert_with(|| {
            let (mut keys, mut values) =
                (GrowingMatrix::columns(dim, heads.bf16), GrowingMatrix::rows(dim, seen.len(), heads.bf16));
            for row in qkv[seen.start * width..seen.end * width].chunks_exact(width) {
                keys.push_column(&row[heads.key(head)..][..dim]);
                values.push_row(&row[heads.value(head)..][..dim]);
            }
            (seen.clone(), keys, values)
        });
        let stride = seen.len();
        scores.clear();
        scores.resize((to - from) * stride, 0.0);
        let queries = Rows::columns(&qkv[from * width..to * width], width, head * dim, dim);
        product(&queries, keys, &mut scores, stride, 0..stride);
        for (row, scores) in (from..to).zip(scores.chunks_exact_mut(stride)) {
            let own = reach.map_or(0..stride, |reach| {
                row.saturating_sub(reach).max(seen.start) - seen.start..rows.min(row + reach + 1) - seen.start
            });
            scores[..own.start].fill(0.0);
            scores[own.end..].fill(0.0);
            softmax(&mut scores[own], heads.scale);
        }
        add_product(&Rows::new(&scores, stride), values, &mut out[from * dim..to * dim]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::{distance, noise};

    const HEADS: Heads = Heads { queries: 3, keys: 3, dim: 8, scale: 0.4, bf16: false };

    /// The definition, in double precision.
    fn plain(qkv: &[f32], reach: Option<usize>) -> Vec<f32> {
        let (dim, width) = (HEADS.dim, HEADS.width());
        let rows: Vec<&[f32]> = qkv.chunks(width).collect();
        let mut out = Vec::new();
        for (at, row) in rows.iter().enumerate() {
            for head in 0..HEADS.queries {
                let query = &row[head * dim..][..dim];
                let near = |place: &usize| reach.is_none_or(|reach| place.abs_diff(at) <= reach);
                let seen: Vec<usize> = (0..rows.len()).filter(near).collect();
                let score = |place: &usize| {
                    let key = &rows[*place][HEADS.key(head)..][..dim];
                    let product: f64 = query.iter().zip(key).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
                    (product * f64::from(HEADS.scale)).exp()
                };
                let scores: Vec<f64> = seen.iter().map(score).collect();
                let sum: f64 = scores.iter().sum();
                out.extend((0..dim).map(|value| {
                    let of = |place: &usize| f64::from(rows[*place][HEADS.value(head) + value]);
                    (seen.iter().zip(&scores).map(|(place, p)| of(place) * p).sum::<f64>() / sum) as f32
                }));
            }
        }
        out
    }

    fn attended(qkv: &[f32], rows: &[usize], reach: Option<usize>) -> Vec<f32> {
        let mut out = vec![9.0; qkv.len() / 3];
        attend_both_ways(HEADS, qkv, &mut out, rows, reach);
        out
    }

    #[test]
    fn every_row_sees_its_own_text_and_with_a_reach_its_neighbours_alone() {
        // Shorter and longer than a chunk, one row, and none.
        let rows = [5, CHUNK + 30, 0, 1, 2 * CHUNK];
        let width = HEADS.width();
        let qkv = noise(rows.iter().sum::<usize>() * width, 3);
        for reach in [None, Some(0), Some(2), Some(40), Some(5000)] {
            let together = attended(&qkv, &rows, reach);
            let mut first = 0;
            for rows in rows {
                let own = &qkv[first * width..(first + rows) * width];
                let part = &together[first * width / 3..(first + rows) * width / 3];
                assert!(distance(part, &plain(own, reach)) < 1e-5, "{rows} rows, {reach:?}");
                assert_eq!(part, attended(own, &[rows], reach), "alone, bit for bit");
                first += rows;
            }
        }
    }
}
