//! From what a user wrote to the thing itself: data sets, retrievers, models, rewriters.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use querywright::Error;
use querywright::catalog::{Catalog, Dataset, demo};
use querywright::encode::{DenseConfig, HybridFusion};
use querywright::evaluate::GivenRewrites;
use querywright::metrics::Measure;
use querywright::model::{Adapter, Decoder, Tokenizer};
use querywright::plugin::{Manifest, Plugin, PluginOptions};
use querywright::retrieve::{Bm25Config, Rm3, Rm3Config};
use querywright::rewrite::{Feedback, PromptConfig, PromptEncoder, Prompter, Resolver, RewriterFile};
use querywright::sources::{self, PullOptions};
use querywright::stack::Identity;
use querywright::train::{Labelled, RetrieverConfig};
use querywright::types::{RetrieverCard, Rewriter};

use crate::grant::{self, Grants};
use crate::progress::Spinner;
use crate::ranker::Ranker;
use crate::weights::Weights;
use crate::{baseline, bm25, candidates, connect, dense, followed, hybrid, prompts, remote, sequence};

/// A data set: `demo`, a registry name, `hf:owner/name` or a folder.
pub fn dataset(name: &str) -> Result<Dataset> {
    if name == demo::NAME {
        return Ok(demo::demo(demo::SEED)?);
    }
    let spinner = Spinner::new(format!("reading {name}"));
    let path = sources::data(name, &PullOptions { offline: false, observer: Some(&spinner) })?;
    let dataset = Dataset::open(&path)?;
    spinner.finish();
    Ok(dataset)
}

/// A retriever as the command line names it: `bm25`, with settings behind a colon, `dense` or `hybrid` with a model, a
/// plugin's file, `connect:` with the file of an engine elsewhere, or one of those that read histories alone. With a folder
/// the index is kept there and opened again. Behind each, `+covisitation` fuses its ranking with what followed the items of a
/// history in the training split. Where that or a hybrid has no weight, the one that `rewriter` was tuned with counts.
pub fn retriever(
    text: &str,
    rewriter: &str,
    dataset: &Dataset,
    index: Option<&Path>,
    grants: &Grants,
) -> Result<Ranker> {
    let (text, covisitation) = followed::asked(text)?;
    let file = || RewriterFile::at(rewriter).map(|path| RewriterFile::read(&path)).transpose();
    let ranker = match sequence::named(text)? {
        Some(named) => {
            grants.nobody()?;
            sequence::ranker(&named, dataset, index)?
        }
        None => text_retriever(text, &dataset.catalog, index, grants, &|fusion| {
            Ok(file()?.and_then(|file| hybrid::in_file(&file, fusion)))
        })?,
    };
    let weight = match covisitation {
        None => return Ok(ranker),
        Some(Some(weight)) => weight,
        Some(None) => file()?.and_then(|file| file.covisitation).unwrap_or(followed::DEFAULT),
    };
    ranker.with_covisitation(dataset, weight)
}

/// The weight that a hybrid was tuned to, by its way of fusing; none where there is none.
type TunedWeight<'a> = &'a dyn Fn(HybridFusion) -> Result<Option<f64>>;

/// As [`retriever`], for tuning on a split: what was learned from one of its queries does not answer it. A weight of
/// covisitation or of a hybrid that is not given is tuned, too.
pub fn retriever_to_learn_from(text: &str, dataset: &Dataset, split: &str, grants: &Grants) -> Result<Ranker> {
    let (text, covisitation) = followed::asked(text)?;
    sequence::refuse(text, "--retriever")?;
    let ranker = text_retriever(text, &dataset.catalog, None, grants, &|_| Ok(None))?;
    match covisitation {
        None => Ok(ranker),
        Some(given) => ranker.cross_fitted(dataset, split, given.unwrap_or(followed::DEFAULT), given.is_none()),
    }
}

fn text_retriever(
    text: &str,
    catalog: &Arc<Catalog>,
    index: Option<&Path>,
    grants: &Grants,
    tuned: TunedWeight<'_>,
) -> Result<Ranker> {
    if let Some(path) = component(text) {
        if let Some(folder) = index {
            let found = format!("a plugin keeps no index in {}", folder.display());
            return Err(Error::argument("--index", found, "leave it out: what is compiled is kept in the cache").into());
        }
        return plugin(path, catalog, grants.options()?);
    }
    grants.nobody()?;
    if let Some(file) = connect::named(text)? {
        if let Some(folder) = index {
            let found = format!("an engine elsewhere keeps no index in {}", folder.display());
            return Err(Error::argument("--index", found, "leave it out").into());
        }
        return connect::ranker(&file, catalog);
    }
    if let Some(mut config) = dense::named(text)? {
        if config.tune_hybrid {
            config.hybrid = tuned(config.fusion)?.or(config.hybrid);
        }
        return dense::ranker(&config, &Bm25Config::default(), catalog, index);
    }
    let index = bm25::index(catalog, bm25::named(text)?, index)?;
    Ok(Ranker::new(catalog.clone(), index.clone(), Some(index)))
}

/// The path of a component, where the name of a retriever is one.
fn component(text: &str) -> Option<&Path> {
    let path = Path::new(text);
    path.extension().is_some_and(|extension| extension == "wasm").then_some(path)
}

/// Sets in a configuration what ranks, as the command line names it. The settings of BM25 stand in the configuration.
pub fn set_retriever(text: &str, retriever: &mut RetrieverConfig) -> Result<()> {
    let (text, covisitation) = followed::asked(text)?;
    sequence::refuse(text, "--retriever")?;
    retriever.connect = connect::named(text)?;
    if retriever.connect.is_none() {
        (retriever.plugin, retriever.dense) = plugin_or_dense(text)?;
    }
    // An encoder is lent to a plugin.
    retriever.embed = retriever.embed.take().filter(|_| retriever.plugin.is_some());
    retriever.covisitation = covisitation.map(|given| given.unwrap_or(followed::DEFAULT));
    retriever.tune_covisitation = covisitation == Some(None);
    Ok(())
}

/// What `retriever.plugin` and `retriever.dense` are for a retriever as the command line names it, where a configuration
/// has the settings of BM25.
fn plugin_or_dense(text: &str) -> Result<(Option<PathBuf>, Option<DenseConfig>)> {
    if let Some(path) = component(text) {
        return Ok((Some(path.to_owned()), None));
    }
    match dense::named(text)? {
        None if text != "bm25" => {
            let remedy = "give bm25, whose settings stand in the configuration, dense or hybrid with a model behind a \
                          colon, connect with a file behind one, or the path of a plugin's .wasm file; for next items with \
                          +covisitation behind it";
            Err(Error::argument("--retriever", format!("\"{text}\" is unknown"), remedy).into())
        }
        config => Ok((None, config)),
    }
}

/// A plugin's file over a catalogue, with the `plugin.toml` beside it.
pub fn plugin(path: &Path, catalog: &Arc<Catalog>, mut options: PluginOptions) -> Result<Ranker> {
    // Compiling takes up to half a minute where a language brings its runtime along.
    options.cache = compiled(sources::cache_folder()?.join("plugins"));
    grant::warn(&options.grant, Manifest::beside(path)?.as_ref());
    let spinner = Spinner::new(format!("compiling {} and loading the catalogue", path.display()));
    let plugin = Plugin::open(path, catalog, options)?;
    spinner.finish();
    Ok(Ranker::new(catalog.clone(), Arc::new(plugin), None))
}

/// The folder of compiled plugins; none where it cannot be made. The host refuses one that is not private.
fn compiled(folder: PathBuf) -> Option<PathBuf> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(&folder).ok()?;
    Some(folder)
}

/// A rewriter as the command line names it: `identity`, `rm3`, a baseline (`zero-shot`, `few-shot`, `hyde`, `query2doc`,
/// `rerank`, with `:MODEL`), `file:` with rewrites, `remote:` with a server, MODEL, MODEL+ADAPTER_DIR, or a folder or file
/// that `tune` or `train` wrote.
pub fn rewriter(
    text: &str,
    ranker: &Ranker,
    prompt: Option<PromptConfig>,
    weights: &Weights,
) -> Result<Box<dyn Rewriter>> {
    match text {
        "identity" => return Ok(Box::new(Identity)),
        "rm3" => return Ok(Box::new(Rm3::new(ranker.index()?, Rm3Config::default())?)),
        _ => {}
    }
    if let Some(path) = text.strip_prefix("file:") {
        return Ok(Box::new(GivenRewrites::read(text, Path::new(path))?));
    }
    if let Some(config) = remote::at(text)? {
        return Ok(Box::new(remote::rewriter(config, ranker)?));
    }
    if let Some((name, prompt)) = baseline::at(text)? {
        prompts::prompter(&prompt, ranker)?;
        let model = weights.open(name)?;
        return Ok(Box::new(model.rewriter(text, &prompt, ranker, None)?));
    }
    if let Some(path) = RewriterFile::at(text) {
        return in_file(&path, ranker, weights);
    }
    let (name, adapter) = model_and_adapter(text);
    // The adapter is looked at first: it costs nothing, a model may have to be fetched.
    let run =
        adapter.as_ref().map(|folder| folder.join("best")).filter(|best| best.join("adapter_config.json").is_file());
    if let Some((folder, best)) =
        adapter.as_ref().zip(run).filter(|(folder, _)| !folder.join("adapter_config.json").is_file())
    {
        let found = format!("{} holds no adapter_config.json", folder.display());
        return Err(Error::argument("--rewriter", found, format!("it is a run: give {name}+{}", best.display())).into());
    }
    let best = Path::new(text).join("best");
    if adapter.is_none() && best.join("adapter_config.json").is_file() {
        let found = format!("{text} is the folder of a run");
        return Err(Error::argument("--rewriter", found, format!("give {}", best.display())).into());
    }
    adapter.as_deref().map_or(Ok(()), Adapter::find)?;
    let own = adapter.as_deref().map(PromptConfig::read).transpose()?.flatten();
    let prompt = prompt.or(own).unwrap_or_default();
    prompts::prompter(&prompt, ranker)?;
    let model = weights.open(name)?;
    Ok(Box::new(model.rewriter(text, &prompt, ranker, adapter.as_deref())?))
}

/// What a `rewriter.toml` serves.
fn in_file(path: &Path, ranker: &Ranker, weights: &Weights) -> Result<Box<dyn Rewriter>> {
    let file = RewriterFile::read(path)?;
    let card = ranker.retriever.card();
    if let Some(made_for) = file.retriever.as_ref().filter(|name| **name != card.name) {
        tell!("warning: {} was made for the retriever {made_for}, this is {}", path.display(), card.name);
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok(file.open(folder, &Here { ranker, weights })?)
}

/// What a rewriter's file names is a retriever's and a model's of this command.
struct Here<'a> {
    ranker: &'a Ranker,
    weights: &'a Weights,
}

impl Resolver for Here<'_> {
    fn card(&self) -> &RetrieverCard {
        self.ranker.retriever.card()
    }

    fn model(&self, name: &str) -> querywright::Result<(Arc<Decoder>, Tokenizer)> {
        let model = self.weights.open(name).map_err(own)?;
        Ok((model.decoder.clone(), model.tokenizer.clone()))
    }

    fn feedback(&self) -> querywright::Result<Feedback> {
        candidates::feedback(self.ranker).map_err(own)
    }

    fn prompter(&self, prompt: PromptConfig) -> querywright::Result<Prompter> {
        prompts::prompter(&prompt, self.ranker).map_err(own)
    }

    fn encoder(&self, prompter: Prompter, tokenizer: &Tokenizer) -> querywright::Result<Arc<PromptEncoder>> {
        prompts::encoder(prompter, tokenizer, self.ranker).map_err(own)
    }
}

/// The library's error, which is what all of these functions fail with.
pub fn own(error: anyhow::Error) -> Error {
    error.downcast().unwrap_or_else(|other| Error::bug("cli::open", format!("{other:#}")))
}

/// A path that exists is a path although it has a plus; else the plus that has an adapter, or at least a model, beside it.
fn model_and_adapter(text: &str) -> (&str, Option<PathBuf>) {
    if Path::new(text).exists() {
        return (text, None);
    }
    let splits = || text.match_indices('+').filter_map(|(at, _)| Some((text.get(..at)?, text.get(at + 1..)?)));
    let exists = |model: &str| Path::new(model).exists();
    let fits = |(model, folder): &(&str, &str)| {
        Path::new(folder).join("adapter_config.json").is_file() && (exists(model) || !model.contains('+'))
    };
    let chosen = splits().find(fits).or_else(|| splits().find(|(model, _)| exists(model))).or_else(|| splits().next());
    chosen.map_or((text, None), |(model, folder)| (model, Some(PathBuf::from(folder))))
}

/// The queries of a split with something relevant to find: for training. `key` names the split in the configuration.
pub fn labelled(dataset: &Dataset, key: &str, split: &str) -> Result<Vec<Labelled>> {
    let pairs = dataset.judged(split).map_err(|error| match error {
        Error::Argument { found, remedy, .. } => Error::argument(key, found, remedy),
        error => error,
    })?;
    let labelled: Vec<Labelled> =
        pairs.into_iter().filter(|(_, j)| j.findable() > 0).map(|(q, j)| (q.clone(), j.clone())).collect();
    if labelled.is_empty() {
        let found = format!("no query of the split \"{split}\" has a relevant document");
        return Err(Error::argument(key, found, "choose another split").into());
    }
    Ok(labelled)
}

/// Measures from a list with commas.
pub fn measures(text: &str) -> Result<Vec<Measure>> {
    let list = text.split(',').map(str::trim).filter(|m| !m.is_empty());
    let parsed = list.map(str::parse).collect::<querywright::Result<Vec<Measure>>>()?;
    if parsed.is_empty() {
        return Err(Error::argument("--measures", "the list is empty", "name at least one, as nDCG@10,R@100").into());
    }
    Ok(parsed)
}
