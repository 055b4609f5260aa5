//! How many tokens a caller may use in a minute.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::StatusCode;

use crate::error::ApiError;

/// What callers may use, and what they have.
#[derive(Debug)]
pub(crate) struct Quota {
    tokens_per_minute: u64,
    /// By the caller's name.
    used: Mutex<HashMap<String, Used>>,
}

/// Tokens of a minute.
#[derive(Debug)]
struct Used {
    since: Instant,
    tokens: u64,
}

const MINUTE: Duration = Duration::from_secs(60);

impl Quota {
    /// So many tokens for each caller; 0 does not count them.
    pub(crate) fn new(tokens_per_minute: u64) -> Self {
        Self { tokens_per_minute, used: Mutex::default() }
    }

    /// Refuses a caller who has used the tokens of this minute.
    pub(crate) fn check(&self, caller: &str) -> Result<(), ApiError> {
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
    pub(crate) fn count(&self, caller: &str, tokens: usize) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_who_has_used_the_tokens_of_a_minute_waits_and_others_do_not() {
        let quota = Quota::new(10);
        quota.check("a").unwrap();
        quota.count("a", 9);
        quota.check("a").unwrap();
        quota.count("a", 5);
        assert_eq!(quota.check("a").unwrap_err().status, StatusCode::TOO_MANY_REQUESTS);
        quota.check("b").unwrap();
        if let Some(used) = quota.used.lock().unwrap().get_mut("a") {
            used.since = Instant::now().checked_sub(MINUTE).unwrap();
        }
        quota.check("a").unwrap();
        let uncounted = Quota::new(0);
        uncounted.count("a", usize::MAX);
        uncounted.check("a").unwrap();
    }
}
