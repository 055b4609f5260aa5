//! A local language model as a rewriter.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::config::PromptConfig;
use super::encoder::PromptEncoder;
use super::prompter::Prompter;
use querywright_model::{
    Adapter, Batcher, Completion, CompletionRequest, Decoder, DeviceChoice, Finish, GenerateOptions, ModelSource,
    Precision, Prefix, PromptTokens, SamplingConfig, Tokenizer, generate, prefix,
};
use querywright_types::{Deadline, Error, Kept, Load, Query, Result, RetrieverCard, Rewrite, Rewriter};

/// A decoder with its prompts, with or without an adapter. The part that all prompts share is computed once and kept.
/// Threads that ask at the same time share the model's passes ([`Batcher`]).
pub struct LanguageModel {
    name: String,
    batcher: Batcher,
    encoder: Arc<PromptEncoder>,
    sampling: SamplingConfig,
    /// Below this a rewrite is not used.
    least_confidence: Option<f32>,
    /// Held while it is computed: once, however many ask at first.
    prefix: Mutex<Option<Prefix>>,
}

impl std::fmt::Debug for LanguageModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LanguageModel")
            .field("name", &self.name)
            .field("batcher", &self.batcher)
            .field("sampling", &self.sampling)
            .field("least_confidence", &self.least_confidence)
            .finish_non_exhaustive()
    }
}

impl LanguageModel {
    /// A rewriter with this name. `sampling` is greedy for serving and evaluation.
    ///
    /// # Errors
    /// [`Error::Argument`] when `sampling` does not validate; [`Error::Device`] when answers are restricted and the
    /// decoder runs where that cannot be done.
    pub fn new(
        name: impl Into<String>,
        decoder: Arc<Decoder>,
        tokenizer: Tokenizer,
        encoder: Arc<PromptEncoder>,
        adapter: Option<Adapter>,
        sampling: SamplingConfig,
    ) -> Result<Self> {
        sampling.validate()?;
        let name = name.into();
        let (batcher, prefix) = (Batcher::new(decoder, tokenizer, adapter), Mutex::default());
        Ok(Self { name, batcher, encoder, sampling, least_confidence: None, prefix })
    }

    /// Sets how sure the model must be for its rewrite to be used: the mean log-probability of an answer's tokens, the
    /// one that ends it included. Below it the query is what it is without the model ([`Prompter::original`]), and says so
    /// by [`Kept::LowConfidence`]. It is learned on development queries and holds for the model, adapter and prompt that it
    /// was learned with. Default: every rewrite is used.
    pub fn with_confidence(mut self, least: f32) -> Self {
        self.least_confidence = Some(least);
        self
    }

    /// Opens a model (a GGUF file or a Hugging Face folder) and an optional adapter, to rewrite queries for the retriever
    /// of `card`. The prompt is the one that the adapter was trained with.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Model`] when the model or the adapter cannot be read, or when they do not fit each
    /// other. [`Error::Argument`] when the adapter's prompt does not fit the card or the model, or when its answers are
    /// restricted to words that only a catalogue has: give those to [`PromptEncoder::restricted`], and that to
    /// [`new`](Self::new). Likewise where its base or a choice asks for feedback or its prompts for candidates, which need
    /// an index.
    pub fn open(model: &Path, adapter: Option<&Path>, card: &RetrieverCard) -> Result<Self> {
        Self::open_with(model, adapter, card, Precision::Auto, DeviceChoice::Auto)
    }

    /// Like [`open`](Self::open), with weights in `precision` and on `device`. [`Precision::Int8`] takes half the memory
    /// of bf16. [`open`](Self::open) takes [`Precision::Auto`] and [`DeviceChoice::Auto`].
    ///
    /// # Errors
    /// Those of [`open`](Self::open), and [`Error::Device`] when the device cannot be used.
    pub fn open_with(
        model: &Path,
        adapter: Option<&Path>,
        card: &RetrieverCard,
        precision: Precision,
        device: DeviceChoice,
    ) -> Result<Self> {
        let source = ModelSource::open(model)?;
        let decoder = Arc::new(Decoder::load_on(device, &source, precision, &())?);
        let prompt = adapter.map(PromptConfig::read).transpose()?.flatten().unwrap_or_default();
        if let Some(key) = prompt.feedback_key() {
            // Every such rewrite would fail, and the query be searched for as it came.
            let remedy = "build the prompts with Prompter::with_feedback, and the rewriter with LanguageModel::new";
            return Err(Error::argument(key, "feedback needs an index, and there is none", remedy));
        }
        if prompt.candidates > 0 {
            let remedy = "build the prompts with Prompter::with_candidates or, for re-ranking, with_shortlist, and the rewriter \
                          with LanguageModel::new";
            let found = format!("{}, and only a first search gives candidates", prompt.candidates);
            return Err(Error::argument("prompt.candidates", found, remedy));
        }
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

    /// The model's completions, one a query, before they are parsed.
    ///
    /// # Errors
    /// Those of [`PromptEncoder::prompt_tokens_within`] and of the model.
    pub fn completions(&self, queries: &[Query], deadline: Deadline) -> Result<Vec<Completion>> {
        let prompt = |(index, query): (usize, &Query)| self.encoder.prompt_tokens_within(query, index as u64, deadline);
        let prompts = queries.iter().enumerate().map(prompt).collect::<Result<Vec<_>>>()?;
        self.complete(prompts, deadline)?.into_iter().collect()
    }

    /// `count` rewrites of each query, sampled at a temperature; those that hold no query are left out. How sure the model
    /// was is of no account.
    ///
    /// # Errors
    /// Those of [`PromptEncoder::prompt_tokens`] and of the model.
    pub fn samples(&self, queries: &[Query], sampling: &SamplingConfig, count: usize) -> Result<Vec<Vec<Rewrite>>> {
        let prompter = self.encoder.prompter();
        let settled = |query: &Query| prompter.settled(query, Deadline::NONE);
        let known = queries.iter().map(settled).collect::<Result<Vec<_>>>()?;
        let asked = || queries.iter().zip(&known).filter(|(_, known)| known.is_none()).map(|(query, _)| query);
        let prompt = |(index, query): (usize, &Query)| self.encoder.prompt_tokens(query, index as u64);
        let prompts = asked().enumerate().map(prompt).collect::<Result<Vec<_>>>()?;
        let groups = match prompts.is_empty() {
            true => Vec::new(),
            false => self.generated(&prompts, sampling, count, Deadline::NONE)?,
        };
        let read = |(query, group): (&Query, Vec<Completion>)| -> Vec<Rewrite> {
            group.iter().filter_map(|c| prompter.rewrite(query, &c.text).ok()).collect()
        };
        let mut read = asked().zip(groups).map(read);
        // Of a query for which no model is asked there is one rewrite.
        Ok(known
            .iter()
            .map(|known| known.clone().map_or_else(|| read.next().unwrap_or_default(), |one| vec![one]))
            .collect())
    }

    /// The part that all prompts share.
    fn prefix(&self) -> Result<Prefix> {
        let mut shared = self.prefix.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = shared.as_ref() {
            return Ok(shared.clone());
        }
        let computed = prefix(self.batcher.decoder(), self.encoder.prefix(), self.batcher.deltas())?;
        Ok(shared.insert(computed).clone())
    }

    /// One completion a prompt. One bad prompt (it is too long) does not fail the others.
    fn complete(&self, prompts: Vec<PromptTokens>, deadline: Deadline) -> Result<Vec<Result<Completion>>> {
        let prefix = self.prefix()?;
        let request = |prompt| {
            let stop = self.encoder.stop().to_vec();
            let request = CompletionRequest::new(prefix.clone(), prompt, self.sampling.clone());
            CompletionRequest { stop, deadline, ..request }
        };
        Ok(self.batcher.complete(prompts.into_iter().map(request).collect()))
    }

    fn generated(
        &self,
        prompts: &[PromptTokens],
        sampling: &SamplingConfig,
        completions: usize,
        deadline: Deadline,
    ) -> Result<Vec<Vec<Completion>>> {
        let options = GenerateOptions { sampling, completions, stop: self.encoder.stop(), seed: 0, deadline };
        let batcher = &self.batcher;
        generate(batcher.decoder(), batcher.tokenizer(), &self.prefix()?, prompts, batcher.deltas(), &options)
    }

    /// The rewrite that a completion is, where the model was sure enough of it. One that holds no query is an error, sure
    /// or not.
    fn read(&self, query: &Query, completion: &Completion, deadline: Deadline) -> Result<Rewrite> {
        if completion.finish == Finish::Deadline {
            deadline.check()?;
            return Err(Error::bug("language model", "generation ended at a deadline that has not passed"));
        }
        let (prompter, confidence) = (self.encoder.prompter(), confidence(completion));
        let mut rewrite = prompter.rewrite(query, &completion.text)?;
        if rewrite.kept.is_none() && self.least_confidence.is_some_and(|least| confidence < least) {
            rewrite = prompter.original(query)?.with_kept(Kept::LowConfidence);
        }
        Ok(rewrite.with_confidence(confidence))
    }
}

/// The mean log-probability of the tokens: a long answer is not less sure for its length.
fn confidence(completion: &Completion) -> f32 {
    let sum: f32 = completion.log_probabilities.iter().sum();
    sum / completion.log_probabilities.len().max(1) as f32
}

impl Rewriter for LanguageModel {
    fn name(&self) -> &str {
        &self.name
    }

    fn rewrite(&self, queries: &[Query], deadline: Deadline) -> Vec<Result<Rewrite>> {
        let (mut asked, mut prompts) = (Vec::new(), Vec::new());
        // None: the model is asked.
        let mut known: Vec<Option<Result<Rewrite>>> = Vec::with_capacity(queries.len());
        for query in queries {
            if query.is_empty() {
                known.push(Some(Ok(Rewrite::plain(String::new()))));
                continue;
            }
            if let Some(settled) = self.encoder.prompter().settled(query, deadline).transpose() {
                known.push(Some(settled));
                continue;
            }
            match self.encoder.prompt_tokens_within(query, prompts.len() as u64, deadline) {
                Ok(prompt) => {
                    asked.push(query);
                    prompts.push(prompt);
                    known.push(None);
                }
                // A first search that fails costs its own query alone.
                Err(error) => known.push(Some(Err(error))),
            }
        }
        if prompts.is_empty() {
            return known.into_iter().flatten().collect();
        }
        let completions = match self.complete(prompts, deadline) {
            Ok(completions) => completions,
            Err(error) => asked.iter().map(|_| Err(error.clone())).collect(),
        };
        let read = |(query, completion): (&Query, Result<Completion>)| self.read(query, &completion?, deadline);
        let mut answers = asked.into_iter().zip(completions).map(read);
        known.into_iter().filter_map(|known| known.or_else(|| answers.next())).collect()
    }

    /// Computes the part that all prompts share.
    fn warm_up(&self) -> Result<()> {
        self.prefix().map(drop)
    }

    fn load(&self) -> Option<Load> {
        Some(self.batcher.load())
    }
}

#[cfg(test)]
mod tests;
