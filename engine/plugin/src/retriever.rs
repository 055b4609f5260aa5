//! A plugin as a retriever: loaded once, then served from a pool of instances.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rayon::prelude::*;
use wasmtime::Engine;
use wasmtime::component::Component;

use super::cache::Cache;
use super::capability::{Capabilities, Wanted};
use super::engine::{self, Metering};
use super::failure::Failure;
use super::inspect::Inspection;
use super::instance::{Instance, Launcher};
use super::load::{Loaded, Loading};
use super::manifest::Manifest;
use super::options::{PluginOptions, Reuse};
use super::pool::{Permit, Pool};
use super::refusal::refusal;
use super::sanitize::excerpt;
use super::services::{LogLevel, Services, TextEncoder};
use super::workload::Workload;
use super::{compile, validate};
use querywright_data::catalog::Catalog;
use querywright_data::digest;
use querywright_types::{
    Deadline, Error, Fault, FaultKind, Observe, QueryLanguage, Ranking, Request, Result, Retriever, RetrieverCard,
};

/// Requests in one call of `recommend` at most.
const MOST_REQUESTS: usize = 64;

/// A plugin that has loaded a catalogue. Searching takes `&self` from any number of threads.
///
/// A fault concerns one request only. The instance in which it happened is dropped, and the next request gets a fresh
/// one. A fault quotes the plugin only if the instance has seen no other request: otherwise one caller could read in it what
/// another one asked. The log gets the quotation then.
pub struct Plugin {
    launcher: Launcher,
    pool: Pool,
    reuse: Reuse,
    /// The size of the catalogue.
    documents: usize,
    card: RetrieverCard,
    /// Whether all requests come from one caller, so that every fault may quote the plugin.
    one_caller: bool,
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plugin").field("id", &self.launcher.id).field("card", &self.card).finish_non_exhaustive()
    }
}

impl Plugin {
    /// Reads a component file and loads it. If the options have no manifest, a `plugin.toml` in the same folder is
    /// used.
    ///
    /// # Errors
    /// Those of [`from_bytes`](Self::from_bytes), and a file that cannot be read.
    pub fn open(path: &Path, catalog: &Catalog, mut options: PluginOptions) -> Result<Self> {
        let limit = options.grant.limits.component_mib;
        let size = std::fs::metadata(path).map_err(|e| Error::read(path, e))?.len();
        let name = path.file_stem().map_or_else(|| "plugin".into(), |stem| stem.to_string_lossy().into_owned());
        check_size(&name, size, limit)?;
        let bytes = std::fs::read(path).map_err(|e| Error::read(path, e))?;
        if options.manifest.is_none() {
            options.manifest = Manifest::beside(path)?;
        }
        Self::from_bytes(&name, &bytes, catalog, options, &())
    }

    /// Loads a component: checks it, lets it load the catalogue and commit, takes a snapshot of its memory, compiles
    /// that and prepares a pool of instances. Errors call it by the id of its manifest, or by `name` without one.
    /// `observer` is told how many documents of how many were loaded.
    ///
    /// # Errors
    /// [`Error::Plugin`] if the component is not the one that the manifest pins, does not fit the contract, does not
    /// compile, or does not load within the limits. None of its code runs after that.
    pub fn from_bytes(
        name: &str,
        bytes: &[u8],
        catalog: &Catalog,
        options: PluginOptions,
        observer: &dyn Observe,
    ) -> Result<Self> {
        let PluginOptions { manifest, grant, services, metering, reuse, cache, content } = options;
        grant.limits.validate()?;
        // The name may be that of a file, and stands in the embedder's log.
        let id: Arc<str> = manifest.as_ref().map_or_else(|| excerpt(name), |m| m.id.clone()).into();
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
        Workload::of(&id, bytes)?.check(&id, &capabilities.limits)?;
        let services = Arc::new(services);
        let engine = engine::for_serving(metering, &capabilities.limits, &inspection).map_err(|e| no_pool(&id, &e))?;
        let loading =
            Loading { id: &id, catalog, capabilities: &capabilities, services: &services, metering, observer };
        let component = component(&loading, bytes, &inspection.sha256, &engine, cache.as_deref())?;
        let launcher = Launcher::new(id, capabilities, services, metering, &component)?;
        let content = if content.is_empty() { "documents" } else { &content };
        Ok(Self {
            card: card(&launcher, catalog, &inspection.sha256, content)?,
            pool: Pool::new(launcher.capabilities.limits.instances),
            launcher,
            reuse: if metering == Metering::Fuel { Reuse::EachSearch } else { reuse },
            documents: catalog.len(),
            one_caller: false,
        })
    }

    /// Starts instances until `count` are idle, so that the first requests need not start one. Fewer are started if the
    /// limits allow no more beside those that work.
    ///
    /// # Errors
    /// [`Error::Fault`] if an instance does not start.
    pub fn warm(&self, count: usize) -> Result<()> {
        // While this holds the permits, no request takes the instances that are idle.
        let permits: Vec<Permit<'_>> = (0..count).map_while(|_| self.pool.acquire(Duration::ZERO)).collect();
        for _ in self.pool.idle()..permits.len() {
            let fresh = self.launcher.start().map_err(|failure| self.fault(failure))?;
            self.pool.keep(fresh);
        }
        Ok(())
    }

    /// The same plugin for requests of one caller: every fault quotes the plugin.
    pub(super) fn for_one_caller(self) -> Self {
        Self { one_caller: true, ..self }
    }

    /// What it may do and use.
    pub fn capabilities(&self) -> &Capabilities {
        &self.launcher.capabilities
    }

    /// One call with several requests. The error is that of the whole call.
    fn call(&self, requests: &[Request], deadline: Deadline) -> Result<Vec<Result<Ranking, Fault>>, Failure> {
        let limits = &self.launcher.capabilities.limits;
        let late = |fault: Fault| Failure::new(fault.kind, fault.detail);
        deadline.check_for(&self.card.name).map_err(late)?;
        let patience = Duration::from_millis(limits.call_ms);
        let _permit =
            self.pool.acquire(deadline.left().map_or(patience, |left| left.min(patience))).ok_or_else(|| {
                Failure::new(FaultKind::Overloaded, format!("all of limits.instances = {} were busy", limits.instances))
            })?;
        let mut instance = match self.pool.take_idle() {
            Some(instance) => instance,
            None => self.launcher.start()?,
        };
        // What it says can hold what it was asked before, or what the others of its batch ask.
        let knows_others = !self.one_caller && (instance.served > 0 || requests.len() > 1);
        let disclose = |failure| self.disclose(failure, knows_others);
        self.launcher.start_call(&mut instance, requests.len(), deadline)?;
        let answers = self.launcher.recommend(&mut instance, requests).map_err(disclose)?;
        let checked: Vec<Result<Ranking, Fault>> = answers
            .iter()
            .zip(requests)
            .map(|(answer, request)| match answer {
                Ok(hits) => validate::ranking(hits, request, self.documents)
                    .map_err(|why| self.fault(Failure::new(FaultKind::Contract, why))),
                Err(fault) => Err(self.fault(disclose(Failure::of_fault(fault)))),
            })
            .collect();
        instance.served = instance.served.saturating_add(1);
        if self.may_serve_again(&instance, &checked) {
            self.pool.keep(instance);
        }
        Ok(checked)
    }

    fn may_serve_again(&self, instance: &Instance, answers: &[Result<Ranking, Fault>]) -> bool {
        let breaks_the_contract =
            |answer: &Result<Ranking, Fault>| answer.as_ref().is_err_and(|fault| fault.kind == FaultKind::Contract);
        match self.reuse {
            Reuse::EachSearch => false,
            Reuse::Searches(most) => instance.served < most,
            Reuse::UntilFault => !answers.iter().any(breaks_the_contract),
        }
    }

    /// Several requests in one call. If that call fails, each request gets a call of its own, so that a fault stays
    /// with its request.
    fn batch(&self, requests: &[Request], deadline: Deadline) -> Vec<Result<Ranking, Fault>> {
        match self.call(requests, deadline) {
            Ok(answers) => answers,
            Err(failure) if requests.len() == 1 => vec![Err(self.fault(failure))],
            Err(_) => requests.iter().flat_map(|request| self.batch(std::slice::from_ref(request), deadline)).collect(),
        }
    }

    /// Leaves to the log what an instance says that knows of other callers.
    fn disclose(&self, failure: Failure, knows_others: bool) -> Failure {
        if !knows_others || failure.said.is_empty() {
            return failure;
        }
        if let Some(log) = &self.launcher.services.log {
            log(&self.launcher.id, LogLevel::Error, &failure.in_full());
        }
        failure.without_quotation()
    }

    fn fault(&self, failure: Failure) -> Fault {
        Fault::new(self.card.name.clone(), failure.kind, failure.in_full())
    }

    /// What a request costs on a fresh instance. None if it fails.
    pub(super) fn measure(&self, request: &Request) -> Option<RequestCost> {
        let begun = Instant::now();
        let mut instance = self.launcher.start().ok()?;
        let start_us = begun.elapsed().as_secs_f64() * 1e6;
        self.launcher.start_call(&mut instance, 1, Deadline::NONE).ok()?;
        let before = instance.fuel().unwrap_or(0);
        self.launcher.recommend(&mut instance, std::slice::from_ref(request)).ok()?;
        let fuel = before - instance.fuel().unwrap_or(0);
        Some(RequestCost { start_us, fuel, memory: instance.memory() })
    }
}

/// What one request cost on a fresh instance.
#[derive(Debug, Clone, Copy)]
pub(super) struct RequestCost {
    /// Microseconds to start the instance.
    pub(super) start_us: f64,
    /// Fuel of the request; 0 if it is not counted.
    pub(super) fuel: u64,
    /// Bytes of linear memory of the instance after the request.
    pub(super) memory: u64,
}

impl Retriever for Plugin {
    fn card(&self) -> &RetrieverCard {
        &self.card
    }

    fn retrieve(&self, requests: &[Request], deadline: Deadline) -> Vec<Result<Ranking, Fault>> {
        let size = match self.reuse {
            Reuse::EachSearch => 1,
            _ => requests.len().div_ceil(rayon::current_num_threads()).clamp(1, MOST_REQUESTS),
        };
        if requests.len() <= size {
            return self.batch(requests, deadline);
        }
        requests.par_chunks(size).flat_map_iter(|batch| self.batch(batch, deadline)).collect()
    }
}

fn check_size(name: &str, bytes: u64, limit_mib: u64) -> Result<()> {
    if bytes > limit_mib << 20 {
        let found = format!("it has {bytes} bytes, and limits.component_mib = {limit_mib}");
        return Err(refusal(name, found, "build it for size (opt-level, lto, strip), or raise the limit"));
    }
    Ok(())
}

fn no_pool(name: &str, error: &wasmtime::Error) -> Error {
    refusal(name, format!("{error:#}"), "lower limits.instances, or use fewer memories")
}

/// The component with the catalogue in its memory, compiled for `engine`: from the cache, or loaded and compiled now.
fn component(
    loading: &Loading<'_>,
    bytes: &[u8],
    sha256: &str,
    engine: &Engine,
    cache: Option<&Path>,
) -> Result<Component> {
    let cache = cache.filter(|_| cacheable(loading)).map(Cache::open).transpose()?;
    let key = cache_key(loading, sha256, engine);
    let compiled = match cache.as_ref().and_then(|cache| cache.get(&key)) {
        Some(compiled) => compiled,
        None => {
            let Loaded { component, encoder_failed } = loading.snapshot(bytes)?;
            let (compiler, limit) = (engine.clone(), loading.capabilities.limits.compile_ms);
            let compiled = compile::within(loading.id, limit, move || compiler.precompile_component(&component))?;
            if let Some(cache) = cache.filter(|_| !encoder_failed) {
                cache.put(&key, &compiled);
            }
            compiled
        }
    };
    // SAFETY: these bytes were compiled by this very engine, in this process or in one of this installation. That one wrote
    // them to the cache under the digest of component, catalogue, engine and limits, with a tag of key and bytes under a
    // secret that only this user can read. The bytes in memory are those whose tag was checked.
    unsafe { Component::deserialize(engine, &compiled) }.map_err(|e| no_pool(loading.id, &e))
}

/// Whether a compiled plugin may be kept. With a host interface the memory depends on what that interface answered, and the
/// one whose answers have a digest is an encoder.
fn cacheable(loading: &Loading<'_>) -> bool {
    let Capabilities { log, embed: _, artifact, http, limits: _ } = &**loading.capabilities;
    let others = *log || !artifact.is_empty() || !http.is_empty();
    !others && loading.services.encoder(loading.capabilities).is_none_or(|encoder| encoder.digest().is_some())
}

/// The cache key of a compiled plugin: a digest of everything that its machine code and its memory depend on.
fn cache_key(loading: &Loading<'_>, sha256: &str, engine: &Engine) -> String {
    use std::hash::{Hash, Hasher};

    /// Collects what is hashed, as bytes.
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
    let limits = format!("{:?}", loading.capabilities.limits);
    let version = env!("CARGO_PKG_VERSION").as_bytes();
    let catalog = loading.catalog.digest().as_bytes();
    let encoder = encoder_digest(loading.services, loading.capabilities);
    let parts = [version, &compatibility.0, sha256.as_bytes(), catalog, limits.as_bytes(), encoder.as_bytes()];
    digest::sha256_of(&parts)
}

/// What is known of the encoder that a plugin may use; empty if there is none.
fn encoder_digest(services: &Services, capabilities: &Capabilities) -> String {
    let known = |encoder: &Arc<dyn TextEncoder>| format!("{} {:?}", encoder.dimensions(), encoder.digest());
    services.encoder(capabilities).map(known).unwrap_or_default()
}

/// The card of a loaded plugin, with a digest of everything that its rankings depend on.
fn card(launcher: &Launcher, catalog: &Catalog, sha256: &str, content: &str) -> Result<RetrieverCard> {
    let mut parts = vec![sha256.as_bytes(), catalog.digest().as_bytes()];
    for name in &launcher.capabilities.artifact {
        parts.extend([name.as_bytes(), launcher.services.artifacts.get(name).map_or(&[][..], |bytes| &bytes[..])]);
    }
    let encoder = encoder_digest(&launcher.services, &launcher.capabilities);
    if !encoder.is_empty() {
        parts.extend(["embed".as_bytes(), encoder.as_bytes()]);
    }
    let described = launcher
        .start()
        .and_then(|mut instance| launcher.describe(&mut instance))
        .map_err(|failure| failure.in_full())
        .and_then(|card| validate::card(&card, digest::sha256_of(&parts), content));
    let mut card = described.map_err(|detail| refusal(&launcher.id, detail, "fix `describe`"))?;
    // `describe` may be called before anything was loaded, so a plugin cannot name the fields of the catalogue there.
    if card.languages.contains(&QueryLanguage::Boolean) && card.fields.is_empty() {
        card.fields = catalog.field_names().to_vec();
    }
    card.documents = Some(catalog.len());
    Ok(card)
}
