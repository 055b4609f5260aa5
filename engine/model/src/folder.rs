//! A Hugging Face folder: `config.json` and safetensors, in one file or in shards with an index.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::config::{ModelConfig, json};
use super::foreign;
use super::shard::Shard;
use super::tensor::Tensor;
use querywright_types::{Error, Result};

/// Indices of shards above this size are refused: one line a tensor makes a megabyte or two.
const INDEX_LIMIT: u64 = 64 << 20;
/// `config.json` is a few kilobytes.
const CONFIG_LIMIT: u64 = 4 << 20;

/// An opened Hugging Face folder, whatever kind of model lies in it.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    shards: Vec<Shard>,
    /// The shard of each tensor.
    tensors: BTreeMap<String, usize>,
}

impl Folder {
    /// Reads the headers of `model.safetensors`, or of the shards that `model.safetensors.index.json` names.
    ///
    /// # Errors
    /// A folder without weights that are read, with what it holds instead; a file that is cut off or damaged.
    pub fn open(path: &Path) -> Result<Self> {
        let single = path.join("model.safetensors");
        let index = path.join("model.safetensors.index.json");
        let files = if single.is_file() {
            vec![single]
        } else if index.is_file() {
            shards_of(path, &index)?
        } else {
            return Err(foreign::no_weights(path));
        };
        let shards: Vec<Shard> = files.iter().map(|file| Shard::open(file)).collect::<Result<_>>()?;
        let mut tensors = BTreeMap::new();
        for (number, shard) in shards.iter().enumerate() {
            for name in shard.names() {
                if let Some(other) = tensors.insert(name.to_owned(), number) {
                    let found = format!("tensor {name} is in {} already", shards[other].path().display());
                    return Err(Error::model(shard.path(), found, "these shards are of two models; fetch them again"));
                }
            }
        }
        Ok(Self { path: path.to_path_buf(), shards, tensors })
    }

    /// The configuration, and the keys in it that nobody knows.
    pub(super) fn config(&self) -> Result<(ModelConfig, Vec<String>)> {
        let path = self.path.join("config.json");
        json::read(&path, &read_text(&path, CONFIG_LIMIT)?)
    }

    /// The shape of a tensor; none where there is no such tensor.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        Some(self.shard(name)?.info(name)?.shape.clone())
    }

    /// Refuses number types that are not read.
    pub(super) fn check_types(&self) -> Result<()> {
        self.shards.iter().try_for_each(Shard::check_types)
    }

    /// The names of all tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Whether two tensors hold the same values in the same type. Reads them piece by piece.
    pub(super) fn are_equal(&self, a: &str, b: &str) -> Result<bool> {
        let stored = |name: &str| self.shard(name).ok_or_else(|| self.missing(name))?.stored(name);
        let ((mut a, of_a), (mut b, of_b)) = (stored(a)?, stored(b)?);
        if of_a.dtype != of_b.dtype || of_a.shape != of_b.shape {
            return Ok(false);
        }
        let (mut left, mut right) = (Vec::with_capacity(1 << 20), Vec::with_capacity(1 << 20));
        loop {
            left.clear();
            right.clear();
            let read = a.by_ref().take(1 << 20).read_to_end(&mut left);
            let read = read.and_then(|_| b.by_ref().take(1 << 20).read_to_end(&mut right));
            read.map_err(|e| Error::read(&self.path, e))?;
            if left != right || left.is_empty() {
                return Ok(left == right);
            }
        }
    }

    /// The configuration and the weights.
    pub fn files(&self) -> Vec<PathBuf> {
        let shards = self.shards.iter().map(|shard| shard.path().to_path_buf());
        std::iter::once(self.path.join("config.json")).chain(shards).collect()
    }

    /// The number type that a tensor is stored in.
    pub(super) fn stored_type(&self, name: &str) -> Option<String> {
        Some(format!("{:?}", self.shard(name)?.info(name)?.dtype))
    }

    pub(super) fn types(&self) -> Vec<(String, usize)> {
        let mut counts = BTreeMap::<String, usize>::new();
        for (name, shard) in &self.tensors {
            if let Some(info) = self.shards[*shard].info(name) {
                *counts.entry(format!("{:?}", info.dtype)).or_default() += 1;
            }
        }
        counts.into_iter().collect()
    }

    /// Reads one tensor as f32.
    ///
    /// # Errors
    /// A tensor that is not there, or in a number type that is not read.
    pub fn read(&self, name: &str) -> Result<Tensor> {
        self.shard(name).ok_or_else(|| self.missing(name))?.read(name)
    }

    fn shard(&self, name: &str) -> Option<&Shard> {
        self.shards.get(*self.tensors.get(name)?)
    }

    fn missing(&self, name: &str) -> Error {
        Error::model(&self.path, format!("tensor {name} is missing"), "fetch the model again")
    }
}

/// A text file of at most `limit` bytes.
pub(super) fn read_text(path: &Path, limit: u64) -> Result<String> {
    let length = std::fs::metadata(path).map_err(|e| Error::read(path, e))?.len();
    if length > limit {
        let found = format!("{length} bytes where at most {limit} are read");
        return Err(Error::model(path, found, "this is another file under that name; fetch it again"));
    }
    let bytes = std::fs::read(path).map_err(|e| Error::read(path, e))?;
    String::from_utf8(bytes).map_err(|_| Error::model(path, "no text in UTF-8", "save the file as UTF-8"))
}

/// The shards that an index names, each once, all present.
fn shards_of(folder: &Path, index: &Path) -> Result<Vec<PathBuf>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let parsed: Index = serde_json::from_str(&read_text(index, INDEX_LIMIT)?)
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
