//! Exponentials, softmax and sampling over rows of logits, written so that the compiler vectorises them.

use super::isa::vectorised;

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

/// Adds e^(scale · logit − max) to the sums; gives it.
#[inline(always)]
fn accumulate(logit: f32, scale: f32, max: f32, sum: &mut f32, moment: &mut f32) -> f32 {
    // The lower bound keeps 0 · −∞ out of the moment; e^-100 adds nothing to it.
    let shifted = (logit * scale - max).max(-100.0);
    let e = exp(shifted);
    *sum += e;
    *moment += e * shifted;
    e
}

#[inline(always)]
fn exp_shifted_body(row: &mut [f32], scale: f32) -> Partition {
    let max = max_of(row) * scale;
    let (mut sums, mut moments) = ([0f32; LANES], [0f32; LANES]);
    let (blocks, rest) = row.as_chunks_mut::<LANES>();
    for block in blocks {
        for ((sum, moment), v) in sums.iter_mut().zip(&mut moments).zip(block.iter_mut()) {
            *v = accumulate(*v, scale, max, sum, moment);
        }
    }
    let (mut sum, mut moment) = (sums.iter().sum::<f32>(), moments.iter().sum::<f32>());
    for v in rest {
        *v = accumulate(*v, scale, max, &mut sum, &mut moment);
    }
    Partition { max, sum, moment }
}

/// The sums of a row of exponentials.
#[derive(Debug, Clone, Copy)]
pub struct Partition {
    /// The largest scaled logit m.
    pub max: f32,
    /// Σ e^(s − m).
    pub sum: f32,
    /// Σ (s − m) e^(s − m); the entropy is ln(sum) − moment / sum.
    pub moment: f32,
}

vectorised! {
    /// Replaces a row of logits by `e^(scale * logit - max)`, for a positive scale.
    pub(super) fn exp_shifted(row: &mut [f32], scale: f32) -> Partition => exp_shifted_body
}

impl Partition {
    /// ln Σ e^s
    pub fn log_sum(&self) -> f32 {
        self.max + self.sum.ln()
    }

    /// The entropy of the distribution, in nats.
    pub fn entropy(&self) -> f32 {
        self.sum.ln() - self.moment / self.sum
    }
}

/// Replaces a row of logits by the probabilities of `scale · logit`. For a positive scale.
pub fn softmax(row: &mut [f32], scale: f32) {
    let inverse = 1.0 / exp_shifted(row, scale).sum;
    row.iter_mut().for_each(|p| *p *= inverse);
}

/// The logits of some tokens.
pub fn gather(row: &[f32], tokens: &[u32]) -> Vec<f32> {
    tokens.iter().map(|token| row[*token as usize]).collect()
}

/// The sums of the exponentials of a row of logits, for a positive scale.
pub fn partition(row: &[f32], scale: f32) -> Partition {
    Distribution::new(row, scale).partition
}

/// Logits of a segment: sampling skips whole segments by their sums.
const SEGMENT: usize = 256;

/// A row's partition, and the sums of e^(scale · logit − max) over its segments, for sampling an index.
#[derive(Debug)]
pub struct Distribution<'a> {
    row: &'a [f32],
    scale: f32,
    sums: Vec<f32>,
    /// The sums over the whole row.
    pub partition: Partition,
}

impl<'a> Distribution<'a> {
    /// Of a row of logits, for a positive scale. The probabilities are not stored.
    pub fn new(row: &'a [f32], scale: f32) -> Self {
        let mut sums = Vec::with_capacity(row.len().div_ceil(SEGMENT));
        let max = maximum(row) * scale;
        let mut whole = Partition { max, sum: 0.0, moment: 0.0 };
        for segment in row.chunks(SEGMENT) {
            let (sum, moment) = sum_exp(segment, scale, max);
            whole.sum += sum;
            whole.moment += moment;
            sums.push(sum);
        }
        Self { row, scale, sums, partition: whole }
    }

    /// Samples: the index at which the running sum of probabilities passes `u`, which lies in 0..1. The logits must be
    /// finite or −∞, and one of them finite.
    pub fn sample(&self, u: f64) -> usize {
        let mut left = u * self.sums.iter().map(|s| f64::from(*s)).sum::<f64>();
        // Where rounding leaves a gap at the end, the last segment that has any weight is taken.
        let last = self.sums.iter().rposition(|s| *s > 0.0).unwrap_or(0);
        let mut segment = 0;
        while segment < last && left >= f64::from(self.sums[segment]) {
            left -= f64::from(self.sums[segment]);
            segment += 1;
        }
        let from = segment * SEGMENT;
        let mut chosen = from;
        for (index, v) in self.row.iter().enumerate().skip(from).take(SEGMENT) {
            let p = f64::from(exp(*v * self.scale - self.partition.max));
            if p > 0.0 {
                chosen = index;
                left -= p;
                if left < 0.0 {
                    break;
                }
            }
        }
        chosen
    }
}

vectorised! {
    /// The largest value.
    fn maximum(row: &[f32]) -> f32 => max_of
}

#[inline(always)]
fn sum_exp_body(row: &[f32], scale: f32, max: f32) -> (f32, f32) {
    let (mut sums, mut moments) = ([0f32; LANES], [0f32; LANES]);
    let (blocks, rest) = row.as_chunks::<LANES>();
    for block in blocks {
        for ((sum, moment), v) in sums.iter_mut().zip(&mut moments).zip(block) {
            accumulate(*v, scale, max, sum, moment);
        }
    }
    let (mut sum, mut moment) = (sums.iter().sum::<f32>(), moments.iter().sum::<f32>());
    for v in rest {
        accumulate(*v, scale, max, &mut sum, &mut moment);
    }
    (sum, moment)
}

vectorised! {
    /// Σ e^s and Σ s e^s with s = scale · logit − max.
    fn sum_exp(row: &[f32], scale: f32, max: f32) -> (f32, f32) => sum_exp_body
}

#[inline(always)]
fn exp_minus_body(row: &mut [f32], scale: f32, minus: f32) {
    for v in row {
        *v = exp(*v * scale - minus);
    }
}

#[inline(always)]
fn exp_minus_into_body(from: &[f32], to: &mut [f32], scale: f32, minus: f32) {
    assert_eq!(from.len(), to.len(), "exponentials of a row go to one of another length");
    for (to, v) in to.iter_mut().zip(from) {
        *to = exp(*v * scale - minus);
    }
}

vectorised! {
    /// `to = exp(scale · from − minus)`
    pub(super) fn exp_minus_into(from: &[f32], to: &mut [f32], scale: f32, minus: f32) => exp_minus_into_body
}

vectorised! {
    /// `row = exp(scale · row − minus)`
    pub(super) fn exp_minus(row: &mut [f32], scale: f32, minus: f32) => exp_minus_body
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
