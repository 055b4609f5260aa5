//! Compilation within a time limit.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use super::refusal::refusal;
use querywright_types::Result;

/// Compiles on a thread of its own, and gives up after `ms` milliseconds. The thread cannot be stopped: it goes on
/// until the compiler returns, and its result is dropped.
pub(super) fn within<T: Send + 'static>(
    name: &str,
    ms: u64,
    compile: impl FnOnce() -> wasmtime::Result<T> + Send + 'static,
) -> Result<T> {
    let (sender, receiver) = mpsc::channel();
    let spawned = std::thread::Builder::new().name("plugin-compiler".into()).spawn(move || sender.send(compile()));
    spawned.map_err(|e| refusal(name, format!("no thread to compile it: {e}"), "free some memory and try again"))?;
    let (found, remedy) = match receiver.recv_timeout(Duration::from_millis(ms)) {
        Ok(Ok(done)) => return Ok(done),
        Ok(Err(error)) => {
            (format!("it does not compile: {error:#}"), "build it again, and check it with `plugin check`")
        }
        Err(RecvTimeoutError::Timeout) => {
            (format!("it took longer than limits.compile_ms = {ms} to compile"), "make it smaller, or raise the limit")
        }
        Err(RecvTimeoutError::Disconnected) => {
            ("the compiler panicked over it".to_owned(), "report it with the component")
        }
    };
    Err(refusal(name, found, remedy))
}
