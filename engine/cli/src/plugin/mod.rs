//! `plugin`: make, build, check, look at and measure plugins.

mod bench;
mod build;
mod check;
mod new;

use std::path::{Path, PathBuf};

use anyhow::Result;
use querywright::plugin::Inspection;

use crate::grant::Grants;
use crate::terminal;

#[derive(clap::Subcommand)]
pub enum Command {
    /// Begin a plugin: a folder with a small recommender that works
    #[command(after_help = "Example:\n  querywright plugin new hello && querywright plugin build hello")]
    New {
        /// The folder to make; its last part names the plugin
        folder: PathBuf,
    },
    /// Build a plugin's component and write its digest into plugin.toml
    #[command(after_help = "Examples:\n  querywright plugin build hello\n  querywright plugin build .")]
    Build {
        /// The plugin's folder
        #[arg(default_value = ".")]
        folder: PathBuf,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Load a component, ask it ordinary and awkward things, and report whether it keeps the contract and what it costs
    #[command(
        after_help = "Examples:\n  querywright plugin check hello/dist/hello.wasm\n  querywright plugin check hello.wasm --json\n  querywright plugin check hello.wasm --grant log --grant limits.memory_mib=1024"
    )]
    Check {
        /// The component
        file: PathBuf,
        /// What it loads: a data folder, a registry name, or demo
        #[arg(long, default_value = "demo")]
        data: String,
        #[command(flatten)]
        grants: Grants,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Say what a component is without running it
    #[command(after_help = "Example:\n  querywright plugin inspect hello/dist/hello.wasm")]
    Inspect {
        /// The component
        file: PathBuf,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Time a plugin beside the native BM25 on the same queries
    #[command(after_help = "Example:\n  querywright plugin bench hello/dist/hello.wasm --data demo")]
    Bench {
        /// The component
        file: PathBuf,
        /// What is loaded and searched: a data folder, a registry name, or demo
        #[arg(long, default_value = "demo")]
        data: String,
        #[command(flatten)]
        grants: Grants,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

pub fn run(command: Command) -> Result<()> {
    match command {
        Command::New { folder } => new::run(&folder),
        Command::Build { folder, json } => build::run(&folder, json),
        Command::Check { file, data, grants, json } => check::run(&file, &data, &grants, json),
        Command::Inspect { file, json } => inspect(&file, json),
        Command::Bench { file, data, grants, json } => bench::run(&file, &data, &grants, json),
    }
}

fn read(file: &Path) -> Result<Vec<u8>> {
    Ok(std::fs::read(file).map_err(|e| querywright::Error::read(file, e))?)
}

/// What a file is called in errors.
fn name(file: &Path) -> String {
    file.file_stem().map_or_else(|| "plugin".into(), |stem| stem.to_string_lossy().into_owned())
}

fn inspect(file: &Path, json: bool) -> Result<()> {
    let bytes = read(file)?;
    let found = Inspection::of(&name(file), &bytes)?;
    let manifest = querywright::plugin::Manifest::beside(file)?;
    let pinned = manifest.as_ref().map_or(Ok(()), |manifest| manifest.verify(&bytes));
    let refusal = found.check(&name(file)).and(pinned).err().map(|e| e.to_string());
    if json {
        let mut object = serde_json::to_value(&found)?;
        object["refusal"] = refusal.into();
        object["manifest"] = serde_json::to_value(&manifest)?;
        return terminal::json(&object);
    }
    say!("{}", file.display());
    say!("  exports    {}", found.exports.join(", "));
    say!("  imports    {}", if found.imports.is_empty() { "nothing".into() } else { found.imports.join(", ") });
    say!("  size       {} bytes, {} modules, {} functions", found.bytes, found.modules, found.functions);
    say!("  longest    {} bytes of one function", found.longest_function);
    say!("  sha256     {}", found.sha256);
    match &manifest {
        Some(manifest) => {
            let wanted = &manifest.capabilities;
            let asks = [(wanted.log, "log".to_owned()), (wanted.embed, "embed".to_owned())];
            let mut asks: Vec<String> = asks.into_iter().filter(|(asked, _)| *asked).map(|(_, name)| name).collect();
            asks.extend(wanted.http.iter().map(|host| format!("http={host}")));
            asks.extend(wanted.artifact.iter().map(|name| format!("artifact={name}")));
            let asks = if asks.is_empty() { "nothing".to_owned() } else { asks.join(", ") };
            say!("  manifest   {} {}, asks for {asks}", manifest.id, manifest.version);
        }
        None => say!("  manifest   none beside it: it is not pinned, and nothing can be granted to it"),
    }
    match refusal {
        Some(refusal) => say!("  refused    {refusal}"),
        None => say!("  contract   kept by its imports and exports"),
    }
    Ok(())
}
