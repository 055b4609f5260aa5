//! Opens what a configuration names, when the server starts and while it runs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use querywright::catalog::DocumentChanges;
use querywright::model::{Adapter, Batcher};
use querywright::rewrite::RewriterFile;
use querywright::serve::{Engine, Loaded, Loader, Service};
use querywright::stack::Stack;
use querywright::types::{Deadline, Load, Query, Retriever, Rewrite, Rewriter};
use querywright::{Error, Result};

use super::file::{EngineConfig, ServeFile};
use super::journal::Journal;
use crate::history::Histories;
use crate::ranker::Ranker;
use crate::weights::Weights;
use crate::{connect, dense, open};

/// What a configuration names, and what of it was opened.
pub struct Opener {
    file: ServeFile,
    weights: Weights,
    /// The folder of adapters, without links.
    adapters: Option<PathBuf>,
    rankers: Mutex<BTreeMap<String, Ranker>>,
    /// By engine. Held while one is opened with changes, so that they are written in the order in which they were made.
    journals: BTreeMap<String, Mutex<Journal>>,
}

impl Opener {
    pub fn new(file: ServeFile, weights: Weights) -> Result<Self> {
        let adapters = file.adapters.as_deref().map(|path| path.canonicalize().map_err(|e| Error::read(path, e)));
        let mut journals = BTreeMap::new();
        for (config, path) in file.engines.iter().filter_map(|config| Some((config, config.changes.as_deref()?))) {
            journals.insert(config.name.clone(), Mutex::new(Journal::open(path)?));
        }
        Ok(Self { adapters: adapters.transpose()?, file, weights, rankers: Mutex::default(), journals })
    }

    /// Opens everything.
    pub fn fill(self, mut service: Service) -> anyhow::Result<Service> {
        for config in &self.file.engines {
            let changes = self.journal(&config.name).map(|journal| journal.changes().clone());
            let (engine, ranker) = self.open(config, &changes.unwrap_or_default())?;
            self.rankers().insert(config.name.clone(), ranker);
            service = service.engine(engine);
        }
        for config in &self.file.models {
            let model = self.weights.open(&config.model)?;
            let adapter =
                config.adapter.as_deref().map(|path| Adapter::load(path, model.decoder.config())).transpose()?;
            let batcher = Batcher::new(model.decoder.clone(), model.tokenizer.clone(), adapter);
            service = service.model(config.name.as_str(), Arc::new(batcher));
        }
        for config in &self.file.encoders {
            service =
                service.encoder(config.name.as_str(), Arc::new(dense::encoder(&config.model, &Default::default())?));
        }
        Ok(if self.file.engines.is_empty() { service } else { service.loader(self) })
    }

    fn open(&self, config: &EngineConfig, changes: &DocumentChanges) -> anyhow::Result<(Engine, Ranker)> {
        let mut dataset = crate::dataset::open(&config.data, false)?;
        if !changes.is_empty() {
            dataset = dataset.with_changes(changes)?;
        }
        let rewriter = config.rewriters.first().map_or("identity", |first| first.rewriter.as_str());
        let ranker = open::retriever(&config.retriever, rewriter, &dataset, config.index.as_deref(), &config.grants)?;
        let ranker = if connect::named(&config.retriever)?.is_some() { connect::guarded(ranker) } else { ranker };
        let histories = Histories::of(&dataset);
        let catalog = ranker.catalog.clone();
        let mut engine = Engine::new(config.name.as_str(), self.stack(config, &ranker, Vec::new())?)
            .queries(move |text, history| histories.query(text, history))
            .ordinals(move |id| catalog.ordinal(id));
        if let Some(index) = ranker.bm25.clone().filter(|index| index.card().name == ranker.retriever.card().name) {
            let catalog = ranker.catalog.clone();
            engine = engine.explanations(move |request, id| {
                let document = catalog.ordinal(id);
                let document = document.ok_or_else(|| Error::bug("cli::serve", "a hit that the catalogue lacks"))?;
                let explanation = index.explain(request, document)?;
                serde_json::to_value(&explanation).map_err(|e| Error::bug("cli::serve", e.to_string()))
            });
        }
        let mut rewriters: BTreeMap<&str, Arc<dyn Rewriter>> = BTreeMap::new();
        for named in &config.rewriters {
            let rewriter = open::rewriter(&named.rewriter, &ranker, None, &self.weights)?;
            rewriters.insert(&named.name, Arc::new(Named(named.name.clone(), rewriter)));
        }
        for named in &config.rewriters {
            let asked = [&named.name].into_iter().chain(&named.also);
            let asked = asked.filter_map(|name| rewriters.get(name.as_str()).cloned()).collect();
            engine = engine.rewriter(named.name.as_str(), self.stack(config, &ranker, asked)?);
        }
        Ok((engine, ranker))
    }

    /// A stack whose rewriters are asked at once.
    fn stack(&self, config: &EngineConfig, ranker: &Ranker, rewriters: Vec<Arc<dyn Rewriter>>) -> Result<Stack> {
        let mut builder = Stack::builder()
            .catalog(ranker.catalog.clone())
            .retriever(ranker.retriever.clone())
            .deadline(Duration::from_millis(self.file.server.deadline_ms))
            .fuse_original(config.fuse_original)
            .cache(config.cache);
        if let Some(seconds) = config.cache_seconds {
            builder = builder.cache_time(Duration::from_secs(seconds));
        }
        for (place, rewriter) in rewriters.into_iter().enumerate() {
            rewriter.warm_up()?;
            builder = if place == 0 { builder.rewriter(rewriter) } else { builder.also(rewriter) };
        }
        builder.build()
    }

    fn config(&self, engine: &str) -> Result<&EngineConfig> {
        let found = self.file.engines.iter().find(|config| config.name == engine);
        found.ok_or_else(|| {
            Error::argument("engine", format!("there is no {engine:?}"), "name one of the configuration")
        })
    }

    /// The folder that a caller names, where it lies in the folder of adapters.
    fn adapter_folder(&self, path: &str) -> Result<PathBuf> {
        let refused = |found: &str, remedy: &str| Error::argument("lora_path", format!("{path:?} {found}"), remedy);
        let Some(allowed) = &self.adapters else {
            let remedy = "set `adapters` in the configuration to the folder whose adapters may be loaded";
            return Err(refused("cannot be loaded", remedy));
        };
        let inside = "name a folder in the configuration's `adapters`, from there on";
        let folder = allowed.join(path).canonicalize().map_err(|_| refused("is no folder there", inside))?;
        match folder.starts_with(allowed) && folder.is_dir() {
            true => Ok(folder),
            false => Err(refused("lies outside", inside)),
        }
    }
}

impl Loader for Opener {
    fn adapter(&self, engine: &str, _: &str, path: &str) -> Result<Loaded> {
        let ranker = self.rankers().get(engine).cloned();
        let ranker = ranker.ok_or_else(|| Error::bug("cli::serve", "an engine without what ranks"))?;
        self.load(self.config(engine)?, &ranker, path)
    }

    fn engine(&self, name: &str, adapters: &[(String, String)]) -> Result<(Engine, Vec<Loaded>)> {
        let config = self.config(name)?;
        let journal = self.journal(name);
        let changes = journal.as_ref().map(|journal| journal.changes().clone()).unwrap_or_default();
        let (engine, ranker, loaded) = self.open_with(config, &changes, adapters)?;
        self.rankers().insert(name.to_owned(), ranker);
        Ok((engine, loaded))
    }

    fn documents(&self, name: &str, change: &str, adapters: &[(String, String)]) -> Result<(Engine, Vec<Loaded>)> {
        let config = self.config(name)?;
        let Some(mut journal) = self.journal(name) else {
            let found = format!("the documents of {name:?} cannot be changed");
            return Err(Error::argument("documents", found, "set `changes` in its [[engine]] to a file for them"));
        };
        let mut changes = journal.changes().clone();
        changes.push(change)?;
        // Kept once it is known that an engine can be made of it, and before anybody is told.
        let (engine, ranker, loaded) = self.open_with(config, &changes, adapters)?;
        journal.append(change, changes)?;
        self.rankers().insert(name.to_owned(), ranker);
        Ok((engine, loaded))
    }
}

impl Opener {
    fn journal(&self, engine: &str) -> Option<MutexGuard<'_, Journal>> {
        self.journals.get(engine).map(|journal| journal.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// An engine, what ranks there, and adapters in front of it.
    fn open_with(
        &self,
        config: &EngineConfig,
        changes: &DocumentChanges,
        adapters: &[(String, String)],
    ) -> Result<(Engine, Ranker, Vec<Loaded>)> {
        let (engine, ranker) = self.open(config, changes).map_err(open::own)?;
        let loaded = adapters.iter().map(|(_, path)| self.load(config, &ranker, path)).collect::<Result<_>>()?;
        Ok((engine, ranker, loaded))
    }

    fn rankers(&self) -> MutexGuard<'_, BTreeMap<String, Ranker>> {
        self.rankers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An adapter in front of what ranks.
    fn load(&self, config: &EngineConfig, ranker: &Ranker, path: &str) -> Result<Loaded> {
        let folder = self.adapter_folder(path)?;
        let settings =
            RewriterFile::at(&folder.to_string_lossy()).map(|file| RewriterFile::settings(&file)).transpose()?;
        // Without a file that names its model an adapter is the first model's of the configuration.
        let base = settings
            .as_ref()
            .and_then(|file| file.model.clone())
            .or_else(|| self.file.models.first().map(|m| m.model.clone()));
        let text = match (&settings, &base) {
            (Some(_), _) => folder.display().to_string(),
            (None, Some(base)) => format!("{base}+{}", folder.display()),
            (None, None) => {
                let found = format!("{path:?} has no {}, and the configuration no [[model]]", RewriterFile::NAME);
                return Err(Error::argument(
                    "lora_path",
                    found,
                    "give a folder that training wrote, or name its model",
                ));
            }
        };
        let own = |error: anyhow::Error| open::own(error);
        let rewriter = open::rewriter(&text, ranker, None, &self.weights).map_err(own)?;
        let loaded = Loaded::new(self.stack(config, ranker, vec![Arc::from(rewriter)])?);
        match base.filter(|_| is_adapter(&folder)) {
            None => Ok(loaded),
            Some(base) => {
                let model = self.weights.open(&base).map_err(own)?;
                let adapter = Adapter::load(&folder, model.decoder.config())?;
                let batcher = Batcher::new(model.decoder.clone(), model.tokenizer.clone(), Some(adapter));
                Ok(loaded.with_model(Arc::new(batcher)))
            }
        }
    }
}

/// A rewriter under the name that it has here: its own may be a path.
struct Named(String, Box<dyn Rewriter>);

impl Rewriter for Named {
    fn name(&self) -> &str {
        &self.0
    }

    fn rewrite(&self, queries: &[Query], deadline: Deadline) -> Vec<Result<Rewrite>> {
        self.1.rewrite(queries, deadline)
    }

    fn warm_up(&self) -> Result<()> {
        self.1.warm_up()
    }

    fn load(&self) -> Option<Load> {
        self.1.load()
    }
}

fn is_adapter(folder: &Path) -> bool {
    folder.join("adapter_config.json").is_file()
}
