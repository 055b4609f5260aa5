//! The language model as a rewriter.

use std::sync::{Arc, OnceLock};

use super::prompt::Prompter;
use crate::error::{Error, Result};
use crate::model::{
    Adapter, Decoder, Deltas, Finish, GenerateOptions, Prefix, PromptTokens, SamplingConfig, Tokenizer, generate, prefix,
};
use crate::types::{Deadline, Query, Rewrite, Rewriter};

/// A decoder, with or without an adapter, behind a prompt. The prompt's fixed part is computed once and kept.
pub struct LanguageModel {
    name: String,
    decoder: Arc<Decoder>,
    tokenizer: Tokenizer,
    prompter: Arc<Prompter>,
    adapter: Option<Adapter>,
    sampling: SamplingConfig,
    prefix: OnceLock<Prefix>,
}

impl LanguageModel {
    /// A rewriter under this name. `sampling` is greedy for serving and evaluation.
    pub fn new(
        name: impl Into<String>,
        decoder: Arc<Decoder>,
        tokenizer: Tokenizer,
        prompter: Arc<Prompter>,
        adapter: Option<Adapter>,
        sampling: SamplingConfig,
    ) -> Result<Self> {
        sampling.validate()?;
        Ok(Self { name: name.into(), decoder, tokenizer, prompter, adapter, sampling, prefix: OnceLock::new() })
    }

    fn deltas(&self) -> &Deltas {
        self.adapter.as_ref().map_or(&[], Adapter::frozen)
    }

    /// What the model says to each query, before it is read.
    pub fn completions(&self, queries: &[Query], deadline: Deadline) -> Result<Vec<crate::model::Completion>> {
        let shared = match self.prefix.get() {
            Some(shared) => shared,
            None => {
                let made = prefix(&self.decoder, self.prompter.prefix(), self.deltas())?;
                self.prefix.get_or_init(|| made)
            }
        };
        let mut prompts = Vec::with_capacity(queries.len());
        for (index, query) in queries.iter().enumerate() {
            prompts.push(PromptTokens { stream: index as u64, tokens: self.prompter.tokens(query)? });
        }
        let options =
            GenerateOptions { sampling: &self.sampling, completions: 1, stop: self.prompter.stop(), seed: 0, deadline };
        let groups = generate(&self.decoder, &self.tokenizer, shared, &prompts, self.deltas(), &options)?;
        Ok(groups.into_iter().flatten().collect())
    }
}

impl Rewriter for LanguageModel {
    fn name(&self) -> &str {
        &self.name
    }

    fn rewrite(&self, queries: &[Query], deadline: Deadline) -> Vec<Result<Rewrite>> {
        let completions = match self.completions(queries, deadline) {
            Ok(completions) => completions,
            // One bad query (a prompt that is too long) must not spoil the others of its batch.
            Err(_) if queries.len() > 1 => {
                return queries.iter().flat_map(|q| self.rewrite(std::slice::from_ref(q), deadline)).collect();
            }
            Err(error) => return vec![Err(error)],
        };
        let read = |(query, completion): (&Query, &crate::model::Completion)| {
            if completion.finish == Finish::Deadline {
                return Err(deadline.check().err().unwrap_or_else(|| Error::Format("the deadline passed".into())));
            }
            let reading = self.prompter.read(query, &completion.text);
            reading.rewrite.ok_or_else(|| Error::Format(reading.fault.map_or(String::new(), |f| f.to_string())))
        };
        queries.iter().zip(&completions).map(read).collect()
    }
}
