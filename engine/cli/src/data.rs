//! `data`: list, pull and describe data sets.

use std::path::Path;

use anyhow::Result;
use querywright::sources::{self, Entry, Kind, PullOptions};

use crate::progress::Spinner;
use crate::terminal;

#[derive(clap::Subcommand)]
pub enum Command {
    /// List the data sets that have a name here
    #[command(after_help = "Examples:\n  querywright data list\n  querywright data list --json")]
    List {
        /// Print a JSON list
        #[arg(long)]
        json: bool,
    },
    /// Fetch a data set into the cache
    #[command(after_help = "Examples:\n  querywright data pull semanlink-tags\n  querywright data pull esci\n  \
                            querywright data pull amazon-reviews-2023:All_Beauty")]
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
    /// Say what a data set holds
    #[command(after_help = "Examples:\n  querywright data info demo\n  querywright data info ./my-data --json")]
    Info {
        /// demo, a registry name, or a folder
        name: String,
        /// Refuse judgements of absent documents and judgements that stand twice, naming all
        #[arg(long)]
        strict: bool,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

pub fn run(command: Command) -> Result<()> {
    match command {
        Command::List { json } => list(sources::list()?, Kind::Data, json),
        Command::Pull { name, offline, json } => {
            let spinner = Spinner::new(format!("looking for {name}"));
            let path = sources::data(&name, &PullOptions { offline, observer: Some(&spinner) })?;
            spinner.finish();
            pulled(&name, &path, json)
        }
        Command::Info { name, strict, json } => info(&name, strict, json),
    }
}

/// Prints the entries of a kind.
pub fn list(entries: Vec<Entry>, kind: Kind, json: bool) -> Result<()> {
    let entries: Vec<Entry> = entries.into_iter().filter(|e| e.kind == kind).collect();
    if json {
        return terminal::json(&entries);
    }
    let width = entries.iter().map(|entry| entry.name.len()).max().unwrap_or(0);
    for entry in entries {
        let state = match (entry.cached, entry.size) {
            (true, _) => "in the cache".to_owned(),
            (false, 0) => "to fetch; its server says how much it is".to_owned(),
            (false, size) => format!("{:.1} MB to fetch", size as f64 / 1e6),
        };
        say!("{:<width$} {}", entry.name, entry.description);
        say!("{:width$} {}; {state}", "", entry.licence);
    }
    Ok(())
}

/// Prints where something lies, and which commit it is of where it came from the hub.
pub fn pulled(name: &str, path: &Path, json: bool) -> Result<()> {
    let origin = sources::origin(path);
    if json {
        let revision = origin.map(|origin| origin.revision);
        return terminal::json(&serde_json::json!({ "name": name, "path": path, "revision": revision }));
    }
    say!("{}", path.display());
    if let Some(origin) = origin {
        tell!("{} at the commit {}", origin.repository, origin.revision);
    }
    Ok(())
}

fn info(name: &str, strict: bool, json: bool) -> Result<()> {
    let dataset = crate::dataset::open(name, strict)?;
    let mut splits = serde_json::Map::new();
    for split in dataset.split_names() {
        splits.insert(split.to_owned(), dataset.split(split).map_or(0, |q| q.len()).into());
    }
    let object = serde_json::json!({
        "name": dataset.name,
        "documents": dataset.catalog.len(),
        "fields": dataset.catalog.field_names(),
        "queries": dataset.queries.len(),
        "judgements": dataset.qrels.judgements(),
        "splits": splits,
        "digest": dataset.catalog.digest(),
        "warnings": dataset.warnings,
    });
    if json {
        return terminal::json(&object);
    }
    say!(
        "{}: {} documents, {} queries, {} judgements",
        dataset.name,
        dataset.catalog.len(),
        dataset.queries.len(),
        dataset.qrels.judgements()
    );
    say!("  fields   {}", dataset.catalog.field_names().join(", "));
    for (split, count) in &splits {
        say!("  {split:<8} {count} queries");
    }
    say!("  sha256   {}", dataset.catalog.digest());
    Ok(())
}
