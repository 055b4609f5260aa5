//! What the host keeps for one instance: the data of its wasmtime store.

use std::sync::Arc;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::capability::Capabilities;
use super::limiter::Limiter;
use super::sanitize::printable;
use super::services::{LogLevel, Services};

/// What the host functions of one instance see.
pub(super) struct State {
    pub(super) id: Arc<str>,
    pub(super) capabilities: Arc<Capabilities>,
    pub(super) services: Arc<Services>,
    pub(super) limiter: Limiter,
    pub(super) wasi: WasiState,
    /// The end of what the current call logged as errors. It explains a fault, whether logging was granted or not.
    pub(super) error_log: String,
    /// Whether the encoder has failed: what the plugin made of that is no answer to its texts.
    pub(super) encoder_failed: bool,
}

/// Bytes of the error log that are kept.
const ERROR_LOG: usize = 400;

/// Bytes that a log line counts beyond its own, so that empty lines are not free.
const BYTES_PER_LINE: usize = 16;

impl State {
    pub(super) fn new(id: &Arc<str>, capabilities: &Arc<Capabilities>, services: &Arc<Services>) -> Self {
        Self {
            id: id.clone(),
            capabilities: capabilities.clone(),
            services: services.clone(),
            limiter: Limiter::new(capabilities.limits),
            wasi: WasiState::default(),
            error_log: String::new(),
            encoder_failed: false,
        }
    }

    /// Logs a line if logging was granted and the call has log bytes left.
    pub(super) fn log(&mut self, level: LogLevel, message: &str) {
        if level == LogLevel::Error {
            self.keep_error(message);
        }
        let Some(sink) = self.services.log.as_ref().filter(|_| self.capabilities.log) else { return };
        if self.limiter.take_log_bytes(message.len() + BYTES_PER_LINE) {
            sink(&self.id, level, &printable(message));
        }
    }

    fn keep_error(&mut self, message: &str) {
        self.error_log.push_str(message);
        self.error_log.push(' ');
        let surplus = self.error_log.len().saturating_sub(ERROR_LOG);
        let cut = (surplus..=self.error_log.len()).find(|&at| self.error_log.is_char_boundary(at));
        self.error_log.drain(..cut.unwrap_or(0));
    }
}

/// What WASI keeps for one instance.
#[derive(Debug, Default)]
pub(super) struct WasiState {
    /// Handles that the instance holds.
    pub(super) handles: u32,
    /// How often the monotonic clock was read: it advances by a microsecond each time.
    pub(super) clock_reads: u64,
    random: Option<ChaCha8Rng>,
}

impl WasiState {
    /// For an instance that starts from the snapshot: its clock must be later than any that `load` has read.
    pub(super) fn after_snapshot(&mut self) {
        self.clock_reads = 1 << 40;
    }

    /// Begins a call: random numbers start again from the same seed.
    pub(super) fn start_call(&mut self) {
        self.random = None;
    }

    /// The random numbers of the current call.
    pub(super) fn random(&mut self) -> &mut ChaCha8Rng {
        self.random.get_or_insert_with(|| ChaCha8Rng::seed_from_u64(0))
    }
}

#[cfg(test)]
mod tests {
    use super::super::capability::Grant;
    use super::super::manifest::Manifest;
    use super::*;

    #[test]
    fn the_error_log_keeps_the_end_of_what_was_logged() {
        let text = format!("id = \"a\"\nversion = \"1.0.0\"\nsha256 = \"{}\"", "0".repeat(64));
        let capabilities = Manifest::parse(&text, "plugin.toml").unwrap().grant(&Grant::default());
        let mut state = State::new(&"a".into(), &Arc::new(capabilities), &Arc::default());
        state.log(LogLevel::Info, "not an error");
        (0..300).for_each(|n| state.log(LogLevel::Error, &format!("é{n}")));
        assert!(state.error_log.len() <= ERROR_LOG, "{} bytes", state.error_log.len());
        assert!(state.error_log.ends_with("é299 ") && !state.error_log.contains("not an error"));
    }
}
