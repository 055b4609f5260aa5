//! Kernels on a GPU: the same operations as beside this module, on buffers in a device's memory.
//!
//! `cuda/` holds the kernels in CUDA C++; matrix products are cuBLAS's. Activations are in bf16 (or, for checking, in
//! single precision), and single precision is what sums, norms, the residual stream, log-probabilities and the optimiser
//! are computed in. No operation's result depends on timing: nothing is added up by atomics.
//!
//! `unsafe` lives in `driver`, and in `memory` where numbers are read as bytes. Everything is launched on one stream of the device in program order.

#[cfg(not(feature = "cuda"))]
mod absent;
mod attention;
#[cfg(feature = "cuda")]
mod driver;
mod head;
mod memory;
mod operations;

use std::ffi::c_void;
use std::sync::Arc;

#[cfg(not(feature = "cuda"))]
use absent::{Captured, Driver};
pub use attention::{HeadShape, Rotation, Slot, Tree};
#[cfg(feature = "cuda")]
use driver::{Captured, Driver};
pub use head::AdamWConstants;
pub use memory::{Buffer, Plain, View};
pub use operations::Matrix;

use crate::error::Result;

/// What activations and weights are kept in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Single precision: for checking, and slow.
    F32,
    /// bfloat16.
    Bf16,
}

impl Format {
    /// Bytes of a value.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }

    /// What the names of kernels end with.
    fn suffix(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }

    /// Rows of a tile of attention (`TileOf` in `cuda/attention.cuh`).
    pub fn tile(self) -> usize {
        match self {
            Self::F32 => 16,
            Self::Bf16 => 32,
        }
    }
}

/// What a device says of itself.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct DeviceInfo {
    /// Its name.
    pub name: String,
    /// Compute capability.
    pub capability: (i32, i32),
    /// Bytes of its memory that can still be allocated.
    pub free: usize,
    /// Bytes of its memory.
    pub total: usize,
    /// Bytes that this program's buffers took at most so far.
    pub peak: usize,
}

/// An open device. Cheap to clone.
#[derive(Clone)]
pub struct Device(Arc<memory::Pool>);

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Device").field(&self.name()).finish()
    }
}

impl Device {
    /// Opens CUDA device `ordinal`.
    ///
    /// # Errors
    /// [`Error::Device`](crate::error::Error::Device): not compiled in, no driver, no cuBLAS, no such device, too old.
    pub fn open(ordinal: usize) -> Result<Self> {
        Ok(Self(Arc::new(memory::Pool::new(Driver::open(ordinal)?))))
    }

    /// As the user writes it: "cuda:0".
    pub fn name(&self) -> &str {
        self.driver().name()
    }

    /// Whether this is a clone of another one.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Its model and memory.
    ///
    /// # Errors
    /// A device that is lost.
    pub fn info(&self) -> Result<DeviceInfo> {
        let info = self.driver().info()?;
        Ok(DeviceInfo { free: self.available()?, peak: self.0.peak(), ..info })
    }

    /// Waits until everything launched is done.
    ///
    /// # Errors
    /// What failed since the last wait.
    pub fn synchronize(&self) -> Result<()> {
        self.driver().synchronize()
    }

    /// What `work` launches, kept for being sent at once. Its buffers must outlive the graph.
    ///
    /// # Errors
    /// Those of `work`, which may neither allocate nor copy to or from the host.
    pub fn capture(&self, work: impl FnOnce() -> Result<()>) -> Result<Graph> {
        Ok(Graph(self.driver().capture(work)?))
    }

    /// Sends a graph.
    ///
    /// # Errors
    /// A device that is lost.
    pub fn send(&self, graph: &Graph) -> Result<()> {
        self.driver().send(&graph.0)
    }

    fn driver(&self) -> &Driver {
        self.0.driver()
    }
}

/// A captured sequence of launches.
pub struct Graph(Captured);

impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Graph")
    }
}

/// An argument of a kernel, as its C++ declaration has it.
#[derive(Debug, Clone, Copy)]
enum Argument {
    Address(u64),
    Int(i32),
    Long(i64),
    Float(f32),
    Heads(HeadShape),
    AdamW(AdamWConstants),
}

impl Argument {
    #[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "the driver reads it"))]
    fn pointer(&self) -> *mut c_void {
        fn to<T>(value: &T) -> *mut c_void {
            std::ptr::from_ref(value).cast_mut().cast()
        }
        match self {
            Self::Address(v) => to(v),
            Self::Int(v) => to(v),
            Self::Long(v) => to(v),
            Self::Float(v) => to(v),
            Self::Heads(v) => to(v),
            Self::AdamW(v) => to(v),
        }
    }
}
