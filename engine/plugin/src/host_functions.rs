//! The host functions that a plugin imports: log, embed (`embed.rs`), artifact, http. A call that was not granted gets a typed
//! error, never a trap.

use std::sync::Arc;
use std::time::Duration;

use wasmtime::Engine;
use wasmtime::component::{Component, Linker};

use super::bindings::querywright::plugin::{artifact, http, log};
use super::bindings::{PACKAGE, VERSION};
use super::fuel::charge;
use super::services::{LogLevel, TextRole};
use super::state::State;
use super::{embed, http as client, wasi};

/// All host functions that a component may import: those of the contract, and those of WASI that it names. Each takes
/// fuel for the bytes that cross.
pub(super) fn linker(engine: &Engine, component: &Component) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    let interface = |name: &str| format!("{PACKAGE}/{name}@{VERSION}");
    linker.instance(&interface("types"))?;
    linker.instance(&interface("log"))?.func_wrap("write", |mut store, (level, message): (log::Level, String)| {
        charge(&mut store, message.len())?;
        log::Host::write(store.data_mut(), level, message);
        Ok(())
    })?;
    let mut encoder = linker.instance(&interface("embed"))?;
    encoder.func_wrap("dimensions", |mut store, (): ()| {
        charge(&mut store, 0)?;
        Ok((store.data().dimensions(),))
    })?;
    encoder
        .func_wrap("embed", |store, (texts,): (Vec<String>,)| Ok((embed::call(store, texts, TextRole::Document)?,)))?;
    encoder.func_wrap("embed-queries", |store, (texts,): (Vec<String>,)| {
        Ok((embed::call(store, texts, TextRole::Query)?,))
    })?;
    let mut artifact = linker.instance(&interface("artifact"))?;
    artifact.func_wrap("size", |mut store, (name,): (String,)| {
        charge(&mut store, name.len())?;
        Ok((artifact::Host::size(store.data_mut(), name),))
    })?;
    artifact.func_wrap("read", |mut store, (name, offset, length): (String, u64, u32)| {
        charge(&mut store, name.len())?;
        let bytes = artifact::Host::read(store.data_mut(), name, offset, length);
        charge(&mut store, bytes.as_ref().map_or(0, Vec::len))?;
        Ok((bytes,))
    })?;
    linker.instance(&interface("http"))?.func_wrap("send", |mut store, (request,): (http::Request,)| {
        charge(&mut store, client::size(&request))?;
        let response = http::Host::send(store.data_mut(), request);
        let size = |response: &http::Response| client::size_of_headers(&response.headers) + response.body.len();
        charge(&mut store, response.as_ref().map_or(0, size))?;
        Ok((response,))
    })?;
    wasi::add_to_linker(&mut linker, component)?;
    Ok(linker)
}

impl log::Host for State {
    fn write(&mut self, level: log::Level, message: String) {
        let level = match level {
            log::Level::Error => LogLevel::Error,
            log::Level::Warn => LogLevel::Warn,
            log::Level::Info => LogLevel::Info,
            log::Level::Debug => LogLevel::Debug,
        };
        self.log(level, &message);
    }
}

impl State {
    fn artifact(&self, name: &str) -> Result<Arc<[u8]>, artifact::ArtifactError> {
        let granted = self.capabilities.artifact.contains(name).then_some(());
        granted.and_then(|()| self.services.artifacts.get(name).cloned()).ok_or(artifact::ArtifactError::Unknown)
    }
}

impl artifact::Host for State {
    fn size(&mut self, name: String) -> Result<u64, artifact::ArtifactError> {
        Ok(self.artifact(&name)?.len() as u64)
    }

    fn read(&mut self, name: String, offset: u64, length: u32) -> Result<Vec<u8>, artifact::ArtifactError> {
        let bytes = self.artifact(&name)?;
        let from = usize::try_from(offset).map_err(|_| artifact::ArtifactError::OutOfRange)?;
        let to = from.checked_add(length as usize).ok_or(artifact::ArtifactError::OutOfRange)?;
        let range = bytes.get(from..to).ok_or(artifact::ArtifactError::OutOfRange)?;
        if !self.limiter.take_host_bytes(range.len()) {
            return Err(artifact::ArtifactError::TooLarge);
        }
        Ok(range.to_vec())
    }
}

impl http::Host for State {
    fn send(&mut self, request: http::Request) -> Result<http::Response, http::HttpError> {
        let time = self.limiter.time_left().min(Duration::from_millis(u64::from(request.timeout_ms)));
        // Counted before it is sent: a request that fails has cost as much.
        if !self.limiter.take_host_bytes(client::size(&request)) {
            return Err(http::HttpError::TooLarge);
        }
        let most = usize::try_from(self.limiter.host_bytes_left()).unwrap_or(usize::MAX);
        let mut received = 0;
        let response = client::send(&self.capabilities.http, &request, time, most, &mut received);
        if !self.limiter.take_host_bytes(received) {
            self.limiter.take_all_host_bytes();
            return Err(http::HttpError::TooLarge);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::super::capability::{Grant, Wanted};
    use super::*;

    #[test]
    fn a_request_that_fails_costs_the_bytes_of_its_host_call() {
        let hosts: std::collections::BTreeSet<String> = ["127.0.0.1:1".to_owned()].into();
        let wanted = Wanted { http: hosts.clone(), ..Wanted::default() };
        let grant = Grant { http: hosts, ..Grant::default() };
        let limits = super::super::limits::Limits { host_bytes: 2_000, ..Default::default() };
        let mut state = State::new(&"a".into(), &Arc::new(wanted.granted(&limits, &grant)), &Arc::default());
        state.limiter.start_call(Duration::from_secs(5), Duration::from_secs(5));
        let mut answers = Vec::new();
        for _ in 0..4 {
            let request = http::Request {
                method: http::Method::Get,
                url: "http://127.0.0.1:1/".into(),
                headers: Vec::new(),
                body: Vec::new(),
                timeout_ms: 1000,
            };
            answers.push(http::Host::send(&mut state, request).unwrap_err());
        }
        assert!(matches!(answers[0], http::HttpError::Network(_)), "nobody listens there: {answers:?}");
        assert!(matches!(answers[3], http::HttpError::TooLarge), "{answers:?}");
    }
}
