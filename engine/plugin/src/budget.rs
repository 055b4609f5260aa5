//! The time and the fuel of one call.

use std::time::Duration;

use wasmtime::Store;

use super::engine::{Metering, TICK};
use super::limits::Limits;
use super::state::State;
use querywright_types::Deadline;

/// How long a call may take by the clock where fuel is counted, at least and in times of what it may take without: far
/// beyond what the fuel allows, for what fuel does not see. Whether it is reached depends on the machine.
const BACKSTOP: Duration = Duration::from_secs(60);
const BACKSTOP_TIMES: u32 = 10;

/// What one call may use.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    pub(super) time: Duration,
    pub(super) fuel: u64,
    /// The end by the clock where fuel is counted.
    pub(super) backstop: Duration,
}

impl Budget {
    /// This time and this fuel.
    pub(super) fn new(time: Duration, fuel: u64) -> Self {
        Self { time, fuel, backstop: time.saturating_mul(BACKSTOP_TIMES).max(BACKSTOP) }
    }

    /// The budget of a call with this many requests; at least that of one.
    pub(super) fn of_requests(limits: &Limits, requests: usize) -> Self {
        let times = requests.max(1) as u64;
        let time = Duration::from_millis(limits.call_ms.saturating_mul(times));
        Self::new(time, limits.fuel.saturating_mul(times))
    }

    /// The same budget, but no more time than the deadline leaves. Where fuel is counted a call does not end with it.
    pub(super) fn until(self, deadline: Deadline) -> Self {
        Self { time: deadline.left().map_or(self.time, |left| left.min(self.time)), ..self }
    }

    /// Gives a store this budget for its next call.
    pub(super) fn start_call(self, store: &mut Store<State>, metering: Metering) -> wasmtime::Result<()> {
        let end = match metering {
            Metering::Clock => self.time,
            Metering::Fuel => self.backstop,
        };
        store.data_mut().limiter.start_call(self.time, end);
        let ticks = end.as_nanos().div_ceil(TICK.as_nanos());
        store.set_epoch_deadline(u64::try_from(ticks).unwrap_or(u64::MAX).saturating_add(1));
        match metering {
            Metering::Clock => Ok(()),
            Metering::Fuel => store.set_fuel(self.fuel),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use wasmtime::{Instance, Module};

    use super::super::capability::{Grant, Wanted};
    use super::super::engine;
    use super::super::failure::Failure;
    use super::*;
    use querywright_types::FaultKind;

    /// `(module (func (export "f") (loop (br 0))))`
    const ENDLESS: &[u8] = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x07\x05\x01\x01f\0\0\
        \x0a\x09\x01\x07\0\x03\x40\x0c\0\x0b\x0b";

    #[test]
    fn a_call_that_fuel_does_not_end_is_ended_by_the_clock_and_told_apart() {
        let engine = engine::for_loading(Metering::Fuel).unwrap();
        let limits = Limits::default();
        let capabilities = Arc::new(Wanted::default().granted(&limits, &Grant::default()));
        let mut store = Store::new(&engine, State::new(&"a".into(), &capabilities, &Arc::default()));
        let budget = Budget { backstop: Duration::from_millis(50), ..Budget::new(Duration::ZERO, u64::MAX) };
        budget.start_call(&mut store, Metering::Fuel).unwrap();
        let module = Module::new(&engine, ENDLESS).unwrap();
        let instance = Instance::new(&mut store, &module, &[]).unwrap();
        let function = instance.get_typed_func::<(), ()>(&mut store, "f").unwrap();
        let error = function.call(&mut store, ()).unwrap_err();
        let failure = Failure::of_call(&error, &store, "limits.fuel = 5");
        assert_eq!(failure.kind, FaultKind::Timeout);
        assert!(failure.detail.contains("not reproducible"), "{}", failure.detail);
        Budget::new(Duration::ZERO, 1000).start_call(&mut store, Metering::Fuel).unwrap();
        let error = function.call(&mut store, ()).unwrap_err();
        let failure = Failure::of_call(&error, &store, "limits.fuel = 1000");
        assert!(failure.kind == FaultKind::Trap && failure.detail.contains("used up limits.fuel"), "{failure:?}");
    }

    #[test]
    fn the_backstop_is_generous_and_no_deadline_shortens_it() {
        let of = |call_ms, requests| Budget::of_requests(&Limits { call_ms, ..Limits::default() }, requests);
        assert_eq!(of(1000, 1).backstop, Duration::from_secs(60));
        assert_eq!(of(1000, 64).backstop, Duration::from_secs(640));
        let late = of(1000, 1).until(Deadline::after(Duration::ZERO));
        assert_eq!((late.time, late.backstop), (Duration::ZERO, Duration::from_secs(60)));
    }
}
