//! Turns: how many requests are worked on at once, how many wait, and how many tokens a caller may use.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

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
    tokens_per_minute: u64,
    /// What callers have used, by name.
    used: Mutex<HashMap<String, Used>>,
}

/// Tokens of a minute.
#[derive(Debug)]
struct Used {
    since: Instant,
    tokens: u64,
}

const MINUTE: Duration = Duration::from_secs(60);

impl Admission {
    pub(crate) fn new(limits: &LimitsConfig) -> Self {
        Self {
            turns: Arc::new(Semaphore::new(limits.concurrent)),
            concurrent: limits.concurrent,
            waiting: AtomicUsize::new(0),
            most_waiting: limits.waiting,
            tokens_per_minute: limits.tokens_per_minute,
            used: Mutex::default(),
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

    /// Refuses a caller who has used the tokens of this minute.
    pub(crate) fn check_tokens(&self, caller: &str) -> Result<(), ApiError> {
        if self.tokens_per_minute == 0 {
            return Ok(());
        }
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.retain(|_, used| used.since.elapsed() < MINUTE);
        match used.get(caller) {
            Some(used) if used.tokens >= self.tokens_per_minute => {
                let wait = MINUTE.saturating_sub(used.since.elapsed()).as_secs() + 1;
                let message = format!("{} tokens a minute are allowed, and they are used", self.tokens_per_minute);
                Err(ApiError::busy(StatusCode::TOO_MANY_REQUESTS, message, wait))
            }
            _ => Ok(()),
        }
    }

    /// Counts tokens that a caller used.
    pub(crate) fn use_tokens(&self, caller: &str, tokens: usize) {
        if self.tokens_per_minute == 0 {
            return;
        }
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = used.entry(caller.to_owned()).or_insert_with(|| Used { since: Instant::now(), tokens: 0 });
        if entry.since.elapsed() >= MINUTE {
            *entry = Used { since: Instant::now(), tokens: 0 };
        }
        entry.tokens = entry.tokens.saturating_add(tokens as u64);
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
