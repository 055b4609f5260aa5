//! A rewriter behind a thread of its own, so that a deadline holds whatever the rewriter does.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, TrySendError, sync_channel};

use querywright_types::{Deadline, Error, Query, Result, Rewrite, Rewriter};

struct Job {
    query: Query,
    deadline: Deadline,
    reply: SyncSender<Result<Rewrite>>,
}

/// Threads that rewrite; they end when this is dropped and their last job is done.
pub(crate) struct Workers {
    jobs: SyncSender<Job>,
}

impl Workers {
    /// Starts `threads` threads; as many jobs again may wait.
    pub(crate) fn start(rewriter: Arc<dyn Rewriter>, threads: usize) -> Result<Self> {
        let (jobs, queue) = sync_channel::<Job>(threads);
        let queue = Arc::new(std::sync::Mutex::new(queue));
        for _ in 0..threads {
            let (queue, rewriter) = (queue.clone(), rewriter.clone());
            let run = move || {
                loop {
                    let next = queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).recv();
                    let Ok(Job { query, deadline, reply }) = next else { return };
                    // Who waited may be gone; then nobody needs the work any more.
                    let answer = deadline.check().and_then(|()| rewrite_one(rewriter.as_ref(), &query, deadline));
                    let _ = reply.send(answer);
                }
            };
            std::thread::Builder::new().name("querywright-rewrite".into()).spawn(run).map_err(|e| {
                Error::argument(
                    "rewrite_threads",
                    format!("the system refused a thread: {e}"),
                    "lower the number of threads",
                )
            })?;
        }
        Ok(Self { jobs })
    }

    /// A rewrite by the deadline, or [`Error::Deadline`]. When all threads are busy and the queue is full, the answer is
    /// [`Error::Overloaded`] at once.
    pub(crate) fn rewrite(&self, query: &Query, deadline: Deadline) -> Result<Rewrite> {
        let (reply, answer) = sync_channel(1);
        let job = Job { query: query.clone(), deadline, reply };
        match self.jobs.try_send(job) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                let found = "all threads are busy and the queue is full".to_owned();
                let remedy = "add threads (rewrite_threads) or machines, or send fewer requests at once".to_owned();
                return Err(Error::overloaded("rewriting", found, remedy));
            }
            Err(TrySendError::Disconnected(_)) => return Err(Error::bug("stack::worker", "the threads are gone")),
        }
        let left = deadline.left().unwrap_or(std::time::Duration::MAX);
        match answer.recv_timeout(left) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Timeout) => match deadline.check() {
                Err(late) => Err(late),
                Ok(()) => Err(Error::bug("stack::worker", "a wait ended before its deadline")),
            },
            Err(RecvTimeoutError::Disconnected) => {
                Err(Error::bug("stack::worker", "a thread ended in the middle of a job"))
            }
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
