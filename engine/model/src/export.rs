//! A model written to disk, with an adapter merged into its weights: for programs that read no adapters.
//!
//! Tensors are read, added to, rounded and written one by one, so that no more than one of them is in memory. What rounding
//! takes away is measured while writing: an adapter changes weights by little, and a number type of few digits keeps only
//! a part of that.

mod config_json;
mod gguf;
mod safetensors;
mod vocabulary;

use std::io::Write;
use std::path::Path;
use std::str::FromStr;

use half::{bf16, f16};

use super::adapter::Adapter;
use super::source::ModelSource;
use super::tensor::Tensor;
use querywright_types::{Error, Observe, Progress, Result};

/// The layout of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExportFormat {
    /// A Hugging Face folder: `model.safetensors`, `config.json`, the tokenizer's files.
    Safetensors,
    /// One GGUF file, as llama.cpp reads it.
    Gguf,
}

impl FromStr for ExportFormat {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "safetensors" => Ok(Self::Safetensors),
            "gguf" => Ok(Self::Gguf),
            _ => Err(Error::argument("--format", format!("found \"{text}\""), "give safetensors or gguf")),
        }
    }
}

/// The number type of the weights that are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ExportType {
    /// Single precision: nothing is rounded.
    F32,
    /// Half precision: 11 binary digits, up to 65,504.
    F16,
    /// bfloat16: 8 binary digits.
    Bf16,
}

impl FromStr for ExportType {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "f32" => Ok(Self::F32),
            "f16" => Ok(Self::F16),
            "bf16" => Ok(Self::Bf16),
            _ => Err(Error::argument("--dtype", format!("found \"{text}\""), "give f32, f16 or bf16")),
        }
    }
}

impl ExportType {
    /// Bytes of a value.
    fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// A value as it will be read again.
    fn rounded(self, value: f32) -> f32 {
        match self {
            Self::F32 => value,
            Self::F16 => f16::from_f32(value).to_f32(),
            Self::Bf16 => bf16::from_f32(value).to_f32(),
        }
    }

    fn put(self, values: &[f32], bytes: &mut Vec<u8>) {
        match self {
            Self::F32 => values.iter().for_each(|v| bytes.extend(v.to_le_bytes())),
            Self::F16 => values.iter().for_each(|v| bytes.extend(f16::from_f32(*v).to_le_bytes())),
            Self::Bf16 => values.iter().for_each(|v| bytes.extend(bf16::from_f32(*v).to_le_bytes())),
        }
    }
}

/// A model with what is to be merged into it.
#[derive(Debug)]
pub struct Export<'a> {
    source: &'a ModelSource,
    adapter: Option<&'a Adapter>,
    dtype: ExportType,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct Exported {
    /// The number type of the matrices.
    pub dtype: ExportType,
    /// Bytes of the file of weights.
    pub bytes: u64,
    /// Tensors that the adapter changed.
    pub changed: usize,
    /// What rounding changed in these tensors, as a share of what the adapter did (both as the root of the sum of
    /// squares). 0 in single precision; 1 would be as much as the adapter itself. None without an adapter that does
    /// something.
    pub rounding: Option<f64>,
}

/// Sums over the tensors that an adapter changed.
#[derive(Debug, Default)]
struct Sums {
    changed: usize,
    adapter: f64,
    rounding: f64,
}

impl<'a> Export<'a> {
    /// A model with an adapter merged in, or as it is. Without a number type: the one that its matrices are stored in;
    /// f16 for those of quantised files.
    ///
    /// # Errors
    /// A model of random weights, which nothing was learned for.
    pub fn new(source: &'a ModelSource, adapter: Option<&'a Adapter>, dtype: Option<ExportType>) -> Result<Self> {
        let stored = source.stored_type("model.layers.0.self_attn.q_proj.weight").ok_or_else(|| {
            Error::argument("model", "random weights", "open a real model: there is nothing to write of this one")
        })?;
        let own = match stored.as_str() {
            "F32" => ExportType::F32,
            "BF16" => ExportType::Bf16,
            _ => ExportType::F16,
        };
        Ok(Self { source, adapter, dtype: dtype.unwrap_or(own) })
    }

    /// The number type that is written.
    pub fn dtype(&self) -> ExportType {
        self.dtype
    }

    /// About how many bytes will be written.
    pub fn bytes(&self) -> u64 {
        self.source.config().parameters() * self.dtype.bytes() as u64
    }

    /// Writes the files into `folder`, which is there. `observer` is told how many tensors are done.
    ///
    /// # Errors
    /// A model or an adapter that cannot be read; weights that the number type cannot hold; what the format cannot express,
    /// by name; a folder that cannot be written.
    pub fn write(&self, folder: &Path, format: ExportFormat, observer: &dyn Observe) -> Result<Exported> {
        match format {
            ExportFormat::Safetensors => safetensors::write(self, folder, observer),
            ExportFormat::Gguf => gguf::write(self, folder, observer),
        }
    }

    /// A tensor with the adapter in it.
    fn tensor(&self, hf_name: &str, sums: &mut Sums) -> Result<Tensor> {
        let plain = self.source.tensor(hf_name)?;
        let Some(adapter) = self.adapter else { return Ok(plain) };
        let (merged, added) = adapter.add_to(hf_name, plain)?;
        if let Some(added) = added {
            let lost = |value: &f32| f64::from(self.dtype.rounded(*value) - value).powi(2);
            sums.changed += 1;
            sums.adapter += added;
            sums.rounding += merged.values().iter().map(lost).sum::<f64>();
        }
        Ok(merged)
    }

    /// The bytes of a tensor in a number type.
    fn encoded(&self, hf_name: &str, tensor: &Tensor, dtype: ExportType) -> Result<Vec<u8>> {
        let rounds_away = |value: &f32| !dtype.rounded(*value).is_finite();
        if let Some(value) = tensor.values().iter().find(|value| rounds_away(value)) {
            let found = format!("tensor {hf_name} holds {value}, which {dtype:?} cannot hold");
            return Err(Error::argument("--dtype", found, "give bf16, or f32"));
        }
        let mut bytes = Vec::with_capacity(tensor.values().len() * dtype.bytes());
        dtype.put(tensor.values(), &mut bytes);
        Ok(bytes)
    }

    fn exported(&self, bytes: u64, sums: &Sums) -> Exported {
        let rounding = (sums.adapter > 0.0).then(|| (sums.rounding / sums.adapter).sqrt());
        Exported { dtype: self.dtype, bytes, changed: sums.changed, rounding }
    }

    /// Writes tensors to a file behind its header, in an order. `place` makes of each what the format holds.
    fn write_tensors(
        &self,
        (path, header): (&Path, &[u8]),
        tensors: &[Placed],
        place: impl Fn(&str, Tensor) -> Result<Tensor>,
        observer: &dyn Observe,
    ) -> Result<Exported> {
        let fail = |e| Error::write(path, e);
        let mut file = std::io::BufWriter::new(std::fs::File::create(path).map_err(fail)?);
        file.write_all(header).map_err(fail)?;
        let (mut written, mut sums) = (header.len() as u64, Sums::default());
        for (number, placed) in tensors.iter().enumerate() {
            let tensor = place(&placed.hf_name, self.tensor(&placed.hf_name, &mut sums)?)?;
            let mut bytes = self.encoded(&placed.hf_name, &tensor, placed.dtype)?;
            if bytes.len() != placed.bytes {
                let found =
                    format!("{} bytes of {} where {} were announced", bytes.len(), placed.hf_name, placed.bytes);
                return Err(Error::bug("model::export", found));
            }
            bytes.resize(bytes.len() + placed.padding, 0);
            file.write_all(&bytes).map_err(fail)?;
            written += bytes.len() as u64;
            observer.progress(Progress::new("writing tensors", number as u64 + 1, tensors.len() as u64));
        }
        file.into_inner().map_err(|e| fail(e.into_error()))?.sync_all().map_err(fail)?;
        Ok(self.exported(written, &sums))
    }
}

/// A tensor's place in a file.
struct Placed {
    hf_name: String,
    dtype: ExportType,
    bytes: usize,
    /// Zeros behind it.
    padding: usize,
}

/// Writes a small file into a folder that nobody reads yet.
fn put(folder: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let path = folder.join(name);
    std::fs::write(&path, bytes).map_err(|e| Error::write(&path, e))
}

/// Writes a JSON object, as people read it.
fn put_json(folder: &Path, name: &str, value: &serde_json::Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::write(folder.join(name), e.into()))?;
    put(folder, name, (text + "\n").as_bytes())
}

#[cfg(test)]
mod tests;
