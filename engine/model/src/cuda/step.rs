//! A block of a decoding step: one new row for each sequence.
//!
//! For a few rows it is five kernels, or nine with adapters: a product takes the norm before it and the addition or
//! activation behind it. For more rows, products are cuBLAS's, and what stands around them are kernels of their own.

use super::forward::Activations;
use super::{Block, CudaDecoder, Group};
use querywright_kernels::device::{Buffer, FewRows, Format, Matrix, Normed, RotatedRows, StepAttention, Then, View};
use querywright_types::{Error, Result};

/// What the rows of a step see.
#[derive(Clone, Copy)]
pub(super) struct Slots<'a> {
    pub(super) slots: View<'a>,
    /// The rows in chunks that share a prompt, and how many there are.
    pub(super) chunks: Option<(View<'a>, usize)>,
    pub(super) angles: View<'a>,
    /// Of each block.
    pub(super) cache: &'a [Buffer],
    /// The cache row of each row's key and value.
    pub(super) rows: View<'a>,
}

impl CudaDecoder {
    /// One block over `rows` rows, whose residual stream `x` it changes.
    pub(super) fn step_block(
        &self,
        (index, block): (usize, &Block),
        a: &Activations,
        x: View<'_>,
        rows: usize,
        context: Slots<'_>,
    ) -> Result<()> {
        let (device, format, hidden) = (&self.device, self.format, self.config.hidden_size);
        let [qkv_group, output, gate_up, down] = &block.groups;
        let few = block.groups.iter().all(|g| device.takes_few(format, rows, g.input, g.stride()));
        let normed = |weight| Normed { x, weight, width: hidden, eps: self.config.rms_norm_eps };
        let residual = Matrix::new(x, Format::F32, rows, hidden);

        let h = self.input(qkv_group, &a.h, rows);
        let raw = a.raw.as_ref().unwrap_or(&a.qkv).view();
        let projected = Matrix::new(raw, format, rows, self.heads.width());
        if few {
            self.project_few(qkv_group, Some(normed(block.attention_norm.view())), h, projected, Then::Store)?;
        } else {
            device.rms_norm(x, None, block.attention_norm.view(), h, self.config.rms_norm_eps)?;
            self.project(qkv_group, h, projected, false)?;
        }
        let attended = self.input(output, &a.attended, rows);
        self.step_attention((index, block), (raw, a.qkv.view()), context, attended)?;
        if few {
            self.project_few(output, None, attended, residual, Then::Add)?;
            let wide_h = self.input(gate_up, &a.wide_h, rows);
            let activated = self.input(down, &a.activated, rows);
            self.project_few(gate_up, Some(normed(block.mlp_norm.view())), wide_h, activated, Then::Swiglu)?;
            self.project_few(down, None, activated, residual, Then::Add)
        } else {
            self.project(output, attended, residual, true)?;
            self.feed_forward(block, a, (x, x), rows)
        }
    }

    /// Rotation, cache and attention of a step's rows.
    fn step_attention(
        &self,
        (index, block): (usize, &Block),
        (raw, qkv): (View<'_>, View<'_>),
        context: Slots<'_>,
        out: Matrix<'_>,
    ) -> Result<()> {
        let (device, rows, rotation) = (&self.device, out.rows, self.rotation(block));
        let Slots { slots, chunks, angles, cache, rows: cache_rows } = context;
        let missing = || Error::bug("decoding on a GPU", format!("block {index} has none of {} caches", cache.len()));
        let cache = cache.get(index).ok_or_else(missing)?.view();
        if device.takes_step(&rotation) {
            return device.attend_step(&rotation, StepAttention { raw, angles, cache, cache_rows, slots, chunks, out });
        }
        device.rotate(&rotation, RotatedRows { raw, rotated: qkv, angles, rows }, Some((cache, cache_rows)))?;
        let qkv = Matrix::new(qkv, self.format, rows, self.heads.width());
        device.attend_one(qkv, (cache, 2 * self.heads.key_width()), slots, self.heads, out)
    }

    /// [`project`](Self::project) for a few rows. `x` is what [`input`](Self::input) gave; where `normed` is given, only
    /// the columns of deltas are used of it.
    fn project_few(
        &self,
        group: &Group,
        normed: Option<Normed<'_>>,
        x: Matrix<'_>,
        out: Matrix<'_>,
        then: Then,
    ) -> Result<()> {
        if let Some(low) = &group.low {
            let low = Matrix::new(low.view(), self.format, group.room, group.input);
            let parts = Matrix { view: x.view.from(group.input * self.format.bytes()), columns: group.room, ..x };
            // The norm's factor comes with the product that reads these.
            let from = FewRows { normed, rows: x, scaled: false };
            self.device.multiply_few(from, low, parts, Then::Store)?;
        }
        let whole = Matrix { columns: group.stride(), ..x };
        let from = FewRows { normed, rows: whole, scaled: true };
        self.device.multiply_few(from, group.weight(self.format), out, then)
    }

    /// [`logits`](Self::logits) of all rows of a step.
    pub(super) fn step_logits(&self, x: View<'_>, hidden: View<'_>, logits: View<'_>, rows: usize) -> Result<()> {
        let width = self.config.hidden_size;
        if !self.device.takes_few(self.format, rows, width, width) {
            return self.logits(x, None, hidden, logits, rows);
        }
        let normed = Some(Normed { x, weight: self.norm.view(), width, eps: self.config.rms_norm_eps });
        let from = FewRows { normed, rows: Matrix::new(hidden, self.format, rows, width), scaled: true };
        let logits = Matrix::new(logits, Format::F32, rows, self.config.vocab_size);
        self.device.multiply_few(from, self.head(), logits, Then::Store)
    }
}
