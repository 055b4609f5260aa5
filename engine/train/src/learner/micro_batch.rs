//! A part of a step's rollouts whose rows fit into memory together.

use std::ops::Range;

use super::{LearnerConfig, Rollout, RolloutBatch, Sample};
use crate::advantage::{Counterfactual, RankCredit, broadcast, rank_credit, term_credit};
use crate::loss::{Batch, Totals};
use querywright_model::{Decoder, Deltas, Tape, TokenStatistics};
use querywright_types::Result;

/// A micro-batch and what is known of its tokens.
pub(super) struct MicroBatch<'a> {
    pub(super) rollouts: &'a [Rollout],
    pub(super) tape: Option<Tape>,
    completions: Vec<Range<usize>>,
    pub(super) sampled: Vec<TokenStatistics>,
    advantages: Vec<f32>,
    /// The item of each token; none where completions have none.
    items: Option<Vec<u32>>,
    truncated: Vec<bool>,
    dropped: Vec<bool>,
    off_policy: Vec<bool>,
    /// Log-probabilities under the policy that sampled.
    pub(super) old: Option<Vec<f32>>,
    /// Log-probabilities under the base model.
    pub(super) reference: Option<Vec<f32>>,
}

impl<'a> MicroBatch<'a> {
    fn new(rollouts: &'a [Rollout], tape: Option<Tape>, signal: &TokenSignal, tokens: Range<usize>) -> Self {
        let samples = || rollouts.iter().flat_map(|r| &r.samples);
        let sampled = samples()
            .flat_map(|s| s.sampled_logp.iter().zip(&s.sampled_entropy))
            .map(|(log_probability, entropy)| TokenStatistics { log_probability: *log_probability, entropy: *entropy });
        Self {
            rollouts,
            tape,
            completions: ranges(samples()),
            sampled: sampled.collect(),
            advantages: signal.advantages.get(tokens.clone()).unwrap_or_default().to_vec(),
            items: signal.items.as_ref().and_then(|items| items.get(tokens)).map(<[u32]>::to_vec),
            truncated: samples().map(|s| s.truncated).collect(),
            dropped: samples().map(|s| s.dropped).collect(),
            off_policy: samples().map(Sample::is_off_policy).collect(),
            old: None,
            reference: None,
        }
    }

    pub(super) fn completions(&self) -> impl Iterator<Item = Vec<&'a [u32]>> {
        self.rollouts.iter().map(Rollout::completions)
    }

    /// The tokens of each prompt's completions in the concatenation of all.
    pub(super) fn tokens(&self) -> impl Iterator<Item = Range<usize>> {
        let mut end = 0;
        self.rollouts.iter().map(move |rollout| {
            let start = end;
            end += rollout.samples.iter().map(|s| s.tokens.len()).sum::<usize>();
            start..end
        })
    }

    /// A tape of all prompts and completions, for a teacher-forced pass.
    pub(super) fn teacher_forced(&self, decoder: &Decoder, deltas: &Deltas, prefix: &[u32]) -> Result<Tape> {
        let groups: Vec<(&[u32], Vec<&[u32]>)> =
            self.rollouts.iter().map(|r| r.prompt.as_slice()).zip(self.completions()).collect();
        Tape::of(decoder, deltas, prefix, &groups)
    }

    pub(super) fn batch<'b>(&'b self, logp: &'b [f32], entropy: &'b [f32], totals: Option<Totals>) -> Batch<'b> {
        Batch {
            logp,
            old_logp: self.old.as_deref().unwrap_or(logp),
            ref_logp: self.reference.as_deref(),
            entropy,
            advantages: &self.advantages,
            items: self.items.as_deref(),
            completions: &self.completions,
            truncated: &self.truncated,
            dropped: &self.dropped,
            off_policy: &self.off_policy,
            totals,
        }
    }
}

/// The range of each completion in the concatenation of all.
fn ranges<'a>(samples: impl Iterator<Item = &'a Sample>) -> Vec<Range<usize>> {
    let mut end = 0;
    let range = |sample: &Sample| {
        end += sample.tokens.len();
        end - sample.tokens.len()..end
    };
    samples.map(range).collect()
}

/// What every completion token of a step is learned with. Credit is scaled over the whole step, so that it does not depend
/// on how the step is cut into micro-batches.
pub(super) struct TokenSignal {
    /// Its advantage.
    advantages: Vec<f32>,
    /// The number of its item within the completion, with credit rank by rank.
    items: Option<Vec<u32>>,
}

impl TokenSignal {
    pub(super) fn of(batches: &[RolloutBatch], config: &LearnerConfig) -> Result<Self> {
        let rollouts = || batches.iter().flat_map(|b| &b.rollouts);
        let samples: Vec<&Sample> = rollouts().flat_map(|r| &r.samples).collect();
        let completions = ranges(samples.iter().copied());
        let shifted = || -> Vec<Counterfactual> {
            samples.iter().zip(&completions).map(|(s, range)| shift(&s.counterfactual, range.start)).collect()
        };
        if let Some(ranks) = config.rank_credit {
            let groups: Vec<usize> = rollouts().map(|r| r.samples.len()).collect();
            let RankCredit { advantages, items } = rank_credit(&completions, &shifted(), &groups, ranks)?;
            return Ok(Self { advantages, items: Some(items) });
        }
        let scalars: Vec<f32> = samples.iter().map(|s| s.advantage).collect();
        let advantages = match config.term_credit_coef {
            0.0 => broadcast(&completions, &scalars)?,
            coef => term_credit(&completions, &scalars, &shifted(), coef)?,
        };
        Ok(Self { advantages, items: None })
    }
}

fn shift(counterfactual: &Counterfactual, by: usize) -> Counterfactual {
    let mut shifted = counterfactual.clone();
    for range in shifted.terms.iter_mut().flat_map(|t| &mut t.tokens) {
        *range = range.start + by..range.end + by;
    }
    shifted
}

/// Cuts rollouts into parts whose tokens stay under the limit; at least one rollout each.
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

/// Cuts a step's batches into micro-batches of at most `limit` tokens and at least one rollout. What was recorded together
/// stays together.
pub(super) fn micro_batches<'a>(
    batches: &'a [RolloutBatch],
    tapes: Vec<Option<Tape>>,
    signal: &TokenSignal,
    limit: usize,
) -> Vec<MicroBatch<'a>> {
    let mut micros = Vec::new();
    let mut start = 0;
    for (batch, mut tape) in batches.iter().zip(tapes) {
        let parts: Vec<&[Rollout]> = match tape {
            Some(_) => vec![&batch.rollouts],
            None => split(&batch.rollouts, limit).collect(),
        };
        for part in parts {
            let end = start + part.iter().flat_map(|r| &r.samples).map(|s| s.tokens.len()).sum::<usize>();
            micros.push(MicroBatch::new(part, tape.take(), signal, start..end));
            start = end;
        }
    }
    micros
}
