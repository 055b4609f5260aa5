//! BERT (arXiv 1810.04805), and with other tables of positions or names RoBERTa (arXiv 1907.11692), XLM-R, CamemBERT and
//! DistilBERT (arXiv 1910.01108), which has no token types.

use crate::layers::{Table, add_product, heads, products};
use crate::shape::{Architecture, Shape};
use crate::weights::Weights;
use querywright_kernels::{Activation, FrozenLinear, Heads, LayerNorm, attend_both_ways};
use querywright_types::Result;

pub(crate) struct Bert {
    words: Table,
    positions: Table,
    /// All tokens are of the first type. None in DistilBERT.
    types: Option<Table>,
    norm: LayerNorm,
    layers: Vec<Layer>,
    heads: Heads,
    hidden_size: usize,
    /// RoBERTa's padding token: positions are counted from behind its number, and itself has that number as its position.
    counted_from: Option<u32>,
}

/// Attention, then the feed-forward block, each added to what it read and then normalised.
struct Layer {
    query: FrozenLinear,
    key: FrozenLinear,
    value: FrozenLinear,
    output: FrozenLinear,
    attention_norm: LayerNorm,
    up: FrozenLinear,
    down: FrozenLinear,
    norm: LayerNorm,
    activation: Activation,
}

/// Where the parts of a layer lie in the file.
struct Names {
    layers: &'static str,
    query: &'static str,
    key: &'static str,
    value: &'static str,
    output: &'static str,
    attention_norm: &'static str,
    up: &'static str,
    down: &'static str,
    norm: &'static str,
}

const BERT: Names = Names {
    layers: "encoder.layer",
    query: "attention.self.query",
    key: "attention.self.key",
    value: "attention.self.value",
    output: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    up: "intermediate.dense",
    down: "output.dense",
    norm: "output.LayerNorm",
};

const DISTILBERT: Names = Names {
    layers: "transformer.layer",
    query: "attention.q_lin",
    key: "attention.k_lin",
    value: "attention.v_lin",
    output: "attention.out_lin",
    attention_norm: "sa_layer_norm",
    up: "ffn.lin1",
    down: "ffn.lin2",
    norm: "output_layer_norm",
};

impl Bert {
    pub(crate) fn load(weights: &mut Weights<'_>, shape: &Shape) -> Result<Self> {
        let width = shape.hidden_size;
        let distilled = shape.architecture == Architecture::DistilBert;
        let mut table =
            |name: &str, rows| Table::load(weights, &format!("embeddings.{name}_embeddings.weight"), rows, width);
        let words = table("word", shape.vocab_size)?;
        let positions = table("position", shape.positions)?;
        let types = (!distilled).then(|| table("token_type", shape.types.max(1))).transpose()?;
        let norm = weights.norm("embeddings.LayerNorm", width, shape.norm_eps)?;
        let names = if distilled { DISTILBERT } else { BERT };
        let layers =
            (0..shape.layers).map(|layer| Layer::load(weights, shape, &names, layer)).collect::<Result<_>>()?;
        let counted_from = (shape.architecture == Architecture::Roberta).then_some(shape.pad_token);
        Ok(Self { words, positions, types, norm, layers, heads: heads(shape), hidden_size: width, counted_from })
    }

    /// The vectors of the tokens of some texts, text by text and token by token.
    pub(crate) fn forward(&self, texts: &[&[u32]]) -> Result<Vec<f32>> {
        let rows: Vec<usize> = texts.iter().map(|ids| ids.len()).collect();
        let mut x = self.embedded(texts)?;
        let mut attended = vec![0.0; x.len()];
        for layer in &self.layers {
            layer.forward(&mut x, &mut attended, &rows, self.heads);
        }
        Ok(x)
    }

    fn embedded(&self, texts: &[&[u32]]) -> Result<Vec<f32>> {
        let mut x = vec![0.0; texts.iter().map(|ids| ids.len()).sum::<usize>() * self.hidden_size];
        let mut rows = x.chunks_exact_mut(self.hidden_size);
        for ids in texts {
            let mut counted = 0;
            for ((at, id), row) in ids.iter().enumerate().zip(&mut rows) {
                let position = match self.counted_from {
                    None => at,
                    Some(pad) if *id == pad => pad as usize,
                    Some(pad) => {
                        counted += 1;
                        pad as usize + counted
                    }
                };
                self.words.add(*id as usize, row)?;
                self.positions.add(position, row)?;
                self.types.iter().try_for_each(|types| types.add(0, row))?;
            }
        }
        self.norm.apply(&mut x);
        Ok(x)
    }
}

impl Layer {
    fn load(weights: &mut Weights<'_>, shape: &Shape, names: &Names, layer: usize) -> Result<Self> {
        let (width, inner, eps) = (shape.hidden_size, shape.intermediate_size, shape.norm_eps);
        let full = |name: &str| format!("{}.{layer}.{name}", names.layers);
        Ok(Self {
            query: weights.linear(&full(names.query), width, width, true)?,
            key: weights.linear(&full(names.key), width, width, true)?,
            value: weights.linear(&full(names.value), width, width, true)?,
            output: weights.linear(&full(names.output), width, width, true)?,
            attention_norm: weights.norm(&full(names.attention_norm), width, eps)?,
            up: weights.linear(&full(names.up), width, inner, true)?,
            down: weights.linear(&full(names.down), inner, width, true)?,
            norm: weights.norm(&full(names.norm), width, eps)?,
            activation: shape.activation,
        })
    }

    fn forward(&self, x: &mut [f32], attended: &mut [f32], rows: &[usize], heads: Heads) {
        let qkv = products(&[&self.query, &self.key, &self.value], x);
        attend_both_ways(heads, &qkv, attended, rows, None);
        add_product(&self.output, attended, x);
        self.attention_norm.apply(x);
        let mut inner = products(&[&self.up], x);
        self.activation.apply(&mut inner);
        add_product(&self.down, &inner, x);
        self.norm.apply(x);
    }
}
