//! WASI 0.2 that grants nothing, for languages that expect an operating system.
//!
//! The runtimes of Python and JavaScript, and Rust for `wasm32-wasip2`, import WASI whether a program uses it or not.
//! Here every function returns the minimal value of its result type: no arguments, no variables, no folders. A function
//! that can fail does fail, with "closed" or "access-denied". The exceptions:
//!
//! | interface | returns |
//! |---|---|
//! | `random` | the same numbers in every call, so that the same request has the same answer |
//! | `clocks` | 1970-01-01; the monotonic clock advances by a microsecond each time it is read |
//! | `io/poll` | everything is ready |
//! | `cli/stdout`, `cli/stderr` | a stream to the plugin's log, if that was granted |
//! | `cli/exit` | nothing: it ends the call as a trap |

use rand::RngCore;
use wasmtime::StoreContextMut;
use wasmtime::component::types::{ComponentFunc, ComponentInstance, ComponentItem, Variant};
use wasmtime::component::{Component, Linker, LinkerInstance, Resource, ResourceType, Type, Val};

use super::fuel::charge;
use super::services::LogLevel;
use super::state::State;
use querywright_types::Error;

/// The packages of WASI that exist here.
const PACKAGES: [&str; 6] = ["cli", "clocks", "filesystem", "io", "random", "sockets"];
/// Their version, with any patch.
const VERSION: &str = "0.2.";

/// Random bytes of one request for some.
const MOST_RANDOM: usize = 64 << 10;

/// Host memory that one return value may take, in bytes. A component chooses the types, and types can be large.
const MOST_RETURNED: usize = 64 << 10;

/// Handles that an instance may hold.
const MOST_HANDLES: u32 = 256;

/// Bytes that a stream takes at once.
const STREAM_ROOM: u64 = 4096;

/// Whether an import is an interface of WASI that exists here.
pub(super) fn provides(import: &str) -> bool {
    let parts = import.strip_prefix("wasi:").and_then(|rest| rest.split_once('/'));
    let Some((package, (_, version))) = parts.and_then(|(p, rest)| Some((p, rest.split_once('@')?))) else {
        return false;
    };
    PACKAGES.contains(&package) && version.starts_with(VERSION)
}

/// The type behind every handle. The handle's number says where a stream writes to.
struct Handle;
const NOWHERE: u32 = 0;
const STDOUT: u32 = 1;
const STDERR: u32 = 2;

type Context<'a> = StoreContextMut<'a, State>;

/// Defines the WASI interfaces that a component imports.
pub(super) fn add_to_linker(linker: &mut Linker<State>, component: &Component) -> wasmtime::Result<()> {
    let engine = linker.engine().clone();
    for (name, import) in component.component_type().imports(&engine) {
        match import.ty {
            ComponentItem::ComponentInstance(interface) if provides(name) => {
                define_interface(&mut linker.instance(name)?, name, &interface, &engine)?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn define_interface(
    linker: &mut LinkerInstance<'_, State>,
    name: &str,
    interface: &ComponentInstance,
    engine: &wasmtime::Engine,
) -> wasmtime::Result<()> {
    let unversioned = name.split_once('@').map_or(name, |(name, _)| name);
    for (item, export) in interface.exports(engine) {
        match export.ty {
            ComponentItem::Resource(_) => {
                linker.resource(item, ResourceType::host::<Handle>(), |mut store, _| release(store.data_mut()))?;
            }
            ComponentItem::ComponentFunc(_) => {
                let function = format!("{unversioned}#{item}");
                linker.func_new(item, move |mut store, ty, parameters, results| {
                    call(&mut store, &function, &ty, parameters, results)
                })?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// One call of a WASI function.
fn call(
    store: &mut Context<'_>,
    function: &str,
    ty: &ComponentFunc,
    parameters: &[Val],
    results: &mut [Val],
) -> wasmtime::Result<()> {
    charge(store, parameters.iter().map(bytes).sum())?;
    let mut handles = Vec::new();
    for parameter in parameters {
        receive_handles(store, parameter, &mut handles)?;
    }
    let mut special = special_value(store, function, parameters, handles.first().copied())?;
    let mut minimal = MinimalValue { store, bytes_left: MOST_RETURNED };
    for (result, ty) in results.iter_mut().zip(ty.results()) {
        *result = match special.take() {
            Some(value) => value,
            None => minimal.of(&ty)?,
        };
    }
    charge(store, results.iter().map(bytes).sum())
}

/// Bytes of a value as it crosses, roughly: one for each scalar and for each byte of a string.
fn bytes(value: &Val) -> usize {
    match value {
        Val::String(text) => text.len(),
        Val::List(values) | Val::Tuple(values) => values.iter().map(bytes).sum(),
        Val::Record(fields) => fields.iter().map(|(_, value)| bytes(value)).sum(),
        Val::Variant(_, Some(value)) | Val::Option(Some(value)) | Val::Result(Ok(Some(value)) | Err(Some(value))) => {
            1 + bytes(value)
        }
        _ => 1,
    }
}

/// Ends the borrows of handles in a parameter, and takes over those that were passed by value. Their numbers are added
/// to `handles`.
fn receive_handles(store: &mut Context<'_>, value: &Val, handles: &mut Vec<u32>) -> wasmtime::Result<()> {
    match value {
        Val::Resource(handle) => {
            let handle = handle.try_into_resource::<Handle>(&mut *store)?;
            if handle.owned() {
                release(store.data_mut())?;
            }
            handles.push(handle.rep());
            Ok(())
        }
        Val::List(values) | Val::Tuple(values) => {
            values.iter().try_for_each(|value| receive_handles(store, value, handles))
        }
        Val::Record(fields) => fields.iter().try_for_each(|(_, value)| receive_handles(store, value, handles)),
        Val::Variant(_, Some(value)) | Val::Option(Some(value)) | Val::Result(Ok(Some(value)) | Err(Some(value))) => {
            receive_handles(store, value, handles)
        }
        _ => Ok(()),
    }
}

/// Gives an instance another handle.
fn acquire(store: &mut Context<'_>, number: u32) -> wasmtime::Result<Val> {
    let wasi = &mut store.data_mut().wasi;
    if wasi.handles >= MOST_HANDLES {
        wasmtime::bail!("it holds {MOST_HANDLES} WASI handles and asked for another");
    }
    wasi.handles += 1;
    Ok(Val::Resource(Resource::<Handle>::new_own(number).try_into_resource_any(&mut *store)?))
}

/// An instance has one handle less.
fn release(state: &mut State) -> wasmtime::Result<()> {
    let left = state.wasi.handles.checked_sub(1);
    state.wasi.handles = left.ok_or_else(|| Error::bug("plugin WASI", "a handle was dropped that was never given"))?;
    Ok(())
}

/// The value of the functions that return more than the minimal one. `stream` is the number of the first handle among
/// the parameters.
fn special_value(
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
        ) => random_bytes(state, *count)?,
        ("wasi:random/random#get-random-u64" | "wasi:random/insecure#get-insecure-random-u64", _) => {
            Val::U64(state.wasi.random().next_u64())
        }
        ("wasi:clocks/monotonic-clock#now", _) => {
            state.wasi.clock_reads += 1;
            Val::U64(state.wasi.clock_reads * 1000)
        }
        ("wasi:io/poll#poll", [Val::List(all)]) => Val::List((0..).zip(all).map(|(nth, _)| Val::U32(nth)).collect()),
        ("wasi:io/poll#[method]pollable.ready", _) => Val::Bool(true),
        ("wasi:io/streams#[method]output-stream.check-write", _) => {
            Val::Result(Ok(Some(Box::new(Val::U64(STREAM_ROOM)))))
        }
        (
            "wasi:io/streams#[method]output-stream.write"
            | "wasi:io/streams#[method]output-stream.blocking-write-and-flush",
            [_, Val::List(bytes)],
        ) => {
            write(state, stream, bytes);
            DONE
        }
        (
            "wasi:io/streams#[method]output-stream.flush"
            | "wasi:io/streams#[method]output-stream.blocking-flush"
            | "wasi:io/streams#[method]output-stream.write-zeroes"
            | "wasi:io/streams#[method]output-stream.blocking-write-zeroes-and-flush",
            _,
        ) => DONE,
        ("wasi:cli/stdout#get-stdout", _) => acquire(store, STDOUT)?,
        ("wasi:cli/stderr#get-stderr", _) => acquire(store, STDERR)?,
        ("wasi:cli/exit#exit" | "wasi:cli/exit#exit-with-code", _) => wasmtime::bail!("it called {function}"),
        _ => return Ok(None),
    }))
}

fn random_bytes(state: &mut State, count: u64) -> wasmtime::Result<Val> {
    let Some(count) = usize::try_from(count).ok().filter(|count| *count <= MOST_RANDOM) else {
        wasmtime::bail!("it asked for more than {MOST_RANDOM} random bytes at once")
    };
    let mut bytes = vec![0; count];
    state.wasi.random().fill_bytes(&mut bytes);
    Ok(Val::List(bytes.into_iter().map(Val::U8).collect()))
}

/// Logs what was written to standard output or standard error, line by line.
fn write(state: &mut State, stream: Option<u32>, bytes: &[Val]) {
    let bytes: Vec<u8> = bytes.iter().map(|b| if let Val::U8(b) = b { *b } else { b'?' }).collect();
    let level = if stream == Some(STDERR) { LogLevel::Error } else { LogLevel::Info };
    if stream.is_some_and(|stream| stream != NOWHERE) {
        String::from_utf8_lossy(&bytes).lines().for_each(|line| state.log(level, line));
    }
}

/// The cases of an enum or a variant that mean "no", the most fitting first.
const DENIALS: [&str; 4] = ["closed", "access-denied", "access", "not-supported"];

/// Makes the minimal value of a type: zero, empty, none, or an error that means "no".
struct MinimalValue<'s, 'a> {
    store: &'s mut Context<'a>,
    /// Host memory that the rest of the return value may take.
    bytes_left: usize,
}

impl MinimalValue<'_, '_> {
    fn of(&mut self, ty: &Type) -> wasmtime::Result<Val> {
        self.take(size_of::<Val>())?;
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
                    fields.push((self.name(field.name)?, self.of(&field.ty)?));
                }
                Val::Record(fields)
            }
            Type::Tuple(tuple) => Val::Tuple(tuple.types().map(|ty| self.of(&ty)).collect::<wasmtime::Result<_>>()?),
            Type::Result(result) => Val::Result(Err(self.boxed(result.err())?)),
            Type::Enum(cases) => {
                let denial = DENIALS.iter().find_map(|denial| cases.names().find(|name| name == denial));
                Val::Enum(self.name(denial.or_else(|| cases.names().next()).unwrap_or(""))?)
            }
            Type::Variant(variant) => self.variant(variant)?,
            Type::Own(_) => acquire(self.store, NOWHERE)?,
            other => wasmtime::bail!("WASI has no value of the type {other:?} here"),
        })
    }

    fn variant(&mut self, variant: &Variant) -> wasmtime::Result<Val> {
        let denial = DENIALS.iter().find_map(|denial| variant.cases().find(|case| case.name == *denial));
        match denial.or_else(|| variant.cases().next()) {
            Some(case) => Ok(Val::Variant(self.name(case.name)?, self.boxed(case.ty)?)),
            None => wasmtime::bail!("a variant without a case"),
        }
    }

    fn boxed(&mut self, ty: Option<Type>) -> wasmtime::Result<Option<Box<Val>>> {
        ty.map(|ty| self.of(&ty).map(Box::new)).transpose()
    }

    fn name(&mut self, name: &str) -> wasmtime::Result<String> {
        self.take(name.len())?;
        Ok(name.to_owned())
    }

    fn take(&mut self, bytes: usize) -> wasmtime::Result<()> {
        match self.bytes_left.checked_sub(bytes) {
            Some(left) => self.bytes_left = left,
            None => wasmtime::bail!("WASI answers at most {MOST_RETURNED} bytes here, and this type has more"),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::provides;

    #[test]
    fn wasi_02_is_provided_without_http_and_without_other_versions() {
        for import in ["wasi:cli/stdout@0.2.9", "wasi:io/poll@0.2.0", "wasi:sockets/tcp@0.2.3"] {
            assert!(provides(import), "{import}");
        }
        for import in
            ["wasi:http/types@0.2.0", "wasi:cli/stdout@0.3.0", "wasi:cli/stdout", "querywright:plugin/log@0.1.0"]
        {
            assert!(!provides(import), "{import}");
        }
    }
}
