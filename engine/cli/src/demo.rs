//! `demo`: the main job on the embedded shop.

use std::path::{Path, PathBuf};

use anyhow::Result;
use querywright::Error;
use querywright::catalog::Output;
use querywright::model::DeviceChoice;
use querywright::train::{TrainConfig, checkpoint};

use crate::grant::Grants;
use crate::{open, train};

/// The configuration that the demonstration runs.
const CONFIG: &str = include_str!("../assets/demo.toml");

/// The plugin that ranks unless another retriever is named, and its manifest.
const PLUGIN: &[u8] = include_bytes!("../assets/bm25/bm25.wasm");
const MANIFEST: &str = include_str!("../assets/bm25/plugin.toml");

/// Train on the embedded demonstration and show what was learned.
///
/// A shop of 1,536 products described in trade words, and shoppers' requests in everyday words that name a need. A
/// language model of 135 million parameters learns from the search engine's rankings alone which words find them; held-out
/// requests, which share no phrase with those that it learned from, show what it learned. The search engine is BM25 as a
/// plugin in its sandbox, unless another one is named.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  querywright demo
  querywright demo --seed 1 --output-dir runs/demo-1
  querywright demo --retriever bm25
  querywright demo --max-steps 5 --json")]
pub struct Args {
    /// The seed of everything random
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Steps of training
    #[arg(long)]
    max_steps: Option<u64>,
    /// Where the run is kept; a run found there is continued
    #[arg(long, default_value = "runs/demo")]
    output_dir: PathBuf,
    /// What ranks: bm25 (native), dense, hybrid, or a plugin's .wasm file. Without it BM25 as a plugin, which is kept with the run
    #[arg(long)]
    retriever: Option<String>,
    /// Where the model runs: auto (a GPU where this program can use one), cpu, or cuda:N
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
    #[command(flatten)]
    grants: Grants,
    /// Print one JSON object in place of tables
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    let mut config = TrainConfig::parse(CONFIG, &[], "the demonstration's configuration")?;
    config.train.seed = args.seed;
    config.model.device = args.device;
    config.train.output_dir = args.output_dir;
    if let Some(steps) = args.max_steps {
        config.train.max_steps = steps;
        // Not half of the steps are supervised, as in the configuration.
        config.warm_start.steps = config.warm_start.steps.min(steps.saturating_mul(9) / 20);
    }
    match args.retriever.as_deref() {
        None => config.retriever.plugin = Some(plugin(&config.train.output_dir)?),
        Some(name) => open::set_retriever(name, &mut config.retriever)?,
    }
    config.validate()?;
    let measures = open::measures("nDCG@10")?;
    let trained = train::train(&config, true, train::Read::default(), Some("test"), &measures, &args.grants)?;
    train::report(trained, None, args.json)
}

/// The plugin as a file of the run.
fn plugin(run: &Path) -> Result<PathBuf> {
    checkpoint::require_usable(run, true)?;
    let component = run.join("bm25.wasm");
    let files = [(&component, PLUGIN), (&run.join("plugin.toml"), MANIFEST.as_bytes())];
    let changed = |(path, bytes): &(&PathBuf, &[u8])| !std::fs::read(path).is_ok_and(|there| there == *bytes);
    if files.iter().any(changed) {
        checkpoint::require_own(run, &["bm25.wasm", "plugin.toml"])?;
        std::fs::create_dir_all(run).map_err(|e| Error::write(run, e))?;
        files.iter().try_for_each(|(path, bytes)| Output::open(path)?.write(bytes))?;
    }
    tell!("ranking by BM25 as a plugin in its sandbox: {} (--retriever bm25 ranks natively)", component.display());
    Ok(component)
}
