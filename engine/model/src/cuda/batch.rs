//! Requests that wait for a GPU: those with the same settings are completed together, later ones after them.

use std::sync::Arc;

use super::CudaDecoder;
use crate::adapter::Deltas;
use crate::backend::{Batching, Generate};
use crate::batcher::Job;
use crate::completion::{Completion, GenerateOptions, PromptTokens};
use crate::sequence::Call;
use crate::tokenizer::Tokenizer;
use querywright_types::{Deadline, Error, Result};

/// Requests whose turn comes later.
#[derive(Debug, Default)]
pub(crate) struct CudaBatch(Vec<Arc<Job>>);

impl Batching for CudaDecoder {
    type Batch = CudaBatch;

    /// What does not fit into the memory together is generated in turn.
    fn batch_limit(&self) -> usize {
        usize::MAX
    }

    fn advance(
        &self,
        batch: &mut CudaBatch,
        joining: Vec<Arc<Job>>,
        deltas: &Deltas,
        tokenizer: &Tokenizer,
    ) -> Vec<(Arc<Job>, Result<Completion>)> {
        batch.0.extend(joining);
        batch.0.retain(|job| !job.is_cancelled());
        let Some(first) = batch.0.first().cloned() else { return Vec::new() };
        let (same, later) = std::mem::take(&mut batch.0).into_iter().partition(|job| together(&first, job));
        batch.0 = later;
        self.complete_together(same, deltas, tokenizer)
    }
}

impl CudaDecoder {
    fn complete_together(
        &self,
        jobs: Vec<Arc<Job>>,
        deltas: &Deltas,
        tokenizer: &Tokenizer,
    ) -> Vec<(Arc<Job>, Result<Completion>)> {
        let Some(first) = jobs.first() else { return Vec::new() };
        let prompts: Vec<PromptTokens> = jobs.iter().map(|job| job.request.prompt.clone()).collect();
        // Who has less time than others does not wait for them.
        let deadline = jobs.iter().map(|job| job.request.deadline).reduce(Deadline::max).unwrap_or(Deadline::NONE);
        let options = GenerateOptions { deadline, ..first.options() };
        let prefix = first.request.prefix.tokens();
        let made = self.generate(&Call { prefix, prompts: &prompts, deltas, options: &options, tokenizer }, None);
        match made {
            Ok(groups) => {
                let mut completions = groups.into_iter().flatten();
                let of_each = |job: Arc<Job>| {
                    let none = || Error::bug("running batch", "a prompt without a completion");
                    let completion = completions.next().ok_or_else(none);
                    completion.iter().for_each(|completion| job.observe(&completion.tokens));
                    (job, completion)
                };
                jobs.into_iter().map(of_each).collect()
            }
            // Whoever it was that failed fails alone.
            Err(_) if jobs.len() > 1 => {
                jobs.into_iter().flat_map(|job| self.complete_together(vec![job], deltas, tokenizer)).collect()
            }
            Err(error) => jobs.into_iter().map(|job| (job, Err(error.clone()))).collect(),
        }
    }
}

/// Whether one call generates for both. What is greedy asks for no seed.
fn together(a: &Job, b: &Job) -> bool {
    let (a, b) = (&a.request, &b.request);
    let seed = a.seed == b.seed || a.sampling.temperature == 0.0;
    seed && (a.prefix.tokens(), &a.sampling, &a.stop) == (b.prefix.tokens(), &b.sampling, &b.stop)
}
