//! What a server serves.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use querywright_stack::Stack;
use querywright_types::{Error, Result, printable};

use crate::admission::Admission;
use crate::config::ServerConfig;
use crate::engine::Engine;
use crate::error::ApiError;
use crate::keys::Keys;
use crate::metrics::Metrics;
use crate::traces::Traces;

#[cfg(feature = "dense")]
use querywright_encode::Encoder;
#[cfg(feature = "model")]
use querywright_model::Batcher;

/// What a [`Loader`] makes of an adapter.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Loaded {
    /// A stack with it as the rewriter.
    pub stack: Option<Stack>,
    /// A model for OpenAI's endpoints.
    #[cfg(feature = "model")]
    pub model: Option<Arc<Batcher>>,
}

impl Loaded {
    /// A stack that has the adapter as its rewriter.
    pub fn new(stack: Stack) -> Self {
        Self { stack: Some(stack), ..Self::default() }
    }

    /// Beside it a model, under the adapter's name.
    #[cfg(feature = "model")]
    pub fn with_model(self, model: Arc<Batcher>) -> Self {
        Self { model: Some(model), ..self }
    }
}

/// Opens what is asked for while the server runs. It may take long: it runs aside, and what is there serves on.
pub trait Loader: Send + Sync {
    /// An adapter for an engine, under the path that a caller names. The path is a stranger's: where it may lie is the
    /// loader's to say.
    ///
    /// # Errors
    /// [`Error::Argument`] for a path that is not allowed or holds no adapter.
    fn adapter(&self, engine: &str, name: &str, path: &str) -> Result<Loaded>;

    /// An engine from its files as they are now: its documents, its index or plugin, and its rewriters; and beside it the
    /// adapters that were loaded since, by name and path, for the new engine. Either all of it or nothing counts.
    ///
    /// # Errors
    /// What its files cannot be used for.
    fn engine(&self, name: &str, adapters: &[(String, String)]) -> Result<(Engine, Vec<Loaded>)>;

    /// An engine with documents added and deleted, as [`engine`](Self::engine) opens one. `change` is a line of JSON with
    /// `add`, a list of documents, and `delete`, a list of ids. What this gives back is kept: an engine that is opened later
    /// has it, too. Default: documents cannot be changed.
    ///
    /// # Errors
    /// [`Error::Argument`] or [`Error::Data`] for what is no change; nothing of it is kept then.
    fn documents(&self, name: &str, change: &str, adapters: &[(String, String)]) -> Result<(Engine, Vec<Loaded>)> {
        let _ = (change, adapters);
        let found = format!("the documents of {name:?} cannot be changed here");
        Err(Error::argument("documents", found, "change its files and reload it"))
    }
}

/// What a server serves: engines, models and encoders under their names. Built once, and then shared by all requests.
pub struct Service {
    pub(crate) config: ServerConfig,
    pub(crate) keys: Option<Keys>,
    pub(crate) admission: Admission,
    #[cfg(any(feature = "model", feature = "dense"))]
    pub(crate) quota: crate::quota::Quota,
    pub(crate) metrics: Metrics,
    pub(crate) traces: Traces,
    pub(crate) loader: Option<Box<dyn Loader>>,
    /// The first one is the default.
    engines: RwLock<Vec<Arc<Engine>>>,
    /// Held while what is served changes: one change at a time.
    pub(crate) changing: tokio::sync::Mutex<()>,
    /// Paths of the adapters that were loaded while it runs, by engine and name.
    loaded: Mutex<BTreeMap<(String, String), String>>,
    #[cfg(feature = "model")]
    models: RwLock<BTreeMap<String, Arc<Batcher>>>,
    #[cfg(feature = "dense")]
    encoders: BTreeMap<String, Arc<Encoder>>,
    stopping: AtomicBool,
    /// When it was made, in seconds since 1970.
    pub(crate) started: u64,
    log: Box<dyn Fn(&str) + Send + Sync>,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service")
            .field("config", &self.config)
            .field("engines", &self.engines())
            .finish_non_exhaustive()
    }
}

impl Service {
    /// A service of nothing yet. A file of keys is read now.
    ///
    /// # Errors
    /// Those of [`ServerConfig::validate`] and [`Keys::read`]; [`Error::Argument`] when the address is not the machine's own
    /// and there are no keys.
    pub fn new(config: ServerConfig) -> Result<Self> {
        config.validate()?;
        let keys = config.keys.as_deref().map(Keys::read).transpose()?;
        if keys.is_none() && !config.listen.ip().is_loopback() {
            let found = format!("{} can be reached from elsewhere, and there are no keys", config.listen);
            return Err(Error::argument("listen", found, "set keys to a file of them, or listen on 127.0.0.1"));
        }
        Ok(Self {
            admission: Admission::new(&config.limits),
            #[cfg(any(feature = "model", feature = "dense"))]
            quota: crate::quota::Quota::new(config.limits.tokens_per_minute),
            config,
            keys,
            metrics: Metrics::default(),
            traces: Traces::default(),
            loader: None,
            engines: RwLock::default(),
            changing: tokio::sync::Mutex::default(),
            loaded: Mutex::default(),
            #[cfg(feature = "model")]
            models: RwLock::default(),
            #[cfg(feature = "dense")]
            encoders: BTreeMap::new(),
            stopping: AtomicBool::new(false),
            started: crate::events::now(),
            log: Box::new(|line| eprintln!("{}", printable(line))),
        })
    }

    /// Adds an engine; the first one answers where a request names none. One of the same name is replaced.
    pub fn engine(self, engine: Engine) -> Self {
        self.set_engine(engine);
        self
    }

    /// Adds a model for OpenAI's endpoints.
    #[cfg(feature = "model")]
    pub fn model(self, name: impl Into<String>, model: Arc<Batcher>) -> Self {
        self.set_model(name.into(), Some(model));
        self
    }

    /// Adds an encoder for `/v1/embeddings`.
    #[cfg(feature = "dense")]
    pub fn encoder(mut self, name: impl Into<String>, encoder: Arc<Encoder>) -> Self {
        self.encoders.insert(name.into(), encoder);
        self
    }

    /// Sets what opens adapters and engines while the server runs. Default: nothing does.
    pub fn loader(mut self, loader: impl Loader + 'static) -> Self {
        self.loader = Some(Box::new(loader));
        self
    }

    /// Sets where spans of requests go. Default: nowhere.
    #[cfg(feature = "otel")]
    pub fn traces(mut self, traces: Traces) -> Self {
        self.traces = traces;
        self
    }

    /// Sets where the log goes, a line at a time. Lines may quote what others wrote, characters that a terminal would obey
    /// included. Default: standard error, [printable].
    pub fn log_to(mut self, log: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.log = Box::new(log);
        self
    }

    /// All engines, the default first.
    pub fn engines(&self) -> Vec<Arc<Engine>> {
        self.engines.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The engine of a name, or the default.
    pub(crate) fn find_engine(&self, name: Option<&str>) -> Result<Arc<Engine>, ApiError> {
        let engines = self.engines();
        let found = match name {
            None => engines.first(),
            Some(name) => engines.iter().find(|engine| engine.name() == name),
        };
        found.cloned().ok_or_else(|| match name {
            Some(name) => ApiError::unknown("engine", name, "GET /v1/engines lists them"),
            None => ApiError::unknown("engine", "", "this server searches nothing"),
        })
    }

    /// Puts an engine in the place of the one of its name, or behind the others. Requests under way end with the old one.
    pub(crate) fn set_engine(&self, engine: Engine) {
        let (mut engines, engine) = (self.engines.write().unwrap_or_else(PoisonError::into_inner), Arc::new(engine));
        match engines.iter_mut().find(|other| other.name() == engine.name()) {
            Some(place) => *place = engine,
            None => engines.push(engine),
        }
    }

    /// Remembers the path of an adapter that was loaded, or forgets it.
    pub(crate) fn remember(&self, engine: &str, name: &str, path: Option<&str>) {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (engine.to_owned(), name.to_owned());
        match path {
            Some(path) => loaded.insert(key, path.to_owned()),
            None => loaded.remove(&key),
        };
    }

    /// The names and paths of the adapters that were loaded for an engine.
    pub(crate) fn remembered(&self, engine: &str) -> Vec<(String, String)> {
        let loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let of_engine = loaded.iter().filter(|((of, _), _)| of == engine);
        of_engine.map(|((_, name), path)| (name.clone(), path.clone())).collect()
    }

    #[cfg(feature = "model")]
    pub(crate) fn models(&self) -> BTreeMap<String, Arc<Batcher>> {
        self.models.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts a model in or takes it out; tells whether there was one.
    #[cfg(feature = "model")]
    pub(crate) fn set_model(&self, name: String, model: Option<Arc<Batcher>>) -> bool {
        let mut models = self.models.write().unwrap_or_else(PoisonError::into_inner);
        match model {
            Some(model) => models.insert(name, model).is_some(),
            None => models.remove(&name).is_some(),
        }
    }

    #[cfg(feature = "dense")]
    pub(crate) fn encoders(&self) -> &BTreeMap<String, Arc<Encoder>> {
        &self.encoders
    }

    pub(crate) fn log(&self, line: &str) {
        (self.log)(line);
    }

    /// From now on the server says that it is not ready.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_ready(&self) -> bool {
        !self.stopping.load(Ordering::Relaxed)
    }
}
