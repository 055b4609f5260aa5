//! Outer products of rows, summed over the rows: the gradient of a matrix.

use rayon::prelude::*;

use super::isa::Isa;
use super::rows::Rows;
use super::tile::{Output, PANEL, Target};

/// Rows of the result that a tile forms: columns of the left side.
const TILE: usize = 8;
/// Summed rows whose values stay in the cache while the tiles pass by.
const BLOCK: usize = 64;

/// `out[m][j] += Σ over rows left[r][m] · right[r][j]`: the gradient of a matrix. `left` and `right` have equally many
/// rows, in f32; `out` has a row for each column of `left`. Always f32.
pub(super) fn add_outer_product(left: &Rows<'_>, right: &Rows<'_>, out: &mut [f32]) {
    assert_eq!(left.count(), right.count(), "both sides have the same rows");
    assert_eq!(out.len(), left.width() * right.width(), "the result has the columns of both sides");
    assert!(!left.is_bf16_alone() && !right.is_bf16_alone(), "an outer product of rows that exist in bf16 alone");
    let (count, isa) = (left.count(), Isa::detect());
    let target = Target::new(out, right.width());
    let strips = right.width().div_ceil(PANEL);
    let run = |strips: std::ops::Range<usize>| {
        for row in (0..count).step_by(BLOCK) {
            for column in strips.clone().map(|strip| strip * PANEL) {
                for m in (0..left.width()).step_by(TILE) {
                    let (rows, columns) = (TILE.min(left.width() - m), PANEL.min(right.width() - column));
                    let (left, right) = (Side::new(left, row, m), Side::new(right, row, column));
                    // SAFETY: the instructions were detected. The shares of tasks below are disjoint ranges of strips, so
                    // no two tasks write the same columns, and within a task one tile follows the other.
                    unsafe {
                        let output = target.tile((m, rows), (column, columns), true);
                        outer_product(isa, left, right, BLOCK.min(count - row), output);
                    }
                }
            }
        }
    };
    let tasks =
        if count * left.width() * right.width() < 1 << 17 { 1 } else { rayon::current_num_threads().min(strips) };
    let share = |task: usize| run(task * strips / tasks..(task + 1) * strips / tasks);
    if tasks == 1 { share(0) } else { (0..tasks).into_par_iter().with_max_len(1).for_each(share) }
}

/// One side of an outer product from some row and column on: rows `stride` values apart.
#[derive(Clone, Copy)]
struct Side<'a> {
    values: &'a [f32],
    stride: usize,
}

impl<'a> Side<'a> {
    fn new(rows: &Rows<'a>, row: usize, column: usize) -> Self {
        Self { values: &rows.values()[row * rows.stride() + column..], stride: rows.stride() }
    }
}

/// `out[m][j] += sum over rows r of left[r][m] * right[r][j]` for the rows (at most [`TILE`]) and columns of the output.
///
/// # Safety
/// The instructions of `isa` were detected.
unsafe fn outer_product(isa: Isa, left: Side<'_>, right: Side<'_>, rows: usize, output: Output) {
    let (many, columns) = (output.rows(), output.columns());
    assert!((1..=TILE).contains(&many) && rows > 0, "an outer product of {rows} rows, {many} of the result");
    assert!(
        left.values.len() >= (rows - 1) * left.stride + many
            && right.values.len() >= (rows - 1) * right.stride + columns,
        "{rows} rows of {many} and {columns} values, {} and {} apart, in {} and {}",
        left.stride,
        right.stride,
        left.values.len(),
        right.values.len()
    );
    #[cfg(target_arch = "x86_64")]
    if matches!(isa, Isa::Avx512Bf16 | Isa::Avx512) {
        // SAFETY: the instructions were detected; both sides were asserted above.
        unsafe {
            match many {
                1 => outer_avx512::<1>(left, right, rows, output),
                2 => outer_avx512::<2>(left, right, rows, output),
                3 => outer_avx512::<3>(left, right, rows, output),
                4 => outer_avx512::<4>(left, right, rows, output),
                5 => outer_avx512::<5>(left, right, rows, output),
                6 => outer_avx512::<6>(left, right, rows, output),
                7 => outer_avx512::<7>(left, right, rows, output),
                _ => outer_avx512::<8>(left, right, rows, output),
            }
        }
        return;
    }
    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Avx2 {
        for half in 0..columns.div_ceil(PANEL / 2) {
            for first in (0..many).step_by(TILE_AVX2) {
                let left = Side { values: &left.values[first..], ..left };
                let output = output.skip_rows(first);
                // SAFETY: the instructions were detected; both sides were asserted above.
                unsafe {
                    match many - first {
                        1 => outer_avx2::<1>(left, right, rows, half, output),
                        2 => outer_avx2::<2>(left, right, rows, half, output),
                        3 => outer_avx2::<3>(left, right, rows, half, output),
                        _ => outer_avx2::<TILE_AVX2>(left, right, rows, half, output),
                    }
                }
            }
        }
        return;
    }
    let _ = isa;
    for r in 0..rows {
        let row = &right.values[r * right.stride..][..columns];
        for m in 0..many {
            output.skip_rows(m).add_scaled_row(row, left.values[r * left.stride + m]);
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn outer_avx512<const M: usize>(left: Side<'_>, right: Side<'_>, rows: usize, output: Output) {
    use std::arch::x86_64::*;
    let (masks, from, to) = (output.masks(), left.values.as_ptr(), right.values.as_ptr());
    let mut sums = [[_mm512_setzero_ps(); 2]; M];
    for r in 0..rows {
        // SAFETY: the caller asserted that the left side has M values a row and the right side `columns`, which the masks
        // keep the reads to.
        unsafe {
            let row = to.add(r * right.stride);
            let values = [_mm512_maskz_loadu_ps(masks[0], row), _mm512_maskz_loadu_ps(masks[1], row.wrapping_add(16))];
            // The next strip of the row; a prefetch never faults.
            _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(PANEL).cast());
            _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(PANEL + 16).cast());
            for (m, sum) in sums.iter_mut().enumerate() {
                let value = _mm512_set1_ps(*from.add(r * left.stride + m));
                sum[0] = _mm512_fmadd_ps(value, values[0], sum[0]);
                sum[1] = _mm512_fmadd_ps(value, values[1], sum[1]);
            }
        }
    }
    output.store_avx512(&sums);
}

/// Rows of the result that a tile forms in AVX2: 4 x 2 accumulators hide the latency of a product, and with the masks
/// they fit the 16 registers.
#[cfg(target_arch = "x86_64")]
const TILE_AVX2: usize = 4;

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn outer_avx2<const M: usize>(left: Side<'_>, right: Side<'_>, rows: usize, half: usize, output: Output) {
    use std::arch::x86_64::*;
    let (masks, from, to) = (output.masks_avx2(half), left.values.as_ptr(), right.values.as_ptr());
    let mut sums = [[_mm256_setzero_ps(); 2]; M];
    for r in 0..rows {
        // SAFETY: the caller asserted that the left side has M values a row and the right side the output's columns,
        // which the masks keep the reads to.
        unsafe {
            let row = to.wrapping_add(r * right.stride + half * PANEL / 2);
            let values = [_mm256_maskload_ps(row, masks[0]), _mm256_maskload_ps(row.wrapping_add(8), masks[1])];
            for (m, sum) in sums.iter_mut().enumerate() {
                let value = _mm256_set1_ps(*from.add(r * left.stride + m));
                sum[0] = _mm256_fmadd_ps(value, values[0], sum[0]);
                sum[1] = _mm256_fmadd_ps(value, values[1], sum[1]);
            }
        }
    }
    output.store_avx2(half, &sums);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::noise;

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
    #[should_panic(expected = "rows that exist in bf16 alone")]
    fn rows_without_values_in_f32_are_refused() {
        add_outer_product(&Rows::in_bf16(&[0; 4], 2), &Rows::new(&[0.0; 4], 1), &mut [0.0; 2]);
    }
}
