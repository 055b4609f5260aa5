//! From a component to one that has already loaded the catalogue: instrument, load, commit, snapshot, compile.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use wasmtime::component::{Component, Instance, Lift, Linker, WasmList};
use wasmtime::{Engine, Store};
use wasmtime_wizer::{ComponentInstanceState, Wizer};

use super::contract::{self, Document, Field, Plugin as World};
use super::interfaces::State;
use super::runtime::{self, Allowance, Metering};
use super::{Capabilities, Services, refusal, system};
use crate::catalog::Catalog;
use crate::error::Result;

/// Documents that cross the border in one call.
const BATCH: usize = 1024;

/// What is prepared, and for whom.
pub(super) struct Preparation<'a> {
    pub(super) id: &'a Arc<str>,
    pub(super) catalog: &'a Catalog,
    pub(super) capabilities: &'a Arc<Capabilities>,
    pub(super) services: &'a Arc<Services>,
    pub(super) metering: Metering,
    /// Told how many documents of how many were loaded.
    pub(super) progress: &'a (dyn Fn(usize, usize) + Sync),
}

/// Host functions for a component.
pub(super) fn linker(engine: &Engine, component: &Component) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    World::add_to_linker::<_, wasmtime::component::HasSelf<State>>(&mut linker, |state| state)?;
    system::add_to_linker(&mut linker, component)?;
    Ok(linker)
}

/// Compiles on a thread of its own, so that a component that takes for ever is given up.
pub(super) fn within<T: Send + 'static>(
    name: &str,
    ms: u64,
    work: impl FnOnce() -> wasmtime::Result<T> + Send + 'static,
) -> Result<T> {
    let (to, from) = mpsc::channel();
    let spawned = std::thread::Builder::new().name("plugin-compiler".into()).spawn(move || to.send(work()));
    spawned.map_err(|e| refusal(name, format!("no thread to compile it: {e}"), "free some memory and try again"))?;
    match from.recv_timeout(Duration::from_millis(ms)) {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(refusal(
            name,
            format!("it does not compile: {error:#}"),
            "build it again, and check it with `plugin check`",
        )),
        Err(mpsc::RecvTimeoutError::Timeout) => Err(refusal(
            name,
            format!("it took longer than limits.compile_ms = {ms} to compile"),
            "make it smaller, or raise the limit",
        )),
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            Err(refusal(name, "the compiler gave up on it", "report it with the component"))
        }
    }
}

impl Preparation<'_> {
    /// The component after `load` and `commit`, as bytes of a component.
    pub(super) fn snapshot(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        let limits = self.capabilities.limits;
        let name: &str = self.id;
        let unfit = |e: wasmtime::Error| {
            refusal(name, format!("it cannot be pre-initialised: {e:#}"), "build it with one module, as the SDK does")
        };
        let mut wizer = Wizer::new();
        wizer.keep_init_func(true);
        let (context, instrumented) =
            survive(name, || wizer.instrument_component(bytes)).and_then(|done| done.map_err(unfit))?;
        let engine = runtime::preparing(self.metering).map_err(unfit)?;
        let compiler = engine.clone();
        let component = within(name, limits.compile_ms, move || Component::new(&compiler, &instrumented))?;
        let mut store = Store::new(&engine, State::new(self.id, self.capabilities, self.services));
        store.limiter(|state| &mut state.meter);
        store.set_hostcall_fuel(runtime::crossing(&limits));
        let end = Instant::now() + Duration::from_millis(limits.load_ms);
        let allow = |store: &mut Store<State>| {
            let time = end.saturating_duration_since(Instant::now());
            runtime::allow(store, self.metering, Allowance { time, fuel: limits.load_fuel })
        };
        allow(&mut store).map_err(unfit)?;
        let limit = match self.metering {
            Metering::Clock => format!("limits.load_ms = {}", limits.load_ms),
            Metering::Fuel => format!("limits.load_fuel = {}", limits.load_fuel),
        };
        let failed = |e: wasmtime::Error, store: &Store<State>, what: &str| {
            let (_, detail) = runtime::explain(&e, store, &limit);
            refusal(name, format!("{what} failed: {detail}"), "mend the plugin, or raise the limit that it names")
        };
        let refused = |fault: contract::Fault, what: &str| {
            refusal(
                name,
                format!("{what} said: {}", super::answer::sentence(&fault)),
                "give it what it needs, or mend the plugin",
            )
        };
        let linker = linker(&engine, &component).map_err(unfit)?;
        let instance = linker.instantiate(&mut store, &component).map_err(|e| failed(e, &store, "starting it"))?;
        let plugin = World::new(&mut store, &instance)
            .map_err(|e| refusal(name, format!("{e:#}"), "build it against the contract's version"))?;
        let recommender = plugin.querywright_plugin_recommender();
        let all = self.catalog.len();
        let mut batch = Vec::with_capacity(BATCH.min(all));
        for (item, document) in self.catalog.documents().enumerate() {
            let fields =
                document.fields().map(|(name, value)| Field { name: name.to_owned(), value: value.to_owned() });
            batch.push(Document { item: item as u32, id: document.id.to_owned(), fields: fields.collect() });
            if batch.len() == BATCH || item + 1 == all {
                allow(&mut store).map_err(unfit)?;
                let said = recommender.call_load(&mut store, &std::mem::take(&mut batch));
                said.map_err(|e| failed(e, &store, "load"))?.map_err(|fault| refused(fault, "load"))?;
                (self.progress)(item + 1, all);
            }
        }
        allow(&mut store).map_err(unfit)?;
        let said = recommender.call_commit(&mut store);
        said.map_err(|e| failed(e, &store, "commit"))?.map_err(|fault| refused(fault, "commit"))?;
        // An instance that starts from this memory has no handles, and would trap over those that it remembers.
        let held = store.data().system.handles();
        if held > 0 {
            let found = format!("after `commit` it holds {held} handles of the system, as that of standard output");
            return Err(refusal(name, found, "print, and use the system, in `recommend` alone"));
        }
        // Reading the memory out is the host's doing, not the plugin's. It takes a page or two of its own.
        store.data_mut().meter.make_room();
        let time = Duration::from_secs(3600);
        runtime::allow(&mut store, self.metering, Allowance { time, fuel: u64::MAX }).map_err(unfit)?;
        store.set_hostcall_fuel(usize::MAX);
        let mut state = Snapshot { store: &mut store, instance, missing: None };
        let snapshot = survive(name, || block_on(wizer.snapshot_component(&context, &mut state)));
        match state.missing {
            Some(what) => Err(refusal(
                name,
                format!("its memory cannot be read out: {what}"),
                "leave two pages free below the maximum of its memory",
            )),
            None => snapshot?.map_err(unfit),
        }
    }
}

/// Runs wizer, which takes some components that it does not expect for faults of its own and panics.
fn survive<T>(name: &str, work: impl FnOnce() -> T) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| {
        refusal(
            name,
            "it is built in a way that cannot be pre-initialised",
            "build it with one module, as the SDK does",
        )
    })
}

/// How the memory of an instance is read out.
struct Snapshot<'a> {
    store: &'a mut Store<State>,
    instance: Instance,
    /// The first function that instrumenting should have added and that is not there or does not work. wizer's trait
    /// has no error, so that it is given nothing in its place, and what it makes of that is thrown away.
    missing: Option<String>,
}

impl Snapshot<'_> {
    /// Calls one of the functions that instrumenting added; `then` gets nothing where that fails.
    fn call<R: Lift + 'static, T>(
        &mut self,
        instance: &str,
        function: &str,
        then: impl FnOnce(&mut Store<State>, Option<R>) -> T,
    ) -> T {
        let found = (|| {
            let (_, outer) = self.instance.get_export(&mut *self.store, None, instance)?;
            let (_, inner) = self.instance.get_export(&mut *self.store, Some(&outer), function)?;
            let function = self.instance.get_typed_func::<(), (R,)>(&mut *self.store, inner).ok()?;
            function.call(&mut *self.store, ()).ok()
        })();
        if found.is_none() {
            self.missing.get_or_insert(format!("{instance}#{function} does not work"));
        }
        then(self.store, found.map(|(value,)| value))
    }
}

impl ComponentInstanceState for Snapshot<'_> {
    async fn call_func_ret_list_u8(&mut self, instance: &str, func: &str, contents: impl FnOnce(&[u8]) + Send) {
        self.call(instance, func, |store, list: Option<WasmList<u8>>| {
            contents(list.as_ref().map_or(&[], |list| list.as_le_slice(&*store)));
        });
    }

    async fn call_func_ret_s32(&mut self, instance: &str, func: &str) -> i32 {
        self.call(instance, func, |_, value| value.unwrap_or_default())
    }

    async fn call_func_ret_s64(&mut self, instance: &str, func: &str) -> i64 {
        self.call(instance, func, |_, value| value.unwrap_or_default())
    }

    async fn call_func_ret_f32(&mut self, instance: &str, func: &str) -> u32 {
        self.call(instance, func, |_, value: Option<f32>| value.unwrap_or_default().to_bits())
    }

    async fn call_func_ret_f64(&mut self, instance: &str, func: &str) -> u64 {
        self.call(instance, func, |_, value: Option<f64>| value.unwrap_or_default().to_bits())
    }
}

/// Runs a future that never waits for anything.
fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    loop {
        if let std::task::Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
    }
}
