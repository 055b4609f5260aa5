//! `cargo xtask …`: the errands around the project that are not part of it.

mod assets;
mod cuda;
mod golden;
mod peers;
mod sizes;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Result, bail};

const HELP: &str = "\
cargo xtask golden                    lists the commands that make the golden values of the tests
cargo xtask golden run [NAME…] [PLACEHOLDER=VALUE…]
                                      runs them, or those of the scripts named, in .venv
cargo xtask peers [--json]            measures ours against TRL and llama.cpp, in turn, from .peers
cargo xtask cuda                      compiles the GPU's kernels, and the programs that a GPU machine needs
cargo xtask cuda --check              whether the committed kernels are those of their sources
cargo xtask assets [--check]          copies what crates embed into them, or says which copies are stale
cargo xtask sizes                     what each feature costs who embeds the library: crates, seconds
cargo xtask ci                        runs all steps of .ci/run
cargo xtask help                      prints this
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match errand(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            // What cannot be fetched says nothing of the project: 69, as sysexits' EX_UNAVAILABLE.
            if error.is::<cuda::Unavailable>() { ExitCode::from(69) } else { ExitCode::FAILURE }
        }
    }
}

fn errand(arguments: &[String]) -> Result<()> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["golden"] => golden::list(&root()),
        ["golden", "run", rest @ ..] => golden::run(&root(), rest),
        ["peers"] => peers::compare(&root(), false),
        ["peers", "--json"] => peers::compare(&root(), true),
        ["cuda"] => cuda::build(&root(), false),
        ["cuda", "--check"] => cuda::build(&root(), true),
        ["assets"] => assets::copy(&root(), false),
        ["assets", "--check"] => assets::copy(&root(), true),
        ["sizes"] => sizes::table(&root()),
        ["ci"] => run(Command::new("bash").arg(".ci/run").current_dir(root())),
        [] | ["help" | "--help" | "-h"] => {
            print!("{HELP}");
            Ok(())
        }
        other => bail!("there is no errand \"{}\"; these are:\n{HELP}", other.join(" ")),
    }
}

/// The project's root, one above this package.
fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package).to_path_buf()
}

/// Where cargo puts what it builds.
fn target(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from)
}

/// Runs a command to its good end.
fn run(command: &mut Command) -> Result<()> {
    let shown = format!("{} {}", command.get_program().display(), words(command).join(" "));
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => bail!("`{shown}` ended with {status}"),
        Err(error) => bail!("cannot start `{shown}`: {error}"),
    }
}

fn words(command: &Command) -> Vec<String> {
    command.get_args().map(|word| word.to_string_lossy().into_owned()).collect()
}
