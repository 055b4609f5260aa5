//! The operations: what each kernel takes, checked, and its launch.

use super::{Argument, Device, Format, View};
use crate::error::{Error, Result};

/// Query heads, key heads and values of a head (`Shape` in `cuda/rows.cuh`).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadShape {
    /// Query heads.
    pub queries: i32,
    /// Key heads, which is how many value heads there are, too.
    pub keys: i32,
    /// Values of a head.
    pub dim: i32,
}

impl HeadShape {
    /// Values of a row of queries.
    pub fn query_width(self) -> usize {
        (self.queries * self.dim) as usize
    }

    /// Values of a row of keys.
    pub fn key_width(self) -> usize {
        (self.keys * self.dim) as usize
    }

    /// Values of a row of queries, keys and values.
    pub fn width(self) -> usize {
        self.query_width() + 2 * self.key_width()
    }
}

/// What a row of a decoding step may see: three stretches of the cache (`Slot` in `cuda/attention.cuh`).
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

/// A drawn token (`Drawn` in `cuda/head.cuh`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drawn {
    /// The token.
    pub token: u32,
    /// Its log-probability at the scale.
    pub log_probability: f32,
    /// Its distribution's entropy.
    pub entropy: f32,
}

/// Numbers of an AdamW update (`AdamW` in `cuda/optimizer.cuh`).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(missing_docs, reason = "each is the optimiser's setting of that name, or as said")]
pub struct AdamWConstants {
    pub learning_rate: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    pub weight_decay: f64,
    /// `1 - beta1^t`.
    pub correct1: f64,
    /// `1 - beta2^t`.
    pub correct2: f64,
    /// What gradients are multiplied by.
    pub factor: f64,
}

/// A matrix by rows.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    /// Where it begins.
    pub view: View<'a>,
    /// What it holds.
    pub format: Format,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// Values from the beginning of a row to that of the next.
    pub stride: usize,
}

impl<'a> Matrix<'a> {
    /// A matrix whose rows lie one behind the other.
    pub fn new(view: View<'a>, format: Format, rows: usize, columns: usize) -> Self {
        Self { view, format, rows, columns, stride: columns }
    }

    /// Columns `from..from + columns` of it.
    pub fn columns(self, from: usize, columns: usize) -> Self {
        Self { view: self.view.from(from * self.format.bytes()), columns, ..self }
    }

    fn bytes(&self) -> usize {
        match self.rows {
            0 => 0,
            rows => ((rows - 1) * self.stride + self.columns) * self.format.bytes(),
        }
    }
}

/// A product, as the driver takes it.
#[derive(Debug)]
#[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "the driver reads it"))]
pub(super) struct Gemm {
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) inner: usize,
    pub(super) factors: Format,
    pub(super) result: Format,
    pub(super) alpha: f32,
    pub(super) beta: f32,
    pub(super) a: u64,
    pub(super) a_stride: usize,
    pub(super) flip_a: bool,
    pub(super) b: u64,
    pub(super) b_stride: usize,
    pub(super) flip_b: bool,
    pub(super) c: u64,
    pub(super) c_stride: usize,
}

/// A packed tree of tokens, its rows in depth-first order.
#[derive(Debug, Clone, Copy)]
pub struct Tree<'a> {
    /// For each row, the end of what continues it (i32).
    pub ends: View<'a>,
    /// The largest of these in each tile of [`Format::tile`] rows (i32).
    pub tile_ends: View<'a>,
    /// Rows.
    pub rows: usize,
}

/// Values that one thread block of a value-by-value kernel takes.
const BLOCK: usize = 256;

/// Threads of a block of attention.
const ATTENTION: usize = 128;

fn int(value: usize) -> Argument {
    Argument::Int(value as i32)
}

impl From<View<'_>> for Argument {
    fn from(view: View<'_>) -> Self {
        Self::Address(view.address)
    }
}

fn address(view: Option<View<'_>>) -> Argument {
    Argument::Address(view.map_or(0, |v| v.address))
}

/// As many threads as a row has values, in whole warps, up to 1,024.
fn threads(width: usize) -> usize {
    width.clamp(1, 1024).next_multiple_of(32)
}

impl Device {
    /// `c = alpha · op(a) op(b) + beta · c`, where `op` flips the factor where it is told.
    ///
    /// # Errors
    /// Shapes that do not fit, operands that are too small.
    pub fn multiply(
        &self,
        (a, flip_a): (Matrix<'_>, bool),
        (b, flip_b): (Matrix<'_>, bool),
        c: Matrix<'_>,
        alpha: f32,
        beta: f32,
    ) -> Result<()> {
        let turned = |m: &Matrix<'_>, flip: bool| if flip { (m.columns, m.rows) } else { (m.rows, m.columns) };
        let ((rows, inner), (inner_b, columns)) = (turned(&a, flip_a), turned(&b, flip_b));
        if inner != inner_b || (rows, columns) != (c.rows, c.columns) || a.format != b.format {
            let found = format!(
                "a product of {rows} x {inner} ({:?}) and {inner_b} x {columns} ({:?}) into {} x {}",
                a.format, b.format, c.rows, c.columns
            );
            return Err(Error::device(self.name(), found, "report this as a bug"));
        }
        for matrix in [&a, &b, &c] {
            self.need("a product", matrix.view, matrix.bytes())?;
        }
        if rows * columns * inner == 0 {
            return Ok(());
        }
        self.driver().multiply(&Gemm {
            rows,
            columns,
            inner,
            factors: a.format,
            result: c.format,
            alpha,
            beta,
            a: a.view.address,
            a_stride: a.stride,
            flip_a,
            b: b.view.address,
            b_stride: b.stride,
            flip_b,
            c: c.view.address,
            c_stride: c.stride,
        })
    }

    /// `x` (rows, width) in single precision: the rows of `table` that `tokens` (u32) name.
    ///
    /// # Errors
    /// Operands that are too small. Tokens must lie inside the table; the caller has checked them.
    pub fn embed(&self, table: Matrix<'_>, tokens: View<'_>, x: View<'_>, rows: usize) -> Result<()> {
        let (width, op) = (table.columns, "embed");
        self.need(op, table.view, table.bytes())?;
        self.need(op, tokens, 4 * rows)?;
        self.need(op, x, 4 * rows * width)?;
        let arguments = [table.view.into(), tokens.into(), x.into(), int(width)];
        self.run(&named(op, table.format), (rows, 1), threads(width), &arguments)
    }

    /// `out = x / sqrt(mean(x²) + eps) · weight`, row by row; of the rows of `x` that `wanted` (i32) names, or of all.
    ///
    /// # Errors
    /// Operands that are too small.
    pub fn rms_norm(
        &self,
        x: View<'_>,
        wanted: Option<View<'_>>,
        weight: View<'_>,
        out: Matrix<'_>,
        eps: f64,
    ) -> Result<()> {
        let (op, rows, width) = ("rms_norm", out.rows, out.columns);
        match wanted {
            Some(wanted) => self.need(op, wanted, 4 * rows)?,
            None => self.need(op, x, 4 * rows * width)?,
        }
        self.need(op, weight, 4 * width)?;
        self.need(op, out.view, out.bytes())?;
        let arguments = [
            x.into(),
            address(wanted),
            weight.into(),
            out.view.into(),
            int(width),
            int(out.stride),
            Argument::Float(eps as f32),
        ];
        self.run(&named(op, out.format), (rows, 1), threads(width), &arguments)
    }

    /// `dx` += the gradient of `x`, given that of the result.
    ///
    /// # Errors
    /// Operands that are too small.
    pub fn rms_norm_backward(
        &self,
        x: View<'_>,
        weight: View<'_>,
        dy: Matrix<'_>,
        dx: View<'_>,
        eps: f64,
    ) -> Result<()> {
        let (op, rows, width) = ("rms_norm_backward", dy.rows, dy.columns);
        self.need(op, x, 4 * rows * width)?;
        self.need(op, dx, 4 * rows * width)?;
        self.need(op, weight, 4 * width)?;
        self.need(op, dy.view, dy.bytes())?;
        let eps = Argument::Float(eps as f32);
        let arguments = [x.into(), weight.into(), dy.view.into(), dx.into(), int(width), int(dy.stride), eps];
        self.run(&named(op, dy.format), (rows, 1), threads(width), &arguments)
    }

    /// Bias, norms of heads and rotary positions of `rows` rows of queries, keys and values, from `raw` to `qkv` (which
    /// may be the same). Where a cache is given, keys and values go there, too: to the rows that the i32 name.
    ///
    /// # Errors
    /// Operands that are too small.
    pub fn rotate(
        &self,
        raw: View<'_>,
        qkv: View<'_>,
        how: &Rotation<'_>,
        positions: View<'_>,
        rows: usize,
        cache: Option<(View<'_>, View<'_>)>,
    ) -> Result<()> {
        let op = "rotate";
        self.check_rotation(op, how, positions, rows)?;
        let bytes = rows * how.heads.width() * how.format.bytes();
        self.need(op, raw, bytes)?;
        self.need(op, qkv, bytes)?;
        if let Some((_, cache_rows)) = cache {
            self.need(op, cache_rows, 4 * rows)?;
        }
        let arguments = [
            raw.into(),
            qkv.into(),
            address(how.bias),
            address(how.query_norm),
            address(how.key_norm),
            positions.into(),
            how.frequencies.into(),
            Argument::Heads(how.heads),
            Argument::Float(how.eps as f32),
            address(cache.map(|c| c.0)),
            address(cache.map(|c| c.1)),
        ];
        self.run(&named(op, how.format), (rows, 1), ATTENTION, &arguments)
    }

    /// The gradient through [`rotate`](Self::rotate), in place.
    ///
    /// # Errors
    /// Operands that are too small.
    pub fn rotate_backward(
        &self,
        raw: View<'_>,
        dqkv: View<'_>,
        how: &Rotation<'_>,
        positions: View<'_>,
        rows: usize,
    ) -> Result<()> {
        let op = "rotate_backward";
        self.check_rotation(op, how, positions, rows)?;
        let bytes = rows * how.heads.width() * how.format.bytes();
        self.need(op, raw, bytes)?;
        self.need(op, dqkv, bytes)?;
        let arguments = [
            raw.into(),
            dqkv.into(),
            address(how.bias),
            address(how.query_norm),
            address(how.key_norm),
            positions.into(),
            how.frequencies.into(),
            Argument::Heads(how.heads),
            Argument::Float(how.eps as f32),
        ];
        self.run(&named(op, how.format), (rows, 1), ATTENTION, &arguments)
    }

    fn check_rotation(&self, op: &str, how: &Rotation<'_>, positions: View<'_>, rows: usize) -> Result<()> {
        let dim = how.heads.dim as usize;
        self.need(op, positions, 4 * rows)?;
        self.need(op, how.frequencies, 8 * (dim / 2))?;
        how.bias.map_or(Ok(()), |bias| self.need(op, bias, 4 * how.heads.width()))?;
        [how.query_norm, how.key_norm].into_iter().flatten().try_for_each(|norm| self.need(op, norm, 4 * dim))
    }

    /// `out = silu(gate) · up`, where `gate_up` has all gates of a row before all ups.
    ///
    /// # Errors
    /// Operands that are too small.
    pub fn swiglu(&self, gate_up: View<'_>, out: Matrix<'_>) -> Result<()> {
        let (op, rows, wide) = ("swiglu", out.rows, out.columns);
        self.need(op, gate_up, rows * 2 * wide * out.format.bytes())?;
        self.need(op, out.view, out.bytes())?;
        let arguments = [gate_up.into(), out.view.into(), int(wide), int(out.stride), int(rows)];
        self.run(&named(op, out.format), ((rows * wide).div_ceil(BLOCK), 1), BLOCK, &arguments)
    }

    /// The gradients of gates and ups, given that of [`swiglu`](Self::swiglu)'s result.
    ///
    /// # Errors
    /// Operands that are too small.
    pub fn swiglu_backward(&self, gate_up: View<'_>, dout: Matrix<'_>, dgate_up: View<'_>) -> Result<()> {
        let (op, rows, wide) = ("swiglu_backward", dout.rows, dout.columns);
        self.need(op, gate_up, rows * 2 * wide * dout.format.bytes())?;
        self.need(op, dgate_up, rows * 2 * wide * dout.format.bytes())?;
        self.need(op, dout.view, dout.bytes())?;
        let arguments = [gate_up.into(), dout.view.into(), dgate_up.into(), int(wide), int(dout.stride), int(rows)];
        self.run(&named(op, dout.format), ((rows * wide).div_ceil(BLOCK), 1), BLOCK, &arguments)
    }

    /// `to = factor · from`, from single precision to the format of `to`.
    ///
    /// # Errors
    /// Shapes that differ, operands that are too small.
    pub fn place(&self, from: Matrix<'_>, to: Matrix<'_>, factor: f32) -> Result<()> {
        let (op, rows, columns) = ("place", to.rows, to.columns);
        if (from.rows, from.columns, from.format) != (rows, columns, Format::F32) {
            let found = format!("{} x {} placed on {rows} x {columns}", from.rows, from.columns);
            return Err(Error::device(self.name(), found, "report this as a bug"));
        }
        self.need(op, from.view, from.bytes())?;
        self.need(op, to.view, to.bytes())?;
        let arguments = [
            from.view.into(),
            to.view.into(),
            int(rows),
            int(columns),
            int(from.stride),
            int(to.stride),
            Argument::Float(factor),
        ];
        self.run(&named(op, to.format), ((rows * columns).div_ceil(BLOCK), 1), BLOCK, &arguments)
    }

    /// Copies a matrix to another of its shape and format.
    ///
    /// # Errors
    /// Shapes that differ, operands that are too small.
    pub fn move_rows(&self, from: Matrix<'_>, to: Matrix<'_>) -> Result<()> {
        let (op, rows, columns) = ("move", to.rows, to.columns);
        if (from.rows, from.columns, from.format) != (rows, columns, to.format) {
            let found = format!("{} x {} moved to {rows} x {columns}", from.rows, from.columns);
            return Err(Error::device(self.name(), found, "report this as a bug"));
        }
        self.need(op, from.view, from.bytes())?;
        self.need(op, to.view, to.bytes())?;
        let arguments = [from.view.into(), to.view.into(), int(rows), int(columns), int(from.stride), int(to.stride)];
        self.run(&named(op, to.format), ((rows * columns).div_ceil(BLOCK), 1), BLOCK, &arguments)
    }

    /// Row `targets[i]` of `to` becomes the sum of rows `order[offsets[i]..offsets[i + 1]]` of `from`; single precision,
    /// and i32.
    ///
    /// # Errors
    /// Operands that are too small.
    pub fn gather_sums(
        &self,
        from: View<'_>,
        (order, offsets, targets): (View<'_>, View<'_>, View<'_>),
        to: View<'_>,
        count: usize,
        width: usize,
    ) -> Result<()> {
        self.need("gather_sums", offsets, 4 * (count + 1))?;
        self.need("gather_sums", targets, 4 * count)?;
        let arguments = [from.into(), order.into(), offsets.into(), targets.into(), to.into(), int(width)];
        self.run("gather_sums_f32", (count, 1), threads(width), &arguments)
    }

    /// Log-probability and entropy (two f32 a row) of `targets` (u32) given `logits` (rows, vocabulary) in f32.
    ///
    /// # Errors
    /// Operands that are too small.
    pub fn statistics(
        &self,
        logits: View<'_>,
        targets: View<'_>,
        out: View<'_>,
        (rows, vocabulary): (usize, usize),
        scale: f32,
    ) -> Result<()> {
        let op = "statistics";
        self.need(op, logits, 4 * rows * vocabulary)?;
        self.need(op, targets, 4 * rows)?;
        self.need(op, out, 8 * rows)?;
        let arguments = [logits.into(), targets.into(), out.into(), int(vocabulary), Argument::Float(scale)];
        self.run("statistics_f32", (rows, 1), threads(vocabulary), &arguments)
    }

    /// As [`statistics`](Self::statistics), and the gradient of `Σ weights.0 · log p + weights.1 · entropy` with respect
    /// to the logits; `weights` are two f32 a row.
    ///
    /// # Errors
    /// Operands that are too small.
    pub fn slopes(
        &self,
        logits: View<'_>,
        (targets, weights): (View<'_>, View<'_>),
        out: View<'_>,
        dlogits: Matrix<'_>,
        scale: f32,
    ) -> Result<()> {
        let (op, rows, vocabulary) = ("slopes", dlogits.rows, dlogits.columns);
        self.need(op, logits, 4 * rows * vocabulary)?;
        self.need(op, targets, 4 * rows)?;
        self.need(op, weights, 8 * rows)?;
        self.need(op, out, 8 * rows)?;
        self.need(op, dlogits.view, dlogits.bytes())?;
        let arguments = [
            logits.into(),
            targets.into(),
            weights.into(),
            out.into(),
            dlogits.view.into(),
            int(vocabulary),
            Argument::Float(scale),
        ];
        self.run(&named(op, dlogits.format), (rows, 1), threads(vocabulary), &arguments)
    }

    /// Draws a token a row: where the running sum of probabilities passes the row's uniform number (f64), or the
    /// likeliest. `out` takes a u32 and two f32 a row: see [`Drawn`].
    ///
    /// # Errors
    /// Operands that are too small.
    pub fn draw(
        &self,
        logits: View<'_>,
        uniforms: View<'_>,
        out: View<'_>,
        (rows, vocabulary): (usize, usize),
        scale: f32,
        greedy: bool,
    ) -> Result<()> {
        let op = "draw";
        self.need(op, logits, 4 * rows * vocabulary)?;
        self.need(op, uniforms, 8 * rows)?;
        self.need(op, out, 12 * rows)?;
        let arguments = [
            logits.into(),
            uniforms.into(),
            out.into(),
            int(vocabulary),
            Argument::Float(scale),
            Argument::Int(i32::from(greedy)),
        ];
        self.run("draw_f32", (rows, 1), BLOCK, &arguments)
    }

    /// The sum of squares of `count` values in single precision, summed in double; not finite where one of them is not.
    ///
    /// # Errors
    /// Operands that are too small.
    pub fn squares(&self, values: View<'_>, count: usize) -> Result<f64> {
        const BLOCKS: usize = 256;
        self.need("squares", values, 4 * count)?;
        let partial = self.allocate(8 * BLOCKS)?;
        let arguments = [values.into(), partial.view().into(), Argument::Long(count as i64)];
        self.run("squares_f32", (BLOCKS, 1), BLOCK, &arguments)?;
        let mut sums = [0f64; BLOCKS];
        self.read(partial.view(), &mut sums)?;
        Ok(sums.iter().sum())
    }

    /// One update of AdamW over `count` values in single precision.
    ///
    /// # Errors
    /// Operands that are too small.
    pub fn adamw(
        &self,
        values: View<'_>,
        gradient: View<'_>,
        (m, v): (View<'_>, View<'_>),
        count: usize,
        constants: AdamWConstants,
    ) -> Result<()> {
        for view in [values, gradient, m, v] {
            self.need("adamw", view, 4 * count)?;
        }
        let count_argument = Argument::Long(count as i64);
        let arguments =
            [values.into(), gradient.into(), m.into(), v.into(), count_argument, Argument::AdamW(constants)];
        self.run("adamw_f32", (count.div_ceil(BLOCK), 1), BLOCK, &arguments)
    }

    /// Attention of the rows from `first` on of a tree over all its rows: queries from `qkv` (rows, width), keys from
    /// `keys` (tree rows, stride), values behind them. `log_sums` takes (rows, query heads) in f32 where it is wanted.
    ///
    /// # Errors
    /// Heads that are too wide, operands that are too small.
    #[allow(clippy::too_many_arguments, reason = "what asks, what is asked, who sees whom, and where it goes")]
    pub fn attend_tree(
        &self,
        qkv: Matrix<'_>,
        (keys, kv_stride): (View<'_>, usize),
        tree: Tree<'_>,
        first: usize,
        heads: HeadShape,
        out: Matrix<'_>,
        log_sums: Option<View<'_>>,
    ) -> Result<()> {
        let (op, rows) = ("attend_tree", qkv.rows);
        self.check_tree(op, &tree, qkv.format)?;
        self.need(op, qkv.view, qkv.bytes())?;
        let bytes = qkv.format.bytes();
        self.need(op, keys, (tree.rows.saturating_sub(1) * kv_stride + 2 * heads.key_width()) * bytes)?;
        self.need(op, out.view, out.bytes())?;
        log_sums.map_or(Ok(()), |l| self.need(op, l, 4 * rows * heads.queries as usize))?;
        let arguments = [
            qkv.view.into(),
            int(qkv.stride),
            keys.into(),
            keys.from(heads.key_width() * bytes).into(),
            int(kv_stride),
            tree.ends.into(),
            tree.tile_ends.into(),
            int(first),
            int(rows),
            Argument::Heads(heads),
            Argument::Float(scale(heads)),
            out.view.into(),
            int(out.stride),
            address(log_sums),
        ];
        let grid = (rows.div_ceil(qkv.format.tile()), heads.queries as usize);
        self.run(&self.wide(op, heads, qkv.format)?, grid, ATTENTION, &arguments)
    }

    /// Attention of one new row of each sequence, over its stretches of a cache ([`Slot`], five i32 a row).
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
            int(qkv.stride),
            keys.into(),
            keys.from(heads.key_width() * qkv.format.bytes()).into(),
            int(kv_stride),
            slots.into(),
            Argument::Heads(heads),
            Argument::Float(scale(heads)),
            out.view.into(),
            int(out.stride),
        ];
        self.run(&self.wide(op, heads, qkv.format)?, (rows, heads.keys as usize), ATTENTION, &arguments)
    }

    /// The way back through [`attend_tree`](Self::attend_tree) over a whole tree, whose keys and values are those of
    /// `qkv`: `dqkv` takes the gradient of `qkv`. `out` and `dout` have the same stride; `delta` is room for (rows, query
    /// heads) in f32.
    ///
    /// # Errors
    /// Heads that are too wide, operands that are too small.
    #[allow(clippy::too_many_arguments, reason = "what went in, what came out, and their gradients")]
    pub fn attend_backward(
        &self,
        qkv: Matrix<'_>,
        tree: Tree<'_>,
        heads: HeadShape,
        out: Matrix<'_>,
        dout: Matrix<'_>,
        log_sums: View<'_>,
        delta: View<'_>,
        dqkv: View<'_>,
    ) -> Result<()> {
        let (op, rows, format) = ("attend_backward", qkv.rows, qkv.format);
        self.check_tree(op, &tree, format)?;
        for matrix in [&qkv, &out, &dout] {
            self.need(op, matrix.view, matrix.bytes())?;
        }
        self.need(op, dqkv, qkv.bytes())?;
        self.need(op, log_sums, 4 * rows * heads.queries as usize)?;
        self.need(op, delta, 4 * rows * heads.queries as usize)?;
        if out.stride != dout.stride || tree.rows != rows {
            return Err(Error::device(
                self.name(),
                "attention and its gradient differ in shape",
                "report this as a bug",
            ));
        }
        let arguments = [out.view.into(), dout.view.into(), int(out.stride), Argument::Heads(heads), delta.into()];
        self.run(&named("attend_delta", format), (rows, 1), ATTENTION, &arguments)?;
        let arguments = [
            qkv.view.into(),
            int(qkv.stride),
            dout.view.into(),
            int(dout.stride),
            log_sums.into(),
            delta.into(),
            tree.ends.into(),
            tree.tile_ends.into(),
            int(rows),
            Argument::Heads(heads),
            Argument::Float(scale(heads)),
            dqkv.into(),
        ];
        let tiles = rows.div_ceil(format.tile());
        let queries = self.wide("attend_backward_queries", heads, format)?;
        self.run(&queries, (tiles, heads.queries as usize), ATTENTION, &arguments)?;
        let keys = self.wide("attend_backward_keys", heads, format)?;
        self.run(&keys, (tiles, heads.keys as usize), ATTENTION, &arguments)
    }

    fn check_tree(&self, op: &str, tree: &Tree<'_>, format: Format) -> Result<()> {
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

    fn run(&self, kernel: &str, grid: (usize, usize), block: usize, arguments: &[Argument]) -> Result<()> {
        if grid.0 == 0 || grid.1 == 0 {
            return Ok(());
        }
        self.driver().launch(kernel, grid, block, arguments)
    }
}

/// What [`Device::rotate`] needs to know of a model's layer.
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
    /// Radians a position (f64), one for each pair of values of a head.
    pub frequencies: View<'a>,
    /// What the norms add.
    pub eps: f64,
}

fn named(op: &str, format: Format) -> String {
    format!("{op}_{}", format.suffix())
}

fn scale(heads: HeadShape) -> f32 {
    1.0 / (heads.dim as f32).sqrt()
}
