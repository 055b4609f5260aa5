//! The instances of a plugin: how many may work at the same time, and those that wait for the next request.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::instance::Instance;

/// Idle instances, and a semaphore of as many permits as instances may work at the same time.
pub(super) struct Pool {
    idle: Mutex<Vec<Instance>>,
    permits: Mutex<u64>,
    returned: Condvar,
}

/// The right to work with one instance. It is returned when it is dropped.
pub(super) struct Permit<'a>(&'a Pool);

impl Pool {
    pub(super) fn new(permits: u64) -> Self {
        Self { idle: Mutex::new(Vec::new()), permits: Mutex::new(permits), returned: Condvar::new() }
    }

    /// Waits for a permit. None if there is none in time.
    pub(super) fn acquire(&self, timeout: Duration) -> Option<Permit<'_>> {
        let end = Instant::now() + timeout;
        let mut permits = self.permits.lock().unwrap_or_else(PoisonError::into_inner);
        while *permits == 0 {
            let left = end.checked_duration_since(Instant::now())?;
            permits = self.returned.wait_timeout(permits, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        *permits -= 1;
        Some(Permit(self))
    }

    /// An idle instance, if there is one.
    pub(super) fn take_idle(&self) -> Option<Instance> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    /// Keeps an instance for the next request.
    pub(super) fn keep(&self, instance: Instance) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(instance);
    }

    /// How many instances are idle.
    pub(super) fn idle(&self) -> usize {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        *self.0.permits.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.returned.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permit_is_refused_in_time_and_returned_when_it_is_dropped() {
        let pool = Pool::new(1);
        let permit = pool.acquire(Duration::ZERO);
        assert!(permit.is_some() && pool.acquire(Duration::from_millis(5)).is_none());
        drop(permit);
        assert!(pool.acquire(Duration::ZERO).is_some());
    }
}
