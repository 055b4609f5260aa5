//! The tensors of a folder. What is missing, has another shape, holds what is no number, or would be read by nobody is
//! refused by its name.

use std::collections::HashSet;
use std::path::Path;

use crate::shape::{Architecture, Shape};
use querywright_kernels::{FrozenLinear, LayerNorm, Precision};
use querywright_model::files::Folder;
use querywright_types::{Error, Result, printable};

/// Gives tensors one by one, so that a model is never in memory twice, and keeps book of what was read.
pub(crate) struct Weights<'a> {
    folder: &'a Folder,
    path: &'a Path,
    /// What stands before every name of the encoder, where the file is of a model with a head: "bert.".
    prefix: &'static str,
    /// How linear layers are held.
    precision: Precision,
    read: HashSet<String>,
}

impl<'a> Weights<'a> {
    pub(crate) fn of(folder: &'a Folder, path: &'a Path, architecture: Architecture, precision: Precision) -> Self {
        let prefixes: &[&str] = match architecture {
            Architecture::Bert => &["bert."],
            Architecture::Roberta => &["roberta.", "camembert."],
            Architecture::DistilBert => &["distilbert."],
            Architecture::ModernBert => &["model."],
        };
        let used = |prefix: &&&str| folder.names().any(|name| name.starts_with(**prefix));
        let prefix = prefixes.iter().find(used).copied().unwrap_or("");
        Self { folder, path, prefix, precision, read: HashSet::new() }
    }

    /// The values of a tensor, row by row.
    pub(crate) fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let name = format!("{}{name}", self.prefix);
        let refused = |found: String, remedy: &str| Err(Error::model(self.path, found, remedy));
        let Some(stored) = self.folder.shape(&name) else {
            let remedy = "the file is incomplete or holds another kind of model; fetch the model again";
            return refused(format!("tensor {name} is missing"), remedy);
        };
        if stored != shape {
            let found = format!("tensor {name} has the shape {stored:?} where the configuration says {shape:?}");
            return refused(found, "weights and configuration belong to different models; fetch the model again");
        }
        let tensor = self.folder.read(&name)?;
        if let Some((index, value)) = tensor.not_finite() {
            let found = format!("tensor {name} holds {value} (value {index} of {})", tensor.values().len());
            let remedy = "the model was damaged or its training diverged; fetch it again or choose another one";
            return refused(found, remedy);
        }
        self.read.insert(name);
        Ok(tensor.into_values())
    }

    /// A linear layer from `input` to `output` values.
    pub(crate) fn linear(&mut self, name: &str, input: usize, output: usize, biased: bool) -> Result<FrozenLinear> {
        let weight = self.tensor(&format!("{name}.weight"), &[output, input])?;
        let bias = biased.then(|| self.tensor(&format!("{name}.bias"), &[output])).transpose()?;
        FrozenLinear::new(&weight, (output, input), bias.as_deref(), self.precision)
    }

    /// A norm with a bias, also under the names of the first checkpoints.
    pub(crate) fn norm(&mut self, name: &str, width: usize, eps: f64) -> Result<LayerNorm> {
        let old = self.folder.shape(&format!("{}{name}.gamma", self.prefix)).is_some();
        let (weight, bias) = if old { ("gamma", "beta") } else { ("weight", "bias") };
        let weight = self.tensor(&format!("{name}.{weight}"), &[width])?;
        let bias = self.tensor(&format!("{name}.{bias}"), &[width])?;
        Ok(LayerNorm::new(weight, Some(bias), eps))
    }

    /// Refuses what was not read.
    pub(crate) fn finish(self, shape: &Shape) -> Result<()> {
        refuse_strangers(self.folder, self.path, shape, self.prefix, &self.read)
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
