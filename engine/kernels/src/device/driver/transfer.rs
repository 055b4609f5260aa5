//! Memory: allocations, and copies to, from and on a device.

use std::sync::Arc;

use cudarc::driver::{CudaContext, result, sys};

use super::Driver;
use super::timing::Event;
use querywright_types::{Error, Result};

/// Host memory that a device copies to, and the event behind the last copy.
pub(in crate::device) struct Pinned {
    address: *mut u8,
    bytes: usize,
    copied: Event,
    context: Arc<CudaContext>,
}

// SAFETY: host memory that only its owner reads, behind the event.
unsafe impl Send for Pinned {}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: allocated by `pinned`, freed once, when no copy is under way.
            unsafe {
                let _ = result::event::synchronize(self.copied.0);
                let _ = result::free_host(self.address.cast());
            }
        }
    }
}

impl Driver {
    /// So many bytes, or none where they are not there.
    pub(in crate::device) fn allocate(&self, bytes: usize) -> Result<Option<u64>> {
        let _entered = self.enter()?;
        // SAFETY: the context is current.
        match unsafe { result::malloc_sync(bytes) } {
            Ok(address) => Ok(Some(address)),
            Err(e) if e.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => Ok(None),
            Err(e) => Err(self.lost("allocating", &e)),
        }
    }

    /// Gives an allocation back. Nothing that uses it may come after this.
    pub(in crate::device) fn free(&self, address: u64) {
        // What cannot be freed is lost anyway, as is the device.
        if let Ok(_entered) = self.enter() {
            // SAFETY: from `allocate`, given back once; the driver waits for what is under way.
            let _ = unsafe { result::free_sync(address) };
        }
    }

    pub(in crate::device) fn copy_in(&self, to: u64, from: &[u8]) -> Result<()> {
        let _entered = self.enter()?;
        // SAFETY: the caller checked the size; pageable memory has been read when the call returns.
        unsafe { result::memcpy_htod_async(to, from, self.stream.cu_stream()) }
            .map_err(|e| self.lost("copying to it", &e))
    }

    /// Waits for everything before it.
    pub(in crate::device) fn copy_out(&self, to: &mut [u8], from: u64) -> Result<()> {
        let _entered = self.enter()?;
        // SAFETY: the caller checked the size, and `to` is not read before the stream has finished.
        unsafe { result::memcpy_dtoh_async(to, from, self.stream.cu_stream()) }
            .and_then(|()| self.stream.synchronize())
            .map_err(|e| self.lost("copying from it", &e))
    }

    /// So many bytes of host memory that the device copies to by itself.
    pub(in crate::device) fn pinned(&self, bytes: usize) -> Result<Pinned> {
        let _entered = self.enter()?;
        let failed = |e| self.lost("taking host memory for copies", &e);
        let copied = Event::new().map_err(failed)?;
        // SAFETY: the context is current.
        let address = unsafe { result::malloc_host(bytes, 0) }.map_err(failed)?.cast::<u8>();
        // SAFETY: just allocated, with this size.
        unsafe { address.write_bytes(0, bytes) };
        Ok(Pinned { address, bytes, copied, context: self.context.clone() })
    }

    /// Copies to pinned memory, behind everything that was launched so far; [`wait`](Self::wait) waits for it alone.
    pub(in crate::device) fn post(&self, to: &mut Pinned, from: u64, bytes: usize) -> Result<()> {
        let _entered = self.enter()?;
        if bytes > to.bytes {
            return Err(Error::bug("a copy from a device", format!("{bytes} bytes into {}", to.bytes)));
        }
        let stream = self.stream.cu_stream();
        // SAFETY: the caller checked the source's size, that of `to` was checked above; `to` waits for the event before it
        // is read or freed.
        unsafe {
            let place = std::slice::from_raw_parts_mut(to.address, bytes);
            result::memcpy_dtoh_async(place, from, stream).and_then(|()| result::event::record(to.copied.0, stream))
        }
        .map_err(|e| self.lost("copying from it", &e))
    }

    /// The pinned memory, once its last copy has ended.
    pub(in crate::device) fn wait<'a>(&self, pinned: &'a Pinned) -> Result<&'a [u8]> {
        let _entered = self.enter()?;
        // SAFETY: an event that lives; one that was never recorded counts as passed.
        unsafe { result::event::synchronize(pinned.copied.0) }.map_err(|e| self.lost("copying from it", &e))?;
        // SAFETY: written in whole when it was allocated, and no copy is under way.
        Ok(unsafe { std::slice::from_raw_parts(pinned.address, pinned.bytes) })
    }

    pub(in crate::device) fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()> {
        let _entered = self.enter()?;
        // SAFETY: the caller checked the sizes of both.
        unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream.cu_stream()) }
            .map_err(|e| self.lost("copying on it", &e))
    }

    pub(in crate::device) fn clear(&self, at: u64, bytes: usize) -> Result<()> {
        let _entered = self.enter()?;
        // SAFETY: the caller checked the size.
        unsafe { result::memset_d8_async(at, 0, bytes, self.stream.cu_stream()) }
            .map_err(|e| self.lost("clearing memory", &e))
    }
}
