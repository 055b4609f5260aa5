//! Products of few rows, and attention of a decoding step (`cuda/products.cuh`, `cuda/step.cuh`): what a decoding step is made
//! of, in as few kernels as there are things that wait for each other.

use super::attention::Rotation;
use super::handle::Device;
use super::interface::{Argument, Format, HeadShape};
use super::operations::{Matrix, address, int};
use super::pool::View;
use querywright_types::{Error, Result};

/// The most rows that [`multiply_few`](Device::multiply_few) takes.
pub const FEW: usize = 16;

/// The most query heads that may share a key head in [`attend_step`](Device::attend_step).
const GROUP: i32 = 8;

/// Threads of a block of either (`FEW_THREADS` and `STEP_THREADS`).
const THREADS: usize = 256;

/// From so many columns on, a block takes sixteen and not eight: there are enough blocks for all multiprocessors.
const WIDE: usize = 8192;

/// Blocks of a product that a multiprocessor runs at once: each goes on to further columns, whose weights are then under way
/// already.
const RESIDENT: usize = 2;

/// The most rows that plain arithmetic multiplies, where a block holds them in so many bytes (`row` in `cuda/products.cuh`),
/// the warps of a block, and the blocks that a multiprocessor runs at once.
const ROWS: usize = 4;
const ROW_BYTES: usize = 40 << 10;
const ROW_WARPS: usize = 4;
const ROW_RESIDENT: usize = 5;

/// Query heads of all rows of a chunk at most (`CHUNK_QUERIES` in `cuda/step.cuh`).
const CHUNK: usize = 32;

/// Rows that lie one behind the other and see the same prefix and prompt (`Chunk` in `cuda/step.cuh`).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Chunk {
    /// The first of them.
    pub first: i32,
    /// How many: as many as [`HeadShape::chunk`] says at most. 0 is none.
    pub count: i32,
    /// Rows of the prefix, at the cache's beginning.
    pub prefix: i32,
    /// Where the prompt's rows begin.
    pub prompt_from: i32,
    /// How many there are.
    pub prompt: i32,
}

impl Chunk {
    /// As the kernel reads it.
    pub fn values(self) -> [i32; 5] {
        [self.first, self.count, self.prefix, self.prompt_from, self.prompt]
    }
}

impl HeadShape {
    /// The most rows of a [`Chunk`].
    pub fn chunk(self) -> usize {
        (CHUNK / (self.queries / self.keys.max(1)).max(1) as usize).max(1)
    }
}

/// Rows that are yet to be normalised.
#[derive(Debug, Clone, Copy)]
pub struct Normed<'a> {
    /// (rows, width), single precision.
    pub x: View<'a>,
    /// The weights of the norm (f32).
    pub weight: View<'a>,
    /// Values of a row.
    pub width: usize,
    /// The epsilon of the norm.
    pub eps: f64,
}

/// The rows of a product.
#[derive(Debug, Clone, Copy)]
pub struct FewRows<'a> {
    /// Takes the place of the first columns of `rows`.
    pub normed: Option<Normed<'a>>,
    /// (rows, columns) in bf16.
    pub rows: Matrix<'a>,
    /// Whether results are divided by the root mean square of `normed`. It may be left to the product that reads them:
    /// all of this is linear.
    pub scaled: bool,
}

/// What becomes of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// It is written, in the format of the result.
    Store,
    /// It is added to a result in single precision.
    Add,
    /// It holds gates and then ups: `silu(gate) · up` is written in bf16.
    Swiglu,
}

/// The operands of [`attend_step`](Device::attend_step).
#[derive(Debug, Clone, Copy)]
pub struct StepAttention<'a> {
    /// Queries, keys and values before bias, norms and rotation.
    pub raw: View<'a>,
    /// The angles of each row, as [`embed`](Device::embed) writes them.
    pub angles: View<'a>,
    /// Keys (cache rows, stride), values behind them.
    pub cache: View<'a>,
    /// The cache row that takes each row's key and value (i32).
    pub cache_rows: View<'a>,
    /// What each row sees ([`Slot`](super::Slot)), its own row included.
    pub slots: View<'a>,
    /// The rows in [`Chunk`]s, and how many there are: what a chunk shares is then read once for all its rows.
    pub chunks: Option<(View<'a>, usize)>,
    /// Takes the results.
    pub out: Matrix<'a>,
}

impl Device {
    /// Whether [`multiply_few`](Self::multiply_few) takes rows of this stride, and layers of that input.
    pub fn takes_few(&self, format: Format, rows: usize, input: usize, stride: usize) -> bool {
        format == Format::Bf16 && (1..=FEW).contains(&rows) && input.is_multiple_of(8) && stride.is_multiple_of(8)
    }

    /// Whether [`attend_step`](Self::attend_step) takes these heads.
    pub fn takes_step(&self, how: &Rotation<'_>) -> bool {
        let heads = how.heads;
        how.format == Format::Bf16
            && heads.dim % 8 == 0
            && heads.dim <= 128
            && heads.queries / heads.keys.max(1) <= GROUP
    }

    /// Whether there are so many rows that reading what they share once ([`Chunk`]) is worth a longer way through a kernel: a
    /// block for each row and key head would keep the device busy several times over.
    pub fn shares_keys(&self, heads: HeadShape, rows: usize) -> bool {
        rows * heads.keys.max(1) as usize > 4 * self.driver().multiprocessors()
    }

    /// `out = rows Wᵀ` for at most [`FEW`] rows in bf16, with a norm before and an addition or an activation behind it.
    ///
    /// # Errors
    /// Shapes that do not fit, operands that are too small or not aligned.
    pub fn multiply_few(&self, from: FewRows<'_>, weights: Matrix<'_>, out: Matrix<'_>, then: Then) -> Result<()> {
        self.check_few(&from, &weights, &out, then)?;
        let FewRows { normed, rows, scaled } = from;
        let (kept, width) = (out.columns, normed.map_or(0, |n| n.width));
        let kind = match then {
            Then::Store if out.format == Format::F32 => "store",
            Then::Store => "round",
            Then::Add => "add",
            Then::Swiglu => "swiglu",
        };
        let arguments = [
            address(normed.map(|n| n.x)),
            address(normed.map(|n| n.weight)),
            rows.view.into(),
            int(width)?,
            int(rows.columns)?,
            int(rows.stride)?,
            int(rows.rows)?,
            Argument::Int(i32::from(scaled && normed.is_some())),
            Argument::Float(normed.map_or(0.0, |n| n.eps) as f32),
            weights.view.into(),
            int(weights.stride)?,
            int(weights.rows)?,
            out.view.into(),
            int(out.stride)?,
        ];
        let multiprocessors = self.driver().multiprocessors().max(1);
        let held = rows.rows.next_power_of_two();
        if rows.rows <= ROWS && 2 * held * rows.columns <= ROW_BYTES {
            let each = if then == Then::Swiglu { ROW_WARPS } else { 2 * ROW_WARPS };
            let blocks = kept.div_ceil(each).min(ROW_RESIDENT * multiprocessors);
            return self.run_early(&format!("row_{kind}_{held}"), (blocks, 1), 32 * ROW_WARPS, &arguments);
        }
        let tiles = if then == Then::Swiglu || kept >= WIDE { 2 } else { 1 };
        let each = if then == Then::Swiglu { 8 } else { 8 * tiles };
        let blocks = kept.div_ceil(each).min(RESIDENT * multiprocessors);
        self.run_early(&format!("few_{kind}_{tiles}_{}", rows.rows.div_ceil(8)), (blocks, 1), THREADS, &arguments)
    }

    /// Refuses operands that do not fit, and those that loads of sixteen bytes cannot take.
    fn check_few(&self, from: &FewRows<'_>, weights: &Matrix<'_>, out: &Matrix<'_>, then: Then) -> Result<()> {
        let op = "a product of few rows";
        let FewRows { normed, rows, .. } = from;
        let kept = if then == Then::Swiglu { weights.rows / 2 } else { weights.rows };
        let width = normed.map_or(0, |n| n.width);
        let formats = match then {
            Then::Store => true,
            Then::Add => out.format == Format::F32,
            Then::Swiglu => out.format == Format::Bf16 && weights.rows.is_multiple_of(2),
        } && (rows.format, weights.format) == (Format::Bf16, Format::Bf16);
        let single = normed.iter().flat_map(|n| [n.x, n.weight]);
        let aligned = [rows.columns, rows.stride, weights.stride, width].iter().all(|n| n.is_multiple_of(8))
            && single.chain([rows.view, weights.view]).all(|v| v.address.is_multiple_of(16));
        let fits = (out.rows, out.columns) == (rows.rows, kept) && weights.columns == rows.columns;
        if !(formats && aligned && fits && width <= rows.columns && rows.rows <= FEW) {
            let found = format!("{rows:?} and {weights:?} into {out:?} ({width} columns normalised, {then:?})");
            return Err(Error::bug(op, found));
        }
        if width < rows.columns {
            self.need(op, rows.view, rows.bytes())?;
        }
        self.need(op, weights.view, weights.bytes())?;
        self.need(op, out.view, out.bytes())?;
        let Some(Normed { x, weight, width, .. }) = normed else { return Ok(()) };
        self.need(op, *x, 4 * rows.rows * width)?;
        self.need(op, *weight, 4 * width)
    }

    /// One new row of each sequence: bias, norms and rotation, its key and value into the cache, and attention over what it
    /// sees.
    ///
    /// # Errors
    /// Heads that [`takes_step`](Self::takes_step) refuses, operands that are too small.
    pub fn attend_step(&self, how: &Rotation<'_>, operands: StepAttention<'_>) -> Result<()> {
        let StepAttention { raw, angles, cache, cache_rows, slots, chunks, out } = operands;
        let (op, rows, heads) = ("attend_step", out.rows, how.heads);
        let aligned = cache.address.is_multiple_of(16) && out.stride.is_multiple_of(2);
        let fits = out.format == Format::Bf16 && out.columns == heads.query_width();
        if !(self.takes_step(how) && aligned && fits) {
            return Err(Error::bug(op, format!("{heads:?} into {out:?}")));
        }
        let dim = heads.dim as usize;
        self.need(op, raw, 2 * rows * heads.width())?;
        self.need(op, angles, 4 * rows * dim)?;
        self.need(op, cache_rows, 4 * rows)?;
        self.need(op, slots, 20 * rows)?;
        self.need(op, out.view, out.bytes())?;
        how.bias.map_or(Ok(()), |b| self.need(op, b, 4 * heads.width()))?;
        for norm in [how.query_norm, how.key_norm].into_iter().flatten() {
            self.need(op, norm, 4 * dim)?;
        }
        let mut arguments = vec![
            raw.into(),
            address(how.bias),
            address(how.query_norm),
            address(how.key_norm),
            angles.into(),
            Argument::Heads(heads),
            Argument::Float(how.eps as f32),
            Argument::Float(heads.scale),
            cache.into(),
            cache_rows.into(),
            slots.into(),
        ];
        if let Some((chunks, count)) = chunks {
            self.need(op, chunks, 20 * count)?;
            arguments.push(chunks.into());
        }
        arguments.extend([out.view.into(), int(out.stride)?]);
        let (wide, group) = (if dim <= 64 { 64 } else { 128 }, if heads.queries / heads.keys <= 4 { 4 } else { 8 });
        let (kind, blocks) = chunks.map_or(("step", rows), |(_, count)| ("chunk", count));
        self.run_early(&format!("attend_{kind}_{wide}_{group}"), (blocks, heads.keys as usize), THREADS, &arguments)
    }
}
