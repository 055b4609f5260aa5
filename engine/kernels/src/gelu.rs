//! The activations of encoders' feed-forward blocks: GELU (arXiv 1606.08415) and what stands in its place.

use rayon::prelude::*;

use super::isa::vectorised;
use super::softmax::exp;

/// Values that one task takes at least.
const TASK: usize = 1 << 14;

/// An activation, value by value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x Φ(x)`, with the normal distribution's Φ.
    Gelu,
    /// The same by its approximation with tanh.
    GeluTanh,
    /// `max(x, 0)`
    Relu,
}

impl Activation {
    /// Applies it in place.
    pub fn apply(self, values: &mut [f32]) {
        values.par_chunks_mut(TASK).for_each(|part| match self {
            Self::Gelu => gelu_all(part),
            Self::GeluTanh => gelu_tanh_all(part),
            Self::Relu => part.iter_mut().for_each(|value| *value = value.max(0.0)),
        });
    }
}

/// The gated activation of ModernBERT (GeGLU, arXiv 2002.05202): from rows of `width` values and `width` gates to rows of
/// `gelu(value) · gate`.
pub fn geglu(pairs: &[f32], width: usize, out: &mut [f32]) {
    assert!(width > 0 && out.len().is_multiple_of(width), "{} values are not rows of {width}", out.len());
    assert_eq!(pairs.len(), 2 * out.len(), "values and gates have other rows than the result");
    let rows = out.par_chunks_exact_mut(width).zip(pairs.par_chunks_exact(2 * width));
    rows.with_min_len(TASK.div_ceil(width)).for_each(|(out, pair)| {
        let (values, gates) = pair.split_at(width);
        gated(values, gates, out);
    });
}

/// erf by Abramowitz and Stegun 7.1.26: the error is below 2e-7 everywhere.
#[inline(always)]
fn erf(x: f32) -> f32 {
    let size = x.abs();
    let t = 1.0 / (1.0 + 0.327_591_1 * size);
    let series = 1.061_405_4 * t - 1.453_152;
    let series = series * t + 1.421_413_7;
    let series = series * t - 0.284_496_74;
    let series = series * t + 0.254_829_6;
    (1.0 - series * t * exp(-size * size)).copysign(x)
}

#[inline(always)]
fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

#[inline(always)]
fn gelu_tanh(x: f32) -> f32 {
    // √(2/π)
    let inner = 0.797_884_6 * (x + 0.044_715 * x * x * x);
    // tanh(y) = 1 − 2 / (1 + e^2y), and half of 1 + tanh(y) is left.
    x * (1.0 - 1.0 / (1.0 + exp(2.0 * inner)))
}

#[inline(always)]
fn gelu_body(values: &mut [f32]) {
    values.iter_mut().for_each(|value| *value = gelu(*value));
}

#[inline(always)]
fn gelu_tanh_body(values: &mut [f32]) {
    values.iter_mut().for_each(|value| *value = gelu_tanh(*value));
}

#[inline(always)]
fn gated_body(values: &[f32], gates: &[f32], out: &mut [f32]) {
    for ((out, value), gate) in out.iter_mut().zip(values).zip(gates) {
        *out = gelu(*value) * gate;
    }
}

vectorised! { fn gelu_all(values: &mut [f32]) => gelu_body }
vectorised! { fn gelu_tanh_all(values: &mut [f32]) => gelu_tanh_body }
vectorised! { fn gated(values: &[f32], gates: &[f32], out: &mut [f32]) => gated_body }

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;
    use crate::oracle::{distance, noise, values};

    /// From far below to far above 0, and what stands at the ends.
    fn inputs() -> Vec<f32> {
        let mut inputs: Vec<f32> = (-9000..9000).map(|n| n as f32 / 1000.0).collect();
        inputs.extend([-1e30, -90.0, -0.0, 0.0, 1e-30, 90.0]);
        inputs
    }

    #[test]
    fn activations_are_those_of_an_implementation_that_is_not_ours() {
        let x = Tensor::new(inputs().as_slice(), &Device::Cpu).unwrap();
        for (activation, plain) in [
            (Activation::Gelu, x.gelu_erf().unwrap()),
            (Activation::GeluTanh, x.gelu().unwrap()),
            (Activation::Relu, x.relu().unwrap()),
        ] {
            let mut ours = inputs();
            activation.apply(&mut ours);
            let gap = distance(&ours, &values(&plain));
            assert!(gap < 2e-6, "{activation:?}: {gap}");
        }
    }

    #[test]
    fn a_gated_activation_is_the_activation_times_its_gate() {
        let (width, pairs) = (21, noise(21 * 2 * 50, 4));
        let mut out = vec![0.0; 21 * 50];
        geglu(&pairs, width, &mut out);
        let want: Vec<f32> = pairs
            .chunks(2 * width)
            .flat_map(|row| {
                let mut values = row[..width].to_vec();
                Activation::Gelu.apply(&mut values);
                values.into_iter().zip(row[width..].to_vec()).map(|(value, gate)| value * gate).collect::<Vec<_>>()
            })
            .collect();
        assert_eq!(out, want);
    }
}
