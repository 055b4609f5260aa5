//! The moment by which an answer must be there.

use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::{Fault, FaultKind};

/// A moment by which an answer must be there; [`Deadline::NONE`] where time does not matter. One deadline goes with a
/// request through rewriter and retriever.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    /// The moment, and the time that was allowed until then, for messages.
    end: Option<(Instant, Duration)>,
}

impl Deadline {
    /// No deadline.
    pub const NONE: Self = Self { end: None };

    /// A deadline that lies `allowed` from now; none where that lies beyond what a clock can say.
    pub fn after(allowed: Duration) -> Self {
        Self { end: Instant::now().checked_add(allowed).map(|end| (end, allowed)) }
    }

    /// The same deadline, but `by` earlier: leaves time for what follows.
    pub fn earlier(self, by: Duration) -> Self {
        let end = self.end.map(|(end, allowed)| (end.checked_sub(by).unwrap_or(end), allowed.saturating_sub(by)));
        Self { end }
    }

    /// The earlier of two deadlines.
    pub fn min(self, other: Self) -> Self {
        match (self.end, other.end) {
            (Some(own), Some(others)) if others.0 < own.0 => other,
            (None, Some(_)) => other,
            _ => self,
        }
    }

    /// The later of two deadlines; none where one of them is none.
    pub fn max(self, other: Self) -> Self {
        match (self.end, other.end) {
            (Some(own), Some(others)) if own.0 < others.0 => other,
            (Some(_), Some(_)) => self,
            _ => Self::NONE,
        }
    }

    /// The moment itself; none when there is no deadline.
    pub fn instant(&self) -> Option<Instant> {
        self.end.map(|(end, _)| end)
    }

    /// The time left; none when there is no deadline.
    pub fn left(&self) -> Option<Duration> {
        self.end.map(|(end, _)| end.saturating_duration_since(Instant::now()))
    }

    /// Whether the deadline has passed.
    pub fn passed(&self) -> bool {
        self.end.is_some_and(|(end, _)| Instant::now() >= end)
    }

    /// [`Error::Deadline`] once the deadline has passed.
    pub fn check(&self) -> Result<()> {
        match self.end {
            Some((_, allowed)) if self.passed() => Err(Error::Deadline(allowed)),
            _ => Ok(()),
        }
    }

    /// As [`check`](Self::check), for a retriever: a [`FaultKind::Timeout`] under its name.
    pub fn check_for(&self, retriever: &str) -> Result<(), Fault> {
        match self.end {
            Some((_, allowed)) if self.passed() => {
                Err(Fault::new(retriever, FaultKind::Timeout, format!("the deadline of {allowed:?} had passed")))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_earlier_deadline_leaves_time_and_the_smaller_of_two_wins() {
        let second = Duration::from_secs(1);
        let (one, two) = (Deadline::after(second), Deadline::after(2 * second));
        assert!(one.min(two).left().unwrap() <= second && two.min(one).left().unwrap() <= second);
        assert!(Deadline::NONE.min(one).left().unwrap() <= second && one.min(Deadline::NONE).left().is_some());
        assert!(two.earlier(second).left().unwrap() <= second);
        assert!(one.earlier(second).passed() && !one.passed());
        assert!(Deadline::NONE.earlier(second).left().is_none() && Deadline::after(Duration::MAX).left().is_none());
        assert!(one.max(two).left().unwrap() > second && two.max(one).left().unwrap() > second);
        assert!(one.max(Deadline::NONE).left().is_none() && Deadline::NONE.max(one).left().is_none());
        let past = Deadline::after(Duration::ZERO);
        assert!(matches!(past.check(), Err(Error::Deadline(_))));
        assert_eq!(past.check_for("bm25").unwrap_err().kind, FaultKind::Timeout);
    }
}
