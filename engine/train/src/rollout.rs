//! Rollouts: completions of prompts, what their rankings earned, and what each term contributed.
//!
//! A round of sampling has three stages. [`collect`] samples a group of completions for each prompt and scores them
//! against the retriever. [`inject`] replaces one completion of a group by words from relevance feedback, where these
//! earn more. [`credit`] scores each rewrite again without each of its terms. [`StepRollouts`] joins the rounds of a
//! step.

mod collect;
mod credit;
#[cfg(test)]
pub(crate) mod fixture;
mod inject;
mod relevance_feedback;
mod step;

pub(super) use relevance_feedback::{Form, RelevanceFeedback};
pub(super) use step::StepRollouts;

use super::advantage::Counterfactual;
use super::config::TrainConfig;
use super::materials::{Labelled, Materials};
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
    /// The prompt, with what its completions may consist of.
    prompt: PromptTokens,
    completions: Vec<ScoredCompletion>,
}

/// A completion on its way through the stages.
#[derive(Debug, Clone)]
struct ScoredCompletion {
    completion: Completion,
    reading: Reading,
    /// None where the environment failed.
    reward: Option<Reward>,
    /// Empty until [`credit`] fills it.
    counterfactual: Counterfactual,
}

impl ScoredCompletion {
    fn value(&self) -> Option<f32> {
        self.reward.as_ref().map(|r| r.value)
    }
}

/// Rewrites of one query that are to be scored; None stands for a broken format.
struct Unscored<'a> {
    labelled: &'a Labelled,
    original: &'a Rewrite,
    rewrites: Vec<Option<&'a Rewrite>>,
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
        let injected = self.inject(&mut groups)?;
        if let Some(tape) = &mut tape {
            let last = |group: &usize| {
                let completions = &groups.get(*group)?.completions;
                Some((*group, completions.len() - 1, completions.last()?.completion.tokens.as_slice()))
            };
            let replaced: Vec<(usize, usize, &[u32])> = injected.groups.iter().filter_map(last).collect();
            tape.replace(&self.materials.decoder, adapter.deltas(), &replaced)?;
        }
        let credit_faults = self.credit(&mut groups)?;
        let mut rollouts = StepRollouts::of_round(groups, tape, self.config)?;
        rollouts.faults = faults + injected.faults + credit_faults;
        rollouts.injected = injected.groups.len();
        Ok(rollouts)
    }

    /// Rewards of groups of rewrites, in one batch of retrievals.
    fn score(&self, groups: &[Unscored<'_>]) -> Scores {
        let candidates: Vec<Candidate<'_>> = groups
            .iter()
            .flat_map(|group| {
                let ((query, judgements), original) = (group.labelled, group.original);
                group.rewrites.iter().map(move |rewrite| Candidate { query, judgements, original, rewrite: *rewrite })
            })
            .collect();
        let retriever = self.materials.retriever.as_ref();
        let batch = self.reward.score_batch(retriever, &candidates, self.cache, self.config.train.retries);
        let mut rewards = batch.rewards.into_iter();
        let groups = groups.iter().map(|group| rewards.by_ref().take(group.rewrites.len()).collect()).collect();
        Scores { groups, faults: batch.faults.len() }
    }
}
