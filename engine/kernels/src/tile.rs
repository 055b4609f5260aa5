//! The inner tiles of the packed matrix product, in vector instructions.
//!
//! A tile multiplies up to [`ROWS`] rows of activations with one panel of [`PANEL`] columns and keeps all sums in
//! registers. The order of summation is the same for every number of rows. What a tile reads and writes without a
//! bounds check for each element is asserted once a tile, in release builds as well: [`Target::tile`], [`Factor::check`].

#[cfg_attr(not(target_arch = "x86_64"), path = "tile/no_amx.rs")]
pub(super) mod amx;

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;
use std::marker::PhantomData;

use super::isa::Isa;
use super::vector::add_scaled;

/// Columns of a panel: two 512-bit registers of f32.
pub(super) const PANEL: usize = 32;
/// Rows of a tile: 12 x 2 accumulators, two panel registers and a broadcast fit the 32 registers of AVX-512.
pub(super) const ROWS: usize = 12;

/// The result of a product, whose tasks write disjoint tiles of it.
pub(super) struct Target<'a> {
    at: *mut f32,
    rows: usize,
    stride: usize,
    values: PhantomData<&'a mut [f32]>,
}

// SAFETY: the address is only used through `tile`, whose callers promise that tiles in use at the same time are disjoint.
unsafe impl Sync for Target<'_> {}

impl<'a> Target<'a> {
    /// Rows of `stride` values.
    pub(super) fn new(values: &'a mut [f32], stride: usize) -> Self {
        assert!(stride > 0 && values.len().is_multiple_of(stride), "{} values are not rows of {stride}", values.len());
        Self { at: values.as_mut_ptr(), rows: values.len() / stride, stride, values: PhantomData }
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// A tile of some rows and columns, each given as the first one and how many.
    ///
    /// # Safety
    /// No other thread touches the same elements while this tile is written.
    pub(super) unsafe fn tile(&self, rows: (usize, usize), columns: (usize, usize), accumulate: bool) -> Output {
        let ((row, rows), (column, columns)) = (rows, columns);
        assert!(
            row + rows <= self.rows && column + columns <= self.stride && columns <= PANEL,
            "a tile of {rows} x {columns} at ({row}, {column}) lies outside a result of {} x {}",
            self.rows,
            self.stride
        );
        // Wrapping: a tile without rows or columns may begin at the end.
        Output { at: self.at.wrapping_add(row * self.stride + column), stride: self.stride, rows, columns, accumulate }
    }
}

/// Where a tile writes, and how. Made by [`Target::tile`], so its rows and columns exist.
#[derive(Clone, Copy)]
pub(super) struct Output {
    /// First element of the tile's first row.
    at: *mut f32,
    /// Elements from one row to the next.
    stride: usize,
    /// Rows to write.
    rows: usize,
    /// Columns to write, at most [`PANEL`].
    columns: usize,
    /// Whether to add to what is there.
    accumulate: bool,
}

impl Output {
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    /// The tile without its first `rows` rows.
    pub(super) fn skip_rows(self, rows: usize) -> Self {
        assert!(rows <= self.rows, "a tile of {} rows has no row {rows}", self.rows);
        Self { at: self.at.wrapping_add(rows * self.stride), rows: self.rows - rows, ..self }
    }

    /// Writes the sums of the first row, or adds them.
    #[inline(always)]
    pub(super) fn store_row(self, sums: &[f32; PANEL]) {
        assert!(self.rows > 0, "a tile without rows has no first one");
        for (j, sum) in sums.iter().enumerate().take(self.columns) {
            // SAFETY: there is a first row (asserted above), and `Target::tile` asserted that it has `columns` values.
            unsafe {
                let at = self.at.add(j);
                *at = sum + if self.accumulate { *at } else { 0.0 };
            }
        }
    }

    /// Adds `scale · row` to the first row.
    pub(super) fn add_scaled_row(self, row: &[f32], scale: f32) {
        assert!(self.rows > 0, "a tile without rows has no first one");
        // SAFETY: there is a first row (asserted above), `Target::tile` asserted that it has `columns` values, and its
        // caller promised that no other thread touches them.
        add_scaled(unsafe { std::slice::from_raw_parts_mut(self.at, self.columns) }, row, scale);
    }

    /// Which lanes of the panel's two registers are written.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn masks(&self) -> [__mmask16; 2] {
        let mask = |columns: usize| ((1u32 << columns) - 1) as __mmask16;
        [mask(self.columns.min(16)), mask(self.columns.saturating_sub(16).min(16))]
    }

    /// Writes the sums of the first `M` rows, or adds them.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(super) fn store_avx512<const M: usize>(self, sums: &[[__m512; 2]; M]) {
        assert!(M <= self.rows, "{M} rows of sums for a tile of {}", self.rows);
        for (r, sum) in sums.iter().enumerate() {
            for (half, mask) in self.masks().into_iter().enumerate() {
                // SAFETY: `r < M` rows exist (asserted above), and the mask keeps reads and writes inside the `columns`
                // values of a row, which `Target::tile` asserted.
                unsafe {
                    // Wrapping: the second half of a half-empty panel begins beyond the row, where its empty mask touches
                    // nothing.
                    let at = self.at.wrapping_add(r * self.stride + half * 16);
                    let value = match self.accumulate {
                        true => _mm512_add_ps(sum[half], _mm512_maskz_loadu_ps(mask, at)),
                        false => sum[half],
                    };
                    _mm512_mask_storeu_ps(at, mask, value);
                }
            }
        }
    }
}

impl Output {
    /// Which lanes of the two registers of half a panel are written.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    #[inline]
    pub(super) fn masks_avx2(&self, half: usize) -> [__m256i; 2] {
        let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        let columns = |from: usize| self.columns.saturating_sub(from).min(8) as i32;
        let from = half * PANEL / 2;
        [from, from + 8].map(|from| _mm256_cmpgt_epi32(_mm256_set1_epi32(columns(from)), lanes))
    }

    /// Writes the sums of the first `M` rows for one half of the panel, or adds them.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    #[inline]
    pub(super) fn store_avx2<const M: usize>(self, half: usize, sums: &[[__m256; 2]; M]) {
        assert!(M <= self.rows && half < 2, "{M} rows of sums for a tile of {}", self.rows);
        let masks = self.masks_avx2(half);
        for (r, sum) in sums.iter().enumerate() {
            for (quarter, (sum, mask)) in sum.iter().zip(masks).enumerate() {
                let column = half * PANEL / 2 + quarter * 8;
                // SAFETY: `r < M` rows exist (asserted above), and the mask keeps reads and writes inside the `columns`
                // values of a row, which `Target::tile` asserted.
                unsafe {
                    // Wrapping: a quarter behind the last column has an empty mask, which touches nothing.
                    let at = self.at.wrapping_add(r * self.stride + column);
                    let value = match self.accumulate {
                        true => _mm256_add_ps(*sum, _mm256_maskload_ps(at, mask)),
                        false => *sum,
                    };
                    _mm256_maskstore_ps(at, mask, value);
                }
            }
        }
    }
}

/// One product: rows of activations, `stride` elements apart, times a panel of `inner * PANEL` elements. An
/// element is an f32, or a bf16 pair along the inner dimension (low half first).
#[derive(Clone, Copy)]
pub(super) struct Factor<'a, T> {
    pub(super) x: &'a [T],
    pub(super) stride: usize,
    pub(super) panel: &'a [T],
    pub(super) inner: usize,
}

impl<T> Factor<'_, T> {
    /// Asserts what tiles of `rows` rows read unchecked: that many rows of `inner` elements, and as many lines of the
    /// panel.
    fn check(&self, rows: usize, most: usize) {
        assert!((1..=most).contains(&rows), "a tile of {rows} rows");
        assert!(
            self.x.len() >= (rows - 1) * self.stride + self.inner && self.panel.len() >= self.inner * PANEL,
            "{rows} rows of {} elements, {} apart, in {}; a panel in {}",
            self.inner,
            self.stride,
            self.x.len(),
            self.panel.len()
        );
    }
}

/// Calls `$body::<M>` with M = `$rows`, so that every accumulator has a register.
#[cfg(target_arch = "x86_64")]
macro_rules! by_rows {
    ($rows:expr, $body:ident($($arg:expr),*)) => {
        match $rows {
            1 => $body::<1>($($arg),*),
            2 => $body::<2>($($arg),*),
            3 => $body::<3>($($arg),*),
            4 => $body::<4>($($arg),*),
            5 => $body::<5>($($arg),*),
            6 => $body::<6>($($arg),*),
            7 => $body::<7>($($arg),*),
            8 => $body::<8>($($arg),*),
            9 => $body::<9>($($arg),*),
            10 => $body::<10>($($arg),*),
            11 => $body::<11>($($arg),*),
            _ => $body::<12>($($arg),*),
        }
    };
}

/// `output[r][j] (+)= sum over i of x[r][i] * panel[i][j]` for the output's rows, 1 to [`ROWS`].
///
/// # Safety
/// The instructions of `isa` were detected.
pub(super) unsafe fn tile_f32(isa: Isa, factor: &Factor<'_, f32>, output: Output) {
    let rows = output.rows;
    factor.check(rows, ROWS);
    // SAFETY: each variant runs only where its instructions were detected, for rows that `Factor::check` asserted.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 | Isa::Avx512 => by_rows!(rows, f32_avx512(factor, output)),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => f32_avx2(factor, output),
            Isa::Portable => (0..rows).for_each(|r| f32_row(factor, r, output.skip_rows(r))),
        }
    }
}

/// What a tile prefetches on its way.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct Prefetch {
    /// Lines that will be read soon; any address will do.
    panel: *const u32,
    /// Two cache lines are prefetched for so many pair rows that the tile reads.
    every: usize,
}

#[cfg(target_arch = "x86_64")]
impl Prefetch {
    pub(super) const NOTHING: Self = Self { panel: std::ptr::null(), every: 1 };

    /// The lines of a panel that will be read soon, one line for `every` pair rows read.
    pub(super) fn new(panel: &[u32], every: usize) -> Self {
        Self { panel: panel.as_ptr(), every }
    }
}

/// As [`tile_f32`] in bf16 pairs.
///
/// # Safety
/// AVX-512 with bf16 was detected.
#[cfg(target_arch = "x86_64")]
pub(super) unsafe fn tile_bf16(factor: &Factor<'_, u32>, output: Output, prefetch: Prefetch) {
    let rows = output.rows;
    factor.check(rows, ROWS);
    // SAFETY: the instructions were detected; `Factor::check` asserted the rows and the panel.
    unsafe {
        match (output.columns <= PANEL / 2, prefetch.panel.is_null()) {
            (true, _) => by_rows!(rows, bf16_half_panel(factor, output)),
            (false, true) => by_rows!(rows, bf16_alone(factor, output)),
            (false, false) => by_rows!(rows, bf16_prefetching(factor, output, prefetch)),
        }
    }
}

/// One row of the product in plain Rust.
fn f32_row(factor: &Factor<'_, f32>, row: usize, output: Output) {
    let mut sums = [0f32; PANEL];
    let x = &factor.x[row * factor.stride..][..factor.inner];
    for (value, line) in x.iter().zip(factor.panel.as_chunks::<PANEL>().0) {
        for (sum, weight) in sums.iter_mut().zip(line) {
            *sum += value * weight;
        }
    }
    output.store_row(&sums);
}

/// Rows of a tile in AVX2: 6 x 2 accumulators, two registers of the panel and a broadcast fit the 16 registers.
#[cfg(target_arch = "x86_64")]
const ROWS_AVX2: usize = 6;

/// Half a panel after the other, each for at most [`ROWS_AVX2`] rows at a time.
///
/// # Safety
/// AVX2 and FMA were detected, and [`Factor::check`] asserted the output's rows.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn f32_avx2(factor: &Factor<'_, f32>, output: Output) {
    let halves = if output.columns <= PANEL / 2 { 1 } else { 2 };
    // Equal shares: 8 rows are 4 and 4, not 6 and 2.
    let blocks = output.rows.div_ceil(ROWS_AVX2);
    let edge = |n: usize| output.rows * n / blocks;
    for half in 0..halves {
        for (first, rows) in (0..blocks).map(|n| (edge(n), edge(n + 1) - edge(n))) {
            // SAFETY: the caller's contract.
            unsafe {
                match rows {
                    1 => half_avx2::<1>(factor, first, half, output),
                    2 => half_avx2::<2>(factor, first, half, output),
                    3 => half_avx2::<3>(factor, first, half, output),
                    4 => half_avx2::<4>(factor, first, half, output),
                    5 => half_avx2::<5>(factor, first, half, output),
                    _ => half_avx2::<ROWS_AVX2>(factor, first, half, output),
                }
            }
        }
    }
}

/// `M` rows from `first` on, times half a panel. Written with intrinsics: from plain Rust the compiler makes scalar
/// instructions here.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn half_avx2<const M: usize>(factor: &Factor<'_, f32>, first: usize, half: usize, output: Output) {
    // SAFETY: `first` is a row that the caller's `Factor::check` asserted, and a panel's line has two halves.
    let (x, panel) =
        unsafe { (factor.x.as_ptr().add(first * factor.stride), factor.panel.as_ptr().add(half * PANEL / 2)) };
    let mut sums = [[_mm256_setzero_ps(); 2]; M];
    for i in 0..factor.inner {
        // SAFETY: `i < inner` and `first + r` rows, for which `Factor::check` asserted x and the panel.
        unsafe {
            let left = _mm256_loadu_ps(panel.add(i * PANEL));
            let right = _mm256_loadu_ps(panel.add(i * PANEL + 8));
            for (r, sum) in sums.iter_mut().enumerate() {
                let value = _mm256_set1_ps(*x.add(r * factor.stride + i));
                sum[0] = _mm256_fmadd_ps(value, left, sum[0]);
                sum[1] = _mm256_fmadd_ps(value, right, sum[1]);
            }
        }
    }
    output.skip_rows(first).store_avx2(half, &sums);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn f32_avx512<const M: usize>(factor: &Factor<'_, f32>, output: Output) {
    let (x, stride, panel, inner) = (factor.x.as_ptr(), factor.stride, factor.panel.as_ptr(), factor.inner);
    let mut sums = [[_mm512_setzero_ps(); 2]; M];
    for i in 0..inner {
        // SAFETY: `i < inner` and `r < M` rows, for which the caller's `Factor::check` asserted x and the panel.
        unsafe {
            let left = _mm512_loadu_ps(panel.add(i * PANEL));
            let right = _mm512_loadu_ps(panel.add(i * PANEL + 16));
            for (r, sum) in sums.iter_mut().enumerate() {
                let value = _mm512_set1_ps(*x.add(r * stride + i));
                sum[0] = _mm512_fmadd_ps(value, left, sum[0]);
                sum[1] = _mm512_fmadd_ps(value, right, sum[1]);
            }
        }
    }
    output.store_avx512(&sums);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn bf16_alone<const M: usize>(factor: &Factor<'_, u32>, output: Output) {
    // SAFETY: the caller's contract.
    unsafe { bf16_loop::<M, false>(factor, output, Prefetch::NOTHING) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn bf16_prefetching<const M: usize>(factor: &Factor<'_, u32>, output: Output, prefetch: Prefetch) {
    // SAFETY: the caller's contract.
    unsafe { bf16_loop::<M, true>(factor, output, prefetch) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
#[inline]
unsafe fn bf16_loop<const M: usize, const PREFETCH: bool>(
    factor: &Factor<'_, u32>,
    output: Output,
    prefetch: Prefetch,
) {
    let (x, stride, panel, inner) = (factor.x.as_ptr(), factor.stride, factor.panel.as_ptr(), factor.inner);
    let pace = (1 << 16) / prefetch.every;
    let mut sums = [[_mm512_setzero_ps(); 2]; M];
    for p in 0..inner {
        if PREFETCH {
            // A prefetch never faults, and one of a line that is there already costs nothing.
            let line = prefetch.panel.wrapping_add(((p * pace) >> 16) * PANEL);
            _mm_prefetch::<_MM_HINT_T1>(line.cast());
            _mm_prefetch::<_MM_HINT_T1>(line.wrapping_add(16).cast());
        }
        // SAFETY: `p < inner` and `r < M` rows, for which the caller's `Factor::check` asserted x and the panel; the casts
        // reinterpret 512 bits as 32 bf16.
        unsafe {
            let left: __m512bh = std::mem::transmute(_mm512_loadu_si512(panel.add(p * PANEL).cast()));
            let right: __m512bh = std::mem::transmute(_mm512_loadu_si512(panel.add(p * PANEL + 16).cast()));
            for (r, sum) in sums.iter_mut().enumerate() {
                let value: __m512bh = std::mem::transmute(_mm512_set1_epi32(*x.add(r * stride + p) as i32));
                sum[0] = _mm512_dpbf16_ps(sum[0], value, left);
                sum[1] = _mm512_dpbf16_ps(sum[1], value, right);
            }
        }
    }
    output.store_avx512(&sums);
}

/// As [`bf16_loop`] where the second half of the panel is empty: low ranks.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn bf16_half_panel<const M: usize>(factor: &Factor<'_, u32>, output: Output) {
    let (x, stride, panel, inner) = (factor.x.as_ptr(), factor.stride, factor.panel.as_ptr(), factor.inner);
    let mut sums = [[_mm512_setzero_ps(); 2]; M];
    for p in 0..inner {
        // SAFETY: as in `bf16_loop`.
        unsafe {
            let left: __m512bh = std::mem::transmute(_mm512_loadu_si512(panel.add(p * PANEL).cast()));
            for (r, sum) in sums.iter_mut().enumerate() {
                let value: __m512bh = std::mem::transmute(_mm512_set1_epi32(*x.add(r * stride + p) as i32));
                sum[0] = _mm512_dpbf16_ps(sum[0], value, left);
            }
        }
    }
    // The mask of the second half is empty.
    output.store_avx512(&sums);
}
