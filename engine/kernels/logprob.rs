//! The head: hidden states to log-probabilities of given tokens, without ever holding all logits.

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::exp::exp_shifted;
use super::linear::FrozenLinear;
use super::storage::{values, with_values};

/// What [`log_probabilities`] computes.
#[derive(Debug, Clone, Copy)]
pub struct HeadOptions {
    /// Logits are divided by this; must be positive.
    pub temperature: f32,
    /// Whether a gradient of the entropy is wanted; costs one more product with the vocabulary.
    pub entropy_gradient: bool,
}

/// For hidden states (rows, width) and a token per row: a tensor (rows, 2) of the token's log-probability and the
/// entropy of the distribution, both at the temperature given.
///
/// Works through chunks of rows, so that no more than a chunk of logits exists. Where `hidden` is part of a graph, the
/// derivatives with respect to it are formed in the same pass: with p = softmax(z / T) and H its entropy,
/// d log p_t / dh = (W_t − Σ p_j W_j) / T and dH / dh = −Σ p_j (log p_j + H) W_j / T.
pub fn log_probabilities(head: &FrozenLinear, hidden: &Tensor, tokens: &[u32], options: HeadOptions) -> Result<Tensor> {
    let (rows, _) = hidden.dims2()?;
    if rows != tokens.len() {
        candle_core::bail!("{rows} hidden states but {} tokens", tokens.len());
    }
    if let Some(token) = tokens.iter().find(|t| **t as usize >= head.output()) {
        candle_core::bail!("token {token} lies outside the vocabulary of {}", head.output());
    }
    let differentiable = hidden.track_op();
    let op = Head { head: head.clone(), tokens: tokens.to_vec(), options, differentiable, saved: OnceLock::new() };
    hidden.contiguous()?.apply_op1(op)
}

struct Head {
    head: FrozenLinear,
    tokens: Vec<u32>,
    options: HeadOptions,
    differentiable: bool,
    /// Derivatives of the log-probability and of the entropy with respect to each hidden state.
    saved: OnceLock<(Vec<f32>, Option<Vec<f32>>)>,
}

/// Rows whose logits exist at once.
const CHUNK: usize = 96;

impl CustomOp1 for Head {
    fn name(&self) -> &'static str {
        "log-probabilities"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let hidden = values(storage, layout)?;
        let (width, vocabulary) = (self.head.input(), self.head.output());
        let scale = 1.0 / self.options.temperature;
        let mut out = vec![0.0; self.tokens.len() * 2];
        let grad_len = if self.differentiable { hidden.len() } else { 0 };
        let mut dlogp = vec![0.0; grad_len];
        let mut dentropy = vec![0.0; if self.options.entropy_gradient { grad_len } else { 0 }];
        let mut logits = vec![0.0; CHUNK.min(self.tokens.len()) * vocabulary];
        for (chunk, tokens) in self.tokens.chunks(CHUNK).enumerate() {
            let at = chunk * CHUNK * width..(chunk * CHUNK + tokens.len()) * width;
            let logits = &mut logits[..tokens.len() * vocabulary];
            self.head.forward_matrix().multiply(&hidden[at.clone()], logits);
            let results = &mut out[chunk * CHUNK * 2..][..tokens.len() * 2];
            // Each row of logits becomes probabilities in place.
            logits.par_chunks_mut(vocabulary).zip(results.par_chunks_mut(2)).zip(tokens).for_each(
                |((row, result), token)| {
                    let logit = row[*token as usize] * scale;
                    let found = exp_shifted(row, scale);
                    result[0] = logit - found.max - found.sum.ln();
                    result[1] = found.sum.ln() - found.moment / found.sum;
                    if self.differentiable {
                        let inverse = 1.0 / found.sum;
                        row.iter_mut().for_each(|p| *p *= inverse);
                    }
                },
            );
            if !self.differentiable {
                continue;
            }
            let back = self.head.backward_matrix();
            // One-hot minus p, times W: exact, with the token's own row of W taken in the same product.
            if self.options.entropy_gradient {
                let mut weights = logits.to_vec();
                weights.par_chunks_mut(vocabulary).zip(results.par_chunks(2)).for_each(|(row, result)| {
                    for p in row {
                        *p = if *p > 1e-12 { -*p * (p.ln() + result[1]) * scale } else { 0.0 };
                    }
                });
                back.multiply(&weights, &mut dentropy[at.clone()]);
            }
            logits.par_chunks_mut(vocabulary).zip(tokens).for_each(|(row, token)| {
                for p in row.iter_mut() {
                    *p *= -scale;
                }
                row[*token as usize] += scale;
            });
            back.multiply(logits, &mut dlogp[at]);
        }
        if self.differentiable {
            let _ = self.saved.set((dlogp, self.options.entropy_gradient.then_some(dentropy)));
        }
        Ok((CpuStorage::F32(out), (self.tokens.len(), 2).into()))
    }

    fn bwd(&self, hidden: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let Some((dlogp, dentropy)) = self.saved.get() else {
            candle_core::bail!("the head's derivatives were not formed in the forward pass");
        };
        let width = self.head.input();
        let dx = with_values(grad, |grad| {
            let mut dx = dlogp.clone();
            dx.par_chunks_mut(width).zip(grad.par_chunks(2)).enumerate().for_each(|(r, (row, g))| {
                row.iter_mut().for_each(|v| *v *= g[0]);
                if let Some(dentropy) = dentropy {
                    super::exp::add_scaled(row, &dentropy[r * width..(r + 1) * width], g[1]);
                }
            });
            dx
        })?;
        Ok(Some(Tensor::from_vec(dx, hidden.shape(), hidden.device())?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Precision;
    use crate::kernels::oracle::{check_gradients, tensor};

    fn composed(w: &Tensor, hidden: &Tensor, tokens: &[u32], temperature: f64) -> Tensor {
        let logits = (hidden.matmul(&w.t().unwrap()).unwrap() / temperature).unwrap();
        let max = logits.max_keepdim(1).unwrap();
        let sum = logits.broadcast_sub(&max).unwrap().exp().unwrap().sum_keepdim(1).unwrap().log().unwrap();
        let log = logits.broadcast_sub(&(max + sum).unwrap()).unwrap();
        let index = Tensor::new(tokens, hidden.device()).unwrap().unsqueeze(1).unwrap();
        let entropy = (log.exp().unwrap() * &log).unwrap().sum_keepdim(1).unwrap().neg().unwrap();
        Tensor::cat(&[log.gather(&index, 1).unwrap(), entropy], 1).unwrap()
    }

    #[test]
    fn log_probabilities_and_entropies_equal_the_composition_over_several_chunks() {
        let (w, hidden) = (tensor(&[301, 16], 1), (tensor(&[200, 16], 2) * 3.0).unwrap());
        let tokens: Vec<u32> = (0..200).map(|i| (i * 7) % 301).collect();
        let head = FrozenLinear::new(&w, None, Precision::F32).unwrap();
        let options = HeadOptions { temperature: 0.7, entropy_gradient: false };
        let got = log_probabilities(&head, &hidden, &tokens, options).unwrap();
        let error = (got - composed(&w, &hidden, &tokens, 0.7)).unwrap().abs().unwrap().max_all().unwrap();
        assert!(error.to_scalar::<f32>().unwrap() < 2e-5);
    }

    #[test]
    fn both_outputs_have_gradients() {
        let head = FrozenLinear::new(&tensor(&[50, 8], 1), None, Precision::F32).unwrap();
        let tokens = [3, 49, 0, 17];
        let options = HeadOptions { temperature: 1.3, entropy_gradient: true };
        check_gradients(&[tensor(&[4, 8], 2)], |t| log_probabilities(&head, &t[0], &tokens, options).unwrap(), 3e-3);
    }

    #[test]
    fn a_token_outside_the_vocabulary_is_refused() {
        let head = FrozenLinear::new(&tensor(&[50, 8], 1), None, Precision::F32).unwrap();
        let options = HeadOptions { temperature: 1.0, entropy_gradient: false };
        let error = log_probabilities(&head, &tensor(&[1, 8], 2), &[50], options).unwrap_err();
        assert!(error.to_string().contains("outside the vocabulary of 50"));
    }
}
