//! Plugins as retrievers: loaded once, served from a pool of instances.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rayon::prelude::*;
use wasmtime::component::Component;
use wasmtime::{Engine, Store};

use super::answer;
use super::cache::{self, Cache};
use super::check::Measured;
use super::contract::{Plugin as World, PluginPre};
use super::inspect::Inspection;
use super::interfaces::State;
use super::prepare::{self, Preparation};
use super::runtime::{self, Allowance, Metering};
use super::{Capabilities, Grant, Manifest, Services, Wanted, refusal};
use crate::catalog::Catalog;
use crate::error::{Error, Fault, FaultKind, Result};
use crate::types::{QueryLanguage, Ranking, Request, Retriever, RetrieverCard};

/// How long an instance serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reuse {
    /// One request: nothing that a request leaves behind is seen by another one.
    EachSearch,
    /// So many calls.
    Searches(u32),
    /// Until it fails: the fastest.
    #[default]
    UntilFault,
}

/// How a plugin is loaded and served.
#[derive(Clone, Default)]
pub struct PluginOptions {
    /// What it asks for and which bytes it is; without one it is granted nothing, within the grant's limits.
    pub manifest: Option<Manifest>,
    /// What the embedder lets it have.
    pub grant: Grant,
    /// What stands behind the host interfaces.
    pub services: Services,
    /// How calls are bounded.
    pub metering: Metering,
    /// How long an instance serves. With [`Metering::Fuel`] always one request.
    pub reuse: Reuse,
    /// Where compiled plugins are kept: a folder that nobody else can write to. None: compiled anew each time. Not used
    /// for plugins that were granted a host interface, whose memory depends on more than the digests say.
    pub cache: Option<PathBuf>,
    /// What the catalogue holds, in a few words for the rewriter's prompt. Empty: "documents".
    pub content: String,
}

/// A plugin that has loaded a catalogue. Searching takes `&self` from any number of threads.
///
/// A fault concerns one request alone; the instance that it happened in is thrown away, and the next request finds a
/// fresh one.
pub struct Plugin {
    id: Arc<str>,
    capabilities: Arc<Capabilities>,
    services: Arc<Services>,
    metering: Metering,
    reuse: Reuse,
    engine: Engine,
    instances: PluginPre<State>,
    idle: Mutex<Vec<Running>>,
    busy: Slots,
    documents: usize,
    card: RetrieverCard,
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plugin").field("id", &self.id).field("card", &self.card).finish_non_exhaustive()
    }
}

/// An instance and how many calls it has served.
struct Running {
    store: Store<State>,
    world: World,
    served: u32,
}

impl Plugin {
    /// Reads a component file and loads it; a `plugin.toml` beside it is its manifest, unless the options have one.
    ///
    /// # Errors
    /// Those of [`from_bytes`](Self::from_bytes), and a file that cannot be read.
    pub fn open(path: &Path, catalog: &Catalog, mut options: PluginOptions) -> Result<Self> {
        let limit = options.grant.limits.component_mib;
        let size = std::fs::metadata(path).map_err(|e| Error::read(path, e))?.len();
        let name = path.file_stem().map_or_else(|| "plugin".into(), |stem| stem.to_string_lossy().into_owned());
        check_size(&name, size, limit)?;
        let bytes = std::fs::read(path).map_err(|e| Error::read(path, e))?;
        let beside = path.with_file_name("plugin.toml");
        if options.manifest.is_none() && beside.is_file() {
            options.manifest = Some(Manifest::read(&beside)?);
        }
        Self::from_bytes(&name, &bytes, catalog, options, &|_, _| {})
    }

    /// Loads a component: checks it, lets it load the catalogue and commit, takes a snapshot of its memory, compiles that
    /// and makes it ready to serve. `name` stands in errors where no manifest gives an id; `progress` is told how many
    /// documents of how many were loaded.
    ///
    /// # Errors
    /// [`Error::Plugin`] where the bytes are not what the manifest pins, are no component of this contract, do not
    /// compile, or fail to load within the limits. Nothing of it runs afterwards.
    pub fn from_bytes(
        name: &str,
        bytes: &[u8],
        catalog: &Catalog,
        options: PluginOptions,
        progress: &(dyn Fn(usize, usize) + Sync),
    ) -> Result<Self> {
        let PluginOptions { manifest, grant, services, metering, reuse, cache, content } = options;
        grant.limits.validate()?;
        let id: Arc<str> = manifest.as_ref().map_or(name, |m| m.id.as_str()).into();
        check_size(&id, bytes.len() as u64, grant.limits.component_mib)?;
        if let Some(manifest) = &manifest {
            manifest.verify(bytes)?;
        }
        let capabilities = Arc::new(match &manifest {
            Some(manifest) => manifest.grant(&grant),
            None => Wanted::default().granted(&grant.limits, &grant),
        });
        let inspection = Inspection::of(&id, bytes)?;
        inspection.check(&id)?;
        let limits = capabilities.limits;
        let services = Arc::new(services);
        let unusable =
            |e: wasmtime::Error| refusal(&id, format!("{e:#}"), "lower limits.instances, or use fewer memories");
        let engine = runtime::serving(metering, &limits, &inspection).map_err(unusable)?;
        let preparation =
            Preparation { id: &id, catalog, capabilities: &capabilities, services: &services, metering, progress };
        // With host interfaces the memory depends on what they answered.
        let alone = !capabilities.any();
        let cache = cache.filter(|_| alone).map(|folder| Cache::open(&folder)).transpose()?;
        let key = key(&engine, &inspection.sha256, catalog, &capabilities);
        let compiled = match cache.as_ref().and_then(|cache| cache.get(&key)) {
            Some(compiled) => compiled,
            None => {
                let snapshot = preparation.snapshot(bytes)?;
                let compiler = engine.clone();
                let compiled =
                    prepare::within(&id, limits.compile_ms, move || compiler.precompile_component(&snapshot))?;
                if let Some(cache) = &cache {
                    cache.put(&key, &compiled);
                }
                compiled
            }
        };
        // SAFETY: these bytes were compiled by this very engine, in this process or in one that wrote them to the cache
        // under the digest of component, catalogue, engine and limits. The cache is a folder that only this user can
        // write to, and the bytes in memory are those whose digest was checked.
        let component = unsafe { Component::deserialize(&engine, &compiled) }.map_err(unusable)?;
        let linked = prepare::linker(&engine, &component).and_then(|linker| linker.instantiate_pre(&component));
        let instances = linked.and_then(PluginPre::new).map_err(|e| {
            refusal(&id, format!("{e:#}"), "build it against the version of the contract that this host speaks")
        })?;
        let mut plugin = Self {
            id: id.clone(),
            capabilities,
            services,
            metering,
            reuse: if metering == Metering::Fuel { Reuse::EachSearch } else { reuse },
            engine,
            instances,
            idle: Mutex::new(Vec::new()),
            busy: Slots::new(limits.instances),
            documents: catalog.len(),
            card: RetrieverCard {
                name: id.to_string(),
                version: String::new(),
                digest: String::new(),
                languages: Vec::new(),
                fields: Vec::new(),
                reads_history: false,
                content: String::new(),
            },
        };
        let mut decides = vec![inspection.sha256.as_bytes(), catalog.digest().as_bytes()];
        for name in &plugin.capabilities.artifact {
            decides.extend([name.as_bytes(), plugin.services.artifacts.get(name).map_or(&[][..], |bytes| &bytes[..])]);
        }
        let digest = cache::key(&decides);
        let described = plugin.describe(digest, if content.is_empty() { "documents" } else { &content });
        plugin.card = described.map_err(|detail| refusal(&id, detail, "mend `describe`"))?;
        // `describe` may be asked before anything was loaded, so a plugin cannot know the catalogue's fields there.
        if plugin.card.languages.contains(&QueryLanguage::Boolean) && plugin.card.fields.is_empty() {
            plugin.card.fields = catalog.field_names().to_vec();
        }
        Ok(plugin)
    }

    /// Starts instances until `count` stand ready, so that the first requests find some; fewer where the limits allow no
    /// more beside those at work.
    ///
    /// # Errors
    /// [`Error::Fault`] where one does not start.
    pub fn warm(&self, count: usize) -> Result<()> {
        // With the slots in hand nobody else needs the instances that stand ready.
        let slots: Vec<Slot<'_>> = (0..count).map_while(|_| self.busy.take(Duration::ZERO)).collect();
        let ready = self.idle.lock().unwrap_or_else(PoisonError::into_inner).len();
        for _ in ready..slots.len() {
            let fresh = self.start().map_err(|(kind, detail)| self.fault(kind, detail))?;
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(fresh);
        }
        Ok(())
    }

    /// What it may do and use.
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn describe(&self, digest: String, content: &str) -> Result<RetrieverCard, String> {
        let mut running = self.start().map_err(|(_, detail)| detail)?;
        self.allow(&mut running, 1).map_err(|(_, detail)| detail)?;
        let said = running.world.querywright_plugin_recommender().call_describe(&mut running.store);
        let card = said.map_err(|e| format!("describe failed: {}", self.explain(&e, &running).1))?;
        answer::card(&card, digest, content)
    }

    /// A fresh instance.
    fn start(&self) -> Result<Running, (FaultKind, String)> {
        let mut state = State::new(&self.id, &self.capabilities, &self.services);
        state.system.resume();
        state.meter.make_room();
        let mut store = Store::new(&self.engine, state);
        store.limiter(|state| &mut state.meter);
        store.set_hostcall_fuel(runtime::crossing(&self.capabilities.limits));
        let failed = |e: wasmtime::Error, store: &Store<State>| runtime::explain(&e, store, &self.limit());
        runtime::allow(&mut store, self.metering, self.allowance(1)).map_err(|e| failed(e, &store))?;
        let world = self.instances.instantiate(&mut store).map_err(|e| failed(e, &store))?;
        Ok(Running { store, world, served: 0 })
    }

    fn allowance(&self, requests: usize) -> Allowance {
        let limits = &self.capabilities.limits;
        let times = requests.max(1) as u64;
        Allowance {
            time: Duration::from_millis(limits.call_ms.saturating_mul(times)),
            fuel: limits.fuel.saturating_mul(times),
        }
    }

    fn allow(&self, running: &mut Running, requests: usize) -> Result<(), (FaultKind, String)> {
        running.store.data_mut().system.begin();
        running.store.data_mut().last_words.clear();
        let allowed = runtime::allow(&mut running.store, self.metering, self.allowance(requests));
        allowed.map_err(|e| self.explain(&e, running))
    }

    fn limit(&self) -> String {
        let limits = &self.capabilities.limits;
        match self.metering {
            Metering::Clock => format!("limits.call_ms = {}", limits.call_ms),
            Metering::Fuel => format!("limits.fuel = {}", limits.fuel),
        }
    }

    fn explain(&self, error: &wasmtime::Error, running: &Running) -> (FaultKind, String) {
        runtime::explain(error, &running.store, &self.limit())
    }

    fn idle(&self) -> Option<Running> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    /// One call with some requests. A call that failed as a whole, or broke the contract as a whole, is `Err`.
    fn call(&self, requests: &[Request]) -> Result<Vec<Result<Ranking, Fault>>, (FaultKind, String)> {
        let _slot = self.busy.take(Duration::from_millis(self.capabilities.limits.call_ms)).ok_or_else(|| {
            (FaultKind::Timeout, format!("all of limits.instances = {} were busy", self.capabilities.limits.instances))
        })?;
        let mut running = match self.idle() {
            Some(running) => running,
            None => self.start()?,
        };
        self.allow(&mut running, requests.len())?;
        let crossing: Vec<_> = requests.iter().map(answer::request).collect();
        let said = running.world.querywright_plugin_recommender().call_recommend(&mut running.store, &crossing);
        let answers = said.map_err(|e| self.explain(&e, &running))?;
        if answers.len() != requests.len() {
            let detail = format!("it gave {} answers to {} requests", answers.len(), requests.len());
            return Err((FaultKind::Parse, detail));
        }
        let judged: Vec<Result<Ranking, Fault>> = answers
            .iter()
            .zip(requests)
            .map(|(answer, request)| match answer {
                Ok(hits) => {
                    answer::ranking(hits, request, self.documents).map_err(|why| self.fault(FaultKind::Parse, why))
                }
                Err(fault) => Err(self.fault(answer::kind(fault), answer::sentence(fault))),
            })
            .collect();
        running.served = running.served.saturating_add(1);
        let keep = match self.reuse {
            Reuse::EachSearch => false,
            Reuse::Searches(most) => running.served < most,
            // Who broke the contract once is not asked again.
            Reuse::UntilFault => {
                !judged.iter().any(|answer| answer.as_ref().is_err_and(|f| f.kind == FaultKind::Parse))
            }
        };
        if keep {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(running);
        }
        Ok(judged)
    }

    /// What a request costs on an instance of its own; none where it fails. Fuel is 0 where it is not counted.
    pub(super) fn measure(&self, request: &Request) -> Option<Measured> {
        let begun = Instant::now();
        let mut running = self.start().ok()?;
        let start_us = begun.elapsed().as_secs_f64() * 1e6;
        self.allow(&mut running, 1).ok()?;
        let before = running.store.get_fuel().unwrap_or(0);
        let crossing = [answer::request(request)];
        running.world.querywright_plugin_recommender().call_recommend(&mut running.store, &crossing).ok()?;
        let fuel = before - running.store.get_fuel().unwrap_or(0);
        Some(Measured { start_us, fuel, memory: running.store.data().meter.memory() })
    }

    fn fault(&self, kind: FaultKind, detail: String) -> Fault {
        Fault { retriever: self.card.name.clone(), kind, detail }
    }

    /// Some requests in one call; where that fails as a whole each of them alone, so that one request's fault stays its
    /// own.
    fn part(&self, requests: &[Request]) -> Vec<Result<Ranking, Fault>> {
        match self.call(requests) {
            Ok(answers) => answers,
            Err((kind, detail)) if requests.len() == 1 => vec![Err(self.fault(kind, detail))],
            Err(_) => requests.iter().flat_map(|request| self.part(std::slice::from_ref(request))).collect(),
        }
    }
}

/// Requests that cross the border in one call.
const MOST_REQUESTS: usize = 64;

impl Retriever for Plugin {
    fn card(&self) -> &RetrieverCard {
        &self.card
    }

    fn retrieve(&self, requests: &[Request]) -> Vec<Result<Ranking, Fault>> {
        let size = match self.reuse {
            Reuse::EachSearch => 1,
            _ => requests.len().div_ceil(rayon::current_num_threads()).clamp(1, MOST_REQUESTS),
        };
        if requests.len() <= size {
            return self.part(requests);
        }
        requests.par_chunks(size).flat_map_iter(|part| self.part(part)).collect()
    }
}

/// How many instances may be at work.
struct Slots {
    free: Mutex<u64>,
    freed: Condvar,
}

impl Slots {
    fn new(count: u64) -> Self {
        Self { free: Mutex::new(count), freed: Condvar::new() }
    }

    /// A slot, if one becomes free in time.
    fn take(&self, patience: Duration) -> Option<Slot<'_>> {
        let end = Instant::now() + patience;
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        while *free == 0 {
            let left = end.checked_duration_since(Instant::now())?;
            free = self.freed.wait_timeout(free, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        *free -= 1;
        Some(Slot(self))
    }
}

/// Given back when it is dropped.
struct Slot<'a>(&'a Slots);

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.freed.notify_one();
    }
}

fn check_size(name: &str, bytes: u64, limit_mib: u64) -> Result<()> {
    if bytes > limit_mib << 20 {
        let found = format!("it has {bytes} bytes, and limits.component_mib = {limit_mib}");
        return Err(refusal(name, found, "build it for size (opt-level, lto, strip), or raise the limit"));
    }
    Ok(())
}

/// The key of a compiled plugin: all that its machine code and its memory come from.
fn key(engine: &Engine, sha256: &str, catalog: &Catalog, capabilities: &Capabilities) -> String {
    use std::hash::{Hash, Hasher};

    /// Everything that is hashed, as bytes.
    struct Bytes(Vec<u8>);
    impl Hasher for Bytes {
        fn write(&mut self, bytes: &[u8]) {
            self.0.extend_from_slice(bytes);
        }
        fn finish(&self) -> u64 {
            0
        }
    }
    let mut compatibility = Bytes(Vec::new());
    engine.precompile_compatibility_hash().hash(&mut compatibility);
    let limits = format!("{:?}", capabilities.limits);
    let version = env!("CARGO_PKG_VERSION").as_bytes();
    cache::key(&[version, &compatibility.0, sha256.as_bytes(), catalog.digest().as_bytes(), limits.as_bytes()])
}
