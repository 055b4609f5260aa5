//! `train`: GRPO against a retriever.

use std::path::PathBuf;

use anyhow::{Context, Result};
use querywright::Error;
use querywright::catalog::Dataset;
use querywright::evaluate::Evaluation;
use querywright::metrics::Measure;
use querywright::model::DeviceChoice;
use querywright::train::{Chosen, Materials, Outcome, TrainConfig, Trainer, checkpoint};
use querywright::types::{Judgements, Query};

use crate::choose::{self, Wanted};
use crate::compare::Compared;
use crate::environment::{self, Environment};
use crate::finished::Finished;
use crate::grant::Grants;
use crate::open;
use crate::progress::{Goal, Watcher};
use crate::ship::WithoutModel;
use crate::{preset, remote, terminal, weights};

/// Train a rewriter by GRPO against a retriever.
///
/// With --data the configuration is chosen from the data and the machine, and printed with its reasons: a configuration
/// file by itself. The one that was run is kept as config.toml in the folder of the run, and gives the same run again.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  querywright train --data ./my-data
  querywright train --data ./my-data --dry-run > my.toml
  querywright train --data ./my-data --set prompt.content='garden tools' --output-dir runs/garden
  querywright train runs/my-data/config.toml --output-dir runs/again
  querywright train my.toml --set train.max_steps=50 --set train.output_dir=runs/try
  querywright train --preset rec-r1 --data ./esci
  querywright train my.toml --resume")]
pub struct Args {
    /// The run's configuration
    #[arg(required_unless_present = "data", conflicts_with = "data")]
    config: Option<PathBuf>,
    /// A data set, for which everything else is chosen: demo, a name of `data list`, hf:owner/name, or a folder
    #[arg(long)]
    data: Option<String>,
    /// A configuration with a name, for the data set of --data, in the place of one that is chosen: rec-r1, rec-r1-c4,
    /// rec-r1-c4-dense or rec-r1-beauty
    #[arg(long, requires = "data")]
    preset: Option<String>,
    /// The model that is trained, in the place of what the file says [with --data: smollm2-135m]
    #[arg(long)]
    model: Option<String>,
    /// Where the run is kept, in the place of what the file says [with --data: runs/ and the name of the data set]
    #[arg(long, value_name = "DIR")]
    output_dir: Option<PathBuf>,
    /// Set a key over the file or over what was chosen, as train.max_steps=50
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// Print the configuration and stop
    #[arg(long)]
    dry_run: bool,
    /// What ranks, in the place of what the file says: bm25, dense or hybrid with a model behind a colon, or a plugin's
    /// .wasm file; for next items with +covisitation behind it, whose weight is tuned, or with +covisitation=0.6
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
    let (config, chosen, dataset) = args.config()?;
    if args.dry_run {
        return choose::show(&config, chosen.as_ref(), args.json);
    }
    if let Some(chosen) = chosen.as_ref().filter(|_| !args.json) {
        terminal::lines(&chosen.to_toml()?)?;
    }
    let measures = open::measures(&args.measures)?;
    let split = (!args.no_eval).then_some(args.split.as_str());
    let read = Read { dataset, strict: args.strict };
    let trained = train(&config, args.resume, read, split, &measures, &args.grants)?;
    report(trained, chosen.as_ref(), args.json)
}

impl Args {
    /// The configuration of the file, or the one that is chosen for a data set, what was chosen, and the data set, where it
    /// was read for that.
    fn config(&self) -> Result<(TrainConfig, Option<Chosen>, Option<Dataset>)> {
        if let Some(data) = self.data.as_ref().filter(|_| self.preset.is_none()) {
            let wanted = Wanted {
                data,
                model: self.model.as_deref(),
                output_dir: self.output_dir.as_deref(),
                retriever: self.retriever.as_deref(),
                device: self.device,
                embed: self.grants.embed()?,
                split: &self.split,
                settings: &self.settings,
                strict: self.strict,
            };
            let (chosen, dataset) = wanted.choose()?;
            if self.resume
                && let Some(kept) = choose::kept(&chosen.config, &self.settings)?
            {
                return Ok((kept, None, Some(dataset)));
            }
            choose::warn(&chosen);
            return Ok((chosen.config.clone(), Some(chosen), Some(dataset)));
        }
        let mut config = match self.preset.as_deref().zip(self.data.as_deref()) {
            Some((preset, data)) => preset::config(preset, data, &self.settings)?,
            None => {
                let path = self.config.as_deref().context("neither a configuration nor --data is given")?;
                TrainConfig::read(path, &self.settings)?
            }
        };
        if let Some(retriever) = &self.retriever {
            open::set_retriever(retriever, &mut config.retriever)?;
        }
        if let Some(encoder) = self.grants.embed()? {
            config.retriever.embed = Some(encoder);
        }
        if let Some(device) = self.device {
            config.model.device = device;
        }
        if let Some(model) = &self.model {
            config.model.name.clone_from(model);
        }
        if let Some(folder) = &self.output_dir {
            config.train.output_dir.clone_from(folder);
        }
        config.validate()?;
        Ok((config, None, None))
    }
}

/// The data set of a run, where it was read already, as its source has it.
#[derive(Default)]
pub struct Read {
    pub dataset: Option<Dataset>,
    /// Refuses what reading else warns about.
    pub strict: bool,
}

impl Read {
    fn open(self, name: &str) -> Result<Dataset> {
        match self.dataset {
            Some(dataset) => Ok(dataset),
            None => crate::dataset::open(name, self.strict),
        }
    }
}

/// What came of training, and what was measured in front of each retriever.
pub type Trained = (Outcome, Option<Result<Vec<Compared>>>);

/// Trains and, where a split is given, measures. What came of training is told although measuring failed.
pub fn train(
    config: &TrainConfig,
    resume: bool,
    read: Read,
    split: Option<&str>,
    measures: &[Measure],
    grants: &Grants,
) -> Result<Trained> {
    // All that can be refused is refused here, before a model is fetched and loaded.
    checkpoint::require_usable(&config.train.output_dir, resume)?;
    let dataset = config.data.with_splits(read.open(&config.data.name)?)?;
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
    let environments = environment::all(config, resume, &dataset, (&train, &dev), grants)?;
    let config = &environment::run_config(config, &environments)?;
    if let [only] = environments.as_slice() {
        remote::prepare(config, resume, &only.ranker, &only.train)?;
    }
    let model = weights::open(&config.model.name, config.model.precision, config.model.device)?;
    let model_digest = model.source.digest()?;
    let materials = |here: &Environment| -> Result<Materials> {
        Ok(Materials {
            model_name: model.name.clone(),
            decoder: model.decoder.clone(),
            tokenizer: model.tokenizer.clone(),
            encoder: model.encoder(here.prompter.clone(), &here.ranker)?,
            retriever: here.ranker.retriever.clone(),
            catalog: dataset.catalog.clone(),
            train: here.train.clone(),
            dev: dev.clone(),
            model_digest: model_digest.clone(),
        })
    };
    let materials = environments.iter().map(materials).collect::<Result<Vec<_>>>()?;
    let mut watcher = Watcher::new(config.train.max_steps, goal(config, &environments, &materials)?);
    let outcome = Trainer::of_several(config, &materials, resume, &mut watcher)?.run(&mut watcher)?;
    let Some(split) = split else { return Ok((outcome, None)) };
    let compared = environments.iter().enumerate().map(|(number, here)| {
        let folder = config.folder_of(number);
        let Environment { config, ranker, tuned, .. } = here;
        let adapter = folder.join("best");
        let (dataset, model, cost) = (&dataset, &model, &outcome.cost);
        let run = Finished { config, folder, dataset, split, ranker, model, adapter, cost, tuned: tuned.clone() };
        run.compare(measures).context("training is done and saved, measuring failed")
    });
    let compared = compared.collect();
    Ok((outcome, Some(compared)))
}

/// What is learned, and from where: the mean of the development queries without the model.
fn goal(config: &TrainConfig, environments: &[Environment], materials: &[Materials]) -> Result<Goal> {
    let measure = config.reward.main_measure()?;
    let base_of = |here: &Environment| match &here.config.prompt.base {
        Some(base) if !base.is_raw() => "the tuned base",
        _ => "the raw query",
    };
    let mut means = Vec::with_capacity(materials.len());
    for (here, materials) in environments.iter().zip(materials) {
        let queries: Vec<(&Query, &Judgements)> = materials.dev.iter().map(|(query, j)| (query, j)).collect();
        let evaluation =
            Evaluation { catalog: &materials.catalog, queries: &queries, measures: &[measure], batch: queries.len() };
        let without = WithoutModel(here.prompter.clone());
        let found = evaluation.run(&without, materials.retriever.as_ref(), &())?.system;
        let mean = found.mean(measure).filter(|_| found.faults == 0);
        if let Some(mean) = mean {
            let on = match materials.retriever.card().name.as_str() {
                name if environments.len() > 1 => format!(" on {name}"),
                _ => String::new(),
            };
            let (count, base) = (queries.len(), base_of(here));
            tell!("learning to gain {measure} over {base}, which has {mean:.4} on {count} development queries{on}");
        }
        means.push(mean);
    }
    let on_dev = means.iter().copied().sum::<Option<f64>>().map(|sum| sum / means.len() as f64);
    let mut bases = environments.iter().map(base_of);
    let first = bases.next().unwrap_or("the raw query");
    let base = if bases.all(|other| other == first) { first } else { "the queries without the model" };
    Ok(Goal { measure, base, on_dev })
}

/// Prints what came of a run, then fails where a report could not be made or written.
pub fn report((outcome, compared): Trained, chosen: Option<&Chosen>, json: bool) -> Result<()> {
    let (compared, failed) = match compared.transpose() {
        Ok(compared) => (compared.unwrap_or_default(), None),
        Err(error) => (Vec::new(), Some(error)),
    };
    if json {
        let mut object = serde_json::json!({ "outcome": outcome });
        told(&mut object, compared.first());
        if compared.len() > 1 {
            let also = compared.iter().skip(1).map(|further| {
                let mut object = serde_json::json!({ "retriever": further.retriever });
                told(&mut object, Some(further));
                object
            });
            object["also"] = also.collect();
        }
        if let Some(chosen) = chosen {
            object["choices"] = serde_json::to_value(chosen.choices()?)?;
        }
        terminal::json(&object)?;
    } else {
        // The first sentence is what came of it.
        for here in &compared {
            if compared.len() > 1 {
                say!("{}", here.retriever);
            }
            measured(here)?;
        }
        say!(
            "{} steps in {:.0} s; best on the development queries: {:.4} after step {}",
            outcome.steps,
            outcome.seconds,
            outcome.best_dev,
            outcome.best_step
        );
        say!("adapter: {}", outcome.adapter.display());
        if compared.is_empty() {
            say!("cost: {}", outcome.cost.spent.sentence(&outcome.cost.prices));
        }
        for page in compared.iter().filter_map(|compared| compared.report.as_ref().ok()) {
            say!("report: {}", page.display());
        }
    }
    match (failed, compared.into_iter().find_map(|compared| compared.report.err())) {
        (Some(error), _) => Err(error),
        (None, Some(error)) => Err(error.into()),
        (None, None) => Ok(()),
    }
}

/// Puts what was measured into an object.
fn told(object: &mut serde_json::Value, compared: Option<&Compared>) {
    object["comparison"] = serde_json::json!(compared.map(|told| &told.comparison));
    object["shipped"] = serde_json::json!(compared.map(|told| &told.shipped));
    object["report"] = serde_json::json!(compared.and_then(|told| told.report.as_ref().ok()));
    object["changes"] = serde_json::json!(compared.and_then(|told| told.changes.as_ref()));
    object["headroom"] = serde_json::json!(compared.and_then(|told| told.headroom.as_ref()));
    object["probes"] = serde_json::json!(compared.map(|told| &told.probes));
    object["cost"] = serde_json::json!(compared.map(|told| &told.cost));
}

/// Prints what was measured: what is shipped and why, the table, and what changed.
fn measured(compared: &Compared) -> Result<()> {
    say!("{}", compared.shipped.sentence);
    say!("");
    terminal::lines(&compared.comparison.text())?;
    if let Some(changes) = &compared.changes {
        say!("");
        terminal::lines(&changes.text())?;
    }
    if let Some(headroom) = &compared.headroom {
        say!("");
        say!("{}", headroom.sentence());
    }
    say!("");
    terminal::lines(&compared.probes.text())?;
    say!("");
    terminal::lines(&compared.cost.text())?;
    say!("");
    Ok(())
}
