//! A rewriter behind a thread of its own, so that a deadline holds whatever the rewriter does.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::types::{Deadline, Query, Rewrite, Rewriter};

struct Job {
    query: Query,
    deadline: Deadline,
    reply: SyncSender<Result<Rewrite>>,
}

/// Threads that rewrite; they end when this is dropped and their last job is done.
pub(super) struct Workers {
    jobs: SyncSender<Job>,
}

impl Workers {
    /// Starts `threads` threads; as many jobs again may wait.
    pub(super) fn start(rewriter: Arc<dyn Rewriter>, threads: usize) -> Result<Self> {
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

    /// A rewrite within `allowed`, or [`Error::Deadline`]. When all threads are busy and the queue is full, the answer
    /// is the deadline's error at once.
    pub(super) fn rewrite(&self, query: &Query, allowed: Duration) -> Result<Rewrite> {
        let (reply, answer) = sync_channel(1);
        let job = Job { query: query.clone(), deadline: Deadline::after(allowed), reply };
        match self.jobs.try_send(job) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => return Err(Error::Deadline(allowed)),
        }
        match answer.recv_timeout(allowed) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Timeout) => Err(Error::Deadline(allowed)),
            Err(RecvTimeoutError::Disconnected) => Err(Error::Format("the rewriter's thread ended".into())),
        }
    }
}

/// One query through a rewriter. One that panics costs its own query alone, not the thread.
pub(super) fn rewrite_one(rewriter: &dyn Rewriter, query: &Query, deadline: Deadline) -> Result<Rewrite> {
    let work = || rewriter.rewrite(std::slice::from_ref(query), deadline);
    let Ok(mut answers) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) else {
        return Err(Error::Format("the rewriter panicked".into()));
    };
    answers.pop().unwrap_or_else(|| Err(Error::Format("the rewriter gave no answer".into())))
}
