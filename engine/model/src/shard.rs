//! A safetensors file: its header is read when it is opened, its tensors one by one.
//!
//! Plain reads, no memory-mapping: that would need `unsafe`, and a file that changes under a mapping crashes the process.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use super::foreign;
use super::tensor::Tensor;
use querywright_types::{Error, Result};

/// Headers above this size are refused: a hundred times that of the largest models, and parsed in a moment.
const HEADER_LIMIT: u64 = 16 << 20;
const AGAIN: &str = "the file is cut off or damaged; fetch it again";

/// An opened file.
#[derive(Debug)]
pub(super) struct Shard {
    path: PathBuf,
    /// Where the data begins.
    data: u64,
    tensors: BTreeMap<String, TensorInfo>,
}

impl Shard {
    /// Reads the header and checks that the file is as long as it says. That its tensors lie side by side and are as long
    /// as their shapes is checked by the safetensors library.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let mut file = File::open(path).map_err(|e| Error::read(path, e))?;
        let length = file.metadata().map_err(|e| Error::read(path, e))?.len();
        let mut start = Vec::new();
        file.by_ref().take(8).read_to_end(&mut start).map_err(|e| Error::read(path, e))?;
        let Ok(size) = <[u8; 8]>::try_from(start.as_slice()) else {
            return Err(Error::model(path, format!("{length} bytes, no safetensors header"), AGAIN));
        };
        let size = u64::from_le_bytes(size);
        if size > HEADER_LIMIT || size > length - 8 {
            if let Some((found, remedy)) = foreign::by_first_bytes(&start) {
                return Err(Error::model(path, format!("{found} where safetensors belong"), remedy));
            }
            let found = format!("a header of {size} bytes in a file of {length} bytes");
            return Err(Error::model(path, found, "this is no safetensors file, or it is cut off; fetch it again"));
        }
        let mut header = vec![0u8; size as usize];
        file.read_exact(&mut header).map_err(|e| Error::read(path, e))?;
        let metadata: Metadata = serde_json::from_slice(&header)
            .map_err(|e| Error::model(path, format!("the safetensors header cannot be read ({e})"), AGAIN))?;
        let tensors: BTreeMap<String, TensorInfo> =
            metadata.tensors().into_iter().map(|(name, info)| (name, info.clone())).collect();
        let end = tensors.values().map(|t| t.data_offsets.1 as u64).max().unwrap_or(0);
        let (data, promised) = (8 + size, end.saturating_add(8 + size));
        if promised != length {
            return Err(Error::model(path, format!("{length} bytes where the header promises {promised}"), AGAIN));
        }
        Ok(Self { path: path.to_path_buf(), data, tensors })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The names of its tensors, in order.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    pub(super) fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    /// The bytes of a tensor as they are stored, to be read.
    pub(super) fn stored(&self, name: &str) -> Result<(std::io::Take<File>, &TensorInfo)> {
        let info = self
            .info(name)
            .ok_or_else(|| Error::model(&self.path, format!("tensor {name} is missing"), "fetch the file again"))?;
        let (start, end) = info.data_offsets;
        let mut file = File::open(&self.path).map_err(|e| Error::read(&self.path, e))?;
        file.seek(SeekFrom::Start(self.data + start as u64)).map_err(|e| Error::read(&self.path, e))?;
        Ok((file.take((end - start) as u64), info))
    }

    /// Refuses a file with a tensor in a number type that is not read.
    pub(super) fn check_types(&self) -> Result<()> {
        let mut types = self.tensors.iter().map(|(name, info)| (name, info.dtype));
        match types.find(|(_, dtype)| !matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16)) {
            Some((name, dtype)) => Err(self.unsupported(name, dtype)),
            None => Ok(()),
        }
    }

    fn unsupported(&self, name: &str, dtype: Dtype) -> Error {
        let found = format!("tensor {name} is stored as {dtype:?}");
        Error::model(&self.path, found, "F32, F16 and BF16 are supported; choose weights in one of them")
    }

    /// Reads a tensor as f32.
    pub(super) fn read(&self, name: &str) -> Result<Tensor> {
        let (mut stored, info) = self.stored(name)?;
        let mut bytes = vec![0u8; stored.limit() as usize];
        stored.read_exact(&mut bytes).map_err(|e| Error::read(&self.path, e))?;
        let values: Vec<f32> = match info.dtype {
            Dtype::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Dtype::F16 => bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
            Dtype::BF16 => bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
            other => return Err(self.unsupported(name, other)),
        };
        Tensor::new(values, &info.shape)
    }
}
