//! Ours and theirs, in turn on this machine: TRL for a step of GRPO, llama.cpp for prefill and decoding.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// What a user of each peer installs, in a private environment.
const PACKAGES: [&str; 8] =
    ["torch", "transformers", "trl", "peft", "accelerate", "datasets", "gguf", "llama-cpp-python"];

/// Steps of TRL that count.
const STEPS: &str = "5";

/// Everything that one side said of a row.
#[derive(Default)]
struct Side {
    readings: Vec<f64>,
    peak_kib: u64,
}

/// Measures and prints; `json` prints one object alone.
pub fn compare(root: &Path, json: bool) -> Result<()> {
    let python = environment(root)?;
    let model = model(root)?;
    let folder = root.join(".peers/smollm2-hf");
    if !folder.join("model.safetensors").is_file() {
        crate::run(Command::new(&python).arg(root.join("xtask/peers/to_hf.py")).arg(&model).arg(&folder))?;
    }
    let (mut ours, mut theirs) = (BTreeMap::new(), BTreeMap::new());
    let mut versions = serde_json::Map::new();
    let script = |name: &str, arguments: &[&str]| {
        let mut command = Command::new(&python);
        command.arg(root.join("xtask/peers").join(name)).args(arguments);
        command
    };
    let own = |names: &[&str]| {
        let mut command = Command::new("cargo");
        command
            // Of the whole workspace, so that what tests were built with counts here, too.
            .args(["bench", "--quiet", "--workspace", "--features", "cuda", "--bench", "peers", "--"])
            .args(names)
            .current_dir(root);
        command
    };
    let (model, folder) = (model.display().to_string(), folder.display().to_string());
    // In turn, ours before and after theirs, so that a machine that changes its pace changes it for both.
    collect(own(&["grpo_step"]), &mut ours, &mut versions)?;
    collect(script("trl_step.py", &[&folder, STEPS]), &mut theirs, &mut versions)?;
    collect(own(&["grpo_step", "prefill_512", "decode_1", "decode_64"]), &mut ours, &mut versions)?;
    if let Err(error) = collect(script("llama_decode.py", &[&model]), &mut theirs, &mut versions) {
        // Its own build knows no AMX, and dies of an illegal instruction where there is one.
        eprintln!(
            "llama.cpp is left out: {error}; LLAMA_CPP_LIB_PATH may name the folder of a libllama.so that runs here"
        );
    }
    collect(own(&["prefill_512", "decode_1", "decode_64"]), &mut ours, &mut versions)?;

    let mut report = side_by_side(&ours, &theirs)?;
    report.insert("machine".into(), json!(machine()));
    report.insert("versions".into(), Value::Object(versions));
    if json {
        println!("{}", Value::Object(report));
        return Ok(());
    }
    println!("{}", machine());
    for name in ["grpo_step", "decode_64", "prefill_512", "decode_1", "memory"] {
        if !report.contains_key(name) {
            continue;
        }
        let value = |key: &str| report[name][key].as_f64().unwrap_or(f64::NAN);
        let unit = report[name]["unit"].as_str().unwrap_or_default();
        println!(
            "{name:12} ours {:10.5}  peer {:10.5} {unit}, {:.2} times",
            value("ours"),
            value("peer"),
            value("ratio")
        );
    }
    Ok(())
}

/// The rows of both sides, and how many times ours is ahead.
fn side_by_side(
    ours: &BTreeMap<String, Side>,
    theirs: &BTreeMap<String, Side>,
) -> Result<serde_json::Map<String, Value>> {
    let mut report = serde_json::Map::new();
    for name in ["grpo_step", "decode_64", "prefill_512", "decode_1"] {
        let (Some(our), Some(their)) = (ours.get(name), theirs.get(name)) else { continue };
        let (our, their): (&Side, &Side) = (our, their);
        let (a, b) = (median(&our.readings), median(&their.readings));
        report.insert(
            name.into(),
            json!({
                "unit": if name == "grpo_step" { "seconds" } else { "seconds a token" },
                "ours": a, "peer": b, "ratio": b / a,
                "our_readings": our.readings, "peer_readings": their.readings,
            }),
        );
    }
    let peak = |sides: &BTreeMap<String, Side>| sides.get("grpo_step").map_or(0, |s| s.peak_kib) as f64 / 1024.0;
    let (a, b) = (peak(ours), peak(theirs));
    report.insert("memory".into(), json!({ "unit": "MiB", "ours": a, "peer": b, "ratio": b / a }));
    Ok(report)
}

/// Runs a side and takes up its lines of JSON.
fn collect(
    mut command: Command,
    sides: &mut BTreeMap<String, Side>,
    versions: &mut serde_json::Map<String, Value>,
) -> Result<()> {
    let shown = crate::words(&command).join(" ");
    eprintln!("measuring: {shown}");
    let output = command.stderr(Stdio::inherit()).output().with_context(|| format!("cannot start `{shown}`"))?;
    if !output.status.success() {
        bail!("`{shown}` ended with {}", output.status);
    }
    for line in String::from_utf8_lossy(&output.stdout).lines().filter(|line| line.starts_with('{')) {
        // TRL prints dictionaries of its own, which are no JSON.
        let Ok(said) = serde_json::from_str::<Value>(line) else { continue };
        let (Some(name), Some(readings)) = (said["name"].as_str(), said["readings"].as_array()) else { continue };
        let side = sides.entry(name.to_owned()).or_default();
        side.readings.extend(readings.iter().filter_map(Value::as_f64));
        side.peak_kib = side.peak_kib.max(said["peak_kib"].as_u64().unwrap_or(0));
        if let Some(found) = said["versions"].as_object() {
            versions.extend(found.clone());
        }
    }
    Ok(())
}

/// Python with the peers, made once in `.peers`.
fn environment(root: &Path) -> Result<PathBuf> {
    let folder = root.join(".peers");
    let python = folder.join("bin/python");
    if !python.is_file() {
        crate::run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
    }
    let there = Command::new(&python).args(["-c", "import llama_cpp, trl, peft, gguf"]).stderr(Stdio::null()).status();
    if !there.is_ok_and(|status| status.success()) {
        eprintln!("installing the peers into .peers: some gigabytes, and llama.cpp is compiled");
        crate::run(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(PACKAGES))?;
    }
    Ok(python)
}

/// The GGUF file, fetched by our own program.
fn model(root: &Path) -> Result<PathBuf> {
    // `cargo run` knows no workspace, and a program without what the benches need would be built with other features.
    let build = ["build", "--quiet", "--release", "--workspace", "--features", "cuda", "--bins", "--bench", "peers"];
    crate::run(Command::new("cargo").args(build).current_dir(root))?;
    let program = crate::target(root).join("release/querywright");
    let mut command = Command::new(&program);
    command.args(["model", "pull", "smollm2-135m", "--json"]).stderr(Stdio::inherit());
    let output = command.output().with_context(|| format!("cannot start {}", program.display()))?;
    let said: Value = serde_json::from_slice(&output.stdout).context("`model pull --json` said no JSON")?;
    let Some(path) = said["path"].as_str() else { bail!("`model pull --json` names no path: {said}") };
    Ok(path.into())
}

fn median(readings: &[f64]) -> f64 {
    let mut sorted = readings.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

/// The processor and what of it counts here.
fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = info.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':')).map_or("", |(_, value)| value.trim())
    };
    let flags: Vec<&str> = field("flags")
        .split(' ')
        .filter(|f| f.starts_with("avx512_bf16") || *f == "avx512f" || *f == "amx_bf16")
        .collect();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{} ({cores} cores, {})", field("model name"), flags.join(", "))
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_is_the_middle_or_the_mean_of_the_two_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }
}
