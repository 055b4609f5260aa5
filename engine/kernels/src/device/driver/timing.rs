//! Events, and what a profile makes of them.

use std::sync::PoisonError;

use cudarc::driver::{DriverError, result, sys};

use super::super::profile::Operation;
use super::Driver;
use querywright_types::Result;

/// An event, destroyed when it is dropped.
pub(super) struct Event(pub(super) sys::CUevent);

impl Event {
    pub(super) fn new() -> std::result::Result<Self, DriverError> {
        result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).map(Self)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: made by `new`, destroyed once; the driver keeps what is under way.
        let _ = unsafe { result::event::destroy(self.0) };
    }
}

// SAFETY: events may be used from any thread; these lie under a lock.
unsafe impl Send for Event {}

impl Driver {
    /// Runs `work`, which launches something, between two events where there is a profile.
    pub(super) fn timed<R>(&self, operation: impl FnOnce() -> Operation, work: impl FnOnce() -> R) -> Result<R> {
        let mut profile = self.profile.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(operations) = profile.as_mut() else { return Ok(work()) };
        let failed = |e| self.lost("an event of a profile", &e);
        let (before, after) = (Event::new().map_err(failed)?, Event::new().map_err(failed)?);
        let stream = self.stream.cu_stream();
        // SAFETY: events that were made just now, and the stream of the same context.
        unsafe { result::event::record(before.0, stream) }.map_err(failed)?;
        let done = work();
        // SAFETY: as above.
        unsafe { result::event::record(after.0, stream) }.map_err(failed)?;
        operations.push((operation(), before, after));
        Ok(done)
    }

    /// Whether a profile has begun.
    pub(in crate::device) fn profiles(&self) -> bool {
        self.profile.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// From now on, operations are timed.
    pub(in crate::device) fn begin_profile(&self) -> Result<()> {
        // Not into a graph that another thread captures.
        let _entered = self.enter()?;
        *self.profile.lock().unwrap_or_else(PoisonError::into_inner) = Some(Vec::new());
        Ok(())
    }

    /// Ends a profile: its operations with their seconds, in their order.
    pub(in crate::device) fn end_profile(&self) -> Result<Vec<(Operation, f64)>> {
        self.synchronize()?;
        let _entered = self.enter()?;
        let operations = self.profile.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default();
        let seconds = |(operation, before, after): (Operation, Event, Event)| {
            // SAFETY: both were recorded on the one stream, which has come past them.
            let milliseconds = unsafe { result::event::elapsed(before.0, after.0) };
            Ok((operation, f64::from(milliseconds.map_err(|e| self.lost("an event of a profile", &e))?) / 1e3))
        };
        operations.into_iter().map(seconds).collect()
    }
}
