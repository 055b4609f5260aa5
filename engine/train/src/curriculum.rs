//! Which training queries a step samples.
//!
//! Many queries of a real set are already answered as well as can be: every rewrite of them scores the same or worse,
//! and their groups carry little signal. A share of each step's prompts is therefore sampled by headroom (1 minus the
//! measure of what the query is without a model: of its base, where there is one), weighted by how much signal the
//! query's recent groups carried. The rest is sampled uniformly, so that the policy keeps seeing queries that it must
//! not spoil.

use std::collections::HashSet;

use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use querywright_types::{Error, Result};

/// The settings of the curriculum.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CurriculumConfig {
    /// Share of the prompts sampled by headroom; 0 samples all uniformly. Default 0.75.
    pub headroom_fraction: f64,
    /// Headroom below which a query is only sampled uniformly. Default 0.05.
    pub min_headroom: f64,
    /// Rounds of dynamic sampling: prompts with a zero-variance group are replaced by fresh ones up to this often (DAPO,
    /// arXiv 2503.14476). Default 1; 0 keeps them.
    pub resample_rounds: usize,
}

impl Default for CurriculumConfig {
    fn default() -> Self {
        Self { headroom_fraction: 0.75, min_headroom: 0.05, resample_rounds: 1 }
    }
}

impl CurriculumConfig {
    /// Refuses a share that is none; the message names the key.
    pub fn validate(&self) -> Result<()> {
        let fraction = self.headroom_fraction;
        if !(0.0..=1.0).contains(&fraction) {
            let remedy = "give a share from 0 (sample uniformly) to 1 (sample by headroom alone), as 0.75";
            return Err(Error::argument("curriculum.headroom_fraction", format!("found {fraction}"), remedy));
        }
        Ok(())
    }
}

/// Headroom and signal of each training query. Part of a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Curriculum {
    config: CurriculumConfig,
    /// 1 minus the measure of the query without a model.
    headroom: Vec<f32>,
    /// A running mean of whether the query's groups carried signal; starts at 1.
    signal: Vec<f32>,
}

/// Weight of the newest group in the running mean of signal.
const NEWEST_WEIGHT: f32 = 0.5;
/// A query without signal keeps this much weight: its group may have variance again as the policy changes.
const LEAST_SIGNAL: f32 = 0.1;

impl Curriculum {
    /// From the measure (0 to 1) that each query reaches without a model; none where the environment failed.
    pub fn new(config: CurriculumConfig, raw: &[Option<f64>]) -> Result<Self> {
        config.validate()?;
        let headroom = raw.iter().map(|r| (1.0 - r.unwrap_or(0.0)) as f32).collect();
        Ok(Self { config, headroom, signal: vec![1.0; raw.len()] })
    }

    /// Samples up to `count` different queries, none of `taken`. The same seed, step and round give the same queries.
    pub fn sample(&self, count: usize, taken: &HashSet<usize>, seed: u64, step: u64, round: u64) -> Vec<usize> {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(step.wrapping_mul(64).wrapping_add(round));
        let hard = (count as f64 * self.config.headroom_fraction).round() as usize;
        let mut chosen = self.weighted(hard, taken, &mut rng, |i| {
            let headroom = self.headroom[i];
            if f64::from(headroom) < self.config.min_headroom {
                0.0
            } else {
                headroom * self.signal[i].max(LEAST_SIGNAL)
            }
        });
        let taken: HashSet<usize> = taken.iter().chain(&chosen).copied().collect();
        chosen.extend(self.weighted(count - chosen.len(), &taken, &mut rng, |_| 1.0));
        chosen
    }

    /// Weighted sampling without replacement (Efraimidis and Spirakis 2006): the largest of u^(1/w) win.
    fn weighted(
        &self,
        count: usize,
        taken: &HashSet<usize>,
        rng: &mut rand_chacha::ChaCha8Rng,
        weight: impl Fn(usize) -> f32,
    ) -> Vec<usize> {
        let mut keys: Vec<(f64, usize)> = (0..self.headroom.len())
            .map(|i| (f64::from(weight(i)), rng.random::<f64>(), i))
            .filter(|(w, _, i)| *w > 0.0 && !taken.contains(i))
            .map(|(w, u, i)| (u.max(f64::MIN_POSITIVE).ln() / w, i))
            .collect();
        keys.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        keys.truncate(count);
        keys.into_iter().map(|k| k.1).collect()
    }

    /// Takes in whether the query's group carried signal.
    pub fn observe(&mut self, query: usize, informative: bool) {
        if let Some(signal) = self.signal.get_mut(query) {
            *signal += NEWEST_WEIGHT * (f32::from(u8::from(informative)) - *signal);
        }
    }

    /// How many queries there are.
    pub fn len(&self) -> usize {
        self.headroom.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.headroom.is_empty()
    }

    /// How far a query lies below the maximum without the model; none where there is no such query.
    pub fn headroom(&self, query: usize) -> Option<f64> {
        self.headroom.get(query).map(|h| f64::from(*h))
    }

    /// Mean headroom over all queries.
    pub fn mean_headroom(&self) -> f64 {
        self.headroom.iter().map(|h| f64::from(*h)).sum::<f64>() / self.headroom.len().max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curriculum(fraction: f64) -> Curriculum {
        let raw: Vec<Option<f64>> = (0..1000).map(|i| Some(if i < 900 { 1.0 } else { 0.2 })).collect();
        Curriculum::new(CurriculumConfig { headroom_fraction: fraction, ..Default::default() }, &raw).unwrap()
    }

    #[test]
    fn the_share_given_is_sampled_by_headroom_and_the_rest_uniformly() {
        let mut hard = 0;
        for step in 0..100 {
            let sampled = curriculum(0.75).sample(8, &HashSet::new(), 1, step, 0);
            assert_eq!(sampled.iter().collect::<HashSet<_>>().len(), 8, "no query twice");
            hard += sampled.iter().filter(|i| **i >= 900).count();
        }
        assert!((600..660).contains(&hard), "6 of 8 by headroom and about a tenth of the others: {hard}");
    }

    #[test]
    fn queries_without_signal_are_sampled_less_often() {
        let mut curriculum = curriculum(1.0);
        for query in 900..950 {
            for _ in 0..6 {
                curriculum.observe(query, false);
            }
        }
        let sampled: Vec<usize> = (0..200).flat_map(|s| curriculum.sample(1, &HashSet::new(), 1, s, 0)).collect();
        let without = sampled.iter().filter(|i| **i < 950).count();
        assert!(without < 50, "a tenth of the weight of the others: {without} of 200");
    }

    #[test]
    fn a_sample_repeats_and_avoids_what_is_taken() {
        let c = curriculum(0.5);
        let first = c.sample(8, &HashSet::new(), 3, 7, 0);
        assert_eq!(first, c.sample(8, &HashSet::new(), 3, 7, 0));
        let taken: HashSet<usize> = first.iter().copied().collect();
        assert!(c.sample(8, &taken, 3, 7, 0).iter().all(|i| !taken.contains(i)));
    }
}
