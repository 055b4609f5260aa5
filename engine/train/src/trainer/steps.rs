//! The steps that are not GRPO's: supervised ones, rounds of rejection sampling, and preferences.

use std::collections::HashSet;

use super::Trainer;
use super::environment::Environment;
use crate::config::Method;
use crate::epochs::places;
use crate::learner::{LearnerConfig, Rollout, RolloutBatch, Sample};
use crate::log::{StepMetrics, name};
use crate::loss::LossConfig;
use crate::replay::Replay;
use querywright_types::{Error, Result};

/// What a round of rejection sampling came to, means weighed by groups.
#[derive(Default)]
struct Round {
    groups: usize,
    completions: usize,
    faults: usize,
    reward: f64,
    zero_variance: f64,
    /// The sum of the gains, and how many groups had one.
    gain: (f64, usize),
    /// Tokens of prompts, once a completion, and of completions.
    tokens: (usize, usize),
}

impl Trainer<'_> {
    /// One step of the run's method; its metrics under TRL's names.
    pub(super) fn method_step(&mut self, here: &Environment<'_>) -> Result<StepMetrics> {
        match self.config.train.method {
            Method::Grpo => self.step(here),
            Method::Sft => {
                let (batch, faults) = self.given(here)?;
                self.supervised_step(here, batch, faults)
            }
            Method::Rejection => self.rejection_step(here),
            Method::Dpo => self.preference_step(here),
        }
    }

    /// Steps of the method that were made: those after the warm start.
    fn made(&self) -> u64 {
        self.state.step.saturating_sub(self.config.warm_start.steps)
    }

    /// The examples of the file that this step learns from, and how many were left out for a fault.
    fn given(&self, here: &Environment<'_>) -> Result<(RolloutBatch, usize)> {
        match &self.examples {
            Some(examples) => examples.batch(here.materials, self.made()),
            None => Err(Error::bug("train::trainer::steps", "a method that learns from a file, without one")),
        }
    }

    /// How a step is made whose completions are weighed as they are given.
    pub(super) fn plain(&self, loss: LossConfig) -> LearnerConfig {
        LearnerConfig {
            loss,
            temperature: 1.0,
            max_grad_norm: self.config.train.max_grad_norm,
            num_iterations: 1,
            term_credit_coef: 0.0,
            rank_credit: None,
            micro_batch_tokens: self.config.train.micro_batch_tokens,
        }
    }

    /// A supervised step: it raises the likelihood of completions with an advantage of 1. What is logged as the loss is the
    /// mean negative log-likelihood of their tokens, all weighted alike.
    pub(super) fn supervised_step(
        &mut self,
        here: &Environment<'_>,
        batch: RolloutBatch,
        faults: usize,
    ) -> Result<StepMetrics> {
        let step = self.state.step + 1;
        let learner = self.plain(LossConfig::default());
        let rate = self.rates.rate(step - 1);
        let (read, written) = self.count_tokens(here, &batch);
        let report = self.learn(here, &learner, rate, vec![batch])?;
        self.state.step = step;
        let mut metrics = StepMetrics::new(step);
        metrics
            .set(name::LOSS, -report.loss.logp)
            .set(name::GRAD_NORM, report.grad_norm)
            .set(name::LEARNING_RATE, rate)
            .set(name::ENTROPY, report.loss.entropy)
            .set(name::NUM_TOKENS, self.state.num_tokens as f64)
            .set(name::PROMPT_TOKENS, read as f64)
            .set(name::COMPLETION_TOKENS, written as f64)
            .set(name::FAULTS, faults as f64)
            .set(name::SKIPPED_UPDATES, report.skipped_updates as f64);
        Ok(metrics)
    }

    /// Counts the tokens of prompts, once a completion, and of completions, and gives both.
    fn count_tokens(&mut self, here: &Environment<'_>, batch: &RolloutBatch) -> (usize, usize) {
        let prefix = here.prefix().len();
        let read = batch.rollouts.iter().map(|r| r.samples.len() * (prefix + r.prompt.len())).sum::<usize>();
        let written = batch.rollouts.iter().flat_map(|r| &r.samples).map(|s| s.tokens.len()).sum::<usize>();
        self.state.num_tokens += (read + written) as u64;
        (read, written)
    }

    /// A supervised step on the best of the policy's own completions; where a round is over, the next one is sampled first.
    fn rejection_step(&mut self, here: &Environment<'_>) -> Result<StepMetrics> {
        let config = &self.config.rejection;
        let (round, of_round) = (self.made() / config.round_steps, self.made() % config.round_steps);
        let sampled = (of_round == 0).then(|| self.sample_round(here, round)).transpose()?;
        let (mut rollouts, mut faults) = (Vec::new(), 0);
        let kept = self.state.queries(here.number)?.1.best();
        let seed = self.config.train.seed.wrapping_add(round);
        for place in places(of_round, kept.len(), config.batch_size, seed) {
            let Some((query, best)) = kept.get(place) else {
                return Err(Error::bug("train::trainer::steps", format!("no kept completion {place}")));
            };
            let Some((query, _)) = here.materials.train.get(*query) else {
                return Err(Error::bug("train::trainer::steps", format!("no training query {query}")));
            };
            match here.materials.encoder.prompt_tokens(query, 0) {
                // A first search that fails costs its own example.
                Err(error) if error.is_fault() => faults += 1,
                prompt => {
                    let prompt = prompt?;
                    let samples = vec![Sample::given(best.tokens.clone(), 1.0)];
                    rollouts.push(Rollout { prompt: prompt.tokens, grammar: prompt.grammar, samples });
                }
            }
        }
        let examples = kept.len();
        // What was sampled was read and written, too.
        let (read, written) = sampled.as_ref().map_or((0, 0), |round| round.tokens);
        let mut metrics = self.supervised_step(here, RolloutBatch { rollouts, tape: None }, faults)?;
        metrics.set(name::KEPT_EXAMPLES, examples as f64);
        for (name, more) in [(name::PROMPT_TOKENS, read), (name::COMPLETION_TOKENS, written)] {
            let learned = metrics.get(name).unwrap_or(0.0);
            metrics.set(name, learned + more as f64);
        }
        if let Some(round) = sampled {
            let groups = round.groups.max(1) as f64;
            metrics
                .set(name::REWARD, round.reward / groups)
                .set(name::FRAC_REWARD_ZERO_STD, round.zero_variance / groups)
                .set(name::FAULTS, (round.faults + faults) as f64);
            if round.gain.1 > 0 {
                metrics.set(name::GAIN, round.gain.0 / round.gain.1 as f64);
            }
        }
        Ok(metrics)
    }

    /// Samples completions for the queries of a round, and keeps of each query the best one that earns enough. A round in
    /// which none does goes on with what the one before kept.
    fn sample_round(&mut self, here: &Environment<'_>, round: u64) -> Result<Round> {
        let (run, config, step) = (&self.config.train, &self.config.rejection, self.state.step + 1);
        let queries: Vec<usize> = match config.queries {
            0 => (0..here.materials.train.len()).collect(),
            count => self.state.queries(here.number)?.0.sample(count, &HashSet::new(), run.seed, step, 0),
        };
        let (mut replay, mut found) = (Replay::default(), Round::default());
        for part in queries.chunks(self.config.prompts_per_step().max(1)) {
            // Nothing is recorded: the supervised steps make passes of their own.
            let rollouts = self.sampler(here)?.sample(part, &self.adapter, step, usize::MAX)?;
            let groups = rollouts.groups.len();
            found.groups += groups;
            found.completions += rollouts.samples().count();
            found.faults += rollouts.faults;
            if groups == 0 {
                // All first searches failed: there is no mean.
                continue;
            }
            found.reward += rollouts.signal.reward * groups as f64;
            found.zero_variance += rollouts.signal.frac_reward_zero_std * groups as f64;
            if let Some(gain) = self.gain(here, &rollouts)? {
                found.gain = (found.gain.0 + gain * groups as f64, found.gain.1 + groups);
            }
            let (curriculum, _) = self.state.queries_mut(here.number)?;
            for group in &rollouts.groups {
                curriculum.observe(group.query, group.informative);
                group.to_replay(config.margin).for_each(|kept| replay.keep(group.query, kept, 1));
            }
            let all = rollouts.tokens(here.prefix().len());
            let written = rollouts.samples().map(|sample| sample.tokens.len()).sum::<usize>();
            found.tokens = (found.tokens.0 + all.saturating_sub(written), found.tokens.1 + written);
            self.state.num_tokens += all as u64;
            self.completions.append(&rollouts.records(step, &here.materials.train)?)?;
        }
        let (_, kept) = self.state.queries_mut(here.number)?;
        if !replay.is_empty() {
            *kept = replay;
        } else if kept.is_empty() {
            let found = format!(
                "none of the {} completions of round {} earned {} more than its query without a model",
                found.completions,
                round + 1,
                config.margin
            );
            let remedy = "give a smaller one, a larger train.num_generations, or begin with warm_start.steps";
            return Err(Error::argument("rejection.margin", found, remedy));
        }
        Ok(found)
    }

    /// A step of direct preference optimisation, on pairs of a file or of this step's groups.
    fn preference_step(&mut self, here: &Environment<'_>) -> Result<StepMetrics> {
        let step = self.state.step + 1;
        let learner = self.plain(LossConfig { beta: self.config.dpo.beta, preference: true, ..LossConfig::default() });
        let rate = self.rates.rate(step - 1);
        let (batch, faults, rollouts) = match &self.examples {
            Some(_) => {
                let (batch, faults) = self.given(here)?;
                (batch, faults, None)
            }
            None => {
                let rollouts = self.sample(here, step)?;
                (rollouts.preferences(self.config.dpo.margin), rollouts.faults, Some(rollouts))
            }
        };
        // Those of samples are counted with them.
        let (read, written) = if rollouts.is_none() { self.count_tokens(here, &batch) } else { (0, 0) };
        let report = self.learn(here, &learner, rate, vec![batch])?;
        let mut metrics = match &rollouts {
            Some(rollouts) => {
                self.account(here, step, rollouts)?;
                self.step_metrics(here, (step, rate), rollouts, &report)?
            }
            None => {
                self.state.step = step;
                let mut metrics = StepMetrics::new(step);
                metrics
                    .set(name::LOSS, report.loss.loss)
                    .set(name::GRAD_NORM, report.grad_norm)
                    .set(name::LEARNING_RATE, rate)
                    .set(name::ENTROPY, report.loss.entropy)
                    .set(name::NUM_TOKENS, self.state.num_tokens as f64)
                    .set(name::PROMPT_TOKENS, read as f64)
                    .set(name::COMPLETION_TOKENS, written as f64)
                    .set(name::SKIPPED_UPDATES, report.skipped_updates as f64);
                metrics
            }
        };
        // Pairs have no ratio to clip.
        metrics.values.retain(|name, _| !name.starts_with("clip_ratio/"));
        let found = report.loss.preference.unwrap_or_default();
        metrics.set(name::FAULTS, faults as f64).set(name::PAIRS, found.pairs as f64);
        if found.pairs > 0 {
            metrics
                .set(name::REWARDS_CHOSEN, found.chosen_reward)
                .set(name::REWARDS_REJECTED, found.rejected_reward)
                .set(name::REWARDS_ACCURACIES, found.accuracy)
                .set(name::REWARDS_MARGINS, found.margin)
                .set(name::LOGPS_CHOSEN, found.chosen_logp)
                .set(name::LOGPS_REJECTED, found.rejected_logp);
        }
        Ok(metrics)
    }
}

#[cfg(test)]
mod tests;
