//! Adapters as PEFT's folders: `adapter_config.json` and `adapter_model.safetensors`.

mod config;
mod names;

use std::path::Path;

use self::config::PeftConfig;
use self::names::Names;
use super::{Adapter, Factor, LoraConfig, Pair};
use crate::config::ModelConfig;
use crate::folder::read_text;
use crate::foreign;
use crate::shard::Shard;
use querywright_types::{Error, Result};

/// `adapter_config.json` is a kilobyte or two.
const CONFIG_LIMIT: u64 = 4 << 20;

impl Adapter {
    /// Writes `adapter_config.json` and `adapter_model.safetensors` into `folder`, as PEFT reads them.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn save(&self, folder: &Path, base_model: &str) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(|e| Error::write(folder, e))?;
        let projections = self.config.projections()?;
        // By their names where every layer has them, else each by itself: PEFT begins anew what it does not find.
        let modules: Vec<String> = match self.pairs.len() == projections.len() * self.layers {
            true => projections.iter().map(|p| p.name().to_owned()).collect(),
            false => self.pairs.iter().map(|p| format!("model.layers.{}.{}", p.layer, p.projection.path())).collect(),
        };
        let config = serde_json::json!({
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
        let path = folder.join("adapter_config.json");
        let text = serde_json::to_string_pretty(&config).map_err(|e| Error::write(&path, e.into()))?;
        std::fs::write(&path, text + "\n").map_err(|e| Error::write(&path, e))?;
        let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = self
            .parameters()
            .map(|(name, factor)| {
                (name, factor.shape.to_vec(), factor.values.iter().flat_map(|v| v.to_le_bytes()).collect())
            })
            .collect();
        let path = folder.join("adapter_model.safetensors");
        let views = tensors.iter().map(|(name, shape, bytes)| {
            let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes);
            view.map(|v| (name.as_str(), v))
        });
        let views: Vec<_> =
            views.collect::<std::result::Result<_, _>>().map_err(|e| Error::write(&path, std::io::Error::other(e)))?;
        let bytes = safetensors::serialize(views, None).map_err(|e| Error::write(&path, std::io::Error::other(e)))?;
        std::fs::write(&path, bytes).map_err(|e| Error::write(&path, e))
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
            let a = read_factor(&file, names.stored(layer, projection, "lora_A")?, [peft.r, input])?;
            let b = read_factor(&file, names.stored(layer, projection, "lora_B")?, [output, peft.r])?;
            pairs.push(Pair { layer, projection, a, b });
        }
        let mut modules: Vec<String> = Vec::new();
        for pair in &pairs {
            if !modules.iter().any(|m| m == pair.projection.name()) {
                modules.push(pair.projection.name().into());
            }
        }
        let config = LoraConfig { r: peft.r, lora_alpha: peft.lora_alpha, target_modules: modules };
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
