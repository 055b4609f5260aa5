//! How many requests with a deadline run at once, so that those that begin end in time.
//!
//! Where more is asked for than a model can do, a batch that takes everybody up ends nobody's request in time: all that was
//! computed is thrown away. So the number that runs is raised while requests end in time and lowered when one is late, as
//! TCP does with what it sends (additive increase, multiplicative decrease), and a request that would be late is refused at
//! once.

use std::time::{Duration, Instant};

/// Requests at once in the beginning.
const FIRST: f64 = 4.0;
/// What remains of the number when a request is late.
const LOWER: f64 = 0.7;
/// How much the newest request counts in the mean of how long they take.
const NEWEST: f64 = 0.2;

/// The pace of a batch.
#[derive(Debug)]
pub(super) struct Pace {
    limit: f64,
    /// Nobody was late so far: the number may grow faster.
    starting: bool,
    /// How long a request takes from its beginning, in seconds.
    takes: Option<f64>,
    lowered: Option<Instant>,
}

impl Default for Pace {
    fn default() -> Self {
        Self { limit: FIRST, starting: true, takes: None, lowered: None }
    }
}

impl Pace {
    /// How many more may begin beside those that run. Where none runs, one always may: what is known may be out of date.
    pub(super) fn room(&self, running: usize) -> usize {
        (self.limit as usize).max(1).saturating_sub(running)
    }

    /// Whether a request with so much time would be late, as far as is known.
    pub(super) fn is_too_late(&self, left: Duration, running: usize) -> bool {
        running > 0 && self.takes.is_some_and(|takes| left.as_secs_f64() < takes)
    }

    /// A request ended in time. The number grows where it held somebody up.
    pub(super) fn in_time(&mut self, took: Duration, others_wait: bool) {
        self.learn(took);
        if others_wait {
            self.limit += if self.starting { 1.0 } else { 1.0 / self.limit };
        }
    }

    fn learn(&mut self, took: Duration) {
        let took = took.as_secs_f64();
        self.takes = Some(self.takes.map_or(took, |takes| takes + NEWEST * (took - takes)));
    }

    /// A request was late that began `since` ago. Those of one batch are late together and count once.
    pub(super) fn late(&mut self, now: Instant, since: Duration) {
        let batch = self.takes.map_or(since, Duration::from_secs_f64);
        // It takes at least so long: to learn from those in time alone would make every request look quick.
        if self.takes.is_none_or(|takes| since.as_secs_f64() > takes) {
            self.learn(since);
        }
        if self.lowered.is_none_or(|lowered| now.saturating_duration_since(lowered) > batch) {
            self.limit = (self.limit * LOWER).max(1.0);
            self.lowered = Some(now);
            self.starting = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_grows_while_requests_end_in_time_and_shrinks_once_a_batch_that_is_late() {
        let (mut pace, second) = (Pace::default(), Duration::from_secs(1));
        assert_eq!((pace.room(0), pace.room(3), pace.room(9)), (4, 1, 0));
        pace.in_time(second, false);
        assert_eq!(pace.room(0), 4, "nobody waited");
        (0..16).for_each(|_| pace.in_time(second, true));
        assert_eq!(pace.room(0), 20);
        let start = Instant::now();
        (0..10).for_each(|_| pace.late(start, second));
        assert_eq!(pace.room(0), 14);
        pace.late(start + 2 * second, second);
        assert_eq!(pace.room(0), 9);
        (0..9).for_each(|_| pace.in_time(second, true));
        assert_eq!(pace.room(0), 10, "slower from now on");
        (1..60).for_each(|n| pace.late(start + n * 3 * second, second));
        let mut cold = Pace::default();
        (0..4).for_each(|_| cold.late(start, second));
        assert_eq!(cold.room(0), 2, "nothing is known, and one batch counts once");
        assert_eq!((pace.room(0), pace.room(1)), (1, 0), "one always may");
    }

    #[test]
    fn a_request_that_would_be_late_is_refused_while_others_run() {
        let mut pace = Pace::default();
        let left = Duration::from_millis(100);
        assert!(!pace.is_too_late(left, 5), "nothing is known");
        (0..50).for_each(|_| pace.in_time(2 * left, false));
        assert!(pace.is_too_late(left, 1) && !pace.is_too_late(3 * left, 1));
        assert!(!pace.is_too_late(left, 0), "it is tried where nobody else loses by it");
        (0..50).for_each(|_| pace.in_time(left / 2, false));
        assert!(!pace.is_too_late(left, 1));
    }
}
