//! The backward pass of attention, segment by segment of a tree.

use rayon::prelude::*;

use super::heads::Heads;
use crate::growing::GrowingMatrix;
use crate::outer_product::add_outer_product;
use crate::product::{Part, sum_of_products};
use crate::rows::Rows;
use crate::softmax::exp_minus;
use crate::vector::dot;

/// A segment of tokens that attend to each other and to the segments above.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The segment that this one continues; comes earlier in the list.
    pub parent: Option<usize>,
    /// Its rows in a recording, in the order of its tokens.
    pub rows: Vec<usize>,
}

/// Segments, parents before children.
pub type Tree = Vec<Node>;

/// Query rows that one task takes.
const CHUNK: usize = 256;

/// A segment's keys under some of the queries that see them.
struct Task<'a> {
    node: &'a Node,
    head: usize,
    /// Rows with the number of keys of the segment that each sees.
    queries: &'a [(usize, usize)],
}

/// What a task gives: the gradients of its queries, keys and values.
struct Gradients {
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// What the forward pass recorded, and the gradient of the result.
#[derive(Debug, Clone, Copy)]
pub struct Attended<'a> {
    /// Rows of queries, keys and values.
    pub qkv: &'a [f32],
    /// Rows of results.
    pub out: &'a [f32],
    /// The log-sums of each row and query head.
    pub log_sums: &'a [f32],
    /// The gradient of the results.
    pub grad: &'a [f32],
}

/// Adds the gradient of rows of queries, keys and values to `dqkv`.
///
/// Probabilities are recomputed rather than kept. With P the probabilities and D = rowsum(dO ∘ O): dV = Pᵀ dO,
/// dS = P ∘ (dO Vᵀ − D), dQ = dS K / √d, dK = dSᵀ Q / √d (arXiv 2205.14135, appendix B). Each row sees one segment of
/// every depth, so a depth's tasks write gradients of different queries; the order of all sums is fixed.
pub fn attend_backward(heads: Heads, tree: &Tree, recorded: Attended<'_>, dqkv: &mut [f32]) {
    let rows = recorded.qkv.len() / heads.width();
    assert_eq!(recorded.qkv.len(), dqkv.len(), "a gradient for each query, key and value");
    assert!(recorded.out.len() == rows * heads.queries * heads.dim && recorded.out.len() == recorded.grad.len());
    assert_eq!(recorded.log_sums.len(), rows * heads.queries, "a log-sum for each query");
    assert!(
        tree.iter().enumerate().all(|(i, node)| node.parent.is_none_or(|p| p < i)),
        "a parent comes before its children"
    );
    let mut seen: Vec<Vec<(usize, usize)>> =
        tree.iter().map(|node| node.rows.iter().enumerate().map(|(i, row)| (*row, i + 1)).collect()).collect();
    let mut depths = vec![0; tree.len()];
    for (index, node) in tree.iter().enumerate() {
        let mut above = node.parent;
        while let Some(parent) = above {
            depths[index] += 1;
            let all = tree[parent].rows.len();
            seen[parent].extend(node.rows.iter().map(|row| (*row, all)));
            above = tree[parent].parent;
        }
    }
    for depth in 0..=depths.iter().copied().max().unwrap_or(0) {
        let mut tasks = Vec::new();
        let level = tree.iter().zip(&seen).zip(&depths).filter(|((node, _), d)| **d == depth && !node.rows.is_empty());
        for ((node, seen), _) in level {
            for queries in seen.chunks(CHUNK) {
                tasks.extend((0..heads.keys).map(|head| Task { node, head, queries }));
            }
        }
        let results: Vec<Gradients> = tasks.par_iter().map(|task| task.gradients(heads, recorded)).collect();
        for (task, result) in tasks.iter().zip(&results) {
            task.add(heads, result, dqkv);
        }
    }
}

impl Task<'_> {
    fn gradients(&self, heads: Heads, recorded: Attended<'_>) -> Gradients {
        let Attended { qkv, out, log_sums, grad } = recorded;
        let (dim, group, width, length) = (heads.dim, heads.group(), heads.width(), self.node.rows.len());
        let rows = || self.queries.iter().map(|q| q.0);
        let queries = heads.gather(qkv, width, self.head, rows());
        let outs = heads.gather(out, heads.queries * dim, self.head, rows());
        let grads = heads.gather(grad, heads.queries * dim, self.head, rows());
        // Keys and values as columns, for scores and their gradients; keys as rows, for the gradients of queries.
        let matrix = |bf16| (GrowingMatrix::columns(dim, bf16), GrowingMatrix::columns(dim, bf16));
        let (mut keys, mut values) = matrix(heads.bf16);
        let mut rows_of_keys = GrowingMatrix::rows(dim, length, heads.bf16);
        for row in &self.node.rows {
            let row = &qkv[row * width..(row + 1) * width];
            let key = &row[heads.key(self.head)..][..dim];
            keys.push_column(key);
            rows_of_keys.push_row(key);
            values.push_column(&row[heads.value(self.head)..][..dim]);
        }
        let count = self.queries.len() * group;
        let product = |x: &Rows<'_>, m: &GrowingMatrix| {
            let mut product = vec![0.0; count * m.outer()];
            sum_of_products(&[Part::whole(0, &[(x, m.view())])], &mut product, m.outer(), false, false);
            product
        };
        let (queries, grads) = (Rows::new(&queries, dim), Rows::new(&grads, dim));
        let mut weights = product(&queries, &keys);
        let mut ds = product(&grads, &values);
        for (index, (weights, ds)) in weights.chunks_exact_mut(length).zip(ds.chunks_exact_mut(length)).enumerate() {
            let (row, visible) = self.queries[index / group];
            let log_sum = log_sums[row * heads.queries + self.head * group + index % group];
            let (seen, hidden) = weights.split_at_mut(visible);
            exp_minus(seen, heads.scale, log_sum);
            hidden.fill(0.0);
            let delta = dot(grads.row(index), &outs[index * dim..][..dim]);
            for (ds, p) in ds.iter_mut().zip(weights.iter()) {
                *ds = p * (*ds - delta) * heads.scale;
            }
        }
        let (mut keys, mut values) = (vec![0.0; length * dim], vec![0.0; length * dim]);
        let ds = Rows::new(&ds, length);
        add_outer_product(&ds, &queries, &mut keys);
        add_outer_product(&Rows::new(&weights, length), &grads, &mut values);
        let queries = product(&ds, &rows_of_keys);
        Gradients { queries, keys, values }
    }

    fn add(&self, heads: Heads, result: &Gradients, dqkv: &mut [f32]) {
        let (dim, width, block) = (heads.dim, heads.width(), heads.group() * heads.dim);
        let mut add = |row: usize, column: usize, values: &[f32]| {
            let to = &mut dqkv[row * width + column..][..values.len()];
            to.iter_mut().zip(values).for_each(|(to, v)| *to += v);
        };
        for ((row, _), values) in self.queries.iter().zip(result.queries.chunks_exact(block)) {
            add(*row, self.head * block, values);
        }
        for ((row, keys), values) in
            self.node.rows.iter().zip(result.keys.chunks_exact(dim)).zip(result.values.chunks_exact(dim))
        {
            add(*row, heads.key(self.head), keys);
            add(*row, heads.value(self.head), values);
        }
    }
}
