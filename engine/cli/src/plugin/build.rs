//! `plugin build`: from a crate to a component, with whatever WASM toolchain this machine has.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use querywright::Error;
use querywright::catalog::Output;
use querywright::plugin::{Inspection, Manifest};
use wit_component::ComponentEncoder;

use crate::terminal;

/// Rust's target without a system: a component of it imports nothing but the contract.
const TARGET: &str = "wasm32-unknown-unknown";

pub fn run(folder: &Path, json: bool) -> Result<()> {
    let crate_name = crate_name(folder)?;
    // What cannot be written later is said before the compiler runs.
    let dist = folder.join("dist");
    std::fs::create_dir_all(&dist).map_err(|e| Error::write(&dist, e))?;
    let file = dist.join(format!("{crate_name}.wasm"));
    let (output, pinned) = (Output::open(&file)?, Output::open(dist.join("plugin.toml"))?);
    let target = target_directory(folder)?.join("plugin");
    let mut command = toolchain()?;
    command
        .args(["--target", TARGET, "--manifest-path"])
        .arg(folder.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target);
    let status = command.status().with_context(|| format!("cannot start {}", command.get_program().display()))?;
    if !status.success() {
        let remedy = "mend what the compiler says above, then build again";
        return Err(Error::argument("plugin build", format!("the compiler ended with {status}"), remedy).into());
    }
    let core = target.join(TARGET).join("release").join(format!("{}.wasm", crate_name.replace('-', "_")));
    let component = componentize(&std::fs::read(&core).map_err(|e| Error::read(&core, e))?)?;
    let found = Inspection::of(&crate_name, &component)?;
    // Both or neither: a component that its manifest does not pin is refused.
    let text = manifest(folder, &found.sha256)?;
    output.write(&component)?;
    let manifest = pin(pinned, text)?;
    if json {
        let mut object = serde_json::to_value(&found)?;
        object["path"] = file.display().to_string().into();
        object["manifest"] = manifest.map(|path| path.display().to_string()).into();
        return terminal::json(&object);
    }
    say!("{}  {} bytes, sha256 {}", file.display(), found.bytes, found.sha256);
    match manifest {
        Some(manifest) => say!("{}  pins it", manifest.display()),
        None => say!("no plugin.toml in {}: an embedder grants it nothing", folder.display()),
    }
    Ok(())
}

/// A core module with the contract's description inside, as a component.
fn componentize(module: &[u8]) -> Result<Vec<u8>> {
    let encoded = ComponentEncoder::default().validate(true).module(module).and_then(|mut encoder| encoder.encode());
    encoded.map_err(|e| {
        let remedy = "a plugin exports the contract through `querywright_plugin::register!`";
        Error::argument("plugin build", format!("the module makes no component: {e:#}"), remedy).into()
    })
}

/// Where the crate's own builds go: plugins of one workspace share what they have in common.
fn target_directory(folder: &Path) -> Result<PathBuf> {
    let mut command = Command::new("cargo");
    command.args(["metadata", "--no-deps", "--format-version", "1", "--manifest-path"]).arg(folder.join("Cargo.toml"));
    let output = command.output().map_err(|e| {
        let remedy = "install Rust from https://rustup.rs, and run `rustup target add wasm32-unknown-unknown`";
        Error::argument("plugin build", format!("cargo does not start: {e}"), remedy)
    })?;
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    match said["target_directory"].as_str() {
        Some(path) => Ok(path.into()),
        None => {
            let found = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(Error::argument("plugin build", found, "mend Cargo.toml").into())
        }
    }
}

/// The package's name in a folder's Cargo.toml.
fn crate_name(folder: &Path) -> Result<String> {
    let path = folder.join("Cargo.toml");
    if !path.is_file() {
        let found = format!("{} holds no Cargo.toml", folder.display());
        let remedy = "give a plugin's folder, as `querywright plugin new NAME` makes one";
        return Err(Error::argument("plugin build", found, remedy).into());
    }
    let text = std::fs::read_to_string(&path).map_err(|e| Error::read(&path, e))?;
    let parsed: toml::Table = text.parse().map_err(|e| Error::data(&path, None, format!("{e}"), "mend the line"))?;
    let name = parsed.get("package").and_then(|package| package.get("name")).and_then(toml::Value::as_str);
    Ok(name.map(str::to_owned).ok_or_else(|| Error::data(&path, None, "no package.name", "name the package"))?)
}

/// The folder's manifest with the digest of its component, where it has one.
fn manifest(folder: &Path, sha256: &str) -> Result<Option<String>> {
    let path = folder.join("plugin.toml");
    if !path.is_file() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(&path).map_err(|e| Error::read(&path, e))?;
    let digest = format!("sha256 = \"{sha256}\"");
    let mut pinned: Vec<&str> =
        text.lines().map(|line| if line.trim_start().starts_with("sha256") { &digest } else { line }).collect();
    if !pinned.contains(&digest.as_str()) {
        pinned.insert(0, &digest);
    }
    let pinned = pinned.join("\n") + "\n";
    // What is wrong is said of the file that can be mended.
    Manifest::parse(&pinned, &path.display().to_string())?;
    Ok(Some(pinned))
}

/// Puts the manifest beside the component; one that is no longer there is taken away.
fn pin(to: Output, text: Option<String>) -> Result<Option<PathBuf>> {
    let path = to.path().to_owned();
    match text {
        Some(text) => to.write(text.as_bytes())?,
        None if path.is_file() => std::fs::remove_file(&path).map_err(|e| Error::write(&path, e))?,
        None => return Ok(None),
    }
    Ok(path.is_file().then_some(path))
}

/// `cargo build --release` of a toolchain that can build for WASM.
fn toolchain() -> Result<Command> {
    let libraries = Command::new("rustc").args(["--print", "target-libdir", "--target", TARGET]).output();
    let has_target = libraries
        .is_ok_and(|found| found.status.success() && Path::new(String::from_utf8_lossy(&found.stdout).trim()).is_dir());
    if has_target {
        let mut command = Command::new("cargo");
        command.args(["build", "--release"]);
        return Ok(command);
    }
    if let (Some(library), Some(linker)) = (system_library(), system_linker()) {
        // A distribution's Rust has no library for WASM, but its source: it is built along with the plugin.
        let mut command = Command::new("/usr/bin/cargo");
        command
            .args(["build", "--release", "-Zbuild-std=std,panic_abort"])
            .env("RUSTC", "/usr/bin/rustc")
            .env("RUSTC_BOOTSTRAP", "1")
            .env("__CARGO_TESTS_ONLY_SRC_ROOT", library)
            .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker)
            .env_remove("RUSTUP_TOOLCHAIN")
            .env_remove("CARGO");
        return Ok(command);
    }
    let remedy = format!(
        "run `rustup target add {TARGET}`, or on Debian `apt-get install rustc-web cargo-web rust-web-src lld-19`"
    );
    Err(Error::argument("plugin build", format!("no Rust here builds for {TARGET}"), remedy).into())
}

/// The newest source of the standard library that the system has.
fn system_library() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/src").ok()?.flatten().map(|entry| entry.path());
    let mut found: Vec<PathBuf> =
        folders.map(|path| path.join("library")).filter(|path| path.join("std").is_dir()).collect();
    found.sort();
    found.pop().filter(|_| Path::new("/usr/bin/cargo").is_file() && Path::new("/usr/bin/rustc").is_file())
}

fn system_linker() -> Option<PathBuf> {
    let entries = std::fs::read_dir("/usr/bin").ok()?.flatten().map(|entry| entry.path());
    let is_linker = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("wasm-ld"));
    let mut found: Vec<PathBuf> = entries.filter(is_linker).collect();
    found.sort();
    found.pop()
}
