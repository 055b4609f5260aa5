//! A GGUF file: metadata, tensors in any type that candle dequantises, and the tokenizer within.

mod header;
mod keys;
mod vocabulary;
mod write;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use candle_core::CpuStorage;
use candle_core::quantized::GgmlDType;

use self::header::{Flaw, Header};
pub(super) use self::header::{Numbers, Value};
pub(super) use self::vocabulary::{CONTROL, NAMES, NORMAL, SPLITTERS, UNUSED, USER_DEFINED, Vocabulary};
pub(super) use self::write::start;
use super::config::{Architecture, ModelConfig, RopeScaling};
use super::foreign;
use super::tensor::Tensor;
use super::tokenizer::{Declared, Tokenizer};
use querywright_types::{Error, Result};

const AGAIN: &str = "the file is cut off or damaged; fetch it again";
const TYPES: &str = "choose a file in F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 or a K type (Q2_K to Q6_K)";

/// Whether a tensor changes nothing, because it follows from the metadata or is looked at with them.
fn is_unread(name: &str) -> bool {
    name == "rope_freqs.weight" || name.ends_with(".attn_rot_embd.weight")
}

/// An opened file.
#[derive(Debug)]
pub(super) struct Gguf {
    path: PathBuf,
    header: Header,
}

impl Gguf {
    /// Reads the header and checks that the file holds a model and is as long as it says.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let mut file = File::open(path).map_err(|e| Error::read(path, e))?;
        let length = file.metadata().map_err(|e| Error::read(path, e))?.len();
        let mut start = Vec::new();
        file.by_ref().take(8).read_to_end(&mut start).map_err(|e| Error::read(path, e))?;
        match start.get(..4) {
            Some(b"GGUF") => {}
            Some(b"FUGG") => return Err(flawed(path, Flaw::BigEndian)),
            _ => return Err(no_gguf(path, length, &start)),
        }
        file.seek(SeekFrom::Start(4)).map_err(|e| Error::read(path, e))?;
        let header = Header::read(file, length).map_err(|flaw| flawed(path, flaw))?;
        let gguf = Self { path: path.to_path_buf(), header };
        gguf.check_kind()?;
        gguf.check_length(length)?;
        Ok(gguf)
    }

    /// Refuses files that hold something else than a model.
    fn check_kind(&self) -> Result<()> {
        let text = |key: &str| self.text(key).ok().flatten();
        let kind = text("general.type").unwrap_or("model");
        let architecture = text("general.architecture").unwrap_or_default();
        if kind == "adapter" || self.header.metadata.contains_key("adapter.type") {
            let kind = text("adapter.type").unwrap_or("lora").to_uppercase();
            let remedy = "give its base model, and the adapter as a PEFT folder (adapter_config.json, \
                          adapter_model.safetensors) after a plus: MODEL+DIR";
            return Err(self.refused(format!("an adapter ({kind}) in GGUF, not a model"), remedy));
        }
        let language = "give the language model, which is another file beside it";
        match (kind, architecture) {
            (_, "clip") | ("mmproj", _) => {
                return Err(self.refused("a projector of images or sound (mmproj), not a language model", language));
            }
            ("imatrix", _) => return Err(self.refused("an importance matrix (imatrix), not a model", language)),
            (_, "controlvector") => return Err(self.refused("a control vector, not a model", language)),
            ("model", _) => {}
            (other, _) => {
                return Err(self.refused(format!("general.type is \"{other}\""), "give a file that holds a model"));
            }
        }
        if self.number("split.count")?.is_some_and(|n| n > 1) {
            return Err(self.refused("one of several parts of a split file", "join them with llama-gguf-split --merge"));
        }
        if self.header.tensors.is_empty() {
            let found = match self.header.metadata.contains_key("tokenizer.ggml.tokens") {
                true => "a vocabulary alone, without weights",
                false => "metadata alone, without weights",
            };
            return Err(self.refused(found, "give the file of the whole model"));
        }
        if self.number("general.quantization_version")?.is_some_and(|n| n != 2) {
            let found = "general.quantization_version is not 2: the numbers are stored in an older way";
            return Err(self.refused(found, "fetch the model again as it is published today"));
        }
        Ok(())
    }

    /// The file, also when a folder was asked for.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn name(&self) -> Option<String> {
        self.text("general.name").ok().flatten().map(str::to_owned)
    }

    /// The model's shape, from the metadata.
    pub(super) fn config(&self) -> Result<ModelConfig> {
        let section = self.text("general.architecture")?.unwrap_or("(none)");
        let architecture = Architecture::parse(section).ok_or_else(|| {
            let found = format!("general.architecture is \"{section}\"");
            self.refused(found, format!("{}; choose such a model", Architecture::SUPPORTED))
        })?;
        let keys = self.section(section);
        let hidden_size = keys.need("embedding_length")?;
        let heads = keys.need("attention.head_count")?;
        let head_dim = keys.or("attention.key_length", hidden_size.checked_div(heads).unwrap_or(0))?;
        let rotated = keys.or("rope.dimension_count", head_dim)?;
        if keys.or("attention.value_length", head_dim)? != head_dim || rotated != head_dim {
            let found = format!("heads of {head_dim} with values of another width or only {rotated} rotated");
            return Err(self.refused(found, "choose another model of the family"));
        }
        let tokens = self.shape("model.embed_tokens.weight").and_then(|s| s.first().copied());
        // No key says whether there are biases: those of the first layer do.
        let biased =
            |parts: &[&str]| parts.iter().all(|part| self.shape(&format!("model.layers.0.{part}_proj.bias")).is_some());
        let config = ModelConfig {
            architecture,
            vocab_size: tokens.ok_or_else(|| self.refused("tensor token_embd.weight is missing", AGAIN))?,
            hidden_size,
            intermediate_size: keys.need("feed_forward_length")?,
            num_hidden_layers: keys.need("block_count")?,
            num_attention_heads: heads,
            num_key_value_heads: keys.or("attention.head_count_kv", heads)?,
            head_dim,
            rms_norm_eps: keys.need_float("attention.layer_norm_rms_epsilon")?,
            rope_theta: keys.float_or("rope.freq_base", 10_000.0)?,
            rope_scaling: None,
            max_position_embeddings: keys.need("context_length")?,
            tie_word_embeddings: self.shape("lm_head.weight").is_none(),
            attention_bias: architecture == Architecture::Qwen2
                || biased(&["self_attn.q", "self_attn.k", "self_attn.v"]),
            attention_output_bias: biased(&["self_attn.o"]),
            mlp_bias: biased(&["mlp.gate", "mlp.up", "mlp.down"]),
            qk_norm: architecture == Architecture::Qwen3,
        }
        .validated(&self.path)?;
        keys.refuse_unsupported(&config)?;
        let rope_scaling = match (keys.rope_scaling(&config)?, self.llama3_scaling(&config)?) {
            (Some(_), Some(_)) => {
                let found = format!("{section}.rope.scaling and rope_freqs.weight both scale positions");
                return Err(self.refused(found, "take the model as a Hugging Face folder"));
            }
            (stated, found) => stated.or(found),
        };
        ModelConfig { rope_scaling, ..config }.validated(&self.path)
    }

    /// The names of the tensors that a model of this shape does not read.
    pub(super) fn strangers(&self, config: &ModelConfig) -> Vec<&str> {
        let read: std::collections::HashSet<String> =
            config.tensor_names().iter().filter_map(|n| gguf_name(n)).collect();
        let names = self.header.tensors.keys().map(String::as_str);
        names.filter(|name| !read.contains(*name) && !is_unread(name)).collect()
    }

    /// The shape of a tensor by its Hugging Face name, `[out, in]`.
    pub(super) fn shape(&self, hf_name: &str) -> Option<Vec<usize>> {
        Some(self.header.tensors.get(&gguf_name(hf_name)?)?.shape.clone())
    }

    /// Reads a tensor as f32, rows of q and k in Hugging Face's order.
    pub(super) fn read(&self, hf_name: &str, config: &ModelConfig) -> Result<Tensor> {
        let name = gguf_name(hf_name).ok_or_else(|| Error::bug("GGUF", format!("GGUF has no name for {hf_name}")))?;
        let tensor = self.read_as_stored(&name)?;
        let heads = match hf_name.rsplit_once("self_attn.").map(|(_, part)| part) {
            Some("q_proj.weight" | "q_proj.bias") => config.num_attention_heads,
            Some("k_proj.weight" | "k_proj.bias") => config.num_key_value_heads,
            _ => return Ok(tensor),
        };
        if config.architecture != Architecture::Llama {
            return Ok(tensor);
        }
        half_by_half(&tensor, heads)
    }

    /// All metadata.
    pub(super) fn metadata(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.header.metadata.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The number type that a tensor is stored in, by its Hugging Face name.
    pub(super) fn stored_type(&self, hf_name: &str) -> Option<String> {
        Some(type_name(self.header.tensors.get(&gguf_name(hf_name)?)?.dtype))
    }

    pub(super) fn types(&self) -> Vec<(String, usize)> {
        let mut counts = BTreeMap::<String, usize>::new();
        for info in self.header.tensors.values() {
            *counts.entry(type_name(info.dtype)).or_default() += 1;
        }
        counts.into_iter().collect()
    }

    /// The tokenizer that the metadata describes.
    pub(super) fn tokenizer(&self) -> Result<Tokenizer> {
        match self.text("tokenizer.ggml.model")? {
            Some("gpt2") => {}
            None => return Err(self.refused("there is no tokenizer in this file", "choose a complete GGUF file")),
            Some(other) => {
                let found = format!("a tokenizer of type \"{other}\" where byte-level BPE (\"gpt2\") is supported");
                return Err(self.refused(found, "take the model as a Hugging Face folder with tokenizer.json"));
            }
        }
        let pre = self.text("tokenizer.ggml.pre")?.unwrap_or("default");
        let id = |key: &str| -> Result<Option<u32>> {
            // Minus one, and what lies outside the vocabulary, is no token, as in llama.cpp.
            let key = format!("tokenizer.ggml.{key}_token_id");
            Ok(self.integer(&key)?.and_then(|n| u32::try_from(n).ok()))
        };
        let bos = id("bos")?;
        let adds_first = self.flag("tokenizer.ggml.add_bos_token")?.unwrap_or_else(|| Vocabulary::begins_texts(pre));
        if self.flag("tokenizer.ggml.add_eos_token")? == Some(true) {
            let found =
                "tokenizer.ggml.add_eos_token is true: each text ends with an end token, before anything follows";
            return Err(self.refused(found, "this is an embedding model; choose one that generates"));
        }
        let vocabulary = Vocabulary {
            tokens: self.texts("tokenizer.ggml.tokens")?,
            kinds: self.numbers("tokenizer.ggml.token_type")?,
            merges: self.texts("tokenizer.ggml.merges")?,
            pre,
            first: bos.filter(|_| adds_first),
        };
        let tokenizer = vocabulary.build().map_err(|found| {
            self.refused(
                format!("the tokenizer cannot be used: {found}"),
                format!("the splitters {SPLITTERS} are supported; or take a Hugging Face folder with tokenizer.json"),
            )
        })?;
        let eos = [id("eos")?, id("eot")?, id("eom")?].into_iter().flatten().collect();
        let chat_template = self.text("tokenizer.chat_template")?.map(|text| Ok(text.to_owned()));
        Tokenizer::new(&self.path, tokenizer, Declared { bos, eos, pad: id("padding")?, chat_template })
    }

    fn read_as_stored(&self, name: &str) -> Result<Tensor> {
        let failed = |found: String| self.refused(format!("tensor {name} cannot be read ({found})"), AGAIN);
        let info = self.header.tensors.get(name).ok_or_else(|| failed("it is missing".to_owned()))?;
        let (shape, block) = (&info.shape, info.dtype.block_size());
        if shape.last().is_some_and(|width| !width.is_multiple_of(block)) {
            return Err(failed(format!("rows of the shape {shape:?} in blocks of {block} values")));
        }
        // That it lies in the file was checked when that was opened.
        let count: usize = shape.iter().product();
        if count == 0 {
            return Tensor::new(Vec::new(), shape);
        }
        let mut bytes = vec![0; count / block * info.dtype.type_size()];
        let start = SeekFrom::Start(self.header.data + info.offset);
        let mut file = File::open(&self.path).map_err(|e| Error::read(&self.path, e))?;
        file.seek(start).and_then(|_| file.read_exact(&mut bytes)).map_err(|e| failed(e.to_string()))?;
        // Not through a tensor of candle: its values could only be copied.
        match info.dtype.from_data(Cow::Borrowed(&bytes)).dequantize(count) {
            Ok(CpuStorage::F32(values)) => Tensor::new(values, shape),
            Ok(_) => Err(Error::bug("GGUF", format!("tensor {name} is not read in single precision"))),
            // The library's own text may hold a backtrace.
            Err(_) => Err(failed(format!("{} values of {} do not decode", count, type_name(info.dtype)))),
        }
    }

    /// Llama 3's scaling, which GGUF stores as one divisor a frequency (`rope_freqs.weight`) without the settings that
    /// made them. They are found again by trying those that Llama 3 was published with.
    fn llama3_scaling(&self, config: &ModelConfig) -> Result<Option<RopeScaling>> {
        if !self.header.tensors.contains_key("rope_freqs.weight") {
            return Ok(None);
        }
        let divisors = self.read_as_stored("rope_freqs.weight")?.into_values();
        let factor = f64::from(divisors.iter().copied().fold(1.0, f32::max));
        let frequencies: Vec<f64> = config.plain_frequencies().collect();
        let scaling = RopeScaling::Llama3 {
            factor,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        };
        let near = |(f, d): (&f64, &f32)| (scaling.divisor(*f) / f64::from(*d) - 1.0).abs() < 1e-3;
        if frequencies.len() != divisors.len() || !frequencies.iter().zip(&divisors).all(near) {
            return Err(
                self.refused("rope_freqs.weight is not Llama 3's scaling", "take the model as a Hugging Face folder")
            );
        }
        Ok((factor != 1.0).then_some(scaling))
    }

    /// Every tensor lies within the file.
    fn check_length(&self, length: u64) -> Result<()> {
        for (name, info) in &self.header.tensors {
            let count = info.shape.iter().try_fold(1u64, |n, d| n.checked_mul(*d as u64));
            let blocks = count.map(|n| n.div_ceil(info.dtype.block_size() as u64));
            let bytes = blocks.and_then(|n| n.checked_mul(info.dtype.type_size() as u64));
            let end = bytes.and_then(|n| self.header.data.checked_add(info.offset)?.checked_add(n));
            if end.is_none_or(|end| end > length) {
                let end = end.map_or_else(|| "an impossible place".to_owned(), |e| format!("byte {e}"));
                return Err(self.refused(format!("{length} bytes, where tensor {name} ends at {end}"), AGAIN));
            }
        }
        Ok(())
    }

    fn refused(&self, found: impl Into<String>, remedy: impl Into<String>) -> Error {
        Error::model(&self.path, found, remedy)
    }
}

/// The refusal of a file that does not begin as GGUF does.
fn no_gguf(path: &Path, length: u64, start: &[u8]) -> Error {
    if let Some((found, remedy)) = foreign::by_first_bytes(start) {
        let begin = start.get(..4).unwrap_or(start).escape_ascii();
        return Error::model(path, format!("{found}: it begins with \"{begin}\" instead of \"GGUF\""), remedy);
    }
    foreign::by_name(path).unwrap_or_else(|| {
        let begin = start.get(..4).unwrap_or(start).escape_ascii();
        let found = format!("{length} bytes that begin with \"{begin}\" instead of \"GGUF\"");
        let remedy = "give a GGUF file or a Hugging Face folder (a web page or a Git LFS pointer is no model)";
        Error::model(path, found, remedy)
    })
}

/// The refusal of a file whose header cannot be read.
fn flawed(path: &Path, flaw: Flaw) -> Error {
    match flaw {
        Flaw::Damaged(found) => Error::model(path, format!("the header cannot be read ({found})"), AGAIN),
        Flaw::BigEndian => {
            let remedy = "fetch the little-endian file, or convert it with gguf_convert_endian.py of llama.cpp";
            Error::model(path, "a big-endian GGUF file", remedy)
        }
        Flaw::Version(version) => {
            Error::model(path, format!("version {version} of GGUF, where 1 to 3 are read"), "fetch a file in version 3")
        }
        Flaw::Type(found) => Error::model(path, found, TYPES),
    }
}

/// The GGUF name of a tensor by its Hugging Face name.
pub(super) fn gguf_name(hf_name: &str) -> Option<String> {
    Some(match hf_name {
        "model.embed_tokens.weight" => "token_embd.weight".to_owned(),
        "model.norm.weight" => "output_norm.weight".to_owned(),
        "lm_head.weight" => "output.weight".to_owned(),
        _ => {
            let (layer, part) = hf_name.strip_prefix("model.layers.")?.split_once('.')?;
            let (module, kind) = part.rsplit_once('.')?;
            let module = match module {
                "input_layernorm" => "attn_norm",
                "post_attention_layernorm" => "ffn_norm",
                "self_attn.q_proj" => "attn_q",
                "self_attn.k_proj" => "attn_k",
                "self_attn.v_proj" => "attn_v",
                "self_attn.o_proj" => "attn_output",
                "self_attn.q_norm" => "attn_q_norm",
                "self_attn.k_norm" => "attn_k_norm",
                "mlp.gate_proj" => "ffn_gate",
                "mlp.up_proj" => "ffn_up",
                "mlp.down_proj" => "ffn_down",
                _ => return None,
            };
            format!("blk.{layer}.{module}.{kind}")
        }
    })
}

/// For the llama architecture GGUF interleaves the two rotary halves of each head: row 2i is row i of the first half, row
/// 2i + 1 row i of the second. A bias has rows of one value.
fn half_by_half(interleaved: &Tensor, heads: usize) -> Result<Tensor> {
    let half = interleaved.shape().first().map_or(0, |rows| rows / heads / 2);
    let places = (0..heads).flat_map(|head| [(head, 0), (head, 1)]);
    reordered(interleaved, places.flat_map(|(head, part)| (0..half).map(move |i| (head * half + i) * 2 + part)))
}

/// The other way round: row i of each half of a head becomes row 2i, or 2i + 1.
pub(super) fn head_by_head(halves: &Tensor, heads: usize) -> Result<Tensor> {
    let half = halves.shape().first().map_or(0, |rows| rows / heads / 2);
    let places = (0..heads).flat_map(|head| (0..half).map(move |i| (head, i)));
    reordered(halves, places.flat_map(|(head, i)| [0, 1].map(|part| (head * 2 + part) * half + i)))
}

/// A tensor's rows in another order.
fn reordered(tensor: &Tensor, rows: impl Iterator<Item = usize>) -> Result<Tensor> {
    let columns = if tensor.shape().len() == 1 { 1 } else { tensor.matrix()?.1 };
    let mut values = Vec::with_capacity(tensor.values().len());
    rows.for_each(|row| values.extend_from_slice(&tensor.values()[row * columns..][..columns]));
    Tensor::new(values, tensor.shape())
}

/// llama.cpp's spelling: candle's `Q4K` is `Q4_K`.
fn type_name(dtype: GgmlDType) -> String {
    let name = format!("{dtype:?}");
    match name.strip_suffix('K') {
        Some(stem) => format!("{stem}_K"),
        None => name,
    }
}

#[cfg(test)]
mod tests;
