//! Replay: completions that earned more than the base, kept for later steps.
//!
//! A policy that explores little finds a good rewrite once and then not again. For each query the best of its own
//! completions are kept: those that gained most over what the query is without a model. Where all completions of a later
//! group earn less, one of them stands in the group again (`rollout/replay.rs`). (Replay of own experience: ExGRPO, arXiv
//! 2510.02245, chooses by difficulty and entropy; here every query keeps its best.)
//!
//! The buffer is bounded twice: in completions of a query, and in bytes of all. It is part of a checkpoint, and what it
//! holds depends on the steps made alone, so a resumed run goes on with the same one.

use std::collections::BTreeMap;

use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

/// A completion that was kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Replayed {
    /// Its tokens, the stop included.
    #[serde(with = "numbers")]
    pub tokens: Vec<u32>,
    /// Its text, without the stop.
    pub text: String,
    /// How much more than the base it earned.
    pub gain: f32,
}

impl Replayed {
    /// Bytes that it takes, about.
    fn bytes(&self) -> usize {
        self.tokens.len() * size_of::<u32>() + self.text.len() + ENTRY_BYTES
    }
}

/// The completions kept, by the query's place in the training set; the best of each query first.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Replay {
    kept: BTreeMap<usize, Vec<Replayed>>,
}

/// What an entry takes besides its tokens and its text.
const ENTRY_BYTES: usize = 64;
/// Bytes of all completions kept.
const MOST_BYTES: usize = 8 << 20;
/// Sets the random stream apart from the others of a run.
const STREAM: u64 = 0x7265_706c_6179;

impl Replay {
    /// Completions of a query at most.
    pub const MOST: usize = 16;

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// How many completions it holds.
    pub fn len(&self) -> usize {
        self.kept.values().map(Vec::len).sum()
    }

    /// The best completion of each query.
    pub(super) fn best(&self) -> Vec<(usize, &Replayed)> {
        self.kept.iter().filter_map(|(query, kept)| Some((*query, kept.first()?))).collect()
    }

    /// Keeps a completion of a query among the `most` that gained most; of equal ones the earlier. One that is kept
    /// already is not kept twice.
    pub fn keep(&mut self, query: usize, completion: Replayed, most: usize) {
        self.keep_within(query, completion, most, MOST_BYTES);
    }

    fn keep_within(&mut self, query: usize, completion: Replayed, most: usize, bytes: usize) {
        let kept = self.kept.entry(query).or_default();
        if !kept.iter().any(|other| other.tokens == completion.tokens) {
            let place = kept.partition_point(|other| other.gain >= completion.gain);
            kept.insert(place, completion);
            kept.truncate(most.min(Self::MOST));
        }
        self.kept.retain(|_, kept| !kept.is_empty());
        while self.bytes() > bytes && self.drop_least() {}
    }

    fn bytes(&self) -> usize {
        self.kept.values().flatten().map(Replayed::bytes).sum()
    }

    /// Drops the completion that gained least, of equal ones that of the first query. False where there is none.
    fn drop_least(&mut self) -> bool {
        let least = self.kept.iter().filter_map(|(query, kept)| Some((*query, kept.last()?.gain)));
        let Some((query, _)) = least.min_by(|a, b| a.1.total_cmp(&b.1)) else { return false };
        if let Some(kept) = self.kept.get_mut(&query) {
            kept.pop();
        }
        self.kept.retain(|_, kept| !kept.is_empty());
        true
    }

    /// A completion of the query to replay in this step, in a `share` of the cases. The same seed and step give the same.
    pub fn choose(&self, query: usize, share: f64, seed: u64, step: u64) -> Option<&Replayed> {
        let kept = self.kept.get(&query)?;
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed ^ STREAM);
        rng.set_stream(step << 32 | query as u64);
        let wanted = rng.random::<f64>() < share;
        // A state that was written by hand may have an empty list.
        if kept.is_empty() {
            return None;
        }
        kept.get(rng.random_range(0..kept.len())).filter(|_| wanted)
    }
}

/// Numbers as one text: a checkpoint is written with a line for each element of a list.
mod numbers {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(numbers: &[u32], serializer: S) -> Result<S::Ok, S::Error> {
        let texts: Vec<String> = numbers.iter().map(u32::to_string).collect();
        serializer.serialize_str(&texts.join(" "))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u32>, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.split_whitespace().map(|number| number.parse().map_err(D::Error::custom)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completion(token: u32, gain: f32) -> Replayed {
        Replayed { tokens: vec![token, 9], text: format!(" word{token}"), gain }
    }

    fn kept(replay: &Replay, query: usize) -> Vec<u32> {
        replay.kept.get(&query).into_iter().flatten().map(|c| c.tokens[0]).collect()
    }

    #[test]
    fn a_query_keeps_its_best_completions_each_once_and_of_equal_ones_the_earlier() {
        let mut replay = Replay::default();
        for (token, gain) in [(1, 0.1), (2, 0.3), (2, 0.3), (3, 0.3), (4, 0.05), (5, 0.2)] {
            replay.keep(7, completion(token, gain), 3);
        }
        assert_eq!((kept(&replay, 7), replay.len()), (vec![2, 3, 5], 3));
        replay.keep(8, completion(1, 0.1), 0);
        assert_eq!((kept(&replay, 8), replay.len()), (Vec::new(), 3));
    }

    #[test]
    fn all_together_stay_within_their_bytes_and_the_least_gain_goes_first() {
        let mut replay = Replay::default();
        let room = 3 * completion(1, 0.0).bytes();
        for (query, gain) in [(1, 0.5), (2, 0.1), (3, 0.4), (4, 0.3), (5, 0.2)] {
            replay.keep_within(query, completion(1, gain), 2, room);
            assert!(replay.bytes() <= room);
        }
        assert_eq!(replay.kept.keys().copied().collect::<Vec<_>>(), [1, 3, 4]);
    }

    #[test]
    fn what_is_replayed_repeats_for_a_seed_and_a_step_and_stands_in_the_share_asked_for() {
        let mut replay = Replay::default();
        (0..200).for_each(|query| (1..3).for_each(|token| replay.keep(query, completion(token, 0.1), 2)));
        let chosen = |share: f64, seed: u64, step: u64| -> Vec<Option<u32>> {
            (0..200).map(|query| Some(replay.choose(query, share, seed, step)?.tokens[0])).collect()
        };
        assert_eq!(chosen(0.5, 3, 4), chosen(0.5, 3, 4));
        assert_ne!(chosen(0.5, 3, 4), chosen(0.5, 3, 5));
        assert_ne!(chosen(0.5, 3, 4), chosen(0.5, 4, 4));
        let count = chosen(0.5, 3, 4).into_iter().flatten().count();
        assert!((70..130).contains(&count), "{count} of 200");
        let all = chosen(1.0, 3, 4);
        assert!([1, 2].iter().all(|token| all.iter().filter(|c| **c == Some(*token)).count() > 60), "of either");
        assert_eq!(chosen(0.0, 3, 4), [None; 200]);
        assert_eq!(Replay::default().choose(1, 1.0, 0, 0), None);
    }

    #[test]
    fn it_survives_a_checkpoint() {
        let mut replay = Replay::default();
        replay.keep(4, Replayed { tokens: vec![49_151, 0, 7], text: " é \"x\"".into(), gain: 0.1 + 0.2 }, 2);
        replay.keep(1_000_000, completion(1, f32::MIN_POSITIVE), 2);
        let text = serde_json::to_string_pretty(&replay).unwrap();
        assert!(text.contains("\"49151 0 7\""), "{text}");
        assert_eq!(serde_json::from_str::<Replay>(&text).unwrap(), replay);
        assert!(serde_json::from_str::<Replay>(&text.replace("49151", "-1")).is_err());
    }
}
