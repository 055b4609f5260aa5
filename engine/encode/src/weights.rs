//! The tensors of a folder under the names that candle's models ask for. What is missing, has another shape, holds what is
//! no number, or would be read by nobody is refused by its name.

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Shape as Dimensions, Tensor};
use candle_nn::VarBuilder;
use candle_nn::var_builder::SimpleBackend;

use crate::shape::{Architecture, Shape};
use querywright_model::files::Folder;
use querywright_types::{Error, Result, printable};

/// What of a folder was read, and the first tensor that could not be.
#[derive(Debug, Default)]
struct Seen {
    read: HashSet<String>,
    refused: Option<Error>,
}

/// Hands out tensors one by one, so that a model is never in memory twice.
struct Source<'a> {
    folder: &'a Folder,
    path: &'a Path,
    names: Names,
    seen: Arc<Mutex<Seen>>,
}

/// From the names that candle asks for to those in the file.
struct Names {
    architecture: Architecture,
    /// What stands before every name of the encoder, where the file is of a model with a head: "bert.".
    prefix: &'static str,
    hidden_size: usize,
}

/// Builds a model from the tensors of a folder with `build`, which reads them by candle's names.
pub(crate) fn load<M>(
    folder: &Folder,
    path: &Path,
    shape: &Shape,
    build: impl FnOnce(VarBuilder) -> candle_core::Result<M>,
) -> Result<M> {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let names = Names::of(folder, shape);
    let prefix = names.prefix;
    let source = Source { folder, path, names, seen: seen.clone() };
    let built = build(VarBuilder::from_backend(Box::new(source), DType::F32, Device::Cpu));
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(refused) = seen.refused.take() {
        return Err(refused);
    }
    let model = built.map_err(|e| Error::model(path, format!("it cannot be built ({e})"), "fetch the model again"))?;
    refuse_strangers(folder, path, shape, prefix, &seen.read)?;
    Ok(model)
}

impl Names {
    fn of(folder: &Folder, shape: &Shape) -> Self {
        let prefixes: &[&str] = match shape.architecture {
            Architecture::Bert => &["bert."],
            Architecture::Roberta => &["roberta.", "camembert."],
            Architecture::DistilBert => &["distilbert."],
            Architecture::ModernBert => &["model."],
        };
        let used = |prefix: &&&str| folder.names().any(|name| name.starts_with(**prefix));
        let prefix = prefixes.iter().find(used).copied().unwrap_or("");
        Self { architecture: shape.architecture, prefix, hidden_size: shape.hidden_size }
    }

    /// The name in the file of a tensor that candle asks for.
    fn stored(&self, asked: &str) -> String {
        let name = match self.architecture {
            Architecture::ModernBert => asked.strip_prefix("model.").unwrap_or(asked).to_owned(),
            Architecture::DistilBert => distilbert(asked),
            Architecture::Bert | Architecture::Roberta => asked.to_owned(),
        };
        format!("{}{name}", self.prefix)
    }

    /// Token types, which DistilBERT does not have: it is computed as a BERT whose only type adds nothing.
    fn made(&self, asked: &str) -> Option<Result<Tensor, candle_core::Error>> {
        let wanted = self.architecture == Architecture::DistilBert && asked == TYPES;
        wanted.then(|| Tensor::zeros((1, self.hidden_size), DType::F32, &Device::Cpu))
    }
}

const TYPES: &str = "embeddings.token_type_embeddings.weight";

/// A tensor of BERT under DistilBERT's name.
fn distilbert(asked: &str) -> String {
    let Some(rest) = asked.strip_prefix("encoder.layer.") else { return asked.to_owned() };
    let parts = [
        ("attention.self.query", "attention.q_lin"),
        ("attention.self.key", "attention.k_lin"),
        ("attention.self.value", "attention.v_lin"),
        ("attention.output.dense", "attention.out_lin"),
        ("attention.output.LayerNorm", "sa_layer_norm"),
        ("intermediate.dense", "ffn.lin1"),
        ("output.dense", "ffn.lin2"),
        ("output.LayerNorm", "output_layer_norm"),
    ];
    let (layer, part) = rest.split_once('.').unwrap_or((rest, ""));
    let renamed = parts.iter().find_map(|(bert, own)| Some(format!("{own}{}", part.strip_prefix(bert)?)));
    format!("transformer.layer.{layer}.{}", renamed.unwrap_or_else(|| part.to_owned()))
}

impl Source<'_> {
    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, wanted: Option<&Dimensions>, asked: &str) -> Result<Tensor> {
        let name = self.names.stored(asked);
        let refused = |found: String, remedy: &str| Err(Error::model(self.path, found, remedy));
        let Some(shape) = self.folder.shape(&name) else {
            let remedy = "the file is incomplete or holds another kind of model; fetch the model again";
            return refused(format!("tensor {name} is missing"), remedy);
        };
        if let Some(right) = wanted.map(Dimensions::dims).filter(|right| shape != *right) {
            let found = format!("tensor {name} has the shape {shape:?} where the configuration says {right:?}");
            return refused(found, "weights and configuration belong to different models; fetch the model again");
        }
        let tensor = self.folder.read(&name)?;
        if let Some((index, value)) = tensor.not_finite() {
            let found = format!("tensor {name} holds {value} (value {index} of {})", tensor.values().len());
            let remedy = "the model was damaged or its training diverged; fetch it again or choose another one";
            return refused(found, remedy);
        }
        let made = Tensor::from_vec(tensor.into_values(), shape, &Device::Cpu);
        self.seen().read.insert(name);
        made.map_err(|e| Error::bug("encoder weights", e.to_string()))
    }

    fn give(&self, wanted: Option<&Dimensions>, asked: &str) -> candle_core::Result<Tensor> {
        if let Some(made) = self.names.made(asked) {
            return made;
        }
        self.read(wanted, asked).map_err(|error| {
            let text = error.to_string();
            self.seen().refused.get_or_insert(error);
            candle_core::Error::Msg(text)
        })
    }
}

impl SimpleBackend for Source<'_> {
    fn get(
        &self,
        shape: Dimensions,
        name: &str,
        _: candle_nn::Init,
        _: DType,
        _: &Device,
    ) -> candle_core::Result<Tensor> {
        // candle asks for every layer's first norm of ModernBERT; the first layer has none, and the others must.
        if self.names.architecture == Architecture::ModernBert && name == "model.layers.0.attn_norm.weight" {
            return Err(candle_core::Error::CannotFindTensor { path: name.to_owned() });
        }
        self.give(Some(&shape), name)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        self.give(None, name)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.folder.shape(&self.names.stored(name)).is_some()
    }
}

/// Refuses tensors that nobody read, unless they are known to take no part in an embedding.
fn refuse_strangers(folder: &Folder, path: &Path, shape: &Shape, prefix: &str, read: &HashSet<String>) -> Result<()> {
    let unread: Vec<&str> = folder.names().filter(|name| !read.contains(*name) && !is_harmless(name, prefix)).collect();
    if unread.is_empty() {
        return Ok(());
    }
    let heads = ["classifier", "score.", "qa_outputs", "pre_classifier", "out_proj"];
    let names: Vec<String> = unread.iter().take(3).map(|name| printable(name)).collect();
    let more = if unread.len() > 3 { format!(" and {} more", unread.len() - 3) } else { String::new() };
    let listed = format!("{}{more}", names.join(", "));
    if unread.iter().any(|name| heads.iter().any(|head| name.contains(head))) {
        let found = format!("it holds a head that classifies or scores ({listed})");
        return Err(Error::model(path, found, "a re-ranker makes no vectors: choose a sentence encoder"));
    }
    if unread.iter().any(|name| name.contains("lora_")) {
        let found = format!("an adapter's weights among those of the model ({listed})");
        return Err(Error::model(path, found, "merge the adapter (merge_and_unload) and save the model again"));
    }
    let found = format!("it holds tensors that such a model of {} layers does not read ({listed})", shape.layers);
    Err(Error::model(path, found, "weights and configuration belong to different models; fetch the model again"))
}

/// Buffers, the pooler over the first token, which sentence-transformers does not use, and heads that guess masked words.
fn is_harmless(name: &str, prefix: &str) -> bool {
    let own = name.strip_prefix(prefix).unwrap_or(name);
    let buffers = ["embeddings.position_ids", "embeddings.token_type_ids"];
    let heads = [
        "pooler.",
        "cls.",
        "lm_head.",
        "vocab_transform.",
        "vocab_layer_norm.",
        "vocab_projector.",
        "head.",
        "decoder.",
    ];
    buffers.contains(&own)
        || own.ends_with("rotary_emb.inv_freq")
        || heads.iter().any(|head| own.starts_with(head))
        || heads.iter().any(|head| name.starts_with(head))
}
