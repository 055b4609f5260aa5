//! Tensors in a model's files that the decoder does not read.

use std::path::Path;

use super::config::ModelConfig;
use super::foreign::listed;
use querywright_types::{Error, Result};

/// Whether a tensor of a Hugging Face folder is read, or may be left out: the rotary frequencies, which follow from the
/// configuration, and the copy of a tied embedding, which is compared with that.
pub(super) fn is_harmless(name: &str, config: &ModelConfig) -> bool {
    config.tensor_shape(name).is_some() || name.ends_with("rotary_emb.inv_freq")
}

/// Refuses tensors that are known to belong to something that the decoder does not compute.
pub(super) fn check_kinds(path: &Path, names: &[&str], config: &ModelConfig) -> Result<()> {
    let kinds: [(&[&str], String, &str); 6] = [
        (
            &[".bias"],
            format!("biases, which are not supported in a {} model", config.architecture.name()),
            match path.extension().is_some_and(|extension| extension == "gguf") {
                true => "choose another model of the family",
                false => {
                    "choose another model of the family, or set attention_bias or mlp_bias in config.json where that forgot \
                     them"
                }
            },
        ),
        (
            &["lora_A", "lora_B", "lora_a", "lora_b", "lora_embedding", "base_layer"],
            "an adapter's weights among those of the model".to_owned(),
            "merge the adapter (merge_and_unload) and save the model again, or give model and adapter as MODEL+DIR",
        ),
        (
            &["_exps", "_shexp", "experts", "gate_inp", "mlp.gate.weight"],
            "a mixture of experts".to_owned(),
            "choose a dense model of the family",
        ),
        (
            &["scale", "qweight", "qzeros", "g_idx", "absmax", "quant", "zero_point"],
            "what belongs to quantised weights".to_owned(),
            "choose the weights in BF16 or F16, or a GGUF file in a type that is read",
        ),
        (
            &["score.", "classifier", "v_head", "cls."],
            "a head that classifies or scores".to_owned(),
            "choose a model that generates text",
        ),
        (&["norm"], "norms that this architecture does not have".to_owned(), "choose another model of the family"),
    ];
    if let Some((found, right)) = other_beginning(names, config) {
        let found =
            format!("its tensors begin with \"{found}\" where a {} model has \"{right}\"", config.architecture.name());
        let remedy = "save the model again without what it was wrapped in (DistributedDataParallel, torch.compile), or rename \
                      its tensors";
        return Err(Error::model(path, found, remedy));
    }
    let within: Vec<&str> = names.iter().copied().filter(|name| layer(name) < config.num_hidden_layers).collect();
    for (parts, what, remedy) in kinds {
        let of_kind = |name: &&str| parts.iter().any(|part| name.contains(part));
        let own: Vec<&str> = within.iter().copied().filter(of_kind).collect();
        if !own.is_empty() {
            return Err(Error::model(path, format!("it holds {what} ({})", listed(&own)), remedy));
        }
    }
    Ok(())
}

/// What tensors of the first layer begin with, where that is all that keeps them from being read, and what is right.
fn other_beginning<'n>(names: &[&'n str], config: &ModelConfig) -> Option<(&'n str, &'static str)> {
    let right = "model.";
    names.iter().find_map(|name| {
        let (found, rest) = name.split_at(name.find("layers.0.")?);
        // The layers of a vision tower are called as ours, and stand beside no embedding.
        let is_ours = names.contains(&format!("{found}embed_tokens.weight").as_str());
        let is_read = config.tensor_shape(&format!("{right}{rest}")).is_some();
        (found != right && is_ours && is_read).then_some((found, right))
    })
}

/// The refusal of tensors that nobody would read.
pub(super) fn unread(path: &Path, names: &[&str], config: &ModelConfig) -> Error {
    let (family, layers) = (config.architecture.name(), config.num_hidden_layers);
    let found = format!("it holds tensors that a {family} model of {layers} layers does not read ({})", listed(names));
    Error::model(path, found, "weights and configuration belong to different models; fetch the model again")
}

/// The number of a tensor's layer; 0 where its name has none.
fn layer(name: &str) -> usize {
    let behind = ["model.layers.", "blk."].into_iter().find_map(|prefix| name.strip_prefix(prefix));
    behind.and_then(|rest| rest.split_once('.')?.0.parse().ok()).unwrap_or(0)
}
