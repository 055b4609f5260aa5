//! The assembly of a decoder: the one walk over a model's tensors, from whichever file and for whichever
//! backend.

use super::adapter::Projection;
use super::source::ModelSource;
use super::tensor::Tensor;
use querywright_types::Result;

/// Projections that read the same rows, in the order of a block.
pub(super) const GROUPS: [&[Projection]; 4] = [
    &[Projection::Query, Projection::Key, Projection::Value],
    &[Projection::Output],
    &[Projection::Gate, Projection::Up],
    &[Projection::Down],
];

/// What a backend makes of tensors in single precision. A tensor is dropped before the next one is read.
pub(super) trait Pack {
    /// A norm's weights.
    type Norm;
    /// Projections that read the same rows.
    type Group;
    /// (vocabulary, hidden), read row by row.
    type Embedding;
    /// (vocabulary, hidden), multiplied by.
    type Head;

    fn norm(&self, weight: &Tensor) -> Result<Self::Norm>;
    fn group(&self, tensors: &GroupTensors<'_>) -> Result<Self::Group>;
    fn embedding(&self, weight: Tensor) -> Result<Self::Embedding>;
    /// `tied`: the weight is the embedding's.
    fn head(&self, weight: &Tensor, tied: bool) -> Result<Self::Head>;
}

/// The weights of one decoder block.
#[derive(Debug)]
pub(super) struct Block<N, G> {
    pub(super) attention_norm: N,
    pub(super) mlp_norm: N,
    pub(super) query_norm: Option<N>,
    pub(super) key_norm: Option<N>,
    /// As in [`GROUPS`].
    pub(super) groups: [G; 4],
}

/// All weights of a decoder.
pub(super) struct Weights<P: Pack> {
    pub(super) embedding: P::Embedding,
    pub(super) blocks: Vec<Block<P::Norm, P::Group>>,
    pub(super) norm: P::Norm,
    pub(super) head: P::Head,
}

/// The tensors of a block's projections that read the same rows.
pub(super) struct GroupTensors<'a> {
    source: &'a ModelSource,
    block: usize,
    pub(super) projections: &'static [Projection],
}

impl GroupTensors<'_> {
    /// (output, input).
    pub(super) fn weight(&self, projection: Projection) -> Result<Tensor> {
        self.source.tensor(&format!("{}.weight", self.name(projection)))
    }

    /// (output), where the model has it.
    pub(super) fn bias(&self, projection: Projection) -> Result<Option<Tensor>> {
        let name = format!("{}.bias", self.name(projection));
        self.source.has(&name).then(|| self.source.tensor(&name)).transpose()
    }

    fn name(&self, projection: Projection) -> String {
        format!("model.layers.{}.{}", self.block, projection.path())
    }
}

impl<P: Pack> Weights<P> {
    /// Reads and packs everything. `progress` gets after each block how many of how many are done.
    pub(super) fn load(source: &ModelSource, pack: &P, progress: &dyn Fn(usize, usize)) -> Result<Self> {
        let config = source.config();
        let norm = |name: &str| pack.norm(&source.tensor(name)?);
        let mut blocks = Vec::with_capacity(config.num_hidden_layers);
        for block in 0..config.num_hidden_layers {
            let norm = |name: &str| norm(&format!("model.layers.{block}.{name}.weight"));
            let group = |projections| pack.group(&GroupTensors { source, block, projections });
            let [qkv, output, gate_up, down] = GROUPS;
            blocks.push(Block {
                attention_norm: norm("input_layernorm")?,
                mlp_norm: norm("post_attention_layernorm")?,
                query_norm: config.qk_norm.then(|| norm("self_attn.q_norm")).transpose()?,
                key_norm: config.qk_norm.then(|| norm("self_attn.k_norm")).transpose()?,
                groups: [group(qkv)?, group(output)?, group(gate_up)?, group(down)?],
            });
            progress(block + 1, config.num_hidden_layers);
        }
        let table = source.tensor("model.embed_tokens.weight")?;
        let (embedding, head) = if config.tie_word_embeddings {
            let head = pack.head(&table, true)?;
            (pack.embedding(table)?, head)
        } else {
            (pack.embedding(table)?, pack.head(&source.tensor("lm_head.weight")?, false)?)
        };
        Ok(Self { embedding, blocks, norm: norm("model.norm.weight")?, head })
    }
}
