//! The retrievers of a run, each with what belongs to it. Steps take turns among them.

use std::path::PathBuf;
use std::sync::Arc;

use crate::checkpoint::{Checkpoint, QueryState, RunState};
use crate::config::{Method, TrainConfig};
use crate::curriculum::Curriculum;
use crate::materials::{Labelled, Materials};
use crate::optimizer::AdamW;
use crate::replay::Replay;
use crate::rollout::RelevanceFeedback;
use crate::schedule::EntropyControl;
use crate::warm_start::WarmStart;
use querywright_data::metrics::{Measure, trec_order};
use querywright_model::{Adapter, SamplingConfig};
use querywright_rewrite::{LanguageModel, PromptConfig};
use querywright_stack::rank_all;
use querywright_types::{Deadline, Error, Observe, Query, Ranking, Request, Result, Rewrite, retrieve};

/// Development queries that are rewritten at once.
const DEV_BATCH: usize = 64;

/// One of the retrievers of a run.
pub(super) struct Environment<'a> {
    /// Its place among them.
    pub(super) number: usize,
    pub(super) materials: &'a Materials,
    /// What each training query is without a model.
    pub(super) originals: Vec<Rewrite>,
    /// Where what belongs to it alone is kept.
    pub(super) folder: PathBuf,
    /// The examples of the supervised steps; none where these are over.
    pub(super) warm_start: Option<WarmStart>,
}

/// What the first retriever of a run needs.
pub(super) fn first(materials: &[Materials]) -> Result<&Materials> {
    let none = || Error::argument("materials", "there are none", "give those of at least one retriever");
    materials.first().ok_or_else(none)
}

impl<'a> Environment<'a> {
    /// Those of a run, before anything is asked of a retriever.
    ///
    /// # Errors
    /// Materials that no run can be made of, or that do not belong together.
    pub(super) fn all(config: &TrainConfig, materials: &'a [Materials]) -> Result<Vec<Self>> {
        let first = first(materials)?;
        for (number, here) in materials.iter().enumerate() {
            here.require_usable()?;
            if !Arc::ptr_eq(&here.decoder, &first.decoder) || here.catalog.digest() != first.catalog.digest() {
                let found = format!("those of retriever {} have another model or another catalogue", number + 1);
                return Err(Error::argument("materials", found, "one adapter learns over one model and one catalogue"));
            }
        }
        if materials.len() > 1 && config.train.method != Method::Grpo {
            let found = format!("{:?}, with {} retrievers", config.train.method, materials.len());
            return Err(Error::argument("train.method", found, "only grpo learns from several: name one retriever"));
        }
        let environment = |(number, materials)| Self {
            number,
            materials,
            originals: Vec::new(),
            folder: config.folder_of(number),
            warm_start: None,
        };
        Ok(materials.iter().enumerate().map(environment).collect())
    }

    /// Asks what each training query is without a model.
    pub(super) fn find_originals(&mut self) -> Result<()> {
        self.originals = self.materials.originals()?;
        Ok(())
    }

    /// Searches for the examples of the supervised steps, or reads them where the run is resumed.
    pub(super) fn warm_up(
        &mut self,
        config: &TrainConfig,
        words: &RelevanceFeedback,
        measure: (Measure, usize),
        resumed: bool,
        observer: &dyn Observe,
    ) -> Result<()> {
        let known = (self.materials, self.originals.as_slice());
        self.warm_start = Some(WarmStart::of(config, known, words, measure, (&self.folder, resumed), observer)?);
        Ok(())
    }

    /// Whether there are examples for supervised steps.
    pub(super) fn has_examples(&self) -> bool {
        self.warm_start.as_ref().is_some_and(|examples| !examples.is_empty())
    }

    /// The tokens that all prompts share.
    pub(super) fn prefix(&self) -> &'a [u32] {
        self.materials.encoder.prefix()
    }

    /// The prompt as the adapter is to be asked in front of this retriever.
    pub(super) fn serving_prompt(&self, config: &TrainConfig) -> PromptConfig {
        PromptConfig { base: self.materials.encoder.prompter().config().base.clone(), ..config.serving_prompt() }
    }

    /// The mean of the development queries as the model rewrites them; none where the retriever failed for one.
    ///
    /// # Errors
    /// A device that fails.
    pub(super) fn dev_score(
        &self,
        adapter: &Adapter,
        greedy: SamplingConfig,
        (measure, depth): (Measure, usize),
        observer: &dyn Observe,
    ) -> Result<Option<f64>> {
        let m = self.materials;
        let model = LanguageModel::new(
            m.model_name.clone(),
            m.decoder.clone(),
            m.tokenizer.clone(),
            m.encoder.clone(),
            Some(adapter.clone()),
            greedy,
        )?;
        let queries: Vec<&Query> = m.dev.iter().map(|(q, _)| q).collect();
        let ranked = rank_all(&model, m.retriever.as_ref(), &queries, depth, DEV_BATCH, &());
        let mut scores = Vec::with_capacity(ranked.len());
        for (ranked, (_, judgements)) in ranked.into_iter().zip(&m.dev) {
            if let Some(error @ Error::Device { .. }) = ranked.fallback {
                // The raw queries' score is not the adapter's.
                return Err(error);
            }
            // A fault of the model's own first search is no score of the model either.
            let faulty = ranked.fallback.as_ref().is_some_and(Error::is_fault);
            if let Some(ranking) = ranked.ranking.as_ref().ok().filter(|_| !faulty) {
                let docs = trec_order(ranking, |doc| m.catalog.id(doc));
                scores.push(measure.score(&docs, judgements));
            }
        }
        let failed = m.dev.len() - scores.len();
        if failed > 0 {
            // A mean over other queries than last time would not compare.
            observer.note(&format!("the retriever failed for {failed} development queries; no score this time"));
            return Ok(None);
        }
        Ok(Some(scores.iter().sum::<f64>() / scores.len() as f64))
    }

    /// Headroom of the training queries, and nothing to replay.
    fn queries(&self, config: &TrainConfig, measure: (Measure, usize)) -> Result<QueryState> {
        let curriculum = Curriculum::new(config.curriculum.clone(), &self.scores_without_model(measure))?;
        Ok(QueryState { curriculum, replay: Replay::default() })
    }

    /// The measure of each training query without a model; none where the retriever failed.
    fn scores_without_model(&self, (measure, k): (Measure, usize)) -> Vec<Option<f64>> {
        let train = &self.materials.train;
        let request = |((query, _), original): (&Labelled, &Rewrite)| Request::new(query, original, k);
        let requests: Vec<Request> = train.iter().zip(&self.originals).map(request).collect();
        let rankings = retrieve(self.materials.retriever.as_ref(), &requests, Deadline::NONE);
        let score = |(ranking, (_, judgements)): (Result<Ranking, _>, &Labelled)| {
            let docs: Vec<u32> = ranking.ok()?.hits.iter().map(|h| h.doc).collect();
            Some(measure.score(&docs, judgements))
        };
        rankings.into_iter().zip(train).map(score).collect()
    }
}

/// Where a run without a checkpoint starts. `measure` is what the adapter is chosen by, with the retrieval depth.
pub(super) fn start(
    config: &TrainConfig,
    environments: &[Environment<'_>],
    measure: (Measure, usize),
    digest: String,
    observer: &mut dyn Observe,
) -> Result<Checkpoint> {
    let mut queries = environments.iter().map(|here| here.queries(config, measure)).collect::<Result<Vec<_>>>()?;
    for (here, QueryState { curriculum, .. }) in environments.iter().zip(&queries) {
        let (count, headroom) = (curriculum.len(), curriculum.mean_headroom());
        let name = &here.materials.retriever.card().name;
        let on = if environments.len() > 1 { format!(" on {name}") } else { String::new() };
        observer.note(&format!("{count} training queries, mean headroom {headroom:.3} {}{on}", measure.0));
    }
    let also = queries.split_off(queries.len().min(1));
    let (Some(here), Some(QueryState { curriculum, replay })) = (environments.first(), queries.pop()) else {
        return Err(Error::bug("train::trainer", "a run without a retriever"));
    };
    let adapter = Adapter::new(here.materials.decoder.config(), config.lora.clone(), config.train.seed)?;
    let entropy = config.entropy.map(|e| EntropyControl::new(e, config.loss.entropy_coef)).transpose()?;
    let state = RunState {
        version: env!("CARGO_PKG_VERSION").into(),
        digest,
        max_steps: Some(config.train.max_steps),
        step: 0,
        updates: 0,
        optimizer: config.optimizer,
        entropy,
        curriculum,
        replay,
        also,
        num_tokens: 0,
        seconds: 0.0,
        best: None,
    };
    Ok(Checkpoint { state, adapter, optimizer: AdamW::new(config.optimizer) })
}
