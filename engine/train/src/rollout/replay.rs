//! The second stage: a completion of an earlier step stands in the group again, where all of the group earn less.

use super::{Origin, Sampler, ScoredCompletion, ScoredGroup, Scores, Unscored, Written};
use querywright_rewrite::Reading;
use querywright_types::{Error, Result};

impl Sampler<'_> {
    /// Replaces the last completion of a share of the groups by one that the query's replay holds, where that earns more
    /// than all of the group by `train.replay_margin`. It is scored again, so that its reward is one of this step.
    /// Returns how many requests the environment failed for good.
    pub(super) fn replay(&self, groups: &mut [ScoredGroup<'_>], step: u64) -> Result<usize> {
        let run = &self.config.train;
        if run.replay == 0 || self.replay.is_empty() {
            return Ok(0);
        }
        let m = self.materials;
        let kept = groups.iter().map(|group| {
            let kept = self.replay.choose(group.query, run.replay_share, run.seed, step)?;
            let fits = kept.tokens.len() <= self.config.sampling.max_completion_length;
            let allowed = group.prompt.grammar.as_ref().is_none_or(|grammar| grammar.masks(&kept.tokens).is_some());
            let read = || m.encoder.read(&group.labelled.0, group.original, &kept.text).map(|reading| (kept, reading));
            (fits && allowed).then(read)
        });
        let kept: Vec<Option<(_, Reading)>> = kept.map(Option::transpose).collect::<Result<_>>()?;
        let unscored = groups.iter().zip(&kept).map(|(group, kept)| Unscored {
            labelled: group.labelled,
            original: group.original,
            rewrites: kept.iter().map(|(_, reading)| Written::of(reading)).collect(),
        });
        let Scores { groups: earned, faults } = self.score(&unscored.collect::<Vec<_>>());
        for ((group, kept), earned) in groups.iter_mut().zip(kept).zip(earned) {
            let (Some((kept, reading)), Some(reward)) = (kept, earned.into_iter().flatten().next()) else { continue };
            if reward.value < group.reached() + run.replay_margin {
                continue;
            }
            let query = group.query;
            let Some(last) = group.completions.last_mut() else {
                return Err(Error::bug(
                    "train::rollout::replay",
                    format!("the group of query {query} has no completion"),
                ));
            };
            let written = (kept.text.clone(), kept.tokens.clone());
            *last = ScoredCompletion::foreign(Origin::Replayed, written, reading, reward);
        }
        Ok(faults)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::advantage::Baseline;
    use super::super::super::checkpoint::RunState;
    use super::super::super::log::name;
    use super::super::super::replay::Replayed;
    use super::super::super::schedule::SchedulerType;
    use super::super::super::trainer::Trainer;
    use super::super::fixture::{Fixture, Unobserved, left_behind};
    use super::*;

    /// A fixture whose query 0 has this completion to replay, always.
    fn fixture(mut fixture: Fixture, text: &str) -> Fixture {
        fixture.config.train.replay = 1;
        fixture.config.train.replay_share = 1.0;
        let tokens = fixture.materials.encoder.encode_answer(text, None).unwrap().unwrap();
        fixture.replay.keep(0, Replayed { tokens, text: format!(" {text}"), gain: 0.5 }, 1);
        fixture
    }

    fn texts(group: &ScoredGroup<'_>) -> Vec<(String, Origin)> {
        group.completions.iter().map(|c| (c.completion.text.clone(), c.origin)).collect()
    }

    #[test]
    fn a_kept_completion_takes_the_last_place_of_a_group_that_falls_short_of_it_and_is_learned_with_ratio_1() {
        let fixture = fixture(Fixture::new(), "kettle");
        let mut groups =
            [fixture.group(0, &[("zzz", 0.0), ("yyy", 0.0)]), fixture.group(1, &[("zzz", 0.0), ("yyy", 0.0)])];
        assert_eq!(fixture.sampler().replay(&mut groups, 1).unwrap(), 0);
        assert_eq!(texts(&groups[0]), [(" zzz".into(), Origin::Sampled), (" kettle".into(), Origin::Replayed)]);
        assert!(groups[1].completions.iter().all(|c| c.origin == Origin::Sampled), "another query");
        let last = &groups[0].completions[1];
        assert_eq!((last.value(), last.reading.generated), (Some(1.0), 1), "scored again");
        assert!(last.completion.log_probabilities.iter().all(|p| p.is_nan()));
        assert_eq!(last.completion.log_probabilities.len(), last.completion.tokens.len());
    }

    #[test]
    fn nothing_is_replayed_where_the_group_earns_as_much_or_the_share_is_0_or_replay_is_off() {
        let mut fixture = fixture(Fixture::new(), "kettle");
        let replayed = |fixture: &Fixture, best: f32| {
            let mut groups = [fixture.group(0, &[("zzz", best), ("yyy", 0.0)])];
            fixture.sampler().replay(&mut groups, 1).unwrap();
            groups[0].completions.iter().any(|c| c.origin == Origin::Replayed)
        };
        assert!(replayed(&fixture, 0.9) && !replayed(&fixture, 0.99) && !replayed(&fixture, 1.0));
        fixture.config.train.replay_share = 0.0;
        assert!(!replayed(&fixture, 0.0));
        fixture.config.train.replay_share = 1.0;
        fixture.config.train.replay = 0;
        assert!(!replayed(&fixture, 0.0));
    }

    #[test]
    fn a_kept_completion_that_may_not_be_written_or_is_too_long_or_cannot_be_scored_is_not_replayed() {
        let replayed = |fixture: &Fixture| {
            let mut groups = [fixture.group(0, &[("zzz", 0.0)])];
            let faults = fixture.sampler().replay(&mut groups, 1).unwrap();
            (groups[0].completions[0].origin == Origin::Replayed, faults > 0)
        };
        assert_eq!(replayed(&fixture(Fixture::restricted(&["kettle", "zzz"]), "kettle")), (true, false));
        assert_eq!(replayed(&fixture(Fixture::restricted(&["lantern", "zzz"]), "kettle")), (false, false));
        let mut short = fixture(Fixture::new(), "kettle");
        short.config.sampling.max_completion_length = 1;
        assert_eq!(replayed(&short), (false, false));
        assert_eq!(replayed(&fixture(Fixture::failing(), "kettle")), (false, true));
    }

    #[test]
    fn an_injected_completion_takes_the_place_of_a_replayed_one_where_it_earns_more() {
        let mut fixture = fixture(Fixture::new(), "kettle");
        fixture.set_reward(|reward| reward.term_cost = 0.1);
        fixture.replay = Default::default();
        let tokens = fixture.materials.encoder.encode_answer("zzz kettle", None).unwrap().unwrap();
        fixture.replay.keep(0, Replayed { tokens, text: " zzz kettle".into(), gain: 0.5 }, 1);
        let mut groups = [fixture.group(0, &[("zzz", 0.0)])];
        fixture.sampler().replay(&mut groups, 1).unwrap();
        assert_eq!(groups[0].completions[0].value(), Some(0.8));
        fixture.sampler().inject(&mut groups).unwrap();
        let last = &groups[0].completions[0];
        assert_eq!((last.origin, last.value()), (Origin::Injected, Some(0.9)));
    }

    #[test]
    fn what_is_kept_is_part_of_a_checkpoint_and_a_run_that_goes_on_from_one_ends_the_same() {
        let home = tempfile::tempdir().unwrap();
        let mut fixture = Fixture::restricted(&["kettle", "lantern", "tent"]);
        fixture.materials.dev = fixture.materials.train.clone();
        let settings = &mut fixture.config;
        settings.schedule.lr_scheduler_type = SchedulerType::Constant;
        settings.curriculum.resample_rounds = 0;
        settings.train.inject_feedback = false;
        settings.train.baseline = Baseline::Base;
        (settings.train.replay, settings.train.replay_share) = (2, 1.0);
        (settings.train.num_generations, settings.train.generation_batch_size) = (6, 18);
        settings.sampling.max_completion_length = 48;
        (settings.train.eval_steps, settings.train.save_steps) = (4, 4);
        let mut run = |folder: &str, steps: u64, resume: bool| {
            fixture.config.train.output_dir = home.path().join(folder);
            fixture.config.train.max_steps = steps;
            let trainer = Trainer::new(&fixture.config, &fixture.materials, resume, &mut Unobserved);
            trainer.unwrap().run(&mut Unobserved).unwrap();
            left_behind(&fixture.config.train.output_dir)
        };
        let whole = run("whole", 8, false);
        let half = run("halves", 4, false);
        let (state, metrics, completions) = run("halves", 8, true);
        assert!(!half.0.replay.is_empty(), "the test must have something to keep");
        assert_eq!(state, whole.0);
        assert_eq!(metrics, whole.1);
        assert!(completions == whole.2);
        let sum = |name: &str| metrics.iter().filter_map(|m| m.get(name)).sum::<f64>();
        assert!(sum(name::REPLAYED_GROUPS) > 0.0 && sum(name::MEAN_TERMS) > 0.0, "the test must exercise it");
        assert!(metrics.iter().any(|m| m.get(name::GAIN).is_some()));
        // What older versions wrote has none.
        let mut old = serde_json::to_value(&half.0).unwrap();
        old.as_object_mut().unwrap().remove("replay").unwrap();
        assert!(serde_json::from_value::<RunState>(old).unwrap().replay.is_empty());
        let empty = RunState { replay: Default::default(), ..half.0 };
        assert!(serde_json::to_value(&empty).unwrap().get("replay").is_none());
    }
}
