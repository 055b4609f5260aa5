//! A rewriter behind threads of its own, so that a deadline holds whatever the rewriter does.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use querywright_types::{Deadline, Error, Query, Result, Rewrite, Rewriter};

struct Job {
    query: Query,
    deadline: Deadline,
    reply: SyncSender<Result<Rewrite>>,
}

/// Threads that rewrite, started as they are needed; they end when this is dropped and their last job is done.
pub(crate) struct Workers {
    rewriter: Arc<dyn Rewriter>,
    /// Threads at most; as many jobs may wait.
    most: usize,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
    closed: bool,
}

impl Workers {
    /// Starts the first of at most `threads` threads.
    pub(crate) fn start(rewriter: Arc<dyn Rewriter>, threads: usize) -> Result<Self> {
        let workers = Self { rewriter, most: threads, shared: Arc::default() };
        workers.another(&mut workers.shared.lock()).map_err(|e| {
            Error::argument(
                "rewrite_threads",
                format!("the system refused a thread: {e}"),
                "lower the number of threads",
            )
        })?;
        Ok(workers)
    }

    /// Starts a thread.
    fn another(&self, state: &mut State) -> std::io::Result<()> {
        let (shared, rewriter) = (self.shared.clone(), self.rewriter.clone());
        let run = move || {
            while let Some(Job { query, deadline, reply }) = shared.next() {
                // Who waited may be gone; then nobody needs the work any more.
                let answer = deadline.check().and_then(|()| rewrite_one(rewriter.as_ref(), &query, deadline));
                let _ = reply.send(answer);
            }
        };
        std::thread::Builder::new().name("querywright-rewrite".into()).spawn(run)?;
        state.threads += 1;
        Ok(())
    }

    /// Begins a rewrite. When all threads are busy and the queue is full, the answer is [`Error::Overloaded`] at once.
    pub(crate) fn begin(&self, query: &Query, deadline: Deadline) -> Result<Pending> {
        let (reply, answer) = sync_channel(1);
        self.submit(Job { query: query.clone(), deadline, reply })?;
        Ok(Pending { deadline, answer })
    }

    fn submit(&self, job: Job) -> Result<()> {
        let mut state = self.shared.lock();
        if state.jobs.len() >= self.most {
            let found = "all threads are busy and the queue is full".to_owned();
            let remedy = "add threads (rewrite_threads) or machines, or send fewer requests at once".to_owned();
            return Err(Error::overloaded("rewriting", found, remedy));
        }
        if state.idle <= state.jobs.len() && state.threads < self.most {
            // Where the system refuses one more, the job waits for those that there are.
            let _ = self.another(&mut state);
        }
        state.jobs.push_back(job);
        drop(state);
        self.shared.changed.notify_one();
        Ok(())
    }
}

/// A rewrite that was begun.
pub(crate) struct Pending {
    deadline: Deadline,
    answer: Receiver<Result<Rewrite>>,
}

impl Pending {
    /// The rewrite by its deadline, or [`Error::Deadline`].
    pub(crate) fn wait(self) -> Result<Rewrite> {
        let left = self.deadline.left().unwrap_or(std::time::Duration::MAX);
        match self.answer.recv_timeout(left) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Timeout) => match self.deadline.check() {
                Err(late) => Err(late),
                Ok(()) => Err(Error::bug("stack::worker", "a wait ended before its deadline")),
            },
            Err(RecvTimeoutError::Disconnected) => {
                Err(Error::bug("stack::worker", "a thread ended in the middle of a job"))
            }
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a job; none when no more will come.
    fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                return Some(job);
            }
            if state.closed {
                return None;
            }
            state.idle += 1;
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }
}

/// One query through a rewriter. A rewriter that panics, or gives no answer or several, costs this query alone.
///
/// # Errors
/// The rewriter's own, and [`Error::Rewriter`] where it broke its contract.
pub fn rewrite_one(rewriter: &dyn Rewriter, query: &Query, deadline: Deadline) -> Result<Rewrite> {
    let work = || rewriter.rewrite(std::slice::from_ref(query), deadline);
    let Ok(mut answers) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) else {
        return Err(broken(rewriter, "it panicked"));
    };
    match (answers.pop(), answers.len()) {
        (Some(answer), 0) => answer,
        (None, _) => Err(broken(rewriter, "it gave no answer")),
        (Some(_), more) => Err(broken(rewriter, &format!("it gave {} answers to one query", more + 1))),
    }
}

/// A rewriter that broke its contract.
pub(crate) fn broken(rewriter: &dyn Rewriter, found: &str) -> Error {
    Error::rewriter(rewriter.name(), found)
}
