//! Loads the catalogue into an instance and takes a snapshot of its memory: instrument, compile, load, commit,
//! snapshot.

use std::sync::Arc;
use std::time::{Duration, Instant};

use wasmtime::component::{Component, Instance};
use wasmtime::{Engine, Store};

use super::bindings::{self, Document, Field, Plugin as World};
use super::budget::Budget;
use super::capability::Capabilities;
use super::compile;
use super::engine::{self, Metering};
use super::failure::Failure;
use super::host_functions::linker;
use super::refusal::refusal;
use super::services::Services;
use super::snapshot::{Instrumented, cannot_snapshot};
use super::state::State;
use querywright_data::catalog::Catalog;
use querywright_types::{Error, Observe, Progress, Result};

/// Documents in one call of `load`.
const BATCH: usize = 1024;

/// Time to read the memory out. That is the work of the host, so it does not count against the plugin's limits.
const SNAPSHOT_TIME: Duration = Duration::from_secs(3600);

/// Which plugin loads which catalogue, and what it may do.
pub(super) struct Loading<'a> {
    pub(super) id: &'a Arc<str>,
    pub(super) catalog: &'a Catalog,
    pub(super) capabilities: &'a Arc<Capabilities>,
    pub(super) services: &'a Arc<Services>,
    pub(super) metering: Metering,
    /// Is told how many documents of how many were loaded.
    pub(super) observer: &'a dyn Observe,
}

/// A component with the catalogue in its memory.
pub(super) struct Loaded {
    /// Its bytes.
    pub(super) component: Vec<u8>,
    /// Whether the encoder failed meanwhile. Then the memory is not what loading it again would give.
    pub(super) encoder_failed: bool,
}

impl Loading<'_> {
    /// The component as it is after `load` and `commit`.
    ///
    /// # Errors
    /// [`Error::Plugin`] if it cannot be instrumented or compiled, reaches a limit, returns a fault, or holds a WASI
    /// handle after `commit`.
    pub(super) fn snapshot(&self, component: &[u8]) -> Result<Loaded> {
        let limits = self.capabilities.limits;
        let (instrumented, bytes) = Instrumented::new(self.id, component)?;
        let engine = engine::for_loading(self.metering).map_err(|e| cannot_snapshot(self.id, &e))?;
        let compiler = engine.clone();
        let component = compile::within(self.id, limits.compile_ms, move || Component::new(&compiler, &bytes))?;
        let mut store = Store::new(&engine, State::new(self.id, self.capabilities, self.services));
        store.limiter(|state| &mut state.limiter);
        store.set_hostcall_fuel(engine::hostcall_bytes(&limits));
        let deadline = Instant::now() + Duration::from_millis(limits.load_ms);
        let mut loader = Loader { loading: self, store, deadline };
        let (instance, world) = loader.instantiate(&engine, &component)?;
        loader.load(&world)?;
        loader.commit(&world)?;
        loader.allow_snapshot()?;
        let encoder_failed = loader.store.data().encoder_failed;
        Ok(Loaded { component: instrumented.snapshot(self.id, &mut loader.store, instance)?, encoder_failed })
    }
}

/// The instance that loads the catalogue.
struct Loader<'a> {
    loading: &'a Loading<'a>,
    store: Store<State>,
    /// When loading must be finished.
    deadline: Instant,
}

impl Loader<'_> {
    fn instantiate(&mut self, engine: &Engine, component: &Component) -> Result<(Instance, World)> {
        let name = self.loading.id;
        self.start_call()?;
        let linker = linker(engine, component).map_err(|e| cannot_snapshot(name, &e))?;
        let started = linker.instantiate(&mut self.store, component);
        let instance = started.map_err(|e| self.failed(&e, "starting it"))?;
        let world = World::new(&mut self.store, &instance)
            .map_err(|e| refusal(name, format!("{e:#}"), "build it against the contract's version"))?;
        Ok((instance, world))
    }

    fn load(&mut self, world: &World) -> Result<()> {
        let catalog = self.loading.catalog;
        let all = catalog.len();
        let mut batch = Vec::with_capacity(BATCH.min(all));
        for (item, document) in catalog.documents().enumerate() {
            let fields =
                document.fields().map(|(name, value)| Field { name: name.to_owned(), value: value.to_owned() });
            batch.push(Document { item: item as u32, id: document.id.to_owned(), fields: fields.collect() });
            if batch.len() == BATCH || item + 1 == all {
                self.start_call()?;
                let documents = std::mem::take(&mut batch);
                let result = world.querywright_plugin_recommender().call_load(&mut self.store, &documents);
                self.checked(result, "load")?;
                self.loading.observer.progress(Progress::new("loading documents", item as u64 + 1, all as u64));
            }
        }
        Ok(())
    }

    fn commit(&mut self, world: &World) -> Result<()> {
        self.start_call()?;
        let result = world.querywright_plugin_recommender().call_commit(&mut self.store);
        self.checked(result, "commit")?;
        // An instance that starts from the snapshot has no handles. It would trap if its memory mentions one.
        let held = self.store.data().wasi.handles;
        if held > 0 {
            let found = format!("after `commit` it holds {held} WASI handles, such as that of standard output");
            return Err(refusal(self.loading.id, found, "print, and use WASI, only in `recommend`"));
        }
        Ok(())
    }

    /// Lifts the limits, so that the memory can be read out.
    fn allow_snapshot(&mut self) -> Result<()> {
        self.store.data_mut().limiter.allow_snapshot();
        self.store.set_hostcall_fuel(usize::MAX);
        let budget = Budget::new(SNAPSHOT_TIME, u64::MAX);
        let started = budget.start_call(&mut self.store, self.loading.metering);
        started.map_err(|e| cannot_snapshot(self.loading.id, &e))
    }

    /// Gives the next call the time that is left, and fuel of its own.
    fn start_call(&mut self) -> Result<()> {
        let time = self.deadline.saturating_duration_since(Instant::now());
        let limits = &self.loading.capabilities.limits;
        // By fuel the clock ends a call only as a backstop, which does not depend on the calls before it.
        let backstop = Budget::new(Duration::from_millis(limits.load_ms), 0).backstop;
        let budget = Budget { backstop, ..Budget::new(time, limits.load_fuel) };
        let started = budget.start_call(&mut self.store, self.loading.metering);
        started.map_err(|e| cannot_snapshot(self.loading.id, &e))
    }

    /// The error of a call that trapped, reached a limit, or returned a fault.
    fn checked(&self, result: wasmtime::Result<Result<(), bindings::Fault>>, call: &str) -> Result<()> {
        result.map_err(|e| self.failed(&e, call))?.map_err(|fault| {
            let found = format!("{call} returned a fault: {}", Failure::of_fault(&fault).in_full());
            let remedy = match fault {
                bindings::Fault::Denied(_) => "grant what its manifest asks for, and provide what stands behind it",
                _ => "give it what it needs, or fix the plugin",
            };
            refusal(self.loading.id, found, remedy)
        })
    }

    fn failed(&self, error: &wasmtime::Error, call: &str) -> Error {
        let limits = &self.loading.capabilities.limits;
        let limit = match self.loading.metering {
            Metering::Clock => format!("limits.load_ms = {}", limits.load_ms),
            Metering::Fuel => format!("limits.load_fuel = {}", limits.load_fuel),
        };
        let detail = Failure::of_call(error, &self.store, &limit).in_full();
        refusal(self.loading.id, format!("{call} failed: {detail}"), "fix the plugin, or raise the limit that it names")
    }
}
