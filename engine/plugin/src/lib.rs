//! Recommenders of third parties in a sandbox: WebAssembly components behind one contract (`wit/`).
//!
//! ```text
//! component ── inspect ── instrument ── load, commit ── snapshot ── compile ──> pool of instances ──> Ranking or Fault
//!     │ digest, imports      │ wizer        │ limits                   │ cache     │ copy-on-write
//!  manifest ∩ grant ─────────┴──────────────┴──────────── host functions ──────────┘
//! ```
//!
//! A [`Plugin`] is a [`Retriever`](querywright_types::Retriever). It loads the catalogue once. Then the host takes a
//! snapshot of its memory, and every instance starts from that. A trap, a limit that was reached, or an answer that
//! breaks the contract is a typed [`Fault`](querywright_types::Fault) of one request. The instance is dropped, and the next
//! request gets a fresh one. [`check`] reports whether a component keeps the contract and what it costs. [`PluginSlot`]
//! replaces a plugin by another one while it serves.
//!
//! # Capabilities
//!
//! A plugin comes with a manifest, `plugin.toml`. It pins the component by its digest and names every host interface
//! that the plugin asks for ([`Manifest`]). The embedder decides what plugins may have ([`Grant`]). A plugin gets the
//! intersection of the two ([`Manifest::grant`] → [`Capabilities`]). `wit/` describes the interfaces.
//!
//! ```
//! use querywright_plugin_host::{Grant, Manifest};
//!
//! let manifest = Manifest::parse(
//!     r#"
//!     id = "acme/attributes"
//!     version = "1.2.0"
//!     sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
//!
//!     [capabilities]
//!     log = true
//!     http = ["api.example.com"]
//!     "#,
//!     "plugin.toml",
//! )?;
//! let capabilities = manifest.grant(&Grant { log: true, ..Grant::default() });
//! assert!(capabilities.log && capabilities.http.is_empty());
//! # Ok::<(), querywright_types::Error>(())
//! ```
//!
//! # Where to find what
//!
//! | file | holds |
//! |---|---|
//! | `limits`, `limiter`, `budget`, `fuel` | the settings; memory, tables and bytes of an instance; time and fuel of a call |
//! | `manifest`, `capability`, `services` | what a plugin asks for, what it gets, what the embedder provides |
//! | `inspect`, `workload`, `compile_work` | what a component holds, and what compiling it would take |
//! | `load`, `snapshot`, `compile`, `cache` | from a file to a component that has loaded the catalogue |
//! | `engine`, `pool`, `instance`, `retriever` | the wasmtime engines, the instances, the calls, the `Retriever` |
//! | `host_functions`, `wasi`, `state` | what a plugin can import, and what the host keeps for an instance |
//! | `embed` | texts that the host encodes for a plugin: how many, on which threads, until when |
//! | `http`, `address`, `look_up` | requests of a plugin: to whom, and how many names are looked up at a time |
//! | `validate`, `failure`, `sanitize` | checks of an answer, reasons of a failure, text that a plugin wrote |
#![deny(missing_docs, missing_debug_implementations)]

mod address;
mod bindings;
mod budget;
mod cache;
mod capability;
mod check;
mod compile;
mod compile_work;
mod embed;
mod engine;
mod failure;
mod fuel;
mod host_functions;
mod http;
mod inspect;
mod instance;
mod limiter;
mod limits;
mod load;
mod look_up;
mod manifest;
mod options;
mod pool;
mod refusal;
mod reload;
mod retriever;
mod sanitize;
mod services;
mod snapshot;
mod state;
mod validate;
mod wasi;
mod workload;

pub use capability::{Capabilities, Grant, Wanted};
pub use check::{CheckCost, CheckItem, CheckReport, check};
pub use engine::Metering;
pub use inspect::Inspection;
pub use limits::Limits;
pub use manifest::Manifest;
pub use options::{PluginOptions, Reuse};
pub use reload::PluginSlot;
pub use retriever::Plugin;
pub use services::{LogLevel, LogSink, Services, TextEncoder, TextRole};
