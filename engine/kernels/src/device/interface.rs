//! What the operations on a device pass to its driver, laid out as `cuda/` declares it.

use std::ffi::c_void;

/// The number format of activations and weights.
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

    /// The suffix of kernels' names.
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }

    /// Rows of a tile of attention (`TileOf` in `cuda/attention.cuh`).
    pub fn tile(self) -> usize {
        match self {
            Self::F32 => 16,
            Self::Bf16 => 64,
        }
    }
}

/// A device's model and memory.
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
    /// The most bytes that this program's buffers have taken so far.
    pub peak: usize,
}

/// Query heads, key heads and values of a head (`Shape` in `cuda/rows.cuh`), and behind what kernels read of it the scale,
/// which they take as a number of its own.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeadShape {
    /// Query heads.
    pub queries: i32,
    /// Key heads, which is how many value heads there are, too.
    pub keys: i32,
    /// Values of a head.
    pub dim: i32,
    /// What products of queries and keys are multiplied by: 1 / √dim in most models.
    pub scale: f32,
}

impl HeadShape {
    /// Values of a row of queries.
    pub fn query_width(self) -> usize {
        (self.queries * self.dim) as usize
    }

    /// Values of a row of keys.
    pub fn key_width(self) -> usize {
        (self.keys * self.dim) as usize
    }

    /// Values of a row of queries, keys and values.
    pub fn width(self) -> usize {
        self.query_width() + 2 * self.key_width()
    }
}

/// Numbers of an AdamW update (`AdamW` in `cuda/optimizer.cuh`).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWConstants {
    /// The learning rate.
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// `1 - beta1^t`.
    pub correct1: f64,
    /// `1 - beta2^t`.
    pub correct2: f64,
    /// What gradients are multiplied by.
    pub factor: f64,
}

/// An argument of a kernel, as its C++ declaration has it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Argument {
    Address(u64),
    Int(i32),
    Long(i64),
    Float(f32),
    Heads(HeadShape),
    AdamW(AdamWConstants),
}

impl Argument {
    #[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "the driver reads it"))]
    /// Its address, as a launch takes it.
    pub(super) fn pointer(&self) -> *mut c_void {
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

/// When a kernel may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begins {
    /// When the one before it has ended.
    Behind,
    /// Before that, where the device can: the kernel waits in its own code (`wait_for_earlier` in `cuda/common.cuh`).
    Early,
}

/// A product, as the driver takes it.
#[derive(Debug)]
#[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "the driver reads it"))]
pub(super) struct Gemm {
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) inner: usize,
    pub(super) factors: Format,
    pub(super) result: Format,
    pub(super) alpha: f32,
    pub(super) beta: f32,
    pub(super) a: u64,
    pub(super) a_stride: usize,
    pub(super) flip_a: bool,
    pub(super) b: u64,
    pub(super) b_stride: usize,
    pub(super) flip_b: bool,
    pub(super) c: u64,
    pub(super) c_stride: usize,
}
