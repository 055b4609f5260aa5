//! Compilation within a time limit, on threads of its own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};

use super::refusal::refusal;
use querywright_types::Result;

/// Threads that compile plugins at most. It bounds the memory of compilers that run at the same time, too.
const MOST_THREADS: usize = 4;

/// Bytes of the stack of a thread that compiles.
const STACK: usize = 8 << 20;

/// The threads that compile all plugins. The engine's own pool stays free for requests, even while a compilation goes on
/// that was given up.
fn threads() -> Result<&'static ThreadPool, &'static ThreadPoolBuildError> {
    static POOL: OnceLock<Result<ThreadPool, ThreadPoolBuildError>> = OnceLock::new();
    let start = || {
        let count = std::thread::available_parallelism().map_or(1, |count| count.get().min(MOST_THREADS));
        let name = |nth| format!("plugin-compiler-{nth}");
        ThreadPoolBuilder::new().num_threads(count).stack_size(STACK).thread_name(name).build()
    };
    POOL.get_or_init(start).as_ref()
}

/// Compiles, and gives up after `ms` milliseconds. A compilation cannot be stopped: it goes on until the compiler
/// returns, which the bound on its work keeps short, and its result is dropped. Others wait for it meanwhile.
pub(super) fn within<T: Send + 'static>(
    name: &str,
    ms: u64,
    compile: impl FnOnce() -> wasmtime::Result<T> + Send + 'static,
) -> Result<T> {
    let (sender, receiver) = mpsc::channel();
    let threads = threads()
        .map_err(|e| refusal(name, format!("no threads to compile it: {e}"), "free some memory and start again"))?;
    threads.spawn(move || {
        // A panic would end the process here. Without a result the receiver learns of it.
        if let Ok(done) = catch_unwind(AssertUnwindSafe(compile)) {
            drop(sender.send(done));
        }
    });
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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_compilation_that_was_given_up_holds_no_thread_of_the_engine() {
        let on = within("a", 5_000, || Ok(rayon::current_num_threads())).unwrap();
        assert!((1..=MOST_THREADS).contains(&on), "{on} threads");
        let (release, held) = mpsc::channel::<()>();
        let name = within("a", 5_000, || Ok(std::thread::current().name().map(str::to_owned))).unwrap();
        assert!(name.is_some_and(|name| name.starts_with("plugin-compiler-")));
        let slow = within("slow", 10, move || Ok(held.recv().is_ok())).unwrap_err().to_string();
        assert!(slow.contains("limits.compile_ms = 10"), "{slow}");
        let begun = Instant::now();
        assert_eq!(rayon::join(|| 1, || 2), (1, 2));
        assert!(begun.elapsed() < Duration::from_secs(5));
        release.send(()).unwrap();
    }

    #[test]
    fn a_compiler_that_panics_is_an_error() {
        let said = within("a", 5_000, || -> wasmtime::Result<()> { panic!("on demand") }).unwrap_err().to_string();
        assert!(said.contains("the compiler panicked"), "{said}");
        assert_eq!(within("a", 5_000, || Ok(1)).unwrap(), 1, "the thread goes on");
    }
}
