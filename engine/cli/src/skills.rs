//! `model skills`: what adapters cost a model's general skills.

use std::path::PathBuf;

use anyhow::Result;
use querywright::Error;
use querywright::evaluate::{Skills, SkillsConfig};
use querywright::model::{Adapter, Deltas};

use crate::progress::Bar;
use crate::terminal;
use crate::weights::Weights;

/// Measure what adapters cost a model's general skills: 200 requests with a constraint that a program verifies, perplexity on
/// general text, and the distance from the base. Before and after, with paired tests.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  querywright model skills smollm2-135m
  querywright model skills smollm2-135m runs/grpo/best runs/sft/best
  querywright model skills ./Qwen2.5-3B-Instruct runs/mine/best --device cuda:0 --json")]
pub struct Args {
    /// The base: a registry name, hf:owner/name, a GGUF file or a folder
    model: String,
    /// Folders of adapters that were trained on it
    adapters: Vec<PathBuf>,
    /// Requests that are asked
    #[arg(long, default_value_t = SkillsConfig::default().requests)]
    requests: usize,
    /// New tokens of an answer at most
    #[arg(long, default_value_t = SkillsConfig::default().max_tokens)]
    max_tokens: usize,
    #[command(flatten)]
    weights: Weights,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    // Adapters are looked at first: they cost nothing, a model may have to be fetched.
    args.adapters.iter().try_for_each(|folder| Adapter::find(folder))?;
    if args.requests == 0 || args.max_tokens == 0 {
        let found = format!("{} requests, {} tokens", args.requests, args.max_tokens);
        return Err(
            Error::argument("--requests, --max-tokens", found, "ask at least one, with at least one token").into()
        );
    }
    let model = args.weights.open(&args.model)?;
    let load = |folder: &PathBuf| Adapter::load(folder, model.decoder.config());
    let adapters: Vec<Adapter> = args.adapters.iter().map(load).collect::<querywright::Result<_>>()?;
    let names: Vec<String> = args.adapters.iter().map(|folder| folder.display().to_string()).collect();
    let systems: Vec<(&str, &Deltas)> =
        names.iter().map(String::as_str).zip(adapters.iter().map(Adapter::deltas)).collect();
    let config = SkillsConfig { requests: args.requests, max_tokens: args.max_tokens, ..SkillsConfig::default() };
    let bar = Bar::new(2, "asking", "passes");
    let skills = Skills::measure((model.decoder.as_ref(), &model.tokenizer), &model.name, &systems, config, &bar)?;
    bar.finish();
    if args.json { terminal::json(&skills) } else { terminal::lines(&skills.text()) }
}
