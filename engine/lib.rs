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
//! // What rewrites: a model, with what `querywright train` taught it.
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
//! # Words
//!
//! | word | meaning |
//! |---|---|
//! | catalogue, ordinal | the documents that are searched; a document's place among them |
//! | card | what a retriever says of itself: name, digest, query languages, content; prompts are built from it |
//! | rewrite | the text that is searched for in place of the query, and the query language it is written in |
//! | mode | `expand` keeps the user's words, weighted, and adds terms; `rewrite` replaces them |
//! | rollout, completion, group | what the model wrote for a prompt; one such text; all those of one prompt |
//! | reward | what a completion's ranking was worth; none where the environment failed |
//! | advantage | how much better a completion is than the others of its group |
//! | credit | how much better a term is than the others of its completion, by retrieving without it |
//! | headroom | what the raw query leaves to be gained |
//! | adapter | the low-rank weights that learn (LoRA), a PEFT folder; the base model stays as it is |
//! | fault | a failure of retriever, network or plugin: retried, then the sample is dropped; never a reward |
//! | raw, RM3 | the query as it came; pseudo-relevance feedback, the baseline of every table |
//! | zero-shot, trained | the model without and with its adapter |
//!
//! # The way of the data
//!
//! ```text
//! Query ── Rewriter ──> Rewrite ── Retriever ──> Ranking ── reward ──> Reward
//!   ^                                                                    │ group
//!   │                                                                Advantage
//!   └── Stack <── Adapter <── AdamW <── Gradient <── policy loss <───────┘
//! ```
//!
//! [`catalog`] reads documents, queries and judgements; [`sources`] fetches models and data sets by name. [`model`] is
//! the decoder over the fused operations of [`kernels`]. [`rewrite`] and [`retrieve`] hold the two sides of the loop,
//! [`stack`] the policy between them, [`serve`] what another process talks to. [`train`] learns, [`evaluate`] measures
//! with the [`metrics`] that trec_eval has.
//! The two contracts are the traits [`types::Rewriter`] and [`types::Retriever`]. A module imports only from floors
//! below its own; `ARCHITECTURE.md` draws the house.
//!
//! # Names from elsewhere
//!
//! Training options and metrics have TRL's names, schedules and AdamW those of transformers, adapters and LoRA options
//! PEFT's, measures those of ir_measures, RM3's settings Pyserini's. Runs and judgements are TREC files, models are
//! GGUF files or Hugging Face folders.
//!
//! # What is not supported
//!
//! - GPUs: everything runs on the CPU, fastest with AVX-512 and bf16 dot products.
//! - Models other than Llama (SmolLM2 included), Qwen2, Qwen2.5 and Qwen3; full fine-tuning (adapters alone learn).
//! - Dense retrieval: BM25, RM3 and fusions are built in; another retriever is a type of yours with the trait.
//! - Plugins: [`plugin`] reads manifests and computes what is granted; no host runs components yet.
//! - Off-policy correction for top-p, top-k and repetition penalty: log-probabilities are those of the whole
//!   distribution at the sampling temperature, whatever was cut off while sampling.
//! - Several turns of search for one query: a rewrite is one step.
#![deny(missing_docs)]

#[path = "data/src/catalog/mod.rs"]
pub mod catalog;
#[path = "data/src/digest.rs"]
pub mod digest;
#[path = "types/src/error.rs"]
pub mod error;
#[path = "evaluate/src/lib.rs"]
pub mod evaluate;
#[path = "kernels/src/lib.rs"]
pub mod kernels;
#[path = "data/src/metrics/mod.rs"]
pub mod metrics;
#[path = "model/src/lib.rs"]
pub mod model;
#[path = "plugin/src/lib.rs"]
pub mod plugin;
#[path = "retrieve/src/lib.rs"]
pub mod retrieve;
#[path = "rewrite/src/lib.rs"]
pub mod rewrite;
#[path = "cli/src/serve.rs"]
pub mod serve;
#[path = "sources/src/lib.rs"]
pub mod sources;
#[path = "stack/src/lib.rs"]
pub mod stack;
#[path = "text/src/lib.rs"]
pub mod text;
#[path = "train/src/lib.rs"]
pub mod train;
#[path = "types/src/lib.rs"]
pub mod types;

pub use error::{Error, Result};
pub use stack::Stack;

/// The README's code compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
