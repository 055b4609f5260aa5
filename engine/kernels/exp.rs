//! Exponentials and softmax over slices, written so that the compiler vectorises them.

use super::tile::vectorised;

/// e^x by range reduction and a degree-6 polynomial; relative error below 3e-7 on -87..88, 0 below, clamped above.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    // ln 2 in two parts, so that x - n ln 2 keeps its low bits.
    const HIGH: f32 = 0.693_359_4;
    const LOW: f32 = -2.121_944_4e-4;
    let clamped = x.clamp(-87.3, 88.3);
    let n = (clamped * LOG2_E).round_ties_even();
    let f = clamped - n * HIGH - n * LOW;
    let series = 1.0 / 720.0;
    let series = series * f + 1.0 / 120.0;
    let series = series * f + 1.0 / 24.0;
    let series = series * f + 1.0 / 6.0;
    let series = series * f + 0.5;
    let series = series * f + 1.0;
    let series = series * f + 1.0;
    let power = f32::from_bits(((n as i32 + 127) as u32) << 23);
    if x < -87.3 { 0.0 } else { series * power }
}

const LANES: usize = 16;

/// The largest value.
#[inline(always)]
fn max_of(row: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (blocks, rest) = row.as_chunks::<LANES>();
    for block in blocks {
        for (lane, v) in lanes.iter_mut().zip(block) {
            *lane = if *v > *lane { *v } else { *lane };
        }
    }
    let mut max = f32::NEG_INFINITY;
    for v in lanes.iter().chain(rest) {
        max = if *v > max { *v } else { max };
    }
    max
}

#[inline(always)]
fn exp_shifted_body(row: &mut [f32], scale: f32) -> Partition {
    let max = max_of(row) * scale;
    let (mut sums, mut moments) = ([0f32; LANES], [0f32; LANES]);
    let (blocks, rest) = row.as_chunks_mut::<LANES>();
    for block in blocks {
        for ((sum, moment), v) in sums.iter_mut().zip(&mut moments).zip(block.iter_mut()) {
            // The floor keeps 0 · −∞ out of the moment; e^-100 adds nothing to it.
            let shifted = (*v * scale - max).max(-100.0);
            *v = exp(shifted);
            *sum += *v;
            *moment += *v * shifted;
        }
    }
    let (mut sum, mut moment) = (sums.iter().sum::<f32>(), moments.iter().sum::<f32>());
    for v in rest {
        let shifted = (*v * scale - max).max(-100.0);
        *v = exp(shifted);
        sum += *v;
        moment += *v * shifted;
    }
    Partition { max, sum, moment }
}

/// What a row of exponentials adds up to.
pub(super) struct Partition {
    /// The largest scaled logit m.
    pub(super) max: f32,
    /// Σ e^(s − m).
    pub(super) sum: f32,
    /// Σ (s − m) e^(s − m); the entropy is ln(sum) − moment / sum.
    pub(super) moment: f32,
}

vectorised! {
    /// Replaces a row of logits by `e^(scale * logit - max)`, for a positive scale.
    pub(super) fn exp_shifted(row: &mut [f32], scale: f32) -> Partition => exp_shifted_body
}

/// ln Σ e^(scale · logit); overwrites the row. For a positive scale.
pub fn log_sum_exp(row: &mut [f32], scale: f32) -> f32 {
    let found = exp_shifted(row, scale);
    found.max + found.sum.ln()
}

/// Replaces a row of logits by the probabilities of `scale · logit`. For a positive scale.
pub fn softmax(row: &mut [f32], scale: f32) {
    let inverse = 1.0 / exp_shifted(row, scale).sum;
    row.iter_mut().for_each(|p| *p *= inverse);
}

#[inline(always)]
fn dot_body(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let ((a_blocks, a_rest), (b_blocks, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a_blocks.iter().zip(b_blocks) {
        for (lane, (a, b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
            *lane += a * b;
        }
    }
    lanes.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}

vectorised! {
    /// The scalar product of two rows of equal length.
    pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 => dot_body
}

#[inline(always)]
fn add_scaled_body(to: &mut [f32], from: &[f32], scale: f32) {
    for (to, from) in to.iter_mut().zip(from) {
        *to += scale * from;
    }
}

vectorised! {
    /// `to += scale * from`.
    pub(super) fn add_scaled(to: &mut [f32], from: &[f32], scale: f32) => add_scaled_body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_to_the_exact_exponential_over_its_whole_range() {
        for i in -8700..8800 {
            let x = i as f32 / 100.0;
            let want = f64::from(x).exp();
            let error = ((f64::from(exp(x)) - want) / want).abs();
            assert!(error < 3e-7, "exp({x}) is off by {error:e}");
        }
        assert_eq!(exp(-200.0), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
    }

    #[test]
    fn exponentials_of_a_row_sum_to_its_partition() {
        let mut row: Vec<f32> = (0..37).map(|i| (i as f32 * 0.7).sin() * 5.0).collect();
        let want: f64 = row.iter().map(|v| (f64::from(*v) * 0.5).exp()).sum();
        let weights: Vec<f64> = row.iter().map(|v| (f64::from(*v) * 0.5).exp() / want).collect();
        let entropy: f64 = weights.iter().map(|p| -p * p.ln()).sum();
        let found = exp_shifted(&mut row, 0.5);
        assert!((f64::from(found.max) + f64::from(found.sum).ln() - want.ln()).abs() < 1e-5);
        assert!((f64::from(found.sum.ln() - found.moment / found.sum) - entropy).abs() < 1e-5);
    }
}
