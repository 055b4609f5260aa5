//! One iteration's pass over a micro-batch: log-probabilities, loss, gradient.

use std::ops::Range;

use super::micro_batch::MicroBatch;
use super::{LearnerConfig, StepReport, predictions};
use crate::loss::{LossOutput, Totals, policy_loss, preference_loss};
use querywright_model::{Decoder, Deltas, GradientSum, Objective, Predictions, Tape, TokenStatistics};
use querywright_types::Result;

/// The weights of a token that carries no signal.
const NONE: (f32, f32) = (0.0, 0.0);

/// One iteration's pass over a micro-batch.
pub(super) struct Pass<'a> {
    pub(super) decoder: &'a Decoder,
    pub(super) deltas: &'a Deltas,
    pub(super) config: &'a LearnerConfig,
    pub(super) totals: Totals,
    /// Whether the policy is the one that sampled.
    pub(super) first: bool,
}

impl Pass<'_> {
    /// Loss and gradients of a micro-batch.
    pub(super) fn backward(
        &self,
        micro: &mut MicroBatch<'_>,
        mut tape: Tape,
        gradients: &mut GradientSum,
        report: &mut StepReport,
    ) -> Result<LossOutput> {
        let predictions = predictions(&tape, micro.rollouts.iter())?;
        let statistics = self.statistics(micro, &tape, &predictions)?;
        let (logp, entropy): (Vec<f32>, Vec<f32>) = statistics.iter().map(|s| (s.log_probability, s.entropy)).unzip();
        if self.first {
            // On the first pass the policy is the one that sampled: the ratio is exactly 1.
            micro.old = Some(logp.clone());
        }
        let batch = micro.batch(&logp, &entropy, Some(self.totals));
        let output = match self.config.loss.preference {
            true => preference_loss(&self.config.loss, &batch)?,
            false => policy_loss(&self.config.loss, &batch)?,
        };
        let weights: Vec<(f32, f32)> = output.dlogp.iter().copied().zip(output.dentropy.iter().copied()).collect();
        // A prompt of whose tokens none has a weight carries no signal and needs no backward pass.
        let weighted: Vec<(usize, Range<usize>)> = micro
            .tokens()
            .enumerate()
            .filter(|(_, tokens)| weights[tokens.clone()].iter().any(|w| *w != NONE))
            .collect();
        if weighted.is_empty() {
            return Ok(output);
        }
        tape.retain(self.decoder, &weighted.iter().map(|t| t.0).collect::<Vec<_>>())?;
        let predictions = super::predictions(&tape, weighted.iter().map(|(prompt, _)| &micro.rollouts[*prompt]))?;
        let weights: Vec<(f32, f32)> =
            weighted.iter().flat_map(|(_, tokens)| &weights[tokens.clone()]).copied().collect();
        let sampled = weighted.iter().flat_map(|(_, tokens)| &micro.sampled[tokens.clone()]).filter(|_| self.first);
        let sampled: Vec<TokenStatistics> = sampled.copied().collect();
        let objective = Objective {
            predictions: &predictions,
            temperature: self.config.temperature,
            weights: &weights,
            sampled: &sampled,
        };
        let recomputed = self.decoder.backward(&tape, objective, self.deltas, gradients)?;
        report.compare(&sampled, &recomputed);
        Ok(output)
    }

    /// The sampler's own numbers in the first iteration; recomputed where there are none.
    fn statistics(
        &self,
        micro: &MicroBatch<'_>,
        tape: &Tape,
        predictions: &Predictions,
    ) -> Result<Vec<TokenStatistics>> {
        let mut statistics = micro.sampled.clone();
        let missing = |i: &usize| !self.first || statistics[*i].log_probability.is_nan();
        let missing: Vec<usize> = (0..statistics.len()).filter(missing).collect();
        let recomputed = self.decoder.predicted(tape, &predictions.select(&missing), self.config.temperature)?;
        for (index, recomputed) in missing.into_iter().zip(recomputed) {
            statistics[index] = recomputed;
        }
        Ok(statistics)
    }
}
