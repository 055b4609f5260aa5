//! The wasmtime engines that run a plugin: one that loads it, and one with a pool of instances that serves it.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use wasmtime::{Config, Engine, EngineWeak, InstanceAllocationStrategy, PoolingAllocationConfig, Strategy};

use super::inspect::Inspection;
use super::limiter::{MOST_PARTS, SNAPSHOT_BYTES, SNAPSHOT_MODULES};
use super::limits::Limits;

/// What bounds a call of a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Metering {
    /// The clock, [`Limits::call_ms`]: cheap, for serving. The default.
    #[default]
    Clock,
    /// Instructions, [`Limits::fuel`], with a fresh instance for each request. A request has the same answer or the
    /// same fault every time, which training and benchmarks need. A byte that crosses to the host or back takes fuel as
    /// an instruction does, and a text that is encoded takes what a small encoder would. HTTP is still bounded by
    /// [`Limits::call_ms`]. As a backstop a call ends after ten times its time by the clock, and a minute at least. That
    /// fault says that it is not reproducible.
    Fuel,
}

/// How often the epoch of every engine advances.
pub(super) const TICK: Duration = Duration::from_millis(2);

/// Bytes of the stack of WebAssembly code.
pub(super) const STACK: usize = 512 << 10;

/// Bytes that may leave a plugin in one answer, whatever the limits say.
const ANSWER: usize = 16 << 20;

/// Bytes that may leave a plugin at once: an answer, or the arguments of a host function.
pub(super) fn hostcall_bytes(limits: &Limits) -> usize {
    usize::try_from(limits.host_bytes).unwrap_or(usize::MAX).max(ANSWER)
}

/// Only features that behave the same on every machine: no threads, no relaxed SIMD.
fn config(metering: Metering) -> Config {
    let mut config = Config::new();
    config
        .strategy(Strategy::Cranelift)
        .wasm_component_model(true)
        .wasm_relaxed_simd(false)
        .wasm_memory64(false)
        .max_wasm_stack(STACK)
        // By fuel too, as a backstop: a call that fuel does not end must end.
        .epoch_interruption(true)
        .consume_fuel(metering == Metering::Fuel)
        .cranelift_nan_canonicalization(metering == Metering::Fuel);
    config
}

/// An engine for the one instance that loads the catalogue.
pub(super) fn for_loading(metering: Metering) -> wasmtime::Result<Engine> {
    let mut config = config(metering);
    // One instance is made. An image of its memory for the next one would only take memory while it is compiled.
    config.memory_init_cow(false);
    advance_epochs(Engine::new(&config)?)
}

/// An engine with a pool of [`Limits::instances`] instances over shared copy-on-write images of the snapshot.
pub(super) fn for_serving(metering: Metering, limits: &Limits, component: &Inspection) -> wasmtime::Result<Engine> {
    let count = u32::try_from(limits.instances).unwrap_or(u32::MAX);
    let bounded = |parts: usize| u32::try_from(parts.min(MOST_PARTS)).unwrap_or(u32::MAX);
    let modules = bounded(component.modules) + SNAPSHOT_MODULES as u32;
    let (memories, tables) = (bounded(component.memories), bounded(component.tables));
    let memory_bytes = (limits.memory_mib << 20) + SNAPSHOT_BYTES;
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(count)
        .total_core_instances(count.saturating_mul(modules))
        .total_memories(count.saturating_mul(memories))
        .total_tables(count.saturating_mul(tables))
        .max_core_instances_per_component(modules)
        .max_memories_per_component(memories)
        .max_tables_per_component(tables)
        .table_elements(usize::try_from(limits.table_elements).unwrap_or(usize::MAX))
        .max_memory_size(usize::try_from(memory_bytes).unwrap_or(usize::MAX))
        .max_unused_warm_slots(count);
    let mut config = config(metering);
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool)).memory_init_cow(true);
    // A snapshot of a large index is one large image, not many small segments.
    config.memory_guaranteed_dense_image_size(memory_bytes);
    advance_epochs(Engine::new(&config)?)
}

/// Has one thread advance the epoch of this engine, and of all others, as long as it lives.
fn advance_epochs(engine: Engine) -> wasmtime::Result<Engine> {
    /// None if the thread could not be started. Then no plugin may run.
    static ENGINES: OnceLock<Option<Mutex<Vec<EngineWeak>>>> = OnceLock::new();
    let engines = ENGINES.get_or_init(|| {
        let tick = || loop {
            std::thread::sleep(TICK);
            if let Some(Some(engines)) = ENGINES.get() {
                let mut engines = engines.lock().unwrap_or_else(PoisonError::into_inner);
                engines.retain(|engine| engine.upgrade().map(|engine| engine.increment_epoch()).is_some());
            }
        };
        let clock = std::thread::Builder::new().name("plugin-clock".into()).spawn(tick);
        clock.is_ok().then(|| Mutex::new(Vec::new()))
    });
    let Some(engines) = engines else { wasmtime::bail!("no thread could be started for the clock of plugins") };
    engines.lock().unwrap_or_else(PoisonError::into_inner).push(engine.weak());
    Ok(engine)
}
