//! The output head: hidden states to log-probabilities of given tokens, without ever holding all logits; and its backward
//! pass, from recomputed logits or from distributions that the sampler kept.

use std::sync::{Arc, OnceLock};

use rayon::prelude::*;

use super::bf16::to_bf16_pairs;
use super::isa::vectorised;
use super::linear::FrozenLinear;
use super::product::{Part, sum_of_products};
use super::rows::Rows;
use super::softmax::{exp, exp_minus, exp_minus_into, gather, partition};
use super::vector::add_scaled;

/// A token's log-probability, and the entropy of the distribution that it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct TokenStatistics {
    /// The logarithm of its probability, at the temperature given.
    pub log_probability: f32,
    /// The entropy of the whole distribution, in nats.
    pub entropy: f32,
}

/// Rows whose logits exist at once.
const CHUNK: usize = 96;

/// The tokens that hidden states predict, one a row.
#[derive(Debug, Clone, Copy)]
pub struct Targets<'a> {
    tokens: &'a [u32],
    /// Empty where all tokens of the vocabulary are allowed everywhere.
    allowed: &'a [Option<Arc<[u32]>>],
}

impl<'a> Targets<'a> {
    /// Tokens of which each was one of all in the vocabulary.
    pub fn free(tokens: &'a [u32]) -> Self {
        Self { tokens, allowed: &[] }
    }

    /// Tokens of which each was one of those given for it, in rising order; one of all where none are given.
    pub fn within(tokens: &'a [u32], allowed: &'a [Option<Arc<[u32]>>]) -> Self {
        assert!(allowed.is_empty() || allowed.len() == tokens.len(), "a mask a token, or none at all");
        Self { tokens, allowed }
    }

    fn allowed(&self, row: usize) -> Option<&'a [u32]> {
        self.allowed.get(row)?.as_deref()
    }
}

/// For hidden states (rows, width) and a token each: its log-probability and the entropy of its distribution, both
/// with the logits divided by `temperature`, over the tokens that are allowed.
pub fn log_probabilities(
    head: &FrozenLinear,
    hidden: &[f32],
    targets: Targets<'_>,
    temperature: f32,
) -> Vec<TokenStatistics> {
    chunks(head, hidden, targets, temperature, &mut |_, _, _| {})
}

/// Adds the gradient of `Σ weights.0 · log p + weights.1 · entropy` with respect to the hidden states to `dhidden`,
/// recomputing the logits. Gives the statistics as well.
///
/// With p = softmax(z / T) and H its entropy, d log p_t / dz = (1_t − p) / T and dH / dz_j = −p_j (log p_j + H) / T: one
/// row of gradients for both, and one product with the head's weight. A token that is not allowed has p = 0 and no
/// gradient.
pub fn log_probabilities_backward(
    head: &FrozenLinear,
    hidden: &[f32],
    targets: Targets<'_>,
    temperature: f32,
    weights: &[(f32, f32)],
    dhidden: &mut [f32],
) -> Vec<TokenStatistics> {
    let (width, scale) = (head.input(), 1.0 / temperature);
    assert_eq!(weights.len(), targets.tokens.len(), "a weight a token");
    assert_eq!(dhidden.len(), hidden.len(), "a gradient a hidden state");
    chunks(head, hidden, targets, temperature, &mut |first, logits, found| {
        let vocabulary = head.output();
        let rows = logits.par_chunks_exact_mut(vocabulary).zip(found).enumerate();
        rows.for_each(|(index, (row, (log_sum, entropy)))| {
            let (c, e) = weights[first + index];
            match targets.allowed(first + index) {
                None => logit_gradients(row, scale, *log_sum, c + e * entropy, e),
                Some(allowed) => {
                    let mut own = gather(row, allowed);
                    logit_gradients(&mut own, scale, *log_sum, c + e * entropy, e);
                    row.fill(0.0);
                    allowed.iter().zip(own).for_each(|(token, gradient)| row[*token as usize] = gradient);
                }
            }
            row[targets.tokens[first + index] as usize] += c * scale;
        });
        let rows = Rows::new(logits, vocabulary);
        let out = &mut dhidden[first * width..(first + found.len()) * width];
        sum_of_products(&[Part::whole(0, &[(&rows, head.backward_matrix().view())])], out, width, true, true);
    })
}

/// A distribution that was sampled from, in bf16 pairs as products read them: two bytes a token of the vocabulary. With
/// it the backward pass through the head is one product; recomputing the logits would be a second one.
#[derive(Debug, Clone)]
pub struct SampledDistribution(Arc<Vec<u32>>);

impl SampledDistribution {
    /// `exp(scale · logit − log_sum)` of a row of logits.
    pub fn new(logits: &[f32], scale: f32, log_sum: f32) -> Self {
        let mut pairs = vec![0; logits.len().div_ceil(2)];
        let mut probabilities = [0.0; 2 * SEGMENT];
        for (pairs, logits) in pairs.chunks_mut(SEGMENT).zip(logits.chunks(2 * SEGMENT)) {
            let probabilities = &mut probabilities[..logits.len()];
            exp_minus_into(logits, probabilities, scale, log_sum);
            to_bf16_pairs(probabilities, pairs);
        }
        Self(Arc::new(pairs))
    }

    /// The same over the tokens that were allowed; the others have a probability of 0.
    pub fn within(allowed: &[u32], logits: &[f32], scale: f32, log_sum: f32) -> Self {
        let mut pairs = vec![0; logits.len().div_ceil(2)];
        let mut probabilities = gather(logits, allowed);
        exp_minus(&mut probabilities, scale, log_sum);
        for (token, p) in allowed.iter().zip(probabilities) {
            pairs[*token as usize / 2] |= u32::from(half::bf16::from_f32(p).to_bits()) << (16 * (token % 2));
        }
        Self(Arc::new(pairs))
    }
}

/// Pairs that are converted while they are in the nearest cache.
const SEGMENT: usize = 512;

/// A token that was sampled, and what it weighs in `Σ weights.0 · log p + weights.1 · entropy`.
#[derive(Debug, Clone, Copy)]
pub struct WeightedToken<'a> {
    /// What it was sampled from.
    pub distribution: &'a SampledDistribution,
    /// The token.
    pub token: u32,
    /// Its statistics when it was sampled.
    pub statistics: TokenStatistics,
    /// The weights of its log-probability and of the entropy.
    pub weights: (f32, f32),
}

impl WeightedToken<'_> {
    /// The gradients of −T times the sum with respect to the logits, over [`factor`](Self::factor): p − 1_t where the
    /// entropy has no weight, so that the distribution is taken as it is.
    fn logit_gradients(&self, pairs: &mut [u32]) {
        assert_eq!(pairs.len(), self.distribution.0.len(), "the distribution is over another vocabulary than the head");
        let ((c, e), TokenStatistics { log_probability, entropy }) = (self.weights, self.statistics);
        let own = if e == 0.0 {
            pairs.copy_from_slice(&self.distribution.0);
            log_probability.exp() - 1.0
        } else {
            let (both, logs) = (c + e * entropy, logarithms());
            let gradient = |half: u32| {
                let p = f32::from_bits(half << 16);
                // What the table does not hold is no probability; its logarithm shows that.
                p * (both + e * logs.get(half as usize).copied().unwrap_or_else(|| p.ln()))
            };
            let mut gradients = [0.0; 2 * SEGMENT];
            for (to, from) in pairs.chunks_mut(SEGMENT).zip(self.distribution.0.chunks(SEGMENT)) {
                for (two, pair) in gradients.chunks_exact_mut(2).zip(from) {
                    two.copy_from_slice(&[gradient(pair & 0xFFFF), gradient(pair >> 16)]);
                }
                to_bf16_pairs(&gradients[..2 * from.len()], to);
            }
            log_probability.exp() * (both + e * log_probability) - c
        };
        // The token's own gradient from its exact log-probability: rounded, a p near 1 would leave nothing of p − 1.
        let (at, shift) = (self.token as usize / 2, 16 * (self.token % 2));
        pairs[at] = pairs[at] & !(0xFFFF << shift) | u32::from(half::bf16::from_f32(own).to_bits()) << shift;
    }

    fn factor(&self) -> f32 {
        if self.weights.1 == 0.0 { self.weights.0 } else { 1.0 }
    }
}

/// ln of every bf16 from 0 to 1, by its bits; 0 for 0, whose product with its logarithm is 0.
fn logarithms() -> &'static [f32] {
    static TABLE: OnceLock<Vec<f32>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let one = half::bf16::ONE.to_bits();
        (0..=one).map(|bits| if bits == 0 { 0.0 } else { half::bf16::from_bits(bits).to_f32().ln() }).collect()
    })
}

/// As [`log_probabilities_backward`] for tokens whose distributions were kept, with a head in bf16.
pub fn sampled_backward(head: &FrozenLinear, sampled: &[WeightedToken<'_>], temperature: f32, dhidden: &mut [f32]) {
    let (width, vocabulary) = (head.input(), head.output());
    assert_eq!(dhidden.len(), sampled.len() * width, "a gradient a token");
    let words = vocabulary.div_ceil(2);
    let mut pairs = vec![0; CHUNK.min(sampled.len()) * words];
    let mut products = vec![0.0; CHUNK.min(sampled.len()) * width];
    for (sampled, dhidden) in sampled.chunks(CHUNK).zip(dhidden.chunks_mut(CHUNK * width)) {
        let (pairs, products) = (&mut pairs[..sampled.len() * words], &mut products[..sampled.len() * width]);
        pairs.par_chunks_exact_mut(words).zip(sampled).for_each(|(pairs, token)| token.logit_gradients(pairs));
        let rows = Rows::in_bf16(pairs, vocabulary);
        sum_of_products(&[Part::whole(0, &[(&rows, head.backward_matrix().view())])], products, width, false, true);
        for ((to, from), token) in dhidden.chunks_exact_mut(width).zip(products.chunks_exact(width)).zip(sampled) {
            add_scaled(to, from, -token.factor() / temperature);
        }
    }
}

/// Receives a chunk: its first row, the logits, and each row's log-sum and entropy.
type EachChunk<'a> = dyn FnMut(usize, &mut [f32], &[(f32, f32)]) + 'a;

/// Works through the rows in chunks and hands each of them over.
fn chunks(
    head: &FrozenLinear,
    hidden: &[f32],
    targets: Targets<'_>,
    temperature: f32,
    then: &mut EachChunk<'_>,
) -> Vec<TokenStatistics> {
    let tokens = targets.tokens;
    let (width, vocabulary, scale) = (head.input(), head.output(), 1.0 / temperature);
    assert_eq!(hidden.len(), tokens.len() * width, "a hidden state a token");
    let mut statistics = Vec::with_capacity(tokens.len());
    let mut logits = vec![0.0; CHUNK.min(tokens.len()) * vocabulary];
    for (hidden, tokens) in hidden.chunks(CHUNK * width).zip(tokens.chunks(CHUNK)) {
        let logits = &mut logits[..tokens.len() * vocabulary];
        head.forward_matrix().multiply(hidden, logits);
        let first = statistics.len();
        let sums = |(index, row): (usize, &[f32])| {
            let found = match targets.allowed(first + index) {
                None => partition(row, scale),
                Some(allowed) => partition(&gather(row, allowed), scale),
            };
            (found.log_sum(), found.entropy())
        };
        let found: Vec<(f32, f32)> = logits.par_chunks_exact(vocabulary).enumerate().map(sums).collect();
        for ((row, token), (log_sum, entropy)) in logits.chunks_exact(vocabulary).zip(tokens).zip(&found) {
            let log_probability = row[*token as usize] * scale - log_sum;
            statistics.push(TokenStatistics { log_probability, entropy: *entropy });
        }
        then(first, logits, &found);
    }
    statistics
}

#[inline(always)]
fn logit_gradients_body(row: &mut [f32], scale: f32, log_sum: f32, both: f32, entropy: f32) {
    for z in row {
        let log = *z * scale - log_sum;
        // e^-80 rounds to nothing, but times infinity it would be NaN.
        *z = if log > -80.0 { -scale * exp(log) * (both + entropy * log) } else { 0.0 };
    }
}

vectorised! {
    /// From logits z to `−scale p (both + entropy log p)` with `log p = scale z − log_sum`.
    fn logit_gradients(row: &mut [f32], scale: f32, log_sum: f32, both: f32, entropy: f32) => logit_gradients_body
}

#[cfg(test)]
mod tests {
    use candle_core::Tensor;

    use super::*;
    use crate::Precision;
    use crate::oracle::{check_gradients, distance, noise, tensor, values};

    fn pairs(statistics: &[TokenStatistics]) -> Vec<f32> {
        statistics.iter().flat_map(|s| [s.log_probability, s.entropy]).collect()
    }

    fn composed(w: &Tensor, hidden: &Tensor, tokens: &[u32], temperature: f64) -> Vec<f32> {
        let logits = (hidden.matmul(&w.t().unwrap()).unwrap() / temperature).unwrap();
        let max = logits.max_keepdim(1).unwrap();
        let sum = logits.broadcast_sub(&max).unwrap().exp().unwrap().sum_keepdim(1).unwrap().log().unwrap();
        let log = logits.broadcast_sub(&(max + sum).unwrap()).unwrap();
        let index = Tensor::new(tokens, hidden.device()).unwrap().unsqueeze(1).unwrap();
        let entropy = (log.exp().unwrap() * &log).unwrap().sum_keepdim(1).unwrap().neg().unwrap();
        values(&Tensor::cat(&[log.gather(&index, 1).unwrap(), entropy], 1).unwrap())
    }

    #[test]
    fn log_probabilities_and_entropies_equal_the_composition_over_several_chunks() {
        let (w, hidden) = (tensor(&[301, 16], 1), (tensor(&[400, 16], 2) * 3.0).unwrap());
        let tokens: Vec<u32> = (0..400).map(|i| (i * 7) % 301).collect();
        let head = FrozenLinear::new(&values(&w), (301, 16), None, Precision::F32).unwrap();
        let got = log_probabilities(&head, &values(&hidden), Targets::free(&tokens), 0.7);
        assert!(distance(&pairs(&got), &composed(&w, &hidden, &tokens, 0.7)) < 2e-5);
        let (weights, mut dhidden) = (vec![(1.0, 0.5); 400], vec![0.0; 400 * 16]);
        let again =
            log_probabilities_backward(&head, &values(&hidden), Targets::free(&tokens), 0.7, &weights, &mut dhidden);
        assert_eq!(got, again, "forward and backward pass see the same numbers");
    }

    #[test]
    fn the_backward_pass_from_kept_distributions_equals_that_from_recomputed_logits() {
        // An odd vocabulary, more rows than a chunk, tokens likely and unlikely.
        let (w, hidden) = (noise(301 * 16, 1), values(&(tensor(&[150, 16], 2) * 3.0).unwrap()));
        let tokens: Vec<u32> = (0..150).map(|i| (i * 7) % 301).collect();
        let head = FrozenLinear::new(&w, (301, 16), None, Precision::Bf16).unwrap();
        if !head.is_bf16() {
            querywright_testing::skipped("this machine has no products in bf16");
            return;
        }
        let mut logits = vec![0.0; 150 * 301];
        head.forward_matrix().multiply(&hidden, &mut logits);
        let scale = 1.0 / 0.7;
        let kept: Vec<SampledDistribution> = logits
            .chunks(301)
            .map(|row| SampledDistribution::new(row, scale, partition(row, scale).log_sum()))
            .collect();
        for weights in [(1.5, 0.0), (-0.5, 0.25), (0.0, 1.0)] {
            let mut want = vec![0.5; hidden.len()];
            let (free, weights_of_all) = (Targets::free(&tokens), vec![weights; 150]);
            let found = log_probabilities_backward(&head, &hidden, free, 0.7, &weights_of_all, &mut want);
            let sampled: Vec<WeightedToken<'_>> = (kept.iter().zip(&tokens).zip(found))
                .map(|((distribution, token), statistics)| WeightedToken {
                    distribution,
                    token: *token,
                    statistics,
                    weights,
                })
                .collect();
            let mut got = vec![0.5; hidden.len()];
            sampled_backward(&head, &sampled, 0.7, &mut got);
            let size = want.iter().map(|v| (v - 0.5).abs()).fold(0.0, f32::max);
            assert!(distance(&got, &want) < 0.01 * size, "{weights:?}: {} of {size}", distance(&got, &want));
        }
    }

    #[test]
    fn both_outputs_have_gradients() {
        let head = FrozenLinear::new(&noise(50 * 8, 1), (50, 8), None, Precision::F32).unwrap();
        let tokens = [3, 49, 0, 17];
        for targets in [Targets::free(&tokens), Targets::within(&tokens, &masks())] {
            let forward = |t: &[Tensor]| pairs(&log_probabilities(&head, &values(&t[0]), targets, 1.3));
            let backward = |t: &[Tensor], grad: &[f32]| {
                let weights: Vec<(f32, f32)> = grad.chunks(2).map(|g| (g[0], g[1])).collect();
                let mut dhidden = vec![0.0; 32];
                log_probabilities_backward(&head, &values(&t[0]), targets, 1.3, &weights, &mut dhidden);
                vec![dhidden]
            };
            check_gradients(&[tensor(&[4, 8], 2)], forward, backward, 3e-3);
        }
    }

    /// What was allowed beside the tokens 3, 49, 0 and 17: a few, all, many, and the third alone.
    fn masks() -> Vec<Option<Arc<[u32]>>> {
        let every_third = |from: u32| (from..50).step_by(3).collect::<Arc<[u32]>>();
        vec![Some(Arc::from([1, 3, 40])), None, Some(every_third(0)), Some(Arc::from([17]))]
    }

    #[test]
    fn probabilities_and_gradients_of_a_mask_are_those_of_logits_at_minus_infinity() {
        let (weights, hidden) = (noise(50 * 8, 1), noise(32, 2));
        let head = FrozenLinear::new(&weights, (50, 8), None, Precision::F32).unwrap();
        let (tokens, masks, scale) = ([3, 49, 0, 17], masks(), 1.0 / 1.3);
        let mut dhidden = vec![0.0; 32];
        let targets = Targets::within(&tokens, &masks);
        let found = log_probabilities_backward(&head, &hidden, targets, 1.3, &[(1.0, 0.5); 4], &mut dhidden);
        let mut logits = vec![0.0; 4 * 50];
        head.forward_matrix().multiply(&hidden, &mut logits);
        for (index, (row, mask)) in logits.chunks_mut(50).zip(&masks).enumerate() {
            let plain = row.to_vec();
            let is_allowed = |token: usize| mask.as_ref().is_none_or(|mask| mask.contains(&(token as u32)));
            (0..50).filter(|token| !is_allowed(*token)).for_each(|token| row[token] = f32::NEG_INFINITY);
            let (want, token) = (partition(row, scale), tokens[index]);
            let log_probability = row[token as usize] * scale - want.log_sum();
            assert!((found[index].log_probability - log_probability).abs() < 1e-5);
            assert!((found[index].entropy - want.entropy()).abs() < 1e-5);
            let Some(mask) = mask else { continue };
            // What the sampler keeps, and what the backward pass makes of it.
            let kept = SampledDistribution::within(mask, &plain, scale, want.log_sum());
            assert_eq!(kept.0, SampledDistribution::new(row, scale, want.log_sum()).0);
            let sampled = WeightedToken { distribution: &kept, token, statistics: found[index], weights: (1.0, 0.5) };
            let mut gradients = vec![0; 25];
            sampled.logit_gradients(&mut gradients);
            for token in (0..50).filter(|token| !is_allowed(*token)) {
                assert_eq!(gradients[token / 2] >> (16 * (token % 2)) & 0x7FFF, 0, "no gradient of {token}");
            }
        }
        let only = found[3];
        assert_eq!((only.log_probability, only.entropy), (0.0, 0.0), "where one is allowed");
        assert!(dhidden[24..].iter().all(|d| *d == 0.0), "{:?}", &dhidden[24..]);
    }
}
