//! The host's text encoder for plugins: what a call may ask of it, what that costs, and how it ends with the call.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use wasmtime::{StoreContextMut, Trap};

use super::bindings::querywright::plugin::embed::EmbedError;
use super::fuel::charge;
use super::sanitize::printable;
use super::services::{LogLevel, TextEncoder, TextRole};
use super::state::State;
use querywright_types::{Deadline, Error, Result};

/// Bytes of a text that an encoder is given. It reads some hundred or thousand tokens of them, but a tokenizer reads all.
const LONGEST_TEXT: usize = 64 << 10;

/// Fuel of encoding a text: about the instructions that a small encoder takes. It depends on the text alone, so that a
/// request ends the same way on every machine. Bytes beyond some count nothing: encoders do not read that far.
const FUEL_OF_A_TEXT: usize = 500_000;
const FUEL_OF_A_BYTE: usize = 50_000;
const BYTES_WITH_A_PRICE: usize = 4096;

/// The vectors that a plugin gets, or why there are none.
pub(super) type Vectors = Result<Vec<Vec<f32>>, EmbedError>;

/// Encodes texts for a plugin.
///
/// # Errors
/// [`Trap::Interrupt`] if the call's time ends first, [`Trap::OutOfFuel`] if the call cannot pay for it.
pub(super) fn call(
    mut store: StoreContextMut<'_, State>,
    texts: Vec<String>,
    role: TextRole,
) -> wasmtime::Result<Vectors> {
    charge(&mut store, texts.iter().map(|text| size_of::<String>() + text.len()).sum())?;
    let encoder = match store.data_mut().admit(&texts) {
        Ok(encoder) => encoder,
        Err(error) => return Ok(Err(error)),
    };
    let price = |text: &String| FUEL_OF_A_TEXT + FUEL_OF_A_BYTE * text.len().min(BYTES_WITH_A_PRICE);
    charge(&mut store, texts.iter().map(price).fold(0, usize::saturating_add))?;
    let vectors = store.data_mut().encode(&encoder, texts, role)?;
    charge(&mut store, vectors.iter().flatten().map(|vector| size_of_val(&vector[..])).sum())?;
    Ok(vectors)
}

impl State {
    /// The number of elements of a vector; 0 without an encoder.
    pub(super) fn dimensions(&self) -> u32 {
        let encoder = self.services.encoder(&self.capabilities);
        encoder.map_or(0, |encoder| encoder.dimensions().try_into().unwrap_or(0))
    }

    /// The encoder, if the call may have these texts encoded.
    fn admit(&mut self, texts: &[String]) -> Result<Arc<dyn TextEncoder>, EmbedError> {
        let encoder = self.services.encoder(&self.capabilities).ok_or(EmbedError::Denied)?.clone();
        let vector = size_of::<f32>().saturating_mul(encoder.dimensions());
        let moved = texts.iter().map(|text| text.len().saturating_add(vector)).fold(0, usize::saturating_add);
        if !self.limiter.take_texts(texts.len()) || !self.limiter.take_host_bytes(moved) {
            return Err(EmbedError::TooLarge);
        }
        Ok(encoder)
    }

    /// One vector for each text, checked.
    fn encode(
        &mut self,
        encoder: &Arc<dyn TextEncoder>,
        mut texts: Vec<String>,
        role: TextRole,
    ) -> wasmtime::Result<Vectors> {
        if texts.is_empty() {
            return Ok(Ok(Vec::new()));
        }
        for text in texts.iter_mut().filter(|text| text.len() > LONGEST_TEXT) {
            text.truncate(text.floor_char_boundary(LONGEST_TEXT));
        }
        let (count, dimensions) = (texts.len(), encoder.dimensions());
        let found = match in_time(encoder, texts, role, self.limiter.time_to_the_end()) {
            Some(found) => found.and_then(|vectors| checked(vectors, count, dimensions)),
            None => return Err(Trap::Interrupt.into()),
        };
        match found {
            Err(error) if error.is_deadline() && self.limiter.time_to_the_end().is_zero() => {
                Err(Trap::Interrupt.into())
            }
            found => Ok(found.map_err(|error| self.failed(&error))),
        }
    }

    /// What a plugin may read of the encoder's failure. It may name files of the host, so the log alone has the whole.
    fn failed(&mut self, error: &Error) -> EmbedError {
        self.encoder_failed = true;
        if let Some(log) = &self.services.log {
            log(&self.id, LogLevel::Error, &printable(&format!("the encoder failed: {error}")));
        }
        EmbedError::Failed(error.summary().to_owned())
    }
}

/// An answer of the length and the width that were asked for, of finite numbers.
fn checked(vectors: Vec<Vec<f32>>, count: usize, dimensions: usize) -> Result<Vec<Vec<f32>>> {
    let broken = |found: String| {
        let remedy = "give one vector of finite numbers for each text, all as long as `dimensions` says";
        Err(Error::model("Services::encoder", found, remedy))
    };
    if vectors.len() != count {
        return broken(format!("it gave {} vectors for {count} texts", vectors.len()));
    }
    if let Some(other) = vectors.iter().find(|vector| vector.len() != dimensions) {
        return broken(format!("it gave a vector of {} elements, not of {dimensions}", other.len()));
    }
    match vectors.iter().flatten().find(|value| !value.is_finite()) {
        Some(value) => broken(format!("it gave {value}")),
        None => Ok(vectors),
    }
}

/// What the encoder gives within this time; none if it takes longer.
///
/// It runs on threads of its own. The thread that waits here holds an instance, and takes no other work meanwhile: if it
/// encoded by itself, rayon could give it another request of the batch while it waits for a part of the work, and that would
/// run on top of this one's stack and wait for the instance that it holds.
fn in_time(
    encoder: &Arc<dyn TextEncoder>,
    texts: Vec<String>,
    role: TextRole,
    time: Duration,
) -> Option<Result<Vec<Vec<f32>>>> {
    static THREADS: OnceLock<rayon::ThreadPool> = OnceLock::new();
    let build = || rayon::ThreadPoolBuilder::new().thread_name(|nth| format!("plugin-encoder-{nth}")).build().ok();
    // One that cannot be started now may be startable later.
    let started = THREADS.get().or_else(|| build().map(|built| THREADS.get_or_init(|| built)));
    let Some(threads) = started else {
        return Some(Err(Error::overloaded("the encoder", "no thread can be started", "try again later")));
    };
    let deadline = Deadline::after(time);
    let (done, answer) = mpsc::sync_channel(1);
    // Whoever gives up takes the texts away again: what waits for an encoder that hangs takes no memory.
    let waiting = Arc::new(Mutex::new(Some(texts)));
    let (job, encoder) = (waiting.clone(), encoder.clone());
    threads.spawn(move || {
        let Some(texts) = job.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        // A panic that left this closure would end the process.
        let found = catch_unwind(AssertUnwindSafe(|| encoder.encode(&texts, role, deadline)));
        drop(done.try_send(found.unwrap_or_else(|_| {
            let remedy = "mend the encoder behind `Services::encoder`";
            Err(Error::model("Services::encoder", "it panicked", remedy))
        })));
    });
    match answer.recv_timeout(time) {
        Ok(found) => Some(found),
        Err(RecvTimeoutError::Timeout) => {
            waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
            None
        }
        Err(RecvTimeoutError::Disconnected) => {
            Some(Err(Error::bug("plugin embed", "a thread of the encoder ended without an answer")))
        }
    }
}

#[cfg(test)]
mod tests;
