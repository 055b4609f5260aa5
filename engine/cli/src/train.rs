//! `train`: GRPO against a retriever.

use std::path::PathBuf;

use anyhow::{Context, Result};
use querywright::Error;
use querywright::metrics::Measure;
use querywright::model::DeviceChoice;
use querywright::plugin::{Metering, PluginOptions};
use querywright::train::{Materials, Outcome, TrainConfig, Trainer, checkpoint};

use crate::compare::{Compared, Finished};
use crate::grant::Grants;
use crate::open;
use crate::progress::Watcher;

/// Train a rewriter by GRPO against a retriever.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  querywright train examples/configs/demo.toml
  querywright train my.toml --set train.max_steps=50 --set train.output_dir=runs/try
  querywright train my.toml --resume")]
pub struct Args {
    /// The run's configuration
    config: PathBuf,
    /// Set a key over the file, as train.max_steps=50
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// What ranks, in the place of what the file says: bm25 or a plugin's .wasm file
    #[arg(long)]
    retriever: Option<String>,
    /// Where the model runs, in the place of what the file says: auto, cpu, or cuda:N
    #[arg(long)]
    device: Option<DeviceChoice>,
    /// Continue the run in output_dir from its newest checkpoint
    #[arg(long)]
    resume: bool,
    /// The split that is measured after training
    #[arg(long, default_value = "test")]
    split: String,
    /// Do not measure after training
    #[arg(long)]
    no_eval: bool,
    /// Measures of the table after training
    #[arg(long, default_value = "nDCG@10,R@100")]
    measures: String,
    /// Refuse judgements of documents that are not in the catalogue, and repeated ones
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    grants: Grants,
    /// Print one JSON object in place of tables
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    let mut config = TrainConfig::read(&args.config, &args.settings)?;
    if let Some(retriever) = &args.retriever {
        config.retriever.plugin = open::plugin_path(retriever)?;
        config.validate()?;
    }
    if let Some(device) = args.device {
        config.model.device = device;
    }
    let measures = open::measures(&args.measures)?;
    let split = (!args.no_eval).then_some(args.split.as_str());
    let (outcome, compared) = train(&config, args.resume, args.strict, split, &measures, &args.grants)?;
    report(&outcome, compared.as_ref(), args.json)
}

/// Trains and, where a split is given, measures.
pub fn train(
    config: &TrainConfig,
    resume: bool,
    strict: bool,
    split: Option<&str>,
    measures: &[Measure],
    grants: &Grants,
) -> Result<(Outcome, Option<Compared>)> {
    // All that can be refused is refused here, before a model is fetched and loaded.
    if !resume {
        checkpoint::require_none(&config.train.output_dir)?;
    }
    let dataset = crate::dataset::open(&config.data.name, strict)?;
    let train = open::labelled(&dataset, "data.train", &config.data.train)?;
    let mut dev = open::labelled(&dataset, "data.dev", &config.data.dev)?;
    dev.truncate(config.data.max_dev_queries);
    if let Some(split) = split {
        if [&config.data.train, &config.data.dev].iter().any(|s| *s == split) {
            let found = format!("the run learns from \"{split}\" or chooses its best adapter on it");
            return Err(Error::argument("--split", found, "measure on held-out queries, or say --no-eval").into());
        }
        // What cannot be measured later must be said before the hours of training, not after.
        dataset.judged(split)?;
    }
    let ranker = match &config.retriever.plugin {
        Some(path) => {
            let content = config.retriever.bm25.content.clone();
            let options = PluginOptions { metering: Metering::Fuel, content, ..grants.options()? };
            open::plugin(path, &dataset.catalog, options)?
        }
        None => {
            grants.nobody()?;
            let index = open::bm25(&dataset.catalog, config.retriever.bm25.clone(), None)?;
            open::Ranker { catalog: dataset.catalog.clone(), retriever: index.clone(), bm25: Some(index) }
        }
    };
    let prompter = open::prompter(&config.prompt, &ranker)?;
    let model = open::model(&config.model.name, config.model.precision, config.model.device)?;
    let materials = Materials {
        model_name: model.name.clone(),
        decoder: model.decoder.clone(),
        tokenizer: model.tokenizer.clone(),
        encoder: model.encoder(prompter, &ranker)?,
        retriever: ranker.retriever.clone(),
        catalog: dataset.catalog.clone(),
        train,
        dev,
        model_digest: model.source.digest()?,
    };
    let mut watcher = Watcher::new(config.train.max_steps);
    let outcome = Trainer::new(config, &materials, resume, &mut watcher)?.run(&mut watcher)?;
    let Some(split) = split else { return Ok((outcome, None)) };
    let finished =
        Finished { config, dataset: &dataset, split, ranker: &ranker, model: &model, adapter: &outcome.adapter };
    let compared = finished.compare(measures).context("training is done and saved, measuring failed")?;
    Ok((outcome, Some(compared)))
}

/// Prints what came of a run.
pub fn report(outcome: &Outcome, compared: Option<&Compared>, json: bool) -> Result<()> {
    if json {
        let object = serde_json::json!({
            "outcome": outcome,
            "comparison": compared.map(|c| &c.comparison),
            "report": compared.map(|c| &c.report),
        });
        say!("{}", serde_json::to_string(&object)?);
        return Ok(());
    }
    say!(
        "{} steps in {:.0} s; best on the development queries: {:.4} after step {}",
        outcome.steps,
        outcome.seconds,
        outcome.best_dev,
        outcome.best_step
    );
    say!("adapter: {}", outcome.adapter.display());
    if let Some(compared) = compared {
        say!("\n{}", compared.comparison.text());
        say!("report: {}", compared.report.display());
    }
    Ok(())
}
