//! Layer normalisation (arXiv 1607.06450): `y = (x − mean(x)) / sqrt(var(x) + eps) · w + b`.

use rayon::prelude::*;

use super::isa::vectorised;

const LANES: usize = 16;

/// Values that one task takes at least.
const TASK: usize = 1 << 14;

/// A frozen layer normalisation, with or without a bias. It has no backward pass: encoders are not trained here.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
    eps: f32,
}

impl LayerNorm {
    /// From a weight, and a bias of the same length.
    pub fn new(weight: Vec<f32>, bias: Option<Vec<f32>>, eps: f64) -> Self {
        assert!(!weight.is_empty(), "a norm over no values");
        assert!(
            bias.as_ref().is_none_or(|bias| bias.len() == weight.len()),
            "a bias of another length than the weight"
        );
        Self { weight, bias, eps: eps as f32 }
    }

    /// Normalises rows in place.
    pub fn apply(&self, rows: &mut [f32]) {
        let width = self.weight.len();
        assert!(rows.len().is_multiple_of(width), "{} values are not rows of {width}", rows.len());
        let one = |row: &mut [f32]| normalise(row, &self.weight, self.bias.as_deref(), self.eps);
        if rows.len() < 2 * TASK {
            rows.chunks_exact_mut(width).for_each(one);
        } else {
            rows.par_chunks_exact_mut(width).with_min_len(TASK.div_ceil(width)).for_each(one);
        }
    }
}

/// The sum of a function of the values, in lanes that the compiler keeps in registers.
#[inline(always)]
fn sum_of(row: &[f32], of: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let (blocks, rest) = row.as_chunks::<LANES>();
    for block in blocks {
        lanes.iter_mut().zip(block).for_each(|(lane, value)| *lane += of(*value));
    }
    lanes.iter().sum::<f32>() + rest.iter().map(|value| of(*value)).sum::<f32>()
}

#[inline(always)]
fn normalise_body(row: &mut [f32], weight: &[f32], bias: Option<&[f32]>, eps: f32) {
    let count = row.len() as f32;
    let mean = sum_of(row, |value| value) / count;
    let variance = sum_of(row, |value| (value - mean) * (value - mean)) / count;
    let inverse = 1.0 / (variance + eps).sqrt();
    match bias {
        Some(bias) => {
            for ((value, weight), bias) in row.iter_mut().zip(weight).zip(bias) {
                *value = (*value - mean) * inverse * weight + bias;
            }
        }
        None => row.iter_mut().zip(weight).for_each(|(value, weight)| *value = (*value - mean) * inverse * weight),
    }
}

vectorised! {
    fn normalise(row: &mut [f32], weight: &[f32], bias: Option<&[f32]>, eps: f32) => normalise_body
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::{distance, noise, tensor, values};

    #[test]
    fn rows_are_normalised_as_a_composition_of_plain_operations() {
        let (width, rows) = (37, 900);
        let (weight, bias) = (noise(width, 1), noise(width, 2));
        let x = (tensor(&[rows, width], 3) * 3.0).unwrap();
        let x = (x + 5.0).unwrap();
        let centred = x.broadcast_sub(&x.mean_keepdim(1).unwrap()).unwrap();
        let deviation = (centred.sqr().unwrap().mean_keepdim(1).unwrap() + 1e-5).unwrap().sqrt().unwrap();
        let plain = values(&centred.broadcast_div(&deviation).unwrap());
        for bias in [None, Some(bias)] {
            let mut ours = values(&x);
            LayerNorm::new(weight.clone(), bias.clone(), 1e-5).apply(&mut ours);
            let add = |at: usize| bias.as_ref().map_or(0.0, |bias| bias[at % width]);
            let want: Vec<f32> = plain.iter().enumerate().map(|(at, x)| x * weight[at % width] + add(at)).collect();
            assert!(distance(&ours, &want) < 2e-5, "{}", distance(&ours, &want));
        }
    }
}
