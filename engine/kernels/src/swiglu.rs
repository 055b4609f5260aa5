//! The gated activation of the feed-forward block (SwiGLU, arXiv 2002.05202): `silu(gate) ∘ up`.

use rayon::prelude::*;

use super::isa::vectorised;
use super::softmax::exp;

#[inline(always)]
fn forward_body(gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
        *out = gate / (1.0 + exp(-gate)) * up;
    }
}

vectorised! { fn forward(gate: &[f32], up: &[f32], out: &mut [f32]) => forward_body }

#[inline(always)]
fn backward_body(gate: &[f32], up: &[f32], grad: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
    for ((((gate, up), grad), dgate), dup) in gate.iter().zip(up).zip(grad).zip(dgate).zip(dup) {
        let sigmoid = 1.0 / (1.0 + exp(-gate));
        *dgate = grad * up * sigmoid * (1.0 + gate * (1.0 - sigmoid));
        *dup = grad * gate * sigmoid;
    }
}

vectorised! { fn backward(gate: &[f32], up: &[f32], grad: &[f32], dgate: &mut [f32], dup: &mut [f32]) => backward_body }

/// Rows that one task takes at least.
const ROWS: usize = 8;

/// From rows of `width` gates and `width` ups to rows of `width` values.
pub fn swiglu(gate_up: &[f32], width: usize, out: &mut [f32]) {
    check(gate_up, width, out);
    out.par_chunks_exact_mut(width).zip(gate_up.par_chunks_exact(2 * width)).with_min_len(ROWS).for_each(
        |(out, gate_up)| {
            let (gate, up) = gate_up.split_at(width);
            forward(gate, up, out);
        },
    );
}

/// The gradient of gates and ups, given that of the result.
pub fn swiglu_backward(gate_up: &[f32], width: usize, grad: &[f32], dgate_up: &mut [f32]) {
    check(gate_up, width, grad);
    assert_eq!(gate_up.len(), dgate_up.len(), "gates and ups have other rows than their gradient");
    let rows = dgate_up.par_chunks_exact_mut(2 * width).zip(gate_up.par_chunks_exact(2 * width));
    rows.zip(grad.par_chunks_exact(width)).with_min_len(ROWS).for_each(|((dgate_up, gate_up), grad)| {
        let ((gate, up), (dgate, dup)) = (gate_up.split_at(width), dgate_up.split_at_mut(width));
        backward(gate, up, grad, dgate, dup);
    });
}

fn check(gate_up: &[f32], width: usize, values: &[f32]) {
    assert!(width > 0 && values.len().is_multiple_of(width), "{} values are not rows of {width}", values.len());
    assert_eq!(gate_up.len(), 2 * values.len(), "gates and ups have other rows than the values");
}

#[cfg(test)]
mod tests {
    use candle_core::Tensor;

    use super::*;
    use crate::oracle::{check_gradients, distance, tensor, values};

    #[test]
    fn the_activation_equals_its_formula_and_has_gradients() {
        let both = (tensor(&[4, 74], 1) * 4.0).unwrap();
        let (gate, up) = (both.narrow(1, 0, 37).unwrap(), both.narrow(1, 37, 37).unwrap());
        let want = values(&(gate.silu().unwrap() * up).unwrap());
        let forward = |t: &[Tensor]| {
            let mut out = vec![0.0; 4 * 37];
            swiglu(&values(&t[0]), 37, &mut out);
            out
        };
        assert!(distance(&forward(std::slice::from_ref(&both)), &want) < 1e-5);
        let backward = |t: &[Tensor], grad: &[f32]| {
            let mut dgate_up = vec![0.0; 4 * 74];
            swiglu_backward(&values(&t[0]), 37, grad, &mut dgate_up);
            vec![dgate_up]
        };
        check_gradients(&[both], forward, backward, 3e-3);
    }
}
