//! Where the limits of one instance are enforced: memory, tables, bytes and texts through host interfaces, log lines,
//! time.
//!
//! wasmtime asks the [`Limiter`] before a memory or a table grows. Host functions ask it before they move bytes.
//! Instructions and the clock of WebAssembly code are bounded in `budget.rs`.

use std::time::{Duration, Instant};

use wasmtime::ResourceLimiter;

use super::limits::Limits;
use querywright_types::Error;

/// Memories, tables and core modules that one component may have, each.
pub(super) const MOST_PARTS: usize = 64;

/// Core modules that taking the snapshot adds to a component.
pub(super) const SNAPSHOT_MODULES: usize = 2;

/// Bytes of linear memory that taking the snapshot needs beyond the limit: some pages of each memory.
pub(super) const SNAPSHOT_BYTES: u64 = MOST_PARTS as u64 * (4 << 16);

/// Counts what an instance uses. Everything is summed: two memories of half the size count as much as one.
#[derive(Debug)]
pub(super) struct Limiter {
    limits: Limits,
    memory: u64,
    /// Bytes of memory that are allowed beyond the limit.
    extra_memory: u64,
    table_elements: u64,
    host_bytes_left: u64,
    embed_texts_left: u64,
    log_bytes_left: u64,
    deadline: Instant,
    /// When the clock ends the call, whatever it does: the deadline, or the backstop where fuel is counted.
    end: Instant,
    /// The first limit that was reached, such as `limits.memory_mib = 64`.
    reached: Option<String>,
}

impl Limiter {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            memory: 0,
            extra_memory: 0,
            table_elements: 0,
            host_bytes_left: limits.host_bytes,
            embed_texts_left: limits.embed_texts,
            log_bytes_left: limits.log_bytes,
            deadline: Instant::now(),
            end: Instant::now(),
            reached: None,
        }
    }

    /// Begins a call that may take this long, and is ended by the clock after `most`. What moves through host interfaces and
    /// to the log is counted from 0 again.
    pub(super) fn start_call(&mut self, time: Duration, most: Duration) {
        self.host_bytes_left = self.limits.host_bytes;
        self.embed_texts_left = self.limits.embed_texts;
        self.log_bytes_left = self.limits.log_bytes;
        let now = Instant::now();
        (self.deadline, self.end) = (now + time, now + most);
    }

    /// Time left to the current call.
    pub(super) fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Time until the clock ends the current call. Where fuel is counted this is the backstop's, so that an answer does not
    /// depend on the speed of the machine.
    pub(super) fn time_to_the_end(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// Counts texts that the host encodes. False if the call may not have that many more encoded.
    pub(super) fn take_texts(&mut self, texts: usize) -> bool {
        let left = self.embed_texts_left.checked_sub(texts as u64);
        match left {
            Some(left) => self.embed_texts_left = left,
            None => self.note(format!("limits.embed_texts = {}", self.limits.embed_texts)),
        }
        left.is_some()
    }

    /// Counts bytes that move through a host interface. False if the call may not move that many more.
    pub(super) fn take_host_bytes(&mut self, bytes: usize) -> bool {
        let left = self.host_bytes_left.checked_sub(bytes as u64);
        match left {
            Some(left) => self.host_bytes_left = left,
            None => self.note(format!("limits.host_bytes = {}", self.limits.host_bytes)),
        }
        left.is_some()
    }

    /// Leaves none: more than was left has been moved.
    pub(super) fn take_all_host_bytes(&mut self) {
        self.host_bytes_left = 0;
    }

    /// Bytes that the current call may still move through host interfaces.
    pub(super) fn host_bytes_left(&self) -> u64 {
        self.host_bytes_left
    }

    /// Counts bytes of the log. False if the call may not log that many more; it then may log nothing more.
    pub(super) fn take_log_bytes(&mut self, bytes: usize) -> bool {
        let left = self.log_bytes_left.checked_sub(bytes as u64);
        self.log_bytes_left = left.unwrap_or(0);
        left.is_some()
    }

    /// Allows the memory that taking the snapshot needs. An instance that starts from the snapshot has it as well.
    pub(super) fn allow_snapshot(&mut self) {
        self.extra_memory = SNAPSHOT_BYTES;
    }

    /// Bytes of linear memory in use.
    pub(super) fn memory(&self) -> u64 {
        self.memory
    }

    /// The first limit that was reached, such as `limits.memory_mib = 64`.
    pub(super) fn reached(&self) -> Option<&str> {
        self.reached.as_deref()
    }

    fn note(&mut self, limit: String) {
        self.reached.get_or_insert(limit);
    }
}

/// How much something grows.
fn growth(current: usize, desired: usize) -> wasmtime::Result<u64> {
    let more = desired.checked_sub(current);
    let bug = || Error::bug("plugin limiter", format!("something shrinks from {current} to {desired}"));
    Ok(more.ok_or_else(bug)? as u64)
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let grown = self.memory + growth(current, desired)?;
        if grown > (self.limits.memory_mib << 20) + self.extra_memory {
            self.note(format!("limits.memory_mib = {}", self.limits.memory_mib));
            return Ok(false);
        }
        self.memory = grown;
        Ok(true)
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let grown = self.table_elements + growth(current, desired)?;
        if grown > self.limits.table_elements {
            self.note(format!("limits.table_elements = {}", self.limits.table_elements));
            return Ok(false);
        }
        self.table_elements = grown;
        Ok(true)
    }

    fn instances(&self) -> usize {
        MOST_PARTS + SNAPSHOT_MODULES
    }

    fn tables(&self) -> usize {
        MOST_PARTS
    }

    fn memories(&self) -> usize {
        MOST_PARTS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memories_are_summed_and_the_first_limit_that_was_reached_is_named() {
        let mut limiter = Limiter::new(Limits { memory_mib: 1, table_elements: 10, ..Limits::default() });
        let half = 512 << 10;
        assert!(limiter.memory_growing(0, half, None).unwrap());
        assert!(limiter.memory_growing(0, half, None).unwrap());
        assert!(!limiter.memory_growing(half, half + 1, None).unwrap());
        assert!(!limiter.table_growing(0, 11, None).unwrap());
        assert_eq!((limiter.memory(), limiter.reached()), (1 << 20, Some("limits.memory_mib = 1")));
        limiter.allow_snapshot();
        assert!(limiter.memory_growing(half, half + 1, None).unwrap());
    }

    #[test]
    fn a_memory_that_shrinks_is_a_bug_and_not_a_discount() {
        let error = Limiter::new(Limits::default()).memory_growing(2, 1, None).unwrap_err();
        assert!(error.to_string().contains("this is a bug"), "{error}");
    }

    #[test]
    fn bytes_and_texts_are_counted_anew_in_each_call() {
        let limits = Limits { host_bytes: 10, embed_texts: 2, log_bytes: 10, ..Limits::default() };
        let mut limiter = Limiter::new(limits);
        assert!(limiter.take_host_bytes(10) && !limiter.take_host_bytes(1));
        assert!(!limiter.take_texts(3) && limiter.take_texts(2) && !limiter.take_texts(1));
        assert!(limiter.take_log_bytes(9) && !limiter.take_log_bytes(2) && !limiter.take_log_bytes(1));
        limiter.start_call(Duration::from_secs(1), Duration::from_secs(1));
        assert!(limiter.take_host_bytes(10) && limiter.take_texts(2) && limiter.take_log_bytes(10));
    }
}
