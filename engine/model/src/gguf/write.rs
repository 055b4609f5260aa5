//! The header of a GGUF file that is written: version 3, little-endian.

use super::header::{Numbers, Value};

/// A tensor that will follow: its name, its shape `[out, in]`, the number of its type, and its bytes.
pub(crate) type Entry = (String, Vec<usize>, u32, usize);

/// Everything before the data of the tensors, which stand in the order of `tensors`, each at a multiple of `alignment`
/// (the format's default, 32, unless the metadata say another).
pub(crate) fn start(metadata: &[(String, Value)], tensors: &[Entry], alignment: usize) -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        text(&mut out, key);
        put(&mut out, value);
    }
    let mut offset = 0u64;
    for (name, shape, kind, bytes) in tensors {
        text(&mut out, name);
        out.extend((shape.len() as u32).to_le_bytes());
        // The fastest dimension first.
        shape.iter().rev().for_each(|size| out.extend((*size as u64).to_le_bytes()));
        out.extend(kind.to_le_bytes());
        out.extend(offset.to_le_bytes());
        offset += bytes.next_multiple_of(alignment) as u64;
    }
    out.resize(out.len().next_multiple_of(alignment), 0);
    out
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// A value with its type. llama.cpp asks for exact types: 32 bits wherever a number fits.
fn put(out: &mut Vec<u8>, value: &Value) {
    let kind = |out: &mut Vec<u8>, kind: u32| out.extend(kind.to_le_bytes());
    match value {
        Value::Unsigned(n) => match u32::try_from(*n) {
            Ok(small) => {
                kind(out, 4);
                out.extend(small.to_le_bytes());
            }
            Err(_) => {
                kind(out, 10);
                out.extend(n.to_le_bytes());
            }
        },
        Value::Signed(n) => match i32::try_from(*n) {
            Ok(small) => {
                kind(out, 5);
                out.extend(small.to_le_bytes());
            }
            Err(_) => {
                kind(out, 11);
                out.extend(n.to_le_bytes());
            }
        },
        Value::Float(x) => {
            kind(out, 6);
            out.extend((*x as f32).to_le_bytes());
        }
        Value::Bool(yes) => {
            kind(out, 7);
            out.push(u8::from(*yes));
        }
        Value::Text(own) => {
            kind(out, 8);
            text(out, own);
        }
        Value::Texts(texts) => {
            kind(out, 9);
            kind(out, 8);
            out.extend((texts.len() as u64).to_le_bytes());
            texts.iter().for_each(|own| text(out, own));
        }
        Value::Numbers(numbers) => {
            kind(out, 9);
            kind(out, numbers.kind());
            out.extend((numbers.values().count() as u64).to_le_bytes());
            out.extend(numbers.bytes());
        }
    }
}

impl Numbers {
    /// Whole numbers of 32 bits with a sign.
    pub(crate) fn signed(values: impl Iterator<Item = i32>) -> Self {
        Self::stored(5, values.flat_map(i32::to_le_bytes).collect())
    }
}
