//! What each feature of the library costs who embeds it: crates, and seconds of compiling.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The choices of docs/embedding.md.
const CHOICES: [&str; 21] = [
    "",
    "data",
    "bm25",
    "sequence",
    "dense",
    "parquet",
    "plugins",
    "model",
    "train",
    "sources",
    "remote",
    "connect",
    "serve",
    "otel",
    "cuda",
    "bm25,model,sources",
    DEFAULT,
    "bm25,plugins,model,train,sources,remote,cuda",
    "bm25,plugins,model,train,sources,remote,dense",
    "bm25,plugins,model,train,sources,remote,dense,otel",
    "bm25,plugins,model,train,sources,remote,cuda,connect,dense,parquet,sequence,otel",
];

/// The features that are on by default.
const DEFAULT: &str = "bm25,plugins,model,train,sources,remote";

/// A crate, as "name version".
type Crate = String;

/// Prints a table: each choice with the crates of its tree, and the seconds that compiling them takes, summed over the
/// units of one build of everything, from nothing, in `target/sizes`.
pub fn table(root: &Path) -> Result<()> {
    let target = root.join("target/sizes");
    if target.exists() {
        std::fs::remove_dir_all(&target).with_context(|| format!("cannot remove {}", target.display()))?;
    }
    let mut build = Command::new("cargo");
    build.args(["build", "--release", "--locked", "--timings", "-p", "querywright", "--all-features", "--target-dir"]);
    build.arg(&target);
    crate::run(build.current_dir(root))?;
    let page = target.join("cargo-timings/cargo-timing.html");
    let seconds = units(&std::fs::read_to_string(&page).with_context(|| format!("cannot read {}", page.display()))?)?;
    println!("| features | crates | seconds of compiling, one core |\n|---|---|---|");
    for choice in CHOICES {
        let crates = tree(root, choice)?;
        let all: f64 = crates.iter().filter_map(|name| seconds.get(name)).sum();
        let shown = match choice {
            "" => "none".to_owned(),
            DEFAULT => "default".to_owned(),
            choice => choice.replace(DEFAULT, "default").replace(',', ", "),
        };
        println!("| {shown} | {} | {all:.0} |", crates.len());
    }
    Ok(())
}

/// The crates that a choice brings, macros included, what only their build scripts need not.
fn tree(root: &Path, features: &str) -> Result<BTreeSet<Crate>> {
    let output = Command::new("cargo")
        .args(["tree", "--locked", "-p", "querywright", "--no-default-features", "--features", features])
        .args(["-e", "normal", "--prefix", "none"])
        .current_dir(root)
        .output()
        .context("cannot start cargo tree")?;
    if !output.status.success() {
        bail!("cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    }
    let text = String::from_utf8(output.stdout)?;
    let name = |line: &str| line.split_whitespace().take(2).collect::<Vec<_>>().join(" ").replace(" v", " ");
    Ok(text.lines().filter(|line| !line.is_empty()).map(name).collect())
}

/// Seconds of each crate's units in the page that `cargo build --timings` writes.
fn units(page: &str) -> Result<BTreeMap<Crate, f64>> {
    let start = page.find("UNIT_DATA = ").context("the page of --timings holds no UNIT_DATA: cargo has changed it")?;
    let list = &page[start + "UNIT_DATA = ".len()..];
    let list = &list[..list.find("];").context("UNIT_DATA has no end")? + 1];
    let units: Vec<serde_json::Value> = serde_json::from_str(list)?;
    let mut seconds = BTreeMap::new();
    for unit in units {
        let (Some(name), Some(version), Some(duration)) =
            (unit["name"].as_str(), unit["version"].as_str(), unit["duration"].as_f64())
        else {
            bail!("a unit of --timings without name, version or duration: {unit}");
        };
        *seconds.entry(format!("{name} {version}")).or_default() += duration;
    }
    Ok(seconds)
}
