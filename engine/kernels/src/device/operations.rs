//! Matrices, products, and operations row by row or value by value: each checks its operands and launches its kernel.

use super::handle::Device;
use super::interface::{Argument, Begins, Format, Gemm};
use super::pool::View;
use querywright_types::{Error, Result};

/// A matrix by rows.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    /// Where it begins.
    pub view: View<'a>,
    /// Format of its values.
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

    /// Rows `from..from + rows` of it.
    pub fn rows(self, from: usize, rows: usize) -> Self {
        Self { view: self.view.from(from * self.stride * self.format.bytes()), rows, ..self }
    }

    pub(super) fn bytes(&self) -> usize {
        match self.rows {
            0 => 0,
            rows => ((rows - 1) * self.stride + self.columns) * self.format.bytes(),
        }
    }
}

/// Where the cosines and sines of rows' positions go: two f32 for each pair of values of a head.
#[derive(Debug, Clone, Copy)]
pub struct Angles<'a> {
    /// The position of each row (i32).
    pub positions: View<'a>,
    /// Radians a position (f64).
    pub frequencies: View<'a>,
    /// How many of them there are.
    pub half: usize,
    /// Takes them, (rows, half, 2).
    pub out: View<'a>,
}

/// Threads of a block of a value-by-value kernel.
pub(super) const BLOCK: usize = 256;

/// Warps of a block that normalises (`NORM_WARPS` in `cuda/rows.cuh`): a row each, or all of them one row.
const NORM_WARPS: usize = 4;

/// How many values a thread of a kernel takes at once, as its argument: four, where the sizes are multiples of that and the
/// addresses of sixteen bytes, else one.
fn each(columns: usize, strides: &[usize], views: &[View<'_>]) -> Result<Argument> {
    let four = columns.is_multiple_of(4)
        && strides.iter().all(|stride| stride.is_multiple_of(4))
        && views.iter().all(|view| view.address.is_multiple_of(16));
    int(if four { 4 } else { 1 })
}

/// How a value-by-value kernel covers a matrix (`Place` in `cuda/rows.cuh`).
struct Four {
    each: Argument,
    grid: (usize, usize),
}

impl Four {
    fn of(rows: usize, columns: usize, strides: &[usize], views: &[View<'_>]) -> Result<Self> {
        // The kernel counts in 32 bits.
        if u32::try_from(rows * columns).is_err() {
            return Err(Error::bug("a value-by-value kernel", format!("{rows} rows of {columns} values")));
        }
        let each = each(columns, strides, views)?;
        let threads = if matches!(each, Argument::Int(4)) { rows * columns / 4 } else { rows * columns };
        Ok(Self { each, grid: (threads.div_ceil(BLOCK), 1) })
    }
}

/// A size as kernels take it.
pub(super) fn int(value: usize) -> Result<Argument> {
    let int = i32::try_from(value);
    int.map(Argument::Int).map_err(|_| Error::bug("a kernel's argument", format!("{value} exceeds 32 bits")))
}

impl From<View<'_>> for Argument {
    fn from(view: View<'_>) -> Self {
        Self::Address(view.address)
    }
}

pub(super) fn address(view: Option<View<'_>>) -> Argument {
    Argument::Address(view.map_or(0, |v| v.address))
}

/// As many threads as a row has values, in whole warps, up to 1,024.
pub(super) fn threads(width: usize) -> usize {
    width.clamp(1, 1024).next_multiple_of(32)
}

impl Device {
    /// `c = alpha · op(a) op(b) + beta · c`, where `op` transposes the factor if its flag is set.
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
        let shape = |m: &Matrix<'_>, flip: bool| if flip { (m.columns, m.rows) } else { (m.rows, m.columns) };
        let ((rows, inner), (inner_b, columns)) = (shape(&a, flip_a), shape(&b, flip_b));
        if inner != inner_b || (rows, columns) != (c.rows, c.columns) || a.format != b.format {
            let found = format!(
                "a product of {rows} x {inner} ({:?}) and {inner_b} x {columns} ({:?}) into {} x {}",
                a.format, b.format, c.rows, c.columns
            );
            return Err(Error::bug("a product", found));
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

    /// `x` (rows, width) in single precision: the rows of `table` that `tokens` (u32) name. Writes the rows' angles, too.
    ///
    /// # Errors
    /// Operands that are too small. Tokens must lie inside the table; the caller has checked them.
    pub fn embed(
        &self,
        table: Matrix<'_>,
        tokens: View<'_>,
        x: View<'_>,
        rows: usize,
        angles: Angles<'_>,
    ) -> Result<()> {
        let (width, op) = (table.columns, "embed");
        self.need(op, table.view, table.bytes())?;
        self.need(op, tokens, 4 * rows)?;
        self.need(op, x, 4 * rows * width)?;
        let Angles { positions, frequencies, half, out } = angles;
        self.need(op, positions, 4 * rows)?;
        self.need(op, frequencies, 8 * half)?;
        self.need(op, out, 8 * rows * half)?;
        let arguments = [
            table.view.into(),
            tokens.into(),
            x.into(),
            int(width)?,
            positions.into(),
            frequencies.into(),
            int(half)?,
            out.into(),
        ];
        self.run_early(&named(op, table.format), (rows, 1), threads(width), &arguments)
    }

    /// `out = x / sqrt(mean(x²) + eps) · weight`, row by row; of the rows of `x` that `selected` (i32) names, or of all.
    ///
    /// # Errors
    /// Operands that are too small.
    pub fn rms_norm(
        &self,
        x: View<'_>,
        selected: Option<View<'_>>,
        weight: View<'_>,
        out: Matrix<'_>,
        eps: f64,
    ) -> Result<()> {
        let (op, rows, width) = ("rms_norm", out.rows, out.columns);
        match selected {
            Some(selected) => self.need(op, selected, 4 * rows)?,
            None => self.need(op, x, 4 * rows * width)?,
        }
        self.need(op, weight, 4 * width)?;
        self.need(op, out.view, out.bytes())?;
        // A warp each would leave most of the device idle.
        let together = rows < 32 * self.driver().multiprocessors();
        let arguments = [
            x.into(),
            address(selected),
            weight.into(),
            out.view.into(),
            int(width)?,
            int(out.stride)?,
            Argument::Float(eps as f32),
            int(rows)?,
            each(width, &[out.stride], &[x, weight, out.view])?,
            Argument::Int(i32::from(together)),
        ];
        let blocks = if together { rows } else { rows.div_ceil(NORM_WARPS) };
        self.run_early(&named(op, out.format), (blocks, 1), 32 * NORM_WARPS, &arguments)
    }

    /// `dx` += the gradient of `x`, given that of the result. What `dx` then is also goes to `rounded`, where it is given, in
    /// the format of `dy`.
    ///
    /// # Errors
    /// Operands that are too small.
    pub fn rms_norm_backward(
        &self,
        x: View<'_>,
        weight: View<'_>,
        dy: Matrix<'_>,
        (dx, rounded): (View<'_>, Option<View<'_>>),
        eps: f64,
    ) -> Result<()> {
        let (op, rows, width) = ("rms_norm_backward", dy.rows, dy.columns);
        rounded.map_or(Ok(()), |r| self.need(op, r, dy.format.bytes() * rows * width))?;
        self.need(op, x, 4 * rows * width)?;
        self.need(op, dx, 4 * rows * width)?;
        self.need(op, weight, 4 * width)?;
        self.need(op, dy.view, dy.bytes())?;
        let arguments = [
            x.into(),
            weight.into(),
            dy.view.into(),
            dx.into(),
            int(width)?,
            int(dy.stride)?,
            Argument::Float(eps as f32),
            address(rounded),
            int(rows)?,
            each(width, &[dy.stride], &[x, weight, dy.view, dx, rounded.unwrap_or(dx)])?,
        ];
        self.run(&named(op, dy.format), (rows.div_ceil(NORM_WARPS), 1), 32 * NORM_WARPS, &arguments)
    }

    /// `out = silu(gate) · up`, where `gate_up` has all gates of a row before all ups.
    ///
    /// # Errors
    /// Operands that are too small.
    pub fn swiglu(&self, gate_up: View<'_>, out: Matrix<'_>) -> Result<()> {
        let (op, rows, wide) = ("swiglu", out.rows, out.columns);
        self.need(op, gate_up, rows * 2 * wide * out.format.bytes())?;
        self.need(op, out.view, out.bytes())?;
        let four = Four::of(rows, wide, &[out.stride], &[gate_up, out.view])?;
        let arguments = [gate_up.into(), out.view.into(), int(wide)?, int(out.stride)?, int(rows)?, four.each];
        self.run(&named(op, out.format), four.grid, BLOCK, &arguments)
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
        let four = Four::of(rows, wide, &[dout.stride], &[gate_up, dout.view, dgate_up])?;
        let arguments =
            [gate_up.into(), dout.view.into(), dgate_up.into(), int(wide)?, int(dout.stride)?, int(rows)?, four.each];
        self.run(&named(op, dout.format), four.grid, BLOCK, &arguments)
    }

    /// `to = factor · from`, from single precision to the format of `to`.
    ///
    /// # Errors
    /// Shapes that differ, operands that are too small.
    pub fn place(&self, from: Matrix<'_>, to: Matrix<'_>, factor: f32) -> Result<()> {
        let (mut arguments, grid) = self.placed("place", from, (to, Format::F32))?;
        // Before the number of values that a thread takes.
        arguments.insert(arguments.len() - 1, Argument::Float(factor));
        self.run(&named("place", to.format), grid, BLOCK, &arguments)
    }

    /// Copies a matrix to another of its shape and format.
    ///
    /// # Errors
    /// Shapes that differ, operands that are too small.
    pub fn move_rows(&self, from: Matrix<'_>, to: Matrix<'_>) -> Result<()> {
        let (arguments, grid) = self.placed("move", from, (to, to.format))?;
        self.run(&named("move", to.format), grid, BLOCK, &arguments)
    }

    /// Checks a matrix of a format that goes to another one of its shape, and puts the operands into their order.
    fn placed(
        &self,
        op: &'static str,
        from: Matrix<'_>,
        (to, format): (Matrix<'_>, Format),
    ) -> Result<(Vec<Argument>, (usize, usize))> {
        let (rows, columns) = (to.rows, to.columns);
        if (from.rows, from.columns, from.format) != (rows, columns, format) {
            return Err(Error::bug(op, format!("{} x {} to {rows} x {columns}", from.rows, from.columns)));
        }
        self.need(op, from.view, from.bytes())?;
        self.need(op, to.view, to.bytes())?;
        let four = Four::of(rows, columns, &[from.stride, to.stride], &[from.view, to.view])?;
        let arguments = vec![
            from.view.into(),
            to.view.into(),
            int(rows)?,
            int(columns)?,
            int(from.stride)?,
            int(to.stride)?,
            four.each,
        ];
        Ok((arguments, four.grid))
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
        let arguments = [from.into(), order.into(), offsets.into(), targets.into(), to.into(), int(width)?];
        self.run("gather_sums_f32", (count, 1), threads(width), &arguments)
    }

    pub(super) fn run(&self, kernel: &str, grid: (usize, usize), block: usize, arguments: &[Argument]) -> Result<()> {
        self.launch(kernel, grid, block, arguments, Begins::Behind)
    }

    /// As [`run`](Self::run), for kernels that wait in their own code for the one before them.
    pub(super) fn run_early(
        &self,
        kernel: &str,
        grid: (usize, usize),
        block: usize,
        arguments: &[Argument],
    ) -> Result<()> {
        self.launch(kernel, grid, block, arguments, Begins::Early)
    }

    fn launch(
        &self,
        kernel: &str,
        grid: (usize, usize),
        block: usize,
        arguments: &[Argument],
        begins: Begins,
    ) -> Result<()> {
        if grid.0 == 0 || grid.1 == 0 {
            return Ok(());
        }
        self.driver().launch(kernel, grid, block, arguments, begins)
    }
}

pub(super) fn named(op: &str, format: Format) -> String {
    format!("{op}_{}", format.suffix())
}
