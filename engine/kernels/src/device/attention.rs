//! Attention: which keys a query sees, the rotation of queries and keys, and the kernels of `cuda/attention.cuh`.

use super::handle::Device;
use super::interface::{Argument, Format, HeadShape};
use super::operations::{Matrix, address, int, named};
use super::pool::{Buffer, View};
use querywright_types::{Error, Result};

/// The keys that a row of a decoding step sees: three ranges of the cache's rows (`Slot` in `cuda/attention.cuh`).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Slot {
    /// Rows of the prefix, at the cache's beginning.
    pub prefix: i32,
    /// Where the prompt's rows begin.
    pub prompt_from: i32,
    /// How many there are.
    pub prompt: i32,
    /// Where the sequence's own rows begin.
    pub own_from: i32,
    /// How many there are, the new one included.
    pub own: i32,
}

impl Slot {
    /// As the kernel reads it.
    pub fn values(self) -> [i32; 5] {
        [self.prefix, self.prompt_from, self.prompt, self.own_from, self.own]
    }
}

/// A packed tree of tokens, its rows in depth-first order.
#[derive(Debug, Clone, Copy)]
pub struct PackedTree<'a> {
    /// For each row, the end of what continues it (i32).
    pub ends: View<'a>,
    /// The largest of these in each tile of [`Format::tile`] rows (i32).
    pub tile_ends: View<'a>,
    /// Rows.
    pub rows: usize,
}

/// How the gradient of keys is divided among a device's multiprocessors (`KeyWork` and `KeySum` in `cuda/attention.cuh`). What
/// is long comes first, and the keys that most queries see are divided among several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPlan {
    /// Tile of keys, from and to which query row, and place among the partial sums or -1.
    pub work: Vec<[i32; 4]>,
    /// Tile, first place and number of places.
    pub sums: Vec<[i32; 3]>,
    /// Places of partial sums.
    pub slots: usize,
}

impl KeyPlan {
    /// For tiles that queries up to `tile_ends` see. In single precision nothing is divided.
    pub fn new(tile_ends: &[i32], format: Format) -> Self {
        let tile = format.tile() as i32;
        let most = match format {
            Format::F32 => i32::MAX / 2,
            Format::Bf16 => DIVIDED,
        };
        let (mut work, mut sums, mut slots) = (Vec::new(), Vec::new(), 0);
        for (index, end) in tile_ends.iter().enumerate() {
            let (index, from) = (index as i32, index as i32 * tile);
            let parts = ((end - from - 1).max(0) / most) + 1;
            if parts == 1 {
                work.push([index, from, *end, -1]);
                continue;
            }
            sums.push([index, slots, parts]);
            work.extend((0..parts).map(|p| [index, from + p * most, (from + (p + 1) * most).min(*end), slots + p]));
            slots += parts;
        }
        work.sort_by_key(|[_, from, to, _]| from - to);
        Self { work, sums, slots: slots as usize }
    }

    /// Bytes of its partial sums.
    pub fn bytes(&self, heads: HeadShape) -> usize {
        let wide = if heads.dim <= 64 { 64 } else { 128 };
        4 * self.slots * heads.keys as usize * 2 * Format::Bf16.tile() * wide
    }
}

/// A [`KeyPlan`] on a device.
#[derive(Debug)]
pub struct PlannedKeys {
    work: Buffer,
    sums: Buffer,
    partial: Buffer,
    counts: (usize, usize),
}

/// Query rows that one block of the gradient of keys goes through at most, before they are divided.
const DIVIDED: i32 = 2048;

/// What the rows of [`attend_tree`](Device::attend_tree) see, and where their results go.
#[derive(Debug, Clone, Copy)]
pub struct TreeAttention<'a> {
    /// Queries (rows, width).
    pub qkv: Matrix<'a>,
    /// Keys (tree rows, stride), values behind them; and the stride.
    pub keys: (View<'a>, usize),
    /// How the rows of keys are related.
    pub tree: PackedTree<'a>,
    /// The row of the tree that the first query is.
    pub first: usize,
    /// The heads of all.
    pub heads: HeadShape,
    /// Takes the results.
    pub out: Matrix<'a>,
    /// Takes the log-sums (rows, query heads) in f32; none where they are not needed.
    pub log_sums: Option<View<'a>>,
}

/// The operands of [`attend_backward`](Device::attend_backward).
#[derive(Debug, Clone, Copy)]
pub struct AttentionGradient<'a> {
    /// Queries, keys and values of the whole tree.
    pub qkv: Matrix<'a>,
    /// How the rows are related.
    pub tree: PackedTree<'a>,
    /// How the work on keys is divided.
    pub plan: &'a PlannedKeys,
    /// The heads of all.
    pub heads: HeadShape,
    /// The results of the forward pass.
    pub out: Matrix<'a>,
    /// Their gradient, with the same stride.
    pub dout: Matrix<'a>,
    /// The log-sums of the forward pass.
    pub log_sums: View<'a>,
    /// Scratch space for (rows, query heads) in f32.
    pub delta: View<'a>,
    /// Takes the gradient of `qkv`.
    pub dqkv: View<'a>,
}

/// The rows of a rotation.
#[derive(Debug, Clone, Copy)]
pub struct RotatedRows<'a> {
    /// Queries, keys and values before it.
    pub raw: View<'a>,
    /// The same behind it, or their gradient. May be `raw`.
    pub rotated: View<'a>,
    /// The angles of each row, as [`embed`](Device::embed) writes them.
    pub angles: View<'a>,
    /// How many there are.
    pub rows: usize,
}

/// The operands of the rotation that belong to a model's layer.
#[derive(Debug, Clone, Copy)]
pub struct Rotation<'a> {
    /// Format of the rows.
    pub format: Format,
    /// Their heads.
    pub heads: HeadShape,
    /// A bias of each value (f32), in models that have it.
    pub bias: Option<View<'a>>,
    /// The weights of the norm of query heads (f32), in models that have it.
    pub query_norm: Option<View<'a>>,
    /// The same of key heads.
    pub key_norm: Option<View<'a>>,
    /// The epsilon of the norms.
    pub eps: f64,
}

/// Threads of a block of attention.
const ATTENTION: usize = 128;

impl Device {
    /// Bias, norms of heads and rotary positions of rows of queries, keys and values. Where a cache is given, keys and
    /// values go there, too: to the rows that its second view names (i32).
    ///
    /// # Errors
    /// Operands that are too small.
    pub fn rotate(&self, how: &Rotation<'_>, rows: RotatedRows<'_>, cache: Option<(View<'_>, View<'_>)>) -> Result<()> {
        let op = "rotate";
        let mut arguments = self.rotation(op, how, rows)?;
        if let Some((_, cache_rows)) = cache {
            self.need(op, cache_rows, 4 * rows.rows)?;
        }
        arguments.extend([address(cache.map(|c| c.0)), address(cache.map(|c| c.1))]);
        self.run(&named(op, how.format), (rows.rows, 1), ATTENTION, &arguments)
    }

    /// The gradient through [`rotate`](Self::rotate), in place.
    ///
    /// # Errors
    /// Operands that are too small.
    pub fn rotate_backward(&self, how: &Rotation<'_>, rows: RotatedRows<'_>) -> Result<()> {
        let op = "rotate_backward";
        let arguments = self.rotation(op, how, rows)?;
        self.run(&named(op, how.format), (rows.rows, 1), ATTENTION, &arguments)
    }

    /// Checks the operands of both directions, and puts them into their order.
    fn rotation(&self, op: &'static str, how: &Rotation<'_>, rows: RotatedRows<'_>) -> Result<Vec<Argument>> {
        let RotatedRows { raw, rotated, angles, rows } = rows;
        let (dim, bytes) = (how.heads.dim as usize, rows * how.heads.width() * how.format.bytes());
        let norms = [how.query_norm, how.key_norm].map(|norm| (norm, 4 * dim));
        let optional = norms.into_iter().chain([(how.bias, 4 * how.heads.width())]);
        let needed = [(raw, bytes), (rotated, bytes), (angles, 4 * rows * dim)];
        for (view, bytes) in optional.filter_map(|(view, bytes)| Some((view?, bytes))).chain(needed) {
            self.need(op, view, bytes)?;
        }
        Ok(vec![
            raw.into(),
            rotated.into(),
            address(how.bias),
            address(how.query_norm),
            address(how.key_norm),
            angles.into(),
            Argument::Heads(how.heads),
            Argument::Float(how.eps as f32),
        ])
    }

    /// Attention of the rows from `first` on of a tree over all its rows.
    ///
    /// # Errors
    /// Heads that are too wide, operands that are too small.
    pub fn attend_tree(&self, operands: TreeAttention<'_>) -> Result<()> {
        let TreeAttention { qkv, keys: (keys, kv_stride), tree, first, heads, out, log_sums } = operands;
        let (op, rows) = ("attend_tree", qkv.rows);
        self.check_tree(op, &tree, qkv.format)?;
        self.need(op, qkv.view, qkv.bytes())?;
        let bytes = qkv.format.bytes();
        self.need(op, keys, (tree.rows.saturating_sub(1) * kv_stride + 2 * heads.key_width()) * bytes)?;
        self.need(op, out.view, out.bytes())?;
        log_sums.map_or(Ok(()), |l| self.need(op, l, 4 * rows * heads.queries as usize))?;
        let arguments = [
            qkv.view.into(),
            int(qkv.stride)?,
            keys.into(),
            keys.from(heads.key_width() * bytes).into(),
            int(kv_stride)?,
            tree.ends.into(),
            tree.tile_ends.into(),
            int(first)?,
            int(rows)?,
            Argument::Heads(heads),
            Argument::Float(heads.scale),
            out.view.into(),
            int(out.stride)?,
            address(log_sums),
        ];
        let grid = (rows.div_ceil(qkv.format.tile()), heads.queries as usize);
        self.run(&self.wide(op, heads, qkv.format)?, grid, ATTENTION, &arguments)
    }

    /// Attention of one new row of each sequence, over its ranges of a cache ([`Slot`], five i32 a row).
    ///
    /// # Errors
    /// Heads that are too wide or too many to a key head, operands that are too small.
    pub fn attend_one(
        &self,
        qkv: Matrix<'_>,
        (keys, kv_stride): (View<'_>, usize),
        slots: View<'_>,
        heads: HeadShape,
        out: Matrix<'_>,
    ) -> Result<()> {
        let (op, rows) = ("attend_one", qkv.rows);
        self.need(op, qkv.view, qkv.bytes())?;
        self.need(op, out.view, out.bytes())?;
        self.need(op, slots, 20 * rows)?;
        if heads.queries / heads.keys.max(1) > 16 {
            let found = format!("{} query heads over {} key heads", heads.queries, heads.keys);
            return Err(Error::device(self.name(), found, "at most 16 may share one; use --device cpu"));
        }
        let arguments = [
            qkv.view.into(),
            int(qkv.stride)?,
            keys.into(),
            keys.from(heads.key_width() * qkv.format.bytes()).into(),
            int(kv_stride)?,
            slots.into(),
            Argument::Heads(heads),
            Argument::Float(heads.scale),
            out.view.into(),
            int(out.stride)?,
        ];
        self.run(&self.wide(op, heads, qkv.format)?, (rows, heads.keys as usize), ATTENTION, &arguments)
    }

    /// The backward pass of [`attend_tree`](Self::attend_tree) over a whole tree, whose keys and values are those of
    /// `qkv`.
    ///
    /// # Errors
    /// Heads that are too wide, operands that are too small.
    pub fn attend_backward(&self, operands: AttentionGradient<'_>) -> Result<()> {
        let AttentionGradient { qkv, tree, plan, heads, out, dout, log_sums, delta, dqkv } = operands;
        let (op, rows, format) = ("attend_backward", qkv.rows, qkv.format);
        self.check_tree(op, &tree, format)?;
        for matrix in [&qkv, &out, &dout] {
            self.need(op, matrix.view, matrix.bytes())?;
        }
        self.need(op, dqkv, qkv.bytes())?;
        self.need(op, log_sums, 4 * rows * heads.queries as usize)?;
        self.need(op, delta, 4 * rows * heads.queries as usize)?;
        if out.stride != dout.stride || tree.rows != rows {
            let found = format!(
                "{rows} rows in a tree of {}; results {} values apart, their gradients {}",
                tree.rows, out.stride, dout.stride
            );
            return Err(Error::bug(op, found));
        }
        let arguments = [out.view.into(), dout.view.into(), int(out.stride)?, Argument::Heads(heads), delta.into()];
        self.run(&named("attend_delta", format), (rows, 1), ATTENTION, &arguments)?;
        // What both kernels read differs in how they find tiles: by the ends of tiles of keys, or by the plan.
        let operands = |found_by: View<'_>| -> Result<Vec<Argument>> {
            Ok(vec![
                qkv.view.into(),
                int(qkv.stride)?,
                dout.view.into(),
                int(dout.stride)?,
                log_sums.into(),
                delta.into(),
                tree.ends.into(),
                found_by.into(),
                int(rows)?,
                Argument::Heads(heads),
                Argument::Float(heads.scale),
                dqkv.into(),
            ])
        };
        let queries = self.wide("attend_backward_queries", heads, format)?;
        let grid = (rows.div_ceil(format.tile()), heads.queries as usize);
        self.run(&queries, grid, ATTENTION, &operands(tree.tile_ends)?)?;
        let mut arguments = operands(plan.work.view())?;
        arguments.push(plan.partial.view().into());
        let keys = self.wide("attend_backward_keys", heads, format)?;
        self.run(&keys, (plan.counts.0, heads.keys as usize), ATTENTION, &arguments)?;
        self.sum_keys(plan, (rows, qkv.stride), heads, dqkv)
    }

    /// Adds up the partial sums of a plan, where it has some.
    fn sum_keys(
        &self,
        plan: &PlannedKeys,
        (rows, stride): (usize, usize),
        heads: HeadShape,
        dqkv: View<'_>,
    ) -> Result<()> {
        if plan.counts.1 == 0 {
            return Ok(());
        }
        let arguments = [
            plan.partial.view().into(),
            plan.sums.view().into(),
            int(rows)?,
            int(stride)?,
            Argument::Heads(heads),
            dqkv.into(),
        ];
        let sums = self.wide("sum_keys", heads, Format::Bf16)?;
        self.run(&sums, (plan.counts.1, heads.keys as usize), ATTENTION, &arguments)
    }

    /// Brings a plan to the device, with room for its partial sums.
    ///
    /// # Errors
    /// Too little memory.
    pub fn plan_keys(&self, plan: &KeyPlan, heads: HeadShape) -> Result<PlannedKeys> {
        Ok(PlannedKeys {
            work: self.upload(plan.work.as_flattened())?,
            sums: self.upload(plan.sums.as_flattened())?,
            partial: self.allocate(plan.bytes(heads))?,
            counts: (plan.work.len(), plan.sums.len()),
        })
    }

    fn check_tree(&self, op: &'static str, tree: &PackedTree<'_>, format: Format) -> Result<()> {
        self.need(op, tree.ends, 4 * tree.rows)?;
        self.need(op, tree.tile_ends, 4 * tree.rows.div_ceil(format.tile()))
    }

    /// The kernel for heads of this width.
    fn wide(&self, op: &str, heads: HeadShape, format: Format) -> Result<String> {
        match heads.dim {
            ..=64 => Ok(format!("{op}_64_{}", format.suffix())),
            65..=128 => Ok(format!("{op}_128_{}", format.suffix())),
            wider => {
                let remedy = "at most 128 are supported; use --device cpu";
                Err(Error::device(self.name(), format!("heads of {wider} values"), remedy))
            }
        }
    }
}
