//! `demo`: the main job on the embedded shop.

use std::path::PathBuf;

use anyhow::Result;
use querywright::train::TrainConfig;

use crate::{open, train};

/// The configuration that the demonstration runs.
const CONFIG: &str = include_str!("../../examples/configs/demo.toml");

/// Train on the embedded demonstration and show what was learned.
///
/// A shop of 1,536 products described in trade words, and shoppers' requests in everyday words that name a need. A
/// language model of 135 million parameters learns from the search engine's rankings alone which words find them; held-out
/// requests, which share no phrase with those that it learned from, show what it learned.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  querywright demo
  querywright demo --seed 1 --output-dir runs/demo-1
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
    /// Print one JSON object in place of tables
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    let mut config = TrainConfig::parse(CONFIG, &[], "the demonstration's configuration")?;
    config.train.seed = args.seed;
    config.train.output_dir = args.output_dir;
    if let Some(steps) = args.max_steps {
        config.train.max_steps = steps;
    }
    config.validate()?;
    let measures = open::measures("nDCG@10")?;
    let (outcome, compared) = train::train(&config, true, Some("test"), &measures)?;
    train::report(&outcome, compared.as_ref(), args.json)
}
