//! The interface that the two backends implement, file by file: `host/` on the processor and `cuda/` on a GPU.
//!
//! Nothing above `decoder.rs` knows which backend it uses.

use std::fmt::Debug;
use std::sync::Arc;

use super::adapter::{Adapter, Deltas};
use super::batcher::Job;
use super::completion::{Completion, Completions};
use super::config::ModelConfig;
use super::device::DeviceInfo;
use super::objective::{Objective, Predictions};
use super::optimizer::{AdamWState, AdamWStep, Updated};
use super::sequence::Call;
use super::tokenizer::Tokenizer;
use querywright_kernels::{Cache, TokenStatistics};
use querywright_types::Result;

/// A prompt and its completions.
pub(super) type Group<'a> = (&'a [u32], Vec<&'a [u32]>);

/// A decoder with frozen base weights.
pub(super) trait Backend: Generate + Batching + Learn + Optimize {
    /// The model's shapes.
    fn config(&self) -> &ModelConfig;

    /// The GPU that it runs on, if it does.
    fn device(&self) -> Result<Option<DeviceInfo>>;

    /// Runs work that calls the decoder often, on the threads that suit it.
    fn scope<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R;
}

/// Sampling (`generate.rs`).
pub(super) trait Generate {
    /// What a generation leaves for learning.
    type Tape: BackendTape;

    /// Keys and values of a prefix, where the backend does not keep them itself.
    fn prefix(&self, tokens: &[u32], deltas: &Deltas) -> Result<Option<Arc<Cache>>>;

    /// Whether recording a generation of so many rows saves the learner a forward pass, and fits into `room` bytes.
    fn records(&self, rows: usize, room: usize) -> bool;

    /// The completions of every prompt. `cache` is what [`prefix`](Self::prefix) gave.
    fn generate(&self, call: &Call<'_>, cache: Option<&Arc<Cache>>) -> Result<Completions>;

    /// As [`generate`](Self::generate), and what it recorded, where the backend records.
    fn generate_recorded(&self, call: &Call<'_>) -> Result<(Completions, Option<Self::Tape>)>;
}

/// Batches that requests join and leave while they run (`batch.rs`).
pub(super) trait Batching {
    /// Requests under way.
    type Batch: Default + Debug + Send;

    /// Requests that run together at most.
    fn batch_limit(&self) -> usize;

    /// Takes up `joining`, computes at least one more token of some requests, and gives those that ended.
    fn advance(
        &self,
        batch: &mut Self::Batch,
        joining: Vec<Arc<Job>>,
        deltas: &Deltas,
        tokenizer: &Tokenizer,
    ) -> Vec<(Arc<Job>, Result<Completion>)>;
}

/// A prefix, prompts that continue it, and the completions of each (`tape.rs`).
pub(super) trait BackendTape: Clone + Debug {
    /// Rows of tokens.
    fn rows(&self) -> usize;

    /// For each prompt and each of its completions, the rows that predict the completion's tokens: the prompt's last
    /// row, then those of the completion's inputs.
    fn predicting_rows(&self) -> Vec<Vec<Vec<usize>>>;

    /// The predictions of all completions' tokens, prompt by prompt; `tokens` are the completions of each prompt.
    fn predictions<'t>(&self, tokens: impl Iterator<Item = Vec<&'t [u32]>>) -> Predictions {
        let mut predictions = Predictions::default();
        for (rows, completions) in self.predicting_rows().into_iter().zip(tokens) {
            for (rows, completion) in rows.into_iter().zip(completions) {
                predictions.rows.extend(rows.into_iter().take(completion.len()));
                predictions.targets.extend_from_slice(completion);
            }
        }
        predictions
    }
}

/// Teacher-forced passes over tapes and their gradients (`tape.rs`, `backward.rs`).
pub(super) trait Learn: Generate {
    /// Sums of gradients of deltas.
    type Gradients: BackendGradients;

    /// The tape of a prefix, prompts and completions that are given.
    fn tape(&self, deltas: &Deltas, prefix: &[u32], groups: &[Group<'_>]) -> Result<Self::Tape>;

    /// Puts tokens in the place of completions: (prompt, completion, tokens).
    fn replace(&self, tape: &mut Self::Tape, deltas: &Deltas, completions: &[(usize, usize, &[u32])]) -> Result<()>;

    /// Keeps only these prompts, in this order.
    fn retain(&self, tape: &mut Self::Tape, prompts: &[usize]) -> Result<()>;

    /// Rows of a tape that are learned from at once, where nobody says how many.
    fn rows_at_once(&self) -> Result<usize>;

    /// Bytes of activations that a tape holds.
    fn bytes(&self, tape: &Self::Tape) -> usize;

    /// Log-probabilities and entropies of predictions.
    fn predicted(&self, tape: &Self::Tape, predictions: &Predictions, temperature: f32)
    -> Result<Vec<TokenStatistics>>;

    /// Gradients of zero for all deltas.
    fn zero_gradients(&self, deltas: &Deltas) -> Result<Self::Gradients>;

    /// Adds the gradient of an objective to `gradients`; see [`Decoder::backward`](super::Decoder::backward).
    fn backward(
        &self,
        tape: &Self::Tape,
        objective: Objective<'_>,
        deltas: &Deltas,
        gradients: &mut Self::Gradients,
    ) -> Result<Vec<Option<TokenStatistics>>>;
}

/// Gradients of an adapter's factors (`gradients.rs`).
pub(super) trait BackendGradients: Debug {
    /// Those of each factor, in the order of [`Adapter::parameters`].
    fn read(&self, adapter: &Adapter) -> Result<Vec<Vec<f32>>>;
}

/// Updates of an adapter (`optimizer.rs`).
pub(super) trait Optimize: Learn {
    /// Clips the gradient and makes one AdamW update of the adapter.
    fn update(
        &self,
        state: &mut AdamWState,
        adapter: &mut Adapter,
        gradients: &Self::Gradients,
        step: &AdamWStep,
    ) -> Result<Updated>;
}
