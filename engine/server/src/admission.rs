//! Turns: how many requests are worked on at once, and how many wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::http::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::LimitsConfig;
use crate::error::ApiError;

/// The turns of a server.
#[derive(Debug)]
pub(crate) struct Admission {
    turns: Arc<Semaphore>,
    concurrent: usize,
    waiting: AtomicUsize,
    most_waiting: usize,
}

impl Admission {
    pub(crate) fn new(limits: &LimitsConfig) -> Self {
        Self {
            turns: Arc::new(Semaphore::new(limits.concurrent)),
            concurrent: limits.concurrent,
            waiting: AtomicUsize::new(0),
            most_waiting: limits.waiting,
        }
    }

    /// A turn, once there is one; it ends when this is dropped.
    pub(crate) async fn turn(&self, allowed: Duration) -> Result<OwnedSemaphorePermit, ApiError> {
        if let Ok(turn) = self.turns.clone().try_acquire_owned() {
            return Ok(turn);
        }
        let place = Waiting::new(&self.waiting);
        if place.0.load(Ordering::Relaxed) > self.most_waiting {
            let message = "too many requests wait already; try again soon";
            return Err(ApiError::busy(StatusCode::SERVICE_UNAVAILABLE, message, 1));
        }
        match tokio::time::timeout(allowed, self.turns.clone().acquire_owned()).await {
            Ok(Ok(turn)) => Ok(turn),
            Ok(Err(_)) => Err(ApiError::busy(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping", 5)),
            Err(_) => {
                let message = "no turn came within the time allowed; try again soon";
                Err(ApiError::busy(StatusCode::SERVICE_UNAVAILABLE, message, 1))
            }
        }
    }

    /// Requests that wait, and that are worked on.
    pub(crate) fn load(&self) -> (usize, usize) {
        (self.waiting.load(Ordering::Relaxed), self.concurrent.saturating_sub(self.turns.available_permits()))
    }
}

/// A place among those that wait, counted while it lives.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
