//! Rollouts: completions of prompts, what the environment makes of them, and what each term was worth.

use std::ops::Range;

use super::advantage::{Counterfactual, GroupSignal, Term, group_advantages};
use super::config::TrainConfig;
use super::guidance::Guidance;
use super::learner::{Rollout, RolloutBatch, Sample};
use super::log::CompletionRecord;
use super::materials::{Labelled, Materials};
use super::reward::{Candidate, Reward, RewardCache, RewardFunction};
use crate::error::Result;
use crate::model::{
    Adapter, Completion, Decoder, Finish, GenerateOptions, PromptTokens, Tape, Tokenizer, generate, generate_recorded,
    prefix,
};
use crate::rewrite::Reading;
use crate::types::{Deadline, Rewrite};

/// What rollouts are made with.
pub(super) struct Environment<'a> {
    pub(super) config: &'a TrainConfig,
    pub(super) materials: &'a Materials,
    pub(super) reward: &'a RewardFunction,
    pub(super) cache: &'a RewardCache,
    pub(super) guidance: Option<&'a Guidance>,
}

/// One query's group.
#[derive(Debug, Clone)]
pub(super) struct DrawnGroup {
    /// The query's place in the training set.
    pub(super) query: usize,
    pub(super) rollout: Rollout,
    /// Which of the step's draws it came with, and as which of its prompts.
    place: (usize, usize),
    /// Whether its rewards differ.
    pub(super) informative: bool,
    /// Completions whose format was broken.
    broken: usize,
    texts: Vec<String>,
    rewrites: Vec<Option<Rewrite>>,
    rewards: Vec<Option<Reward>>,
}

/// The groups of a step.
#[derive(Debug, Clone, Default)]
pub(super) struct Drawn {
    pub(super) groups: Vec<DrawnGroup>,
    /// What each draw recorded; none where there was no room.
    tapes: Vec<Option<Tape>>,
    /// Queries whose groups carried no signal and were replaced.
    pub(super) silent: Vec<usize>,
    /// Requests that the environment failed for good.
    pub(super) faults: usize,
    /// Groups of which one completion came from relevance feedback.
    pub(super) repaired: usize,
    pub(super) signal: GroupSignal,
}

impl Environment<'_> {
    /// Draws and scores a group for each query.
    /// `recorded` bytes are taken by what earlier draws of the step recorded.
    pub(super) fn sample(&self, queries: &[usize], adapter: &Adapter, step: u64, recorded: usize) -> Result<Drawn> {
        let m = self.materials;
        let labelled: Vec<(usize, &Labelled)> = queries.iter().filter_map(|q| Some((*q, m.train.get(*q)?))).collect();
        let mut prompts = Vec::with_capacity(labelled.len());
        for (index, (query, _)) in &labelled {
            // A query is drawn once a step, so step and query make a stream of its own.
            prompts.push(PromptTokens { stream: step << 32 | *index as u64, tokens: m.encoder.encode(query)? });
        }
        let options = GenerateOptions {
            sampling: &self.config.sampling,
            completions: self.config.train.num_generations,
            stop: m.encoder.stop(),
            seed: self.config.train.seed,
            deadline: Deadline::NONE,
        };
        let room = (self.config.train.tape_mib << 20).saturating_sub(recorded);
        let (mut generated, mut tape) = if m.decoder.records(m.encoder.prefix().len(), &prompts, &options, room) {
            let (decoder, tokenizer, shared) = (&m.decoder, &m.tokenizer, m.encoder.prefix());
            generate_recorded(decoder, tokenizer, shared, &prompts, adapter.deltas(), &options)?
        } else {
            let shared = prefix(&m.decoder, m.encoder.prefix(), adapter.deltas())?;
            (generate(&m.decoder, &m.tokenizer, &shared, &prompts, adapter.deltas(), &options)?, None)
        };
        let mut readings: Vec<Vec<Reading>> = generated
            .iter()
            .zip(&labelled)
            .map(|(group, (_, (query, _)))| group.iter().map(|c| m.encoder.read(query, &c.text)).collect())
            .collect();
        let mut drawn = Drawn::default();
        let mut rewards =
            self.score(&labelled, readings.iter().map(|g| g.iter().map(Reading::earning).collect()), &mut drawn);
        let repaired = self.repair(&labelled, &mut generated, &mut readings, &mut rewards, &mut drawn)?;
        if let Some(tape) = &mut tape {
            let last = |prompt: &usize| {
                let completions = generated.get(*prompt)?;
                Some((*prompt, completions.len() - 1, completions.last()?.tokens.as_slice()))
            };
            let replaced: Vec<(usize, usize, &[u32])> = repaired.iter().filter_map(last).collect();
            tape.replace(&m.decoder, adapter.deltas(), &replaced)?;
        }
        let counterfactuals = self.counterfactuals(&labelled, &generated, &readings, &rewards, &mut drawn)?;
        drawn.tapes.push(tape);
        for (index, ((((completions, readings), rewards), counterfactuals), ((query, _), prompt))) in generated
            .into_iter()
            .zip(readings)
            .zip(rewards)
            .zip(counterfactuals)
            .zip(labelled.iter().zip(prompts))
            .enumerate()
        {
            let values: Vec<Option<f32>> = rewards.iter().map(|r| r.as_ref().map(|r| r.value)).collect();
            let signal = group_advantages(&values, values.len(), self.config.train.scale_rewards)?;
            let texts = completions.iter().map(|c| c.text.clone()).collect();
            let samples =
                completions.into_iter().zip(counterfactuals).map(|(c, counterfactual)| sample(c, counterfactual));
            drawn.groups.push(DrawnGroup {
                query: *query,
                rollout: Rollout { prompt: prompt.tokens, samples: samples.collect() },
                place: (0, index),
                informative: signal.informative.first().copied().unwrap_or(false),
                broken: readings.iter().filter(|r| r.broken.is_some()).count(),
                texts,
                rewrites: readings.into_iter().map(|r| r.rewrite).collect(),
                rewards,
            });
        }
        drawn.settle(self.config)?;
        Ok(drawn)
    }

    /// Rewards of groups of rewrites, in one batch.
    fn score<'r>(
        &self,
        labelled: &[(usize, &Labelled)],
        groups: impl Iterator<Item = Vec<Option<&'r Rewrite>>>,
        drawn: &mut Drawn,
    ) -> Vec<Vec<Option<Reward>>> {
        let groups: Vec<Vec<Option<&Rewrite>>> = groups.collect();
        let candidates: Vec<Candidate<'_>> = groups
            .iter()
            .zip(labelled)
            .flat_map(|(group, (_, (query, judgements)))| {
                group.iter().map(move |rewrite| Candidate { query, judgements, rewrite: *rewrite })
            })
            .collect();
        let retriever = self.materials.retriever.as_ref();
        let batch = self.reward.score_batch(retriever, &candidates, self.cache, self.config.train.retries);
        drawn.faults += batch.faults.len();
        let mut rewards = batch.rewards.into_iter();
        groups.iter().map(|group| rewards.by_ref().take(group.len()).collect()).collect()
    }

    /// Replaces the last completion of each group by one from relevance feedback, where that earns more than all of them
    /// by `repair_margin` (with 0: at least as much).
    /// Gives the groups in which that happened.
    fn repair(
        &self,
        labelled: &[(usize, &Labelled)],
        generated: &mut [Vec<Completion>],
        readings: &mut [Vec<Reading>],
        rewards: &mut [Vec<Option<Reward>>],
        drawn: &mut Drawn,
    ) -> Result<Vec<usize>> {
        let Some(guidance) = self.guidance else { return Ok(Vec::new()) };
        let mut repaired = Vec::new();
        let m = self.materials;
        let proposals: Vec<Vec<String>> = labelled
            .iter()
            .map(|(_, (query, judgements))| {
                guidance.proposals(
                    &m.catalog,
                    query,
                    judgements,
                    (self.config.prompt.mode, m.encoder.prompter().language()),
                    self.config.train.repair_words,
                )
            })
            .collect();
        let proposed: Vec<Vec<Reading>> = proposals
            .iter()
            .zip(labelled)
            .map(|(lists, (_, (query, _)))| {
                lists.iter().map(|text| m.encoder.read(query, &format!(" {text}"))).collect()
            })
            .collect();
        let earned = self.score(labelled, proposed.iter().map(|g| g.iter().map(Reading::earning).collect()), drawn);
        let groups = generated.iter_mut().zip(readings).zip(rewards).zip(proposals.iter().zip(proposed).zip(earned));
        for (group, (((completions, readings), rewards), ((texts, proposed), earned))) in groups.enumerate() {
            let value = |reward: &Option<Reward>| reward.as_ref().map_or(f32::NEG_INFINITY, |r| r.value);
            let reached = rewards.iter().map(value).fold(f32::NEG_INFINITY, f32::max);
            let margin = self.config.train.repair_margin;
            let mut best: Option<(usize, f32)> = None;
            for (index, reward) in earned.iter().enumerate() {
                let value = value(reward);
                if value.is_infinite() {
                    // The environment failed on it.
                    continue;
                }
                // Of equally good lists the shortest: the first.
                if best.map_or(value >= reached + margin, |(_, earlier)| value > earlier + margin) {
                    best = Some((index, value));
                }
            }
            let Some((index, _)) = best else { continue };
            let (Some(text), Some(reading), Some(reward)) = (texts.get(index), proposed.get(index), earned.get(index))
            else {
                continue;
            };
            let Some(tokens) = m.encoder.answer(text)? else { continue };
            if tokens.len() > self.config.sampling.max_completion_length {
                continue;
            }
            if let (Some(c), Some(r), Some(w)) = (completions.last_mut(), readings.last_mut(), rewards.last_mut()) {
                // Nobody sampled it: the trainer's own number stands in for the sampler's.
                let nobody = vec![f32::NAN; tokens.len()];
                *c = Completion {
                    tokens,
                    log_probabilities: nobody.clone(),
                    entropies: nobody,
                    text: format!(" {text}"),
                    finish: Finish::Stop,
                };
                (*r, *w) = (reading.clone(), reward.clone());
                repaired.push(group);
            }
        }
        drawn.repaired += repaired.len();
        Ok(repaired)
    }

    /// What each term of each rewrite was worth: the reward without it, by one more batch of retrievals.
    fn counterfactuals(
        &self,
        labelled: &[(usize, &Labelled)],
        generated: &[Vec<Completion>],
        readings: &[Vec<Reading>],
        rewards: &[Vec<Option<Reward>>],
        drawn: &mut Drawn,
    ) -> Result<Vec<Vec<Counterfactual>>> {
        if self.config.train.term_credit_coef == 0.0 {
            return Ok(generated.iter().map(|g| vec![Counterfactual::default(); g.len()]).collect());
        }
        let without: Vec<Vec<Option<&Rewrite>>> = readings
            .iter()
            .map(|group| group.iter().flat_map(|r| r.terms.iter().map(|t| Some(&t.without))).collect())
            .collect();
        let scored = self.score(labelled, without.into_iter(), drawn);
        let mut all = Vec::with_capacity(generated.len());
        for (((completions, readings), rewards), scored) in generated.iter().zip(readings).zip(rewards).zip(scored) {
            let mut scored = scored.into_iter();
            let mut group = Vec::with_capacity(completions.len());
            for ((completion, reading), reward) in completions.iter().zip(readings).zip(rewards) {
                let ends = token_ends(&self.materials.tokenizer, &completion.tokens)?;
                let terms = reading.terms.iter().zip(scored.by_ref()).map(|(term, reward)| Term {
                    tokens: vec![tokens_of(&ends, &term.span)],
                    reward_without: reward.map(|r| r.value),
                });
                group.push(Counterfactual { reward: reward.as_ref().map(|r| r.value), terms: terms.collect() });
            }
            all.push(group);
        }
        Ok(all)
    }
}

fn sample(completion: Completion, counterfactual: Counterfactual) -> Sample {
    Sample {
        truncated: completion.finish != Finish::Stop,
        tokens: completion.tokens,
        sampled_logp: completion.log_probabilities,
        sampled_entropy: completion.entropies,
        advantage: 0.0,
        counterfactual,
        dropped: false,
    }
}

/// The byte at which each token's text ends in the completion's text.
fn token_ends(tokenizer: &Tokenizer, tokens: &[u32]) -> Result<Vec<usize>> {
    (1..=tokens.len()).map(|n| tokenizer.decode(&tokens[..n]).map(|t| t.len())).collect()
}

/// The tokens that overlap a stretch of bytes.
fn tokens_of(ends: &[usize], span: &Range<usize>) -> Range<usize> {
    let first = ends.iter().position(|end| *end > span.start).unwrap_or(ends.len());
    let last = ends.iter().position(|end| *end >= span.end).map_or(ends.len(), |i| i + 1);
    first..last.max(first)
}

impl Drawn {
    /// Takes over the informative groups of a fresh draw, and fills up with silent ones while none are better.
    pub(super) fn replace_silent(&mut self, fresh: Drawn, wanted: usize, config: &TrainConfig) -> Result<()> {
        self.faults += fresh.faults;
        self.repaired += fresh.repaired;
        let (earlier, mut groups) = (self.tapes.len(), fresh.groups);
        self.tapes.extend(fresh.tapes);
        groups.iter_mut().for_each(|g| g.place.0 += earlier);
        let (good, silent): (Vec<_>, Vec<_>) = groups.into_iter().partition(|g| g.informative);
        let (mut kept, mut reserve): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.groups).into_iter().partition(|g| g.informative);
        kept.extend(good);
        reserve.extend(silent);
        let room = wanted.saturating_sub(kept.len()).min(reserve.len());
        self.silent.extend(reserve.drain(room..).map(|g| g.query));
        kept.extend(reserve);
        self.groups = kept;
        self.settle(config)
    }

    /// Computes the advantages over all groups.
    fn settle(&mut self, config: &TrainConfig) -> Result<()> {
        let rewards: Vec<Option<f32>> =
            self.groups.iter().flat_map(|g| g.rewards.iter().map(|r| r.as_ref().map(|r| r.value))).collect();
        self.signal = group_advantages(&rewards, config.train.num_generations, config.train.scale_rewards)?;
        let samples = self.groups.iter_mut().flat_map(|g| &mut g.rollout.samples);
        for (sample, (advantage, dropped)) in samples.zip(self.signal.advantages.iter().zip(&self.signal.dropped)) {
            sample.advantage = *advantage;
            sample.dropped = *dropped;
        }
        Ok(())
    }

    /// Bytes that its recordings take.
    pub(super) fn recorded(&self, decoder: &Decoder) -> usize {
        self.tapes.iter().flatten().map(|tape| tape.bytes(decoder)).sum()
    }

    /// What is learned from: the groups of each draw, with what it recorded of them.
    pub(super) fn batches(&mut self, decoder: &Decoder) -> Result<Vec<RolloutBatch>> {
        let mut batches = Vec::with_capacity(self.tapes.len());
        for (draw, mut tape) in std::mem::take(&mut self.tapes).into_iter().enumerate() {
            let own: Vec<&DrawnGroup> = self.groups.iter().filter(|g| g.place.0 == draw).collect();
            if own.is_empty() {
                continue;
            }
            if let Some(tape) = &mut tape {
                let prompts: Vec<usize> = own.iter().map(|g| g.place.1).collect();
                tape.retain(decoder, &prompts)?;
            }
            batches.push(RolloutBatch { rollouts: own.iter().map(|g| g.rollout.clone()).collect(), tape });
        }
        Ok(batches)
    }

    pub(super) fn samples(&self) -> impl Iterator<Item = &Sample> {
        self.groups.iter().flat_map(|g| &g.rollout.samples)
    }

    /// Tokens of prompts and completions, the prompt counted for each completion.
    pub(super) fn tokens(&self, prefix: usize) -> usize {
        let of_group = |g: &DrawnGroup| -> usize {
            g.rollout.samples.iter().map(|s| prefix + g.rollout.prompt.len() + s.tokens.len()).sum()
        };
        self.groups.iter().map(of_group).sum()
    }

    /// Completions whose format was broken.
    pub(super) fn broken(&self) -> usize {
        self.groups.iter().map(|g| g.broken).sum()
    }

    /// The lines of `completions.jsonl`.
    pub(super) fn records(&self, step: u64, train: &[Labelled]) -> Vec<CompletionRecord> {
        let mut records = Vec::new();
        for group in &self.groups {
            let Some((query, _)) = train.get(group.query) else { continue };
            for (i, sample) in group.rollout.samples.iter().enumerate() {
                let reward = group.rewards.get(i).and_then(Option::as_ref);
                records.push(CompletionRecord {
                    step,
                    query_id: query.id.clone(),
                    query: query.text.clone(),
                    completion: group.texts.get(i).cloned().unwrap_or_default(),
                    rewrite: group.rewrites.get(i).and_then(Option::as_ref).map(|r| r.text.clone()),
                    reward: reward.map(|r| r.value),
                    parts: reward.map(|r| r.parts.clone()).unwrap_or_default(),
                    advantage: sample.advantage,
                    truncated: sample.truncated,
                });
            }
        }
        records
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_term_is_spelled_by_every_token_that_overlaps_it() {
        let ends = [3, 5, 9, 10];
        assert_eq!(tokens_of(&ends, &(0..3)), 0..1);
        assert_eq!(tokens_of(&ends, &(4..6)), 1..3);
        assert_eq!(tokens_of(&ends, &(3..10)), 1..4);
        assert_eq!(tokens_of(&ends, &(12..14)), 4..4);
    }
}
