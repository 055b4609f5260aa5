//! A model's weights: where they lie, how they are held, and what runs them.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use querywright::Error;
use querywright::model::{Decoder, DeviceChoice, ModelSource, Precision, Tokenizer};
use querywright::sources::{self, PullOptions};

use crate::progress::{Bar, Spinner};

/// How and where a rewriter's model runs.
#[derive(clap::Args, Clone)]
pub struct Weights {
    /// How the rewriter's weights are held: auto, f32, bf16, or int8, which takes half the memory
    #[arg(long, default_value = "auto", value_parser = precision)]
    pub precision: Precision,
    /// Where the rewriter runs: auto (a GPU where this program can use one), cpu, or cuda:N
    #[arg(long, default_value = "auto")]
    pub device: DeviceChoice,
    /// What was opened so far, by name: rewriters of one model share it.
    #[arg(skip)]
    opened: Arc<Mutex<HashMap<String, Arc<Model>>>>,
}

impl Weights {
    /// Loads a model, or gives the one that was loaded under this name.
    pub fn open(&self, name: &str) -> Result<Arc<Model>> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(model) = opened.get(name) {
            return Ok(model.clone());
        }
        let model = Arc::new(open(name, self.precision, self.device)?);
        opened.insert(name.to_owned(), model.clone());
        Ok(model)
    }
}

fn precision(text: &str) -> querywright::Result<Precision> {
    let known =
        [("auto", Precision::Auto), ("f32", Precision::F32), ("bf16", Precision::Bf16), ("int8", Precision::Int8)];
    match known.iter().find(|(name, _)| *name == text) {
        Some((_, precision)) => Ok(*precision),
        None => {
            let remedy = "give auto (bf16 where the machine multiplies it), f32, bf16, or int8 (one query at a time)";
            Err(Error::argument("--precision", format!("\"{text}\" is unknown"), remedy))
        }
    }
}

/// A model in memory.
pub struct Model {
    pub name: String,
    pub source: ModelSource,
    pub decoder: Arc<Decoder>,
    pub tokenizer: Tokenizer,
}

/// Where a model lies; fetched when it must be.
pub fn path(name: &str, offline: bool) -> Result<PathBuf> {
    let spinner = Spinner::new(format!("looking for {name}"));
    let path = sources::model(name, &PullOptions { offline, observer: Some(&spinner) });
    spinner.finish();
    Ok(path?)
}

/// Loads a model: a registry name, `hf:owner/name`, a GGUF file or a folder.
pub fn open(name: &str, precision: Precision, device: DeviceChoice) -> Result<Model> {
    let path = path(name, false)?;
    let bar = Bar::new(0, "loading the model", "layers");
    if let Some(origin) = sources::origin(&path) {
        tell!("{} at the commit {}", origin.repository, origin.revision);
    }
    let source = ModelSource::open(&path)?;
    source.warnings().iter().for_each(|warning| tell!("warning: {warning}"));
    let decoder = Decoder::load_on(device, &source, precision, &bar)?;
    bar.finish();
    if let Some(info) = decoder.device()? {
        tell!("the model runs on a GPU: {} (--device cpu keeps it on the processor)", info.name);
    }
    let tokenizer = source.tokenizer()?;
    Ok(Model { name: name.to_owned(), source, decoder: Arc::new(decoder), tokenizer })
}
