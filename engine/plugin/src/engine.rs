//! The two machines that run a plugin: one that prepares it, and one with a pool that serves it.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use wasmtime::{
    Config, Engine, EngineWeak, InstanceAllocationStrategy, PoolingAllocationConfig, Store, Strategy, Trap,
};

use super::answer::words;
use super::interfaces::State;
use super::meter::{MOST_PARTS, READ_OUT};
use super::{Inspection, Limits};
use crate::error::FaultKind;

/// How calls are kept from running for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Metering {
    /// By the clock, [`Limits::call_ms`]: cheap, for serving.
    #[default]
    Clock,
    /// By instructions, [`Limits::fuel`], each request on a fresh instance: the same answer or the same fault every
    /// time, for training and benchmarks. HTTP is still bounded by [`Limits::call_ms`].
    Fuel,
}

/// How often the clock of all engines ticks.
const TICK: Duration = Duration::from_millis(2);
/// Bytes of the stack that plugin code has.
const STACK: usize = 512 << 10;

/// Features that do the same on every machine, and no others: no threads, no garbage collector.
fn config(metering: Metering) -> Config {
    let mut config = Config::new();
    config
        .strategy(Strategy::Cranelift)
        .wasm_component_model(true)
        .wasm_relaxed_simd(false)
        .wasm_memory64(false)
        .max_wasm_stack(STACK)
        .epoch_interruption(metering == Metering::Clock)
        .consume_fuel(metering == Metering::Fuel)
        .cranelift_nan_canonicalization(metering == Metering::Fuel);
    config
}

/// Bytes that may come out of a plugin at once: an answer, or what it gives to a host interface.
pub(super) fn crossing(limits: &Limits) -> usize {
    usize::try_from(limits.host_bytes).unwrap_or(usize::MAX).max(ANSWER)
}

/// Bytes of an answer at most.
const ANSWER: usize = 16 << 20;

/// Runs a plugin while it is prepared: instances are made one by one.
pub(super) fn preparing(metering: Metering) -> wasmtime::Result<Engine> {
    ticking(Engine::new(&config(metering))?)
}

/// Runs prepared plugins: as many instances as the limits allow, over shared copy-on-write images.
pub(super) fn serving(metering: Metering, limits: &Limits, parts: &Inspection) -> wasmtime::Result<Engine> {
    let count = u32::try_from(limits.instances).unwrap_or(u32::MAX);
    let each = |parts: usize| u32::try_from(parts.min(MOST_PARTS)).unwrap_or(u32::MAX);
    // Taking the snapshot adds a module or two.
    let (modules, memories, tables) = (each(parts.modules) + 2, each(parts.memories), each(parts.tables));
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(count)
        .total_core_instances(count.saturating_mul(modules))
        .total_memories(count.saturating_mul(memories))
        .total_tables(count.saturating_mul(tables))
        .max_core_instances_per_component(modules)
        .max_memories_per_component(memories)
        .max_tables_per_component(tables)
        .table_elements(usize::try_from(limits.table_elements).unwrap_or(usize::MAX))
        .max_memory_size(usize::try_from((limits.memory_mib << 20) + READ_OUT).unwrap_or(usize::MAX))
        .max_unused_warm_slots(count);
    let mut config = config(metering);
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool)).memory_init_cow(true);
    // A snapshot of a large index is one large image, not many small segments.
    config.memory_guaranteed_dense_image_size((limits.memory_mib << 20) + READ_OUT);
    ticking(Engine::new(&config)?)
}

/// Has the epoch of an engine advanced as long as it lives.
fn ticking(engine: Engine) -> wasmtime::Result<Engine> {
    /// None where there is no thread for the clock: then no plugin may run.
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
    let Some(engines) = engines else { wasmtime::bail!("there is no thread for the clock of plugins") };
    engines.lock().unwrap_or_else(PoisonError::into_inner).push(engine.weak());
    Ok(engine)
}

/// What one call may use.
#[derive(Debug, Clone, Copy)]
pub(super) struct Allowance {
    pub(super) time: Duration,
    pub(super) fuel: u64,
}

/// Gives a store what the next call may use.
pub(super) fn allow(store: &mut Store<State>, metering: Metering, allowance: Allowance) -> wasmtime::Result<()> {
    store.data_mut().meter.begin(allowance.time);
    match metering {
        Metering::Clock => {
            let ticks = allowance.time.as_nanos().div_ceil(TICK.as_nanos());
            store.set_epoch_deadline(u64::try_from(ticks).unwrap_or(u64::MAX).saturating_add(1));
            Ok(())
        }
        Metering::Fuel => store.set_fuel(allowance.fuel),
    }
}

/// What a failed call was, and a sentence that names the limit or the trap, with the plugin's own backtrace and its last
/// words.
pub(super) fn explain(error: &wasmtime::Error, store: &Store<State>, limit: &str) -> (FaultKind, String) {
    let ceiling = store.data().meter.hit.as_ref().map_or(String::new(), |hit| format!(" after it ran into {hit}"));
    let place = error.downcast_ref::<wasmtime::WasmBacktrace>().map_or(String::new(), |trace| {
        let frame = |frame: &wasmtime::FrameInfo| {
            frame.func_name().map_or_else(|| format!("function {}", frame.func_index()), words)
        };
        let frames: Vec<String> = trace.frames().iter().take(8).map(frame).collect();
        if frames.is_empty() { String::new() } else { format!("; in {}", frames.join(" < ")) }
    });
    let said = words(store.data().last_words.trim());
    let place = if said.is_empty() { place } else { format!("; it said: {said}{place}") };
    match error.downcast_ref::<Trap>() {
        Some(Trap::Interrupt) => (FaultKind::Timeout, format!("it ran longer than {limit}{place}")),
        Some(Trap::OutOfFuel) => (FaultKind::Trap, format!("it used up {limit}{place}")),
        Some(Trap::StackOverflow) => {
            (FaultKind::Trap, format!("its calls nest too deep for a stack of {} KiB", STACK >> 10))
        }
        Some(trap) => (FaultKind::Trap, format!("{trap}{ceiling}{place}")),
        None => (FaultKind::Trap, format!("{}{ceiling}{place}", error.root_cause())),
    }
}
