//! `train`: GRPO against a retriever.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result};
use querywright::Error;
use querywright::catalog::{Dataset, Output};
use querywright::evaluate::Evaluation;
use querywright::metrics::Measure;
use querywright::model::DeviceChoice;
use querywright::plugin::{Metering, PluginOptions};
use querywright::rewrite::{BaseConfig, Prompter, RewriterFile, Serve};
use querywright::train::{
    Chosen, Labelled, Materials, Outcome, RetrieverConfig, TrainConfig, Trainer, checkpoint, learnable,
};
use querywright::types::{Judgements, Query};

use crate::choose::{self, Wanted};
use crate::compare::{Compared, Finished};
use crate::grant::{self, Grants};
use crate::open::{self, Ranker};
use crate::progress::{Goal, Watcher};
use crate::ship::WithoutModel;
use crate::{dense, followed, hybrid, preset, remote, terminal, tune};

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
    let (outcome, compared) = train(&config, args.resume, read, split, &measures, &args.grants)?;
    report(&outcome, compared, chosen.as_ref(), args.json)
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

/// Trains and, where a split is given, measures. What came of training is told although measuring failed.
pub fn train(
    config: &TrainConfig,
    resume: bool,
    read: Read,
    split: Option<&str>,
    measures: &[Measure],
    grants: &Grants,
) -> Result<(Outcome, Option<Result<Compared>>)> {
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
    let ranker = ranker(config, &dataset, grants)?;
    let mut config = config.clone();
    let (tuned, ranker) = base(&mut config, resume, &dataset, (&train, &dev), ranker)?;
    // What was not tuned by now is not: a run that was begun before weights were resumes.
    config.retriever.dense.iter_mut().for_each(|dense| dense.tune_hybrid = false);
    let config = &config;
    let prompter = open::prompter(&config.prompt, &ranker)?;
    let train = learnable(train, &prompter)?;
    remote::prepare(config, resume, &ranker, &train)?;
    let model = open::model(&config.model.name, config.model.precision, config.model.device)?;
    let materials = Materials {
        model_name: model.name.clone(),
        decoder: model.decoder.clone(),
        tokenizer: model.tokenizer.clone(),
        encoder: model.encoder(prompter.clone(), &ranker)?,
        retriever: ranker.retriever.clone(),
        catalog: dataset.catalog.clone(),
        train,
        dev,
        model_digest: model.source.digest()?,
    };
    let mut watcher = Watcher::new(config.train.max_steps, goal(config, prompter, &materials)?);
    let outcome = Trainer::new(config, &materials, resume, &mut watcher)?.run(&mut watcher)?;
    let Some(split) = split else { return Ok((outcome, None)) };
    let (adapter, cost) = (outcome.adapter.as_path(), &outcome.cost);
    let finished = Finished { config, dataset: &dataset, split, ranker: &ranker, model: &model, adapter, cost, tuned };
    let compared = finished.compare(measures).context("training is done and saved, measuring failed");
    Ok((outcome, Some(compared)))
}

/// What is learned, and from where: the mean of the development queries without the model.
fn goal(config: &TrainConfig, prompter: Prompter, materials: &Materials) -> Result<Goal> {
    let measure = config.reward.main_measure()?;
    let base = match &config.prompt.base {
        Some(base) if !base.is_raw() => "the tuned base",
        _ => "the raw query",
    };
    let queries: Vec<(&Query, &Judgements)> = materials.dev.iter().map(|(query, j)| (query, j)).collect();
    let evaluation =
        Evaluation { catalog: &materials.catalog, queries: &queries, measures: &[measure], batch: queries.len() };
    let found = evaluation.run(&WithoutModel(prompter), materials.retriever.as_ref(), &())?.system;
    let on_dev = found.mean(measure).filter(|_| found.faults == 0);
    if let Some(mean) = on_dev {
        tell!("learning to gain {measure} over {base}, which has {mean:.4} on {} development queries", queries.len());
    }
    Ok(Goal { measure, base, on_dev })
}

/// What gives the reward.
fn ranker(config: &TrainConfig, dataset: &Dataset, grants: &Grants) -> Result<Ranker> {
    let ranker = match (&config.retriever.plugin, &config.retriever.dense) {
        (Some(path), _) => {
            let content = config.retriever.bm25.content.clone();
            let mut options = PluginOptions { metering: Metering::Fuel, content, ..grants.options()? };
            if let Some(encoder) = config.retriever.embed.as_ref().filter(|_| !options.grant.embed) {
                grant::lend(&mut options, encoder)?;
            }
            open::plugin(path, &dataset.catalog, options)?
        }
        (None, Some(dense)) => {
            grants.nobody()?;
            dense::ranker(dense, &config.retriever.bm25, &dataset.catalog, None)?
        }
        (None, None) => {
            grants.nobody()?;
            let index = open::bm25(&dataset.catalog, config.retriever.bm25.clone(), None)?;
            Ranker::new(dataset.catalog.clone(), index.clone(), Some(index))
        }
    };
    // What was learned from a training query must not answer it, neither while tuning nor for a reward.
    match config.retriever.covisitation {
        Some(weight) => ranker.cross_fitted(dataset, &config.data.train, weight, config.retriever.tune_covisitation),
        None => Ok(ranker),
    }
}

/// The base that a run stands on: what its configuration says, what it was begun with, or what tuning finds, with what
/// ranks by the weight that was found. What the model writes is added to the base, but in the mode `rewrite`.
fn base(
    config: &mut TrainConfig,
    resume: bool,
    dataset: &Dataset,
    (train, dev): (&[Labelled], &[Labelled]),
    ranker: Ranker,
) -> Result<(BaseConfig, Ranker)> {
    if let Some(base) = &config.prompt.base {
        return Ok((base.clone(), ranker));
    }
    if !config.train.tune {
        return Ok((BaseConfig::default(), ranker));
    }
    let folder = config.train.output_dir.clone();
    let begun = resume && !checkpoint::list(&folder)?.is_empty();
    let (found, ranker) = match RewriterFile::at(&folder.join(BASE).display().to_string()) {
        Some(path) if begun => {
            let file = RewriterFile::read(&path)?;
            let hybrid = config.retriever.dense.as_ref().and_then(|dense| hybrid::in_file(&file, dense.fusion));
            let found = [(followed::KEY, file.covisitation), (hybrid::KEY, hybrid)];
            let found = found.into_iter().filter_map(|(key, weight)| Some((key.to_owned(), weight?))).collect();
            (file.base.unwrap_or_default(), weighed(config, ranker, &found)?)
        }
        // It was begun without a base.
        None if begun => return Ok((BaseConfig::default(), ranker)),
        _ => {
            let measure = config.reward.main_measure()?;
            let tuned = match tune::tune(dataset, (train, dev), &ranker, measure) {
                Ok(tuned) => tuned,
                // Training outlasts faults of the retriever, one request at a time; a search over means cannot.
                Err(error) if error.downcast_ref::<Error>().is_some_and(Error::is_fault) => {
                    tell!("warning: the base is not tuned: {error}");
                    return Ok((BaseConfig::default(), ranker));
                }
                Err(error) => return Err(error),
            };
            tell!("{}", tune::summary(&tuned, measure));
            std::fs::create_dir_all(&folder).map_err(|e| Error::write(&folder, e))?;
            let ranker = weighed(config, ranker, &tuned.fusion_weights)?;
            let file = RewriterFile { base: Some(tuned.base.clone()), ..ranker.rewriter_file(Serve::Tuned) };
            file.write(Output::open(folder.join(BASE))?)?;
            (tuned.base, ranker)
        }
    };
    if config.prompt.mode.keeps_query() && !found.is_raw() {
        config.prompt.base = Some(found.clone());
    }
    Ok((found, ranker))
}

/// What ranks by the weights that were tuned, which then stand in the configuration. Those that were not to be tuned stay.
fn weighed(config: &mut TrainConfig, ranker: Ranker, found: &BTreeMap<String, f64>) -> Result<Ranker> {
    let RetrieverConfig { covisitation, tune_covisitation, dense, .. } = &mut config.retriever;
    let mut tuned = BTreeMap::new();
    let mut take = |key: &str, weight: &mut Option<f64>, tune: &mut bool| {
        if let Some(found) = found.get(key).filter(|_| *tune) {
            (*weight, *tune) = (Some(*found), false);
            tuned.insert(key.to_owned(), *found);
        }
    };
    take(followed::KEY, covisitation, tune_covisitation);
    if let Some(dense) = dense {
        take(hybrid::KEY, &mut dense.hybrid, &mut dense.tune_hybrid);
    }
    Ok(ranker.with_weights(&tuned)?)
}

/// What tuning found, in the run's folder.
const BASE: &str = "tuned.toml";

/// Prints what came of a run, then fails where the report could not be made or written.
pub fn report(
    outcome: &Outcome,
    compared: Option<Result<Compared>>,
    chosen: Option<&Chosen>,
    json: bool,
) -> Result<()> {
    let (compared, failed) = match compared.transpose() {
        Ok(compared) => (compared, None),
        Err(error) => (None, Some(error)),
    };
    let page = compared.as_ref().and_then(|compared| compared.report.as_ref().ok());
    if json {
        let told = compared.as_ref();
        let mut object = serde_json::json!({
            "outcome": outcome,
            "comparison": told.map(|told| &told.comparison),
            "shipped": told.map(|told| &told.shipped),
            "report": page,
            "changes": told.and_then(|told| told.changes.as_ref()),
            "headroom": told.and_then(|told| told.headroom.as_ref()),
            "probes": told.map(|told| &told.probes),
            "cost": told.map(|told| &told.cost),
        });
        if let Some(chosen) = chosen {
            object["choices"] = serde_json::to_value(chosen.choices()?)?;
        }
        terminal::json(&object)?;
    } else {
        // The first sentence is what came of it.
        compared.as_ref().map_or(Ok(()), measured)?;
        say!(
            "{} steps in {:.0} s; best on the development queries: {:.4} after step {}",
            outcome.steps,
            outcome.seconds,
            outcome.best_dev,
            outcome.best_step
        );
        say!("adapter: {}", outcome.adapter.display());
        if compared.is_none() {
            say!("cost: {}", outcome.cost.spent.sentence(&outcome.cost.prices));
        }
        if let Some(page) = page {
            say!("report: {}", page.display());
        }
    }
    match (failed, compared.map(|compared| compared.report)) {
        (Some(error), _) => Err(error),
        (None, Some(Err(error))) => Err(error.into()),
        (None, _) => Ok(()),
    }
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
