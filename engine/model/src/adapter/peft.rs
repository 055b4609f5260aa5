//! Adapters as PEFT's folders: `adapter_config.json` and `adapter_model.safetensors`.

mod config;
mod names;
mod patterns;

use std::path::Path;

use self::config::PeftConfig;
use self::names::Names;
use super::{Adapter, Factor, LoraConfig, Pair};
use crate::config::ModelConfig;
use crate::folder::read_text;
use crate::foreign;
use crate::shard::Shard;
use querywright_types::{Error, Output, Result};

/// `adapter_config.json` is a kilobyte or two.
const CONFIG_LIMIT: u64 = 4 << 20;

impl Adapter {
    /// Writes `adapter_config.json` and `adapter_model.safetensors` into `folder`, as PEFT reads them. Both are written
    /// beside what is there, and put in its place when both are whole.
    ///
    /// # Errors
    /// A folder that cannot be written. What was there is then still there.
    pub fn save(&self, folder: &Path, base_model: &str) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(|e| Error::write(folder, e))?;
        let (about, weights) = (folder.join("adapter_config.json"), folder.join("adapter_model.safetensors"));
        let text = serde_json::to_string_pretty(&self.peft_config(base_model)?);
        let text = text.map_err(|e| Error::write(&about, e.into()))? + "\n";
        let tensors = self.tensors().map_err(|e| Error::write(&weights, std::io::Error::other(e)))?;
        Output::write_together([(Output::open(weights)?, tensors.as_slice()), (Output::open(about)?, text.as_bytes())])
    }

    /// The configuration, as PEFT reads it.
    fn peft_config(&self, base_model: &str) -> Result<serde_json::Value> {
        let projections = self.config.projections()?;
        let path = |pair: &Pair| format!("model.layers.{}.{}", pair.layer, pair.projection.path());
        // By their names where every layer has them, else each by itself: PEFT begins anew what it does not find.
        let modules: Vec<String> = match self.pairs.len() == projections.len() * self.layers {
            true => projections.iter().map(|p| p.name().to_owned()).collect(),
            false => self.pairs.iter().map(path).collect(),
        };
        let mut config = serde_json::json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base_model,
            "r": self.config.r,
            "lora_alpha": self.config.lora_alpha,
            "lora_dropout": 0.0,
            "bias": "none",
            "target_modules": modules,
            "inference_mode": true,
        });
        let ranks = self.pairs.iter().filter(|pair| pair.rank() != self.config.r);
        let alphas = self.pairs.iter().filter(|pair| pair.alpha != self.config.lora_alpha);
        let ranks: serde_json::Map<_, _> = ranks.map(|pair| (path(pair), pair.rank().into())).collect();
        let alphas: serde_json::Map<_, _> = alphas.map(|pair| (path(pair), pair.alpha.into())).collect();
        for (key, pattern) in [("rank_pattern", ranks), ("alpha_pattern", alphas)] {
            if !pattern.is_empty() {
                config[key] = pattern.into();
            }
        }
        Ok(config)
    }

    /// The factors in the format of safetensors.
    fn tensors(&self) -> std::result::Result<Vec<u8>, safetensors::SafeTensorError> {
        let bytes = |factor: &Factor| factor.values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let tensors: Vec<_> =
            self.parameters().map(|(name, factor)| (name, factor.shape.to_vec(), bytes(factor))).collect();
        let views = tensors.iter().map(|(name, shape, bytes)| {
            let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes);
            view.map(|v| (name.as_str(), v))
        });
        safetensors::serialize(views.collect::<std::result::Result<Vec<_>, _>>()?, None)
    }

    /// Refuses a folder that holds no adapter, and says what it holds instead. It costs nothing.
    ///
    /// # Errors
    /// No `adapter_config.json` in the folder.
    pub fn find(folder: &Path) -> Result<()> {
        foreign::adapter_config(folder).map(|_| ())
    }

    /// Reads a PEFT folder for a model.
    ///
    /// # Errors
    /// A folder that cannot be read or is no plain LoRA adapter; layers that the model lacks, or of another shape, by name;
    /// values that are not numbers.
    pub fn load(folder: &Path, model: &ModelConfig) -> Result<Self> {
        let path = foreign::adapter_config(folder)?;
        let peft = PeftConfig::parse(&path, &read_text(&path, CONFIG_LIMIT)?)?;
        let file = Shard::open(&foreign::adapter_weights(folder)?)?;
        let names = Names::of(&file, model)?;
        let places = names.places();
        peft.check_places(file.path(), &places, model.num_hidden_layers)?;
        let mut pairs = Vec::new();
        for (layer, projection) in places {
            let (input, output) = projection.shape(model);
            let (r, alpha) = peft.rank_and_alpha(layer, projection);
            let a = read_factor(&file, names.stored(layer, projection, "lora_A")?, [r, input])?;
            let b = read_factor(&file, names.stored(layer, projection, "lora_B")?, [output, r])?;
            pairs.push(Pair { layer, projection, alpha, a, b });
        }
        let mut modules: Vec<String> = Vec::new();
        for pair in &pairs {
            if !modules.iter().any(|m| m == pair.projection.name()) {
                modules.push(pair.projection.name().into());
            }
        }
        let (r, lora_alpha) = peft.common();
        let config = LoraConfig { r, lora_alpha, target_modules: modules };
        Self::assemble(config, pairs, model.num_hidden_layers)
    }
}

impl Pair {
    pub(super) fn name(&self, part: &str) -> String {
        names::written(self.layer, self.projection, part)
    }
}

fn read_factor(file: &Shard, name: &str, shape: [usize; 2]) -> Result<Factor> {
    if let Some(info) = file.info(name)
        && info.shape != shape
    {
        let found =
            format!("{name} has shape {:?}, this model and the rank of the configuration need {shape:?}", info.shape);
        return Err(Error::model(file.path(), found, "use the adapter with the model it was trained on"));
    }
    let tensor = file.read(name)?;
    if let Some((_, bad)) = tensor.not_finite() {
        return Err(Error::model(file.path(), format!("{name} holds {bad}"), "train it again: this adapter diverged"));
    }
    Ok(Factor { shape, values: tensor.into_values() })
}

#[cfg(test)]
mod tests;
