//! One optimiser step: log-probabilities, loss, gradient, update.

use candle_core::{Device, Tensor};

use super::advantage::{Counterfactual, broadcast, term_credit};
use super::loss::{Batch, LossConfig, LossOutput, Totals, policy_loss};
use super::optimizer::{AdamW, Parameter, Update, clip_grad_norm};
use super::pack::{Group, Packed, pack};
use crate::error::Result;
use crate::kernels::HeadOptions;
use crate::model::{Adapter, Decoder, Deltas};

/// A completion that the policy learns from.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Its tokens, the stop included.
    pub tokens: Vec<u32>,
    /// What the sampler said of each token; not a number where nobody sampled it.
    pub sampled_logp: Vec<f32>,
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
    /// Updates that were left out because a gradient was not finite.
    pub skipped_updates: usize,
    /// Rows that were fed to the decoder, over all iterations.
    pub rows: usize,
}

/// A micro-batch and what is known of its tokens.
struct Micro {
    packed: Packed,
    sampled: Vec<f32>,
    advantages: Vec<f32>,
    truncated: Vec<bool>,
    dropped: Vec<bool>,
    old: Option<Vec<f32>>,
    reference: Option<Vec<f32>>,
}

impl Micro {
    fn new(prefix: &[u32], rollouts: &[Rollout], advantages: &[f32]) -> Self {
        let completions: Vec<Vec<&[u32]>> =
            rollouts.iter().map(|r| r.samples.iter().map(|s| s.tokens.as_slice()).collect()).collect();
        let groups: Vec<Group<'_>> =
            rollouts.iter().zip(&completions).map(|(r, c)| Group { prompt: &r.prompt, completions: c }).collect();
        let packed = pack(prefix, &groups);
        let samples = || rollouts.iter().flat_map(|r| &r.samples);
        Self {
            sampled: samples().flat_map(|s| s.sampled_logp.iter().copied()).collect(),
            advantages: advantages.to_vec(),
            truncated: samples().map(|s| s.truncated).collect(),
            dropped: samples().map(|s| s.dropped).collect(),
            packed,
            old: None,
            reference: None,
        }
    }

    fn batch<'a>(&'a self, logp: &'a [f32], entropy: &'a [f32], totals: Option<Totals>) -> Batch<'a> {
        Batch {
            logp,
            old_logp: self.old.as_deref().unwrap_or(logp),
            ref_logp: self.reference.as_deref(),
            entropy,
            advantages: &self.advantages,
            completions: &self.packed.completions,
            truncated: &self.truncated,
            dropped: &self.dropped,
            totals,
        }
    }
}

/// The advantage of every completion token of a step. Credit per term is scaled over the whole step, so that it does
/// not depend on how the step is cut into micro-batches.
fn token_advantages(rollouts: &[Rollout], coef: f64) -> Result<Vec<f32>> {
    let samples: Vec<&Sample> = rollouts.iter().flat_map(|r| &r.samples).collect();
    let mut end = 0;
    let mut completions = Vec::with_capacity(samples.len());
    for sample in &samples {
        completions.push(end..end + sample.tokens.len());
        end += sample.tokens.len();
    }
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

/// Per-token log-probabilities and entropies of a packed batch, (tokens, 2).
pub fn token_statistics(decoder: &Decoder, packed: &Packed, deltas: &Deltas, options: HeadOptions) -> Result<Tensor> {
    let hidden = decoder.forward_tree(&packed.tokens, &packed.tree, deltas)?;
    let rows = Tensor::new(packed.rows.as_slice(), &Device::Cpu)?;
    decoder.log_probabilities(&hidden.index_select(&rows, 0)?, &packed.targets, options)
}

fn columns(statistics: &Tensor) -> Result<(Vec<f32>, Vec<f32>)> {
    let pairs = statistics.to_vec2::<f32>()?;
    Ok(pairs.iter().map(|p| (p[0], p[1])).unzip())
}

/// Learns from a batch of rollouts: `num_iterations` updates of the adapter.
pub fn learn(
    decoder: &Decoder,
    adapter: &mut Adapter,
    optimizer: &mut AdamW,
    learning_rate: f64,
    prefix: &[u32],
    rollouts: &[Rollout],
    config: &LearnerConfig,
) -> Result<StepReport> {
    let advantages = token_advantages(rollouts, config.term_credit_coef)?;
    let mut micros = Vec::new();
    let mut rest = advantages.as_slice();
    for part in split(rollouts, config.micro_batch_tokens) {
        let tokens = part.iter().flat_map(|r| &r.samples).map(|s| s.tokens.len()).sum();
        let (own, after) = rest.split_at(tokens);
        micros.push(Micro::new(prefix, part, own));
        rest = after;
    }
    let options = HeadOptions { temperature: config.temperature, entropy_gradient: config.loss.entropy_coef != 0.0 };
    if config.loss.beta != 0.0 {
        for micro in &mut micros {
            let statistics = token_statistics(decoder, &micro.packed, &[], options)?;
            micro.reference = Some(columns(&statistics)?.0);
        }
    }
    let totals: Totals = micros.iter().map(|m| m.batch(&m.sampled, &m.sampled, None).totals(&config.loss)).sum();
    let mut report = StepReport::default();
    for iteration in 0..config.num_iterations {
        let mut gradients: Vec<Vec<f32>> = adapter.parameters().map(|(_, v)| vec![0.0; v.elem_count()]).collect();
        let mut outputs = Vec::with_capacity(micros.len());
        for micro in &mut micros {
            let statistics = token_statistics(decoder, &micro.packed, adapter.trainable(), options)?;
            let (logp, entropy) = columns(&statistics)?;
            if iteration == 0 {
                report.compare(&micro.sampled, &logp);
                // On the first pass the policy is the one that sampled; its own numbers make the ratio exactly 1.
                micro.old = Some(logp.clone());
            }
            let output = policy_loss(&config.loss, &micro.batch(&logp, &entropy, Some(totals)))?;
            back_propagate(&statistics, &output, adapter, &mut gradients)?;
            report.rows += micro.packed.tokens.len();
            outputs.push(output);
        }
        report.loss = merge(&outputs);
        report.grad_norm = {
            let mut views: Vec<&mut [f32]> = gradients.iter_mut().map(Vec::as_mut_slice).collect();
            clip_grad_norm(&mut views, config.max_grad_norm)
        };
        // No gradient at all: nothing was learned, and momentum must not move the weights in its place. (What is not a
        // number goes on, and is counted as skipped.)
        if report.grad_norm != 0.0 {
            report.skipped_updates += usize::from(!update(adapter, optimizer, learning_rate, &gradients)?);
        }
    }
    let tokens: usize = micros.iter().map(|m| m.sampled.iter().filter(|l| !l.is_nan()).count()).sum();
    report.logp_difference /= tokens.max(1) as f64;
    Ok(report)
}

impl StepReport {
    fn compare(&mut self, sampled: &[f32], trained: &[f32]) {
        for (a, b) in sampled.iter().zip(trained).filter(|(a, _)| !a.is_nan()) {
            let gap = f64::from((a - b).abs());
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

/// Adds the gradients of `Σ dlogp · logp + dentropy · entropy` to `gradients`.
fn back_propagate(
    statistics: &Tensor,
    output: &LossOutput,
    adapter: &Adapter,
    gradients: &mut [Vec<f32>],
) -> Result<()> {
    let weights: Vec<f32> = output.dlogp.iter().zip(&output.dentropy).flat_map(|(l, e)| [*l, *e]).collect();
    let weights = Tensor::from_vec(weights, statistics.shape(), statistics.device())?;
    let store = (statistics * weights)?.sum_all()?.backward()?;
    for ((_, variable), sum) in adapter.parameters().zip(gradients) {
        if let Some(gradient) = store.get(variable.as_tensor()) {
            let values = gradient.flatten_all()?.to_vec1::<f32>()?;
            sum.iter_mut().zip(values).for_each(|(s, g)| *s += g);
        }
    }
    Ok(())
}

/// Applies an update to the adapter's variables; false when it was skipped.
fn update(adapter: &mut Adapter, optimizer: &mut AdamW, learning_rate: f64, gradients: &[Vec<f32>]) -> Result<bool> {
    let mut values = Vec::with_capacity(gradients.len());
    for (name, variable) in adapter.parameters() {
        values.push((name, variable.flatten_all()?.to_vec1::<f32>()?));
    }
    let mut parameters: Vec<Parameter<'_>> = values
        .iter_mut()
        .zip(gradients)
        .map(|((name, values), gradient)| Parameter { name, values, gradient })
        .collect();
    if optimizer.update(learning_rate, &mut parameters)? != Update::Applied {
        return Ok(false);
    }
    for ((_, variable), (_, values)) in adapter.parameters().zip(values) {
        variable.set(&Tensor::from_vec(values, variable.shape(), variable.device())?)?;
    }
    adapter.refresh()?;
    Ok(true)
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
