//! A GGUF file: metadata, tensors in any type that candle dequantises, and the tokenizer within.

mod vocabulary;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use candle_core::CpuStorage;
use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::{Content, Value};

use self::vocabulary::{SPLITTERS, Vocabulary};
use super::config::{Architecture, ModelConfig, RopeScaling};
use super::tensor::Tensor;
use super::tokenizer::{Declared, Tokenizer};
use querywright_types::{Error, Result};

const AGAIN: &str = "the file is cut off or damaged; fetch it again";
const TYPES: &str = "choose a file in F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 or a K type (Q2_K to Q6_K)";

/// An opened file.
#[derive(Debug)]
pub(super) struct Gguf {
    path: PathBuf,
    content: Content,
}

impl Gguf {
    /// Reads the header and checks that the file is as long as it says.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let mut file = File::open(path).map_err(|e| Error::read(path, e))?;
        let length = file.metadata().map_err(|e| Error::read(path, e))?.len();
        let mut magic = Vec::new();
        file.by_ref().take(4).read_to_end(&mut magic).map_err(|e| Error::read(path, e))?;
        if magic != b"GGUF" {
            let found = format!("{length} bytes that begin with \"{}\" instead of \"GGUF\"", magic.escape_ascii());
            let remedy = "give a GGUF file or a Hugging Face folder (a web page or a Git LFS pointer is no model)";
            return Err(Error::model(path, found, remedy));
        }
        let file = File::open(path).map_err(|e| Error::read(path, e))?;
        let content = header(file).map_err(|found| {
            let remedy = if found.contains("unknown dtype") { TYPES } else { AGAIN };
            Error::model(path, format!("the header cannot be read ({found})"), remedy)
        })?;
        let gguf = Self { path: path.to_path_buf(), content };
        if gguf.number("split.count").is_some_and(|n| n > 1) {
            return Err(gguf.refused("one of several parts of a split file", "join them with llama-gguf-split --merge"));
        }
        gguf.check_length(length)?;
        Ok(gguf)
    }

    /// The file, also when a folder was asked for.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn name(&self) -> Option<String> {
        self.text("general.name").map(str::to_owned)
    }

    /// The model's shape, from the metadata.
    pub(super) fn config(&self) -> Result<ModelConfig> {
        let section = self.text("general.architecture").unwrap_or("(none)");
        let architecture = Architecture::parse(section).ok_or_else(|| {
            let found = format!("general.architecture is \"{section}\"");
            self.refused(found, format!("{}; choose such a model", Architecture::SUPPORTED))
        })?;
        let key = |name: &str| format!("{section}.{name}");
        let need = |name: &str| {
            self.number(&key(name)).and_then(|n| usize::try_from(n).ok()).ok_or_else(|| {
                self.refused(format!("the metadata has no whole number {}", key(name)), "fetch the file again")
            })
        };
        let or = |name: &str, default: usize| if self.has_key(&key(name)) { need(name) } else { Ok(default) };
        if or("expert_count", 0)? > 0 {
            return Err(self.refused("a mixture of experts", "choose a dense model of the family"));
        }
        let hidden_size = need("embedding_length")?;
        let heads = need("attention.head_count")?;
        let head_dim = or("attention.key_length", hidden_size.checked_div(heads).unwrap_or(0))?;
        let rotated = or("rope.dimension_count", head_dim)?;
        if or("attention.value_length", head_dim)? != head_dim || rotated != head_dim {
            let found = format!("heads of {head_dim} with values of another width or only {rotated} rotated");
            return Err(self.refused(found, "choose another model of the family"));
        }
        let tokens = self.shape("model.embed_tokens.weight").and_then(|s| s.first().copied());
        let config = ModelConfig {
            architecture,
            vocab_size: tokens.ok_or_else(|| self.refused("tensor token_embd.weight is missing", AGAIN))?,
            hidden_size,
            intermediate_size: need("feed_forward_length")?,
            num_hidden_layers: need("block_count")?,
            num_attention_heads: heads,
            num_key_value_heads: or("attention.head_count_kv", heads)?,
            head_dim,
            rms_norm_eps: self.float(&key("attention.layer_norm_rms_epsilon")).unwrap_or(1e-6),
            rope_theta: self.float(&key("rope.freq_base")).unwrap_or(10_000.0),
            rope_scaling: None,
            max_position_embeddings: need("context_length")?,
            tie_word_embeddings: self.shape("lm_head.weight").is_none(),
            attention_bias: architecture == Architecture::Qwen2,
            qk_norm: architecture == Architecture::Qwen3,
        }
        .validated(&self.path)?;
        match self.text(&key("rope.scaling.type")) {
            None | Some("none") => {}
            Some(other) => {
                return Err(self.refused(format!("rope scaling \"{other}\""), "choose a model without, or Llama 3's"));
            }
        }
        let rope_scaling = self.llama3_scaling(&config)?;
        Ok(ModelConfig { rope_scaling, ..config })
    }

    /// The shape of a tensor by its Hugging Face name, `[out, in]`.
    pub(super) fn shape(&self, hf_name: &str) -> Option<Vec<usize>> {
        Some(self.content.tensor_infos.get(&gguf_name(hf_name)?)?.shape.dims().to_vec())
    }

    /// Reads a tensor as f32, rows of q and k in Hugging Face's order.
    pub(super) fn read(&self, hf_name: &str, config: &ModelConfig) -> Result<Tensor> {
        let name = gguf_name(hf_name).ok_or_else(|| Error::bug("GGUF", format!("GGUF has no name for {hf_name}")))?;
        let tensor = self.read_as_stored(&name)?;
        let heads = match hf_name.rsplit_once("self_attn.").map(|(_, part)| part) {
            Some("q_proj.weight") => config.num_attention_heads,
            Some("k_proj.weight") => config.num_key_value_heads,
            _ => return Ok(tensor),
        };
        if config.architecture != Architecture::Llama {
            return Ok(tensor);
        }
        half_by_half(&tensor, heads)
    }

    pub(super) fn types(&self) -> Vec<(String, usize)> {
        let mut counts = BTreeMap::<String, usize>::new();
        for info in self.content.tensor_infos.values() {
            *counts.entry(type_name(info.ggml_dtype)).or_default() += 1;
        }
        counts.into_iter().collect()
    }

    /// The tokenizer that the metadata describes.
    pub(super) fn tokenizer(&self) -> Result<Tokenizer> {
        match self.text("tokenizer.ggml.model") {
            Some("gpt2") => {}
            None => return Err(self.refused("there is no tokenizer in this file", "choose a complete GGUF file")),
            Some(other) => {
                let found = format!("a tokenizer of type \"{other}\" where byte-level BPE (\"gpt2\") is supported");
                return Err(self.refused(found, "take the model as a Hugging Face folder with tokenizer.json"));
            }
        }
        let pre = self.text("tokenizer.ggml.pre").unwrap_or("default");
        let id = |key: &str| self.number(&format!("tokenizer.ggml.{key}_token_id")).and_then(|n| u32::try_from(n).ok());
        let bos = id("bos");
        let adds_first = match self.content.metadata.get("tokenizer.ggml.add_bos_token") {
            Some(Value::Bool(yes)) => *yes,
            _ => Vocabulary::begins_texts(pre),
        };
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
        let eos = [id("eos"), id("eot"), id("eom")].into_iter().flatten().collect();
        let chat_template = self.text("tokenizer.chat_template").map(str::to_owned);
        Tokenizer::new(&self.path, tokenizer, Declared { bos, eos, pad: id("padding"), chat_template })
    }

    fn read_as_stored(&self, name: &str) -> Result<Tensor> {
        let failed = |found: String| self.refused(format!("tensor {name} cannot be read ({found})"), AGAIN);
        let info = self.content.tensor_infos.get(name).ok_or_else(|| failed("it is missing".to_owned()))?;
        let (dims, block) = (info.shape.dims(), info.ggml_dtype.block_size());
        if !dims.last().is_some_and(|width| width.is_multiple_of(block)) {
            return Err(failed(format!("rows of the shape {dims:?} in blocks of {block} values")));
        }
        let count = info.shape.elem_count();
        if count == 0 {
            return Tensor::new(Vec::new(), dims);
        }
        let mut bytes = vec![0; count / block * info.ggml_dtype.type_size()];
        let start = SeekFrom::Start(self.content.tensor_data_offset + info.offset);
        let mut file = File::open(&self.path).map_err(|e| Error::read(&self.path, e))?;
        file.seek(start).and_then(|_| file.read_exact(&mut bytes)).map_err(|e| failed(e.to_string()))?;
        // Not through a tensor of candle: its values could only be copied.
        match info.ggml_dtype.from_data(Cow::Borrowed(&bytes)).dequantize(count) {
            Ok(CpuStorage::F32(values)) => Tensor::new(values, dims),
            Ok(_) => Err(Error::bug("GGUF", format!("tensor {name} is not read in single precision"))),
            Err(error) => Err(failed(error.to_string())),
        }
    }

    /// Llama 3's scaling, which GGUF stores as one divisor a frequency (`rope_freqs.weight`) without the settings that
    /// made them. They are found again by trying those that Llama 3 was published with.
    fn llama3_scaling(&self, config: &ModelConfig) -> Result<Option<RopeScaling>> {
        if !self.content.tensor_infos.contains_key("rope_freqs.weight") {
            return Ok(None);
        }
        let divisors = self.read_as_stored("rope_freqs.weight")?.into_values();
        let factor = f64::from(divisors.iter().copied().fold(1.0, f32::max));
        let frequencies: Vec<f64> = config.plain_frequencies().collect();
        let scaling =
            RopeScaling { factor, low_freq_factor: 1.0, high_freq_factor: 4.0, original_max_position_embeddings: 8192 };
        let near = |(f, d): (&f64, &f32)| (scaling.divisor(*f) / f64::from(*d) - 1.0).abs() < 1e-3;
        if frequencies.len() != divisors.len() || !frequencies.iter().zip(&divisors).all(near) {
            return Err(
                self.refused("rope_freqs.weight is not Llama 3's scaling", "take the model as a Hugging Face folder")
            );
        }
        Ok((factor != 1.0).then_some(scaling))
    }

    /// Every tensor lies within the file and is of a type that can be read.
    fn check_length(&self, length: u64) -> Result<()> {
        for (name, info) in &self.content.tensor_infos {
            if matches!(info.ggml_dtype, GgmlDType::Q8_1 | GgmlDType::Q8K) {
                return Err(self.refused(format!("tensor {name} is stored as {:?}", info.ggml_dtype), TYPES));
            }
            let count = info.shape.dims().iter().try_fold(1u64, |n, d| n.checked_mul(*d as u64));
            let blocks = count.map(|n| n.div_ceil(info.ggml_dtype.block_size() as u64));
            let bytes = blocks.and_then(|n| n.checked_mul(info.ggml_dtype.type_size() as u64));
            let end = bytes.and_then(|n| self.content.tensor_data_offset.checked_add(info.offset)?.checked_add(n));
            if end.is_none_or(|end| end > length) {
                let end = end.map_or_else(|| "an impossible place".to_owned(), |e| format!("byte {e}"));
                return Err(self.refused(format!("{length} bytes, where tensor {name} ends at {end}"), AGAIN));
            }
        }
        Ok(())
    }

    fn has_key(&self, key: &str) -> bool {
        self.content.metadata.contains_key(key)
    }

    fn text(&self, key: &str) -> Option<&str> {
        match self.content.metadata.get(key)? {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    fn number(&self, key: &str) -> Option<u64> {
        whole(self.content.metadata.get(key)?)
    }

    fn float(&self, key: &str) -> Option<f64> {
        match self.content.metadata.get(key)? {
            Value::F32(x) => Some(f64::from(*x)),
            Value::F64(x) => Some(*x),
            _ => None,
        }
    }

    /// A list; empty when the key is absent.
    fn list<'a, T>(&'a self, key: &str, item: impl Fn(&'a Value) -> Option<T>) -> Result<Vec<T>> {
        let list = match self.content.metadata.get(key) {
            None => return Ok(Vec::new()),
            Some(Value::Array(values)) => values.iter().map(item).collect::<Option<_>>(),
            Some(_) => None,
        };
        list.ok_or_else(|| self.refused(format!("{key} holds values of the wrong type"), AGAIN))
    }

    fn texts(&self, key: &str) -> Result<Vec<&str>> {
        self.list(key, |v| if let Value::String(text) = v { Some(text.as_str()) } else { None })
    }

    fn numbers(&self, key: &str) -> Result<Vec<u64>> {
        self.list(key, whole)
    }

    fn refused(&self, found: impl Into<String>, remedy: impl Into<String>) -> Error {
        Error::model(&self.path, found, remedy)
    }
}

/// Reads the header. Candle divides by `general.alignment` unchecked and shapes may overflow: a panic there is a
/// damaged file like any other.
fn header(file: File) -> Result<Content, String> {
    let read = std::panic::AssertUnwindSafe(|| Content::read(&mut BufReader::with_capacity(1 << 16, file)));
    match std::panic::catch_unwind(read) {
        Ok(content) => content.map_err(|e| e.to_string()),
        Err(_) => Err("its numbers make no sense".to_owned()),
    }
}

fn whole(value: &Value) -> Option<u64> {
    value.to_u64().ok().or_else(|| match value {
        Value::I8(n) => u64::try_from(*n).ok(),
        Value::I16(n) => u64::try_from(*n).ok(),
        Value::I32(n) => u64::try_from(*n).ok(),
        Value::I64(n) => u64::try_from(*n).ok(),
        _ => None,
    })
}

/// The GGUF name of a tensor by its Hugging Face name.
fn gguf_name(hf_name: &str) -> Option<String> {
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
/// 2i + 1 row i of the second.
fn half_by_half(interleaved: &Tensor, heads: usize) -> Result<Tensor> {
    let (rows, columns) = interleaved.matrix()?;
    let half = rows / heads / 2;
    let mut values = Vec::with_capacity(rows * columns);
    for (head, half_of_head) in (0..heads).flat_map(|head| [(head, 0), (head, 1)]) {
        for i in 0..half {
            let row = (head * half + i) * 2 + half_of_head;
            values.extend_from_slice(&interleaved.values()[row * columns..][..columns]);
        }
    }
    Tensor::new(values, &[rows, columns])
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
