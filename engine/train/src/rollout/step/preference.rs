//! Preferences within groups: of a group's completions the one that earned most, and the one that earned least.

use super::{Group, StepRollouts};
use crate::learner::{Rollout, RolloutBatch, Sample};
use crate::rollout::Origin;

impl StepRollouts {
    /// A pair of each group whose best completion earns `margin` more than its worst one, the best first, for the learner.
    /// Its passes are teacher-forced, as those of the reference are.
    pub(crate) fn preferences(&self, margin: f32) -> RolloutBatch {
        RolloutBatch { rollouts: self.groups.iter().filter_map(|group| group.preference(margin)).collect(), tape: None }
    }
}

impl Group {
    fn preference(&self, margin: f32) -> Option<Rollout> {
        let own = self.rollout.samples.iter().zip(&self.outcomes).filter(|(_, o)| o.origin == Origin::Sampled);
        let rewarded: Vec<_> = own.filter_map(|(sample, o)| Some((sample, o.reward.as_ref()?.value))).collect();
        // One that ran into the length limit never says where an answer ends. Of equal ones the first counts.
        let ended = rewarded.iter().filter(|(sample, _)| !sample.truncated);
        let (chosen, most) = ended.reduce(|best, other| if other.1 > best.1 { other } else { best })?;
        let (rejected, least) = rewarded.iter().reduce(|worst, other| if other.1 < worst.1 { other } else { worst })?;
        let differ = most > least && most - least >= margin && chosen.tokens != rejected.tokens;
        differ.then(|| Rollout {
            prompt: self.rollout.prompt.clone(),
            grammar: self.rollout.grammar.clone(),
            samples: vec![Sample::given(chosen.tokens.clone(), 1.0), Sample::given(rejected.tokens.clone(), -1.0)],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::fixture::Fixture;
    use querywright_model::Finish;

    #[test]
    fn a_pair_is_the_best_and_the_worst_completion_of_a_group_that_differ_by_the_margin() {
        let fixture = Fixture::new();
        let encoder = &fixture.materials.encoder;
        let tokens = |text: &str| encoder.encode_answer(text, None).unwrap().unwrap();
        let pair = |completions: &[(&str, f32)], margin: f32, cut: Option<usize>| -> Option<[Vec<u32>; 2]> {
            let mut group = fixture.group(0, completions);
            if let Some(cut) = cut {
                group.completions[cut].completion.finish = Finish::Length;
            }
            let mut config = fixture.config.clone();
            config.train.num_generations = completions.len();
            let rollouts = StepRollouts::of_round(vec![group], None, &config).unwrap();
            let mut rollouts = rollouts.preferences(margin).rollouts;
            let rollout = rollouts.pop()?;
            assert_eq!(rollout.samples.iter().map(|s| s.advantage).collect::<Vec<_>>(), [1.0, -1.0]);
            Some([rollout.samples[0].tokens.clone(), rollout.samples[1].tokens.clone()])
        };
        let group = [("a", 0.5), ("b", 0.9), ("c", 0.9), ("d", 0.1), ("e", 0.1)];
        assert_eq!(pair(&group, 0.5, None), Some([tokens("b"), tokens("d")]));
        assert_eq!(pair(&group, 0.5, Some(1)), Some([tokens("c"), tokens("d")]), "the best one that ended");
        assert_eq!(pair(&group, 0.5, Some(3)), Some([tokens("b"), tokens("d")]), "a worst one need not end");
        assert_eq!(pair(&group, 0.9, None), None);
        assert_eq!(pair(&[("a", 0.5), ("b", 0.5)], 0.0, None), None, "equal rewards prefer nothing");
    }
}
