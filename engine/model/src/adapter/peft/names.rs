//! The names of an adapter's tensors.

use std::collections::BTreeMap;

use crate::adapter::Projection;
use crate::config::ModelConfig;
use crate::foreign::listed;
use crate::shard::Shard;
use querywright_types::{Error, Result};

/// A tensor's name as PEFT writes it; `part` is `lora_A` or `lora_B`.
pub(super) fn written(layer: usize, projection: Projection, part: &str) -> String {
    format!("base_model.model.model.layers.{layer}.{}.{part}.weight", projection.path())
}

/// The names in a file by what they are factors of.
pub(super) struct Names<'a> {
    file: &'a Shard,
    /// By layer, number of the projection, and part.
    stored: BTreeMap<(usize, usize, &'static str), &'a str>,
}

/// What a name says.
struct Place<'a> {
    layer: usize,
    projection: Projection,
    part: &'static str,
    /// The adapter's own name, which PEFT leaves out and state dicts of a model in training have.
    adapter: &'a str,
}

impl<'a> Names<'a> {
    /// Looks at all names in a file.
    ///
    /// # Errors
    /// A tensor that is no factor of a layer of this model, factors of several adapters, none at all.
    pub(super) fn of(file: &'a Shard, model: &ModelConfig) -> Result<Self> {
        let mut names = Self { file, stored: BTreeMap::new() };
        let mut strangers = Vec::new();
        let mut adapters: Vec<&str> = Vec::new();
        for name in file.names() {
            let Some(place) = Place::parse(name).filter(|place| place.layer < model.num_hidden_layers) else {
                strangers.push(name);
                continue;
            };
            if !adapters.contains(&place.adapter) {
                adapters.push(place.adapter);
            }
            if let Some(other) = names.stored.insert((place.layer, place.projection as usize, place.part), name) {
                let found = format!("holds {other} and {name}, which are the same factor");
                return Err(Error::model(file.path(), found, "save the adapter again with PEFT"));
            }
        }
        if !strangers.is_empty() {
            return Err(foreign(file, &strangers, model));
        }
        if adapters.len() > 1 {
            let found = format!("holds {} adapters ({})", adapters.len(), listed(&adapters));
            return Err(Error::model(file.path(), found, "save the one that you want by itself"));
        }
        if names.stored.is_empty() {
            return Err(Error::model(file.path(), "holds no LoRA weights", "give a folder with a trained adapter"));
        }
        Ok(names)
    }

    /// The layers and projections that there are factors of, in the adapter's order.
    pub(super) fn places(&self) -> Vec<(usize, Projection)> {
        let mut places: Vec<(usize, usize)> = self.stored.keys().map(|(layer, p, _)| (*layer, *p)).collect();
        places.dedup();
        places.into_iter().map(|(layer, p)| (layer, Projection::ALL[p])).collect()
    }

    /// The name of a factor in the file.
    pub(super) fn stored(&self, layer: usize, projection: Projection, part: &'static str) -> Result<&'a str> {
        self.stored.get(&(layer, projection as usize, part)).copied().ok_or_else(|| {
            Error::model(
                self.file.path(),
                format!("lacks {}", written(layer, projection, part)),
                "copy the adapter again",
            )
        })
    }
}

impl<'a> Place<'a> {
    /// With PEFT's prefix or without, and with the adapter's name between factor and `weight` or without.
    fn parse(name: &'a str) -> Option<Self> {
        let bare = name.strip_prefix("base_model.model.").unwrap_or(name);
        let (layer, rest) = bare.strip_prefix("model.layers.")?.split_once('.')?;
        let (path, part, end) = ["lora_A", "lora_B"].into_iter().find_map(|part| {
            let (path, end) = rest.split_once(part)?;
            Some((path.strip_suffix('.')?, part, end.strip_prefix('.')?))
        })?;
        let adapter = if end == "weight" { "" } else { end.strip_suffix(".weight").filter(|a| !a.contains('.'))? };
        let projection = Projection::ALL.into_iter().find(|p| p.path() == path)?;
        // A number is written in one way: `007` would be another tensor.
        let number: usize = layer.parse().ok().filter(|n: &usize| n.to_string() == layer)?;
        Some(Self { layer: number, projection, part, adapter })
    }
}

/// The refusal of tensors that are no factors of this model's layers: what they are.
fn foreign(file: &Shard, names: &[&str], model: &ModelConfig) -> Error {
    let whole = "train it without modules_to_save, or merge it into the model (merge_and_unload) and give that";
    let plain = "plain LoRA adapters of the layers are supported; train it without, or merge it into the model \
                 (merge_and_unload) and give that";
    let kinds: [(&[&str], &str, &str); 11] = [
        (&["lora_magnitude_vector"], "magnitudes of DoRA", plain),
        (&["lora_diag"], "singular values of KaSA", plain),
        (&["token_adapter", "trainable_tokens"], "single rows of the embedding (trainable_token_indices)", plain),
        (&["modules_to_save", "original_module"], "whole layers that were trained beside it (modules_to_save)", whole),
        (&["lora_embedding", "embed_tokens.lora"], "an adapter of the embedding (embed_tokens)", plain),
        (&["lm_head.lora"], "an adapter of the output layer (lm_head)", plain),
        (&[".bias"], "biases", plain),
        (
            &["lora_down", "lora_up", "lora.down", "lora.up"],
            "weights as other programs than PEFT name them (lora_down, lora_up)",
            "rename them to lora_A.weight and lora_B.weight, or convert the adapter to PEFT's format",
        ),
        (&["layernorm", "q_norm", "k_norm", "model.norm."], "norms that were trained beside it", whole),
        (&["embed_tokens", "lm_head", "base_layer"], "whole layers that were trained or resized beside it", whole),
        (
            &["prompt_embeddings", "prompt_encoder", "adaption_", "ia3_", "vera_", "hada_", "lokr_", "oft_"],
            "weights of another method than LoRA",
            plain,
        ),
    ];
    for (parts, what, remedy) in kinds {
        let own: Vec<&str> =
            names.iter().copied().filter(|name| parts.iter().any(|part| name.contains(part))).collect();
        if !own.is_empty() {
            let found = format!("holds {what}, which is not supported ({})", listed(&own));
            return Error::model(file.path(), found, remedy);
        }
    }
    if names.len() == file.names().count() && !names.iter().any(|name| name.contains("lora_")) {
        let found = format!("holds no LoRA weights but {}", listed(names));
        return Error::model(file.path(), found, "give a folder with a trained LoRA adapter");
    }
    let found =
        format!("holds {}, which this model of {} layers does not have", listed(names), model.num_hidden_layers);
    Error::model(file.path(), found, "use the adapter with the model it was trained on (base_model_name_or_path)")
}
