//! Search engines elsewhere, as `connect:FILE` names them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use querywright::Error;
use querywright::catalog::Catalog;
use querywright::connect::{ConnectConfig, Connected};
use querywright::stack::{BackOffConfig, Guard};

use crate::ranker::Ranker;

/// The file that a retriever's name names, where it is one of these.
pub fn named(text: &str) -> Result<Option<PathBuf>> {
    match text.strip_prefix("connect:") {
        None => Ok(None),
        Some("") => {
            let remedy = "give connect:FILE.toml (docs/connect.md)";
            Err(Error::argument("--retriever", "\"connect:\" names no file", remedy).into())
        }
        Some(file) => Ok(Some(PathBuf::from(file))),
    }
}

/// What ranks a catalogue whose documents an engine elsewhere holds, by the same ids.
pub fn ranker(file: &Path, catalog: &Arc<Catalog>) -> Result<Ranker> {
    let connected = open(file, catalog)?;
    Ok(Ranker::new(catalog.clone(), Arc::new(connected), None))
}

/// The same for serving: one that fails again and again rests.
pub fn guarded(ranker: Ranker) -> Ranker {
    let guard = Guard::new(ranker.retriever.clone(), BackOffConfig::default());
    Ranker { retriever: Arc::new(guard), ..ranker }
}

fn open(file: &Path, catalog: &Catalog) -> Result<Connected> {
    let text = std::fs::read_to_string(file).map_err(|e| Error::read(file, e))?;
    let shown = file.display().to_string();
    let refused = |e: toml::de::Error| Error::configuration(&shown, &e.to_string(), e.message());
    let config: ConnectConfig = toml::from_str(&text).map_err(refused)?;
    let ids = catalog.documents().map(|document| document.id.to_owned());
    Ok(Connected::new(&config)?.with_ids(ids))
}
