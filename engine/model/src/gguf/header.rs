//! The header of a GGUF file: metadata, and where the tensors lie.
//!
//! Every count and length is held against the bytes that are there before anything is allocated for it, and the whole
//! header against [`HEADER_LIMIT`]. Lists of numbers are kept as their bytes, so that a header takes little more memory
//! than room in its file.

use std::collections::BTreeMap;
use std::io::{BufReader, Read};

use candle_core::quantized::GgmlDType;

/// Large vocabularies with their merges take 20 MB.
const HEADER_LIMIT: u64 = 128 << 20;
/// Metadata entries and tensors at most; the largest models have two thousand tensors.
const ENTRIES: u64 = 1 << 16;
/// Items of a list at most; the largest vocabularies have a quarter million tokens and twice as many merges.
const ITEMS: u64 = 1 << 22;
/// Bytes of a key or of a tensor's name at most: those of the specification and of llama.cpp, with room.
const KEY: u64 = (1 << 16) - 1;
const TENSOR_NAME: u64 = 256;
const DIMENSIONS: u32 = 4;
/// Dimensions at most: any product of four of them that matters is checked, and no one of them may overflow.
const DIMENSION: u64 = 1 << 48;

/// A value of the metadata.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    Numbers(Numbers),
}

/// A list of numbers or truth values, as stored.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Numbers {
    kind: u32,
    bytes: Vec<u8>,
}

/// A tensor's entry.
#[derive(Debug, Clone)]
pub(super) struct TensorInfo {
    pub(super) dtype: GgmlDType,
    /// The slowest first, `[out, in]`.
    pub(super) shape: Vec<usize>,
    /// From the beginning of the data.
    pub(super) offset: u64,
}

/// A whole header.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) metadata: BTreeMap<String, Value>,
    pub(super) tensors: BTreeMap<String, TensorInfo>,
    /// Where the data begins.
    pub(super) data: u64,
}

/// What is wrong with a header.
#[derive(Debug)]
pub(super) enum Flaw {
    /// It ends early, or its numbers make no sense.
    Damaged(String),
    /// It was written for processors of the other byte order.
    BigEndian,
    /// A version of the format that is not known.
    Version(u32),
    /// A tensor in a number type that is not read.
    Type(String),
}

type Result<T> = std::result::Result<T, Flaw>;

fn damaged<T>(found: impl Into<String>) -> Result<T> {
    Err(Flaw::Damaged(found.into()))
}

impl Header {
    /// Reads a header that begins behind the magic bytes; `length` is that of the whole file.
    pub(super) fn read(file: impl Read, length: u64) -> Result<Self> {
        let mut reader = Reader { file: BufReader::with_capacity(1 << 16, file), at: 4, length, wide: true };
        let version = reader.u32("the version")?;
        match version {
            1 => reader.wide = false,
            2 | 3 => {}
            // As llama.cpp tells them: a small number whose bytes stand the other way round.
            other if other & 0xFFFF == 0 => return Err(Flaw::BigEndian),
            other => return Err(Flaw::Version(other)),
        }
        let tensors = reader.count("tensors", ENTRIES, 20)?;
        let entries = reader.count("metadata entries", ENTRIES, 9)?;
        let mut header = Self { metadata: BTreeMap::new(), tensors: BTreeMap::new(), data: 0 };
        for _ in 0..entries {
            let key = reader.string("a key", KEY)?;
            let kind = reader.u32(&key)?;
            let value = reader.value(&key, kind)?;
            if header.metadata.contains_key(&key) {
                return damaged(format!("the key {key} stands twice"));
            }
            header.metadata.insert(key, value);
        }
        for _ in 0..tensors {
            let name = reader.string("a tensor's name", TENSOR_NAME)?;
            let info = reader.tensor(&name)?;
            if header.tensors.contains_key(&name) {
                return damaged(format!("the tensor {name} stands twice"));
            }
            header.tensors.insert(name, info);
        }
        let alignment = match header.metadata.get("general.alignment") {
            None => 32,
            Some(value) => match value.whole().filter(|n| n.is_power_of_two() && *n <= 1 << 20) {
                Some(alignment) => alignment,
                None => return damaged(format!("general.alignment is {value}: its numbers make no sense")),
            },
        };
        header.data = reader.at.next_multiple_of(alignment);
        Ok(header)
    }
}

/// Reads little-endian values and counts what it has read.
struct Reader<R> {
    file: R,
    at: u64,
    length: u64,
    /// Lengths have 64 bits; in the first version they had 32.
    wide: bool,
}

impl<R: Read> Reader<R> {
    fn left(&self) -> u64 {
        self.length.min(HEADER_LIMIT).saturating_sub(self.at)
    }

    /// The next `count` bytes, which are there.
    fn bytes(&mut self, what: &str, count: u64) -> Result<Vec<u8>> {
        self.room(what, count, 1)?;
        let mut bytes = vec![0; count as usize];
        self.file.read_exact(&mut bytes).map_err(|e| Flaw::Damaged(format!("{what}: {}", e.kind())))?;
        self.at += count;
        Ok(bytes)
    }

    /// Refuses `count` items of `size` bytes or more where fewer bytes are left.
    fn room(&self, what: &str, count: u64, size: u64) -> Result<()> {
        match count.checked_mul(size).filter(|needed| *needed <= self.left()) {
            Some(_) => Ok(()),
            None if count.saturating_mul(size).saturating_add(self.at) <= self.length => {
                damaged(format!("{what}: the header is larger than {} MiB", HEADER_LIMIT >> 20))
            }
            None => damaged(format!("{what}: {count} items where {} bytes are left", self.left())),
        }
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        self.room(what, N as u64, 1)?;
        let mut bytes = [0; N];
        self.file.read_exact(&mut bytes).map_err(|e| Flaw::Damaged(format!("{what}: {}", e.kind())))?;
        self.at += N as u64;
        Ok(bytes)
    }

    fn u32(&mut self, what: &str) -> Result<u32> {
        self.array(what).map(u32::from_le_bytes)
    }

    /// A length or a count as the version writes them.
    fn long(&mut self, what: &str) -> Result<u64> {
        if self.wide { self.array(what).map(u64::from_le_bytes) } else { self.u32(what).map(u64::from) }
    }

    /// A count of at most `limit` items that take `size` bytes each, or more.
    fn count(&mut self, what: &str, limit: u64, size: u64) -> Result<u64> {
        let count = self.long(what)?;
        if count > limit {
            return damaged(format!("{count} {what}, where at most {limit} make sense"));
        }
        self.room(what, count, size)?;
        Ok(count)
    }

    /// A text of at most `limit` bytes. Zeros at its end, which some writers leave, are no part of it.
    fn string(&mut self, what: &str, limit: u64) -> Result<String> {
        let length = self.long(what)?;
        if length > limit {
            return damaged(format!("{what} of {length} bytes"));
        }
        let mut bytes = self.bytes(what, length)?;
        while bytes.last() == Some(&0) {
            bytes.pop();
        }
        Ok(String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
    }

    fn value(&mut self, key: &str, kind: u32) -> Result<Value> {
        Ok(match kind {
            8 => Value::Text(self.string(key, HEADER_LIMIT)?),
            9 => self.list(key)?,
            _ => {
                let Some(size) = size_of(kind) else {
                    return damaged(format!("{key} is a value of the unknown type {kind}"));
                };
                let bytes = self.bytes(key, size)?;
                match number(kind, &bytes) {
                    Some(value) => value,
                    None => return damaged(format!("{key} is neither true nor false")),
                }
            }
        })
    }

    fn list(&mut self, key: &str) -> Result<Value> {
        let kind = self.u32(key)?;
        if kind == 8 {
            let count = self.count(key, ITEMS, if self.wide { 8 } else { 4 })?;
            let texts = (0..count).map(|_| self.string(key, HEADER_LIMIT)).collect::<Result<_>>()?;
            return Ok(Value::Texts(texts));
        }
        let Some(size) = size_of(kind) else {
            return damaged(format!("{key} is a list of values of type {kind}"));
        };
        let count = self.count(key, ITEMS, size)?;
        Ok(Value::Numbers(Numbers { kind, bytes: self.bytes(key, count * size)? }))
    }

    fn tensor(&mut self, name: &str) -> Result<TensorInfo> {
        let dimensions = self.u32(name)?;
        if dimensions > DIMENSIONS {
            return damaged(format!("tensor {name} has {dimensions} dimensions"));
        }
        let mut shape = Vec::with_capacity(dimensions as usize);
        for _ in 0..dimensions {
            let size = self.long(name)?;
            match usize::try_from(size) {
                Ok(fits) if size <= DIMENSION => shape.push(fits),
                _ => return damaged(format!("tensor {name} has a dimension of {size}")),
            }
        }
        shape.reverse();
        let (kind, offset) = (self.u32(name)?, self.array(name).map(u64::from_le_bytes)?);
        match dtype(kind) {
            Ok(dtype) => Ok(TensorInfo { dtype, shape, offset }),
            Err(stored) => Err(Flaw::Type(format!("tensor {name} is stored as {stored}"))),
        }
    }
}

/// Bytes of a number or a truth value.
fn size_of(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

/// A number or a truth value from its bytes, of which there are as many as [`size_of`] says.
fn number(kind: u32, bytes: &[u8]) -> Option<Value> {
    let mut wide = [0; 8];
    wide.get_mut(..bytes.len())?.copy_from_slice(bytes);
    let unsigned = u64::from_le_bytes(wide);
    // Shifted up and down again, the sign fills the bytes above.
    let above = 64 - 8 * bytes.len() as u32;
    let signed = (unsigned << above).cast_signed() >> above;
    Some(match kind {
        0 | 2 | 4 | 10 => Value::Unsigned(unsigned),
        1 | 3 | 5 | 11 => Value::Signed(signed),
        6 => Value::Float(f64::from(f32::from_bits(unsigned as u32))),
        12 => Value::Float(f64::from_bits(unsigned)),
        7 if unsigned < 2 => Value::Bool(unsigned == 1),
        _ => return None,
    })
}

/// A number type of tensors, or the name of one that is not read, as llama.cpp writes them.
fn dtype(kind: u32) -> std::result::Result<GgmlDType, String> {
    Ok(match kind {
        0 => GgmlDType::F32,
        1 => GgmlDType::F16,
        2 => GgmlDType::Q4_0,
        3 => GgmlDType::Q4_1,
        6 => GgmlDType::Q5_0,
        7 => GgmlDType::Q5_1,
        8 => GgmlDType::Q8_0,
        10 => GgmlDType::Q2K,
        11 => GgmlDType::Q3K,
        12 => GgmlDType::Q4K,
        13 => GgmlDType::Q5K,
        14 => GgmlDType::Q6K,
        30 => GgmlDType::BF16,
        other => {
            let names = [
                (9, "Q8_1"),
                (15, "Q8_K"),
                (16, "IQ2_XXS"),
                (17, "IQ2_XS"),
                (18, "IQ3_XXS"),
                (19, "IQ1_S"),
                (20, "IQ4_NL"),
                (21, "IQ3_S"),
                (22, "IQ2_S"),
                (23, "IQ4_XS"),
                (24, "I8"),
                (25, "I16"),
                (26, "I32"),
                (27, "I64"),
                (28, "F64"),
                (29, "IQ1_M"),
                (34, "TQ1_0"),
                (35, "TQ2_0"),
                (39, "MXFP4"),
                (40, "NVFP4"),
            ];
            let known = names.iter().find(|(number, _)| *number == other).map(|(_, name)| (*name).to_owned());
            return Err(known.unwrap_or_else(|| format!("the unknown type {other}")));
        }
    })
}

impl Value {
    /// A whole number that is not negative; true and false are none.
    pub(super) fn whole(&self) -> Option<u64> {
        match self {
            Self::Unsigned(n) => Some(*n),
            Self::Signed(n) => u64::try_from(*n).ok(),
            _ => None,
        }
    }

    /// Any number.
    pub(super) fn float(&self) -> Option<f64> {
        match self {
            Self::Float(x) => Some(*x),
            Self::Unsigned(n) => Some(*n as f64),
            Self::Signed(n) => Some(*n as f64),
            _ => None,
        }
    }

    /// Whether it says nothing: zero, false, or empty.
    pub(super) fn is_nothing(&self) -> bool {
        match self {
            Self::Bool(yes) => !yes,
            Self::Text(text) => text.is_empty() || text == "none",
            Self::Texts(texts) => texts.is_empty(),
            Self::Numbers(numbers) => numbers.values().all(|value| value.is_nothing()),
            number => number.float() == Some(0.0),
        }
    }
}

impl Numbers {
    /// Numbers of a type from their bytes.
    pub(super) fn stored(kind: u32, bytes: Vec<u8>) -> Self {
        Self { kind, bytes }
    }

    /// The number of their type.
    pub(super) fn kind(&self) -> u32 {
        self.kind
    }

    /// Their bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Its values, in order.
    pub(super) fn values(&self) -> impl Iterator<Item = Value> + '_ {
        let size = size_of(self.kind).unwrap_or(1) as usize;
        self.bytes.chunks_exact(size).filter_map(|bytes| number(self.kind, bytes))
    }
}

impl std::fmt::Display for Value {
    /// As messages show it; a long list is cut.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unsigned(n) => write!(f, "{n}"),
            Self::Signed(n) => write!(f, "{n}"),
            Self::Float(x) => write!(f, "{x}"),
            Self::Bool(yes) => write!(f, "{yes}"),
            Self::Text(text) => write!(f, "\"{}\"", text.chars().take(80).collect::<String>().escape_debug()),
            Self::Texts(texts) => write!(f, "a list of {} texts", texts.len()),
            Self::Numbers(numbers) => {
                let shown: Vec<String> = numbers.values().take(4).map(|value| value.to_string()).collect();
                write!(f, "[{}{}]", shown.join(", "), if numbers.values().nth(4).is_some() { ", …" } else { "" })
            }
        }
    }
}

#[cfg(test)]
mod tests;
