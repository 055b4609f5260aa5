//! Sequences that are being sampled: what both backends do with them.

use std::sync::Arc;

use super::adapter::Deltas;
use super::completion::{Completion, Finish, GenerateOptions, PromptTokens};
use super::grammar::Walk;
use super::sampling::{SampledToken, Sampler};
use super::tokenizer::Tokenizer;
use querywright_types::{Error, Result};

/// One call of [`generate`](super::generate), checked.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(super) prefix: &'a [u32],
    pub(super) prompts: &'a [PromptTokens],
    pub(super) deltas: &'a Deltas,
    pub(super) options: &'a GenerateOptions<'a>,
    pub(super) tokenizer: &'a Tokenizer,
}

impl Call<'_> {
    /// The text of a completion and why it ended, where its last token was the last one. `walk` is where it stands in its
    /// grammar.
    fn ended(&self, tokens: &[u32], walk: Option<&Walk>) -> Result<Option<(String, Finish)>> {
        if let Some((_, before)) = tokens.split_last()
            && walk.is_some_and(Walk::stopped)
        {
            return Ok(Some((self.tokenizer.decode(before)?, Finish::Stop)));
        }
        if let Some((last, before)) = tokens.split_last()
            && self.tokenizer.eos_ids().contains(last)
        {
            return Ok(Some((self.tokenizer.decode(before)?, Finish::Stop)));
        }
        let forced = match () {
            () if tokens.len() >= self.options.sampling.max_completion_length => Some(Finish::Length),
            () => self.options.deadline.check().is_err().then_some(Finish::Deadline),
        };
        if let (Some(walk), Some(finish)) = (walk, forced) {
            let whole = tokens.len().saturating_sub(walk.unfinished());
            return Ok(Some((self.tokenizer.decode(&tokens[..whole])?, finish)));
        }
        let stops = || self.options.stop.iter().filter(|s| !s.is_empty());
        if forced.is_none() && stops().next().is_none() {
            return Ok(None);
        }
        let text = self.tokenizer.decode(tokens)?;
        match stops().filter_map(|s| text.find(s.as_str())).min() {
            Some(at) => Ok(Some((text[..at].to_owned(), Finish::Stop))),
            None => Ok(forced.map(|finish| (text, finish))),
        }
    }
}

/// A sequence in flight; `S` is what a backend keeps of it.
pub(super) struct Active<S> {
    pub(super) prompt: usize,
    pub(super) completion: usize,
    pub(super) sampler: Sampler,
    pub(super) tokens: Vec<u32>,
    pub(super) log_probabilities: Vec<f32>,
    entropies: Vec<f32>,
    /// Where it stands in its prompt's grammar.
    pub(super) walk: Option<Walk>,
    /// Its text and why it ended, once it has.
    pub(super) ended: Option<(String, Finish)>,
    pub(super) state: S,
}

impl<S> Active<S> {
    pub(super) fn new(call: &Call<'_>, prompt: usize, completion: usize, state: S) -> Self {
        let GenerateOptions { sampling, seed, .. } = call.options;
        Self {
            prompt,
            completion,
            sampler: Sampler::new((*sampling).clone(), *seed, call.prompts[prompt].stream, completion),
            tokens: Vec::new(),
            log_probabilities: Vec::new(),
            entropies: Vec::new(),
            walk: call.prompts[prompt].grammar.clone().map(Walk::new),
            ended: None,
            state,
        }
    }

    /// The tokens that may come next; all where it has no grammar.
    pub(super) fn allowed(&self) -> Option<Arc<[u32]>> {
        self.walk.as_ref().map(Walk::allowed)
    }

    /// Samples its next token from logits, which may be overwritten where all tokens are allowed.
    pub(super) fn sample(
        &mut self,
        call: &Call<'_>,
        logits: &mut [f32],
        allowed: Option<&[u32]>,
    ) -> Result<SampledToken> {
        let seen = &[call.prefix, &call.prompts[self.prompt].tokens, &self.tokens];
        match allowed {
            None => self.sampler.sample(logits, seen),
            Some(allowed) => self.sampler.sample_within(allowed, logits, seen),
        }
    }

    /// Appends a token, and finds out whether it was the last one.
    pub(super) fn push(&mut self, call: &Call<'_>, sampled: SampledToken) -> Result<()> {
        self.tokens.push(sampled.token);
        self.log_probabilities.push(sampled.statistics.log_probability);
        self.entropies.push(sampled.statistics.entropy);
        if let Some(walk) = &mut self.walk
            && !walk.advance(sampled.token)
        {
            return Err(Error::bug("generation", format!("the token {} is not allowed here", sampled.token)));
        }
        self.ended = call.ended(&self.tokens, self.walk.as_ref())?;
        Ok(())
    }

    /// Its completion, where it has ended.
    pub(super) fn take_completion(&mut self) -> Option<Completion> {
        let (text, finish) = self.ended.take()?;
        let (tokens, log_probabilities) =
            (std::mem::take(&mut self.tokens), std::mem::take(&mut self.log_probabilities));
        Some(Completion { tokens, log_probabilities, entropies: std::mem::take(&mut self.entropies), text, finish })
    }
}

/// The completions of a call, prompt by prompt, as they end.
pub(super) struct Results(Vec<Vec<Option<Completion>>>);

impl Results {
    pub(super) fn new(call: &Call<'_>) -> Self {
        Self(vec![vec![None; call.options.completions]; call.prompts.len()])
    }

    /// Moves sequences that have ended from `active` to their place. `finished` takes their prompt, their completion and
    /// what the backend kept of them.
    pub(super) fn collect<S>(&mut self, active: &mut Vec<Active<S>>, mut finished: impl FnMut(usize, usize, S)) {
        let mut still = Vec::with_capacity(active.len());
        for mut a in active.drain(..) {
            let Some(completed) = a.take_completion() else {
                still.push(a);
                continue;
            };
            finished(a.prompt, a.completion, a.state);
            self.0[a.prompt][a.completion] = Some(completed);
        }
        *active = still;
    }

    /// All completions.
    pub(super) fn complete(self) -> Result<Vec<Vec<Completion>>> {
        let all = self.0.into_iter().map(|of_prompt| of_prompt.into_iter().collect::<Option<Vec<_>>>());
        all.collect::<Option<_>>().ok_or_else(|| Error::bug("generation", "a completion that never ended"))
    }
}
