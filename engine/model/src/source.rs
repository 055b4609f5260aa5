//! A model on disk: a GGUF file or a Hugging Face folder, behind one entry point.
//!
//! Tensors are asked for by Hugging Face's names and come as f32 on the CPU, one at a time, so that packing a model
//! never holds the whole of it twice. Opening checks every tensor's presence and shape.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rand::{Rng, SeedableRng};
use sha2::{Digest, Sha256};

use super::config::ModelConfig;
use super::folder::Folder;
use super::foreign;
use super::gguf::{Gguf, Value, gguf_name};
use super::strangers;
use super::tensor::Tensor;
use super::tokenizer::Tokenizer;
use querywright_types::{Error, Result, hex};

/// An opened model: its shape is known and its tensors are there; the weights are read on demand.
#[derive(Debug)]
pub struct ModelSource {
    path: PathBuf,
    config: ModelConfig,
    weights: Weights,
    warnings: Vec<String>,
    digest: OnceLock<String>,
}

#[derive(Debug)]
enum Weights {
    Gguf(Box<Gguf>),
    Folder(Folder),
    /// Of a shape alone.
    Random(u64),
}

/// What `model info` shows of a model.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct ModelSummary {
    /// The model's name.
    pub name: String,
    /// "gguf" or "safetensors".
    pub format: &'static str,
    /// The architecture: "llama", "qwen2", "qwen3".
    pub family: &'static str,
    /// How many parameters, tied weights counted once.
    pub parameters: u64,
    /// Size of the files on disk, in bytes.
    pub bytes: u64,
    /// Number types and how many tensors are stored in each, most first: `[("Q4_1", 210), ("F32", 61)]`.
    pub types: Vec<(String, usize)>,
    /// Decoder layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    /// The longest context, in tokens.
    pub context: usize,
}

impl ModelSource {
    /// Opens a GGUF file, or a folder that holds `config.json` and safetensors files (or one GGUF file).
    pub fn open(path: &Path) -> Result<Self> {
        let found = std::fs::metadata(path).map_err(|e| Error::read(path, e))?;
        let weights = if !found.is_dir() {
            Weights::Gguf(Box::new(Gguf::open(path)?))
        } else if path.join("config.json").is_file() {
            Weights::Folder(Folder::open(path)?)
        } else {
            Weights::Gguf(Box::new(Gguf::open(&only_gguf_of(path)?)?))
        };
        let (config, unknown) = match &weights {
            Weights::Gguf(g) => (g.config()?, Vec::new()),
            Weights::Folder(f) => f.config()?,
            Weights::Random(_) => return Err(no_files(path)),
        };
        let path = match &weights {
            Weights::Gguf(g) => g.path().to_path_buf(),
            Weights::Folder(_) | Weights::Random(_) => path.to_path_buf(),
        };
        let mut warnings = Vec::new();
        if !unknown.is_empty() {
            let (keys, shown) = (if unknown.len() == 1 { "key" } else { "keys" }, path.join("config.json"));
            let known = "that neither transformers nor this program reads for such a model";
            warnings.push(format!("{}: {keys} {known}: {}", shown.display(), foreign::listed(&unknown)));
        }
        let source = Self { path, config, weights, warnings, digest: OnceLock::new() };
        source.check_tensors()?;
        Ok(source)
    }

    /// A model of a shape with random weights, for measuring speed where the real ones cannot be had. It has no tokenizer,
    /// and its completions are noise.
    pub fn random(config: ModelConfig, seed: u64) -> Self {
        let weights = Weights::Random(seed);
        Self { path: "random".into(), config, weights, warnings: Vec::new(), digest: OnceLock::new() }
    }

    /// The GGUF file or the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The model's shape.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// What in the files does not stop their use and that their owner should know: keys that nobody reads.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Whether the model has this tensor, by its Hugging Face name. A tied output layer is the embedding, not a tensor.
    pub fn has(&self, hf_name: &str) -> bool {
        self.stored_shape(hf_name).is_some()
    }

    /// Reads one tensor as f32 on the CPU, by its Hugging Face name; matrices are `[out, in]`. In a tied model
    /// `lm_head.weight` is the embedding.
    ///
    /// # Errors
    /// [`Error::Model`] when the model has no such tensor, when its shape is not the one that the configuration implies,
    /// or when it holds values that are not numbers: a model with one of those answers at random or not at all.
    pub(super) fn tensor(&self, hf_name: &str) -> Result<Tensor> {
        let name = match hf_name {
            "lm_head.weight" if self.config.tie_word_embeddings => "model.embed_tokens.weight",
            name => name,
        };
        self.check_tensor(name)?;
        let tensor = match &self.weights {
            Weights::Gguf(g) => g.read(name, &self.config)?,
            Weights::Folder(f) => f.read(name)?,
            Weights::Random(seed) => return random(&self.shape(name)?, name, *seed),
        };
        match tensor.not_finite() {
            None => Ok(tensor),
            Some((index, value)) => Err(Error::model(
                &self.path,
                format!("tensor {} holds {value} (value {index} of {})", self.stored_name(name), tensor.values().len()),
                "the model was damaged or its training diverged; fetch it again or choose another one",
            )),
        }
    }

    /// The model's tokenizer.
    ///
    /// # Errors
    /// [`Error::Model`] when there is none, when it cannot be read, or when it has more tokens than the embedding.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        let tokenizer = match &self.weights {
            Weights::Gguf(g) => g.tokenizer()?,
            Weights::Folder(_) => Tokenizer::from_file(&self.path.join("tokenizer.json"))?,
            Weights::Random(_) => return Err(no_files(&self.path)),
        };
        if tokenizer.vocab_size() > self.config.vocab_size {
            return Err(Error::model(
                &self.path,
                format!("{} tokens over an embedding of {} rows", tokenizer.vocab_size(), self.config.vocab_size),
                "the tokenizer belongs to another model; fetch the one that came with these weights",
            ));
        }
        Ok(tokenizer)
    }

    /// SHA-256 of the weights and the configuration, in hexadecimal. Reads all files once, then remembers.
    pub fn digest(&self) -> Result<String> {
        if let Some(known) = self.digest.get() {
            return Ok(known.clone());
        }
        let mut sha = Sha256::new();
        for path in self.files() {
            let mut file = File::open(&path).map_err(|e| Error::read(&path, e))?;
            let mut buffer = vec![0u8; 1 << 20];
            // The length goes first, so that moving bytes from one file to the next changes the digest.
            sha.update(file.metadata().map_err(|e| Error::read(&path, e))?.len().to_le_bytes());
            loop {
                let n = file.read(&mut buffer).map_err(|e| Error::read(&path, e))?;
                match buffer.get(..n) {
                    Some(bytes) if n > 0 => sha.update(bytes),
                    _ => break,
                }
            }
        }
        let digest = hex(sha.finalize());
        Ok(self.digest.get_or_init(|| digest).clone())
    }

    /// The model's name: what a GGUF file calls itself, or the folder's name.
    pub fn name(&self) -> String {
        let own = match &self.weights {
            Weights::Gguf(g) => g.name(),
            Weights::Folder(_) | Weights::Random(_) => None,
        };
        own.or_else(|| Some(self.path.file_name()?.to_string_lossy().into_owned()))
            .unwrap_or_else(|| "model".to_owned())
    }

    /// Whether it is a Hugging Face folder.
    pub(super) fn is_folder(&self) -> bool {
        matches!(self.weights, Weights::Folder(_))
    }

    /// The metadata of a GGUF file; none where it is none.
    pub(super) fn gguf_metadata(&self) -> Option<Vec<(String, Value)>> {
        let Weights::Gguf(file) = &self.weights else { return None };
        Some(file.metadata().map(|(key, value)| (key.to_owned(), value.clone())).collect())
    }

    /// The number type that a tensor is stored in, as the files name it; none for random weights.
    pub(super) fn stored_type(&self, hf_name: &str) -> Option<String> {
        match &self.weights {
            Weights::Gguf(file) => file.stored_type(hf_name),
            Weights::Folder(folder) => folder.stored_type(hf_name),
            Weights::Random(_) => None,
        }
    }

    /// A summary of the model.
    pub fn summary(&self) -> ModelSummary {
        let (format, mut types) = match &self.weights {
            Weights::Gguf(g) => ("gguf", g.types()),
            Weights::Folder(f) => ("safetensors", f.types()),
            Weights::Random(_) => ("random", Vec::new()),
        };
        types.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        let config = &self.config;
        ModelSummary {
            name: self.name(),
            format,
            family: config.architecture.name(),
            parameters: config.parameters(),
            bytes: self.files().iter().filter_map(|f| std::fs::metadata(f).ok()).map(|m| m.len()).sum(),
            types,
            layers: config.num_hidden_layers,
            hidden_size: config.hidden_size,
            vocab_size: config.vocab_size,
            context: config.max_position_embeddings,
        }
    }

    fn files(&self) -> Vec<PathBuf> {
        match &self.weights {
            Weights::Gguf(_) => vec![self.path.clone()],
            Weights::Folder(f) => f.files(),
            Weights::Random(_) => Vec::new(),
        }
    }

    fn stored_shape(&self, hf_name: &str) -> Option<Vec<usize>> {
        match &self.weights {
            Weights::Gguf(g) => g.shape(hf_name),
            Weights::Folder(f) => f.shape(hf_name),
            Weights::Random(_) => self.config.tensor_shape(hf_name),
        }
    }

    /// The shape that the configuration implies.
    fn shape(&self, name: &str) -> Result<Vec<usize>> {
        self.config.tensor_shape(name).ok_or_else(|| {
            Error::bug("model source", format!("a {} model has no tensor {name}", self.config.architecture.name()))
        })
    }

    /// A tensor's name in its file.
    fn stored_name(&self, hf_name: &str) -> String {
        match &self.weights {
            Weights::Gguf(_) => gguf_name(hf_name).unwrap_or_else(|| hf_name.to_owned()),
            Weights::Folder(_) | Weights::Random(_) => hf_name.to_owned(),
        }
    }

    /// Every tensor that the model needs is there, and none that nobody would read.
    fn check_tensors(&self) -> Result<()> {
        let strange = match &self.weights {
            Weights::Gguf(g) => g.strangers(&self.config),
            Weights::Folder(f) => f.names().filter(|name| !strangers::is_harmless(name, &self.config)).collect(),
            Weights::Random(_) => Vec::new(),
        };
        // A known kind of thing explains more than the tensors that are missing beside it.
        strangers::check_kinds(&self.path, &strange, &self.config)?;
        self.config.tensor_names().iter().try_for_each(|name| self.check_tensor(name))?;
        if !strange.is_empty() {
            return Err(strangers::unread(&self.path, &strange, &self.config));
        }
        let Weights::Folder(folder) = &self.weights else { return Ok(()) };
        folder.check_types()?;
        let (copy, embedding) = ("lm_head.weight", "model.embed_tokens.weight");
        let copied = self.config.tie_word_embeddings && folder.shape(copy).is_some();
        if copied && !folder.are_equal(copy, embedding)? {
            let found = "tie_word_embeddings is true, and lm_head.weight is not the embedding";
            return Err(Error::model(&self.path, found, "one of the two is wrong; fetch the model again"));
        }
        Ok(())
    }

    fn check_tensor(&self, name: &str) -> Result<()> {
        let expected = self.shape(name)?;
        match self.stored_shape(name) {
            Some(shape) if shape == expected => Ok(()),
            Some(shape) => Err(Error::model(
                &self.path,
                format!("tensor {name} has the shape {shape:?} where the configuration says {expected:?}"),
                "weights and configuration belong to different models; fetch the model again",
            )),
            None => Err(Error::model(
                &self.path,
                format!("tensor {name} is missing"),
                "the file is incomplete or holds another kind of model; fetch the model again",
            )),
        }
    }
}

/// What a model of random weights lacks.
fn no_files(path: &Path) -> Error {
    Error::model(path, "random weights come with no files", "open a real model")
}

/// A matrix of small values around 0; a norm of ones.
fn random(shape: &[usize], name: &str, seed: u64) -> Result<Tensor> {
    /// Values sampled; longer tensors repeat them, each row from another place.
    const SAMPLED: usize = (1 << 20) - 3;
    let count: usize = shape.iter().product();
    if shape.len() < 2 && !name.ends_with("bias") {
        return Tensor::new(vec![1.0; count], shape);
    }
    let own = name.bytes().fold(seed, |hash, byte| hash.wrapping_mul(0x0100_0000_01B3) ^ u64::from(byte));
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(own);
    let sampled: Vec<f32> = (0..count.min(SAMPLED)).map(|_| rng.random_range(-0.04..0.04)).collect();
    let values: Vec<f32> = sampled.iter().copied().cycle().take(count).collect();
    Tensor::new(values, shape)
}

/// The one GGUF file of a folder without `config.json`.
fn only_gguf_of(folder: &Path) -> Result<PathBuf> {
    let entries = std::fs::read_dir(folder).map_err(|e| Error::read(folder, e))?;
    let mut files: Vec<PathBuf> =
        entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "gguf")).collect();
    files.sort();
    match files.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(foreign::no_model(folder)),
        many => {
            let names: Vec<_> = many.iter().filter_map(|p| p.file_name()).map(|n| n.to_string_lossy()).collect();
            Err(Error::model(
                folder,
                format!("several GGUF files ({})", names.join(", ")),
                "give the path of one of them",
            ))
        }
    }
}

#[cfg(test)]
mod tests;
