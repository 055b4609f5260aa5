//! Adapters as PEFT's folders: `adapter_config.json` and `adapter_model.safetensors`.

use std::path::Path;

use serde::Deserialize;

use super::{Adapter, Factor, LoraConfig, Pair, Projection};
use crate::config::ModelConfig;
use querywright_types::{Error, Result};

impl Adapter {
    /// Writes `adapter_config.json` and `adapter_model.safetensors` into `folder`, as PEFT reads them.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn save(&self, folder: &Path, base_model: &str) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(|e| Error::write(folder, e))?;
        let modules: Vec<&str> = match self.config.projections()? {
            all if all.len() == Projection::COUNT => Projection::ALL.map(Projection::name).to_vec(),
            some => some.into_iter().map(Projection::name).collect(),
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

    /// Reads a PEFT folder for a model.
    ///
    /// # Errors
    /// A folder that cannot be read or is no plain LoRA adapter; layers that the model lacks, or of another shape, by name.
    pub fn load(folder: &Path, model: &ModelConfig) -> Result<Self> {
        let path = folder.join("adapter_config.json");
        let text = std::fs::read_to_string(&path).map_err(|e| Error::read(&path, e))?;
        let peft: PeftConfig = serde_json::from_str(&text).map_err(|e| {
            Error::model(
                &path,
                format!("is not a PEFT configuration: {e}"),
                "give a folder that PEFT or this program wrote",
            )
        })?;
        peft.check(&path)?;
        let path = folder.join("adapter_model.safetensors");
        let bytes = std::fs::read(&path).map_err(|e| Error::read(&path, e))?;
        let file = safetensors::SafeTensors::deserialize(&bytes).map_err(|e| {
            Error::model(&path, format!("is no complete safetensors file: {e}"), "copy it again, it may be cut off")
        })?;
        let found = places(&file, &path, model)?;
        let mut pairs = Vec::new();
        for (layer, projection) in found {
            let (input, output) = projection.shape(model);
            let read =
                |part: &str, shape: [usize; 2]| read_factor(&file, &path, &pair_name(layer, projection, part), shape);
            let a = read("lora_A", [peft.r, input])?;
            let b = read("lora_B", [output, peft.r])?;
            pairs.push(Pair { layer, projection, a, b });
        }
        let mut modules: Vec<String> = Vec::new();
        for pair in &pairs {
            if !modules.iter().any(|m| m == pair.projection.name()) {
                modules.push(pair.projection.name().into());
            }
        }
        let alpha = if peft.use_rslora { peft.lora_alpha * (peft.r as f32).sqrt() } else { peft.lora_alpha };
        let config = LoraConfig { r: peft.r, lora_alpha: alpha, target_modules: modules };
        Self::assemble(config, pairs, model.num_hidden_layers)
    }
}

impl Pair {
    pub(super) fn name(&self, part: &str) -> String {
        pair_name(self.layer, self.projection, part)
    }
}

fn pair_name(layer: usize, projection: Projection, part: &str) -> String {
    format!("base_model.model.model.layers.{layer}.{}.{part}.weight", projection.path())
}

/// The layer and projection that a tensor's name points at.
fn place(name: &str) -> Option<(usize, Projection)> {
    let (layer, rest) = name.strip_prefix("base_model.model.model.layers.")?.split_once('.')?;
    let path = rest.strip_suffix(".lora_A.weight").or_else(|| rest.strip_suffix(".lora_B.weight"))?;
    Some((layer.parse().ok()?, Projection::ALL.into_iter().find(|p| p.path() == path)?))
}

/// The layers and projections that a file holds factors of, in the adapter's order.
fn places(file: &safetensors::SafeTensors, path: &Path, model: &ModelConfig) -> Result<Vec<(usize, Projection)>> {
    let mut found: Vec<(usize, Projection)> = Vec::new();
    let mut strangers = Vec::new();
    for name in file.names() {
        match place(name).filter(|(layer, _)| *layer < model.num_hidden_layers) {
            Some(at) if !found.contains(&at) => found.push(at),
            Some(_) => {}
            None => strangers.push(name),
        }
    }
    strangers.sort_unstable();
    if let Some(first) = strangers.first() {
        let more = if strangers.len() > 1 { format!(" and {} more", strangers.len() - 1) } else { String::new() };
        let found =
            format!("holds {first}{more}, which this model of {} layers does not have", model.num_hidden_layers);
        return Err(Error::model(
            path,
            found,
            "use the adapter with the model it was trained on (base_model_name_or_path)",
        ));
    }
    if found.is_empty() {
        return Err(Error::model(path, "holds no LoRA weights", "give a folder with a trained adapter"));
    }
    found.sort_unstable_by_key(|(layer, projection)| (*layer, *projection as usize));
    Ok(found)
}

fn read_factor(file: &safetensors::SafeTensors, path: &Path, name: &str, shape: [usize; 2]) -> Result<Factor> {
    let view = file.tensor(name).map_err(|_| Error::model(path, format!("lacks {name}"), "copy the adapter again"))?;
    if view.shape() != shape {
        let found = format!("{name} has shape {:?}, this model needs {shape:?}", view.shape());
        return Err(Error::model(path, found, "use the adapter with the model it was trained on"));
    }
    let bytes = view.data();
    let values: Vec<f32> = match view.dtype() {
        safetensors::Dtype::F32 => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        safetensors::Dtype::F16 => {
            bytes.as_chunks::<2>().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect()
        }
        safetensors::Dtype::BF16 => {
            bytes.as_chunks::<2>().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32()).collect()
        }
        other => {
            return Err(Error::model(
                path,
                format!("{name} has type {other:?}"),
                "save the adapter in f32, f16 or bf16",
            ));
        }
    };
    if let Some(bad) = values.iter().find(|v| !v.is_finite()) {
        return Err(Error::model(path, format!("{name} holds {bad}"), "train it again: this adapter diverged"));
    }
    Ok(Factor { shape, values })
}

/// The part of PEFT's configuration that decides the numbers; options that would change them are refused.
#[derive(Debug, Deserialize)]
struct PeftConfig {
    peft_type: String,
    r: usize,
    lora_alpha: f32,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
    #[serde(default)]
    fan_in_fan_out: bool,
    #[serde(default)]
    rank_pattern: serde_json::Map<String, serde_json::Value>,
    #[serde(default)]
    alpha_pattern: serde_json::Map<String, serde_json::Value>,
    #[serde(default)]
    modules_to_save: Option<Vec<String>>,
}

impl PeftConfig {
    fn check(&self, path: &Path) -> Result<()> {
        let refuse = |what: &str| Err(Error::model(path, what.to_owned(), "plain LoRA adapters are supported"));
        if self.peft_type != "LORA" {
            return refuse(&format!("peft_type is {}", self.peft_type));
        }
        if self.r == 0 {
            return refuse("r is 0");
        }
        if self.use_dora || self.fan_in_fan_out {
            return refuse("use_dora or fan_in_fan_out is set");
        }
        if !self.rank_pattern.is_empty() || !self.alpha_pattern.is_empty() {
            return refuse("rank_pattern or alpha_pattern is set");
        }
        if self.modules_to_save.as_ref().is_some_and(|m| !m.is_empty()) {
            return refuse("modules_to_save is set");
        }
        Ok(())
    }
}
