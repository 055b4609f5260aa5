//! Why a call failed, in the host's terms: a kind of fault, and a sentence that names the trap or the limit.

use wasmtime::{FrameInfo, Store, Trap, WasmBacktrace};

use super::bindings;
use super::engine::STACK;
use super::sanitize::{beginning, excerpt};
use super::state::State;
use querywright_types::FaultKind;

/// Frames of a backtrace that an error shows.
const FRAMES: usize = 8;

/// Characters of a failure's sentence: an excerpt of the plugin's log, and a backtrace with its names.
const LONGEST_DETAIL: usize = 3000;

/// A call that failed as a whole, or an answer that is a fault.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) kind: FaultKind,
    /// What the host says; empty if it has nothing to add to the plugin's reason.
    pub(super) detail: String,
    /// What the plugin says, printable and short; empty if it says nothing. An instance that is reused may say here what
    /// another caller asked for.
    pub(super) said: String,
}

impl Failure {
    /// The sentence may quote the plugin, so it is made printable here.
    pub(super) fn new(kind: FaultKind, detail: impl AsRef<str>) -> Self {
        Self { kind, detail: beginning(detail.as_ref(), LONGEST_DETAIL), said: String::new() }
    }

    /// The same, with what the plugin says about it.
    fn saying(self, said: &str) -> Self {
        Self { said: excerpt(said.trim()), ..self }
    }

    /// The host's sentence and what the plugin says. Where the plugin gave a reason of its own, that alone.
    pub(super) fn in_full(&self) -> String {
        match (self.detail.as_str(), self.said.as_str()) {
            ("", "") => "it gave no reason".into(),
            ("", alone) | (alone, "") => alone.into(),
            (detail, said) => format!("{detail}: {said}"),
        }
    }

    /// The host's sentence alone.
    pub(super) fn without_quotation(self) -> Self {
        let detail = if self.detail.is_empty() { "its reason is in the log".into() } else { self.detail };
        Self { detail, said: String::new(), ..self }
    }

    /// A call that wasmtime ended. `limit` names the limit on its time or fuel. The sentence has the plugin's backtrace,
    /// and the plugin says the end of its error log.
    pub(super) fn of_call(error: &wasmtime::Error, store: &Store<State>, limit: &str) -> Self {
        let state = store.data();
        let reached = state.limiter.reached().map_or(String::new(), |limit| format!(" after it reached {limit}"));
        let context = backtrace(error);
        let failure = match error.downcast_ref::<Trap>() {
            // Where fuel is counted the clock is only a backstop.
            Some(Trap::Interrupt) if store.get_fuel().is_ok() => {
                let detail =
                    format!("the clock ended it before it had used up {limit}: this is not reproducible{context}");
                Self::new(FaultKind::Timeout, detail)
            }
            Some(Trap::Interrupt) => Self::new(FaultKind::Timeout, format!("it ran longer than {limit}{context}")),
            Some(Trap::OutOfFuel) => Self::new(FaultKind::Trap, format!("it used up {limit}{context}")),
            Some(Trap::StackOverflow) => {
                let detail = format!("its calls are nested too deeply for a stack of {} KiB", STACK >> 10);
                Self::new(FaultKind::Trap, detail)
            }
            Some(trap) => Self::new(FaultKind::Trap, format!("{trap}{reached}{context}")),
            None => Self::new(FaultKind::Trap, format!("{}{reached}{context}", error.root_cause())),
        };
        let logged = state.error_log.trim();
        if logged.is_empty() { failure } else { failure.saying(&format!("it logged: {logged}")) }
    }

    /// A fault that the plugin returned.
    pub(super) fn of_fault(fault: &bindings::Fault) -> Self {
        use bindings::Fault;
        match fault {
            Fault::NotReady => Self::new(FaultKind::Refused, "it is not ready"),
            Fault::Invalid(why) => Self::new(FaultKind::Refused, "the input cannot be used").saying(why),
            Fault::Denied(interface) => {
                Self::new(FaultKind::Refused, "it needs an interface that was not granted").saying(interface)
            }
            Fault::Timeout => Self::new(FaultKind::Timeout, "a remote server did not answer in time"),
            Fault::Network(why) => Self::new(FaultKind::Network, "a remote server could not be reached").saying(why),
            Fault::Unreadable(why) => Self::new(FaultKind::Parse, "a remote answer could not be read").saying(why),
            Fault::Internal(why) => Self::new(FaultKind::Refused, "").saying(why),
        }
    }
}

fn backtrace(error: &wasmtime::Error) -> String {
    let Some(trace) = error.downcast_ref::<WasmBacktrace>() else { return String::new() };
    let frame =
        |frame: &FrameInfo| frame.func_name().map_or_else(|| format!("function {}", frame.func_index()), excerpt);
    let frames: Vec<String> = trace.frames().iter().take(FRAMES).map(frame).collect();
    if frames.is_empty() { String::new() } else { format!("; in {}", frames.join(" < ")) }
}
