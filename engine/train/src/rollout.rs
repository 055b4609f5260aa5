//! Rollouts: completions of prompts, what their rankings earned, and what each term contributed.
//!
//! A round of sampling has four stages. [`collect`] samples a group of completions for each prompt and scores them
//! against the retriever. [`replay`] and [`inject`] replace the last completion of a group, where that earns more: the
//! first by a completion of an earlier step, the second by words from relevance feedback. [`credit`] scores each rewrite
//! again without each of its terms. [`StepRollouts`] joins the rounds of a step.

mod best_order;
mod collect;
mod credit;
#[cfg(test)]
pub(crate) mod fixture;
mod inject;
mod relevance_feedback;
mod replay;
mod signal;
mod step;

pub(super) use best_order::best_order;
pub(super) use relevance_feedback::{Form, RelevanceFeedback};
pub(super) use step::StepRollouts;

use super::advantage::Counterfactual;
use super::config::TrainConfig;
use super::materials::{Labelled, Materials};
use super::replay::Replay;
use super::reward::{Candidate, Reward, RewardCache, RewardFunction};
use querywright_model::{Adapter, Completion, PromptTokens};
use querywright_rewrite::Reading;
use querywright_types::{Result, Rewrite};

/// What rollouts are made with.
pub(super) struct Sampler<'a> {
    pub(super) config: &'a TrainConfig,
    pub(super) materials: &'a Materials,
    pub(super) reward: &'a RewardFunction,
    pub(super) cache: &'a RewardCache,
    /// What each training query is without a model.
    pub(super) originals: &'a [Rewrite],
    /// None: nothing is injected.
    pub(super) feedback: Option<&'a RelevanceFeedback>,
    /// Completions of earlier steps.
    pub(super) replay: &'a Replay,
}

/// A prompt's completions with their rewards.
#[derive(Debug, Clone)]
struct ScoredGroup<'a> {
    /// The query's place in the training set.
    query: usize,
    /// The query and its judgements.
    labelled: &'a Labelled,
    /// What the query is without a model.
    original: &'a Rewrite,
    /// What that earns; none where nobody asked, or the environment failed.
    base: Option<f32>,
    /// The prompt, with what its completions may consist of.
    prompt: PromptTokens,
    completions: Vec<ScoredCompletion>,
}

/// Where a completion comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// The policy of this step.
    Sampled,
    /// The policy of an earlier step.
    Replayed,
    /// Relevance feedback.
    Injected,
}

/// A completion on its way through the stages.
#[derive(Debug, Clone)]
struct ScoredCompletion {
    origin: Origin,
    completion: Completion,
    reading: Reading,
    /// None where the environment failed.
    reward: Option<Reward>,
    /// Empty until [`credit`] fills it.
    counterfactual: Counterfactual,
}

impl ScoredCompletion {
    /// A completion that the policy of this step did not sample: NaN in place of the sampler's numbers tells the learner
    /// to compute its own.
    fn foreign(origin: Origin, (text, tokens): (String, Vec<u32>), reading: Reading, reward: Reward) -> Self {
        let completion = Completion::of(tokens, text, f32::NAN);
        Self { origin, completion, reading, reward: Some(reward), counterfactual: Counterfactual::default() }
    }

    fn value(&self) -> Option<f32> {
        self.reward.as_ref().map(|r| r.value)
    }
}

impl ScoredGroup<'_> {
    /// What the best completion earns; negative infinity where none has a reward.
    fn reached(&self) -> f32 {
        self.completions.iter().filter_map(ScoredCompletion::value).fold(f32::NEG_INFINITY, f32::max)
    }
}

/// A rewrite that is to be scored.
#[derive(Debug, Clone, Copy)]
struct Written<'a> {
    /// None stands for a broken format.
    rewrite: Option<&'a Rewrite>,
    /// How many terms of it the model wrote.
    generated: usize,
}

impl<'a> Written<'a> {
    fn of(reading: &'a Reading) -> Self {
        Self { rewrite: reading.rewarded(), generated: reading.generated }
    }
}

/// Rewrites of one query that are to be scored.
struct Unscored<'a> {
    labelled: &'a Labelled,
    original: &'a Rewrite,
    rewrites: Vec<Written<'a>>,
}

/// Rewards, group by group, and the requests that failed for good.
struct Scores {
    groups: Vec<Vec<Option<Reward>>>,
    faults: usize,
}

impl Sampler<'_> {
    /// One round: samples and scores a group for each of `queries` (places in the training set).
    /// `recorded` bytes of tape are taken by earlier rounds of the step.
    ///
    /// # Errors
    /// A prompt that is too long, or a device that fails.
    pub(super) fn sample(
        &self,
        queries: &[usize],
        adapter: &Adapter,
        step: u64,
        recorded: usize,
    ) -> Result<StepRollouts> {
        let collect::Collected { mut groups, mut tape, faults } = self.collect(queries, adapter, step, recorded)?;
        let replay_faults = self.replay(&mut groups, step)?;
        let inject_faults = self.inject(&mut groups)?;
        if let Some(tape) = &mut tape {
            let replaced = groups.iter().enumerate().filter_map(|(place, group)| {
                let last = group.completions.last().filter(|last| last.origin != Origin::Sampled)?;
                Some((place, group.completions.len() - 1, last.completion.tokens.as_slice()))
            });
            tape.replace(&self.materials.decoder, adapter.deltas(), &replaced.collect::<Vec<_>>())?;
        }
        let credit_faults = self.credit(&mut groups)?;
        let mut rollouts = StepRollouts::of_round(groups, tape, self.config)?;
        rollouts.faults = faults + replay_faults + inject_faults + credit_faults;
        Ok(rollouts)
    }

    /// Rewards of groups of rewrites, in one batch of retrievals.
    fn score(&self, groups: &[Unscored<'_>]) -> Scores {
        let candidates: Vec<Candidate<'_>> = groups
            .iter()
            .flat_map(|group| {
                let ((query, judgements), original) = (group.labelled, group.original);
                group.rewrites.iter().map(move |written| Candidate {
                    query,
                    judgements,
                    original,
                    rewrite: written.rewrite,
                    generated: written.generated,
                })
            })
            .collect();
        let retriever = self.materials.retriever.as_ref();
        let batch = self.reward.score_batch(retriever, &candidates, self.cache, self.config.train.retries);
        let mut rewards = batch.rewards.into_iter();
        let groups = groups.iter().map(|group| rewards.by_ref().take(group.rewrites.len()).collect()).collect();
        Scores { groups, faults: batch.faults.len() }
    }
}
