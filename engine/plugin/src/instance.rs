//! One instance of a loaded plugin, and the calls to it.

use std::sync::Arc;

use wasmtime::component::Component;
use wasmtime::{Engine, Store};

use super::bindings::{self, Plugin as World, PluginPre};
use super::budget::Budget;
use super::capability::Capabilities;
use super::engine::{self, Metering};
use super::failure::Failure;
use super::host_functions::linker;
use super::refusal::refusal;
use super::services::Services;
use super::state::State;
use super::validate;
use querywright_types::{Deadline, FaultKind, Request, Result};

/// An instance, and how many calls it has served.
pub(super) struct Instance {
    store: Store<State>,
    world: World,
    pub(super) served: u32,
}

impl Instance {
    /// Bytes of linear memory in use.
    pub(super) fn memory(&self) -> u64 {
        self.store.data().limiter.memory()
    }

    /// Fuel that is left to it; none if fuel is not counted.
    pub(super) fn fuel(&self) -> Option<u64> {
        self.store.get_fuel().ok()
    }
}

/// The answer to each request of a call: hits that are not yet checked, or the plugin's fault.
pub(super) type Answers = Vec<Result<Vec<bindings::Hit>, bindings::Fault>>;

/// Starts instances of a loaded plugin, and calls them within its limits.
pub(super) struct Launcher {
    pub(super) id: Arc<str>,
    pub(super) capabilities: Arc<Capabilities>,
    pub(super) services: Arc<Services>,
    pub(super) metering: Metering,
    engine: Engine,
    pre: PluginPre<State>,
}

impl Launcher {
    /// For a component that was compiled by this engine.
    ///
    /// # Errors
    /// [`Error::Plugin`](crate::Error::Plugin) if the component does not fit the contract.
    pub(super) fn new(
        id: Arc<str>,
        capabilities: Arc<Capabilities>,
        services: Arc<Services>,
        metering: Metering,
        component: &Component,
    ) -> Result<Self> {
        let engine = component.engine().clone();
        let linked = linker(&engine, component).and_then(|linker| linker.instantiate_pre(component));
        let pre = linked.and_then(PluginPre::new).map_err(|e| {
            refusal(&id, format!("{e:#}"), "build it against the version of the contract that this host implements")
        })?;
        Ok(Self { id, capabilities, services, metering, engine, pre })
    }

    /// A fresh instance.
    pub(super) fn start(&self) -> Result<Instance, Failure> {
        let mut state = State::new(&self.id, &self.capabilities, &self.services);
        state.wasi.after_snapshot();
        state.limiter.allow_snapshot();
        let mut store = Store::new(&self.engine, state);
        store.limiter(|state| &mut state.limiter);
        store.set_hostcall_fuel(engine::hostcall_bytes(&self.capabilities.limits));
        self.budget(1).start_call(&mut store, self.metering).map_err(|e| self.failed(&e, &store))?;
        let world = self.pre.instantiate(&mut store).map_err(|e| self.failed(&e, &store))?;
        Ok(Instance { store, world, served: 0 })
    }

    /// The plugin's card, as it describes itself.
    pub(super) fn describe(&self, instance: &mut Instance) -> Result<bindings::Card, Failure> {
        self.start_call(instance, 1, Deadline::NONE)?;
        let card = instance.world.querywright_plugin_recommender().call_describe(&mut instance.store);
        card.map_err(|e| {
            let failure = self.failed(&e, &instance.store);
            Failure { detail: format!("describe failed: {}", failure.detail), ..failure }
        })
    }

    /// Gives an instance the budget of a call with this many requests. On the clock it ends at the deadline at the
    /// latest; fuel does not depend on time.
    pub(super) fn start_call(
        &self,
        instance: &mut Instance,
        requests: usize,
        deadline: Deadline,
    ) -> Result<(), Failure> {
        instance.store.data_mut().wasi.start_call();
        instance.store.data_mut().error_log.clear();
        let budget = self.budget(requests).until(deadline);
        let started = budget.start_call(&mut instance.store, self.metering);
        started.map_err(|e| self.failed(&e, &instance.store))
    }

    /// One call of `recommend`, after [`start_call`](Self::start_call). The answer has as many entries as there are
    /// requests.
    pub(super) fn recommend(&self, instance: &mut Instance, requests: &[Request]) -> Result<Answers, Failure> {
        let requests: Vec<_> = requests.iter().map(validate::request).collect();
        let answers = instance.world.querywright_plugin_recommender().call_recommend(&mut instance.store, &requests);
        let answers = answers.map_err(|e| self.failed(&e, &instance.store))?;
        if answers.len() != requests.len() {
            let detail = format!("it gave {} answers to {} requests", answers.len(), requests.len());
            return Err(Failure::new(FaultKind::Contract, detail));
        }
        Ok(answers)
    }

    fn budget(&self, requests: usize) -> Budget {
        Budget::of_requests(&self.capabilities.limits, requests)
    }

    fn failed(&self, error: &wasmtime::Error, store: &Store<State>) -> Failure {
        let limits = &self.capabilities.limits;
        let limit = match self.metering {
            Metering::Clock => format!("limits.call_ms = {}", limits.call_ms),
            Metering::Fuel => format!("limits.fuel = {}", limits.fuel),
        };
        Failure::of_call(error, store, &limit)
    }
}
