use super::*;
use crate::kernels::oracle::{check_gradients, tensor};

fn tree() -> Arc<PackedTree> {
    let mut tree = PackedTree::default();
    let root = tree.push(5, None);
    let left = tree.push(3, Some(root));
    let right = tree.push(2, Some(root));
    tree.push(4, Some(left));
    tree.push(1, Some(left));
    tree.push(6, Some(right));
    Arc::new(tree)
}

/// Plain attention of one unshared sequence, composed of candle's own operations.
fn plain(q: &Tensor, k: &Tensor, v: &Tensor, dim: usize) -> Tensor {
    let (rows, group) = (q.dim(0).unwrap(), q.dim(1).unwrap() / k.dim(1).unwrap());
    let mask: Vec<f32> = (0..rows * rows).map(|i| if i % rows > i / rows { f32::NEG_INFINITY } else { 0.0 }).collect();
    let mask = Tensor::from_vec(mask, (rows, rows), q.device()).unwrap();
    let heads: Vec<Tensor> = (0..q.dim(1).unwrap() / dim)
        .map(|h| {
            let take = |t: &Tensor, h: usize| t.narrow(1, h * dim, dim).unwrap().contiguous().unwrap();
            let (q, k, v) = (take(q, h), take(k, h / group), take(v, h / group));
            let scores = (q.matmul(&k.t().unwrap()).unwrap() / (dim as f64).sqrt()).unwrap();
            let scores = scores.broadcast_add(&mask).unwrap();
            let exp = scores.broadcast_sub(&scores.max_keepdim(1).unwrap()).unwrap().exp().unwrap();
            let p = exp.broadcast_div(&exp.sum_keepdim(1).unwrap()).unwrap();
            p.matmul(&v).unwrap()
        })
        .collect();
    Tensor::cat(&heads, 1).unwrap()
}

fn rows_of(t: &Tensor, tree: &PackedTree, segment: usize) -> Tensor {
    let parts: Vec<Tensor> = tree.path(segment).iter().map(|(s, l)| t.narrow(0, *s, *l).unwrap()).collect();
    Tensor::cat(&parts, 0).unwrap()
}

fn distance(a: &Tensor, b: &Tensor) -> f32 {
    (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap()
}

#[test]
fn every_path_of_a_tree_is_attended_as_if_it_stood_alone() {
    let (tree, dim) = (tree(), 8);
    let (q, k, v) = (tensor(&[21, 32], 1), tensor(&[21, 16], 2), tensor(&[21, 16], 3));
    let got = attend_tree(&q, &k, &v, dim, &tree).unwrap();
    for (index, segment) in tree.segments().iter().enumerate() {
        let want = plain(&rows_of(&q, &tree, index), &rows_of(&k, &tree, index), &rows_of(&v, &tree, index), dim);
        let want = want.narrow(0, want.dim(0).unwrap() - segment.len, segment.len).unwrap();
        assert!(distance(&got.narrow(0, segment.start, segment.len).unwrap(), &want) < 1e-5);
    }
    assert_eq!(tree.positions()[..12], [0, 1, 2, 3, 4, 5, 6, 7, 5, 6, 8, 9]);
}

#[test]
fn queries_keys_and_values_have_gradients() {
    let tree = tree();
    let inputs = [tensor(&[21, 16], 1), tensor(&[21, 8], 2), tensor(&[21, 8], 3)];
    check_gradients(&inputs, |t| attend_tree(&t[0], &t[1], &t[2], 4, &tree).unwrap(), 3e-3);
}

#[test]
fn cached_attention_equals_the_tree_in_one_pass_or_token_by_token() {
    let (tree, dim) = (tree(), 8);
    let (q, k, v) = (tensor(&[21, 32], 1), tensor(&[21, 16], 2), tensor(&[21, 16], 3));
    let want = attend_tree(&q, &k, &v, dim, &tree).unwrap();
    let take = |s: usize, l: usize| [&q, &k, &v].map(|t| t.narrow(0, s, l).unwrap());
    let pass = |sequences: &mut [Continuation], at: &[(usize, usize)]| {
        let parts: Vec<[Tensor; 3]> = at.iter().map(|(s, l)| take(*s, *l)).collect();
        let joined =
            [0, 1, 2].map(|i| Tensor::cat(&parts.iter().map(|p| p[i].clone()).collect::<Vec<_>>(), 0).unwrap());
        let rows: Vec<usize> = at.iter().map(|a| a.1).collect();
        let out = attend_cached(0, (&joined[0], &joined[1], &joined[2]), dim, sequences, &rows).unwrap();
        sequences.iter_mut().zip(&rows).for_each(|(s, r)| s.advance(*r));
        out
    };
    let mut root = [Continuation::new(vec![], 1)];
    assert!(distance(&pass(&mut root, &[(0, 5)]), &want.narrow(0, 0, 5).unwrap()) < 1e-5);
    let [root] = root;
    let root = Arc::new(root.into_cache(dim));
    let mut prompts = [Continuation::new(vec![root.clone()], 1), Continuation::new(vec![root.clone()], 1)];
    assert!(distance(&pass(&mut prompts, &[(5, 3), (8, 2)]), &want.narrow(0, 5, 5).unwrap()) < 1e-5);
    let [left, right] = prompts.map(|p| Arc::new(p.into_cache(dim)));
    let mut leaves = [
        Continuation::new(vec![root.clone(), left.clone()], 1),
        Continuation::new(vec![root.clone(), left], 1),
        Continuation::new(vec![root, right], 1),
    ];
    let first = pass(&mut leaves, &[(10, 1), (14, 1), (15, 1)]);
    for (i, row) in [10, 14, 15].into_iter().enumerate() {
        assert!(distance(&first.narrow(0, i, 1).unwrap(), &want.narrow(0, row, 1).unwrap()) < 1e-5);
    }
    assert_eq!(leaves[0].position(), 9);
    let rest = pass(&mut leaves[..1], &[(11, 3)]);
    assert!(distance(&rest, &want.narrow(0, 11, 3).unwrap()) < 1e-5);
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let (q, k) = (tensor(&[21, 15], 1), tensor(&[21, 8], 2));
    assert!(attend_tree(&q, &k, &k, 4, &tree()).unwrap_err().to_string().contains("heads of 4"));
    let (q, k) = (tensor(&[20, 16], 1), tensor(&[20, 8], 2));
    assert!(attend_tree(&q, &k, &k, 4, &tree()).unwrap_err().to_string().contains("21 rows"));
}
