//! LoRA adapters, read and written as PEFT folders.

use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use super::config::ModelConfig;
use crate::error::{Error, Result, nearest};
use crate::kernels::LoraDelta;

/// The linear layers of a decoder block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Projection {
    Query,
    Key,
    Value,
    Output,
    Gate,
    Up,
    Down,
}

impl Projection {
    /// How many there are.
    pub const COUNT: usize = 7;
    /// All, in the order of their numbers.
    pub const ALL: [Self; Self::COUNT] =
        [Self::Query, Self::Key, Self::Value, Self::Output, Self::Gate, Self::Up, Self::Down];

    /// The module's name, as PEFT's `target_modules` has it.
    pub fn name(self) -> &'static str {
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"][self as usize]
    }

    /// The module's path inside a layer.
    pub fn path(self) -> &'static str {
        match self {
            Self::Query => "self_attn.q_proj",
            Self::Key => "self_attn.k_proj",
            Self::Value => "self_attn.v_proj",
            Self::Output => "self_attn.o_proj",
            Self::Gate => "mlp.gate_proj",
            Self::Up => "mlp.up_proj",
            Self::Down => "mlp.down_proj",
        }
    }

    /// (input, output) of the layer in a model.
    pub fn shape(self, config: &ModelConfig) -> (usize, usize) {
        let (hidden, wide) = (config.hidden_size, config.intermediate_size);
        let (q, kv) = (config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim);
        match self {
            Self::Query => (hidden, q),
            Self::Key | Self::Value => (hidden, kv),
            Self::Output => (q, hidden),
            Self::Gate | Self::Up => (hidden, wide),
            Self::Down => (wide, hidden),
        }
    }
}

/// Which layers learn, and with how many degrees of freedom. Names and defaults are PEFT's where it has them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraConfig {
    /// Rank. Default 16.
    pub r: usize,
    /// The delta is scaled by `lora_alpha / r`. Default 32.
    pub lora_alpha: f32,
    /// Module names ("q_proj"), or "all-linear" alone for every linear layer but the head. Default all-linear.
    pub target_modules: Vec<String>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self { r: 16, lora_alpha: 32.0, target_modules: vec!["all-linear".into()] }
    }
}

impl LoraConfig {
    /// The layers named by `target_modules`.
    pub fn projections(&self) -> Result<Vec<Projection>> {
        if self.r == 0 {
            return Err(Error::argument("lora.r", "found 0", "give a rank of at least 1, such as 16"));
        }
        if self.target_modules.is_empty() {
            return Err(Error::argument("lora.target_modules", "the list is empty", "name modules, or \"all-linear\""));
        }
        if self.target_modules.iter().any(|m| m == "all-linear") {
            return Ok(Projection::ALL.to_vec());
        }
        let named = |module: &String| {
            Projection::ALL.into_iter().find(|p| p.name() == module).ok_or_else(|| {
                let names: Vec<_> = Projection::ALL.map(Projection::name).to_vec();
                let hint =
                    nearest(module, names.iter().copied()).map_or(String::new(), |n| format!("did you mean {n}? "));
                let remedy = format!("{hint}the modules are {}, or all-linear", names.join(", "));
                Error::argument("lora.target_modules", format!("unknown module \"{module}\""), remedy)
            })
        };
        // In one order and each once, whatever the list says: checkpoints are read back in this order.
        let mut found = self.target_modules.iter().map(named).collect::<Result<Vec<_>>>()?;
        found.sort_unstable_by_key(|p| *p as usize);
        found.dedup();
        Ok(found)
    }
}

/// One low-rank pair with its place in the model.
#[derive(Debug, Clone)]
struct Pair {
    layer: usize,
    projection: Projection,
    a: Var,
    b: Var,
}

/// A LoRA adapter: trainable pairs, and their packed deltas for the decoder.
#[derive(Debug, Clone)]
pub struct Adapter {
    config: LoraConfig,
    pairs: Vec<Pair>,
    layers: usize,
    deltas: Vec<[Option<LoraDelta>; Projection::COUNT]>,
}

const NONE: [Option<LoraDelta>; Projection::COUNT] = [const { None }; Projection::COUNT];

impl Adapter {
    /// A new adapter that changes nothing yet: A uniform in ±1/√input (PEFT's Kaiming initialisation), B zero.
    pub fn new(model: &ModelConfig, config: LoraConfig, seed: u64) -> Result<Self> {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let mut pairs = Vec::new();
        for layer in 0..model.num_hidden_layers {
            for projection in config.projections()? {
                let (input, output) = projection.shape(model);
                let bound = 1.0 / (input as f32).sqrt();
                let a: Vec<f32> = (0..config.r * input).map(|_| rng.random_range(-bound..bound)).collect();
                let a = Var::from_tensor(&Tensor::from_vec(a, (config.r, input), &Device::Cpu)?)?;
                let b = Var::zeros((output, config.r), DType::F32, &Device::Cpu)?;
                pairs.push(Pair { layer, projection, a, b });
            }
        }
        Self::assemble(config, pairs, model.num_hidden_layers)
    }

    fn assemble(config: LoraConfig, pairs: Vec<Pair>, layers: usize) -> Result<Self> {
        let mut adapter = Self { config, pairs, layers, deltas: Vec::new() };
        adapter.refresh()?;
        Ok(adapter)
    }

    /// Makes the deltas anew; needed after the variables changed.
    pub fn refresh(&mut self) -> Result<()> {
        let scale = self.config.lora_alpha / self.config.r as f32;
        let mut deltas = vec![NONE; self.layers];
        for pair in &self.pairs {
            let delta = LoraDelta::new(pair.a.as_tensor(), pair.b.as_tensor(), scale)?;
            deltas[pair.layer][pair.projection as usize] = Some(delta);
        }
        self.deltas = deltas;
        Ok(())
    }

    /// Takes new values of all variables, in the order of [`parameters`](Self::parameters), and makes the deltas anew.
    ///
    /// # Errors
    /// Values of another length than their variable, or not of all.
    pub fn set(&mut self, values: impl ExactSizeIterator<Item = Vec<f32>>) -> Result<()> {
        if values.len() != 2 * self.pairs.len() {
            let found = format!("values of {} variables for {}", values.len(), 2 * self.pairs.len());
            return Err(Error::argument("adapter", found, "give those of all"));
        }
        for ((_, variable), values) in self.parameters().zip(values) {
            variable.set(&Tensor::from_vec(values, variable.shape(), variable.device())?)?;
        }
        self.refresh()
    }

    /// Rank, scale and layers.
    pub fn config(&self) -> &LoraConfig {
        &self.config
    }

    /// The deltas as the decoder takes them.
    pub fn deltas(&self) -> &super::Deltas {
        &self.deltas
    }

    /// The gradients of the variables in the order of [`parameters`](Self::parameters).
    pub fn flatten(&self, gradients: &super::Gradients) -> Vec<Vec<f32>> {
        let of_pair = |pair: &Pair| {
            let gradient = gradients.get(pair.layer).and_then(|layer| layer[pair.projection as usize].as_ref());
            match gradient {
                Some(gradient) => [gradient.a.clone(), gradient.b()],
                None => [vec![0.0; pair.a.elem_count()], vec![0.0; pair.b.elem_count()]],
            }
        };
        self.pairs.iter().flat_map(of_pair).collect()
    }

    /// The variables under PEFT's names, in a fixed order.
    pub fn parameters(&self) -> impl Iterator<Item = (String, &Var)> {
        self.pairs.iter().flat_map(|p| [(p.name("lora_A"), &p.a), (p.name("lora_B"), &p.b)])
    }

    /// Writes `adapter_config.json` and `adapter_model.safetensors` into `folder`, as PEFT reads them.
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
            .map(|(name, var)| {
                let values = var.flatten_all()?.to_vec1::<f32>()?;
                Ok((name, var.dims().to_vec(), values.iter().flat_map(|v| v.to_le_bytes()).collect()))
            })
            .collect::<Result<_>>()?;
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

    /// Reads a PEFT folder for a model. Layers that the model lacks, or of another shape, are refused by name.
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
                &path,
                found,
                "use the adapter with the model it was trained on (base_model_name_or_path)",
            ));
        }
        if found.is_empty() {
            return Err(Error::model(&path, "holds no LoRA weights", "give a folder with a trained adapter"));
        }
        found.sort_unstable_by_key(|(layer, projection)| (*layer, *projection as usize));
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
    fn name(&self, part: &str) -> String {
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

fn read_factor(file: &safetensors::SafeTensors, path: &Path, name: &str, shape: [usize; 2]) -> Result<Var> {
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
    Ok(Var::from_tensor(&Tensor::from_vec(values, &shape[..], &Device::Cpu)?)?)
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
