//! What the stages' tests share: the tiny model over a shop of three products.

use std::path::Path;
use std::sync::Arc;

use super::super::advantage::Counterfactual;
use super::super::checkpoint::{self, RunState};
use super::super::config::TrainConfig;
use super::super::log::{StepMetrics, name};
use super::super::materials::Materials;
use super::super::replay::Replay;
use super::super::reward::RewardConfig;
use super::super::reward::{Reward, RewardCache, RewardFunction};
use super::super::trainer::Observer;
use super::{Origin, RelevanceFeedback, Sampler, ScoredCompletion, ScoredGroup};
use querywright_data::catalog::CatalogBuilder;
use querywright_model::{Adapter, Completion, Decoder, ModelSource, Precision};
use querywright_retrieve::{Bm25, Bm25Config};
use querywright_rewrite::{
    BaseConfig, Candidates, Mode, PromptConfig, PromptEncoder, Prompter, Shortlist, Vocabulary, Words,
};
use querywright_types::{
    Deadline, Fault, FaultKind, Hit, Judgements, Observe, Query, Ranking, Request, Retriever, RetrieverCard, Rewrite,
};

/// Watches a run and says nothing.
pub(crate) struct Unobserved;

impl Observe for Unobserved {}

impl Observer for Unobserved {
    fn step(&mut self, _: &StepMetrics, _: u64) {}
    fn evaluated(&mut self, _: u64, _: f64, _: bool) {}
    fn resumed(&mut self, _: u64) {}
}

/// What a run left behind, without the time that it took.
pub(crate) fn left_behind(folder: &Path) -> (RunState, Vec<StepMetrics>, String) {
    let (_, mut state) = checkpoint::latest(folder).unwrap().unwrap();
    state.seconds = 0.0;
    let lines = std::fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    let timeless = |line| {
        let mut metrics: StepMetrics = serde_json::from_str(line).unwrap();
        metrics.values.remove(name::STEP_TIME);
        metrics
    };
    let completions = std::fs::read_to_string(folder.join("completions.jsonl")).unwrap();
    (state, lines.lines().map(timeless).collect(), completions)
}

pub(crate) struct Fixture {
    pub(crate) config: TrainConfig,
    pub(crate) materials: Materials,
    reward: RewardFunction,
    cache: RewardCache,
    originals: Vec<Rewrite>,
    feedback: RelevanceFeedback,
    pub(super) replay: Replay,
}

/// Fails every request.
struct Failing(RetrieverCard);

impl Retriever for Failing {
    fn card(&self) -> &RetrieverCard {
        &self.0
    }

    fn retrieve(&self, requests: &[Request], _: Deadline) -> Vec<Result<Ranking, Fault>> {
        let fault = || Fault::new("down", FaultKind::Network, "down");
        requests.iter().map(|_| Err(fault())).collect()
    }
}

/// Finds documents 0, 1 and 2 for "thing", in this order.
struct Things(RetrieverCard);

impl Retriever for Things {
    fn card(&self) -> &RetrieverCard {
        &self.0
    }

    fn retrieve(&self, requests: &[Request], _: Deadline) -> Vec<Result<Ranking, Fault>> {
        let count = |request: &Request| if request.text == "thing" { request.k.min(3) as u32 } else { 0 };
        let hits = |request: &Request| (0..count(request)).map(|doc| Hit { doc, score: 3.0 - doc as f32 }).collect();
        requests.iter().map(|request| Ok(Ranking { hits: hits(request) })).collect()
    }
}

impl Fixture {
    /// Three queries, the answer to each is the product of the same number; groups of two, rewrites stand alone.
    pub(crate) fn new() -> Self {
        Self::with(|bm25| Arc::new(bm25))
    }

    /// The same, with answers that consist of these words and those of the request.
    pub(crate) fn restricted(words: &'static [&str]) -> Self {
        let prompt = PromptConfig { vocabulary: Vocabulary::Feedback, ..Self::new().config.prompt };
        Self::new().prompted(prompt, move |_: &Query| Ok(words.iter().map(|word| (*word).to_owned()).collect()))
    }

    /// The same, with other prompts over candidates from this source.
    pub(crate) fn prompted(mut self, prompt: PromptConfig, candidates: impl Candidates + 'static) -> Self {
        self.materials.encoder = Arc::new(self.encoder(&prompt, candidates));
        self.config.prompt = prompt;
        self
    }

    /// Prompts and answers over candidates from this source.
    pub(super) fn encoder(&self, prompt: &PromptConfig, candidates: impl Candidates + 'static) -> PromptEncoder {
        let (m, candidates): (_, Arc<dyn Candidates>) = (&self.materials, Arc::new(candidates));
        let prompter = Prompter::new(prompt.clone(), m.retriever.card()).unwrap().with_candidates(candidates.clone());
        match prompt.vocabulary {
            Vocabulary::Free => PromptEncoder::new(prompter, m.tokenizer.clone()),
            _ => PromptEncoder::restricted(prompter, m.tokenizer.clone(), Words::Candidates(candidates)),
        }
        .unwrap()
    }

    /// One history, of which the last line alone finds the product that follows best; the policy chooses between "last"
    /// and "same".
    pub(super) fn choosing() -> Self {
        let mut fixture = Self::new();
        let last = BaseConfig { history: 1, ..BaseConfig::default() };
        fixture.config.prompt.mode = Mode::Choose;
        fixture.config.prompt.choices = [("last".to_owned(), last)].into();
        let m = &mut fixture.materials;
        let history = Query::new("q", "kettle\nlantern").with_history([2]);
        m.train = vec![(history, Judgements::new(vec![(1, 1)]))];
        let prompter = Prompter::new(fixture.config.prompt.clone(), m.retriever.card()).unwrap();
        m.encoder = Arc::new(PromptEncoder::new(prompter, m.tokenizer.clone()).unwrap());
        fixture.originals = fixture.materials.originals().unwrap();
        fixture
    }

    /// One query, "thing", for which all three products are found in their order; the last one is relevant, the one before it
    /// less so. The policy puts them into order.
    pub(crate) fn ordering() -> Self {
        let mut fixture = Self::new();
        fixture.config.prompt = PromptConfig { mode: Mode::Rerank, candidates: 3, ..fixture.config.prompt.clone() };
        fixture.reorder(Arc::new(Things(RetrieverCard::new("things", "0").with_documents(3))));
        fixture
    }

    /// Has this retriever find what the policy puts into order.
    pub(super) fn reorder(&mut self, retriever: Arc<dyn Retriever>) {
        let m = &mut self.materials;
        let thing = |name: &str| (Query::new(name, "thing"), Judgements::new(vec![(2, 2), (1, 1)]));
        (m.train, m.dev) = (vec![thing("q0")], vec![thing("q1")]);
        m.retriever = retriever.clone();
        let shortlist = Shortlist::new(retriever, Arc::new(|doc| format!("product {doc}")));
        let prompter = Prompter::new(self.config.prompt.clone(), m.retriever.card()).unwrap();
        m.encoder = Arc::new(PromptEncoder::new(prompter.with_shortlist(shortlist), m.tokenizer.clone()).unwrap());
        self.originals = self.materials.originals().unwrap();
    }

    /// The same, with a retriever that fails every request.
    pub(crate) fn failing() -> Self {
        Self::with(|bm25| Arc::new(Failing(bm25.card().clone())))
    }

    fn with(retriever: impl FnOnce(Bm25) -> Arc<dyn Retriever>) -> Self {
        let text = "[model]\nname = \"tiny\"\n[data]\nname = \"shop\"\n[prompt]\nexamples = []\nmode = \"rewrite\"\n\
                    [sampling]\nmax_completion_length = 24\n\
                    [train]\nnum_generations = 2\ngeneration_batch_size = 4\ninject_feedback = true\n";
        let config = TrainConfig::parse(text, &[], "fixture").unwrap();
        let shop = [("kettle steel", "boil water"), ("lantern solar", "see at night"), ("tent dome", "sleep outdoors")];
        let mut builder = CatalogBuilder::new();
        for (i, (product, _)) in shop.iter().enumerate() {
            builder.push(&format!("d{i}"), [("title", *product)]).unwrap();
        }
        let catalog = Arc::new(builder.finish());
        let retriever = retriever(Bm25::in_memory(catalog.clone(), Bm25Config::default()).unwrap());
        let source =
            ModelSource::open(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/tiny-qwen3")))
                .unwrap();
        let tokenizer = source.tokenizer().unwrap();
        let prompter = Prompter::new(config.prompt.clone(), retriever.card()).unwrap();
        let train = shop.iter().enumerate().map(|(i, (_, need))| {
            let query = Query::new(format!("q{i}"), *need);
            (query, Judgements::new(vec![(i as u32, 1)]))
        });
        let materials = Materials {
            model_name: "tiny".into(),
            decoder: Arc::new(Decoder::load(&source, Precision::F32, &()).unwrap()),
            tokenizer: tokenizer.clone(),
            encoder: Arc::new(PromptEncoder::new(prompter, tokenizer).unwrap()),
            retriever,
            train: train.collect(),
            dev: Vec::new(),
            catalog,
            model_digest: "tiny".into(),
        };
        let feedback = RelevanceFeedback::new(&materials.catalog);
        let reward = RewardFunction::new(&config.reward).unwrap();
        let originals = materials.originals().unwrap();
        let (cache, replay) = (RewardCache::new(100), Replay::default());
        Self { config, materials, reward, cache, originals, feedback, replay }
    }

    /// Changes the reward.
    pub(super) fn set_reward(&mut self, change: impl FnOnce(&mut RewardConfig)) {
        change(&mut self.config.reward);
        self.reward = RewardFunction::new(&self.config.reward).unwrap();
    }

    /// Changes what a query is without a model.
    pub(super) fn set_original(&mut self, query: usize, text: &str) {
        self.originals[query] = Rewrite::plain(text);
    }

    pub(super) fn sampler(&self) -> Sampler<'_> {
        Sampler {
            config: &self.config,
            materials: &self.materials,
            reward: &self.reward,
            cache: &self.cache,
            originals: &self.originals,
            feedback: Some(&self.feedback),
            replay: &self.replay,
        }
    }

    /// An adapter that changes nothing yet.
    pub(crate) fn adapter(&self) -> Adapter {
        Adapter::new(self.materials.decoder.config(), self.config.lora.clone(), 0).unwrap()
    }

    /// A group of completions as the policy might have written them, each with the reward given.
    pub(super) fn group(&self, query: usize, completions: &[(&str, f32)]) -> ScoredGroup<'_> {
        let (labelled, original) = (&self.materials.train[query], &self.originals[query]);
        let encoder = &self.materials.encoder;
        let prompt = encoder.prompt_tokens(&labelled.0, query as u64).unwrap();
        let completion = |(text, value): &(&str, f32)| {
            let tokens = encoder.encode_answer(text, prompt.grammar.as_ref()).unwrap().unwrap();
            let text = format!(" {text}");
            ScoredCompletion {
                origin: Origin::Sampled,
                reading: encoder.read(&labelled.0, original, &text).unwrap(),
                completion: Completion::of(tokens, text, -1.0),
                reward: Some(Reward { value: *value, parts: Default::default() }),
                counterfactual: Counterfactual::default(),
            }
        };
        let completions = completions.iter().map(completion).collect();
        ScoredGroup { query, labelled, original, base: None, prompt, completions }
    }
}
