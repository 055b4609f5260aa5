//! Sums of products of rows with packed matrices, and outer products of rows.

use std::sync::OnceLock;

use rayon::prelude::*;

use super::packed::{PackedMatrix, Panels, depth};
#[cfg(target_arch = "x86_64")]
use super::tile::{Ahead, tile_bf16, tile_bytes};
use super::tile::{Bytes, Factor, Isa, Output, PANEL, ROWS, outer_product, tile_f32, tile_int8, to_bf16_pairs};

/// Rows that one task takes: their activations stay in the second-level cache while panels pass by.
const ROW_BLOCK: usize = 16 * ROWS;
/// Words of the inner dimension that are multiplied before the next ones: with more, neither a panel nor the rows of a
/// tile would stay in the second-level cache. A multiple of a block of 8-bit weights.
const DEEP: usize = 1024;

/// Rows of activations, rounded to bf16 once for all products that take them.
pub(super) struct Rows<'a> {
    values: &'a [f32],
    count: usize,
    width: usize,
    stride: usize,
    /// In bf16 from the beginning.
    pairs: Option<&'a [u32]>,
    narrow: OnceLock<Vec<u32>>,
    bytes: OnceLock<Bytes>,
}

impl<'a> Rows<'a> {
    /// Rows of `width` values, one behind the other.
    pub(super) fn new(values: &'a [f32], width: usize) -> Self {
        assert!(width > 0 && values.len().is_multiple_of(width), "{} values are not rows of {width}", values.len());
        Self {
            values,
            count: values.len() / width,
            width,
            stride: width,
            pairs: None,
            narrow: OnceLock::new(),
            bytes: OnceLock::new(),
        }
    }

    /// The columns `from..from + width` of rows of `stride` values.
    pub(super) fn columns(values: &'a [f32], stride: usize, from: usize, width: usize) -> Self {
        assert!(stride > 0 && values.len().is_multiple_of(stride) && from + width <= stride);
        let count = values.len() / stride;
        Self {
            values: values.get(from..).unwrap_or(&[]),
            count,
            width,
            stride,
            pairs: None,
            narrow: OnceLock::new(),
            bytes: OnceLock::new(),
        }
    }

    /// Rows of `width` values that are in bf16 pairs already; for products with matrices in bf16 alone.
    pub(super) fn in_bf16(pairs: &'a [u32], width: usize) -> Self {
        let words = width.div_ceil(2);
        assert!(words > 0 && pairs.len().is_multiple_of(words), "{} pairs are not rows of {width}", pairs.len());
        let count = pairs.len() / words;
        Self {
            values: &[],
            count,
            width,
            stride: width,
            pairs: Some(pairs),
            narrow: OnceLock::new(),
            bytes: OnceLock::new(),
        }
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn row(&self, row: usize) -> &'a [f32] {
        &self.values[row * self.stride..row * self.stride + self.width]
    }

    /// All rows in bytes.
    fn bytes(&self) -> &Bytes {
        self.bytes.get_or_init(|| Bytes::new((0..self.count).map(|row| self.row(row)), self.width))
    }

    /// All rows in bf16 pairs.
    fn narrow(&self, parallel: bool) -> &[u32] {
        if let Some(pairs) = self.pairs {
            return pairs;
        }
        self.narrow.get_or_init(|| {
            let pairs = self.width.div_ceil(2);
            let mut narrow = vec![0u32; self.count * pairs];
            if parallel && narrow.len() > 1 << 16 {
                let rows = narrow.par_chunks_mut(pairs).enumerate().with_min_len(ROWS);
                rows.for_each(|(row, to)| to_bf16_pairs(self.row(row), to));
            } else {
                narrow.chunks_mut(pairs).enumerate().for_each(|(row, to)| to_bf16_pairs(self.row(row), to));
            }
            narrow
        })
    }
}

/// Some columns of a result: a sum of products that have its number of columns.
pub(super) struct Part<'a> {
    /// The first column of the result.
    pub(super) column: usize,
    /// How many columns: the first ones of each matrix.
    pub(super) columns: usize,
    /// What is multiplied and added up; at least one.
    pub(super) factors: &'a [(&'a Rows<'a>, &'a PackedMatrix)],
}

impl<'a> Part<'a> {
    /// All columns of the matrices.
    pub(super) fn whole(column: usize, factors: &'a [(&'a Rows<'a>, &'a PackedMatrix)]) -> Self {
        Self { column, columns: factors.first().map_or(0, |f| f.1.outer()), factors }
    }
}

/// `out[:, part] (+)= Σ x · M` for every part; `out` holds rows of `stride` values. The order of summation does not
/// depend on the number of rows.
pub(super) fn sum_of_products(parts: &[Part<'_>], out: &mut [f32], stride: usize, accumulate: bool, parallel: bool) {
    let rows = out.len().checked_div(stride).unwrap_or(0);
    assert_eq!(out.len(), rows * stride, "the result is not whole rows of {stride} values");
    let (mut work, mut deepest) = (0, 0);
    for part in parts {
        assert!(!part.factors.is_empty(), "a sum has at least one term");
        assert!(part.column + part.columns <= stride, "the part does not fit into a row");
        for (x, matrix) in part.factors {
            // Of a matrix with more rows than `x` has columns, the first ones are taken.
            assert!(matrix.is_bf16() || x.pairs.is_none(), "rows in bf16 for a matrix that is not");
            assert!(x.width <= matrix.inner(), "rows do not fit the matrix");
            // The sums that go with weights in bytes are those of whole blocks.
            assert!(x.width == matrix.inner() || !matrix.has_byte_dots(), "some rows of a matrix in bytes");
            assert_eq!(x.count, rows, "the factors have other rows than the result");
            assert!(part.columns <= matrix.outer(), "a matrix has fewer columns than the part");
            work += rows * x.width * part.columns;
            deepest = deepest.max(depth(x.width, matrix.is_bf16()));
        }
    }
    if rows == 0 {
        return;
    }
    // Small products are not worth a second thread: waking one costs some microseconds.
    let parallel = parallel && work >= 1 << 17;
    let base = Shared(out.as_mut_ptr());
    let mut panels = Vec::new();
    for part in parts {
        part.factors.iter().filter(|f| f.1.is_bf16()).for_each(|(x, _)| {
            x.narrow(parallel);
        });
        part.factors.iter().filter(|f| f.1.has_byte_dots()).for_each(|(x, _)| {
            x.bytes();
        });
        panels.extend((0..part.columns.div_ceil(PANEL)).map(|panel| (part, panel)));
    }
    let isa = Isa::detect();
    let column = |own: &[(&Part<'_>, usize)], block: usize, first: usize, last: usize| {
        // Tiles of equal height: 64 rows are 6 tiles of 10 or 11, not 5 of 12 and a low one.
        let tiles = (last - first).div_ceil(ROWS);
        let edge = |n: usize| first + (last - first) * n / tiles;
        for (index, (part, panel)) in own.iter().enumerate() {
            for n in 0..tiles {
                let tile =
                    Tile { panel: *panel, from: block * DEEP, row: edge(n), rows: edge(n + 1) - edge(n), n, tiles };
                for (position, factor) in part.factors.iter().enumerate() {
                    let output = Output {
                        // SAFETY: part, panel and row lie inside the result, whose length was checked.
                        at: unsafe { base.get().add(tile.row * stride + part.column + panel * PANEL) },
                        stride,
                        columns: PANEL.min(part.columns - panel * PANEL),
                        // One factor a call: with a loop over factors around it the inner loop runs out of registers.
                        // The sums that a further factor continues are still in the nearest cache.
                        accumulate: accumulate || block > 0 || position > 0,
                    };
                    let next = own.get(index + 1).filter(|_| position == 0);
                    // SAFETY: rows and panels have the lengths that the tile reads (checked above); each (row, panel)
                    // pair is visited by one task only, so no two threads write the same element, and `out` outlives
                    // the loop.
                    unsafe { tile.multiply(isa, factor, output, next) };
                }
            }
        }
    };
    let depths = deepest.div_ceil(DEEP).max(1);
    let blocks = rows.div_ceil(ROW_BLOCK);
    let groups = match parallel {
        true => (rayon::current_num_threads() * 4).div_ceil(blocks).min(panels.len()).max(1),
        false => 1,
    };
    let task = |t: usize| {
        let (block, group) = (t / groups, t % groups);
        let own = &panels[group * panels.len() / groups..(group + 1) * panels.len() / groups];
        let (first, last) = (block * ROW_BLOCK, rows.min((block + 1) * ROW_BLOCK));
        (0..depths).for_each(|deep| column(own, deep, first, last));
    };
    if !parallel {
        (0..blocks).for_each(task);
    } else {
        (0..blocks * groups).into_par_iter().for_each(task);
    }
}

/// Some rows of one panel, in one block of the inner dimension; number `n` of the `tiles` that lie one below the other.
struct Tile {
    panel: usize,
    /// The first word of the inner dimension.
    from: usize,
    row: usize,
    rows: usize,
    n: usize,
    tiles: usize,
}

impl Tile {
    /// Multiplies these rows of a factor.
    ///
    /// # Safety
    /// The factor's rows and panel exist; `output` may be written for the tile's rows, and no other thread touches
    /// those.
    unsafe fn multiply(
        &self,
        isa: Isa,
        (x, matrix): &(&Rows<'_>, &PackedMatrix),
        output: Output,
        next: Option<&(&Part<'_>, usize)>,
    ) {
        let from = self.from.min(depth(x.width, matrix.is_bf16()));
        let inner = DEEP.min(depth(x.width, matrix.is_bf16()) - from);
        let values = || x.values[self.row * x.stride + from..].as_ptr();
        match matrix.panels() {
            Panels::F32(_) => {
                let panel = matrix.panel_f32(self.panel)[from * PANEL..].as_ptr();
                let factor = Factor { x: values(), stride: x.stride, panel, inner };
                // SAFETY: the caller's contract is passed on.
                unsafe { tile_f32(isa, &factor, self.rows, output) };
            }
            Panels::Int8 { .. } => {
                let (panel, scales, sums) = matrix.panel_int8(self.panel, from);
                // SAFETY: as above; sums exist only where the instructions were detected.
                match sums {
                    #[cfg(target_arch = "x86_64")]
                    Some(sums) => unsafe {
                        tile_bytes((x.bytes(), self.row, from), (panel, scales, sums), inner, self.rows, output);
                    },
                    _ => unsafe { tile_int8(isa, (values(), x.stride), (panel, scales), inner, self.rows, output) },
                }
            }
            #[cfg(target_arch = "x86_64")]
            Panels::Bf16(_) => {
                let pairs = x.width.div_ceil(2);
                let factor = Factor {
                    x: x.narrow(false)[self.row * pairs + from..].as_ptr(),
                    stride: pairs,
                    panel: matrix.panel_bf16(self.panel)[from * PANEL..].as_ptr(),
                    inner,
                };
                // Each tile calls in its share of the next panel.
                let ahead = next.map_or(Ahead::NOTHING, |(part, panel)| {
                    let panel = part.factors[0].1.panel_bf16(*panel);
                    let share = (from + self.n * inner.div_ceil(self.tiles)) * PANEL;
                    Ahead { panel: panel[share.min(panel.len())..].as_ptr(), slower: self.tiles }
                });
                // SAFETY: as above; bf16 panels exist only where the instructions were detected.
                unsafe { tile_bf16(&factor, self.rows, output, ahead) };
            }
        }
    }
}

/// `out[m][j] += Σ over rows left[r][m] · right[r][j]`: the gradient of a matrix. `left` and `right` have equally many
/// rows; `out` has a row for each column of `left`. Always f32.
pub(super) fn add_outer_product(left: &Rows<'_>, right: &Rows<'_>, out: &mut [f32]) {
    assert_eq!(left.count, right.count, "both sides have the same rows");
    assert_eq!(out.len(), left.width * right.width);
    /// Rows of the result that a tile forms.
    const ACROSS: usize = 8;
    /// Rows whose values stay in the cache while the tiles pass by.
    const ROWS: usize = 64;
    let isa = Isa::detect();
    let base = Shared(out.as_mut_ptr());
    let strips = right.width.div_ceil(PANEL);
    let run = |strips: std::ops::Range<usize>| {
        for row in (0..left.count).step_by(ROWS) {
            for column in strips.clone().map(|strip| strip * PANEL) {
                for m in (0..left.width).step_by(ACROSS) {
                    let output = Output {
                        // SAFETY: m and column lie inside the result, whose length was checked.
                        at: unsafe { base.get().add(m * right.width + column) },
                        stride: right.width,
                        columns: PANEL.min(right.width - column),
                        accumulate: true,
                    };
                    let (from, to) =
                        (&left.values[row * left.stride + m..], &right.values[row * right.stride + column..]);
                    let (rows, many) = (ROWS.min(left.count - row), ACROSS.min(left.width - m));
                    let (sides, strides) = ((from.as_ptr(), to.as_ptr()), (left.stride, right.stride));
                    // SAFETY: `rows` rows from `row` on, `many` columns of the left and `columns` of the right exist;
                    // each strip is visited by one task only.
                    unsafe { outer_product(isa, sides, strides, rows, many, output) };
                }
            }
        }
    };
    let tasks =
        if left.count * left.width * right.width < 1 << 17 { 1 } else { rayon::current_num_threads().min(strips) };
    let share = |task: usize| run(task * strips / tasks..(task + 1) * strips / tasks);
    if tasks == 1 { share(0) } else { (0..tasks).into_par_iter().with_max_len(1).for_each(share) }
}

/// The output's address, shared by the tasks of one product; each writes elements of its own.
#[derive(Clone, Copy)]
struct Shared(*mut f32);

// SAFETY: the address is only used for writes to disjoint elements while the exclusive borrow of the output lives.
unsafe impl Sync for Shared {}

impl Shared {
    fn get(&self) -> *mut f32 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Precision;
    use crate::kernels::oracle::noise;

    fn naive(x: &[f32], w: &[f32], rows: usize, inner: usize, outer: usize) -> Vec<f32> {
        let mut out = vec![0.0; rows * outer];
        for r in 0..rows {
            for j in 0..outer {
                out[r * outer + j] =
                    (0..inner).map(|i| f64::from(x[r * inner + i]) * f64::from(w[i * outer + j])).sum::<f64>() as f32;
            }
        }
        out
    }

    #[test]
    fn products_of_every_shape_and_precision_equal_the_naive_product() {
        for (rows, inner, outer) in [(1, 5, 3), (7, 64, 33), (12, 31, 64), (13, 128, 31), (200, 66, 100), (5, 4500, 40)]
        {
            let (x, w) = (noise(rows * inner, 1), noise(inner * outer, 2));
            let want = naive(&x, &w, rows, inner, outer);
            for (precision, tolerance) in
                [(Precision::F32, 1e-5), (Precision::Bf16, 2e-2), (Precision::Auto, 2e-2), (Precision::Int8, 2e-2)]
            {
                let packed = PackedMatrix::pack(inner, outer, precision, |i, j| w[i * outer + j]);
                let mut out = vec![9.0; rows * outer];
                packed.multiply(&x, &mut out);
                let scale = (inner as f32).sqrt();
                for (got, want) in out.iter().zip(&want) {
                    assert!(
                        (got - want).abs() <= tolerance * scale,
                        "{rows}x{inner}x{outer} {precision:?}: {got} {want}"
                    );
                }
                let negative: Vec<f32> = x.iter().map(|v| -v).collect();
                let negative = Rows::new(&negative, inner);
                let factors = [(&negative, &packed)];
                sum_of_products(&[Part::whole(0, &factors)], &mut out, outer, true, false);
                assert!(out.iter().all(|v| v.abs() < 1e-4), "adding the negative product gives zero");
            }
        }
    }

    #[test]
    fn parts_of_a_row_are_sums_of_products_of_columns() {
        let (rows, stride) = (29, 150);
        let (x, y) = (noise(rows * 50, 1), noise(rows * 7, 2));
        let (a, b, c) = (noise(40 * 70, 3), noise(7 * 70, 4), noise(50 * 33, 5));
        for (precision, tolerance) in [(Precision::F32, 1e-4), (Precision::Auto, 0.1), (Precision::Int8, 0.1)] {
            let pack = |m: &[f32], inner, outer| PackedMatrix::pack(inner, outer, precision, |i, j| m[i * outer + j]);
            let (a_packed, b_packed, c_packed) = (pack(&a, 40, 70), pack(&b, 7, 70), pack(&c, 50, 33));
            let (left, low, whole) = (Rows::columns(&x, 50, 10, 40), Rows::new(&y, 7), Rows::new(&x, 50));
            let mut out = vec![1.0; rows * stride];
            let sum = [(&left, &a_packed), (&low, &b_packed)];
            let third_alone = [(&whole, &c_packed)];
            let parts = [Part::whole(5, &sum), Part::whole(90, &third_alone)];
            sum_of_products(&parts, &mut out, stride, true, true);
            let cut: Vec<f32> = x.chunks(50).flat_map(|row| &row[10..]).copied().collect();
            let first = naive(&cut, &a, rows, 40, 70);
            let second = naive(&y, &b, rows, 7, 70);
            let third = naive(&x, &c, rows, 50, 33);
            for r in 0..rows {
                for j in 0..stride {
                    let want = 1.0
                        + match j {
                            5..75 => first[r * 70 + j - 5] + second[r * 70 + j - 5],
                            90..123 => third[r * 33 + j - 90],
                            _ => 0.0,
                        };
                    assert!((out[r * stride + j] - want).abs() < tolerance, "{precision:?} {r} {j}");
                }
            }
        }
    }

    #[test]
    fn a_matrix_that_grows_by_rows_or_columns_multiplies_like_one_that_was_packed_whole() {
        let (inner, outer) = (70, 40);
        let w = noise(inner * outer, 4);
        let x = noise(3 * inner, 5);
        for bf16 in [false, Isa::detect().has_bf16()] {
            let precision = if bf16 { Precision::Bf16 } else { Precision::F32 };
            let whole = PackedMatrix::pack(inner, outer, precision, |i, j| w[i * outer + j]);
            let (mut rows, mut columns) = (PackedMatrix::rows(outer, 0, bf16), PackedMatrix::columns(inner, bf16));
            for (index, row) in w.chunks(outer).enumerate() {
                // What is forgotten is written over.
                rows.push_row(&noise(outer, 9));
                rows.push_row(&noise(outer, 8));
                rows.truncate_rows(index);
                rows.push_row(row);
            }
            columns.push_column(&noise(inner, 9));
            columns.truncate_columns(0);
            (0..outer).for_each(|j| columns.push_column(&w.iter().skip(j).step_by(outer).copied().collect::<Vec<_>>()));
            let product = |m: &PackedMatrix| {
                let mut out = vec![0.0; 3 * outer];
                m.multiply(&x, &mut out);
                out
            };
            assert_eq!(product(&rows), product(&whole));
            assert_eq!(product(&columns), product(&whole));
            // The first 33 rows and 9 columns alone.
            let (short, mut out) = (Rows::columns(&x, inner, 0, 33), vec![0.0; 27]);
            let part = [(&short, &rows)];
            sum_of_products(&[Part { column: 0, columns: 9, factors: &part }], &mut out, 9, false, false);
            let want = naive(&x.chunks(inner).flat_map(|r| &r[..33]).copied().collect::<Vec<_>>(), &w, 3, 33, outer);
            for (got, want) in out.chunks(9).zip(want.chunks(outer)) {
                assert!(got.iter().zip(want).all(|(g, w)| (g - w).abs() < 0.1), "{got:?} {want:?}");
            }
        }
    }

    #[test]
    fn an_outer_product_sums_over_rows() {
        for (rows, m, n) in [(1, 1, 1), (5, 3, 40), (300, 16, 70), (131, 19, 33)] {
            let (left, right) = (noise(rows * m, 1), noise(rows * (n + 3), 2));
            let mut out = vec![0.5; m * n];
            add_outer_product(&Rows::new(&left, m), &Rows::columns(&right, n + 3, 2, n), &mut out);
            for i in 0..m {
                for j in 0..n {
                    let want: f64 =
                        (0..rows).map(|r| f64::from(left[r * m + i]) * f64::from(right[r * (n + 3) + 2 + j])).sum();
                    assert!((f64::from(out[i * n + j]) - 0.5 - want).abs() < 1e-3, "{rows} {m} {n}");
                }
            }
        }
    }

    #[test]
    fn a_row_gives_the_same_bits_whatever_batch_it_travels_in() {
        let (inner, outer) = (96, 70);
        let (x, w) = (noise(300 * inner, 3), noise(inner * outer, 4));
        for precision in [Precision::F32, Precision::Auto, Precision::Int8] {
            let packed = PackedMatrix::pack(inner, outer, precision, |i, j| w[i * outer + j]);
            let mut all = vec![0.0; 300 * outer];
            packed.multiply(&x, &mut all);
            for row in [0, 11, 12, 97, 299] {
                let mut alone = vec![0.0; outer];
                packed.multiply(&x[row * inner..(row + 1) * inner], &mut alone);
                assert_eq!(alone, all[row * outer..(row + 1) * outer], "row {row}");
            }
        }
    }
}
