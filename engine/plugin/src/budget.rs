//! The time and the fuel of one call.

use std::time::Duration;

use wasmtime::Store;

use super::engine::{Metering, TICK};
use super::limits::Limits;
use super::state::State;
use querywright_types::Deadline;

/// What one call may use.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    pub(super) time: Duration,
    pub(super) fuel: u64,
}

impl Budget {
    /// The budget of a call with this many requests; at least that of one.
    pub(super) fn of_requests(limits: &Limits, requests: usize) -> Self {
        let times = requests.max(1) as u64;
        Self {
            time: Duration::from_millis(limits.call_ms.saturating_mul(times)),
            fuel: limits.fuel.saturating_mul(times),
        }
    }

    /// The same budget, but no more time than the deadline leaves.
    pub(super) fn until(self, deadline: Deadline) -> Self {
        Self { time: deadline.left().map_or(self.time, |left| left.min(self.time)), ..self }
    }

    /// Gives a store this budget for its next call.
    pub(super) fn start_call(self, store: &mut Store<State>, metering: Metering) -> wasmtime::Result<()> {
        store.data_mut().limiter.start_call(self.time);
        match metering {
            Metering::Clock => {
                let ticks = self.time.as_nanos().div_ceil(TICK.as_nanos());
                store.set_epoch_deadline(u64::try_from(ticks).unwrap_or(u64::MAX).saturating_add(1));
                Ok(())
            }
            Metering::Fuel => store.set_fuel(self.fuel),
        }
    }
}
