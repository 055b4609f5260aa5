//! `plugin`: make, build, check, look at and measure plugins.

mod bench;
mod build;
mod check;
mod new;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use querywright::Error;
use querywright::plugin::{Inspection, Manifest, PluginOptions};

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
        after_help = "Examples:\n  querywright plugin check hello/dist/hello.wasm\n  querywright plugin check hello.wasm --json"
    )]
    Check {
        /// The component
        file: PathBuf,
        /// What it loads: a data folder, a registry name, or demo
        #[arg(long, default_value = "demo")]
        data: String,
        /// Grant an artifact from a file; may be given again
        #[arg(long, value_name = "NAME=FILE")]
        artifact: Vec<String>,
        /// Grant HTTP to a host; may be given again
        #[arg(long, value_name = "HOST")]
        http: Vec<String>,
        /// Grant the log, which then goes to standard error
        #[arg(long)]
        log: bool,
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
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

pub fn run(command: Command) -> Result<()> {
    match command {
        Command::New { folder } => new::run(&folder),
        Command::Build { folder, json } => build::run(&folder, json),
        Command::Check { file, data, artifact, http, log, json } => {
            check::run(&file, &data, granted(&artifact, http, log)?, json)
        }
        Command::Inspect { file, json } => inspect(&file, json),
        Command::Bench { file, data, json } => bench::run(&file, &data, json),
    }
}

fn read(file: &Path) -> Result<Vec<u8>> {
    Ok(std::fs::read(file).map_err(|e| querywright::Error::read(file, e))?)
}

/// What the command line grants. (It has no encoder to lend.)
fn granted(artifacts: &[String], http: Vec<String>, log: bool) -> Result<PluginOptions> {
    let mut options = PluginOptions::default();
    for text in artifacts {
        let Some((name, path)) = text.split_once('=') else {
            return Err(Error::argument("--artifact", format!("\"{text}\""), "give NAME=FILE").into());
        };
        options.grant.artifact.insert(name.to_owned());
        options.services.artifacts.insert(name.to_owned(), read(Path::new(path))?.into());
    }
    options.grant.http = http.into_iter().collect();
    options.grant.log = log;
    options.grant.embed = true;
    options.services.log = Some(Arc::new(|id, level, line| eprintln!("{id} {level:?}: {line}")));
    Ok(options)
}

/// What a file is called in errors.
fn name(file: &Path) -> String {
    file.file_stem().map_or_else(|| "plugin".into(), |stem| stem.to_string_lossy().into_owned())
}

/// The `plugin.toml` beside a component, if there is one.
fn manifest(file: &Path) -> Result<Option<Manifest>> {
    let beside = file.with_file_name("plugin.toml");
    Ok(if beside.is_file() { Some(Manifest::read(&beside)?) } else { None })
}

fn inspect(file: &Path, json: bool) -> Result<()> {
    let found = Inspection::of(&name(file), &read(file)?)?;
    let refusal = found.check(&name(file)).err().map(|e| e.to_string());
    if json {
        let mut object = serde_json::to_value(&found)?;
        object["refusal"] = refusal.into();
        say!("{object}");
        return Ok(());
    }
    say!("{}", file.display());
    say!("  exports    {}", found.exports.join(", "));
    say!("  imports    {}", if found.imports.is_empty() { "nothing".into() } else { found.imports.join(", ") });
    say!("  size       {} bytes, {} modules, {} functions", found.bytes, found.modules, found.functions);
    say!("  longest    {} bytes of one function", found.longest_function);
    say!("  sha256     {}", found.sha256);
    match refusal {
        Some(refusal) => say!("  refused    {refusal}"),
        None => say!("  contract   kept by its imports and exports"),
    }
    Ok(())
}
