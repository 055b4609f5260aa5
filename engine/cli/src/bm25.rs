//! BM25 as the command line names it.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use querywright::catalog::Catalog;
use querywright::retrieve::{Bm25, Bm25Config};
use querywright::types::QueryLanguage;
use querywright::{Error, error::did_you_mean};

/// Settings of `bm25` behind a colon: `bm25:k1=0.9,b=0.4`.
pub fn named(text: &str) -> Result<Bm25Config> {
    let (name, settings) = text.split_once(':').unwrap_or((text, ""));
    if name != "bm25" {
        return Err(Error::argument(
            "--retriever",
            format!("\"{name}\" is unknown"),
            "give bm25, dense, hybrid, the path of a plugin's .wasm file, or for histories popularity, covisitation, sasrec or \
             gru4rec",
        )
        .into());
    }
    let mut config = Bm25Config::default();
    for setting in settings.split(',').filter(|s| !s.is_empty()) {
        let known = ["k1", "b", "language", "content", "rec_r1_contents_prefix"];
        let (key, value) = setting.split_once('=').unwrap_or((setting, "true"));
        let bad =
            |remedy: &str| Error::argument(format!("--retriever bm25:{key}"), format!("found \"{value}\""), remedy);
        match key {
            "k1" => config.k1 = value.parse().map_err(|_| bad("give a number, as k1=1.2"))?,
            "b" => config.b = value.parse().map_err(|_| bad("give a number from 0 to 1, as b=0.75"))?,
            "content" => config.content = value.to_owned(),
            "rec_r1_contents_prefix" | "rec-r1-contents-prefix" => {
                config.rec_r1_contents_prefix = value.parse().map_err(|_| bad("give true or false"))?;
            }
            "language" => {
                config.language = match value {
                    "plain" => QueryLanguage::Plain,
                    "boolean" => QueryLanguage::Boolean,
                    _ => return Err(bad("give plain or boolean").into()),
                };
            }
            _ => {
                let hint = did_you_mean(key, known);
                let remedy = format!("{hint}the settings are {}", known.join(", "));
                return Err(Error::argument("--retriever", format!("unknown setting \"{key}\""), remedy).into());
            }
        }
    }
    Ok(config)
}

/// BM25 over a catalogue. With a folder the index is kept there and opened again.
pub fn index(catalog: &Arc<Catalog>, config: Bm25Config, index: Option<&Path>) -> Result<Arc<Bm25>> {
    Ok(Arc::new(match index {
        Some(folder) => Bm25::open_or_build(catalog.clone(), config, folder)?,
        None => Bm25::in_memory(catalog.clone(), config)?,
    }))
}
