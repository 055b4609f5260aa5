//! The rollouts of a step, over all its rounds of sampling.

mod preference;

use super::super::advantage::GroupSignal;
use super::super::config::TrainConfig;
use super::super::learner::{Rollout, RolloutBatch, Sample};
use super::super::log::CompletionRecord;
use super::super::materials::Labelled;
use super::super::replay::Replayed;
use super::super::reward::Reward;
use super::signal::signal;
use super::{Origin, ScoredGroup};
use querywright_model::{Decoder, Finish, Tape};
use querywright_types::{Error, Result, Rewrite};

/// One query's group, as the learner takes it.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    /// The query's place in the training set.
    pub(crate) query: usize,
    /// Whether its rewards differ. Advantages of a zero-variance group are 0.
    pub(crate) informative: bool,
    /// What the query earns without a model, where that was asked.
    base: Option<f32>,
    rollout: Rollout,
    /// The round that sampled it, and its place among the prompts of that round: where its tape is.
    round: usize,
    prompt: usize,
    /// Completions whose format was broken.
    broken: usize,
    /// One a sample.
    outcomes: Vec<Outcome>,
}

/// What a completion said and earned, for `completions.jsonl`.
#[derive(Debug, Clone)]
struct Outcome {
    origin: Origin,
    text: String,
    /// Terms that were generated.
    generated: usize,
    rewrite: Option<Rewrite>,
    reward: Option<Reward>,
}

/// The groups of a step.
#[derive(Debug, Clone, Default)]
pub(crate) struct StepRollouts {
    pub(crate) groups: Vec<Group>,
    /// What each round recorded; none where there was no room.
    tapes: Vec<Option<Tape>>,
    /// Queries whose zero-variance groups were replaced.
    pub(crate) replaced: Vec<usize>,
    /// Requests that the environment failed for good.
    pub(crate) faults: usize,
    /// Groups with a completion from relevance feedback, the replaced ones included.
    pub(crate) injected: usize,
    /// Groups with a completion of an earlier step, the replaced ones included.
    pub(crate) replayed: usize,
    pub(crate) signal: GroupSignal,
}

impl Group {
    fn new(place: usize, scored: ScoredGroup<'_>, config: &TrainConfig) -> Result<Self> {
        let rewards: Vec<Option<&Reward>> = scored.completions.iter().map(|c| c.reward.as_ref()).collect();
        let signal = signal(&rewards, &[scored.base], rewards.len(), config)?;
        let broken = scored.completions.iter().filter(|c| c.reading.broken.is_some()).count();
        let (mut samples, mut outcomes) = (Vec::new(), Vec::new());
        for scored in scored.completions {
            let completion = scored.completion;
            samples.push(Sample {
                truncated: completion.finish != Finish::Stop,
                tokens: completion.tokens,
                sampled_logp: completion.log_probabilities,
                sampled_entropy: completion.entropies,
                advantage: 0.0,
                counterfactual: scored.counterfactual,
                dropped: false,
            });
            let (rewrite, generated) = (scored.reading.rewrite, scored.reading.generated);
            let (origin, reward) = (scored.origin, scored.reward);
            outcomes.push(Outcome { origin, text: completion.text, generated, rewrite, reward });
        }
        Ok(Self {
            query: scored.query,
            informative: signal.informative.first().copied().unwrap_or(false),
            base: scored.base,
            rollout: Rollout { prompt: scored.prompt.tokens, grammar: scored.prompt.grammar, samples },
            round: 0,
            prompt: place,
            broken,
            outcomes,
        })
    }

    fn has(&self, origin: Origin) -> bool {
        self.outcomes.iter().any(|outcome| outcome.origin == origin)
    }

    /// What may be replayed later: completions that the policy sampled to their end and that earn `margin` more than the
    /// query without a model.
    pub(crate) fn to_replay(&self, margin: f32) -> impl Iterator<Item = Replayed> + '_ {
        self.rollout.samples.iter().zip(&self.outcomes).filter_map(move |(sample, outcome)| {
            let gain = outcome.reward.as_ref()?.value - self.base?;
            let own = outcome.origin == Origin::Sampled && !sample.truncated;
            let kept = || Replayed { tokens: sample.tokens.clone(), text: outcome.text.clone(), gain };
            (own && gain > 0.0 && gain >= margin).then(kept)
        })
    }
}

impl StepRollouts {
    /// The groups of one round, with what it recorded.
    pub(super) fn of_round(groups: Vec<ScoredGroup<'_>>, tape: Option<Tape>, config: &TrainConfig) -> Result<Self> {
        let groups = groups.into_iter().enumerate().map(|(place, scored)| Group::new(place, scored, config));
        let groups = groups.collect::<Result<_>>()?;
        let mut rollouts = Self { groups, tapes: vec![tape], ..Self::default() };
        let count = |origin| rollouts.groups.iter().filter(|g: &&Group| g.has(origin)).count();
        (rollouts.injected, rollouts.replayed) = (count(Origin::Injected), count(Origin::Replayed));
        rollouts.assign_advantages(config)?;
        Ok(rollouts)
    }

    /// Takes over the informative groups of a further round. Up to `wanted`, zero-variance groups fill what is missing,
    /// the earlier ones first; the queries of the others are listed as replaced.
    pub(crate) fn join(&mut self, round: StepRollouts, wanted: usize, config: &TrainConfig) -> Result<()> {
        self.faults += round.faults;
        self.injected += round.injected;
        self.replayed += round.replayed;
        let (earlier, mut groups) = (self.tapes.len(), round.groups);
        self.tapes.extend(round.tapes);
        groups.iter_mut().for_each(|g| g.round += earlier);
        let (informative, zero_variance): (Vec<_>, Vec<_>) = groups.into_iter().partition(|g| g.informative);
        let (mut kept, mut reserve): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.groups).into_iter().partition(|g| g.informative);
        kept.extend(informative);
        reserve.extend(zero_variance);
        let room = wanted.saturating_sub(kept.len()).min(reserve.len());
        self.replaced.extend(reserve.drain(room..).map(|g| g.query));
        kept.extend(reserve);
        self.groups = kept;
        self.assign_advantages(config)
    }

    /// Computes the advantages over all groups.
    fn assign_advantages(&mut self, config: &TrainConfig) -> Result<()> {
        let outcomes = self.groups.iter().flat_map(|g| &g.outcomes);
        let rewards: Vec<Option<&Reward>> = outcomes.map(|o| o.reward.as_ref()).collect();
        let bases: Vec<Option<f32>> = self.groups.iter().map(|g| g.base).collect();
        self.signal = signal(&rewards, &bases, config.train.num_generations, config)?;
        let samples = self.groups.iter_mut().flat_map(|g| &mut g.rollout.samples);
        for (sample, (advantage, dropped)) in samples.zip(self.signal.advantages.iter().zip(&self.signal.dropped)) {
            sample.advantage = *advantage;
            sample.dropped = *dropped;
        }
        Ok(())
    }

    /// Bytes of its tapes.
    pub(crate) fn recorded(&self, decoder: &Decoder) -> usize {
        self.tapes.iter().flatten().map(|tape| tape.bytes(decoder)).sum()
    }

    /// What the learner takes: the groups of each round, with what it recorded of them. The tapes move out.
    pub(crate) fn batches(&mut self, decoder: &Decoder) -> Result<Vec<RolloutBatch>> {
        let mut batches = Vec::with_capacity(self.tapes.len());
        for (round, mut tape) in std::mem::take(&mut self.tapes).into_iter().enumerate() {
            let own: Vec<&Group> = self.groups.iter().filter(|g| g.round == round).collect();
            if own.is_empty() {
                continue;
            }
            if let Some(tape) = &mut tape {
                let prompts: Vec<usize> = own.iter().map(|g| g.prompt).collect();
                tape.retain(decoder, &prompts)?;
            }
            batches.push(RolloutBatch { rollouts: own.iter().map(|g| g.rollout.clone()).collect(), tape });
        }
        Ok(batches)
    }

    pub(crate) fn samples(&self) -> impl Iterator<Item = &Sample> {
        self.groups.iter().flat_map(|g| &g.rollout.samples)
    }

    /// Tokens of prompts and completions, the prompt counted for each completion.
    pub(crate) fn tokens(&self, prefix: usize) -> usize {
        let of_group = |g: &Group| -> usize {
            g.rollout.samples.iter().map(|s| prefix + g.rollout.prompt.len() + s.tokens.len()).sum()
        };
        self.groups.iter().map(of_group).sum()
    }

    /// Terms that were generated, over all completions.
    pub(crate) fn generated(&self) -> usize {
        self.groups.iter().flat_map(|g| &g.outcomes).map(|o| o.generated).sum()
    }

    /// Completions whose format was broken.
    pub(crate) fn broken(&self) -> usize {
        self.groups.iter().map(|g| g.broken).sum()
    }

    /// The mean over the policy's own rewarded completions of what `gain` makes of a query's number and a reward; none
    /// without one.
    pub(crate) fn mean(&self, gain: impl Fn(usize, &Reward) -> Option<f64>) -> Option<f64> {
        let of_group = |g: &Group| {
            let own = g.outcomes.iter().filter(|o| o.origin == Origin::Sampled);
            own.filter_map(|o| gain(g.query, o.reward.as_ref()?)).collect::<Vec<f64>>()
        };
        let gains: Vec<f64> = self.groups.iter().flat_map(of_group).collect();
        (!gains.is_empty()).then(|| gains.iter().sum::<f64>() / gains.len() as f64)
    }

    /// The lines of `completions.jsonl`.
    pub(crate) fn records(&self, step: u64, train: &[Labelled]) -> Result<Vec<CompletionRecord>> {
        let mut records = Vec::new();
        for group in &self.groups {
            let Some((query, _)) = train.get(group.query) else {
                let found = format!("no training query has the number {}", group.query);
                return Err(Error::bug("train::rollout::step", found));
            };
            for (sample, outcome) in group.rollout.samples.iter().zip(&group.outcomes) {
                let reward = outcome.reward.as_ref();
                records.push(CompletionRecord {
                    step,
                    query_id: query.id.clone(),
                    query: query.text.clone(),
                    completion: outcome.text.clone(),
                    rewrite: outcome.rewrite.as_ref().map(|r| r.text.clone()),
                    reward: reward.map(|r| r.value),
                    parts: reward.map(|r| r.parts.clone()).unwrap_or_default(),
                    advantage: sample.advantage,
                    truncated: sample.truncated,
                });
            }
        }
        Ok(records)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;
    use super::*;
    use crate::learner::{Learner, LearnerConfig};
    use crate::loss::LossConfig;
    use crate::optimizer::AdamW;
    use querywright_model::Adapter;

    /// A round of groups of two, given by query and rewards; no tape.
    fn round(fixture: &Fixture, groups: &[(usize, [f32; 2])]) -> StepRollouts {
        let group = |(query, [a, b]): &(usize, [f32; 2])| fixture.group(*query, &[("first", *a), ("second", *b)]);
        StepRollouts::of_round(groups.iter().map(group).collect(), None, &fixture.config).unwrap()
    }

    fn queries(rollouts: &StepRollouts) -> Vec<usize> {
        rollouts.groups.iter().map(|g| g.query).collect()
    }

    #[test]
    fn a_further_round_replaces_zero_variance_groups_and_the_earlier_ones_fill_what_is_missing() {
        let fixture = Fixture::new();
        let mut rollouts = StepRollouts::default();
        rollouts.join(round(&fixture, &[(0, [0.0, 0.0]), (1, [0.0, 1.0])]), 2, &fixture.config).unwrap();
        assert_eq!((queries(&rollouts), rollouts.replaced.len()), (vec![1, 0], 0), "nothing better yet");
        rollouts.join(round(&fixture, &[(2, [0.5, 1.0])]), 2, &fixture.config).unwrap();
        assert_eq!((queries(&rollouts), rollouts.replaced.clone()), (vec![1, 2], vec![0]));
        assert!(rollouts.groups.iter().all(|g| g.informative));
        assert_eq!(rollouts.signal.frac_reward_zero_std, 0.0, "of what is left");
    }

    #[test]
    fn groups_whose_rewards_differ_less_than_the_range_asked_for_are_replaced_like_equal_ones() {
        let mut fixture = Fixture::new();
        fixture.config.train.min_group_range = 0.01;
        let mut rollouts = StepRollouts::default();
        rollouts.join(round(&fixture, &[(0, [0.5, 0.505]), (1, [0.0, 1.0])]), 2, &fixture.config).unwrap();
        rollouts.join(round(&fixture, &[(2, [0.5, 1.0])]), 2, &fixture.config).unwrap();
        assert_eq!((queries(&rollouts), rollouts.replaced), (vec![1, 2], vec![0]));
    }

    #[test]
    fn against_the_base_a_group_of_equal_rewards_below_it_has_a_signal_and_gains_are_counted() {
        let mut fixture = Fixture::new();
        fixture.config.train.baseline = crate::advantage::Baseline::Base;
        let group = |query, rewards: [f32; 2], base| {
            let mut group = fixture.group(query, &[("first", rewards[0]), ("second", rewards[1])]);
            group.base = base;
            group
        };
        let groups =
            vec![group(0, [0.25, 0.25], Some(0.5)), group(1, [0.5, 0.5], Some(0.5)), group(2, [0.0, 1.0], None)];
        let rollouts = StepRollouts::of_round(groups, None, &fixture.config).unwrap();
        assert_eq!(rollouts.groups.iter().map(|g| g.informative).collect::<Vec<_>>(), [true, false, false]);
        assert!(rollouts.samples().take(2).all(|s| s.advantage < -0.9));
        let gain = |query: usize, reward: &Reward| (query < 2).then(|| f64::from(reward.value) - 0.5);
        assert_eq!(rollouts.mean(gain), Some(-0.125));
        assert_eq!((rollouts.generated(), round(&fixture, &[]).mean(gain)), (6, None));
    }

    #[test]
    fn sampled_completions_that_gain_the_margin_over_the_base_are_kept_and_no_others() {
        let fixture = Fixture::new();
        let mut group = fixture.group(0, &[("a", 0.52), ("b", 0.5), ("c", 0.9), ("d", 0.9), ("e", 0.9), ("f", 0.4)]);
        group.base = Some(0.5);
        group.completions[2].origin = Origin::Injected;
        group.completions[3].completion.finish = Finish::Length;
        let kept = |group: &ScoredGroup<'_>, margin: f32| -> Vec<String> {
            let group = Group::new(0, group.clone(), &fixture.config).unwrap();
            group.to_replay(margin).map(|kept| kept.text).collect()
        };
        assert_eq!(kept(&group, 0.01), [" a", " e"]);
        assert_eq!(kept(&group, 0.1), [" e"]);
        assert_eq!(kept(&group, 0.0), [" a", " e"], "as much as the base is no gain");
        group.base = None;
        assert!(kept(&group, 0.0).is_empty());
    }

    #[test]
    fn each_round_is_a_batch_of_its_own_without_the_replaced_groups() {
        let fixture = Fixture::new();
        let mut rollouts = StepRollouts::default();
        rollouts.join(round(&fixture, &[(0, [0.0, 0.0]), (1, [0.0, 1.0])]), 2, &fixture.config).unwrap();
        rollouts.join(round(&fixture, &[(2, [0.5, 1.0])]), 2, &fixture.config).unwrap();
        let batches = rollouts.batches(&fixture.materials.decoder).unwrap();
        assert_eq!(batches.iter().map(|b| b.rollouts.len()).collect::<Vec<_>>(), [1, 1]);
    }

    #[test]
    fn a_restricted_step_is_learned_with_the_probabilities_that_it_was_sampled_with() {
        let mut fixture = Fixture::restricted(&["lantern", "kettle", "tent", "kettles"]);
        fixture.config.train.num_generations = 8;
        let (mut adapter, m) = (fixture.adapter(), &fixture.materials);
        let rollouts = fixture.sampler().sample(&[0, 1, 2], &adapter, 1, 0);
        let mut batches = rollouts.unwrap().batches(&m.decoder).unwrap();
        assert!(batches[0].tape.is_some() && batches[0].rollouts.iter().all(|r| r.grammar.is_some()));
        let samples = batches.iter_mut().flat_map(|b| &mut b.rollouts).flat_map(|r| &mut r.samples);
        samples.enumerate().for_each(|(i, sample)| sample.advantage = (i % 3) as f32 - 1.0);
        let config = LearnerConfig {
            loss: LossConfig { beta: 0.1, entropy_coef: 0.01, max_completion_length: 24, ..Default::default() },
            temperature: fixture.config.sampling.temperature,
            max_grad_norm: 1.0,
            num_iterations: 2,
            term_credit_coef: 0.0,
            rank_credit: None,
            micro_batch_tokens: None,
        };
        let learner = Learner { decoder: &m.decoder, prefix: m.encoder.prefix(), config: &config };
        let mut optimizer = AdamW::new(Default::default());
        let learned = |batches, rate, adapter: &mut Adapter, optimizer: &mut AdamW| {
            learner.learn(adapter, optimizer, rate, batches).unwrap()
        };
        let report = learned(batches.clone(), 1e-3, &mut adapter, &mut optimizer);
        assert!(report.compared > 20 && report.logp_difference_max < 1e-4, "{report:?}");
        // The same from teacher-forced passes alone, as after a step without a tape, and with other rules: a policy that
        // may write anything gives these words next to no probability.
        batches.iter_mut().for_each(|batch| batch.tape = None);
        let (mut adapter, mut optimizer) = (fixture.adapter(), AdamW::new(Default::default()));
        let forced = learned(batches.clone(), 1e-3, &mut adapter, &mut optimizer);
        assert!(
            forced.logp_difference_max < 1e-3 && (forced.grad_norm - report.grad_norm).abs() < 1e-3 * report.grad_norm
        );
        batches.iter_mut().flat_map(|batch| &mut batch.rollouts).for_each(|rollout| rollout.grammar = None);
        let free = learned(batches, 1e-3, &mut adapter, &mut optimizer);
        assert!(free.logp_difference > 1.0, "{free:?}");
    }

    #[test]
    fn a_record_says_what_a_completion_was_worth_within_its_group() {
        let fixture = Fixture::new();
        let rollouts = round(&fixture, &[(1, [0.0, 1.0])]);
        let records = rollouts.records(7, &fixture.materials.train).unwrap();
        assert_eq!(records.iter().map(|r| r.completion.as_str()).collect::<Vec<_>>(), [" first", " second"]);
        assert!(records.iter().all(|r| r.step == 7 && r.query_id == fixture.materials.train[1].0.id));
        assert!(records[0].advantage < 0.0 && records[1].advantage == -records[0].advantage);
        assert_eq!((records[1].reward, records[1].rewrite.as_deref()), (Some(1.0), Some("second")));
    }
}
