//! One GGUF file, with the keys and the order of rows that llama.cpp expects.
//!
//! A GGUF base keeps its metadata; of a Hugging Face folder they are made as llama.cpp's `convert_hf_to_gguf.py` makes them.

use std::path::Path;

use super::vocabulary;
use super::{Export, ExportType, Exported, Placed};
use crate::config::{Architecture, ModelConfig, RopeScaling};
use crate::gguf::{Value, gguf_name, head_by_head, start};
use crate::source::ModelSource;
use crate::tensor::Tensor;
use querywright_types::{Error, Observe, Result};

/// The file's name in its folder.
pub(super) const FILE: &str = "model.gguf";
/// Metadata of a base that are no longer true.
const STALE: [&str; 3] = ["general.alignment", "general.file_type", "general.quantization_version"];
/// What the data of each tensor is aligned to.
const ALIGNMENT: usize = 32;

pub(super) fn write(export: &Export<'_>, folder: &Path, observer: &dyn Observe) -> Result<Exported> {
    let (source, config) = (export.source, export.source.config());
    let mut metadata = match source.gguf_metadata() {
        Some(mut known) => {
            known.retain(|(key, _)| !STALE.contains(&key.as_str()) && !key.starts_with("split."));
            known
        }
        None => described(source)?,
    };
    let file_type = match export.dtype {
        ExportType::F32 => 0,
        ExportType::F16 => 1,
        ExportType::Bf16 => 32,
    };
    metadata.push(("general.file_type".into(), Value::Unsigned(file_type)));
    let mut placed = Vec::new();
    let mut entries = Vec::new();
    for name in config.tensor_names() {
        let Some(own) = gguf_name(&name) else {
            return Err(Error::bug("model::export", format!("GGUF has no name for {name}")));
        };
        let bug = || Error::bug("model::export", format!("no shape is known of {name}"));
        let shape = config.tensor_shape(&name).ok_or_else(bug)?;
        // llama.cpp multiplies and adds vectors in single precision alone.
        let dtype = if shape.len() < 2 { ExportType::F32 } else { export.dtype };
        let bytes = shape.iter().product::<usize>() * dtype.bytes();
        entries.push((own, shape, kind(dtype), bytes));
        placed.push(Placed { hf_name: name, dtype, bytes, padding: bytes.next_multiple_of(ALIGNMENT) - bytes });
    }
    let frequencies = llama3_divisors(source);
    if let Some(divisors) = &frequencies {
        let bytes = divisors.values().len() * 4;
        entries.push((ROPE.into(), divisors.shape().to_vec(), kind(ExportType::F32), bytes));
    }
    let header = start(&metadata, &entries, ALIGNMENT);
    let place = |name: &str, tensor: Tensor| in_rows(config, name, tensor);
    let path = folder.join(FILE);
    let mut exported = export.write_tensors((&path, &header), &placed, place, observer)?;
    if let Some(divisors) = frequencies {
        exported.bytes += append(&path, &divisors)?;
    }
    Ok(exported)
}

/// The tensor that holds Llama 3's scaling.
const ROPE: &str = "rope_freqs.weight";

/// llama.cpp's number of a type.
fn kind(dtype: ExportType) -> u32 {
    match dtype {
        ExportType::F32 => 0,
        ExportType::F16 => 1,
        ExportType::Bf16 => 30,
    }
}

/// The rows of q and k as llama.cpp reads them in the llama architecture: the two halves of each head interleaved.
fn in_rows(config: &ModelConfig, hf_name: &str, tensor: Tensor) -> Result<Tensor> {
    let heads = match hf_name.rsplit_once("self_attn.").map(|(_, part)| part) {
        Some("q_proj.weight" | "q_proj.bias") => config.num_attention_heads,
        Some("k_proj.weight" | "k_proj.bias") => config.num_key_value_heads,
        _ => return Ok(tensor),
    };
    if config.architecture == Architecture::Llama { head_by_head(&tensor, heads) } else { Ok(tensor) }
}

/// One divisor a frequency, where the model has Llama 3's scaling.
fn llama3_divisors(source: &ModelSource) -> Option<Tensor> {
    let config = source.config();
    let scaling = config.rope_scaling.as_ref().filter(|scaling| matches!(scaling, RopeScaling::Llama3 { .. }))?;
    let divisors: Vec<f32> = config.plain_frequencies().map(|f| scaling.divisor(f) as f32).collect();
    let count = divisors.len();
    Tensor::new(divisors, &[count]).ok()
}

/// Writes the last tensor, which is not one of the model's.
fn append(path: &Path, tensor: &Tensor) -> Result<u64> {
    let mut bytes = Vec::new();
    ExportType::F32.put(tensor.values(), &mut bytes);
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
    let append = || -> std::io::Result<()> {
        let mut file = std::fs::OpenOptions::new().append(true).open(path)?;
        std::io::Write::write_all(&mut file, &bytes)?;
        file.sync_all()
    };
    append().map_err(|e| Error::write(path, e))?;
    Ok(bytes.len() as u64)
}

/// The metadata of a model that comes as a Hugging Face folder.
fn described(source: &ModelSource) -> Result<Vec<(String, Value)>> {
    let config = source.config();
    let whole = |value: usize| Value::Unsigned(value as u64);
    let all = vec![
        ("general.architecture", Value::Text(config.architecture.name().into())),
        ("general.type", Value::Text("model".into())),
        ("general.name", Value::Text(source.name())),
    ];
    let mut own = vec![
        ("block_count", whole(config.num_hidden_layers)),
        ("context_length", whole(config.max_position_embeddings)),
        ("embedding_length", whole(config.hidden_size)),
        ("feed_forward_length", whole(config.intermediate_size)),
        ("attention.head_count", whole(config.num_attention_heads)),
        ("attention.head_count_kv", whole(config.num_key_value_heads)),
        ("attention.key_length", whole(config.head_dim)),
        ("attention.value_length", whole(config.head_dim)),
        ("attention.layer_norm_rms_epsilon", Value::Float(config.rms_norm_eps)),
        ("rope.dimension_count", whole(config.head_dim)),
        ("rope.freq_base", Value::Float(config.rope_theta)),
        ("vocab_size", whole(config.vocab_size)),
    ];
    own.extend(scaling(source.path(), config)?);
    let name = config.architecture.name();
    let general = all.into_iter().map(|(key, value)| (key.to_owned(), value));
    let own = own.into_iter().map(|(key, value)| (format!("{name}.{key}"), value));
    let words = vocabulary::described(source)?.into_iter().map(|(key, value)| (format!("tokenizer.{key}"), value));
    Ok(general.chain(own).chain(words).collect())
}

/// The keys of a scaling of positions; Llama 3's is a tensor.
pub(super) fn scaling(path: &Path, config: &ModelConfig) -> Result<Vec<(&'static str, Value)>> {
    let text = |kind: &str| Value::Text(kind.into());
    Ok(match config.rope_scaling {
        None | Some(RopeScaling::Llama3 { .. }) => Vec::new(),
        Some(RopeScaling::Linear { factor }) => {
            vec![("rope.scaling.type", text("linear")), ("rope.scaling.factor", Value::Float(factor))]
        }
        Some(RopeScaling::Yarn {
            factor,
            original_max_position_embeddings: original,
            beta_fast,
            beta_slow,
            truncate,
            attention_factor,
        }) => {
            let usual = RopeScaling::yarn_attention(factor, 1.0);
            if !truncate || (attention_factor / usual - 1.0).abs() > 1e-6 {
                let found =
                    "YaRN with an attention_factor, an mscale or a truncate of its own, which GGUF has no key for";
                return Err(Error::model(path, found, "write it as safetensors (--format safetensors)"));
            }
            vec![
                ("rope.scaling.type", text("yarn")),
                ("rope.scaling.factor", Value::Float(factor)),
                ("rope.scaling.original_context_length", Value::Unsigned(original as u64)),
                ("rope.scaling.yarn_beta_fast", Value::Float(beta_fast)),
                ("rope.scaling.yarn_beta_slow", Value::Float(beta_slow)),
            ]
        }
    })
}
