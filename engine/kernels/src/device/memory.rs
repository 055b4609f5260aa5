//! Buffers in a device's memory.
//!
//! Memory that a buffer gives back is kept for the next one of its size: allocating and freeing wait for the device, and
//! a training step asks for the same buffers every time.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Device, Driver};
use crate::error::{Error, Result};

/// Values whose bytes may be copied as they are.
pub trait Plain: Copy + sealed::Plain {}

mod sealed {
    pub trait Plain {}
}

macro_rules! plain {
    ($($kind:ty),*) => { $(impl sealed::Plain for $kind {} impl Plain for $kind {})* };
}
plain!(f32, f64, i32, u32);

fn bytes_of<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: plain numbers have no padding, and every byte of them may be read.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), std::mem::size_of_val(values)) }
}

fn bytes_of_mut<T: Plain>(values: &mut [T]) -> &mut [u8] {
    // SAFETY: as above, and every pattern of bits is a value of theirs.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), std::mem::size_of_val(values)) }
}

/// A device's memory that nobody uses at the moment, by size.
pub(super) struct Pool {
    driver: Driver,
    free: Mutex<BTreeMap<usize, Vec<u64>>>,
    /// Bytes of all buffers, now and at most.
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
    fn size(bytes: usize) -> usize {
        let step = (bytes.next_power_of_two() / 16).max(256);
        bytes.max(1).next_multiple_of(step)
    }

    fn take(&self, bytes: usize) -> Option<u64> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&bytes)?.pop()
    }

    /// Bytes of all buffers at most so far.
    pub(super) fn peak(&self) -> usize {
        self.peak.load(Ordering::Relaxed)
    }

    fn kept(&self) -> usize {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.iter().map(|(size, addresses)| size * addresses.len()).sum()
    }

    /// Gives what nobody uses back to the device.
    fn release(&self) {
        let free = std::mem::take(&mut *self.free.lock().unwrap_or_else(PoisonError::into_inner));
        free.into_values().flatten().for_each(|address| self.driver.free(address));
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.release();
    }
}

/// A stretch of a device's memory; given back when it is dropped.
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
    /// What lies behind the first `bytes` bytes of it; nothing where there are not so many.
    pub fn from(self, bytes: usize) -> Self {
        let bytes = bytes.min(self.bytes);
        Self { address: self.address + bytes as u64, bytes: self.bytes - bytes, buffer: PhantomData }
    }
}

impl Buffer {
    /// All of it.
    pub fn view(&self) -> View<'_> {
        View { address: self.address, bytes: self.bytes, buffer: PhantomData }
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Device {
    /// Bytes that can still be allocated: what is free, and what is kept for being used again.
    ///
    /// # Errors
    /// A device that is lost.
    pub fn available(&self) -> Result<usize> {
        Ok(self.driver().info()?.free + self.0.kept())
    }

    /// A buffer of so many bytes with anything in it.
    ///
    /// # Errors
    /// Too little memory: how much was asked for, how much there is, and what to lower.
    pub fn allocate(&self, bytes: usize) -> Result<Buffer> {
        let size = Pool::size(bytes);
        let address = match self.0.take(size) {
            Some(address) => Some(address),
            None => match self.driver().allocate(size)? {
                Some(address) => Some(address),
                None => {
                    self.0.release();
                    self.driver().allocate(size)?
                }
            },
        };
        let Some(address) = address else {
            let info = self.driver().info()?;
            let mib = |bytes: usize| bytes.div_ceil(1 << 20);
            return Err(Error::device(
                self.name(),
                format!(
                    "out of memory: {} MiB asked for, {} of {} MiB are free",
                    mib(size),
                    mib(info.free),
                    mib(info.total)
                ),
                "free the device, take a smaller model or --device cpu; in training lower train.micro_batch_tokens, \
                 train.num_generations or sampling.max_completion_length",
            ));
        };
        let used = self.0.used.fetch_add(size, Ordering::Relaxed) + size;
        self.0.peak.fetch_max(used, Ordering::Relaxed);
        Ok(Buffer { pool: self.0.clone(), address, bytes })
    }

    /// A buffer of zeros.
    ///
    /// # Errors
    /// Those of [`allocate`](Self::allocate).
    pub fn zeros(&self, bytes: usize) -> Result<Buffer> {
        let buffer = self.allocate(bytes)?;
        self.clear(buffer.view())?;
        Ok(buffer)
    }

    /// A buffer with these values.
    ///
    /// # Errors
    /// Those of [`allocate`](Self::allocate).
    pub fn upload<T: Plain>(&self, values: &[T]) -> Result<Buffer> {
        let buffer = self.allocate(std::mem::size_of_val(values))?;
        self.write(buffer.view(), values)?;
        Ok(buffer)
    }

    /// Writes values to the beginning of a view.
    ///
    /// # Errors
    /// A view that is too small.
    pub fn write<T: Plain>(&self, to: View<'_>, values: &[T]) -> Result<()> {
        self.need("a copy", to, std::mem::size_of_val(values))?;
        if values.is_empty() {
            return Ok(());
        }
        self.driver().copy_in(to.address, bytes_of(values))
    }

    /// Reads values from the beginning of a view; waits for everything that was launched.
    ///
    /// # Errors
    /// A view that is too small, or what failed before.
    pub fn read<T: Plain>(&self, from: View<'_>, to: &mut [T]) -> Result<()> {
        self.need("a copy", from, std::mem::size_of_val(to))?;
        if to.is_empty() {
            return Ok(());
        }
        self.driver().copy_out(bytes_of_mut(to), from.address)
    }

    /// Copies the first bytes of a view to another.
    ///
    /// # Errors
    /// A view that is too small.
    pub fn copy(&self, to: View<'_>, from: View<'_>, bytes: usize) -> Result<()> {
        self.need("a copy", to, bytes)?;
        self.need("a copy", from, bytes)?;
        if bytes == 0 || to.address == from.address {
            return Ok(());
        }
        self.driver().copy(to.address, from.address, bytes)
    }

    /// Sets a view to zeros.
    ///
    /// # Errors
    /// A device that is lost.
    pub fn clear(&self, view: View<'_>) -> Result<()> {
        if view.bytes == 0 {
            return Ok(());
        }
        self.driver().clear(view.address, view.bytes)
    }

    /// Refuses an operand that is too small for an operation: what stands between a wrong size and a device that writes
    /// where it should not.
    pub(super) fn need(&self, operation: &str, view: View<'_>, bytes: usize) -> Result<()> {
        if view.bytes >= bytes {
            return Ok(());
        }
        let found = format!("{operation} needs {bytes} bytes of an operand and has {}", view.bytes);
        Err(Error::device(self.name(), found, "report this as a bug"))
    }
}
