//! One optimiser step: log-probabilities, loss, gradient, update.

mod resident;

use super::advantage::{Counterfactual, broadcast, term_credit};
use super::loss::{Batch, LossConfig, LossOutput, Totals, policy_loss};
use super::optimizer::{AdamW, Parameter, Update, clip_grad_norm};
use crate::error::Result;
use crate::model::TokenStatistics;
use crate::model::{Adapter, Decoder, Deltas, GradientSum, Objective, Predictions, Tape};

/// A completion that the policy learns from.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Its tokens, the stop included.
    pub tokens: Vec<u32>,
    /// What the sampler said of each token; not a number where nobody sampled it.
    pub sampled_logp: Vec<f32>,
    /// The entropy of the distribution that each token was drawn from; as long as `sampled_logp`.
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

/// A prompt and the completions drawn for it.
#[derive(Debug, Clone)]
pub struct Rollout {
    /// The prompt's tokens after the shared prefix.
    pub prompt: Vec<u32>,
    /// The completions.
    pub samples: Vec<Sample>,
}

impl Rollout {
    fn completions(&self) -> Vec<&[u32]> {
        self.samples.iter().map(|s| s.tokens.as_slice()).collect()
    }
}

/// Rollouts that were drawn together.
#[derive(Debug, Clone, Default)]
pub struct RolloutBatch {
    /// One a prompt.
    pub rollouts: Vec<Rollout>,
    /// The sampler's pass over them, prompt by prompt; none where it was not recorded.
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
    /// Tokens of a micro-batch at most (one prompt's group is never split).
    pub micro_batch_tokens: usize,
}

/// What became of a step.
#[derive(Debug, Clone, Default)]
pub struct StepReport {
    /// Loss and metrics of the last iteration, means weighted by tokens.
    pub loss: LossOutput,
    /// Gradient norm before clipping, of the last iteration.
    pub grad_norm: f64,
    /// Mean absolute gap between what the sampler and what the trainer said of each token.
    pub logp_difference: f64,
    /// The largest such gap.
    pub logp_difference_max: f64,
    /// Tokens of which both said something: sampled ones that are learned from and whose logits were formed anew.
    pub compared: usize,
    /// Updates that were left out because a gradient was not finite.
    pub skipped_updates: usize,
    /// Rows that were gone back through, over all iterations.
    pub rows: usize,
    /// Those of them that the sampler had recorded.
    pub recorded_rows: usize,
}

/// A micro-batch and what is known of its tokens.
struct Micro<'a> {
    rollouts: &'a [Rollout],
    tape: Option<Tape>,
    completions: Vec<std::ops::Range<usize>>,
    sampled: Vec<TokenStatistics>,
    advantages: Vec<f32>,
    truncated: Vec<bool>,
    dropped: Vec<bool>,
    old: Option<Vec<f32>>,
    reference: Option<Vec<f32>>,
}

impl<'a> Micro<'a> {
    fn new(rollouts: &'a [Rollout], tape: Option<Tape>, advantages: &[f32]) -> Self {
        let samples = || rollouts.iter().flat_map(|r| &r.samples);
        let sampled = samples()
            .flat_map(|s| s.sampled_logp.iter().zip(&s.sampled_entropy))
            .map(|(log_probability, entropy)| TokenStatistics { log_probability: *log_probability, entropy: *entropy });
        Self {
            rollouts,
            tape,
            completions: ranges(samples()),
            sampled: sampled.collect(),
            advantages: advantages.to_vec(),
            truncated: samples().map(|s| s.truncated).collect(),
            dropped: samples().map(|s| s.dropped).collect(),
            old: None,
            reference: None,
        }
    }

    fn completions(&self) -> impl Iterator<Item = Vec<&'a [u32]>> {
        self.rollouts.iter().map(Rollout::completions)
    }

    /// The tokens of each prompt's completions in the concatenation of all.
    fn tokens(&self) -> impl Iterator<Item = std::ops::Range<usize>> {
        let mut end = 0;
        self.rollouts.iter().map(move |rollout| {
            let start = end;
            end += rollout.samples.iter().map(|s| s.tokens.len()).sum::<usize>();
            start..end
        })
    }

    /// Feeds everything.
    fn feed(&self, decoder: &Decoder, deltas: &Deltas, prefix: &[u32]) -> Result<Tape> {
        let groups: Vec<(&[u32], Vec<&[u32]>)> =
            self.rollouts.iter().map(|r| r.prompt.as_slice()).zip(self.completions()).collect();
        Tape::of(decoder, deltas, prefix, &groups)
    }

    fn batch<'b>(&'b self, logp: &'b [f32], entropy: &'b [f32], totals: Option<Totals>) -> Batch<'b> {
        Batch {
            logp,
            old_logp: self.old.as_deref().unwrap_or(logp),
            ref_logp: self.reference.as_deref(),
            entropy,
            advantages: &self.advantages,
            completions: &self.completions,
            truncated: &self.truncated,
            dropped: &self.dropped,
            totals,
        }
    }
}

/// The range of each completion in the concatenation of all.
fn ranges<'a>(samples: impl Iterator<Item = &'a Sample>) -> Vec<std::ops::Range<usize>> {
    let mut end = 0;
    let range = |sample: &Sample| {
        end += sample.tokens.len();
        end - sample.tokens.len()..end
    };
    samples.map(range).collect()
}

/// The advantage of every completion token of a step. Credit per term is scaled over the whole step, so that it does
/// not depend on how the step is cut into micro-batches.
fn token_advantages(batches: &[RolloutBatch], coef: f64) -> Result<Vec<f32>> {
    let samples: Vec<&Sample> = batches.iter().flat_map(|b| &b.rollouts).flat_map(|r| &r.samples).collect();
    let completions = ranges(samples.iter().copied());
    let scalars: Vec<f32> = samples.iter().map(|s| s.advantage).collect();
    if coef == 0.0 {
        return broadcast(&completions, &scalars);
    }
    let shifted: Vec<Counterfactual> =
        samples.iter().zip(&completions).map(|(s, range)| shift(&s.counterfactual, range.start)).collect();
    term_credit(&completions, &scalars, &shifted, coef)
}

fn shift(counterfactual: &Counterfactual, by: usize) -> Counterfactual {
    let mut shifted = counterfactual.clone();
    for range in shifted.terms.iter_mut().flat_map(|t| &mut t.tokens) {
        *range = range.start + by..range.end + by;
    }
    shifted
}

/// Learns from a step's rollouts: `num_iterations` updates of the adapter.
///
/// The first iteration goes back through what the sampler recorded, with the sampler's own numbers; what was not
/// recorded, and every further iteration, is fed anew.
///
/// # Errors
/// A prompt that is too long, a token outside the vocabulary; a device with too little memory, or that is lost.
pub fn learn(
    decoder: &Decoder,
    adapter: &mut Adapter,
    optimizer: &mut AdamW,
    learning_rate: f64,
    prefix: &[u32],
    batches: Vec<RolloutBatch>,
    config: &LearnerConfig,
) -> Result<StepReport> {
    if decoder.host().is_none() {
        return learn_inside(decoder, adapter, optimizer, learning_rate, prefix, batches, config);
    }
    // Inside the pool a parallel loop starts without waking anybody from outside.
    rayon::scope(|_| learn_inside(decoder, adapter, optimizer, learning_rate, prefix, batches, config))
}

fn learn_inside(
    decoder: &Decoder,
    adapter: &mut Adapter,
    optimizer: &mut AdamW,
    learning_rate: f64,
    prefix: &[u32],
    mut batches: Vec<RolloutBatch>,
    config: &LearnerConfig,
) -> Result<StepReport> {
    let advantages = token_advantages(&batches, config.term_credit_coef)?;
    let tapes: Vec<Option<Tape>> = batches.iter_mut().map(|b| b.tape.take()).collect();
    let mut micros = Vec::new();
    let mut rest = advantages.as_slice();
    for (batch, mut tape) in batches.iter().zip(tapes) {
        let parts: Vec<&[Rollout]> = match tape {
            Some(_) => vec![&batch.rollouts],
            None => split(&batch.rollouts, config.micro_batch_tokens).collect(),
        };
        for part in parts {
            let tokens = part.iter().flat_map(|r| &r.samples).map(|s| s.tokens.len()).sum();
            let (own, after) = rest.split_at(tokens);
            micros.push(Micro::new(part, tape.take(), own));
            rest = after;
        }
    }
    if config.loss.beta != 0.0 {
        for micro in &mut micros {
            let tape = micro.feed(decoder, &[], prefix)?;
            let predictions = tape.predictions(micro.completions());
            let statistics = decoder.predicted(&tape, &predictions, config.temperature)?;
            micro.reference = Some(statistics.iter().map(|s| s.log_probability).collect());
        }
    }
    let totals: Totals = micros.iter().map(|m| m.batch(&[], &[], None).totals(&config.loss)).sum();
    let mut report = StepReport::default();
    for iteration in 0..config.num_iterations {
        let mut gradients = decoder.zero_gradients(adapter.deltas())?;
        let mut outputs = Vec::with_capacity(micros.len());
        for micro in &mut micros {
            let pass = Pass { decoder, deltas: adapter.deltas(), config, totals, first: iteration == 0 };
            let tape = match micro.tape.take() {
                Some(tape) => {
                    report.recorded_rows += tape.rows();
                    tape
                }
                None => micro.feed(decoder, adapter.deltas(), prefix)?,
            };
            report.rows += tape.rows();
            outputs.push(pass.back(micro, tape, &mut gradients, &mut report)?);
        }
        report.loss = merge(&outputs);
        let updated = match (&gradients, decoder) {
            (GradientSum::Device(sum), Decoder::Device(decoder)) => {
                resident::update(decoder, adapter, optimizer, learning_rate, sum, config)
            }
            _ => update(adapter, optimizer, learning_rate, gradients.read(adapter)?, config),
        }?;
        report.grad_norm = updated.grad_norm;
        report.skipped_updates += usize::from(updated.skipped);
    }
    report.logp_difference /= report.compared.max(1) as f64;
    Ok(report)
}

/// The weights of a token that teaches nothing.
const NONE: (f32, f32) = (0.0, 0.0);

/// One iteration's pass over a micro-batch.
struct Pass<'a> {
    decoder: &'a Decoder,
    deltas: &'a Deltas,
    config: &'a LearnerConfig,
    totals: Totals,
    first: bool,
}

impl Pass<'_> {
    /// Loss and gradients of a micro-batch.
    fn back(
        &self,
        micro: &mut Micro<'_>,
        mut tape: Tape,
        gradients: &mut GradientSum,
        report: &mut StepReport,
    ) -> Result<LossOutput> {
        let predictions = tape.predictions(micro.completions());
        let statistics = self.statistics(micro, &tape, &predictions)?;
        let (logp, entropy): (Vec<f32>, Vec<f32>) = statistics.iter().map(|s| (s.log_probability, s.entropy)).unzip();
        if self.first {
            // On the first pass the policy is the one that sampled: the ratio is exactly 1.
            micro.old = Some(logp.clone());
        }
        let output = policy_loss(&self.config.loss, &micro.batch(&logp, &entropy, Some(self.totals)))?;
        let weights: Vec<(f32, f32)> = output.dlogp.iter().copied().zip(output.dentropy.iter().copied()).collect();
        // A prompt of whose tokens none has a weight teaches nothing, and need not be gone back through.
        let taught: Vec<(usize, std::ops::Range<usize>)> = micro
            .tokens()
            .enumerate()
            .filter(|(_, tokens)| weights[tokens.clone()].iter().any(|w| *w != NONE))
            .collect();
        if taught.is_empty() {
            return Ok(output);
        }
        tape.retain(self.decoder, &taught.iter().map(|t| t.0).collect::<Vec<_>>())?;
        let kept = taught.iter().filter_map(|(prompt, _)| micro.rollouts.get(*prompt));
        let predictions = tape.predictions(kept.map(Rollout::completions));
        let weights: Vec<(f32, f32)> =
            taught.iter().flat_map(|(_, tokens)| &weights[tokens.clone()]).copied().collect();
        let sampled = taught.iter().flat_map(|(_, tokens)| &micro.sampled[tokens.clone()]).filter(|_| self.first);
        let sampled: Vec<TokenStatistics> = sampled.copied().collect();
        let objective = Objective {
            predictions: &predictions,
            temperature: self.config.temperature,
            weights: &weights,
            sampled: &sampled,
        };
        let formed = self.decoder.backward(&tape, objective, self.deltas, gradients)?;
        report.compare(&sampled, &formed);
        Ok(output)
    }

    /// The sampler's own numbers in the first iteration; formed where there are none.
    fn statistics(&self, micro: &Micro<'_>, tape: &Tape, predictions: &Predictions) -> Result<Vec<TokenStatistics>> {
        let mut statistics = micro.sampled.clone();
        let missing = |i: &usize| !self.first || statistics[*i].log_probability.is_nan();
        let missing: Vec<usize> = (0..statistics.len()).filter(missing).collect();
        let open = Predictions {
            rows: missing.iter().map(|i| predictions.rows[*i]).collect(),
            targets: missing.iter().map(|i| predictions.targets[*i]).collect(),
        };
        let formed = self.decoder.predicted(tape, &open, self.config.temperature)?;
        for (index, formed) in missing.into_iter().zip(formed) {
            statistics[index] = formed;
        }
        Ok(statistics)
    }
}

impl StepReport {
    fn compare(&mut self, sampled: &[TokenStatistics], formed: &[Option<TokenStatistics>]) {
        for (a, b) in sampled.iter().zip(formed) {
            let Some(b) = b.filter(|_| !a.log_probability.is_nan()) else { continue };
            let gap = f64::from((a.log_probability - b.log_probability).abs());
            self.compared += 1;
            self.logp_difference += gap;
            self.logp_difference_max = self.logp_difference_max.max(gap);
        }
    }
}

/// Splits rollouts into stretches whose tokens stay under the limit; at least one rollout each.
fn split(rollouts: &[Rollout], limit: usize) -> impl Iterator<Item = &[Rollout]> {
    let mut rest = rollouts;
    std::iter::from_fn(move || {
        let mut tokens = 0;
        let count = rest.iter().take_while(|r| {
            let first = tokens == 0;
            tokens += r.prompt.len() + r.samples.iter().map(|s| s.tokens.len()).sum::<usize>();
            first || tokens <= limit
        });
        let count = count.count();
        let (part, after) = rest.split_at_checked(count).filter(|_| count > 0)?;
        rest = after;
        Some(part)
    })
}

/// What became of an update.
struct Updated {
    /// The gradient's norm before clipping.
    grad_norm: f64,
    /// Whether the gradient was not finite, so that nothing was changed.
    skipped: bool,
}

/// Clips the gradient and applies an update to the adapter's variables.
fn update(
    adapter: &mut Adapter,
    optimizer: &mut AdamW,
    learning_rate: f64,
    mut gradients: Vec<Vec<f32>>,
    config: &LearnerConfig,
) -> Result<Updated> {
    let grad_norm = {
        let mut views: Vec<&mut [f32]> = gradients.iter_mut().map(Vec::as_mut_slice).collect();
        clip_grad_norm(&mut views, config.max_grad_norm)
    };
    // No gradient at all: nothing was learned, and momentum must not move the weights in its place. (What is not a
    // number goes on, and is counted as skipped.)
    if grad_norm == 0.0 {
        return Ok(Updated { grad_norm, skipped: false });
    }
    let mut values = Vec::with_capacity(gradients.len());
    for (name, variable) in adapter.parameters() {
        values.push((name, variable.flatten_all()?.to_vec1::<f32>()?));
    }
    let mut parameters: Vec<Parameter<'_>> = values
        .iter_mut()
        .zip(&gradients)
        .map(|((name, values), gradient)| Parameter { name, values, gradient })
        .collect();
    if optimizer.update(learning_rate, &mut parameters)? != Update::Applied {
        return Ok(Updated { grad_norm, skipped: true });
    }
    let values = values.into_iter().map(|(_, values)| values);
    adapter.set(values)?;
    Ok(Updated { grad_norm, skipped: false })
}

/// Losses add up; means are weighted by tokens.
fn merge(outputs: &[LossOutput]) -> LossOutput {
    let tokens: usize = outputs.iter().map(|o| o.tokens).sum();
    let mean =
        |f: fn(&LossOutput) -> f64| outputs.iter().map(|o| f(o) * o.tokens as f64).sum::<f64>() / tokens.max(1) as f64;
    LossOutput {
        loss: outputs.iter().map(|o| o.loss).sum(),
        tokens,
        kl: outputs.iter().all(|o| o.kl.is_some()).then(|| mean(|o| o.kl.unwrap_or_default())),
        entropy: mean(|o| o.entropy),
        clip_low_mean: mean(|o| o.clip_low_mean),
        clip_high_mean: mean(|o| o.clip_high_mean),
        clip_region_mean: mean(|o| o.clip_region_mean),
        clip_low_min: outputs.iter().map(|o| o.clip_low_min).fold(f64::INFINITY, f64::min),
        clip_high_max: outputs.iter().map(|o| o.clip_high_max).fold(0.0, f64::max),
        ratio_mean: mean(|o| o.ratio_mean),
        ratio_max: outputs.iter().map(|o| o.ratio_max).fold(0.0, f64::max),
        ..LossOutput::default()
    }
}
