//! A local language model as a rewriter.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use super::encoder::PromptEncoder;
use super::prompt::PromptConfig;
use super::prompter::Prompter;
use querywright_model::{
    Adapter, Completion, Decoder, Deltas, DeviceChoice, Finish, GenerateOptions, ModelSource, Precision, Prefix,
    PromptTokens, SamplingConfig, Tokenizer, generate, prefix,
};
use querywright_types::{Deadline, Error, Kept, Query, Result, RetrieverCard, Rewrite, Rewriter};

/// A decoder with its prompts, with or without an adapter. The part that all prompts share is computed once and kept.
pub struct LanguageModel {
    name: String,
    decoder: Arc<Decoder>,
    tokenizer: Tokenizer,
    encoder: Arc<PromptEncoder>,
    adapter: Option<Adapter>,
    sampling: SamplingConfig,
    /// Below this a rewrite is not used.
    least_confidence: Option<f32>,
    prefix: OnceLock<Prefix>,
}

impl std::fmt::Debug for LanguageModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LanguageModel")
            .field("name", &self.name)
            .field("adapter", &self.adapter.as_ref().map(Adapter::config))
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
        if encoder.is_restricted() {
            decoder.require_masks()?;
        }
        let name = name.into();
        let prefix = OnceLock::new();
        Ok(Self { name, decoder, tokenizer, encoder, adapter, sampling, least_confidence: None, prefix })
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
            let remedy = "build the prompts with Prompter::with_candidates, and the rewriter with LanguageModel::new";
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

    fn deltas(&self) -> &Deltas {
        self.adapter.as_ref().map_or(&[], Adapter::deltas)
    }

    /// The model's completions, one a query, before they are parsed.
    ///
    /// # Errors
    /// Those of [`PromptEncoder::prompt_tokens_within`] and of the model.
    pub fn completions(&self, queries: &[Query], deadline: Deadline) -> Result<Vec<Completion>> {
        let prompt = |(index, query): (usize, &Query)| self.encoder.prompt_tokens_within(query, index as u64, deadline);
        self.complete(&queries.iter().enumerate().map(prompt).collect::<Result<Vec<_>>>()?, deadline)
    }

    /// `count` rewrites of each query, sampled at a temperature; those that hold no query are left out. How sure the model
    /// was is of no account.
    ///
    /// # Errors
    /// Those of [`PromptEncoder::prompt_tokens`] and of the model.
    pub fn samples(&self, queries: &[Query], sampling: &SamplingConfig, count: usize) -> Result<Vec<Vec<Rewrite>>> {
        let prompt = |(index, query): (usize, &Query)| self.encoder.prompt_tokens(query, index as u64);
        let prompts = queries.iter().enumerate().map(prompt).collect::<Result<Vec<_>>>()?;
        let groups = self.generated(&prompts, sampling, count, Deadline::NONE)?;
        let read = |(query, group): (&Query, Vec<Completion>)| {
            group.iter().filter_map(|c| self.encoder.prompter().rewrite(query, &c.text).ok()).collect()
        };
        Ok(queries.iter().zip(groups).map(read).collect())
    }

    /// One completion a prompt.
    fn complete(&self, prompts: &[PromptTokens], deadline: Deadline) -> Result<Vec<Completion>> {
        let completions: Vec<Completion> =
            self.generated(prompts, &self.sampling, 1, deadline)?.into_iter().flatten().collect();
        if completions.len() != prompts.len() {
            let found = format!("{} completions for {} prompts", completions.len(), prompts.len());
            return Err(Error::bug("language model", found));
        }
        Ok(completions)
    }

    fn generated(
        &self,
        prompts: &[PromptTokens],
        sampling: &SamplingConfig,
        completions: usize,
        deadline: Deadline,
    ) -> Result<Vec<Vec<Completion>>> {
        let shared = match self.prefix.get() {
            Some(shared) => shared,
            None => {
                let computed = prefix(&self.decoder, self.encoder.prefix(), self.deltas())?;
                self.prefix.get_or_init(|| computed)
            }
        };
        let options = GenerateOptions { sampling, completions, stop: self.encoder.stop(), seed: 0, deadline };
        generate(&self.decoder, &self.tokenizer, shared, prompts, self.deltas(), &options)
    }

    /// As [`complete`](Self::complete). One bad prompt (it is too long) does not fail the others of its batch.
    fn complete_each(&self, prompts: &[PromptTokens], deadline: Deadline) -> Vec<Result<Completion>> {
        match self.complete(prompts, deadline) {
            Ok(completions) => completions.into_iter().map(Ok).collect(),
            Err(_) if prompts.len() > 1 => {
                prompts.iter().flat_map(|prompt| self.complete_each(std::slice::from_ref(prompt), deadline)).collect()
            }
            Err(error) => vec![Err(error)],
        }
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
        let completions = self.complete_each(&prompts, deadline);
        let read = |(query, completion): (&Query, Result<Completion>)| self.read(query, &completion?, deadline);
        let mut answers = asked.into_iter().zip(completions).map(read);
        known.into_iter().filter_map(|known| known.or_else(|| answers.next())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BaseConfig;
    use crate::words::Words;
    use querywright_types::{Fault, FaultKind, QueryLanguage};
    use std::time::Duration;

    fn rewriter() -> LanguageModel {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tiny-qwen3");
        let card = RetrieverCard::new("bm25", "d").with_version("1").with_content("garden tools");
        LanguageModel::open(&model, None, &card).unwrap()
    }

    #[test]
    fn each_query_has_one_rewrite_and_no_query_has_none() {
        let (rewriter, queries) = (rewriter(), ["cut the hedge", "dig", "rake"].map(Query::text));
        assert_eq!(rewriter.completions(&queries, Deadline::NONE).unwrap().len(), 3);
        assert_eq!(rewriter.rewrite(&queries, Deadline::NONE).len(), 3);
        assert!(rewriter.rewrite(&[], Deadline::NONE).is_empty());
        let nothing = rewriter.rewrite(&[Query::text(" "), Query::text("dig")], Deadline::NONE);
        assert_eq!((nothing.len(), nothing[0].as_ref().unwrap().text.as_str()), (2, ""), "no model is asked");
    }

    #[test]
    fn a_restricted_model_writes_words_of_the_catalogue_and_of_the_request_or_leaves_the_query_as_it_is() {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tiny-qwen3");
        let card = RetrieverCard::new("bm25", "d").with_version("1").with_content("garden tools");
        let prompt = PromptConfig {
            mode: crate::Mode::Rewrite,
            vocabulary: crate::Vocabulary::Catalog,
            ..PromptConfig::default()
        };
        let folder = tempfile::tempdir().unwrap();
        prompt.write(folder.path()).unwrap();
        assert_eq!(PromptConfig::read(folder.path()).unwrap(), Some(prompt.clone()));
        let source = ModelSource::open(&model).unwrap();
        let (decoder, tokenizer) = (Decoder::load(&source, Precision::F32, &()).unwrap(), source.tokenizer().unwrap());
        let prompter = || Prompter::new(prompt.clone(), &card).unwrap();
        let refused = PromptEncoder::new(prompter(), tokenizer.clone()).unwrap_err().to_string();
        assert!(refused.starts_with("prompt.vocabulary: Catalog"), "{refused}");
        let documents = ["a rake for Leaves", "a spade", "rake, spade and hoe", "hoe", "leaves"].map(str::to_owned);
        let words = Words::of_documents(&tokenizer, documents.into_iter()).unwrap();
        let encoder = Arc::new(PromptEncoder::restricted(prompter(), tokenizer.clone(), words).unwrap());
        let sampling = SamplingConfig { max_completion_length: 20, ..SamplingConfig::default() };
        let rewriter = LanguageModel::new("m", Arc::new(decoder), tokenizer, encoder, None, sampling).unwrap();
        let queries: Vec<Query> = (0..24).map(|i| Query::text(format!("Cut hedge{i}"))).collect();
        let (mut nothing, mut words) = (0, 0);
        for (query, rewrite) in queries.iter().zip(rewriter.rewrite(&queries, Deadline::NONE)) {
            let text = rewrite.unwrap().text;
            if text == query.text {
                nothing += 1;
                continue;
            }
            let own: Vec<&str> = query.text.split(' ').chain(["cut", "a", "rake", "spade", "hoe", "leaves"]).collect();
            assert!(text.split(' ').all(|word| own.contains(&word)), "{text:?} for {query:?}");
            words += 1;
        }
        assert!(nothing > 0 && words > 0, "{nothing} {words}");
    }

    #[test]
    fn an_adapter_whose_prompt_shows_candidates_is_refused_where_nothing_gives_them() {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tiny-qwen3");
        let folder = tempfile::tempdir().unwrap();
        PromptConfig { candidates: 5, ..PromptConfig::default() }.write(folder.path()).unwrap();
        let opened = LanguageModel::open(&model, Some(folder.path()), &RetrieverCard::new("bm25", "d"));
        let said = opened.unwrap_err().to_string();
        assert!(said.starts_with("prompt.candidates: 5") && said.contains("with_candidates"), "{said}");
    }

    #[test]
    fn a_first_search_that_fails_costs_its_own_query_and_each_query_is_asked_for_once() {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tiny-qwen3");
        let source = ModelSource::open(&model).unwrap();
        let (decoder, tokenizer) = (Decoder::load(&source, Precision::F32, &()).unwrap(), source.tokenizer().unwrap());
        let asked = Arc::new(std::sync::Mutex::new(Vec::new()));
        let noted = asked.clone();
        let candidates = move |query: &Query| {
            noted.lock().unwrap().push(query.text.clone());
            match query.text.as_str() {
                "bad" => Err(Error::Fault(Fault::new("bm25", FaultKind::Network, "down"))),
                _ => Ok(vec!["rake".to_owned()]),
            }
        };
        let config = PromptConfig { candidates: 2, mode: crate::Mode::Rewrite, ..PromptConfig::default() };
        let prompter = Prompter::new(config, &RetrieverCard::new("bm25", "d")).unwrap();
        let prompter = prompter.with_candidates(Arc::new(candidates));
        let encoder = Arc::new(PromptEncoder::new(prompter, tokenizer.clone()).unwrap());
        let rewriter =
            LanguageModel::new("m", Arc::new(decoder), tokenizer, encoder, None, SamplingConfig::greedy(8)).unwrap();
        let rewrite = |texts: &[&str]| {
            let queries: Vec<Query> = texts.iter().map(|text| Query::text(*text)).collect();
            let rewrites = rewriter.rewrite(&queries, Deadline::NONE);
            (std::mem::take(&mut *asked.lock().unwrap()), rewrites)
        };
        let (seen, rewrites) = rewrite(&["dig", "bad", " ", "cut"]);
        assert_eq!(seen, ["dig", "bad", "cut"]);
        assert!(matches!(&rewrites[1], Err(Error::Fault(fault)) if fault.kind == FaultKind::Network), "{rewrites:?}");
        assert_eq!(rewrites[2].as_ref().unwrap().text, "");
        let whole = |r: &Result<Rewrite>| r.as_ref().map(|r| r.text.clone()).map_err(ToString::to_string);
        let alone: Vec<_> = ["dig", "cut"].iter().map(|text| whole(&rewrite(&[text]).1[0])).collect();
        assert_eq!([whole(&rewrites[0]), whole(&rewrites[3])], alone[..], "the others have theirs");
        assert!(rewrite(&["bad"]).1.remove(0).is_err() && rewrite(&["", " "]).0.is_empty());
    }

    #[test]
    fn a_rewrite_below_the_least_confidence_is_not_used_and_that_is_no_error() {
        let queries: Vec<Query> = (0..12).map(|i| Query::text(format!("cut hedge {i}"))).collect();
        let texts = |least: f32| rewriter().with_confidence(least).rewrite(&queries, Deadline::NONE);
        let all = rewriter().rewrite(&queries, Deadline::NONE);
        let sure: Vec<f32> = all.iter().flatten().filter_map(|r| r.confidence).collect();
        assert!(sure.len() > 1 && sure.iter().all(|c| *c < 0.0 && c.is_finite()), "{all:?}");
        let least = sure.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let (mut kept, mut used) = (0, 0);
        for ((query, plain), gated) in queries.iter().zip(&all).zip(texts(least)) {
            let Ok(gated) = gated else { continue };
            match gated.kept {
                Some(why) => {
                    assert_eq!((why, &gated), (Kept::LowConfidence, &Rewrite::plain(query.text.clone())));
                    kept += 1;
                }
                None => {
                    assert_eq!(&gated, plain.as_ref().unwrap());
                    used += 1;
                }
            }
        }
        assert!(kept > 0 && used > 0, "{kept} {used}");
        let broken = |rewrites: &[Result<Rewrite>]| rewrites.iter().map(Result::is_err).collect::<Vec<_>>();
        assert_eq!(broken(&texts(f32::INFINITY)), broken(&all), "what holds no query is an error, sure or not");
    }

    #[test]
    fn samples_are_read_as_rewrites_and_equal_for_equal_seeds() {
        let queries = ["cut the hedge", "dig"].map(Query::text);
        let sampling = SamplingConfig { max_completion_length: 12, ..SamplingConfig::default() };
        let samples = || rewriter().samples(&queries, &sampling, 4).unwrap();
        let found = samples();
        assert!(found.len() == 2 && found.iter().all(|group| group.len() <= 4), "{found:?}");
        assert!(found.iter().any(|group| !group.is_empty()), "{found:?}");
        assert_eq!(found, samples());
    }

    #[test]
    fn a_model_that_chooses_names_nothing_but_choices_and_one_that_it_cannot_write_in_time_is_refused() {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tiny-qwen3");
        let card = RetrieverCard::new("bm25", "d").with_languages([QueryLanguage::Boolean]).with_fields(["title"]);
        let title = BaseConfig { contents: 0.0, fields: [("title".to_owned(), 1.0)].into(), ..BaseConfig::default() };
        let prompt = PromptConfig {
            mode: crate::Mode::Choose,
            choices: [("title".to_owned(), title)].into(),
            ..PromptConfig::default()
        };
        let source = ModelSource::open(&model).unwrap();
        let (decoder, tokenizer) = (Decoder::load(&source, Precision::F32, &()).unwrap(), source.tokenizer().unwrap());
        let encoder =
            |prompt: PromptConfig| PromptEncoder::new(Prompter::new(prompt, &card).unwrap(), tokenizer.clone());
        let short = PromptConfig { max_answer_tokens: 6, ..prompt.clone() };
        let refused = encoder(short).unwrap_err().to_string();
        assert!(refused.starts_with("prompt.max_answer_tokens: 6, and the choice title has 7 tokens"), "{refused}");
        let encoder = Arc::new(encoder(prompt).unwrap());
        assert!(encoder.is_restricted());
        let sampling = SamplingConfig { max_completion_length: 20, ..SamplingConfig::default() };
        let rewriter = LanguageModel::new("m", Arc::new(decoder), tokenizer.clone(), encoder, None, sampling).unwrap();
        let queries: Vec<Query> = (0..24).map(|i| Query::text(format!("hedge{i}"))).collect();
        let mut seen = [0, 0];
        for (query, rewrite) in queries.iter().zip(rewriter.rewrite(&queries, Deadline::NONE)) {
            let text = rewrite.unwrap().text;
            assert!(text == query.text || text == format!("title:({})", query.text), "{text:?}");
            seen[usize::from(text == query.text)] += 1;
        }
        assert!(seen[0] > 0 && seen[1] > 0, "{seen:?}");
    }

    #[test]
    fn past_the_deadline_each_query_has_an_error_that_says_so() {
        let past = Deadline::after(Duration::ZERO);
        let rewrites = rewriter().rewrite(&[Query::text("cut the hedge"), Query::text("dig")], past);
        assert_eq!(rewrites.len(), 2);
        assert!(rewrites.iter().all(|r| r.as_ref().is_err_and(Error::is_deadline)), "{rewrites:?}");
    }
}
