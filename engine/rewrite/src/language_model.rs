//! The language model as a rewriter.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use super::encoder::PromptEncoder;
use super::prompt::{PromptConfig, Prompter};
use crate::error::{Error, Result};
use crate::model::Precision;
use crate::model::{
    Adapter, Decoder, Deltas, DeviceChoice, Finish, GenerateOptions, ModelSource, Prefix, PromptTokens, SamplingConfig,
    Tokenizer, generate, prefix,
};
use crate::types::{Deadline, Query, RetrieverCard, Rewrite, Rewriter};

/// A decoder, with or without an adapter, behind a prompt. The prompt's fixed part is computed once and kept.
pub struct LanguageModel {
    name: String,
    decoder: Arc<Decoder>,
    tokenizer: Tokenizer,
    encoder: Arc<PromptEncoder>,
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
        encoder: Arc<PromptEncoder>,
        adapter: Option<Adapter>,
        sampling: SamplingConfig,
    ) -> Result<Self> {
        sampling.validate()?;
        Ok(Self { name: name.into(), decoder, tokenizer, encoder, adapter, sampling, prefix: OnceLock::new() })
    }

    /// Opens a model (a GGUF file or a Hugging Face folder) and, where one is given, an adapter for rewriting queries to
    /// the retriever of `card`. The prompt is the one that the adapter was trained with.
    ///
    /// # Errors
    /// A model or an adapter that cannot be read, or that do not fit each other.
    pub fn open(model: &Path, adapter: Option<&Path>, card: &RetrieverCard) -> Result<Self> {
        Self::open_with(model, adapter, card, Precision::Auto, DeviceChoice::Auto)
    }

    /// As [`open`](Self::open), with weights held in `precision` ([`Precision::Int8`] takes half the memory of bf16), on
    /// `device`. [`open`](Self::open) takes [`Precision::Auto`] and [`DeviceChoice::Auto`].
    ///
    /// # Errors
    /// Those of [`open`](Self::open), and a device that cannot be used.
    pub fn open_with(
        model: &Path,
        adapter: Option<&Path>,
        card: &RetrieverCard,
        precision: Precision,
        device: DeviceChoice,
    ) -> Result<Self> {
        let source = ModelSource::open(model)?;
        let decoder = Arc::new(Decoder::load_on(device, &source, precision, &|_, _| {})?);
        let prompt = adapter.map(PromptConfig::read).transpose()?.flatten().unwrap_or_default();
        let tokenizer = source.tokenizer()?;
        let encoder = Arc::new(PromptEncoder::new(Prompter::new(prompt, card)?, tokenizer.clone())?);
        let loaded = adapter.map(|folder| Adapter::load(folder, decoder.config())).transpose()?;
        let name = match adapter {
            Some(folder) => format!("{}+{}", source.name(), folder.display()),
            None => source.name(),
        };
        let sampling = SamplingConfig::greedy(encoder.prompter().config().max_answer_tokens);
        Self::new(name, decoder, tokenizer, encoder, loaded, sampling)
    }

    fn deltas(&self) -> &Deltas {
        self.adapter.as_ref().map_or(&[], Adapter::deltas)
    }

    /// What the model says to each query, before it is read.
    pub fn completions(&self, queries: &[Query], deadline: Deadline) -> Result<Vec<crate::model::Completion>> {
        let shared = match self.prefix.get() {
            Some(shared) => shared,
            None => {
                let made = prefix(&self.decoder, self.encoder.prefix(), self.deltas())?;
                self.prefix.get_or_init(|| made)
            }
        };
        let mut prompts = Vec::with_capacity(queries.len());
        for (index, query) in queries.iter().enumerate() {
            prompts.push(PromptTokens { stream: index as u64, tokens: self.encoder.encode(query)? });
        }
        let options =
            GenerateOptions { sampling: &self.sampling, completions: 1, stop: self.encoder.stop(), seed: 0, deadline };
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
            let reading = self.encoder.read(query, &completion.text);
            reading.rewrite.ok_or_else(|| Error::Format(reading.broken.map_or(String::new(), |f| f.to_string())))
        };
        queries.iter().zip(&completions).map(read).collect()
    }
}
