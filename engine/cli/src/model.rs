//! `model`: list, pull, describe, merge and question models.

use anyhow::Result;
use querywright::model::ModelSource;
use querywright::sources::{self, Kind};

use crate::{data, merge, skills, terminal, weights};

#[derive(clap::Subcommand)]
pub enum Command {
    /// List the models that have a name here
    #[command(after_help = "Examples:\n  querywright model list\n  querywright model list --json")]
    List {
        /// Print a JSON list
        #[arg(long)]
        json: bool,
    },
    /// Fetch a model into the cache
    #[command(
        after_help = "Examples:\n  querywright model pull smollm2-135m\n  querywright model pull hf:Qwen/Qwen2.5-0.5B-Instruct"
    )]
    Pull {
        /// A registry name or hf:owner/name
        name: String,
        /// Use the cache alone
        #[arg(long)]
        offline: bool,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Say what a model is
    #[command(
        after_help = "Examples:\n  querywright model info smollm2-135m\n  querywright model info ./model.gguf --json"
    )]
    Info {
        /// A registry name, hf:owner/name, a GGUF file or a folder
        name: String,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Write a model with an adapter merged into its weights, as safetensors or GGUF
    Merge(merge::Args),
    /// Measure what adapters cost a model's general skills
    Skills(skills::Args),
}

pub fn run(command: Command) -> Result<()> {
    match command {
        Command::Merge(args) => merge::run(args),
        Command::Skills(args) => skills::run(args),
        Command::List { json } => data::list(sources::list()?, Kind::Model, json),
        Command::Pull { name, offline, json } => data::pulled(&name, &weights::path(&name, offline)?, json),
        Command::Info { name, json } => {
            let path = weights::path(&name, false)?;
            let (source, origin) = (ModelSource::open(&path)?, sources::origin(&path));
            source.warnings().iter().for_each(|warning| tell!("warning: {warning}"));
            let (summary, digest) = (source.summary(), source.digest()?);
            if json {
                let mut object = serde_json::to_value(&summary)?;
                object["digest"] = digest.into();
                object["path"] = source.path().display().to_string().into();
                object["origin"] = serde_json::to_value(&origin)?;
                return terminal::json(&object);
            }
            say!("{}  ({}, {})", summary.name, summary.family, summary.format);
            say!("  path         {}", source.path().display());
            if let Some(origin) = &origin {
                say!("  commit       {} of {}", origin.revision, origin.repository);
            }
            say!(
                "  parameters   {:.1} million in {} layers of width {}",
                summary.parameters as f64 / 1e6,
                summary.layers,
                summary.hidden_size
            );
            let types: Vec<String> = summary.types.iter().map(|(name, count)| format!("{name} x {count}")).collect();
            say!("  tensors      {}", types.join(", "));
            say!("  size         {:.1} MB", summary.bytes as f64 / 1e6);
            say!("  vocabulary   {}", summary.vocab_size);
            say!("  context      {} tokens", summary.context);
            say!("  sha256       {digest}");
            Ok(())
        }
    }
}
