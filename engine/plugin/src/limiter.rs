//! The ceilings of one instance, and the memory of which one it ran into.

use std::time::{Duration, Instant};

use wasmtime::ResourceLimiter;

use super::Limits;

/// Counts what an instance takes. Everything is summed: two memories of half the size are as much as one.
#[derive(Debug)]
pub(super) struct Meter {
    limits: Limits,
    memory: u64,
    room: u64,
    elements: u64,
    host_bytes: u64,
    log_bytes: u64,
    end: Instant,
    /// The first ceiling that was hit, as a sentence.
    pub(super) hit: Option<String>,
}

/// Memories, and tables, and core instances that one component may have.
pub(super) const MOST_PARTS: usize = 64;

/// Bytes of linear memory that reading the memories of an instance out takes: some pages of each.
pub(super) const READ_OUT: u64 = MOST_PARTS as u64 * (4 << 16);

impl Meter {
    pub(super) fn new(limits: Limits) -> Self {
        let mut meter = Self {
            limits,
            memory: 0,
            room: 0,
            elements: 0,
            host_bytes: 0,
            log_bytes: 0,
            end: Instant::now(),
            hit: None,
        };
        meter.begin(Duration::ZERO);
        meter
    }

    /// A call begins that may take so long.
    pub(super) fn begin(&mut self, time: Duration) {
        self.host_bytes = self.limits.host_bytes;
        self.log_bytes = self.limits.log_bytes;
        self.end = Instant::now() + time;
    }

    /// Time that is left to the call under way.
    pub(super) fn left(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// Takes bytes that cross a host interface; false where the call has had its share.
    pub(super) fn take(&mut self, bytes: usize) -> bool {
        match self.host_bytes.checked_sub(bytes as u64) {
            Some(left) => self.host_bytes = left,
            None => {
                self.note(format!("limits.host_bytes = {}", self.limits.host_bytes));
                return false;
            }
        }
        true
    }

    /// From here on memory may have what reading it out takes, too: the snapshot has kept it.
    pub(super) fn make_room(&mut self) {
        self.room = READ_OUT;
    }

    /// Bytes of linear memory.
    pub(super) fn memory(&self) -> u64 {
        self.memory
    }

    /// Bytes that host interfaces may still move.
    pub(super) fn bytes_left(&self) -> u64 {
        self.host_bytes
    }

    /// Takes bytes of the log; false where the call has said enough.
    pub(super) fn take_log(&mut self, bytes: usize) -> bool {
        let left = self.log_bytes.checked_sub(bytes as u64);
        self.log_bytes = left.unwrap_or(0);
        left.is_some()
    }

    fn note(&mut self, limit: String) {
        self.hit.get_or_insert(limit);
    }
}

impl ResourceLimiter for Meter {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let grown = self.memory + desired.saturating_sub(current) as u64;
        if grown > (self.limits.memory_mib << 20) + self.room {
            self.note(format!("limits.memory_mib = {}", self.limits.memory_mib));
            return Ok(false);
        }
        self.memory = grown;
        Ok(true)
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let grown = self.elements + desired.saturating_sub(current) as u64;
        if grown > self.limits.table_elements {
            self.note(format!("limits.table_elements = {}", self.limits.table_elements));
            return Ok(false);
        }
        self.elements = grown;
        Ok(true)
    }

    fn instances(&self) -> usize {
        // Taking the snapshot adds a module or two.
        MOST_PARTS + 2
    }

    fn tables(&self) -> usize {
        MOST_PARTS
    }

    fn memories(&self) -> usize {
        MOST_PARTS
    }
}
