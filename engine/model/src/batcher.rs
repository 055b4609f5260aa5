//! Requests of many threads that share the passes of one model: continuous batching.
//!
//! There is no thread beside those that ask. Whoever finds nobody leading leads: it runs passes for everybody until its own
//! completions are there, and hands over to one that waits. A request joins a running batch with the next pass and leaves it
//! with its last token; nobody waits for the longest completion of a batch. Of requests with a deadline as many run at once as
//! end in time (`pace.rs`).

mod pace;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::adapter::{Adapter, Deltas};
use super::completion::{Completion, Finish, GenerateOptions, PromptTokens};
use super::decoder::{Batch, Decoder};
use super::generate::{Prefix, check};
use super::sampling::SamplingConfig;
use super::sequence::Call;
use super::tokenizer::Tokenizer;
use pace::Pace;
use querywright_types::{Deadline, Error, Load, Result};

/// Is told all tokens of a completion that is under way, after each pass; `false` ends it, because nobody wants it any
/// more. It must not block: everybody's pass waits for it.
pub type TokenObserver = Arc<dyn Fn(&[u32]) -> bool + Send + Sync>;

/// One completion that is asked for.
#[derive(Clone)]
pub struct CompletionRequest {
    /// What the prompt continues; of this batcher's adapter.
    pub prefix: Prefix,
    /// The prompt behind the prefix.
    pub prompt: PromptTokens,
    /// Sampling settings.
    pub sampling: SamplingConfig,
    /// Texts that end the completion.
    pub stop: Vec<String>,
    /// The seed.
    pub seed: u64,
    /// When to stop.
    pub deadline: Deadline,
    /// Who is told of tokens as they come.
    pub observer: Option<TokenObserver>,
    /// Whether the prompt's beginning is kept for later prompts that begin alike, within 256 MiB. The prompt is then read in
    /// blocks of 16 to 256 tokens, whose sums are rounded apart from each other: the last digits of a long prompt's
    /// probabilities are other ones than [`generate`](super::generate())'s. They depend on no other request, earlier or
    /// beside it. Default: no. A GPU keeps nothing.
    pub keep_prompt: bool,
}

impl std::fmt::Debug for CompletionRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CompletionRequest")
            .field("prompt", &self.prompt)
            .field("sampling", &self.sampling)
            .finish_non_exhaustive()
    }
}

impl CompletionRequest {
    /// Asks for a completion of a prompt, without texts that end it, a deadline or an observer, and with seed 0.
    pub fn new(prefix: Prefix, prompt: PromptTokens, sampling: SamplingConfig) -> Self {
        let deadline = Deadline::NONE;
        Self { prefix, prompt, sampling, stop: Vec::new(), seed: 0, deadline, observer: None, keep_prompt: false }
    }
}

/// A request under way.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) request: CompletionRequest,
    outcome: Mutex<Option<Result<Completion>>>,
    cancelled: AtomicBool,
    begun: OnceLock<Instant>,
}

impl Job {
    fn new(request: CompletionRequest) -> Self {
        Self { request, outcome: Mutex::new(None), cancelled: AtomicBool::new(false), begun: OnceLock::new() }
    }

    pub(crate) fn options(&self) -> GenerateOptions<'_> {
        let CompletionRequest { sampling, stop, seed, deadline, .. } = &self.request;
        GenerateOptions { sampling, completions: 1, stop, seed: *seed, deadline: *deadline }
    }

    pub(crate) fn call<'a>(
        &'a self,
        options: &'a GenerateOptions<'a>,
        deltas: &'a Deltas,
        tokenizer: &'a Tokenizer,
    ) -> Call<'a> {
        let prompts = std::slice::from_ref(&self.request.prompt);
        Call { prefix: self.request.prefix.tokens(), prompts, deltas, options, tokenizer }
    }

    /// Tells the observer of the tokens so far.
    pub(crate) fn observe(&self, tokens: &[u32]) {
        if self.request.observer.as_ref().is_some_and(|observer| !observer(tokens)) {
            self.cancel();
        }
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Keeps the first outcome.
    fn finish(&self, outcome: Result<Completion>) {
        locked(&self.outcome).get_or_insert(outcome);
    }

    /// Whether it was late, where it has ended or nobody waits for it any more.
    fn was_late(&self) -> bool {
        match locked(&self.outcome).as_ref() {
            Some(Ok(completion)) => completion.finish == Finish::Deadline,
            Some(Err(error)) => error.is_deadline(),
            None => self.request.deadline.passed(),
        }
    }

    fn is_done(&self) -> bool {
        locked(&self.outcome).is_some()
    }

    fn take(&self) -> Option<Result<Completion>> {
        locked(&self.outcome).take()
    }
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<Arc<Job>>,
    running: Vec<Arc<Job>>,
    pace: Pace,
    led: bool,
    /// Of the passes that were made.
    passes: Load,
}

/// A decoder with an adapter that completes prompts for many threads at once. Each request gets the completion that
/// [`generate`](super::generate()) gives for it alone, where its prompt is not [kept](CompletionRequest::keep_prompt). On a GPU
/// requests that wait are completed together, and later ones after them.
pub struct Batcher {
    decoder: Arc<Decoder>,
    tokenizer: Tokenizer,
    adapter: Option<Adapter>,
    queue: Mutex<Queue>,
    /// Something ended, or nobody leads any more.
    changed: Condvar,
    batch: Mutex<Batch>,
}

impl std::fmt::Debug for Batcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batcher")
            .field("adapter", &self.adapter.as_ref().map(Adapter::config))
            .field("load", &self.load())
            .finish_non_exhaustive()
    }
}

impl Batcher {
    /// A batcher for a decoder with its tokenizer and an adapter.
    pub fn new(decoder: Arc<Decoder>, tokenizer: Tokenizer, adapter: Option<Adapter>) -> Self {
        let batch = Mutex::new(decoder.batch());
        Self { decoder, tokenizer, adapter, queue: Mutex::default(), changed: Condvar::new(), batch }
    }

    /// The decoder.
    pub fn decoder(&self) -> &Arc<Decoder> {
        &self.decoder
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The adapter, where there is one.
    pub fn adapter(&self) -> Option<&Adapter> {
        self.adapter.as_ref()
    }

    /// What the adapter adds to the decoder's weights.
    pub fn deltas(&self) -> &Deltas {
        self.adapter.as_ref().map_or(&[], Adapter::deltas)
    }

    /// How much there is to do.
    pub fn load(&self) -> Load {
        let queue = locked(&self.queue);
        Load::new(queue.waiting.len(), queue.running.len()).and(queue.passes)
    }

    /// The completion of each request, in their order; a request that cannot be used fails alone. One that is not done at
    /// its deadline ends with [`Finish::Deadline`](super::Finish::Deadline), or with [`Error::Deadline`] where it never
    /// began or somebody else's pass was not over.
    pub fn complete(&self, requests: Vec<CompletionRequest>) -> Vec<Result<Completion>> {
        let jobs: Vec<Arc<Job>> = requests.into_iter().map(|request| Arc::new(Job::new(request))).collect();
        for job in &jobs {
            if let Err(error) = self.check(job) {
                job.finish(Err(error));
            }
        }
        self.queue().waiting.extend(jobs.iter().filter(|job| !job.is_done()).cloned());
        let latest = jobs.iter().map(|job| job.request.deadline).reduce(Deadline::max).unwrap_or(Deadline::NONE);
        while self.wait(&jobs, latest) == Turn::Lead {
            self.lead(&jobs, latest);
        }
        let outcome = |job: Arc<Job>| {
            let ended_by_observer = job.is_cancelled();
            job.cancel();
            let none = || match job.request.deadline.check() {
                _ if ended_by_observer => {
                    Err(Error::argument("observer", "it ended the completion", "let it return true to go on"))
                }
                Err(late) => Err(late),
                Ok(()) => Err(Error::bug("batcher", "a request was given up before its deadline")),
            };
            job.take().unwrap_or_else(none)
        };
        jobs.into_iter().map(outcome).collect()
    }

    fn check(&self, job: &Job) -> Result<()> {
        let options = job.options();
        check(self.decoder.config(), &job.call(&options, self.deltas(), &self.tokenizer))?;
        self.decoder.config().check_tokens(&job.request.prompt.tokens)
    }

    /// Waits until all jobs are done or the time is over, or until nobody leads.
    fn wait(&self, jobs: &[Arc<Job>], latest: Deadline) -> Turn {
        let mut queue = self.queue();
        loop {
            if jobs.iter().all(|job| job.is_done() || job.is_cancelled()) || latest.passed() {
                return Turn::Done;
            }
            if !queue.led {
                queue.led = true;
                return Turn::Lead;
            }
            let left = latest.left().unwrap_or(FOREVER);
            let waited = self.changed.wait_timeout(queue, left);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Runs passes until `own` jobs are done or their time is over.
    fn lead(&self, own: &[Arc<Job>], latest: Deadline) {
        let leading = Leading(self);
        let mut guard = locked(&self.batch);
        let batch: &mut Batch = &mut guard;
        while own.iter().any(|job| !job.is_done() && !job.is_cancelled()) && !latest.passed() {
            let joining = self.join();
            // One pass at a time is given to the threads: another batcher's may come in between.
            let advance = || self.decoder.advance(batch, joining, self.deltas(), &self.tokenizer);
            let ended = self.decoder.scope(advance);
            ended.into_iter().for_each(|(job, outcome)| job.finish(outcome));
            self.leave();
        }
        drop(guard);
        drop(leading);
    }

    /// The jobs that join now, counted as running. One that came too late, or would be late, does not begin. Of those with a
    /// deadline the newest go first: they have the most time left, and under a load that is too high the oldest have none.
    fn join(&self) -> Vec<Arc<Job>> {
        let mut queue = self.queue();
        let Queue { waiting, running, pace, passes, .. } = &mut *queue;
        let before = waiting.len();
        waiting.retain(|job| {
            let deadline = job.request.deadline;
            match (deadline.check(), deadline.left()) {
                (Err(late), _) => job.finish(Err(late)),
                (_, Some(left)) if pace.is_too_late(left, running.len()) => {
                    job.finish(Err(would_be_late(running.len())))
                }
                _ => {}
            }
            !job.is_done() && !job.is_cancelled()
        });
        if waiting.len() < before {
            self.changed.notify_all();
        }
        let hurries = |place: &usize| waiting[*place].request.deadline.left().is_some();
        let newest = (0..waiting.len()).rev().filter(hurries);
        let order: Vec<usize> = newest.chain((0..waiting.len()).filter(|place| !hurries(place))).collect();
        let (most, mut joins) = (self.decoder.batch_limit(), vec![false; waiting.len()]);
        let mut now = running.len();
        for place in order {
            if now < most && (!hurries(&place) || pace.room(now) > 0) {
                joins[place] = true;
                now += 1;
            }
        }
        let mut joins = joins.into_iter();
        let joining: Vec<Arc<Job>> = waiting.extract_if(.., |_| joins.next().unwrap_or_default()).collect();
        joining.iter().for_each(|job| _ = job.begun.set(Instant::now()));
        running.extend(joining.iter().cloned());
        if !running.is_empty() {
            passes.pass(running.len());
        }
        joining
    }

    /// Forgets running jobs that have ended, and learns the pace from those with a deadline.
    fn leave(&self) {
        let mut queue = self.queue();
        let Queue { waiting, running, pace, .. } = &mut *queue;
        let (before, others_wait, now) = (running.len(), !waiting.is_empty(), Instant::now());
        running.retain(|job| {
            let stays = !job.is_done() && !job.is_cancelled();
            if let (false, Some(_), Some(begun)) = (stays, job.request.deadline.left(), job.begun.get()) {
                match (job.was_late(), job.is_done()) {
                    (true, _) => pace.late(now, now.saturating_duration_since(*begun)),
                    (false, true) => pace.in_time(begun.elapsed(), others_wait),
                    // Its observer wanted no more.
                    (false, false) => {}
                }
            }
            stays
        });
        if running.len() < before {
            self.changed.notify_all();
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        locked(&self.queue)
    }
}

/// A request that cannot be done in its time.
fn would_be_late(running: usize) -> Error {
    let found = format!("{running} requests run, and with them this one would be late");
    Error::overloaded("the model", found, "allow more time, send fewer requests at once, or add machines")
}

/// What somebody who waits does next.
#[derive(Debug, PartialEq, Eq)]
enum Turn {
    Done,
    Lead,
}

/// Hands over when it is dropped, whether passes ended or panicked.
struct Leading<'a>(&'a Batcher);

impl Drop for Leading<'_> {
    fn drop(&mut self) {
        let mut queue = self.0.queue();
        if std::thread::panicking() {
            // Sequences are lost with the pass.
            for job in queue.running.drain(..) {
                job.finish(Err(Error::bug("batcher", "a pass over its batch panicked")));
            }
            *locked(&self.0.batch) = self.0.decoder.batch();
        }
        queue.led = false;
        self.0.changed.notify_all();
    }
}

/// How long somebody without a deadline sleeps at a time.
const FOREVER: Duration = Duration::from_secs(3600);

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
