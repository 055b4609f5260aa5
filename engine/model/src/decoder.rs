//! A decoder where it runs: on the processor or on a GPU. What generates and what learns goes through here and does not
//! know which.

use std::sync::Arc;

use super::adapter::{Adapter, Deltas};
use super::backend::{Backend, BackendGradients, BackendTape, Batching, Generate, Group, Learn, Optimize};
use super::batcher::Job;
use super::completion::{Completion, Completions, GenerateOptions, PromptTokens, rows_of};
use super::config::ModelConfig;
use super::cuda::{CudaBatch, CudaDecoder, CudaGradients, CudaTape};
use super::device::{DeviceChoice, DeviceInfo};
use super::host::{HostBatch, HostDecoder, HostGradients, HostTape};
use super::objective::{Objective, Predictions};
use super::optimizer::{AdamWState, AdamWStep, Updated};
use super::sequence::Call;
use super::source::ModelSource;
use super::tokenizer::Tokenizer;
use querywright_kernels::{Cache, Precision, TokenStatistics};
use querywright_types::{Error, Observe, Result};

/// The form of something in each backend.
#[derive(Debug, Clone)]
enum On<H, C> {
    Host(H),
    Cuda(C),
}

/// The same call on whichever backend it is.
macro_rules! on_each {
    ($on:expr, $it:ident => $call:expr) => {
        match $on {
            On::Host($it) => $call,
            On::Cuda($it) => $call,
        }
    };
}

/// A decoder with frozen base weights.
#[derive(Debug)]
pub struct Decoder(On<HostDecoder, CudaDecoder>);

/// Gradients of an adapter's factors, summed where the decoder runs.
#[derive(Debug)]
pub struct GradientSum(On<HostGradients, CudaGradients>);

/// What a generation leaves for learning: a prefix, prompts that continue it, and the completions of each.
#[derive(Debug, Clone)]
pub struct Tape(On<HostTape, CudaTape>);

/// Requests under way, which share passes.
#[derive(Debug)]
pub(super) struct Batch(On<HostBatch, CudaBatch>);

impl Decoder {
    /// Loads a model on the processor. `observer` is told after each layer how many of how many are done.
    ///
    /// # Errors
    /// A model that cannot be read.
    pub fn load(source: &ModelSource, precision: Precision, observer: &dyn Observe) -> Result<Self> {
        Ok(Self(On::Host(HostDecoder::load(source, precision, observer)?)))
    }

    /// Loads a model where it is to run.
    ///
    /// # Errors
    /// A model that cannot be read, a device that cannot be used or has too little memory.
    pub fn load_on(
        choice: DeviceChoice,
        source: &ModelSource,
        precision: Precision,
        observer: &dyn Observe,
    ) -> Result<Self> {
        let on_gpu = |ordinal| Ok(Self(On::Cuda(CudaDecoder::load(ordinal, source, precision, observer)?)));
        match choice {
            DeviceChoice::Cpu => Self::load(source, precision, observer),
            DeviceChoice::Cuda(ordinal) => on_gpu(ordinal),
            // Weights of 8 bits are asked for to run on the processor.
            DeviceChoice::Auto if precision == Precision::Int8 => Self::load(source, precision, observer),
            DeviceChoice::Auto => match on_gpu(0) {
                // There is none, or this model does not fit on it.
                Err(Error::Device { .. }) => Self::load(source, precision, observer),
                loaded => loaded,
            },
        }
    }

    /// The model's shapes.
    pub fn config(&self) -> &ModelConfig {
        on_each!(&self.0, decoder => decoder.config())
    }

    /// The decoder, where it runs on the processor: for benches of its forward pass.
    #[doc(hidden)]
    pub fn host(&self) -> Option<&HostDecoder> {
        match &self.0 {
            On::Host(host) => Some(host),
            On::Cuda(_) => None,
        }
    }

    /// The GPU's handle, where it runs on one: for benches that profile it.
    #[doc(hidden)]
    pub fn gpu(&self) -> Option<&querywright_kernels::device::Device> {
        match &self.0 {
            On::Host(_) => None,
            On::Cuda(decoder) => Some(decoder.handle()),
        }
    }

    /// The GPU that it runs on, if it does.
    ///
    /// # Errors
    /// A device that is lost.
    pub fn device(&self) -> Result<Option<DeviceInfo>> {
        on_each!(&self.0, decoder => decoder.device())
    }

    /// Runs work that calls the decoder often, on the threads that suit it.
    pub fn scope<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        on_each!(&self.0, decoder => decoder.scope(work))
    }

    /// Rows of a tape that are learned from at once, where nobody says how many: 4096 on a processor, what half of the
    /// memory that weights leave holds on a GPU.
    ///
    /// # Errors
    /// A device that is lost.
    pub fn rows_at_once(&self) -> Result<usize> {
        on_each!(&self.0, decoder => decoder.rows_at_once())
    }

    /// Whether recording a generation of these prompts saves the learner a forward pass, and fits into `room` bytes.
    pub fn records(&self, prefix: usize, prompts: &[PromptTokens], options: &GenerateOptions, room: usize) -> bool {
        let rows = prefix + rows_of(prompts, options);
        on_each!(&self.0, decoder => decoder.records(rows, room))
    }

    pub(super) fn prefix(&self, tokens: &[u32], deltas: &Deltas) -> Result<Option<Arc<Cache>>> {
        on_each!(&self.0, decoder => decoder.prefix(tokens, deltas))
    }

    pub(super) fn generate(&self, call: &Call<'_>, cache: Option<&Arc<Cache>>) -> Result<Vec<Vec<Completion>>> {
        on_each!(&self.0, decoder => decoder.generate(call, cache))
    }

    pub(super) fn generate_recorded(&self, call: &Call<'_>) -> Result<(Completions, Option<Tape>)> {
        Ok(match &self.0 {
            On::Host(host) => {
                let (completions, tape) = host.generate_recorded(call)?;
                (completions, tape.map(|tape| Tape(On::Host(tape))))
            }
            On::Cuda(cuda) => {
                let (completions, tape) = cuda.generate_recorded(call)?;
                (completions, tape.map(|tape| Tape(On::Cuda(tape))))
            }
        })
    }

    /// A batch without requests.
    pub(super) fn batch(&self) -> Batch {
        Batch(match &self.0 {
            On::Host(_) => On::Host(HostBatch::default()),
            On::Cuda(_) => On::Cuda(CudaBatch::default()),
        })
    }

    /// Requests that run together at most.
    pub(super) fn batch_limit(&self) -> usize {
        on_each!(&self.0, decoder => decoder.batch_limit())
    }

    /// Takes up `joining`, computes at least one more token of some requests, and gives those that ended.
    pub(super) fn advance(
        &self,
        batch: &mut Batch,
        joining: Vec<Arc<Job>>,
        deltas: &Deltas,
        tokenizer: &Tokenizer,
    ) -> Vec<(Arc<Job>, Result<Completion>)> {
        match (&self.0, &mut batch.0) {
            (On::Host(host), On::Host(batch)) => host.advance(batch, joining, deltas, tokenizer),
            (On::Cuda(cuda), On::Cuda(batch)) => cuda.advance(batch, joining, deltas, tokenizer),
            _ => joining.into_iter().map(|job| (job, Err(another_backend()))).collect(),
        }
    }

    /// Gradients of zero for all deltas.
    ///
    /// # Errors
    /// Too little memory on a device.
    pub fn zero_gradients(&self, deltas: &Deltas) -> Result<GradientSum> {
        Ok(GradientSum(match &self.0 {
            On::Host(host) => On::Host(host.zero_gradients(deltas)?),
            On::Cuda(cuda) => On::Cuda(cuda.zero_gradients(deltas)?),
        }))
    }

    /// Log-probabilities and entropies of predictions of a tape.
    ///
    /// # Errors
    /// A token outside the vocabulary, a tape of another decoder; a device with too little memory, or that is lost.
    pub fn predicted(&self, tape: &Tape, predictions: &Predictions, temperature: f32) -> Result<Vec<TokenStatistics>> {
        match (&self.0, &tape.0) {
            (On::Host(host), On::Host(tape)) => host.predicted(tape, predictions, temperature),
            (On::Cuda(cuda), On::Cuda(tape)) => cuda.predicted(tape, predictions, temperature),
            _ => Err(another_backend()),
        }
    }

    /// Adds the gradient of an objective to `gradients`.
    ///
    /// Gives the log-probabilities and entropies of the predictions whose logits were recomputed: those that have a
    /// weight and of which the sampler kept no distribution, and some of the others.
    ///
    /// # Errors
    /// A token outside the vocabulary, a tape of another decoder; a device with too little memory, or that is lost.
    pub fn backward(
        &self,
        tape: &Tape,
        objective: Objective<'_>,
        deltas: &Deltas,
        gradients: &mut GradientSum,
    ) -> Result<Vec<Option<TokenStatistics>>> {
        match (&self.0, &tape.0, &mut gradients.0) {
            (On::Host(host), On::Host(tape), On::Host(sum)) => host.backward(tape, objective, deltas, sum),
            (On::Cuda(cuda), On::Cuda(tape), On::Cuda(sum)) => cuda.backward(tape, objective, deltas, sum),
            _ => Err(another_backend()),
        }
    }

    /// Clips the gradient to the step's largest norm and makes one AdamW update of the adapter. All or nothing: where the
    /// gradient is not finite, no parameter, no moment and no count changes. Without any gradient nothing changes either,
    /// so that momentum by itself does not move the weights.
    ///
    /// # Errors
    /// Parameters, gradients and moments that differ in length (a checkpoint of another model, say); gradients of
    /// another decoder; a device with too little memory, or that is lost.
    pub fn update(
        &self,
        state: &mut AdamWState,
        adapter: &mut Adapter,
        gradients: &GradientSum,
        step: &AdamWStep,
    ) -> Result<Updated> {
        match (&self.0, &gradients.0) {
            (On::Host(host), On::Host(sum)) => host.update(state, adapter, sum, step),
            (On::Cuda(cuda), On::Cuda(sum)) => cuda.update(state, adapter, sum, step),
            _ => Err(another_backend()),
        }
    }
}

impl GradientSum {
    /// Those of each of the adapter's factors, in the order of [`Adapter::parameters`].
    ///
    /// # Errors
    /// A device that is lost.
    pub fn read(&self, adapter: &Adapter) -> Result<Vec<Vec<f32>>> {
        on_each!(&self.0, sum => sum.read(adapter))
    }
}

impl Tape {
    /// The tape of a prefix, prompts that continue it and the completions of each.
    ///
    /// # Errors
    /// A token outside the vocabulary, a position outside the context.
    pub fn of(decoder: &Decoder, deltas: &Deltas, prefix: &[u32], groups: &[Group<'_>]) -> Result<Self> {
        Ok(Self(match &decoder.0 {
            On::Host(host) => On::Host(host.tape(deltas, prefix, groups)?),
            On::Cuda(cuda) => On::Cuda(cuda.tape(deltas, prefix, groups)?),
        }))
    }

    /// Puts tokens that the policy did not sample in the place of completions: (prompt, completion, tokens).
    ///
    /// # Errors
    /// Those of [`of`](Self::of); a completion that the tape does not have.
    pub fn replace(
        &mut self,
        decoder: &Decoder,
        deltas: &Deltas,
        completions: &[(usize, usize, &[u32])],
    ) -> Result<()> {
        match (&decoder.0, &mut self.0) {
            (On::Host(host), On::Host(tape)) => host.replace(tape, deltas, completions),
            (On::Cuda(cuda), On::Cuda(tape)) => cuda.replace(tape, deltas, completions),
            _ => Err(another_backend()),
        }
    }

    /// Keeps only these prompts, in this order.
    ///
    /// # Errors
    /// A tape of another decoder, a prompt that the tape does not have.
    pub fn retain(&mut self, decoder: &Decoder, prompts: &[usize]) -> Result<()> {
        match (&decoder.0, &mut self.0) {
            (On::Host(host), On::Host(tape)) => host.retain(tape, prompts),
            (On::Cuda(cuda), On::Cuda(tape)) => cuda.retain(tape, prompts),
            _ => Err(another_backend()),
        }
    }

    /// The predictions of all completions' tokens, prompt by prompt; `tokens` are the completions of each prompt.
    ///
    /// The first token of a completion is predicted by the prompt's last row, every further one by the row of the token
    /// before it.
    pub fn predictions<'t>(&self, tokens: impl Iterator<Item = Vec<&'t [u32]>>) -> Predictions {
        on_each!(&self.0, tape => tape.predictions(tokens))
    }

    /// Rows of tokens.
    pub fn rows(&self) -> usize {
        on_each!(&self.0, tape => BackendTape::rows(tape))
    }

    /// Bytes of activations that it holds; 0 for a tape of another decoder.
    pub fn bytes(&self, decoder: &Decoder) -> usize {
        match (&decoder.0, &self.0) {
            (On::Host(host), On::Host(tape)) => host.bytes(tape),
            (On::Cuda(cuda), On::Cuda(tape)) => cuda.bytes(tape),
            _ => 0,
        }
    }
}

/// A tape or gradients and a decoder that do not belong together.
fn another_backend() -> Error {
    Error::argument("tape", "it was recorded on another device than the decoder's", "use it with its own decoder")
}
