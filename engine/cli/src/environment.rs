//! The retrievers of a run, each with its base: what a query is in front of it without a model.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use querywright::Error;
use querywright::catalog::{Dataset, Output};
use querywright::plugin::{Metering, PluginOptions};
use querywright::rewrite::{BaseConfig, Prompter, RewriterFile, Serve};
use querywright::train::{Labelled, RetrieverConfig, TrainConfig, checkpoint, learnable};

use crate::grant::{self, Grants};
use crate::ranker::Ranker;
use crate::{bm25, connect, dense, followed, hybrid, open, prompts, tune};

/// One of the retrievers of a run, with what a query is in front of it without a model.
pub struct Environment {
    /// The configuration as if it were the only one.
    pub config: TrainConfig,
    pub ranker: Ranker,
    pub tuned: BaseConfig,
    pub prompter: Prompter,
    /// The queries that it teaches.
    pub train: Vec<Labelled>,
}

/// Those of a run; each base is tuned, read or given.
pub fn all(
    config: &TrainConfig,
    resume: bool,
    dataset: &Dataset,
    (train, dev): (&[Labelled], &[Labelled]),
    grants: &Grants,
) -> Result<Vec<Environment>> {
    let RetrieverConfig { also, .. } = &config.retriever;
    let first = RetrieverConfig { also: Vec::new(), ..config.retriever.clone() };
    let environment = |(number, retriever): (usize, &RetrieverConfig)| -> Result<Environment> {
        let mut config = TrainConfig { retriever: retriever.clone(), ..config.clone() };
        if number > 0 {
            config.prompt.base = config.retriever.base.take();
        }
        let ranker = ranker(&config, dataset, grants)?;
        let begun = resume && !checkpoint::list(&config.train.output_dir)?.is_empty();
        let folder = config.folder_of(number);
        let (tuned, ranker) = base(&mut config, (&folder, begun), dataset, (train, dev), ranker)?;
        // What was not tuned by now is not: a run that was begun before weights were resumes.
        config.retriever.dense.iter_mut().for_each(|dense| dense.tune_hybrid = false);
        let prompter = prompts::prompter(&config.prompt, &ranker)?;
        let train = learnable(train.to_vec(), &prompter)?;
        Ok(Environment { config, ranker, tuned, prompter, train })
    };
    [&first].into_iter().chain(also).enumerate().map(environment).collect()
}

/// The configuration of a run with what was tuned for each of its retrievers.
pub fn run_config(config: &TrainConfig, environments: &[Environment]) -> Result<TrainConfig> {
    let [first, also @ ..] = environments else {
        return Err(Error::bug("cli::train", "a run without a retriever").into());
    };
    let mut config = TrainConfig { prompt: first.config.prompt.clone(), ..config.clone() };
    config.retriever = first.config.retriever.clone();
    let further = |here: &Environment| {
        let Environment { config, .. } = here;
        RetrieverConfig { base: config.prompt.base.clone(), ..config.retriever.clone() }
    };
    config.retriever.also = also.iter().map(further).collect();
    Ok(config)
}

/// What gives the reward.
fn ranker(config: &TrainConfig, dataset: &Dataset, grants: &Grants) -> Result<Ranker> {
    let RetrieverConfig { plugin, connect, dense, .. } = &config.retriever;
    let ranker = match (plugin, connect, dense) {
        (Some(path), ..) => {
            let content = config.retriever.bm25.content.clone();
            let mut options = PluginOptions { metering: Metering::Fuel, content, ..grants.options()? };
            if let Some(encoder) = config.retriever.embed.as_ref().filter(|_| !options.grant.embed) {
                grant::lend(&mut options, encoder)?;
            }
            open::plugin(path, &dataset.catalog, options)?
        }
        (None, Some(file), _) => {
            grants.nobody()?;
            connect::ranker(file, &dataset.catalog)?
        }
        (None, None, Some(dense)) => {
            grants.nobody()?;
            dense::ranker(dense, &config.retriever.bm25, &dataset.catalog, None)?
        }
        (None, None, None) => {
            grants.nobody()?;
            let index = bm25::index(&dataset.catalog, config.retriever.bm25.clone(), None)?;
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
    (folder, begun): (&Path, bool),
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
            // The trainer, which would mark the run's folder as its own, begins later.
            checkpoint::mark(&config.train.output_dir, false)?;
            std::fs::create_dir_all(folder).map_err(|e| Error::write(folder, e))?;
            let ranker = weighed(config, ranker, &tuned.fusion_weights)?;
            let mut file = ranker.rewriter_file(Serve::Tuned);
            file.base = Some(tuned.base.clone());
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
