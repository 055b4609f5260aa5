//! A frozen matrix, packed once for products with rows of activations.

use std::sync::OnceLock;

use rayon::prelude::*;

#[cfg(target_arch = "x86_64")]
use super::tile::tile_bf16;
use super::tile::{Factor, Isa, Output, PANEL, ROWS, outer_product, tile_f32, to_bf16_pairs};

/// How frozen weights are held. Activations, sums and results are f32 in every case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// bf16 where this machine multiplies it natively, else f32.
    #[default]
    Auto,
    /// 32-bit floats: golden values, machines without AVX512-BF16.
    F32,
    /// bf16 pairs; needs AVX512-BF16, otherwise the product runs in f32 on rounded weights.
    Bf16,
}

/// A matrix `M` of `inner` rows and `outer` columns in panels of 32 columns; [`multiply`](Self::multiply) computes
/// `x · M` for any number of rows of `x`.
pub struct PackedMatrix {
    inner: usize,
    outer: usize,
    panels: Panels,
}

impl std::fmt::Debug for PackedMatrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PackedMatrix({} x {}, {} bytes)", self.inner, self.outer, self.bytes())
    }
}

enum Panels {
    F32(Vec<f32>),
    #[cfg(target_arch = "x86_64")]
    Bf16(Vec<u32>),
}

/// Rows that one task takes: their activations stay in the second-level cache while panels pass by.
const ROW_BLOCK: usize = 16 * ROWS;
/// Elements of the inner dimension (values, or bf16 pairs) that are multiplied before the next ones: with more, neither
/// a panel nor the rows of a tile would stay in the second-level cache.
const DEEP: usize = 1024;

impl PackedMatrix {
    /// Packs `M[i][j] = at(i, j)`.
    pub fn pack(inner: usize, outer: usize, precision: Precision, at: impl Fn(usize, usize) -> f32 + Sync) -> Self {
        let panels = outer.div_ceil(PANEL);
        let native = Isa::detect().has_bf16() && precision != Precision::F32;
        let rounded = precision == Precision::Bf16;
        let value = |i: usize, j: usize| if i < inner && j < outer { at(i, j) } else { 0.0 };
        #[cfg(target_arch = "x86_64")]
        if native {
            let pairs = inner.div_ceil(2);
            let mut packed = vec![0u32; panels * pairs * PANEL];
            packed.par_chunks_mut((pairs * PANEL).max(1)).enumerate().for_each(|(panel, chunk)| {
                for (slot, word) in chunk.iter_mut().enumerate() {
                    let (p, j) = (slot / PANEL, panel * PANEL + slot % PANEL);
                    let bits = |v: f32| u32::from(half::bf16::from_f32(v).to_bits());
                    *word = bits(value(2 * p, j)) | bits(value(2 * p + 1, j)) << 16;
                }
            });
            return Self { inner, outer, panels: Panels::Bf16(packed) };
        }
        let _ = native;
        let mut packed = vec![0f32; panels * inner * PANEL];
        packed.par_chunks_mut((inner * PANEL).max(1)).enumerate().for_each(|(panel, chunk)| {
            for (slot, word) in chunk.iter_mut().enumerate() {
                let v = value(slot / PANEL, panel * PANEL + slot % PANEL);
                *word = if rounded { half::bf16::from_f32(v).to_f32() } else { v };
            }
        });
        Self { inner, outer, panels: Panels::F32(packed) }
    }

    /// Length of an input row.
    pub fn inner(&self) -> usize {
        self.inner
    }

    /// Length of an output row.
    pub fn outer(&self) -> usize {
        self.outer
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        match &self.panels {
            Panels::F32(p) => p.len() * 4,
            #[cfg(target_arch = "x86_64")]
            Panels::Bf16(p) => p.len() * 4,
        }
    }

    fn panel_f32(&self, panel: usize) -> &[f32] {
        match &self.panels {
            Panels::F32(p) => &p[panel * self.inner * PANEL..(panel + 1) * self.inner * PANEL],
            #[cfg(target_arch = "x86_64")]
            Panels::Bf16(_) => &[],
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn panel_bf16(&self, panel: usize) -> &[u32] {
        let pairs = self.inner.div_ceil(2);
        match &self.panels {
            Panels::Bf16(p) => &p[panel * pairs * PANEL..(panel + 1) * pairs * PANEL],
            Panels::F32(_) => &[],
        }
    }

    /// The transpose, packed from the values held.
    pub fn transposed(&self) -> Self {
        match &self.panels {
            Panels::F32(p) => Self::pack(self.outer, self.inner, Precision::F32, |i, j| {
                p[(i / PANEL * self.inner + j) * PANEL + i % PANEL]
            }),
            #[cfg(target_arch = "x86_64")]
            Panels::Bf16(p) => {
                let pairs = self.inner.div_ceil(2);
                Self::pack(self.outer, self.inner, Precision::Bf16, |i, j| {
                    let word = p[(i / PANEL * pairs + j / 2) * PANEL + i % PANEL];
                    half::bf16::from_bits((word >> (16 * (j % 2))) as u16).to_f32()
                })
            }
        }
    }

    /// `out = x · M`; `x` holds rows of `inner` values, `out` as many rows of `outer` values.
    pub fn multiply(&self, x: &[f32], out: &mut [f32]) {
        let x = Rows::new(x, self.inner);
        sum_of_products(&[Part { column: 0, factors: &[(&x, self)] }], out, self.outer, false, true);
    }

    pub(super) fn is_bf16(&self) -> bool {
        match self.panels {
            Panels::F32(_) => false,
            #[cfg(target_arch = "x86_64")]
            Panels::Bf16(_) => true,
        }
    }
}

/// Rows of activations, rounded to bf16 once for all products that take them.
pub(super) struct Rows<'a> {
    values: &'a [f32],
    count: usize,
    width: usize,
    stride: usize,
    narrow: OnceLock<Vec<u32>>,
}

impl<'a> Rows<'a> {
    /// Rows of `width` values, one behind the other.
    pub(super) fn new(values: &'a [f32], width: usize) -> Self {
        assert!(width > 0 && values.len().is_multiple_of(width), "{} values are not rows of {width}", values.len());
        Self { values, count: values.len() / width, width, stride: width, narrow: OnceLock::new() }
    }

    /// The columns `from..from + width` of rows of `stride` values.
    pub(super) fn columns(values: &'a [f32], stride: usize, from: usize, width: usize) -> Self {
        assert!(stride > 0 && values.len().is_multiple_of(stride) && from + width <= stride);
        let count = values.len() / stride;
        Self { values: values.get(from..).unwrap_or(&[]), count, width, stride, narrow: OnceLock::new() }
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn row(&self, row: usize) -> &'a [f32] {
        &self.values[row * self.stride..row * self.stride + self.width]
    }

    /// All rows in bf16 pairs.
    fn narrow(&self, parallel: bool) -> &[u32] {
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
    /// The first column.
    pub(super) column: usize,
    /// What is multiplied and added up; at least one.
    pub(super) factors: &'a [(&'a Rows<'a>, &'a PackedMatrix)],
}

/// Terms of a sum at most: three layers that read the same rows, each with a delta.
const MOST_FACTORS: usize = 6;

fn collected<T: Copy>(
    factors: &[(&Rows<'_>, &PackedMatrix)],
    factor: impl Fn(&Rows<'_>, &PackedMatrix) -> Factor<T>,
) -> [Factor<T>; MOST_FACTORS] {
    let mut list = [Factor { x: std::ptr::null(), stride: 0, panel: std::ptr::null(), inner: 0 }; MOST_FACTORS];
    list.iter_mut().zip(factors).for_each(|(to, (x, matrix))| *to = factor(x, matrix));
    list
}

/// `out[:, part] (+)= Σ x · M` for every part; `out` holds rows of `stride` values. The order of summation does not
/// depend on the number of rows.
pub(super) fn sum_of_products(parts: &[Part<'_>], out: &mut [f32], stride: usize, accumulate: bool, parallel: bool) {
    let rows = out.len().checked_div(stride).unwrap_or(0);
    assert_eq!(out.len(), rows * stride, "the result is not whole rows of {stride} values");
    let (mut work, mut deepest) = (0, 0);
    for part in parts {
        assert!((1..=MOST_FACTORS).contains(&part.factors.len()), "a sum has 1 to {MOST_FACTORS} terms");
        for (x, matrix) in part.factors {
            assert_eq!(x.width, matrix.inner, "rows do not fit the matrix");
            assert_eq!(x.count, rows, "the factors have other rows than the result");
            assert_eq!(matrix.outer, part.factors[0].1.outer, "the terms of a sum have equal columns");
            work += rows * matrix.inner * matrix.outer;
            deepest = deepest.max(if matrix.is_bf16() { matrix.inner.div_ceil(2) } else { matrix.inner });
        }
        assert!(part.column + part.factors[0].1.outer <= stride, "the part does not fit into a row");
    }
    if rows == 0 {
        return;
    }
    // Small products are not worth a second thread: waking one costs some microseconds.
    let parallel = parallel && work >= 1 << 17;
    let base = Shared(out.as_mut_ptr());
    let mut panels = Vec::new();
    for (index, part) in parts.iter().enumerate() {
        let bf16 = part.factors[0].1.is_bf16();
        assert!(part.factors.iter().all(|f| f.1.is_bf16() == bf16), "the terms of a sum have one precision");
        if bf16 {
            for (x, _) in part.factors {
                x.narrow(parallel);
            }
        }
        panels.extend((0..part.factors[0].1.outer.div_ceil(PANEL)).map(|panel| (index, panel)));
    }
    let isa = Isa::detect();
    // `depth`: the block of the inner dimension.
    let tile = |(part, panel): (usize, usize), depth: usize, row: usize, count: usize, next: Option<(usize, usize)>| {
        let Part { column, factors } = parts[part];
        let output = Output {
            // SAFETY: part, panel and row lie inside the result, whose length was checked.
            at: unsafe { base.get().add(row * stride + column + panel * PANEL) },
            stride,
            columns: PANEL.min(factors[0].1.outer - panel * PANEL),
            accumulate: accumulate || depth > 0,
        };
        let from = depth * DEEP;
        match &factors[0].1.panels {
            Panels::F32(_) => {
                let list = collected(factors, |x, matrix| {
                    let from = from.min(matrix.inner);
                    Factor {
                        x: x.values[row * x.stride + from..].as_ptr(),
                        stride: x.stride,
                        panel: matrix.panel_f32(panel)[from * PANEL..].as_ptr(),
                        inner: DEEP.min(matrix.inner - from),
                    }
                });
                // SAFETY: rows and panels have the lengths that the tile reads (checked above); each (row, panel) pair
                // is visited by one task only, so no two threads write the same element, and `out` outlives the loop.
                unsafe { tile_f32(isa, &list[..factors.len()], count, output) };
            }
            #[cfg(target_arch = "x86_64")]
            Panels::Bf16(_) => {
                let list = collected(factors, |x, matrix| {
                    let pairs = matrix.inner.div_ceil(2);
                    let from = from.min(pairs);
                    Factor {
                        x: x.narrow(false)[row * pairs + from..].as_ptr(),
                        stride: pairs,
                        panel: matrix.panel_bf16(panel)[from * PANEL..].as_ptr(),
                        inner: DEEP.min(pairs - from),
                    }
                });
                let next = next.map_or(std::ptr::null(), |(part, panel)| {
                    let panel = parts[part].factors[0].1.panel_bf16(panel);
                    panel[(from * PANEL).min(panel.len())..].as_ptr()
                });
                // SAFETY: as above; bf16 panels exist only where the instructions were detected.
                unsafe { tile_bf16(&list[..factors.len()], count, output, next) };
            }
        }
    };
    let depths = deepest.div_ceil(DEEP).max(1);
    let blocks = rows.div_ceil(ROW_BLOCK);
    let groups = match parallel {
        true => (rayon::current_num_threads() * 4).div_ceil(blocks).min(panels.len()),
        false => 1,
    };
    let task = |t: usize| {
        let (block, group) = (t / groups, t % groups);
        let own = &panels[group * panels.len() / groups..(group + 1) * panels.len() / groups];
        let (first, last) = (block * ROW_BLOCK, rows.min((block + 1) * ROW_BLOCK));
        // Tiles of equal height: 64 rows are 6 tiles of 10 or 11, not 5 of 12 and a low one.
        let tiles = (last - first).div_ceil(ROWS);
        let edge = |n: usize| first + (last - first) * n / tiles;
        for depth in 0..depths {
            for (index, panel) in own.iter().enumerate() {
                for n in 0..tiles {
                    let next = own.get(index + 1).filter(|_| n == 0).copied();
                    tile(*panel, depth, edge(n), edge(n + 1) - edge(n), next);
                }
            }
        }
    };
    if !parallel {
        (0..blocks).for_each(task);
    } else {
        (0..blocks * groups).into_par_iter().for_each(task);
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
                    let (from, to) = (&left.values[row * left.stride + m..], &right.values[row * right.stride + column..]);
                    let (rows, many) = (ROWS.min(left.count - row), ACROSS.min(left.width - m));
                    let (sides, strides) = ((from.as_ptr(), to.as_ptr()), (left.stride, right.stride));
                    // SAFETY: `rows` rows from `row` on, `many` columns of the left and `columns` of the right exist;
                    // each strip is visited by one task only.
                    unsafe { outer_product(isa, sides, strides, rows, many, output) };
                }
            }
        }
    };
    let tasks = if left.count * left.width * right.width < 1 << 17 { 1 } else { rayon::current_num_threads().min(strips) };
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
        for (rows, inner, outer) in
            [(1, 5, 3), (7, 64, 33), (12, 31, 64), (13, 128, 31), (200, 66, 100), (5, 4500, 40)]
        {
            let (x, w) = (noise(rows * inner, 1), noise(inner * outer, 2));
            let want = naive(&x, &w, rows, inner, outer);
            for (precision, tolerance) in [(Precision::F32, 1e-5), (Precision::Bf16, 2e-2), (Precision::Auto, 2e-2)] {
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
                let part = Part { column: 0, factors: &[(&negative, &packed)] };
                sum_of_products(&[part], &mut out, outer, true, false);
                assert!(out.iter().all(|v| v.abs() < 1e-4), "adding the negative product gives zero");
            }
        }
    }

    #[test]
    fn parts_of_a_row_are_sums_of_products_of_columns() {
        let (rows, stride) = (29, 150);
        let (x, y) = (noise(rows * 50, 1), noise(rows * 7, 2));
        let (a, b, c) = (noise(40 * 70, 3), noise(7 * 70, 4), noise(50 * 33, 5));
        for (precision, tolerance) in [(Precision::F32, 1e-4), (Precision::Auto, 0.1)] {
            let pack = |m: &[f32], inner, outer| {
                PackedMatrix::pack(inner, outer, precision, |i, j| m[i * outer + j])
            };
            let (a_packed, b_packed, c_packed) = (pack(&a, 40, 70), pack(&b, 7, 70), pack(&c, 50, 33));
            let (left, low, whole) = (Rows::columns(&x, 50, 10, 40), Rows::new(&y, 7), Rows::new(&x, 50));
            let mut out = vec![1.0; rows * stride];
            let sum = [(&left, &a_packed), (&low, &b_packed)];
            let parts = [Part { column: 5, factors: &sum }, Part { column: 90, factors: &[(&whole, &c_packed)] }];
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
    fn an_outer_product_sums_over_rows() {
        for (rows, m, n) in [(1, 1, 1), (5, 3, 40), (300, 16, 70), (131, 19, 33)] {
            let (left, right) = (noise(rows * m, 1), noise(rows * (n + 3), 2));
            let mut out = vec![0.5; m * n];
            add_outer_product(&Rows::new(&left, m), &Rows::columns(&right, n + 3, 2, n), &mut out);
            for i in 0..m {
                for j in 0..n {
                    let want: f64 = (0..rows)
                        .map(|r| f64::from(left[r * m + i]) * f64::from(right[r * (n + 3) + 2 + j]))
                        .sum();
                    assert!((f64::from(out[i * n + j]) - 0.5 - want).abs() < 1e-3, "{rows} {m} {n}");
                }
            }
        }
    }

    #[test]
    fn a_row_gives_the_same_bits_whatever_batch_it_travels_in() {
        let (inner, outer) = (96, 70);
        let (x, w) = (noise(300 * inner, 3), noise(inner * outer, 4));
        for precision in [Precision::F32, Precision::Auto] {
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
