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

/// Nothing is under way between two calls.
#[derive(Debug, Default)]
pub(crate) struct CudaBatch(());

impl Batching for CudaDecoder {
    type Batch = CudaBatch;

    /// What does not fit into the memory together is generated in turn.
    fn batch_limit(&self) -> usize {
        usize::MAX
    }

    fn advance(
        &self,
        _: &mut CudaBatch,
        joining: Vec<Arc<Job>>,
        deltas: &Deltas,
        tokenizer: &Tokenizer,
    ) -> Vec<(Arc<Job>, Result<Completion>)> {
        let (mut rest, mut ended) = (joining, Vec::new());
        while let Some(first) = rest.first().cloned() {
            let (same, others) = rest.into_iter().partition(|job| together(&first, job));
            ended.extend(self.complete_together(same, deltas, tokenizer));
            rest = others;
        }
        ended
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
            Err(error) => jobs.into_iter().map(|job| (job, Err(error.clone()))).collect(),
        }
    }
}

/// Whether one call generates for both.
fn together(a: &Job, b: &Job) -> bool {
    let (a, b) = (&a.request, &b.request);
    (a.prefix.tokens(), &a.sampling, &a.stop, a.seed) == (b.prefix.tokens(), &b.sampling, &b.stop, b.seed)
}
