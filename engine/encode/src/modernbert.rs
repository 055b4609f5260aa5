//! ModernBERT (arXiv 2412.13663): norms before the blocks, rotary positions, a gated feed-forward block, and layers that see
//! their neighbours alone between those that see everything. Nothing has a bias.

use std::collections::BTreeMap;

use crate::layers::{Table, add_product, heads, products};
use crate::shape::{Shape, Window};
use crate::weights::Weights;
use querywright_kernels::{Angles, FrozenLinear, Heads, LayerNorm, RopeTable, attend_both_ways, geglu};
use querywright_types::Result;

pub(crate) struct ModernBert {
    words: Table,
    norm: LayerNorm,
    layers: Vec<Layer>,
    last_norm: LayerNorm,
    heads: Heads,
    hidden_size: usize,
}

struct Layer {
    /// None in the first layer, which reads what is normalised.
    attention_norm: Option<LayerNorm>,
    qkv: FrozenLinear,
    output: FrozenLinear,
    norm: LayerNorm,
    /// Values and gates.
    up: FrozenLinear,
    down: FrozenLinear,
    /// How far a row sees; none for everything.
    reach: Option<usize>,
    theta: f64,
}

impl ModernBert {
    pub(crate) fn load(weights: &mut Weights<'_>, shape: &Shape, window: &Window) -> Result<Self> {
        let width = shape.hidden_size;
        Ok(Self {
            words: Table::load(weights, "embeddings.tok_embeddings.weight", shape.vocab_size, width)?,
            norm: norm(weights, "embeddings.norm", shape)?,
            layers: (0..shape.layers)
                .map(|layer| Layer::load(weights, shape, layer, kind(window, layer)))
                .collect::<Result<_>>()?,
            last_norm: norm(weights, "final_norm", shape)?,
            heads: heads(shape),
            hidden_size: width,
        })
    }

    /// The vectors of the tokens of some texts, text by text and token by token.
    pub(crate) fn forward(&self, texts: &[&[u32]]) -> Result<Vec<f32>> {
        let rows: Vec<usize> = texts.iter().map(|ids| ids.len()).collect();
        let mut x = vec![0.0; rows.iter().sum::<usize>() * self.hidden_size];
        for (id, row) in texts.iter().copied().flatten().zip(x.chunks_exact_mut(self.hidden_size)) {
            self.words.add(*id as usize, row)?;
        }
        self.norm.apply(&mut x);
        let positions: Vec<usize> = rows.iter().flat_map(|rows| 0..*rows).collect();
        // There are two bases at most.
        let mut angles: BTreeMap<u64, (RopeTable, Angles)> = BTreeMap::new();
        let mut attended = vec![0.0; x.len()];
        for layer in &self.layers {
            let (table, angles) = angles.entry(layer.theta.to_bits()).or_insert_with(|| {
                let table = rope(layer.theta, self.heads.dim);
                let angles = table.angles(&positions);
                (table, angles)
            });
            layer.forward(&mut x, &mut attended, &rows, self.heads, (&*table, &*angles));
        }
        self.last_norm.apply(&mut x);
        Ok(x)
    }
}

impl Layer {
    fn load(weights: &mut Weights<'_>, shape: &Shape, layer: usize, kind: (Option<usize>, f64)) -> Result<Self> {
        let (width, inner) = (shape.hidden_size, shape.intermediate_size);
        let full = |name: &str| format!("layers.{layer}.{name}");
        let (reach, theta) = kind;
        Ok(Self {
            attention_norm: (layer > 0).then(|| norm(weights, &full("attn_norm"), shape)).transpose()?,
            qkv: weights.linear(&full("attn.Wqkv"), width, 3 * width, false)?,
            output: weights.linear(&full("attn.Wo"), width, width, false)?,
            norm: norm(weights, &full("mlp_norm"), shape)?,
            up: weights.linear(&full("mlp.Wi"), width, 2 * inner, false)?,
            down: weights.linear(&full("mlp.Wo"), inner, width, false)?,
            reach,
            theta,
        })
    }

    fn forward(
        &self,
        x: &mut [f32],
        attended: &mut [f32],
        rows: &[usize],
        heads: Heads,
        (table, angles): (&RopeTable, &Angles),
    ) {
        let mut normal = x.to_vec();
        self.attention_norm.iter().for_each(|norm| norm.apply(&mut normal));
        let mut qkv = products(&[&self.qkv], &normal);
        table.rotate(&mut qkv, heads.width(), 2 * heads.queries * heads.dim, angles);
        attend_both_ways(heads, &qkv, attended, rows, self.reach);
        add_product(&self.output, attended, x);
        normal.copy_from_slice(x);
        self.norm.apply(&mut normal);
        let pairs = products(&[&self.up], &normal);
        let mut inner = vec![0.0; pairs.len() / 2];
        geglu(&pairs, self.down.input(), &mut inner);
        add_product(&self.down, &inner, x);
    }
}

/// Frequencies of rotary positions for heads of `dim` values.
fn rope(theta: f64, dim: usize) -> RopeTable {
    RopeTable::new((0..dim / 2).map(|pair| theta.powf(-2.0 * pair as f64 / dim as f64)).collect())
}

fn norm(weights: &mut Weights<'_>, name: &str, shape: &Shape) -> Result<LayerNorm> {
    let weight = weights.tensor(&format!("{name}.weight"), &[shape.hidden_size])?;
    Ok(LayerNorm::new(weight, None, shape.norm_eps))
}

/// The kind of a ModernBERT's layer: how far a row sees, none for everything, and the base of its rotary positions.
fn kind(window: &Window, layer: usize) -> (Option<usize>, f64) {
    if layer.is_multiple_of(window.global_every) {
        (None, window.global_theta)
    } else {
        (Some(window.tokens / 2), window.local_theta)
    }
}
