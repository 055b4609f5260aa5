//! Buffers in a device's memory, and the memory that they gave back.
//!
//! Memory that a buffer gives back is kept for the next one of its size: allocating and freeing wait for the device, and
//! a training step asks for the same buffers every time.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::driver::Driver;

/// Values whose bytes may be copied as they are.
pub trait Plain: Copy + sealed::Plain {}

mod sealed {
    pub trait Plain {}
}

macro_rules! plain {
    ($($kind:ty),*) => { $(impl sealed::Plain for $kind {} impl Plain for $kind {})* };
}
plain!(f32, f64, i32, u32);

pub(super) fn bytes_of<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: plain numbers have no padding, and every byte of them may be read.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), std::mem::size_of_val(values)) }
}

pub(super) fn bytes_of_mut<T: Plain>(values: &mut [T]) -> &mut [u8] {
    // SAFETY: as above, and every pattern of bits is a value of theirs.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), std::mem::size_of_val(values)) }
}

/// A device's memory that no buffer uses at the moment, by size.
pub(super) struct Pool {
    driver: Driver,
    free: Mutex<BTreeMap<usize, Vec<u64>>>,
    /// Bytes of all buffers now, and the most so far.
    used: AtomicUsize,
    peak: AtomicUsize,
}

impl Pool {
    pub(super) fn new(driver: Driver) -> Self {
        Self { driver, free: Mutex::default(), used: AtomicUsize::new(0), peak: AtomicUsize::new(0) }
    }

    pub(super) fn driver(&self) -> &Driver {
        &self.driver
    }

    /// Sizes come in steps of an eighth of their power of two, so that buffers of about the same size are the same.
    pub(super) fn size(bytes: usize) -> usize {
        let step = (bytes.next_power_of_two() / 16).max(256);
        bytes.max(1).next_multiple_of(step)
    }

    pub(super) fn take(&self, bytes: usize) -> Option<u64> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&bytes)?.pop()
    }

    /// The most bytes that all buffers took so far.
    pub(super) fn peak(&self) -> usize {
        self.peak.load(Ordering::Relaxed)
    }

    /// Bytes that are kept for the next buffers.
    pub(super) fn kept(&self) -> usize {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.iter().map(|(size, addresses)| size * addresses.len()).sum()
    }

    /// Gives unused memory back to the device.
    pub(super) fn release(&self) {
        let free = std::mem::take(&mut *self.free.lock().unwrap_or_else(PoisonError::into_inner));
        free.into_values().flatten().for_each(|address| self.driver.free(address));
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.release();
    }
}

/// A range of a device's memory; given back to the pool when it is dropped.
pub struct Buffer {
    pool: Arc<Pool>,
    address: u64,
    bytes: usize,
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer of {} bytes on {}", self.bytes, self.pool.driver.name())
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let size = Pool::size(self.bytes);
        self.pool.used.fetch_sub(size, Ordering::Relaxed);
        self.pool.free.lock().unwrap_or_else(PoisonError::into_inner).entry(size).or_default().push(self.address);
    }
}

/// A part of a buffer.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    pub(super) address: u64,
    pub(super) bytes: usize,
    buffer: PhantomData<&'a Buffer>,
}

impl<'a> View<'a> {
    /// What lies behind the first `bytes` bytes of it. Empty where there are not so many, which the check of every
    /// operation then refuses.
    pub fn from(self, bytes: usize) -> Self {
        let bytes = bytes.min(self.bytes);
        Self { address: self.address + bytes as u64, bytes: self.bytes - bytes, buffer: PhantomData }
    }
}

impl Buffer {
    /// So many bytes at an address that the driver gave out, counted as used.
    pub(super) fn new(pool: Arc<Pool>, address: u64, bytes: usize) -> Self {
        let size = Pool::size(bytes);
        let used = pool.used.fetch_add(size, Ordering::Relaxed) + size;
        pool.peak.fetch_max(used, Ordering::Relaxed);
        Self { pool, address, bytes }
    }

    /// All of it.
    pub fn view(&self) -> View<'_> {
        View { address: self.address, bytes: self.bytes, buffer: PhantomData }
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}
