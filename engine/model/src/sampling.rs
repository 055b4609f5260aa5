//! From logits to a token.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use querywright_kernels::{Distribution, TokenStatistics, gather};
use querywright_types::{Error, Result};

/// How tokens are chosen. Names follow transformers' `GenerationConfig`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SamplingConfig {
    /// Logits are divided by this; 0 is greedy. Default 1.
    pub temperature: f32,
    /// The smallest set of tokens whose probability reaches this is sampled from. Default 1 (all).
    pub top_p: f32,
    /// At most this many tokens are sampled from. Default 0 (all).
    pub top_k: usize,
    /// Logits of tokens seen in prompt or completion are divided (positive) or multiplied (negative) by this
    /// (arXiv 1909.05858). Default 1 (none).
    pub repetition_penalty: f32,
    /// New tokens at most. Default 32.
    pub max_completion_length: usize,
}

impl Default for SamplingConfig {
    fn default() -> Self {
        Self { temperature: 1.0, top_p: 1.0, top_k: 0, repetition_penalty: 1.0, max_completion_length: 32 }
    }
}

impl SamplingConfig {
    /// Always the likeliest token.
    pub fn greedy(max_completion_length: usize) -> Self {
        Self { temperature: 0.0, max_completion_length, ..Self::default() }
    }

    /// Whether tokens are sampled from the model's own distribution at the temperature, neither truncated nor penalised.
    pub(super) fn is_plain(&self) -> bool {
        self.temperature > 0.0 && self.top_p >= 1.0 && self.top_k == 0 && self.repetition_penalty == 1.0
    }

    /// Refuses values that have no meaning.
    pub fn validate(&self) -> Result<()> {
        let refuse = |key: &str, found: f32, remedy: &str| Err(Error::argument(key, format!("found {found}"), remedy));
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            return refuse("temperature", self.temperature, "give 0 for greedy, or a positive number such as 1.0");
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return refuse("top_p", self.top_p, "give a number above 0 and at most 1");
        }
        if !(self.repetition_penalty.is_finite() && self.repetition_penalty > 0.0) {
            return refuse("repetition_penalty", self.repetition_penalty, "give a positive number; 1 is none");
        }
        if self.max_completion_length == 0 {
            return refuse("max_completion_length", 0.0, "allow at least 1 token");
        }
        Ok(())
    }
}

/// The randomness of one completion: depends on the seed, the prompt's and the completion's number alone, so that a
/// completion is the same whatever batch it is sampled in. (On a GPU, too, up to the rounding of products, whose order of
/// sums may change with the batch.)
#[derive(Debug, Clone)]
pub(super) struct Sampler {
    rng: ChaCha8Rng,
    config: SamplingConfig,
    /// Buffers kept from token to token.
    order: Vec<u32>,
}

/// A token, with its log-probability in the full distribution at the sampling temperature (1 when greedy) and that
/// distribution's entropy, before top-k, top-p and repetition penalty: the numbers that the trainer computes.
pub(super) struct SampledToken {
    pub(super) token: u32,
    pub(super) statistics: TokenStatistics,
}

impl SampledToken {
    /// # Errors
    /// [`Error::NotFinite`] where the numbers are none: the token says nothing then.
    pub(super) fn new(token: u32, log_probability: f32, entropy: f32) -> Result<Self> {
        if log_probability.is_finite() && entropy.is_finite() {
            return Ok(Self { token, statistics: TokenStatistics { log_probability, entropy } });
        }
        Err(no_numbers())
    }
}

/// The refusal to sample from logits that are not numbers.
fn no_numbers() -> Error {
    let remedy =
        "its weights with the adapter's are too large for the precision: take precision f32, or another adapter";
    Error::not_finite("logits that are not numbers for this request", remedy)
}

impl Sampler {
    pub(super) fn new(config: SamplingConfig, seed: u64, stream: u64, completion: usize) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        // Streams of ChaCha are independent; the golden ratio spreads neighbours' numbers over them.
        rng.set_stream(stream.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(completion as u64));
        Self { rng, config, order: Vec::new() }
    }

    /// The number in 0..1 that decides the next token, where a device samples it.
    pub(super) fn uniform(&mut self) -> f64 {
        self.rng.random()
    }

    /// Samples from a row of logits, which it may overwrite. `seen` are the tokens of prompt and completion so far.
    ///
    /// # Errors
    /// [`Error::NotFinite`] where a logit is NaN or +∞, or none is above −∞.
    pub(super) fn sample(&mut self, logits: &mut [f32], seen: &[&[u32]]) -> Result<SampledToken> {
        // Without a branch, in vectors: a small part of what the sums below cost.
        if logits.iter().fold(false, |bad, logit| bad | logit.is_nan() | (*logit == f32::INFINITY)) {
            return Err(no_numbers());
        }
        let greedy = self.config.temperature == 0.0;
        let scale = if greedy { 1.0 } else { 1.0 / self.config.temperature };
        let found = Distribution::new(logits, scale);
        let (log_sum, entropy) = (found.partition.log_sum(), found.partition.entropy());
        let sampled = |token: usize, logit: f32| SampledToken::new(token as u32, logit * scale - log_sum, entropy);
        let cut = self.config.top_k > 0 || self.config.top_p < 1.0;
        if self.config.repetition_penalty == 1.0 && (greedy || !cut) {
            let token = if greedy { argmax(logits) } else { found.sample(self.rng.random()) };
            return sampled(token, logits[token]);
        }
        let plain = logits.to_vec();
        if self.config.repetition_penalty != 1.0 {
            let mut tokens: Vec<u32> = seen.concat();
            tokens.sort_unstable();
            tokens.dedup();
            for token in tokens {
                if let Some(logit) = logits.get_mut(token as usize) {
                    let penalty = self.config.repetition_penalty;
                    *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
                }
            }
        }
        let token = if greedy { argmax(logits) } else { self.pick(logits, scale) };
        sampled(token, plain[token])
    }

    /// As [`sample`](Self::sample) from the logits of the tokens that are allowed, in rising order. The row stays as it is.
    pub(super) fn sample_within(&mut self, allowed: &[u32], logits: &[f32], seen: &[&[u32]]) -> Result<SampledToken> {
        let mut own = gather(logits, allowed);
        // A penalty is by place in the row.
        let places =
            |tokens: &&[u32]| tokens.iter().filter_map(|t| Some(allowed.binary_search(t).ok()? as u32)).collect();
        let seen: Vec<Vec<u32>> = match self.config.repetition_penalty {
            1.0 => Vec::new(),
            _ => seen.iter().map(places).collect(),
        };
        let seen: Vec<&[u32]> = seen.iter().map(Vec::as_slice).collect();
        let SampledToken { token, statistics } = self.sample(&mut own, &seen)?;
        Ok(SampledToken { token: allowed[token as usize], statistics })
    }

    /// Samples an index within top-k and top-p; leaves probabilities in `logits`.
    fn pick(&mut self, logits: &mut [f32], scale: f32) -> usize {
        querywright_kernels::softmax(logits, scale);
        let probabilities: &[f32] = logits;
        let u: f64 = self.rng.random();
        // Candidates in falling order; ties by number, so that the order is the same everywhere.
        self.order.clear();
        self.order.extend((0..probabilities.len() as u32).filter(|i| probabilities[*i as usize] > 1e-7));
        self.order
            .sort_unstable_by(|a, b| probabilities[*b as usize].total_cmp(&probabilities[*a as usize]).then(a.cmp(b)));
        if self.config.top_k > 0 {
            self.order.truncate(self.config.top_k);
        }
        let mut mass = 0.0;
        let kept = self.order.iter().position(|i| {
            mass += probabilities[*i as usize];
            mass >= self.config.top_p
        });
        if let Some(last) = kept {
            self.order.truncate(last + 1);
        }
        let total: f64 = self.order.iter().map(|i| f64::from(probabilities[*i as usize])).sum();
        walk(self.order.iter().map(|i| (*i as usize, probabilities[*i as usize])), u * total)
    }
}

/// The first index at which the running sum passes `u`; the last possible one where rounding leaves a gap.
fn walk(items: impl Iterator<Item = (usize, f32)>, u: f64) -> usize {
    let (mut sum, mut last) = (0.0, 0);
    for (index, p) in items {
        if p > 0.0 {
            sum += f64::from(p);
            last = index;
            if sum > u {
                break;
            }
        }
    }
    last
}

fn argmax(values: &[f32]) -> usize {
    let mut best = 0;
    for (index, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = index;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frequencies(config: SamplingConfig, logits: &[f32]) -> Vec<f64> {
        let mut counts = vec![0.0; logits.len()];
        for stream in 0..4000 {
            let mut sampler = Sampler::new(config.clone(), 7, stream, 0);
            counts[sampler.sample(&mut logits.to_vec(), &[]).unwrap().token as usize] += 1.0 / 4000.0;
        }
        counts
    }

    #[test]
    fn samples_follow_the_softmax_at_the_temperature() {
        let logits = [2.0f32, 1.0, 0.0, -1.0];
        let config = SamplingConfig { temperature: 0.7, ..Default::default() };
        let weights: Vec<f64> = logits.iter().map(|l| f64::from(l / 0.7).exp()).collect();
        let total: f64 = weights.iter().sum();
        for (got, weight) in frequencies(config, &logits).iter().zip(&weights) {
            assert!((got - weight / total).abs() < 0.025, "{got} {}", weight / total);
        }
    }

    #[test]
    fn top_k_and_top_p_cut_the_tail_and_keep_the_rest_in_proportion() {
        let logits = [2.0f32, 1.0, 0.0, -1.0];
        let got = frequencies(SamplingConfig { top_k: 2, ..Default::default() }, &logits);
        assert!(got[2] == 0.0 && got[3] == 0.0 && (got[0] - 0.731).abs() < 0.025, "{got:?}");
        let got = frequencies(SamplingConfig { top_p: 0.7, ..Default::default() }, &logits);
        assert!(got[2] == 0.0 && got[3] == 0.0 && got[1] > 0.2, "0.644 alone does not reach 0.7: {got:?}");
    }

    #[test]
    fn log_probabilities_are_those_of_the_full_distribution() {
        let logits = [2.0f32, 1.0, 0.0, -1.0];
        let want = 2.0 - logits.iter().map(|l| l.exp()).sum::<f32>().ln();
        for config in
            [SamplingConfig::greedy(1), SamplingConfig { top_k: 1, repetition_penalty: 1.3, ..Default::default() }]
        {
            let sampled = Sampler::new(config, 1, 0, 0).sample(&mut logits.to_vec(), &[&[3]]).unwrap();
            assert_eq!(sampled.token, 0);
            assert!((sampled.statistics.log_probability - want).abs() < 1e-5);
        }
    }

    #[test]
    fn allowed_tokens_are_sampled_as_from_a_row_of_their_own_whatever_the_settings() {
        let logits = [2.0f32, 9.0, 0.0, -1.0, 5.0, 1.0];
        for config in [
            SamplingConfig::greedy(1),
            SamplingConfig { temperature: 0.7, ..Default::default() },
            SamplingConfig { top_k: 2, ..Default::default() },
            SamplingConfig { top_p: 0.7, repetition_penalty: 1.5, ..Default::default() },
        ] {
            for stream in 0..50 {
                let sampler = || Sampler::new(config.clone(), 7, stream, 0);
                // Token 5 is allowed and seen, token 1 is seen and not allowed.
                let got = sampler().sample_within(&[0, 2, 3, 5], &logits, &[&[1], &[5]]).unwrap();
                let want = sampler().sample(&mut [2.0, 0.0, -1.0, 1.0], &[&[3]]).unwrap();
                assert_eq!(got.token, [0, 2, 3, 5][want.token as usize]);
                assert_eq!(got.statistics, want.statistics);
            }
        }
        let only = Sampler::new(SamplingConfig::default(), 1, 0, 0).sample_within(&[3], &logits, &[]).unwrap();
        assert_eq!((only.token, only.statistics.log_probability, only.statistics.entropy), (3, 0.0, 0.0));
    }

    #[test]
    fn the_repetition_penalty_moves_seen_tokens_down() {
        let config = SamplingConfig { repetition_penalty: 3.0, ..SamplingConfig::greedy(1) };
        assert_eq!(Sampler::new(config, 1, 0, 0).sample(&mut [2.0, 1.0, -1.0], &[&[0]]).unwrap().token, 1);
    }

    #[test]
    fn logits_that_are_not_numbers_are_an_error_and_no_token() {
        let settings = [
            SamplingConfig::greedy(1),
            SamplingConfig::default(),
            SamplingConfig { top_k: 2, ..Default::default() },
            SamplingConfig { repetition_penalty: 1.2, ..Default::default() },
        ];
        for config in settings {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let sample = |mut logits: Vec<f32>| Sampler::new(config.clone(), 1, 0, 0).sample(&mut logits, &[&[0]]);
                // Rows of one vector and of less, of which all or one are bad.
                for length in [3, 16, 300] {
                    let error = sample(vec![bad; length]).map(|s| s.token).unwrap_err();
                    assert_eq!(error.code(), "not_finite", "{error}");
                    let mut one = vec![0.5; length];
                    one[length / 2] = bad;
                    assert_eq!(sample(one).is_err(), bad != f32::NEG_INFINITY, "one {bad} of {length}");
                }
            }
        }
    }

    #[test]
    fn meaningless_settings_are_refused_by_name() {
        let error = SamplingConfig { top_p: 0.0, ..Default::default() }.validate().unwrap_err().to_string();
        assert!(error.contains("top_p") && error.contains("found 0"), "{error}");
        assert!(SamplingConfig { temperature: f32::NAN, ..Default::default() }.validate().is_err());
    }
}
