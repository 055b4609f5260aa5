//! A frozen matrix, packed once for products with rows of activations.

use rayon::prelude::*;

use super::tile::{Isa, Output, PANEL, ROWS, tile_f32, to_bf16_pairs};

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
const ROW_BLOCK: usize = 8 * ROWS;

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

    /// As [`multiply`](Self::multiply) on the calling thread alone, for callers that are themselves parallel.
    pub(super) fn multiply_serial(&self, x: &[f32], out: &mut [f32]) {
        self.product(x, out, 1.0, false, false);
    }

    /// As [`multiply_add`](Self::multiply_add) on the calling thread alone.
    pub(super) fn multiply_add_serial(&self, x: &[f32], out: &mut [f32]) {
        self.product(x, out, 1.0, true, false);
    }

    /// `out = x · M`; `x` holds rows of `inner` values, `out` as many rows of `outer` values.
    pub fn multiply(&self, x: &[f32], out: &mut [f32]) {
        self.product(x, out, 1.0, false, true);
    }

    /// `out += scale · x · M`.
    pub fn multiply_add(&self, x: &[f32], scale: f32, out: &mut [f32]) {
        self.product(x, out, scale, true, true);
    }

    fn product(&self, x: &[f32], out: &mut [f32], scale: f32, accumulate: bool, parallel: bool) {
        let rows = x.len().checked_div(self.inner).unwrap_or(0);
        assert_eq!(x.len(), rows * self.inner, "x is not whole rows of {} values", self.inner);
        assert_eq!(out.len(), rows * self.outer, "out is not {rows} rows of {} values", self.outer);
        if rows == 0 || self.outer == 0 {
            return;
        }
        let isa = Isa::detect();
        let base = Shared(out.as_mut_ptr());
        let stride = self.outer;
        match &self.panels {
            Panels::F32(panels) => self.for_each_tile(rows, parallel, |row, count, panel| {
                let output = base.output(row, panel, stride, scale, accumulate);
                let weights = &panels[panel * self.inner * PANEL..(panel + 1) * self.inner * PANEL];
                let input = &x[row * self.inner..(row + count) * self.inner];
                // SAFETY: the slices above have the lengths that the tile reads; each (row, panel) pair is visited by
                // one task only, so no two threads write the same element, and `out` outlives the loop.
                unsafe { tile_f32(isa, input.as_ptr(), self.inner, count, weights.as_ptr(), self.inner, output) };
            }),
            #[cfg(target_arch = "x86_64")]
            Panels::Bf16(panels) => {
                let pairs = self.inner.div_ceil(2);
                let mut narrow = vec![0u32; rows * pairs];
                narrow.par_chunks_mut(pairs * ROW_BLOCK).zip(x.par_chunks(self.inner * ROW_BLOCK)).for_each(
                    |(to, from)| {
                        to.chunks_mut(pairs)
                            .zip(from.chunks(self.inner))
                            .for_each(|(to, from)| to_bf16_pairs(from, to));
                    },
                );
                self.for_each_tile(rows, parallel, |row, count, panel| {
                    let output = base.output(row, panel, stride, scale, accumulate);
                    let weights = &panels[panel * pairs * PANEL..(panel + 1) * pairs * PANEL];
                    let input = &narrow[row * pairs..(row + count) * pairs];
                    // SAFETY: as above; bf16 panels exist only where the instructions were detected.
                    unsafe { super::tile::tile_bf16(input.as_ptr(), pairs, count, weights.as_ptr(), pairs, output) };
                });
            }
        }
    }

    /// Calls `tile(first row, rows, panel)` for every tile once, in parallel.
    fn for_each_tile(&self, rows: usize, parallel: bool, tile: impl Fn(usize, usize, usize) + Sync) {
        let panels = self.outer.div_ceil(PANEL);
        let blocks = rows.div_ceil(ROW_BLOCK);
        // Small products are not worth a second thread: waking one costs some microseconds.
        let work = rows * self.inner * self.outer;
        let parallel = parallel && work >= 1 << 17;
        let groups = if !parallel { 1 } else { (rayon::current_num_threads() * 4).div_ceil(blocks).min(panels) };
        let task = |t: usize| {
            let (block, group) = (t / groups, t % groups);
            let (from, to) = (group * panels / groups, (group + 1) * panels / groups);
            let last = rows.min((block + 1) * ROW_BLOCK);
            for panel in from..to {
                for row in (block * ROW_BLOCK..last).step_by(ROWS) {
                    tile(row, ROWS.min(last - row), panel);
                }
            }
        };
        if !parallel {
            (0..blocks).for_each(task);
        } else {
            (0..blocks * groups).into_par_iter().for_each(task);
        }
    }
}

/// The output's address, shared by the tasks of one product; each writes elements of its own.
#[derive(Clone, Copy)]
struct Shared(*mut f32);

// SAFETY: the address is only used for writes to disjoint elements while the exclusive borrow of the output lives.
unsafe impl Sync for Shared {}

impl Shared {
    fn output(&self, row: usize, panel: usize, stride: usize, scale: f32, accumulate: bool) -> Output {
        let columns = PANEL.min(stride - panel * PANEL);
        // SAFETY: row and panel lie inside the output, whose length was checked.
        let at = unsafe { self.0.add(row * stride + panel * PANEL) };
        Output { at, stride, columns, scale, accumulate }
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
        for (rows, inner, outer) in [(1, 5, 3), (7, 64, 33), (12, 31, 64), (13, 128, 31), (200, 66, 100)] {
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
                let before = out.clone();
                packed.multiply_add(&x, -1.0, &mut out);
                assert!(out.iter().all(|v| v.abs() < 1e-4), "adding the negative product gives zero");
                assert!(before.iter().any(|v| *v != 0.0));
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
