//! A GPU for tests: an emulation of the driver and of cuBLAS on the processor, built from the sources beside this file and
//! the engine's own kernels, or, where `QUERYWRIGHT_GPU` is set, the machine's own device.
#![allow(dead_code, reason = "every suite is a program of its own and takes what it needs")]

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

/// Whether there is a device to test with; where there is none, the test that asked is skipped with the reason.
pub fn device() -> bool {
    static LOADED: OnceLock<Result<(Library, Library), String>> = OnceLock::new();
    if real() {
        return true;
    }
    let load = || {
        let folder = folder()?;
        // SAFETY: libraries that were built from this repository. The engine finds them by the names they carry.
        let open = |name: &str| unsafe { Library::open(Some(folder.join(name)), RTLD_NOW | RTLD_GLOBAL) };
        Ok((open("libcuda.so").unwrap(), open("libcublas.so").unwrap()))
    };
    LOADED.get_or_init(load).as_ref().inspect_err(|reason| querywright_testing::skipped(reason)).is_ok()
}

/// Whether the tests run on a real device.
pub fn real() -> bool {
    std::env::var_os("QUERYWRIGHT_GPU").is_some()
}

/// The folder with the emulated libraries, for the library path of a program; the reason, where they cannot be built.
pub fn folder() -> Result<PathBuf, String> {
    if !cfg!(all(target_arch = "x86_64", target_os = "linux")) {
        return Err("the emulated device runs on x86-64 Linux".into());
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let (ours, kernels) = (root.join("tests/emulator"), root.join("engine/kernels/src/device/cuda"));
    let mut hasher = DefaultHasher::new();
    for folder in [&ours, &kernels] {
        let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        files.iter().for_each(|file| fs::read(file).unwrap().hash(&mut hasher));
    }
    let place = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("emulator-{:016x}", hasher.finish()));
    if place.is_dir() {
        return Ok(place);
    }
    // Built aside and moved in one step: several suites may come here at once.
    let aside = place.with_extension(std::process::id().to_string());
    fs::create_dir_all(&aside).unwrap();
    let compile = |name: &str, source: &str, further: &[String]| {
        let mut command = Command::new(std::env::var("CXX").unwrap_or_else(|_| "c++".into()));
        command.args([
            "-std=c++17",
            "-O3",
            "-shared",
            "-fPIC",
            "-fvisibility=hidden",
            "-DEMULATED",
            "-Wno-unknown-pragmas",
        ]);
        command.arg(format!("-Wl,-soname,{name}")).arg("-I").arg(&ours).arg("-I").arg(&kernels);
        command.arg(ours.join(source)).args(further).arg("-o").arg(aside.join(name));
        match command.output() {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => panic!("the emulator does not compile: {}", String::from_utf8_lossy(&output.stderr)),
            Err(e) => Err(format!("there is no C++ compiler for the emulated device: {e}")),
        }
    };
    let linked = [format!("-L{}", aside.display()), "-lcuda".to_owned()];
    compile("libcuda.so", "cuda.cpp", &[])?;
    compile("libcublas.so", "cublas.cpp", &linked)?;
    // Where another suite was faster, its libraries are the same.
    let _ = fs::rename(&aside, &place);
    Ok(place)
}

/// How much memory the emulated device has from now on.
pub fn limit(mib: usize) {
    let library = Library::this();
    // SAFETY: a function of the emulated driver, which `device` loaded, with this type.
    unsafe {
        let set: libloading::os::unix::Symbol<extern "C" fn(usize)> = library.get(b"emulator_limit\0").unwrap();
        set(mib);
    }
}
