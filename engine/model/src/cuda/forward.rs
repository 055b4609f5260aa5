//! The forward pass: rows of tokens through all blocks.

use super::{Block, CudaDecoder, Group, widest};
use crate::objective::Predictions;
use querywright_kernels::TokenStatistics;
use querywright_kernels::device::{
    Angles, Buffer, Format, Matrix, PackedTree, RotatedRows, Rotation, TreeAttention, View, Within,
};
use querywright_types::{Error, Result};

/// What a block computes, each a matrix with a row for each token.
pub(super) struct Activations {
    /// The input of queries, keys and values, normalised, with its low-rank parts.
    pub(super) h: Buffer,
    /// Queries, keys and values before their norms, in models that have these.
    pub(super) raw: Option<Buffer>,
    /// As attention reads them.
    pub(super) qkv: Buffer,
    /// What attention gives, with its low-rank part.
    pub(super) attended: Buffer,
    /// (rows, query heads), single precision.
    pub(super) log_sums: Buffer,
    /// The residual stream between attention and the feed-forward part, single precision.
    pub(super) middle: Buffer,
    /// The input of the feed-forward half, normalised, with its low-rank parts.
    pub(super) wide_h: Buffer,
    pub(super) gate_up: Buffer,
    /// After the activation, with its low-rank part.
    pub(super) activated: Buffer,
}

/// What rows may see.
#[derive(Clone, Copy)]
pub(super) enum Context<'a> {
    /// All of a tree's rows are this pass's.
    Tree(PackedTree<'a>),
    /// The pass's rows are those from `first` on; keys and values of all are in the cache, to whose rows `rows` the
    /// pass's go.
    Cached { tree: PackedTree<'a>, first: usize, cache: &'a [Buffer], rows: View<'a> },
}

/// Where the residual stream of a block comes from and goes to; they may be the same.
#[derive(Clone, Copy)]
pub(super) struct Stream<'a> {
    pub(super) input: View<'a>,
    pub(super) middle: View<'a>,
    pub(super) output: View<'a>,
}

impl CudaDecoder {
    /// Room for what a block computes of so many rows; `blocks` say how much their deltas take.
    pub(super) fn activations(&self, blocks: &[Block], rows: usize) -> Result<Activations> {
        let buffer = |width: usize| self.device.allocate(rows * width * self.format.bytes());
        let single = |width: usize| self.device.allocate(4 * rows * width);
        Ok(Activations {
            h: buffer(widest(blocks, 0))?,
            raw: self.config.qk_norm.then(|| buffer(self.heads.width())).transpose()?,
            qkv: buffer(self.heads.width())?,
            attended: buffer(widest(blocks, 1))?,
            log_sums: single(self.config.num_attention_heads)?,
            middle: single(self.config.hidden_size)?,
            wide_h: buffer(widest(blocks, 2))?,
            gate_up: buffer(2 * self.config.intermediate_size)?,
            activated: buffer(widest(blocks, 3))?,
        })
    }

    /// `x`: the embeddings of tokens (u32). `angles`: those of their positions (i32).
    pub(super) fn embed(
        &self,
        (tokens, positions): (View<'_>, View<'_>),
        x: View<'_>,
        angles: View<'_>,
        rows: usize,
    ) -> Result<()> {
        let half = self.config.head_dim / 2;
        let angles = Angles { positions, frequencies: self.frequencies.view(), half, out: angles };
        self.device.embed(self.embedding(), tokens, x, rows, angles)
    }

    /// Room for the angles of rows: cosine and sine for each pair of values of a head.
    pub(super) fn angles(&self, rows: usize) -> Result<Buffer> {
        self.device.allocate(4 * rows * self.config.head_dim)
    }

    /// Bytes of a row of these.
    pub(super) fn activation_bytes(&self, blocks: &[Block]) -> usize {
        let wide: usize = (0..4).map(|group| widest(blocks, group)).sum();
        let raw = if self.config.qk_norm { self.heads.width() } else { 0 };
        self.format.bytes() * (wide + raw + self.heads.width() + 2 * self.config.intermediate_size)
            + 4 * (self.config.num_attention_heads + self.config.hidden_size)
    }

    /// A group's input: the first columns are what its layers read, further ones are for its deltas.
    pub(super) fn input<'a>(&self, group: &Group, buffer: &'a Buffer, rows: usize) -> Matrix<'a> {
        Matrix::new(buffer.view(), self.format, rows, group.stride()).columns(0, group.input)
    }

    pub(super) fn rotation<'a>(&'a self, block: &'a Block) -> Rotation<'a> {
        Rotation {
            format: self.format,
            heads: self.heads,
            bias: block.groups[0].bias.as_ref().map(Buffer::view),
            query_norm: block.query_norm.as_ref().map(Buffer::view),
            key_norm: block.key_norm.as_ref().map(Buffer::view),
            eps: self.config.rms_norm_eps,
        }
    }

    /// `out = x Wᵀ + Σ s (x Aᵀ) Bᵀ`, or that added to it. `x` is what [`input`](Self::input) gave.
    pub(super) fn project(&self, group: &Group, x: Matrix<'_>, out: Matrix<'_>, add: bool) -> Result<()> {
        if let Some(low) = &group.low {
            let low = Matrix::new(low.view(), self.format, group.room, group.input);
            let parts = Matrix { view: x.view.from(group.input * self.format.bytes()), columns: group.room, ..x };
            self.device.multiply((x, false), (low, true), parts, 1.0, 0.0)?;
        }
        let whole = Matrix { columns: group.stride(), ..x };
        let beta = if add { 1.0 } else { 0.0 };
        self.device.multiply((whole, false), (group.weight(self.format), true), out, 1.0, beta)
    }

    /// One block over `rows` rows.
    pub(super) fn block(
        &self,
        (index, block): (usize, &Block),
        a: &Activations,
        stream: Stream<'_>,
        (rows, angles): (usize, View<'_>),
        context: Context<'_>,
    ) -> Result<()> {
        let (device, format, heads, eps) = (&self.device, self.format, self.heads, self.config.rms_norm_eps);
        let hidden = self.config.hidden_size;
        let [qkv_group, output, ..] = &block.groups;
        let h = self.input(qkv_group, &a.h, rows);
        device.rms_norm(stream.input, None, block.attention_norm.view(), h, eps)?;
        let raw = a.raw.as_ref().unwrap_or(&a.qkv).view();
        self.project(qkv_group, h, Matrix::new(raw, format, rows, heads.width()), false)?;
        let qkv = Matrix::new(a.qkv.view(), format, rows, heads.width());
        let attended = self.input(output, &a.attended, rows);
        let cached = match context {
            Context::Tree(_) => None,
            Context::Cached { cache, rows, .. } => {
                let of_block = cache.get(index).ok_or_else(|| {
                    Error::bug("forward pass on a GPU", format!("block {index} has none of {} caches", cache.len()))
                })?;
                Some((of_block.view(), rows))
            }
        };
        let rotated = RotatedRows { raw, rotated: qkv.view, angles, rows };
        device.rotate(&self.rotation(block), rotated, cached)?;
        self.attend(qkv, context, cached.map(|(cache, _)| cache), attended, a.log_sums.view())?;
        device.copy(stream.middle, stream.input, 4 * rows * hidden)?;
        self.project(output, attended, Matrix::new(stream.middle, Format::F32, rows, hidden), true)?;
        self.feed_forward(block, a, (stream.middle, stream.output), rows)
    }

    /// The second half of a block: `output = middle + down(silu(gate) · up)`.
    pub(super) fn feed_forward(
        &self,
        block: &Block,
        a: &Activations,
        (middle, output): (View<'_>, View<'_>),
        rows: usize,
    ) -> Result<()> {
        let (device, format, hidden) = (&self.device, self.format, self.config.hidden_size);
        let [_, _, gate_up_group, down] = &block.groups;
        let wide_h = self.input(gate_up_group, &a.wide_h, rows);
        device.rms_norm(middle, None, block.mlp_norm.view(), wide_h, self.config.rms_norm_eps)?;
        let gate_up = Matrix::new(a.gate_up.view(), format, rows, 2 * self.config.intermediate_size);
        self.project(gate_up_group, wide_h, gate_up, false)?;
        let activated = self.input(down, &a.activated, rows);
        device.swiglu(gate_up.view, activated)?;
        device.copy(output, middle, 4 * rows * hidden)?;
        self.project(down, activated, Matrix::new(output, Format::F32, rows, hidden), true)
    }

    /// Attention of a block's rows over what they may see; `cache` holds keys and values where `context` says so.
    fn attend(
        &self,
        qkv: Matrix<'_>,
        context: Context<'_>,
        cache: Option<View<'_>>,
        attended: Matrix<'_>,
        log_sums: View<'_>,
    ) -> Result<()> {
        let (device, heads) = (&self.device, self.heads);
        let stride = 2 * heads.key_width();
        match (context, cache) {
            (Context::Tree(tree), None) => {
                let keys = qkv.view.from(heads.query_width() * self.format.bytes());
                let keys = (keys, heads.width());
                let log_sums = Some(log_sums);
                device.attend_tree(TreeAttention { qkv, keys, tree, first: 0, heads, out: attended, log_sums })
            }
            (Context::Cached { tree, first, .. }, Some(cache)) => {
                let keys = (cache, stride);
                device.attend_tree(TreeAttention { qkv, keys, tree, first, heads, out: attended, log_sums: None })
            }
            (_, cache) => {
                let found = format!("attention with the other kind of keys (a cache: {})", cache.is_some());
                Err(Error::bug("forward pass on a GPU", found))
            }
        }
    }

    /// Rows of logits that are computed at once: their memory is bounded.
    pub(super) fn head_rows(&self) -> usize {
        const BYTES: usize = 512 << 20;
        (BYTES / (8 * self.config.vocab_size)).clamp(16, 4096)
    }

    /// The logits (f32) of rows `wanted` (i32) of the residual stream; `hidden` is room for their normalised values.
    pub(super) fn logits(
        &self,
        x: View<'_>,
        wanted: Option<View<'_>>,
        hidden: View<'_>,
        logits: View<'_>,
        rows: usize,
    ) -> Result<()> {
        let hidden = Matrix::new(hidden, self.format, rows, self.config.hidden_size);
        self.device.rms_norm(x, wanted, self.norm.view(), hidden, self.config.rms_norm_eps)?;
        let logits = Matrix::new(logits, Format::F32, rows, self.config.vocab_size);
        self.device.multiply((hidden, false), (self.head(), true), logits, 1.0, 0.0)
    }

    /// The tokens that may stand in the places of some predictions, where these are restricted.
    pub(super) fn within(
        &self,
        predictions: &Predictions,
        indices: impl IntoIterator<Item = usize>,
    ) -> Result<Option<Within>> {
        let lists = indices.into_iter().map(|i| predictions.allowed.get(i)?.as_deref());
        (!predictions.allowed.is_empty()).then(|| self.device.within(lists)).transpose()
    }

    /// Log-probability and entropy of each prediction behind rows of the residual stream.
    pub(super) fn statistics(
        &self,
        x: View<'_>,
        predictions: &Predictions,
        temperature: f32,
    ) -> Result<Vec<TokenStatistics>> {
        let Predictions { rows, targets, .. } = predictions;
        self.config.check_tokens(targets)?;
        let (device, vocabulary, chunk) = (&self.device, self.config.vocab_size, self.head_rows().min(rows.len()));
        let hidden = device.allocate(chunk * self.config.hidden_size * self.format.bytes())?;
        let logits = device.allocate(4 * chunk * vocabulary)?;
        let mut all = Vec::with_capacity(rows.len());
        let chunk = chunk.max(1);
        for (nth, (rows, targets)) in rows.chunks(chunk).zip(targets.chunks(chunk)).enumerate() {
            let within = self.within(predictions, nth * chunk..nth * chunk + rows.len())?;
            let wanted: Vec<i32> = rows.iter().map(|row| *row as i32).collect();
            let (wanted, targets) = (device.upload(&wanted)?, device.upload(targets)?);
            self.logits(x, Some(wanted.view()), hidden.view(), logits.view(), rows.len())?;
            let out = device.allocate(8 * rows.len())?;
            let shape = (rows.len(), vocabulary);
            device.statistics(logits.view(), targets.view(), out.view(), shape, 1.0 / temperature, within.as_ref())?;
            let mut numbers = vec![0f32; 2 * rows.len()];
            device.read(out.view(), &mut numbers)?;
            all.extend(pairs(&numbers));
        }
        Ok(all)
    }
}

/// Statistics as kernels write them.
pub(super) fn pairs(numbers: &[f32]) -> impl Iterator<Item = TokenStatistics> + '_ {
    let (pairs, _) = numbers.as_chunks::<2>();
    pairs
        .iter()
        .map(|[log_probability, entropy]| TokenStatistics { log_probability: *log_probability, entropy: *entropy })
}
