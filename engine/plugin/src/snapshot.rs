//! Turns a component into one that has already loaded the catalogue: wizer reads the memory of an instance and writes
//! it into a new component.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::{Context, Poll, Waker};

use wasmtime::Store;
use wasmtime::component::{Instance, Lift, WasmList};
use wasmtime_wizer::{ComponentContext, ComponentInstanceState, Wizer};

use super::refusal::refusal;
use super::state::State;
use querywright_types::{Error, Result};

/// What wizer knows of a component that it added functions to.
pub(super) struct Instrumented<'b> {
    wizer: Wizer,
    context: ComponentContext<'b>,
}

impl<'b> Instrumented<'b> {
    /// Adds functions to a component that read its memory and its globals. The second value is that component, as
    /// bytes.
    pub(super) fn new(name: &str, component: &'b [u8]) -> Result<(Self, Vec<u8>)> {
        let mut wizer = Wizer::new();
        wizer.keep_init_func(true);
        let done = contain_panics(name, || wizer.instrument_component(component))?;
        let (context, bytes) = done.map_err(|e| cannot_snapshot(name, &e))?;
        Ok((Self { wizer, context }, bytes))
    }

    /// The component with the memory of an instance of it, as bytes.
    pub(super) fn snapshot(&self, name: &str, store: &mut Store<State>, instance: Instance) -> Result<Vec<u8>> {
        let mut reader = MemoryReader { store, instance, missing: None };
        let snapshot = self.wizer.snapshot_component(&self.context, &mut reader);
        let snapshot = contain_panics(name, || poll_once(snapshot));
        match reader.missing {
            Some(what) => Err(refusal(
                name,
                format!("its memory cannot be read out: {what}"),
                "leave two pages free below the maximum of its memory",
            )),
            None => snapshot??.map_err(|e| cannot_snapshot(name, &e)),
        }
    }
}

/// The error of a component that wizer does not support.
pub(super) fn cannot_snapshot(name: &str, error: &wasmtime::Error) -> Error {
    refusal(name, format!("it cannot be pre-initialised: {error:#}"), "build it with one module, as the SDK does")
}

/// Runs wizer. It takes some valid components for internal errors and panics.
fn contain_panics<T>(name: &str, work: impl FnOnce() -> T) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| {
        refusal(
            name,
            "it is built in a way that cannot be pre-initialised",
            "build it with one module, as the SDK does",
        )
    })
}

/// The output of a future that never waits. wizer's trait is async, but [`MemoryReader`] is not.
fn poll_once<F: Future>(future: F) -> Result<F::Output> {
    match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Ok(output),
        Poll::Pending => Err(Error::bug("plugin snapshot", "wizer waits for something")),
    }
}

/// Reads the memory and the globals of an instance for wizer.
struct MemoryReader<'a> {
    store: &'a mut Store<State>,
    instance: Instance,
    /// The first function of the instrumentation that does not work. wizer's trait cannot return an error: it gets an
    /// empty value instead, and the snapshot that it then makes is dropped.
    missing: Option<String>,
}

impl MemoryReader<'_> {
    /// Calls a function of the instrumentation. `then` gets none if that fails.
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

impl ComponentInstanceState for MemoryReader<'_> {
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
