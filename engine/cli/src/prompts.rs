//! The prompts of a rewriter in front of a retriever.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use querywright::model::{Adapter, SamplingConfig, Tokenizer};
use querywright::rewrite::{LanguageModel, Mode, PromptConfig, PromptEncoder, Prompter, Vocabulary, Words};

use crate::ranker::Ranker;
use crate::weights::Model;
use crate::{candidates, shortlist};

/// The prompts for a retriever, as text. Needs no model: what cannot be used is refused before one is fetched.
pub fn prompter(prompt: &PromptConfig, ranker: &Ranker) -> Result<Prompter> {
    let catalog = ranker.catalog.clone();
    let titles = move |item| catalog.document(item).title().to_owned();
    let mut prompter = Prompter::new(prompt.clone(), ranker.retriever.card())?.with_titles(Arc::new(titles));
    // A plugin's catalogue is indexed only where something is asked of the index.
    if prompt.feedback_key().is_some() {
        prompter = prompter.with_feedback(candidates::feedback(ranker)?);
    }
    match (prompt.mode, prompt.candidates) {
        (Mode::Rerank, _) => prompter = prompter.with_shortlist(shortlist::of(ranker, prompt)?),
        (_, 0) => {}
        _ => prompter = prompter.with_candidates(candidates::candidates(ranker, prompt)?),
    }
    Ok(prompter)
}

/// The prompts for a retriever, in a model's tokens, with the words that answers may consist of.
pub fn encoder(prompter: Prompter, tokenizer: &Tokenizer, ranker: &Ranker) -> Result<Arc<PromptEncoder>> {
    let tokenizer = tokenizer.clone();
    let words = match prompter.config().vocabulary {
        Vocabulary::Catalog => {
            Words::of_documents(&tokenizer, ranker.catalog.documents().map(|d| d.text_of_all_fields()))?
        }
        Vocabulary::Feedback => Words::Candidates(candidates::words(ranker, prompter.config())?),
        _ => return Ok(Arc::new(PromptEncoder::new(prompter, tokenizer)?)),
    };
    Ok(Arc::new(PromptEncoder::restricted(prompter, tokenizer, words)?))
}

impl Model {
    /// The prompts for a retriever, in this model's tokens.
    pub fn encoder(&self, prompter: Prompter, ranker: &Ranker) -> Result<Arc<PromptEncoder>> {
        encoder(prompter, &self.tokenizer, ranker)
    }

    /// This model as a rewriter for a retriever, greedy.
    pub fn rewriter(
        &self,
        name: &str,
        prompt: &PromptConfig,
        ranker: &Ranker,
        adapter: Option<&Path>,
    ) -> Result<LanguageModel> {
        let encoder = self.encoder(prompter(prompt, ranker)?, ranker)?;
        let adapter = adapter.map(|folder| Adapter::load(folder, self.decoder.config())).transpose()?;
        let sampling = SamplingConfig::greedy(prompt.max_answer_tokens);
        let (decoder, tokenizer) = (self.decoder.clone(), self.tokenizer.clone());
        Ok(LanguageModel::new(name, decoder, tokenizer, encoder, adapter, sampling)?)
    }
}
