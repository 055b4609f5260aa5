//! The system that a plugin meets where its language expects one: WASI 0.2 that grants nothing.
//!
//! What runs Python or JavaScript, and what Rust builds for `wasm32-wasip2`, imports WASI whether a program uses it or
//! not. Here every function of it answers by the type of its result, with as little as that type can say: no arguments,
//! no variables, no folders; where a function can fail it fails, as a closed stream or as access denied. The exceptions:
//!
//! | interface | answers |
//! |---|---|
//! | `random` | the same numbers in every call, so that the same request has the same answer |
//! | `clocks` | 1970-01-01; the monotonic clock goes on by a microsecond each time it is read, and never back |
//! | `io/poll` | everything is ready |
//! | `cli/stdout`, `cli/stderr` | what is written goes to the plugin's log, where that was granted |
//! | `cli/exit` | ends the call as a trap |

use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use wasmtime::StoreContextMut;
use wasmtime::component::types::{ComponentFunc, ComponentItem};
use wasmtime::component::{Component, Linker, Resource, ResourceType, Type, Val};

use super::interfaces::State;
use super::services::LogLevel;

/// Packages of WASI that are answered.
const PACKAGES: [&str; 6] = ["cli", "clocks", "filesystem", "io", "random", "sockets"];
/// Their version: any patch of it.
const VERSION: &str = "0.2.";

/// Random bytes that are given at once.
const MOST_RANDOM: usize = 64 << 10;

/// Bytes of the host's memory that an answer may take: a component chooses the types, and types can be large.
const MOST_SAID: usize = 64 << 10;

/// Handles that an instance may hold.
const MOST_HANDLES: u32 = 256;

/// Whether an import is of the system that plugins may meet.
pub(super) fn knows(import: &str) -> bool {
    let parts = import.strip_prefix("wasi:").and_then(|rest| rest.split_once('/'));
    let Some((package, (_, version))) = parts.and_then(|(p, rest)| Some((p, rest.split_once('@')?))) else {
        return false;
    };
    PACKAGES.contains(&package) && version.starts_with(VERSION)
}

/// What an instance has of the system.
#[derive(Debug, Default)]
pub(super) struct System {
    handles: u32,
    reads_of_clock: u64,
    random: Option<ChaCha8Rng>,
}

impl System {
    /// Handles that the instance holds.
    pub(super) fn handles(&self) -> u32 {
        self.handles
    }

    /// For an instance whose memory is of after `load`: the clock has gone on.
    pub(super) fn resume(&mut self) {
        self.reads_of_clock = 1 << 40;
    }

    /// A call begins.
    pub(super) fn begin(&mut self) {
        self.random = None;
    }

    fn random(&mut self) -> &mut ChaCha8Rng {
        self.random.get_or_insert_with(|| ChaCha8Rng::seed_from_u64(0))
    }
}

/// Behind every handle; its number says what is written to.
struct Handle;
const NOWHERE: u32 = 0;
const STDOUT: u32 = 1;
const STDERR: u32 = 2;

/// Defines what of the system a component imports.
pub(super) fn add_to_linker(linker: &mut Linker<State>, component: &Component) -> wasmtime::Result<()> {
    let engine = linker.engine().clone();
    for (name, import) in component.component_type().imports(&engine) {
        let ComponentItem::ComponentInstance(interface) = import.ty else { continue };
        if !knows(name) {
            continue;
        }
        let short = name.split_once('@').map_or(name, |(short, _)| short);
        let mut defined = linker.instance(name)?;
        for (item, export) in interface.exports(&engine) {
            match export.ty {
                ComponentItem::Resource(_) => {
                    defined.resource(item, ResourceType::host::<Handle>(), |mut store, _| {
                        let system = &mut store.data_mut().system;
                        system.handles = system.handles.saturating_sub(1);
                        Ok(())
                    })?;
                }
                ComponentItem::ComponentFunc(_) => {
                    let function = format!("{short}#{item}");
                    defined.func_new(item, move |mut store, ty, parameters, results| {
                        answer(&mut store, &function, &ty, parameters, results)
                    })?;
                }
                _ => {}
            }
        }
    }
    Ok(())
}

type Context<'a> = StoreContextMut<'a, State>;

fn answer(
    store: &mut Context<'_>,
    function: &str,
    ty: &ComponentFunc,
    parameters: &[Val],
    results: &mut [Val],
) -> wasmtime::Result<()> {
    let mut given = Vec::new();
    for parameter in parameters {
        give_back(store, parameter, &mut given)?;
    }
    let mut said = exception(store, function, parameters, given.first().copied())?;
    let mut budget = MOST_SAID;
    for (result, ty) in results.iter_mut().zip(ty.results()) {
        *result = match said.take() {
            Some(value) => value,
            None => least(store, &ty, &mut budget)?,
        };
    }
    Ok(())
}

/// Ends the loans of handles that came as parameters, and takes those that were given away; `given` gets their numbers.
fn give_back(store: &mut Context<'_>, value: &Val, given: &mut Vec<u32>) -> wasmtime::Result<()> {
    match value {
        Val::Resource(handle) => {
            let handle = handle.try_into_resource::<Handle>(&mut *store)?;
            if handle.owned() {
                let system = &mut store.data_mut().system;
                system.handles = system.handles.saturating_sub(1);
            }
            given.push(handle.rep());
            Ok(())
        }
        Val::List(values) | Val::Tuple(values) => values.iter().try_for_each(|value| give_back(store, value, given)),
        Val::Record(fields) => fields.iter().try_for_each(|(_, value)| give_back(store, value, given)),
        Val::Variant(_, Some(value)) | Val::Option(Some(value)) | Val::Result(Ok(Some(value)) | Err(Some(value))) => {
            give_back(store, value, given)
        }
        _ => Ok(()),
    }
}

/// What is answered in another way than by its type alone. `stream` is the number of the first handle that was given.
fn exception(
    store: &mut Context<'_>,
    function: &str,
    parameters: &[Val],
    stream: Option<u32>,
) -> wasmtime::Result<Option<Val>> {
    const DONE: Val = Val::Result(Ok(None));
    let state = store.data_mut();
    Ok(Some(match (function, parameters) {
        (
            "wasi:random/random#get-random-bytes" | "wasi:random/insecure#get-insecure-random-bytes",
            [Val::U64(count)],
        ) => {
            let count = usize::try_from(*count).ok().filter(|count| *count <= MOST_RANDOM);
            let Some(count) = count else {
                wasmtime::bail!("it asked for more than {MOST_RANDOM} random bytes at once")
            };
            let mut bytes = vec![0; count];
            state.system.random().fill_bytes(&mut bytes);
            Val::List(bytes.into_iter().map(Val::U8).collect())
        }
        ("wasi:random/random#get-random-u64" | "wasi:random/insecure#get-insecure-random-u64", _) => {
            Val::U64(state.system.random().next_u64())
        }
        ("wasi:clocks/monotonic-clock#now", _) => {
            state.system.reads_of_clock += 1;
            Val::U64(state.system.reads_of_clock * 1000)
        }
        ("wasi:io/poll#poll", [Val::List(all)]) => Val::List((0..).zip(all).map(|(nth, _)| Val::U32(nth)).collect()),
        ("wasi:io/poll#[method]pollable.ready", _) => Val::Bool(true),
        ("wasi:io/streams#[method]output-stream.check-write", _) => Val::Result(Ok(Some(Box::new(Val::U64(4096))))),
        (
            "wasi:io/streams#[method]output-stream.write"
            | "wasi:io/streams#[method]output-stream.blocking-write-and-flush",
            [_, Val::List(bytes)],
        ) => {
            let bytes: Vec<u8> = bytes.iter().map(|b| if let Val::U8(b) = b { *b } else { b'?' }).collect();
            let level = if stream == Some(STDERR) { LogLevel::Error } else { LogLevel::Info };
            if stream.is_some_and(|stream| stream != NOWHERE) {
                String::from_utf8_lossy(&bytes).lines().for_each(|line| state.log(level, line));
            }
            DONE
        }
        (
            "wasi:io/streams#[method]output-stream.flush"
            | "wasi:io/streams#[method]output-stream.blocking-flush"
            | "wasi:io/streams#[method]output-stream.write-zeroes"
            | "wasi:io/streams#[method]output-stream.blocking-write-zeroes-and-flush",
            _,
        ) => DONE,
        ("wasi:cli/stdout#get-stdout", _) => handle(store, STDOUT)?,
        ("wasi:cli/stderr#get-stderr", _) => handle(store, STDERR)?,
        ("wasi:cli/exit#exit" | "wasi:cli/exit#exit-with-code", _) => wasmtime::bail!("it called {function}"),
        _ => return Ok(None),
    }))
}

fn handle(store: &mut Context<'_>, rep: u32) -> wasmtime::Result<Val> {
    let system = &mut store.data_mut().system;
    if system.handles >= MOST_HANDLES {
        wasmtime::bail!("it holds {MOST_HANDLES} handles of the system and asked for another");
    }
    system.handles += 1;
    Ok(Val::Resource(Resource::<Handle>::new_own(rep).try_into_resource_any(&mut *store)?))
}

/// The least that a type can say, within the bytes that are left.
fn least(store: &mut Context<'_>, ty: &Type, left: &mut usize) -> wasmtime::Result<Val> {
    /// Cases that say "no", the fittest first.
    const DENIALS: [&str; 4] = ["closed", "access-denied", "access", "not-supported"];
    fn take(left: &mut usize, bytes: usize) -> wasmtime::Result<()> {
        match left.checked_sub(bytes) {
            Some(rest) => *left = rest,
            None => wasmtime::bail!("the system of plugins answers at most {MOST_SAID} bytes, and this type has more"),
        }
        Ok(())
    }
    fn name(left: &mut usize, name: &str) -> wasmtime::Result<String> {
        take(left, name.len())?;
        Ok(name.to_owned())
    }
    fn boxed(store: &mut Context<'_>, ty: Option<Type>, left: &mut usize) -> wasmtime::Result<Option<Box<Val>>> {
        ty.map(|ty| least(store, &ty, left).map(Box::new)).transpose()
    }
    take(left, size_of::<Val>())?;
    Ok(match ty {
        Type::Bool => Val::Bool(false),
        Type::S8 => Val::S8(0),
        Type::U8 => Val::U8(0),
        Type::S16 => Val::S16(0),
        Type::U16 => Val::U16(0),
        Type::S32 => Val::S32(0),
        Type::U32 => Val::U32(0),
        Type::S64 => Val::S64(0),
        Type::U64 => Val::U64(0),
        Type::Float32 => Val::Float32(0.0),
        Type::Float64 => Val::Float64(0.0),
        Type::Char => Val::Char('\0'),
        Type::String => Val::String(String::new()),
        Type::List(_) => Val::List(Vec::new()),
        Type::Option(_) => Val::Option(None),
        Type::Flags(_) => Val::Flags(Vec::new()),
        Type::Record(record) => {
            let mut fields = Vec::new();
            for field in record.fields() {
                fields.push((name(left, field.name)?, least(store, &field.ty, left)?));
            }
            Val::Record(fields)
        }
        Type::Tuple(tuple) => {
            Val::Tuple(tuple.types().map(|ty| least(store, &ty, left)).collect::<wasmtime::Result<_>>()?)
        }
        Type::Result(result) => Val::Result(Err(boxed(store, result.err(), left)?)),
        Type::Enum(cases) => {
            let fitting = DENIALS.iter().find_map(|denial| cases.names().find(|name| name == denial));
            Val::Enum(name(left, fitting.or_else(|| cases.names().next()).unwrap_or(""))?)
        }
        Type::Variant(variant) => {
            let fitting = DENIALS.iter().find_map(|denial| variant.cases().find(|case| case.name == *denial));
            match fitting.or_else(|| variant.cases().next()) {
                Some(case) => Val::Variant(name(left, case.name)?, boxed(store, case.ty, left)?),
                None => wasmtime::bail!("a variant without a case"),
            }
        }
        Type::Own(_) => handle(store, NOWHERE)?,
        other => wasmtime::bail!("the system of plugins has no value of the type {other:?}"),
    })
}

#[cfg(test)]
mod tests {
    use super::knows;

    #[test]
    fn the_system_is_wasi_02_without_the_web() {
        for import in ["wasi:cli/stdout@0.2.9", "wasi:io/poll@0.2.0", "wasi:sockets/tcp@0.2.3"] {
            assert!(knows(import), "{import}");
        }
        for import in
            ["wasi:http/types@0.2.0", "wasi:cli/stdout@0.3.0", "wasi:cli/stdout", "querywright:plugin/log@0.1.0"]
        {
            assert!(!knows(import), "{import}");
        }
    }
}
