use std::sync::Arc;

use candle_core::Tensor;

use super::*;
use crate::oracle::{check_gradients, distance, noise, tensor};

const HEADS: Heads = Heads { queries: 4, keys: 2, dim: 8, scale: 0.5, bf16: false };

/// (first row, rows, parent) of segments.
const SEGMENTS: [(usize, usize, Option<usize>); 6] =
    [(0, 5, None), (5, 3, Some(0)), (8, 2, Some(0)), (10, 4, Some(1)), (14, 1, Some(1)), (15, 6, Some(2))];

fn tree() -> Tree {
    SEGMENTS
        .iter()
        .map(|(first, len, parent)| Node { parent: *parent, rows: (*first..first + len).collect() })
        .collect()
}

/// Plain attention of one unshared sequence, composed of candle's own operations.
fn plain(qkv: &Tensor) -> Vec<f32> {
    let Heads { queries, keys, dim, scale, .. } = HEADS;
    let rows = qkv.dim(0).unwrap();
    let mask: Vec<f32> = (0..rows * rows).map(|i| if i % rows > i / rows { f32::NEG_INFINITY } else { 0.0 }).collect();
    let mask = Tensor::from_vec(mask, (rows, rows), qkv.device()).unwrap();
    let heads: Vec<Tensor> = (0..queries)
        .map(|h| {
            let take = |column: usize| qkv.narrow(1, column, dim).unwrap().contiguous().unwrap();
            let key = h / HEADS.group();
            let (q, k, v) = (take(h * dim), take((queries + key) * dim), take((queries + keys + key) * dim));
            let scores = (q.matmul(&k.t().unwrap()).unwrap() * f64::from(scale)).unwrap();
            let scores = scores.broadcast_add(&mask).unwrap();
            let exp = scores.broadcast_sub(&scores.max_keepdim(1).unwrap()).unwrap().exp().unwrap();
            let p = exp.broadcast_div(&exp.sum_keepdim(1).unwrap()).unwrap();
            p.matmul(&v).unwrap()
        })
        .collect();
    Tensor::cat(&heads, 1).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Passes of segments over a set of rows, each a list of (sequence, first row, rows).
struct Passes {
    qkv: Vec<f32>,
    out: Vec<f32>,
    log_sums: Vec<f32>,
}

impl Passes {
    fn new(qkv: Vec<f32>) -> Self {
        let rows = qkv.len() / HEADS.width();
        Self { qkv, out: vec![0.0; rows * 32], log_sums: vec![0.0; rows * 4] }
    }

    fn pass(&mut self, sequences: &mut [Continuation], at: &[(usize, usize)]) {
        let width = HEADS.width();
        let qkv: Vec<f32> =
            at.iter().flat_map(|(first, len)| &self.qkv[first * width..(first + len) * width]).copied().collect();
        let rows: Vec<usize> = at.iter().map(|a| a.1).collect();
        let total: usize = rows.iter().sum();
        let (mut out, mut sums) = (vec![0.0; total * 32], vec![0.0; total * 4]);
        let operands = AttentionRows { qkv: &qkv, out: &mut out, log_sums: &mut sums };
        attend(0, HEADS, operands, sequences, &rows);
        sequences.iter_mut().zip(&rows).for_each(|(s, r)| s.advance(*r));
        let mut from = 0;
        for (first, len) in at {
            self.out[first * 32..(first + len) * 32].copy_from_slice(&out[from * 32..(from + len) * 32]);
            self.log_sums[first * 4..(first + len) * 4].copy_from_slice(&sums[from * 4..(from + len) * 4]);
            from += len;
        }
    }

    /// All segments, level by level; with `steps` the leaves token by token where they can.
    fn all(qkv: Vec<f32>, steps: bool) -> Self {
        let mut passes = Self::new(qkv);
        let mut root = [Continuation::new(vec![], 1)];
        passes.pass(&mut root, &[(0, 5)]);
        let [root] = root.map(|r| Arc::new(r.into_cache()));
        let mut prompts = [Continuation::new(vec![root.clone()], 1), Continuation::new(vec![root.clone()], 1)];
        passes.pass(&mut prompts, &[(5, 3), (8, 2)]);
        let [left, right] = prompts.map(|p| Arc::new(p.into_cache()));
        let leaf = |cache: &Arc<Cache>| Continuation::new(vec![root.clone(), cache.clone()], 1);
        let mut leaves = [leaf(&left), leaf(&left), leaf(&right)];
        if steps {
            passes.pass(&mut leaves, &[(10, 1), (14, 1), (15, 1)]);
            assert_eq!(leaves[0].position(), 9);
            passes.pass(&mut leaves[..1], &[(11, 3)]);
            (16..21).for_each(|row| passes.pass(&mut leaves[2..], &[(row, 1)]));
        } else {
            passes.pass(&mut leaves, &[(10, 4), (14, 1), (15, 6)]);
        }
        passes
    }
}

#[test]
fn every_path_of_a_tree_is_attended_as_if_it_stood_alone() {
    let qkv = tensor(&[21, HEADS.width()], 1);
    let values: Vec<f32> = qkv.flatten_all().unwrap().to_vec1().unwrap();
    for steps in [false, true] {
        let got = Passes::all(values.clone(), steps);
        for (first, len, mut parent) in SEGMENTS {
            let mut path = vec![qkv.narrow(0, first, len).unwrap()];
            while let Some((first, len, above)) = parent.map(|p| SEGMENTS[p]) {
                path.insert(0, qkv.narrow(0, first, len).unwrap());
                parent = above;
            }
            let want = plain(&Tensor::cat(&path, 0).unwrap());
            assert!(distance(&got.out[first * 32..(first + len) * 32], &want[want.len() - len * 32..]) < 1e-5);
        }
    }
}

#[test]
fn a_long_sequence_in_one_pass_or_several_is_attended_as_by_plain_operations() {
    let rows = 300;
    let qkv = tensor(&[rows, HEADS.width()], 4);
    let want = plain(&qkv);
    let values: Vec<f32> = qkv.flatten_all().unwrap().to_vec1().unwrap();
    for parts in [vec![(0, rows)], vec![(0, 7), (7, 200), (207, 1), (208, 92)]] {
        let mut passes = Passes::new(values.clone());
        let mut sequence = [Continuation::new(vec![], 1)];
        parts.iter().for_each(|part| passes.pass(&mut sequence, &[*part]));
        assert!(distance(&passes.out, &want) < 1e-5, "{parts:?}");
    }
}

#[test]
fn rows_that_were_forgotten_leave_no_trace() {
    let qkv = tensor(&[60, HEADS.width()], 4);
    let want = plain(&qkv);
    let mut passes = Passes::new(qkv.flatten_all().unwrap().to_vec1().unwrap());
    let mut sequence = [Continuation::new(vec![], 1)];
    passes.pass(&mut sequence, &[(0, 7)]);
    for (draft, taken, next) in [(5, 2, 7), (40, 0, 9), (3, 0, 9)] {
        // Rows from the end stand for drafts; the first ones of them are the true ones.
        let wrong: Vec<(usize, usize)> = vec![(60 - draft, draft)];
        passes.pass(&mut sequence, &wrong);
        sequence[0].forget(draft);
        assert_eq!(sequence[0].position(), next);
        passes.pass(&mut sequence, &[(next, taken)]);
    }
    passes.pass(&mut sequence, &[(9, 51)]);
    assert!(distance(&passes.out, &want) < 1e-5);
}

#[test]
fn queries_keys_and_values_have_gradients() {
    let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let forward = |t: &[Tensor]| Passes::all(values(&t[0]), false).out;
    let backward = |t: &[Tensor], grad: &[f32]| {
        let passes = Passes::all(values(&t[0]), true);
        let mut dqkv = vec![0.0; passes.qkv.len()];
        let recorded = Attended { qkv: &passes.qkv, out: &passes.out, log_sums: &passes.log_sums, grad };
        attend_backward(HEADS, &tree(), recorded, &mut dqkv);
        vec![dqkv]
    };
    check_gradients(&[tensor(&[21, HEADS.width()], 1)], forward, backward, 3e-3);
}

#[test]
fn a_segment_seen_by_many_queries_collects_the_gradients_of_all() {
    // One token whose keys and values 700 completions see: more queries than one task takes.
    let many = 700;
    let width = HEADS.width();
    let qkv = noise((1 + many) * width, 3);
    let grad = noise((1 + many) * 32, 5);
    let mut tree: Tree = vec![Node { parent: None, rows: vec![0] }];
    tree.extend((1..=many).map(|row| Node { parent: Some(0), rows: vec![row] }));
    let gradient = |tree: &Tree, qkv: &[f32], grad: &[f32]| {
        let rows = qkv.len() / width;
        let mut passes = Passes::new(qkv.to_vec());
        let mut root = [Continuation::new(vec![], 1)];
        passes.pass(&mut root, &[(0, 1)]);
        let [root] = root.map(|r| Arc::new(r.into_cache()));
        let mut leaves: Vec<_> = (1..rows).map(|_| Continuation::new(vec![root.clone()], 1)).collect();
        passes.pass(&mut leaves, &(1..rows).map(|row| (row, 1)).collect::<Vec<_>>());
        let mut dqkv = vec![0.0; qkv.len()];
        let recorded = Attended { qkv: &passes.qkv, out: &passes.out, log_sums: &passes.log_sums, grad };
        attend_backward(HEADS, tree, recorded, &mut dqkv);
        dqkv
    };
    let together = gradient(&tree, &qkv, &grad);
    let mut sum = vec![0.0; width];
    for row in 1..=many {
        let two = |v: &[f32], w: usize| [&vec![0.0; w], &v[row * w..(row + 1) * w]].concat();
        let (mut pair, grad) = (two(&qkv, width), two(&grad, 32));
        pair[..width].copy_from_slice(&qkv[..width]);
        let alone = gradient(&tree[..2].to_vec(), &pair, &grad);
        sum.iter_mut().zip(&alone).for_each(|(s, d)| *s += d);
        assert!(distance(&alone[width..], &together[row * width..(row + 1) * width]) < 1e-5);
    }
    // The shared token's own gradient, which no other row has part in, is that of its value alone.
    let mut own = vec![0.0; width];
    let alone = gradient(&tree[..1].to_vec(), &qkv[..width], &grad[..32]);
    own.copy_from_slice(&alone);
    sum.iter_mut().zip(&own).for_each(|(s, d)| *s += d);
    assert!(distance(&sum, &together[..width]) < 2e-3, "{}", distance(&sum, &together[..width]));
}
