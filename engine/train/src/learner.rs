//! One optimiser step: log-probabilities, loss, gradient, update.

mod micro_batch;
mod pass;

use std::sync::Arc;

use super::advantage::{AdvantageConfig, Counterfactual};
use super::loss::{LossConfig, LossOutput, LossType, PreferenceMetrics, Totals};
use super::optimizer::AdamW;
use micro_batch::{MicroBatch, TokenSignal, micro_batches};
use pass::Pass;
use querywright_model::{Adapter, Decoder, Deltas, GradientSum, Grammar, Predictions, Tape, TokenStatistics};
use querywright_types::Result;

/// A completion that the policy learns from.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Its tokens, the stop included.
    pub tokens: Vec<u32>,
    /// The log-probability that the sampler gave each token; not a number where it was not sampled.
    pub sampled_logp: Vec<f32>,
    /// The entropy of the distribution that each token was sampled from; as long as `sampled_logp`.
    pub sampled_entropy: Vec<f32>,
    /// Its advantage over its group.
    pub advantage: f32,
    /// What each of its terms is worth; empty without counterfactual credit. Token ranges count from the completion's
    /// first token.
    pub counterfactual: Counterfactual,
    /// Whether it ran into the length limit.
    pub truncated: bool,
    /// Whether its reward is missing.
    pub dropped: bool,
}

impl Sample {
    /// A completion that the policy did not sample, of this weight: at an importance ratio of 1 the gradient is that of its
    /// log-likelihood.
    pub(crate) fn given(tokens: Vec<u32>, weight: f32) -> Self {
        let unknown = vec![f32::NAN; tokens.len()];
        Self {
            tokens,
            sampled_logp: unknown.clone(),
            sampled_entropy: unknown,
            advantage: weight,
            counterfactual: Counterfactual::default(),
            truncated: false,
            dropped: false,
        }
    }

    /// Whether the policy did not sample it.
    pub fn is_off_policy(&self) -> bool {
        self.sampled_logp.iter().any(|logp| logp.is_nan())
    }
}

/// A prompt and the completions sampled for it.
#[derive(Debug, Clone)]
pub struct Rollout {
    /// The prompt's tokens after the shared prefix.
    pub prompt: Vec<u32>,
    /// What the completions might consist of: log-probabilities and entropies are those of the tokens it allows.
    pub grammar: Option<Arc<Grammar>>,
    /// The completions.
    pub samples: Vec<Sample>,
}

impl Rollout {
    fn completions(&self) -> Vec<&[u32]> {
        self.samples.iter().map(|s| s.tokens.as_slice()).collect()
    }
}

/// The predictions of a tape of these rollouts, within their grammars.
fn predictions<'a>(tape: &Tape, rollouts: impl Iterator<Item = &'a Rollout> + Clone) -> Result<Predictions> {
    let mut predictions = tape.predictions(rollouts.clone().map(Rollout::completions));
    predictions.restrict(rollouts.map(|rollout| (rollout.grammar.as_ref(), rollout.completions())))?;
    Ok(predictions)
}

/// Rollouts that were sampled together.
#[derive(Debug, Clone, Default)]
pub struct RolloutBatch {
    /// One a prompt.
    pub rollouts: Vec<Rollout>,
    /// The sampler's forward pass over them, prompt by prompt; none where it was not recorded.
    pub tape: Option<Tape>,
}

/// How a step is made.
#[derive(Debug, Clone)]
pub struct LearnerConfig {
    /// The loss.
    pub loss: LossConfig,
    /// The sampling temperature, which divides the logits here too.
    pub temperature: f32,
    /// Gradient norm at most; 0 never clips.
    pub max_grad_norm: f64,
    /// Updates on one batch of completions.
    pub num_iterations: usize,
    /// Weight of the credit per term; 0 has none.
    pub term_credit_coef: f64,
    /// Advantages rank by rank, made so, in the place of one a completion: the counterfactuals are then those of the lists
    /// that end before each term. None: there are none.
    pub rank_credit: Option<AdvantageConfig>,
    /// Tokens of a micro-batch at most (one prompt's group is never split). None: as many as
    /// [`Decoder::rows_at_once`] says; 4096 for the loss `bnpo`, whose value depends on them.
    pub micro_batch_tokens: Option<usize>,
}

/// What became of a step.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct StepReport {
    /// Loss and metrics of the last iteration, means weighted by tokens.
    pub loss: LossOutput,
    /// Gradient norm before clipping, of the last iteration.
    pub grad_norm: f64,
    /// Mean absolute gap between the sampler's and the trainer's log-probability of each token.
    pub logp_difference: f64,
    /// The largest such gap.
    pub logp_difference_max: f64,
    /// Tokens with both: sampled ones that carry signal and whose logits were recomputed.
    pub compared: usize,
    /// Updates that were skipped because a gradient was not finite.
    pub skipped_updates: usize,
    /// Rows of backward passes, over all iterations.
    pub rows: usize,
    /// Those of them that the sampler had recorded.
    pub recorded_rows: usize,
}

/// What learns: a decoder whose adapter is updated, the prefix of all prompts, and how.
#[derive(Debug, Clone, Copy)]
pub struct Learner<'a> {
    /// The decoder.
    pub decoder: &'a Decoder,
    /// The tokens that all prompts continue.
    pub prefix: &'a [u32],
    /// How a step is made.
    pub config: &'a LearnerConfig,
}

impl Learner<'_> {
    /// Learns from a step's rollouts: `num_iterations` updates of the adapter.
    ///
    /// The first iteration's backward pass goes through what the sampler recorded, with the sampler's own numbers. What was
    /// not recorded, and every further iteration, gets a teacher-forced pass.
    ///
    /// # Errors
    /// A prompt that is too long, a token outside the vocabulary; a device with too little memory, or that is lost.
    pub fn learn(
        &self,
        adapter: &mut Adapter,
        optimizer: &mut AdamW,
        learning_rate: f64,
        batches: Vec<RolloutBatch>,
    ) -> Result<StepReport> {
        self.decoder.scope(|| self.step(adapter, optimizer, learning_rate, batches))
    }

    fn step(
        &self,
        adapter: &mut Adapter,
        optimizer: &mut AdamW,
        learning_rate: f64,
        mut batches: Vec<RolloutBatch>,
    ) -> Result<StepReport> {
        let config = self.config;
        let signal = TokenSignal::of(&batches, config)?;
        let tapes = batches.iter_mut().map(|b| b.tape.take()).collect();
        let limit = match config.micro_batch_tokens {
            Some(tokens) => tokens,
            // This loss is a mean over each micro-batch: it must not depend on the machine.
            None if config.loss.loss_type == LossType::Bnpo => 4096,
            None => self.decoder.rows_at_once()?,
        };
        let mut micros = micro_batches(&batches, tapes, &signal, limit);
        if config.loss.beta != 0.0 {
            micros.iter_mut().try_for_each(|micro| self.compute_reference(micro))?;
        }
        let totals: Totals = micros.iter().map(|m| m.batch(&[], &[], None).totals(&config.loss)).sum();
        let mut report = StepReport::default();
        for iteration in 0..config.num_iterations {
            let gradients = self.gradients(adapter.deltas(), &mut micros, totals, iteration == 0, &mut report)?;
            let step = optimizer.step(learning_rate, config.max_grad_norm);
            let updated = self.decoder.update(&mut optimizer.state, adapter, &gradients, &step)?;
            report.grad_norm = updated.grad_norm;
            report.skipped_updates += usize::from(updated.skipped);
        }
        report.logp_difference /= report.compared.max(1) as f64;
        Ok(report)
    }

    /// The log-probabilities of the base model.
    fn compute_reference(&self, micro: &mut MicroBatch<'_>) -> Result<()> {
        let tape = micro.teacher_forced(self.decoder, &[], self.prefix)?;
        let predictions = predictions(&tape, micro.rollouts.iter())?;
        let statistics = self.decoder.predicted(&tape, &predictions, self.config.temperature)?;
        micro.reference = Some(statistics.iter().map(|s| s.log_probability).collect());
        Ok(())
    }

    /// The gradient of all micro-batches. `first`: the policy is the one that sampled.
    fn gradients(
        &self,
        deltas: &Deltas,
        micros: &mut [MicroBatch<'_>],
        totals: Totals,
        first: bool,
        report: &mut StepReport,
    ) -> Result<GradientSum> {
        let Self { decoder, prefix, config } = *self;
        let pass = Pass { decoder, deltas, config, totals, first };
        let mut gradients = decoder.zero_gradients(deltas)?;
        let mut outputs = Vec::with_capacity(micros.len());
        for micro in micros {
            let tape = match micro.tape.take() {
                Some(tape) => {
                    report.recorded_rows += tape.rows();
                    tape
                }
                None => micro.teacher_forced(decoder, deltas, prefix)?,
            };
            report.rows += tape.rows();
            outputs.push(pass.backward(micro, tape, &mut gradients, report)?);
        }
        report.loss = merge(&outputs);
        Ok(gradients)
    }
}

impl StepReport {
    fn compare(&mut self, sampled: &[TokenStatistics], recomputed: &[Option<TokenStatistics>]) {
        for (a, b) in sampled.iter().zip(recomputed) {
            let Some(b) = b.filter(|_| !a.log_probability.is_nan()) else { continue };
            let gap = f64::from((a.log_probability - b.log_probability).abs());
            self.compared += 1;
            self.logp_difference += gap;
            self.logp_difference_max = self.logp_difference_max.max(gap);
        }
    }
}

/// Losses add up; means are weighted by tokens.
fn merge(outputs: &[LossOutput]) -> LossOutput {
    let tokens: usize = outputs.iter().map(|o| o.tokens).sum();
    let preferences: Vec<PreferenceMetrics> = outputs.iter().filter_map(|o| o.preference).collect();
    let mean =
        |f: fn(&LossOutput) -> f64| outputs.iter().map(|o| f(o) * o.tokens as f64).sum::<f64>() / tokens.max(1) as f64;
    LossOutput {
        loss: outputs.iter().map(|o| o.loss).sum(),
        tokens,
        kl: outputs.iter().all(|o| o.kl.is_some()).then(|| mean(|o| o.kl.unwrap_or_default())),
        entropy: mean(|o| o.entropy),
        bonus_entropy: mean(|o| o.bonus_entropy),
        logp: mean(|o| o.logp),
        clip_low_mean: mean(|o| o.clip_low_mean),
        clip_high_mean: mean(|o| o.clip_high_mean),
        clip_region_mean: mean(|o| o.clip_region_mean),
        clip_low_min: outputs.iter().map(|o| o.clip_low_min).fold(f64::INFINITY, f64::min),
        clip_high_max: outputs.iter().map(|o| o.clip_high_max).fold(0.0, f64::max),
        phi_mean: mean(|o| o.phi_mean),
        ratio_mean: mean(|o| o.ratio_mean),
        ratio_max: outputs.iter().map(|o| o.ratio_max).fold(0.0, f64::max),
        preference: PreferenceMetrics::mean(&preferences),
        ..LossOutput::default()
    }
}
