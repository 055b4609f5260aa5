//! LoRA adapters: low-rank factors that learn, beside weights that do not.

mod merge;
mod peft;
mod projection;

use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

pub use projection::Projection;

use super::config::ModelConfig;
use querywright_kernels::LoraDelta;
use querywright_types::{Error, Result, did_you_mean};

/// The deltas of one block, by [`Projection`].
pub(super) type BlockDeltas = [Option<LoraDelta>; Projection::COUNT];

/// The low-rank deltas of every block. Empty: the base model.
pub type Deltas = [BlockDeltas];

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
                let names = Projection::ALL.map(Projection::name);
                let hint = did_you_mean(module, names);
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

/// A matrix that learns.
#[derive(Debug, Clone, PartialEq)]
pub struct Factor {
    shape: [usize; 2],
    values: Vec<f32>,
}

impl Factor {
    /// (rows, columns): (rank, input) of A, (output, rank) of B.
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// The values, row by row.
    pub fn values(&self) -> &[f32] {
        &self.values
    }
}

/// Two factors with their place in the model.
#[derive(Debug, Clone)]
struct Pair {
    layer: usize,
    projection: Projection,
    /// The delta is scaled by this over the rank.
    alpha: f32,
    a: Factor,
    b: Factor,
}

impl Pair {
    fn rank(&self) -> usize {
        self.a.shape[0]
    }
}

/// A LoRA adapter: factors that learn, and their packed deltas for the decoder.
#[derive(Debug, Clone)]
pub struct Adapter {
    config: LoraConfig,
    pairs: Vec<Pair>,
    layers: usize,
    deltas: Vec<BlockDeltas>,
}

const NONE: BlockDeltas = [const { None }; Projection::COUNT];

impl Adapter {
    /// A new adapter that changes nothing yet: A uniform in ±1/√input (PEFT's Kaiming initialisation), B zero.
    ///
    /// # Errors
    /// A rank of 0, a module that the model does not have.
    pub fn new(model: &ModelConfig, config: LoraConfig, seed: u64) -> Result<Self> {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let mut pairs = Vec::new();
        for layer in 0..model.num_hidden_layers {
            for projection in config.projections()? {
                let (input, output) = projection.shape(model);
                let bound = 1.0 / (input as f32).sqrt();
                let a = (0..config.r * input).map(|_| rng.random_range(-bound..bound)).collect();
                let a = Factor { shape: [config.r, input], values: a };
                let b = Factor { shape: [output, config.r], values: vec![0.0; output * config.r] };
                pairs.push(Pair { layer, projection, alpha: config.lora_alpha, a, b });
            }
        }
        Self::assemble(config, pairs, model.num_hidden_layers)
    }

    fn assemble(config: LoraConfig, pairs: Vec<Pair>, layers: usize) -> Result<Self> {
        let mut adapter = Self { config, pairs, layers, deltas: Vec::new() };
        adapter.pack()?;
        Ok(adapter)
    }

    /// Packs the deltas anew after the factors changed.
    fn pack(&mut self) -> Result<()> {
        let mut deltas = vec![NONE; self.layers];
        for pair in &self.pairs {
            let delta = LoraDelta::new(&pair.a.values, &pair.b.values, pair.rank(), pair.alpha / pair.rank() as f32)?;
            deltas[pair.layer][pair.projection as usize] = Some(delta);
        }
        self.deltas = deltas;
        Ok(())
    }

    /// Takes new values of all factors, in the order of [`parameters`](Self::parameters).
    ///
    /// # Errors
    /// Values of another length than their factor, or not of all.
    pub fn set(&mut self, values: impl ExactSizeIterator<Item = Vec<f32>>) -> Result<()> {
        let values: Vec<Vec<f32>> = values.collect();
        let own = || self.parameters().map(|(_, factor)| factor.values.len());
        if !own().eq(values.iter().map(Vec::len)) {
            let (found, wanted) = (values.iter().map(Vec::len).sum::<usize>(), own().sum::<usize>());
            let found = format!("{} lists of {found} values for {} of {wanted}", values.len(), own().count());
            return Err(Error::argument("adapter", found, "give as many values of each factor as it has"));
        }
        let factors = self.pairs.iter_mut().flat_map(|p| [&mut p.a, &mut p.b]);
        factors.zip(values).for_each(|(factor, values)| factor.values = values);
        self.pack()
    }

    /// Rank, scale and layers. An adapter of others may have layers of another rank and scale (`rank_pattern`).
    pub fn config(&self) -> &LoraConfig {
        &self.config
    }

    /// The deltas as the decoder takes them.
    pub fn deltas(&self) -> &Deltas {
        &self.deltas
    }

    /// Layer and projection of each pair of factors, in the order of [`parameters`](Self::parameters).
    pub(super) fn places(&self) -> impl Iterator<Item = (usize, Projection)> {
        self.pairs.iter().map(|p| (p.layer, p.projection))
    }

    /// The factors under PEFT's names, in a fixed order: A and B of each pair.
    pub fn parameters(&self) -> impl Iterator<Item = (String, &Factor)> {
        self.pairs.iter().flat_map(|p| [(p.name("lora_A"), &p.a), (p.name("lora_B"), &p.b)])
    }
}
