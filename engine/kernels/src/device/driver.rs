//! CUDA: the functions of NVIDIA's driver and of cuBLAS, behind calls that cannot be misused from inside this crate. Both
//! libraries are looked for when a device is opened.
//!
//! # Safety
//! Everything here is `unsafe` for one reason: a device writes where it is told. This module guarantees that calls are
//! made with the device's context current, on its one stream, with the handles that it gave out. Its callers, all of them
//! in this folder, guarantee that an address lies in a live allocation, and that an operand has the size that the
//! operation needs: `Device::need` checks it before each launch, in release builds too. Row numbers inside operands are
//! not checked here: the decoder, which makes them, keeps them in range.

mod timing;
mod transfer;

use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::{CString, c_int, c_void};
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use cudarc::cublas::{result as blas, sys as blas_sys};
use cudarc::driver::{CudaContext, CudaGraph, CudaStream, DriverError, result, sys};

use super::interface::{Argument, Begins, DeviceInfo, Format, Gemm};
use super::profile::Operation;
pub(super) use transfer::Pinned;

use querywright_types::{Error, Result};
use timing::Event;

/// The kernels in PTX, which the driver compiles for its device. Made by `cargo xtask cuda` from `cuda/kernels.cu`.
const KERNELS: &[u8] = include_bytes!("cuda/kernels.ptx.gz");

/// The same for devices from [`EARLY`] on.
const NEWER_KERNELS: &[u8] = include_bytes!("cuda/kernels-90.ptx.gz");

/// Bytes that cuBLAS may use; what NVIDIA advises for the newest devices.
const WORKSPACE: usize = 32 << 20;

/// The oldest driver that reads the kernels' PTX: that of CUDA 13.0.
const VERSION: i32 = 13_000;

/// The oldest devices that multiply in bf16.
const OLDEST: (i32, i32) = (8, 0);

/// The oldest devices on which a kernel may begin while the one before it ends (programmatic dependent launch).
const EARLY: (i32, i32) = (9, 0);

/// An open device.
pub(super) struct Driver {
    name: String,
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    module: sys::CUmodule,
    functions: Mutex<HashMap<String, Function>>,
    blas: Mutex<Blas>,
    workspace: u64,
    /// Written by the thread that captures, read by all others that launch.
    captures: RwLock<()>,
    /// Whether kernels that wait for the one before them may begin before it has ended.
    early: bool,
    multiprocessors: usize,
    /// The operations since a profile began, each with the events around it; none while there is no profile.
    profile: Mutex<Option<Vec<(Operation, Event, Event)>>>,
}

thread_local! {
    /// Whether this thread captures a graph.
    static CAPTURES: Cell<bool> = const { Cell::new(false) };
}

/// This thread captures a graph as long as this lives.
struct Capturing;

impl Capturing {
    fn begin() -> Self {
        CAPTURES.set(true);
        Self
    }
}

impl Drop for Capturing {
    fn drop(&mut self) {
        CAPTURES.set(false);
    }
}

/// cuBLAS's state.
struct Blas(blas_sys::cublasHandle_t);

/// A kernel.
#[derive(Clone, Copy)]
struct Function(sys::CUfunction);

// SAFETY: the driver's functions and handles may be used from any thread, cuBLAS's handle from one at a time, which its lock
// sees to.
unsafe impl Send for Function {}
unsafe impl Send for Blas {}
unsafe impl Send for Driver {}
unsafe impl Sync for Driver {}

/// A sequence of launches that the device takes as one.
pub(super) struct Captured(CudaGraph);

// SAFETY: a graph is launched from one thread at a time: it lies in a decoder's state, under that lock.
unsafe impl Send for Captured {}

impl Driver {
    pub(super) fn open(ordinal: usize) -> Result<Self> {
        let name = format!("cuda:{ordinal}");
        check_libraries(&name)?;
        let opened = |e: DriverError| {
            let remedy = "nvidia-smi lists the devices that there are; give one of them, or --device cpu";
            Error::device(&name, format!("cannot be opened ({})", message(&e)), remedy)
        };
        let context = CudaContext::new(ordinal).map_err(opened)?;
        let capability = context.compute_capability().map_err(opened)?;
        if capability < OLDEST {
            let found = format!("has compute capability {}.{}", capability.0, capability.1);
            return Err(Error::device(name, found, "8.0 (Ampere) or newer is needed; use --device cpu"));
        }
        // SAFETY: there is one stream, so no event has to be waited for.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().map_err(opened)?;
        let asked = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        let multiprocessors = size(context.attribute(asked).map_err(opened)?)?;
        let early = capability >= EARLY;
        let module = load_kernels(&name, if early { NEWER_KERNELS } else { KERNELS })?;
        let refused = |e: blas::CublasError| {
            Error::device(&name, format!("cuBLAS cannot be started ({e:?})"), "free device memory")
        };
        let blas = blas::create_handle().map_err(refused)?;
        // SAFETY: a new handle, the stream of the same context, and an allocation of the size given.
        let workspace = unsafe {
            blas::set_stream(blas, stream.cu_stream().cast()).map_err(refused)?;
            // Where a long sum is split over the chip, its parts stay in single precision.
            let mode = blas_sys::cublasMath_t::CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION;
            blas_sys::cublasSetMathMode(blas, mode).result().map_err(refused)?;
            let workspace = result::malloc_sync(WORKSPACE).map_err(opened)?;
            blas_sys::cublasSetWorkspace_v2(blas, workspace as *mut c_void, WORKSPACE).result().map_err(refused)?;
            workspace
        };
        Ok(Self {
            name,
            context,
            stream,
            module,
            functions: Mutex::default(),
            blas: Mutex::new(Blas(blas)),
            workspace,
            captures: RwLock::default(),
            early,
            multiprocessors,
            profile: Mutex::default(),
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn info(&self) -> Result<DeviceInfo> {
        let lost = |e| self.lost("asking about it", &e);
        let (free, total) = self.context.mem_get_info().map_err(lost)?;
        Ok(DeviceInfo {
            name: self.context.name().map_err(lost)?,
            capability: self.context.compute_capability().map_err(lost)?,
            free,
            total,
            peak: 0,
        })
    }

    pub(super) fn launch(
        &self,
        kernel: &str,
        grid: (usize, usize),
        block: usize,
        arguments: &[Argument],
        begins: Begins,
    ) -> Result<()> {
        let _entered = self.enter()?;
        let failed = |e: DriverError| self.lost(&format!("kernel {kernel}"), &e);
        let function = self.function(kernel)?;
        let mut parameters: Vec<*mut c_void> = arguments.iter().map(Argument::pointer).collect();
        let (grid, block) = ((size(grid.0)?, size(grid.1)?, 1), (size(block)?, 1, 1));
        let mut early = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        let config = sys::CUlaunchConfig {
            gridDimX: grid.0,
            gridDimY: grid.1,
            gridDimZ: grid.2,
            blockDimX: block.0,
            blockDimY: block.1,
            blockDimZ: block.2,
            sharedMemBytes: 0,
            hStream: self.stream.cu_stream(),
            attrs: &raw mut early,
            numAttrs: u32::from(begins == Begins::Early && self.early),
        };
        // SAFETY: the arguments are those of the kernel, in its order; they and the attribute are read during the call.
        // A kernel that begins early waits, in its own code, before it touches what others write.
        let launch = || unsafe {
            sys::cuLaunchKernelEx(&raw const config, function.0, parameters.as_mut_ptr(), std::ptr::null_mut()).result()
        };
        self.timed(|| Operation::kernel(kernel), launch)?.map_err(failed)
    }

    /// The kernel of that name.
    fn function(&self, kernel: &str) -> Result<Function> {
        let failed = |e: DriverError| self.lost(&format!("kernel {kernel}"), &e);
        let function = {
            let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
            match functions.get(kernel) {
                Some(function) => *function,
                None => {
                    let name = CString::new(kernel)
                        .map_err(|_| Error::bug("launch of a kernel", format!("the name {kernel:?} holds a zero")))?;
                    // SAFETY: the module that `open` loaded.
                    let found = Function(unsafe { result::module::get_function(self.module, name) }.map_err(failed)?);
                    functions.insert(kernel.to_owned(), found);
                    found
                }
            }
        };
        Ok(function)
    }

    /// How many multiprocessors it has.
    pub(super) fn multiprocessors(&self) -> usize {
        self.multiprocessors
    }

    /// `c = alpha · op(a) op(b) + beta · c` for matrices by rows; `op` transposes a factor if its flag is set.
    pub(super) fn multiply(&self, p: &Gemm) -> Result<()> {
        let _entered = self.enter()?;
        let kind = |format| match format {
            Format::F32 => blas_sys::cudaDataType_t::CUDA_R_32F,
            Format::Bf16 => blas_sys::cudaDataType_t::CUDA_R_16BF,
        };
        let flip = |flipped| match flipped {
            true => blas_sys::cublasOperation_t::CUBLAS_OP_T,
            false => blas_sys::cublasOperation_t::CUBLAS_OP_N,
        };
        // cuBLAS expects matrices by columns: to it, a matrix by rows is its transpose, and the transposed product is the
        // product of the factors in the other order.
        let (m, n, k): (c_int, c_int, c_int) = (size(p.columns)?, size(p.rows)?, size(p.inner)?);
        let strides: [c_int; 3] = [size(p.b_stride)?, size(p.a_stride)?, size(p.c_stride)?];
        let handle = self.blas.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the caller checked sizes and strides of the three matrices; alpha and beta are read during the call.
        let launch = || unsafe {
            blas::gemm_ex(
                handle.0,
                flip(p.flip_b),
                flip(p.flip_a),
                m,
                n,
                k,
                (&raw const p.alpha).cast(),
                p.b as *const c_void,
                kind(p.factors),
                strides[0],
                p.a as *const c_void,
                kind(p.factors),
                strides[1],
                (&raw const p.beta).cast(),
                p.c as *mut c_void,
                kind(p.result),
                strides[2],
                blas_sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                blas_sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        };
        self.timed(|| Operation::product(p), launch)?
            .map_err(|e| Error::device(&self.name, format!("cuBLAS failed ({e:?}) at {p:?}"), "report this as a bug"))
    }

    /// What `work` launches, captured to be launched again as one.
    pub(super) fn capture(&self, work: impl FnOnce() -> Result<()>) -> Result<Captured> {
        let failed = |e: DriverError| self.lost("capturing a graph", &e);
        let _alone = self.captures.write().unwrap_or_else(PoisonError::into_inner);
        let _mark = Capturing::begin();
        self.stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).map_err(failed)?;
        let worked = work();
        // Ends whatever happened, so that the stream can be used again.
        let captured = self.stream.end_capture(sys::CUgraphInstantiate_flags(0));
        worked?;
        let graph = captured.map_err(failed)?;
        graph.map(Captured).ok_or_else(|| Error::bug("capture of a graph", "nothing was launched"))
    }

    pub(super) fn send(&self, graph: &Captured) -> Result<()> {
        let _entered = self.enter()?;
        graph.0.launch().map_err(|e| self.lost("a captured graph", &e))
    }

    pub(super) fn synchronize(&self) -> Result<()> {
        let _entered = self.enter()?;
        self.stream.synchronize().map_err(|e| self.lost("waiting for it", &e))
    }

    /// Makes the device's context current, and waits while another thread captures: what is launched then would end up in
    /// its graph.
    fn enter(&self) -> Result<Option<RwLockReadGuard<'_, ()>>> {
        let guard = match CAPTURES.get() {
            true => None,
            false => Some(self.captures.read().unwrap_or_else(PoisonError::into_inner)),
        };
        self.context.bind_to_thread().map_err(|e| self.lost("binding its context", &e))?;
        Ok(guard)
    }

    fn lost(&self, doing: &str, error: &DriverError) -> Error {
        let remedy = "run it again; if it fails again, run it under compute-sanitizer and report the output";
        Error::device(&self.name, format!("failed at {doing} ({})", message(error)), remedy)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: each was made by `open` and is given back once; nothing uses them any more.
            unsafe {
                let _ = self.stream.synchronize();
                let _ = blas::destroy_handle(self.blas.get_mut().unwrap_or_else(PoisonError::into_inner).0);
                let _ = result::free_sync(self.workspace);
                let _ = result::module::unload(self.module);
            }
        }
    }
}

/// Refuses a machine without the driver, with one that is too old, or without cuBLAS.
fn check_libraries(name: &str) -> Result<()> {
    // SAFETY: loads libraries by name, as every program that uses the device does.
    let (driver, products) = unsafe { (sys::is_culib_present(), blas_sys::is_culib_present()) };
    if !driver {
        let remedy = "install NVIDIA's driver (580 or newer), or use --device cpu";
        return Err(Error::device(name, "NVIDIA's driver (libcuda) is not on this machine", remedy));
    }
    if !products {
        let remedy = "install it (pip install nvidia-cublas, or your system's CUDA 13 libraries) and put its folder \
                      into LD_LIBRARY_PATH, or use --device cpu";
        return Err(Error::device(name, "cuBLAS (libcublas.so.13, or .12) was not found", remedy));
    }
    let mut version = 0;
    // SAFETY: the library is loaded, and the number is a local.
    let asked = unsafe { sys::cuDriverGetVersion(&raw mut version) }.result();
    if asked.is_err() || version < VERSION {
        let found = format!("its driver is for CUDA {}.{}", version / 1000, version % 1000 / 10);
        return Err(Error::device(name, found, "update NVIDIA's driver to 580 or newer, or use --device cpu"));
    }
    Ok(())
}

/// Has the driver compile the kernels for the device whose context is current.
fn load_kernels(name: &str, kernels: &[u8]) -> Result<sys::CUmodule> {
    let mut text = Vec::new();
    flate2::read::GzDecoder::new(kernels)
        .read_to_end(&mut text)
        .map_err(|e| Error::device(name, format!("the program's kernels are damaged: {e}"), "build it again"))?;
    text.push(0);
    // SAFETY: PTX that ends with a zero.
    unsafe { result::module::load_data(text.as_ptr().cast()) }.map_err(|e| {
        let found = format!("the driver cannot compile the kernels ({})", message(&e));
        Error::device(name, found, "update NVIDIA's driver to 580 or newer, or use --device cpu")
    })
}

/// A size as the driver takes it.
fn size<V: Copy + std::fmt::Display, T: TryFrom<V>>(value: V) -> Result<T> {
    T::try_from(value).map_err(|_| Error::bug("launch of a kernel", format!("a size of {value}")))
}

/// The driver's message for an error.
fn message(error: &DriverError) -> String {
    error.error_string().map_or_else(|_| format!("{error:?}"), |text| text.to_string_lossy().into_owned())
}
