//! `rewriter.toml`: which rewriter a folder serves. `tune` writes one, and training beside the best adapter.

use std::path::{Path, PathBuf};

use anyhow::Result;
use querywright::Error;
use querywright::catalog::Output;
use querywright::rewrite::BaseConfig;
use serde::{Deserialize, Serialize};

use crate::open::Ranker;

/// What is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Serve {
    /// The words as they came: nothing was better.
    Raw,
    /// The base, without a model.
    Tuned,
    /// The model with the adapter that lies beside the file.
    Trained,
}

impl Serve {
    /// By its name in tables.
    pub fn named(name: &str) -> Result<Self> {
        match name {
            "raw" => Ok(Self::Raw),
            "tuned" => Ok(Self::Tuned),
            "trained" => Ok(Self::Trained),
            _ => Err(Error::bug("cli::rewriter_file", format!("nobody serves \"{name}\"")).into()),
        }
    }
}

/// The content of the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RewriterFile {
    /// What is served.
    pub serve: Serve,
    /// The model of an adapter, as `--rewriter` names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The name of the retriever that it was made for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retriever: Option<String>,
    /// The weight of covisitation in that retriever, which `--retriever bm25+covisitation` takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub covisitation: Option<f64>,
    /// How a request becomes a query without a model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<BaseConfig>,
}

impl RewriterFile {
    /// Its name in a folder.
    pub const NAME: &str = "rewriter.toml";

    /// A base without a model.
    pub fn tuned(base: BaseConfig, ranker: &Ranker) -> Self {
        Self { serve: Serve::Tuned, model: None, base: Some(base), ..Self::of(ranker) }
    }

    /// The words as they came, for what ranks.
    pub fn of(ranker: &Ranker) -> Self {
        let covisitation = ranker.followed.as_ref().map(|followed| followed.weight);
        let retriever = Some(ranker.retriever.card().name.clone());
        Self { serve: Serve::Raw, model: None, retriever, covisitation, base: None }
    }

    /// The file that `text` names: itself, or in a folder. None where there is none.
    pub fn at(text: &str) -> Option<PathBuf> {
        let path = Path::new(text);
        if path.is_dir() {
            let inside = path.join(Self::NAME);
            return inside.is_file().then_some(inside);
        }
        (path.extension().is_some_and(|e| e == "toml") && path.is_file()).then(|| path.to_owned())
    }

    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::read(path, e))?;
        let remedy = "give a file that `querywright tune` or `train` wrote";
        Ok(toml::from_str(&text).map_err(|e| Error::argument(path.display().to_string(), e.message(), remedy))?)
    }

    pub fn write_to(&self, output: Output) -> Result<()> {
        Ok(output.write(toml::to_string(self)?.as_bytes())?)
    }
}
