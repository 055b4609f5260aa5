//! The GPU's part: compiles the kernels to what the engine carries, and the programs that a GPU machine needs.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// A compiler without a system-wide toolkit. Its version decides the oldest driver that reads the kernels.
const TOOLKIT: [&str; 5] = [
    "nvidia-cuda-nvcc==13.0.88",
    "nvidia-nvvm==13.0.88",
    "nvidia-cuda-crt==13.0.88",
    "nvidia-cuda-runtime==13.0.96",
    "nvidia-cuda-cccl==13.0.85",
];

/// What its compiler says of itself: another one gives other PTX.
const COMPILER: &str = "V13.0.88";

/// PTX for the oldest architecture with bf16, and for the oldest on which kernels may begin early; the driver compiles one
/// of them for the device that is there.
const ARCHITECTURES: [(&str, &str); 2] = [("compute_80", "kernels.ptx"), ("compute_90", "kernels-90.ptx")];

/// What the kernels are assembled for here, to see that they fit: A100, L4 and RTX 40, H100 and H200.
const CHECKED: [(&str, &str); 3] = [("sm_80", "kernels.ptx"), ("sm_89", "kernels.ptx"), ("sm_90", "kernels-90.ptx")];

const SOURCES: &str = "engine/kernels/src/device/cuda";

/// The compiler cannot be fetched.
#[derive(Debug)]
pub struct Unavailable(String);

impl std::fmt::Display for Unavailable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "no CUDA compiler: {}; set CUDA_HOME to a toolkit whose nvcc is {COMPILER}", self.0)
    }
}

impl std::error::Error for Unavailable {}

/// Compiles the kernels, looks at what the assembler says of them, and builds the programs. With `check`, nothing is
/// changed: the committed kernels must be those of the sources.
pub fn build(root: &Path, check: bool) -> Result<()> {
    let toolkit = toolkit(root)?;
    let sources = root.join(SOURCES);
    let work = root.join("target/cuda");
    std::fs::create_dir_all(&work)?;
    for (architecture, name) in ARCHITECTURES {
        let ptx = work.join(name);
        let mut compile = Command::new(toolkit.join("bin/nvcc"));
        compile.args(["-ptx", "-std=c++17", &format!("-arch={architecture}"), "kernels.cu", "-o"]).arg(&ptx);
        crate::run(compile.current_dir(&sources))?;
        keep(&ptx, &sources.join(format!("{name}.gz")), check)?;
    }
    if check {
        return Ok(());
    }
    for (architecture, name) in CHECKED {
        assemble(&toolkit, &work.join(name), architecture, &work)?;
    }
    programs(root, &work)
}

/// Writes what was compiled to where the engine has it. With `check`, it must be there.
fn keep(ptx: &Path, place: &Path, check: bool) -> Result<()> {
    let text = std::fs::read(ptx)?;
    if check {
        let mut committed = Vec::new();
        flate2::read::GzDecoder::new(std::fs::File::open(place)?).read_to_end(&mut committed)?;
        if committed != text {
            bail!("{} is not what its sources give: run `cargo xtask cuda`", place.display());
        }
        println!("{} is what its sources give", place.display());
        return Ok(());
    }
    // The level and no time of day: the same sources give the same file.
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    packed.write_all(&text)?;
    std::fs::write(place, packed.finish()?)?;
    println!("{}: {} KiB", place.display(), std::fs::metadata(place)?.len() / 1024);
    Ok(())
}

/// The folder of a toolkit: an installed one of the same version, or one in `target/cuda`.
fn toolkit(root: &Path) -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("CUDA_HOME").map(PathBuf::from) {
        let said = Command::new(folder.join("bin/nvcc")).arg("--version").output();
        if said.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(COMPILER)) {
            return Ok(folder);
        }
    }
    let environment = root.join("target/cuda/toolkit");
    let folder = environment.join("nvidia/cu13");
    if !folder.join("bin/nvcc").is_file() {
        eprintln!("fetching a CUDA compiler into {}", environment.display());
        let mut fetch = Command::new("python3");
        fetch.args(["-m", "pip", "install", "--quiet", "--no-deps", "--target"]).arg(&environment).args(TOOLKIT);
        crate::run(&mut fetch).map_err(|error| Unavailable(format!("{error:#}")))?;
    }
    Ok(folder)
}

/// Assembles for a device and prints what each kernel takes: a kernel that spills registers is named.
fn assemble(toolkit: &Path, ptx: &Path, architecture: &str, work: &Path) -> Result<()> {
    let mut command = Command::new(toolkit.join("bin/ptxas"));
    command.args(["-v", &format!("-arch={architecture}")]).arg(ptx).arg("-o").arg(work.join("kernels.cubin"));
    let output = command.stdout(Stdio::piped()).output().context("cannot start ptxas")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!("the kernels do not assemble for {architecture}:\n{said}");
    }
    let (mut name, mut count, mut most, mut spilled) = (String::new(), 0, 0, Vec::new());
    for line in said.lines() {
        if let Some(rest) = line.split("Compiling entry function '").nth(1) {
            name = rest.split('\'').next().unwrap_or_default().to_owned();
            count += 1;
        }
        if line.contains("spill stores") && !line.contains(" 0 bytes spill stores") {
            spilled.push(name.clone());
        }
        if let Some(registers) = line.split("Used ").nth(1).and_then(|r| r.split(' ').next()?.parse::<u32>().ok()) {
            most = most.max(registers);
        }
    }
    println!(
        "{architecture}: {count} kernels, {most} registers at most, spilling: {}",
        match spilled.as_slice() {
            [] => "none".to_owned(),
            some => some.join(", "),
        }
    );
    Ok(())
}

/// Builds the program, the bench and the checks, stripped, into one folder to be copied to a GPU machine.
fn programs(root: &Path, work: &Path) -> Result<()> {
    let place = work.join("programs");
    std::fs::create_dir_all(&place)?;
    let cargo = |arguments: &[&str]| -> Result<Vec<PathBuf>> {
        let mut command = Command::new("cargo");
        command.args(arguments).args(["--features", "cuda", "--message-format", "json-render-diagnostics"]);
        let output = command.current_dir(root).stderr(Stdio::inherit()).output().context("cannot start cargo")?;
        if !output.status.success() {
            bail!("cargo {} ended with {}", arguments.join(" "), output.status);
        }
        let lines = String::from_utf8_lossy(&output.stdout).into_owned();
        let artifacts = lines.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        Ok(artifacts.filter_map(|a| a["executable"].as_str().map(PathBuf::from)).collect())
    };
    let built = [
        ("querywright", cargo(&["build", "--release", "--package", "querywright-cli", "--bin", "querywright"])?),
        ("device-bench", cargo(&["bench", "--no-run", "--workspace", "--bench", "device"])?),
        ("device-tests", cargo(&["test", "--no-run", "--release", "--workspace", "--test", "device"])?),
    ];
    let mut sum = 0;
    for (name, executables) in built {
        // A test's program may come with the program that it starts.
        let Some(from) = executables.iter().find(|p| name == "querywright" || !p.ends_with("querywright")) else {
            bail!("cargo built no {name}");
        };
        let to = place.join(name);
        std::fs::copy(from, &to)?;
        crate::run(Command::new("strip").arg(&to))?;
        let size = std::fs::metadata(&to)?.len();
        sum += size;
        println!("{}: {:.1} MB", to.display(), size as f64 / 1e6);
    }
    println!(
        "{:.1} MB together. They need at run time: an NVIDIA device of compute capability 8.0 or newer, its driver \
         (580 or newer; libcuda.so.1), and cuBLAS (libcublas.so.13 with libcublasLt.so.13, on LD_LIBRARY_PATH: `pip \
         install nvidia-cublas` has them). Nothing of the toolkit. docs/gpu.md says what to run there.",
        sum as f64 / 1e6
    );
    Ok(())
}
