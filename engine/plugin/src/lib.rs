//! Recommenders of third parties in a sandbox: WebAssembly components behind one contract (`wit/`).
//!
//! ```text
//! component ── inspect ── instrument ── load, commit ── snapshot ── compile ──> pool of instances ──> Ranking or Fault
//!     │ digest, imports      │ wizer        │ limits                   │ cache     │ copy-on-write
//!  manifest ∩ grant ─────────┴──────────────┴───────── host interfaces ────────────┘
//! ```
//!
//! A [`Plugin`] is a [`Retriever`](crate::types::Retriever). While it is prepared it loads the catalogue; then its memory
//! is taken into a new component, from which every instance begins. A trap, a limit or an answer that breaks the contract
//! is a typed [`Fault`](crate::error::Fault) of one request; the instance is thrown away and the next request finds another.
//! [`check`] reports whether a component keeps the contract and what it costs; [`PluginSlot`] exchanges one for
//! another.
//!
//! # What it may do
//!
//! A plugin comes with a manifest, `plugin.toml`, that pins the component by its digest and names every host interface
//! that it wants ([`Manifest`]). The embedder decides what plugins may have ([`Grant`]). A plugin gets the intersection
//! of the two ([`Manifest::grant`] → [`Capabilities`]); nothing is allowed that was not both asked for and granted.
//! The interfaces themselves are described in `wit/`.
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

use querywright_data::catalog;
use querywright_types::{self as types, error};

mod answer;
mod cache;
mod capability;
mod check;
mod contract;
mod host;
mod inspect;
mod interfaces;
mod limits;
mod manifest;
mod meter;
mod prepare;
mod reload;
mod runtime;
mod services;
mod system;
mod web;

pub use capability::{Capabilities, Grant, Wanted};
pub use check::{CheckCost, CheckItem, CheckReport, check};
pub use host::{Plugin, PluginOptions, Reuse};
pub use inspect::Inspection;
pub use limits::Limits;
pub use manifest::Manifest;
pub use reload::PluginSlot;
pub use runtime::Metering;
pub use services::{LogLevel, LogSink, Services, TextEncoder};

use crate::error::Error;

/// A plugin that cannot be used.
fn refusal(name: &str, found: impl Into<String>, remedy: impl Into<String>) -> Error {
    Error::Plugin { name: name.to_owned(), found: found.into(), remedy: remedy.into() }
}

/// Lower-case hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
