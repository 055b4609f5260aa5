//! TensorBoard event files: protobuf messages in TFRecord frames, the little of both that scalars need.
//!
//! A frame is `length (u64) | masked CRC-32C of the length | data | masked CRC-32C of the data`, all little-endian. The
//! messages are `Event {1: wall_time, 2: step, 3: file_version, 5: summary, 7: session_log}`, `Summary {1: value}`,
//! `Value {1: tag, 2: simple_value}` and `SessionLog {1: status}`.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use querywright_types::{Error, Result};

/// An event file that is being written.
#[derive(Debug)]
pub struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Starts a new event file in a folder. With `resume_from`, TensorBoard is told to forget what earlier files of the
    /// folder say of later steps.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn create(folder: &Path, resume_from: Option<u64>) -> Result<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let process = std::process::id();
        // TensorBoard reads the files of a folder in the order of their names, so the time comes first. The number
        // tells apart files of one second.
        let mut number = 0u32;
        let (path, file) = loop {
            let name = format!("events.out.tfevents.{:010}.querywright.{process}.{number:03}", now.as_secs());
            let path = folder.join(name);
            match OpenOptions::new().append(true).create_new(true).open(&path) {
                Ok(file) => break (path, file),
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists && number < 999 => number += 1,
                Err(e) => return Err(Error::write(path, e)),
            }
        };
        let mut events = Self { path, file };
        let time = now.as_secs_f64();
        let mut frames = frame(&version(time));
        if let Some(step) = resume_from {
            frames.extend(frame(&session_start(time, step.saturating_add(1))));
        }
        events.write(&frames)?;
        Ok(events)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends the scalars of a step, in one write.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn scalars(&mut self, step: u64, values: &[(String, f32)]) -> Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.write(&frame(&scalars(now.as_secs_f64(), step, values)))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|e| Error::write(&self.path, e))
    }
}

fn version(time: f64) -> Vec<u8> {
    let mut event = event(time, 0);
    bytes_field(&mut event, 3, b"brain.Event:2");
    event
}

/// Status START: readers drop all events of this step and later ones that they have seen before.
fn session_start(time: f64, step: u64) -> Vec<u8> {
    let mut event = event(time, step);
    bytes_field(&mut event, 7, &[0x08, 0x01]);
    event
}

fn scalars(time: f64, step: u64, values: &[(String, f32)]) -> Vec<u8> {
    let mut summary = Vec::new();
    for (tag, value) in values {
        let mut message = Vec::new();
        bytes_field(&mut message, 1, tag.as_bytes());
        message.push(key(2, FIXED_32));
        message.extend(value.to_le_bytes());
        bytes_field(&mut summary, 1, &message);
    }
    let mut event = event(time, step);
    bytes_field(&mut event, 5, &summary);
    event
}

/// The head of an event. A step of 0 is the default and is not written.
fn event(time: f64, step: u64) -> Vec<u8> {
    let mut event = vec![key(1, FIXED_64)];
    event.extend(time.to_le_bytes());
    if step > 0 {
        event.push(key(2, VARINT));
        varint(&mut event, step);
    }
    event
}

const VARINT: u8 = 0;
const FIXED_64: u8 = 1;
const BYTES: u8 = 2;
const FIXED_32: u8 = 5;

const fn key(field: u8, wire: u8) -> u8 {
    field << 3 | wire
}

fn bytes_field(message: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    message.push(key(field, BYTES));
    varint(message, bytes.len() as u64);
    message.extend(bytes);
}

fn varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

fn frame(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut frame = Vec::with_capacity(data.len() + 16);
    frame.extend(length);
    frame.extend(masked_crc(&length).to_le_bytes());
    frame.extend(data);
    frame.extend(masked_crc(data).to_le_bytes());
    frame
}

/// The checksum, rotated and shifted so that checksums of data that hold checksums stay good.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), reflected polynomial 0x82F63B78.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| TABLE[usize::from(crc as u8 ^ byte)] ^ (crc >> 8))
}

const TABLE: [u32; 256] = {
    let mut table = [0u32; 256];
    let mut i = 0;
    while i < 256 {
        let mut crc = i as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_has_the_known_value_of_the_digits() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(b""), 0);
    }

    #[test]
    fn the_bytes_are_those_that_tensorboard_itself_writes() {
        let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/tensorboard.json"));
        let golden = serde_json::from_str::<serde_json::Value>(text).unwrap();
        let values = [("train/reward".to_owned(), 0.25), ("train/kl".to_owned(), -1.5e-3)];
        let events =
            [version(1_700_000_000.5), session_start(1_700_000_001.25, 300), scalars(1_700_000_002.0, 300, &values)];
        let bytes: Vec<u8> = events.iter().flat_map(|e| frame(e)).collect();
        assert_eq!(querywright_types::hex(bytes), golden["hex"].as_str().unwrap());
    }

    #[test]
    fn two_files_of_the_same_second_do_not_meet_and_sort_by_age() {
        let folder = tempfile::tempdir().unwrap();
        let first = EventFile::create(folder.path(), None).unwrap();
        let mut second = EventFile::create(folder.path(), Some(7)).unwrap();
        assert!(first.path() < second.path());
        let before = std::fs::metadata(second.path()).unwrap().len();
        second.scalars(8, &[("train/loss".into(), 1.0)]).unwrap();
        assert!(std::fs::metadata(second.path()).unwrap().len() > before);
        assert!(EventFile::create(&folder.path().join("absent"), None).is_err());
    }
}
