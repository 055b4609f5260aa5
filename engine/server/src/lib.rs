//! A server over HTTP: search and rewriting, and OpenAI's endpoints for the models and encoders that are there. This crate is
//! internal to Querywright and has no stable interface: depend on `querywright` instead.
//!
//! [`Service`] holds what is served, [`Server`] answers connections. A request goes through the same stages whatever it asks
//! for (`request.rs`): its key, its size, its turn, its handler, its metrics. Handlers block on threads of their own; the
//! stack's deadline holds for the whole of a request, the wait for its turn included.
//!
//! ```no_run
//! use querywright_server::{Engine, Server, ServerConfig, Service};
//! # fn stack() -> querywright_stack::Stack { unimplemented!() }
//!
//! # fn main() -> querywright_types::Result<()> {
//! let service = Service::new(ServerConfig::default())?.engine(Engine::new("shop", stack()));
//! Server::bind(service)?.run()
//! # }
//! ```
#![deny(missing_docs, missing_debug_implementations)]
#![warn(unreachable_pub)]

mod admission;
mod asynchronous;
mod config;
mod engine;
mod error;
mod events;
mod keys;
mod metrics;
mod openai;
mod operate;
#[cfg(any(feature = "model", feature = "dense"))]
mod quota;
mod request;
mod routes;
mod runs;
mod search;
mod server;
mod service;
#[cfg(feature = "otel")]
mod traces;
#[cfg(not(feature = "otel"))]
#[path = "no_traces.rs"]
mod traces;

pub use asynchronous::AsyncStack;
pub use config::{LimitsConfig, ServerConfig};
pub use engine::Engine;
pub use keys::Keys;
pub use server::{Server, Stop};
pub use service::{Loaded, Loader, Service};
#[cfg(feature = "otel")]
pub use traces::Traces;

#[cfg(test)]
mod tests;
