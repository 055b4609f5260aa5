//! The host's side of the interfaces that plugins import: what is not granted is a typed answer, never a trap.

use std::sync::Arc;

use super::contract::querywright::plugin::{artifact, embed, http, log, types};
use super::meter::Meter;
use super::services::{LogLevel, Services};
use super::system::System;
use super::{Capabilities, web};

/// What an instance's calls to the host see.
pub(super) struct State {
    pub(super) id: Arc<str>,
    pub(super) capabilities: Arc<Capabilities>,
    pub(super) services: Arc<Services>,
    pub(super) meter: Meter,
    pub(super) system: System,
    /// The end of what the call has said of errors: what a fault is explained with, granted or not.
    pub(super) last_words: String,
}

/// Bytes of the last words that are kept.
const LAST_WORDS: usize = 400;

impl State {
    pub(super) fn new(id: &Arc<str>, capabilities: &Arc<Capabilities>, services: &Arc<Services>) -> Self {
        let meter = Meter::new(capabilities.limits);
        Self {
            id: id.clone(),
            capabilities: capabilities.clone(),
            services: services.clone(),
            meter,
            system: System::default(),
            last_words: String::new(),
        }
    }

    /// A line for the log, where that was granted and the call has not said enough.
    pub(super) fn log(&mut self, level: LogLevel, message: &str) {
        if level == LogLevel::Error {
            self.last_words.push_str(message);
            self.last_words.push(' ');
            let surplus = self.last_words.len().saturating_sub(LAST_WORDS);
            let cut = (surplus..=self.last_words.len()).find(|&at| self.last_words.is_char_boundary(at));
            self.last_words.drain(..cut.unwrap_or(0));
        }
        let Some(sink) = self.services.log.as_ref().filter(|_| self.capabilities.log) else { return };
        // An empty line costs something, too.
        if self.meter.take_log(message.len() + 16) {
            sink(&self.id, level, &printable(message));
        }
    }
}

impl types::Host for State {}

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

impl embed::Host for State {
    fn dimensions(&mut self) -> u32 {
        let encoder = self.services.encoder.as_ref().filter(|_| self.capabilities.embed);
        encoder.map_or(0, |e| e.dimensions().try_into().unwrap_or(0))
    }

    fn embed(&mut self, texts: Vec<String>) -> Result<Vec<Vec<f32>>, embed::EmbedError> {
        let Some(encoder) = self.services.encoder.clone().filter(|_| self.capabilities.embed) else {
            return Err(embed::EmbedError::Denied);
        };
        let moved = texts.iter().map(|text| text.len() + 4 * encoder.dimensions()).sum();
        if !self.meter.take(moved) {
            return Err(embed::EmbedError::TooLarge);
        }
        encoder.encode(&texts).map_err(embed::EmbedError::Failed)
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
        if !self.meter.take(range.len()) {
            return Err(artifact::ArtifactError::TooLarge);
        }
        Ok(range.to_vec())
    }
}

impl http::Host for State {
    fn send(&mut self, request: http::Request) -> Result<http::Response, http::HttpError> {
        let time = self.meter.left().min(std::time::Duration::from_millis(u64::from(request.timeout_ms)));
        let most = usize::try_from(self.meter.bytes_left()).unwrap_or(usize::MAX);
        let response = web::send(&self.capabilities.http, &request, time, most)?;
        let headers = |list: &[http::Header]| list.iter().map(|h| h.name.len() + h.value.len()).sum::<usize>();
        let sent = request.url.len() + headers(&request.headers) + request.body.len();
        if !self.meter.take(sent + headers(&response.headers) + response.body.len()) {
            return Err(http::HttpError::TooLarge);
        }
        Ok(response)
    }
}

/// Without control characters, which could rewrite a terminal or forge a line.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
