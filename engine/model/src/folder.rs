//! A Hugging Face folder: `config.json` and safetensors, in one file or in shards with an index.
//!
//! Tensors are read one by one with plain file reads: memory-mapping would need `unsafe`, and a file that changes under
//! a mapping crashes the process.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use super::config::ModelConfig;
use super::tensor::Tensor;
use querywright_types::{Error, Result};

/// Headers above this size are refused, as the safetensors library does.
const HEADER_LIMIT: u64 = 100_000_000;
const AGAIN: &str = "the file is cut off or damaged; fetch it again";

/// An opened folder.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    shards: Vec<PathBuf>,
    tensors: BTreeMap<String, Place>,
}

/// Where a tensor's bytes lie.
#[derive(Debug)]
struct Place {
    shard: usize,
    start: u64,
    info: TensorInfo,
}

impl Folder {
    /// Reads the headers of all shards.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let single = path.join("model.safetensors");
        let index = path.join("model.safetensors.index.json");
        let shards = if single.is_file() {
            vec![single]
        } else if index.is_file() {
            shards_of(path, &index)?
        } else {
            return Err(Error::model(
                path,
                "neither model.safetensors nor model.safetensors.index.json in this folder",
                "fetch the weights as safetensors; other formats (pytorch_model.bin) are not read",
            ));
        };
        let mut tensors = BTreeMap::new();
        for (shard, file) in shards.iter().enumerate() {
            let (metadata, data) = read_header(file)?;
            for (name, info) in metadata.tensors() {
                tensors.insert(name, Place { shard, start: data + info.data_offsets.0 as u64, info: info.clone() });
            }
        }
        Ok(Self { path: path.to_path_buf(), shards, tensors })
    }

    pub(super) fn config(&self) -> Result<ModelConfig> {
        let path = self.path.join("config.json");
        ModelConfig::from_json(&path, &std::fs::read_to_string(&path).map_err(|e| Error::read(&path, e))?)
    }

    pub(super) fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.tensors.get(name).map(|t| t.info.shape.clone())
    }

    /// The configuration and the weights.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        std::iter::once(self.path.join("config.json")).chain(self.shards.iter().cloned()).collect()
    }

    pub(super) fn types(&self) -> Vec<(String, usize)> {
        let mut counts = BTreeMap::<String, usize>::new();
        for place in self.tensors.values() {
            *counts.entry(format!("{:?}", place.info.dtype)).or_default() += 1;
        }
        counts.into_iter().collect()
    }

    /// Reads one tensor as f32.
    pub(super) fn read(&self, name: &str) -> Result<Tensor> {
        let place = self.tensors.get(name).zip(self.tensors.get(name).and_then(|p| self.shards.get(p.shard)));
        let (place, path) = place
            .ok_or_else(|| Error::model(&self.path, format!("tensor {name} is missing"), "fetch the model again"))?;
        let (start, end) = place.info.data_offsets;
        let mut bytes = vec![0u8; end - start];
        let mut file = File::open(path).map_err(|e| Error::read(path, e))?;
        file.seek(SeekFrom::Start(place.start)).map_err(|e| Error::read(path, e))?;
        file.read_exact(&mut bytes).map_err(|e| Error::read(path, e))?;
        let values: Vec<f32> = match place.info.dtype {
            Dtype::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Dtype::F16 => bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
            Dtype::BF16 => bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
            other => {
                return Err(Error::model(
                    path,
                    format!("tensor {name} is stored as {other:?}"),
                    "F32, F16 and BF16 are supported; choose weights in one of them",
                ));
            }
        };
        Tensor::new(values, &place.info.shape)
    }
}

/// The shards that an index names, each once, all present.
fn shards_of(folder: &Path, index: &Path) -> Result<Vec<PathBuf>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let text = std::fs::read_to_string(index).map_err(|e| Error::read(index, e))?;
    let parsed: Index = serde_json::from_str(&text)
        .map_err(|e| Error::model(index, format!("not an index of shards ({e})"), "fetch it again"))?;
    let mut names: Vec<String> = parsed.weight_map.into_values().collect();
    names.sort();
    names.dedup();
    if names.is_empty() {
        return Err(Error::model(index, "an index without shards", "fetch it again"));
    }
    if let Some(name) = names.iter().find(|n| Path::new(n).file_name().is_none_or(|f| f != n.as_str())) {
        return Err(Error::model(index, format!("a shard named \"{name}\""), "shards must be in the same folder"));
    }
    let missing: Vec<&str> = names.iter().filter(|n| !folder.join(n).is_file()).map(String::as_str).collect();
    if !missing.is_empty() {
        let found = format!("{} of {} shards are missing: {}", missing.len(), names.len(), missing.join(", "));
        return Err(Error::model(folder, found, "fetch the missing files into this folder"));
    }
    Ok(names.iter().map(|n| folder.join(n)).collect())
}

/// The header of a safetensors file, and where its data begins.
fn read_header(path: &Path) -> Result<(Metadata, u64)> {
    let mut file = File::open(path).map_err(|e| Error::read(path, e))?;
    let length = file.metadata().map_err(|e| Error::read(path, e))?.len();
    let mut size = [0u8; 8];
    if length < 8 {
        return Err(Error::model(path, format!("{length} bytes, no safetensors header"), AGAIN));
    }
    file.read_exact(&mut size).map_err(|e| Error::read(path, e))?;
    let size = u64::from_le_bytes(size);
    if size > HEADER_LIMIT || size > length - 8 {
        let found = format!("a header of {size} bytes in a file of {length} bytes");
        return Err(Error::model(path, found, "this is no safetensors file, or it is cut off; fetch it again"));
    }
    let mut header = vec![0u8; size as usize];
    file.read_exact(&mut header).map_err(|e| Error::read(path, e))?;
    let metadata: Metadata = serde_json::from_slice(&header)
        .map_err(|e| Error::model(path, format!("the safetensors header cannot be read ({e})"), AGAIN))?;
    let data: usize = metadata.tensors().values().map(|t| t.data_offsets.1).max().unwrap_or(0);
    let (needed, start) = ((data as u64).saturating_add(8 + size), 8 + size);
    if needed > length {
        return Err(Error::model(path, format!("{length} bytes where the header promises {needed}"), AGAIN));
    }
    Ok((metadata, start))
}
