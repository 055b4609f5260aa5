//! The gated activation of the feed-forward block.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::exp::exp;
use super::storage::{values, with_values};
use super::tile::vectorised;

/// `silu(gate) · up`, element by element (arXiv 2002.05202), for two tensors of equal shape.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gate.contiguous()?.apply_op2(&up.contiguous()?, SwiGlu)
}

struct SwiGlu;

/// Elements that one task takes.
const BLOCK: usize = 1 << 14;

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

impl CustomOp2 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let (gate, up) = (values(s1, l1)?, values(s2, l2)?);
        if gate.len() != up.len() {
            candle_core::bail!("gate has shape {:?} and up has shape {:?}", l1.shape(), l2.shape());
        }
        let mut out = vec![0.0; gate.len()];
        let blocks = out.par_chunks_mut(BLOCK).zip(gate.par_chunks(BLOCK)).zip(up.par_chunks(BLOCK));
        blocks.for_each(|((out, gate), up)| forward(gate, up, out));
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }

    fn bwd(&self, gate: &Tensor, up: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let n = gate.elem_count();
        let (mut dgate, mut dup) = (vec![0.0; n], vec![0.0; n]);
        with_values(gate, |gate| {
            with_values(up, |up| {
                with_values(grad, |grad| {
                    dgate
                        .par_chunks_mut(BLOCK)
                        .zip(dup.par_chunks_mut(BLOCK))
                        .zip(gate.par_chunks(BLOCK).zip(up.par_chunks(BLOCK)).zip(grad.par_chunks(BLOCK)))
                        .for_each(|((dgate, dup), ((gate, up), grad))| backward(gate, up, grad, dgate, dup));
                })
            })
        })???;
        let shape = gate.shape();
        Ok((Some(Tensor::from_vec(dgate, shape, gate.device())?), Some(Tensor::from_vec(dup, shape, gate.device())?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::oracle::{check_gradients, tensor};

    #[test]
    fn the_activation_equals_its_formula_and_has_gradients() {
        let (gate, up) = ((tensor(&[4, 37], 1) * 4.0).unwrap(), tensor(&[4, 37], 2));
        let want = (gate.silu().unwrap() * &up).unwrap();
        let error = (swiglu(&gate, &up).unwrap() - want).unwrap().abs().unwrap().max_all().unwrap();
        assert!(error.to_scalar::<f32>().unwrap() < 1e-6);
        check_gradients(&[gate, up], |t| swiglu(&t[0], &t[1]).unwrap(), 3e-3);
    }
}
