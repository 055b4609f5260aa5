//! The inner tiles of the packed matrix product: the only place with `unsafe` vector code.
//!
//! A tile multiplies up to [`ROWS`] rows of activations with one panel of [`PANEL`] columns and keeps all sums in
//! registers. The order of summation is the same for every number of rows.

mod int8;

#[cfg(target_arch = "x86_64")]
pub(super) use int8::tile_bytes;
pub(super) use int8::{BLOCK, Bytes, tile_int8};

/// Columns of a panel: two 512-bit registers of f32.
pub(super) const PANEL: usize = 32;
/// Rows of a tile: 12 x 2 accumulators, two panel registers and a broadcast fit the 32 registers of AVX-512.
pub(super) const ROWS: usize = 12;

/// The instruction sets that the kernels distinguish, found once at run time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Isa {
    /// AVX-512 with bf16 dot products.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    /// AVX-512 foundation.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX2 with fused multiply-add.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Whatever the target's base line has.
    Portable,
}

impl Isa {
    /// What this machine can do.
    pub(super) fn detect() -> Self {
        static FOUND: std::sync::OnceLock<Isa> = std::sync::OnceLock::new();
        *FOUND.get_or_init(|| {
            #[cfg(target_arch = "x86_64")]
            {
                if is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512f") {
                    return Self::Avx512Bf16;
                }
                if is_x86_feature_detected!("avx512f") {
                    return Self::Avx512;
                }
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    return Self::Avx2;
                }
            }
            Self::Portable
        })
    }

    /// Whether dot products of bytes are native, too: on every machine so far that has those of bf16.
    pub(super) fn has_byte_dots(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return self == Self::Avx512Bf16 && is_x86_feature_detected!("avx512vnni");
        #[cfg(not(target_arch = "x86_64"))]
        return false;
    }

    /// Whether bf16 dot products are native.
    pub(super) fn has_bf16(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return self == Self::Avx512Bf16;
        #[cfg(not(target_arch = "x86_64"))]
        return false;
    }
}

/// Where a tile writes, and how.
#[derive(Clone, Copy)]
pub(super) struct Output {
    /// First element of the tile's first row.
    pub(super) at: *mut f32,
    /// Elements from one row to the next.
    pub(super) stride: usize,
    /// Columns to write, at most [`PANEL`].
    pub(super) columns: usize,
    /// Whether to add to what is there.
    pub(super) accumulate: bool,
}

/// One product: rows of activations, `stride` elements apart, times a panel of `inner * PANEL` elements. An
/// element is an f32, or a bf16 pair along the inner dimension (low half first).
#[derive(Clone, Copy)]
pub(super) struct Factor<T> {
    pub(super) x: *const T,
    pub(super) stride: usize,
    pub(super) panel: *const T,
    pub(super) inner: usize,
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

/// `output[r][j] (+)= sum over i of x[r][i] * panel[i][j]` for `rows` rows.
///
/// # Safety
/// The factor's `x` holds `rows` rows of `inner` values, `stride` apart; its `panel` holds `inner * PANEL` values;
/// `output` may be written for `rows` rows of `output.columns` values and no other thread touches those.
pub(super) unsafe fn tile_f32(isa: Isa, factor: &Factor<f32>, rows: usize, output: Output) {
    // SAFETY: the caller's contract is passed on; each variant runs only where its instructions were detected.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 | Isa::Avx512 => by_rows!(rows, f32_avx512(factor, output)),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                for r in 0..rows {
                    f32_avx2(factor, r, Output { at: output.at.add(r * output.stride), ..output });
                }
            }
            Isa::Portable => {
                for r in 0..rows {
                    f32_row::<false>(factor, r, Output { at: output.at.add(r * output.stride), ..output });
                }
            }
        }
    }
}

/// Writes the sums of a row.
#[inline(always)]
unsafe fn store_row(sums: &[f32; PANEL], output: Output) {
    for (j, sum) in sums.iter().enumerate().take(output.columns) {
        // SAFETY: `columns` values of this row may be written.
        unsafe {
            let at = output.at.add(j);
            *at = sum + if output.accumulate { *at } else { 0.0 };
        }
    }
}

/// What a tile calls into the cache on its way.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    /// Lines that will be read soon; any address will do.
    pub(super) panel: *const u32,
    /// Two lines are called in for so many pair rows that the tile reads.
    pub(super) slower: usize,
}

#[cfg(target_arch = "x86_64")]
impl Ahead {
    pub(super) const NOTHING: Self = Self { panel: std::ptr::null(), slower: 1 };
}

/// As [`tile_f32`] in bf16 pairs.
///
/// # Safety
/// As [`tile_f32`], counted in pairs; AVX-512 with bf16 was detected.
#[cfg(target_arch = "x86_64")]
pub(super) unsafe fn tile_bf16(factor: &Factor<u32>, rows: usize, output: Output, ahead: Ahead) {
    // SAFETY: the caller's contract is passed on.
    unsafe {
        match (output.columns <= PANEL / 2, ahead.panel.is_null()) {
            (true, _) => by_rows!(rows, bf16_narrow(factor, output)),
            (false, true) => by_rows!(rows, bf16_alone(factor, output)),
            (false, false) => by_rows!(rows, bf16_ahead(factor, output, ahead)),
        }
    }
}

/// `out[m][j] += sum over rows r of left[r][m] * right[r][j]`: `many` (at most 8) rows of the result, `columns` (at
/// most [`PANEL`]) columns.
///
/// # Safety
/// `left` holds `rows` rows of `many` values, `strides.0` apart; `right` holds `rows` rows of `columns` values,
/// `strides.1` apart; `output` may be written for `many` rows, and no other thread touches those.
pub(super) unsafe fn outer_product(
    isa: Isa,
    (left, right): (*const f32, *const f32),
    strides: (usize, usize),
    rows: usize,
    many: usize,
    output: Output,
) {
    #[cfg(target_arch = "x86_64")]
    if matches!(isa, Isa::Avx512Bf16 | Isa::Avx512) {
        // SAFETY: the caller's contract is passed on, the instructions were detected.
        unsafe {
            match many {
                1 => outer_avx512::<1>(left, right, strides, rows, output),
                2 => outer_avx512::<2>(left, right, strides, rows, output),
                3 => outer_avx512::<3>(left, right, strides, rows, output),
                4 => outer_avx512::<4>(left, right, strides, rows, output),
                5 => outer_avx512::<5>(left, right, strides, rows, output),
                6 => outer_avx512::<6>(left, right, strides, rows, output),
                7 => outer_avx512::<7>(left, right, strides, rows, output),
                _ => outer_avx512::<8>(left, right, strides, rows, output),
            }
        }
        return;
    }
    let _ = isa;
    for r in 0..rows {
        for m in 0..many {
            // SAFETY: inside the bounds that the caller promised.
            let (value, row, out) = unsafe {
                let row = std::slice::from_raw_parts(right.add(r * strides.1), output.columns);
                let out = std::slice::from_raw_parts_mut(output.at.add(m * output.stride), output.columns);
                (*left.add(r * strides.0 + m), row, out)
            };
            super::exp::add_scaled(out, row, value);
        }
    }
}

/// Rounds a row to bf16 (nearest, ties to even) in pairs; an odd last value is paired with zero.
pub(super) fn to_bf16_pairs(row: &[f32], pairs: &mut [u32]) {
    let bits = |v: f32| u32::from(half::bf16::from_f32(v).to_bits());
    #[cfg(target_arch = "x86_64")]
    if Isa::detect().has_bf16() {
        let whole = row.len() / 16;
        // SAFETY: AVX-512 with bf16 was detected; `whole * 16` values are read and `whole * 8` pairs written, and
        // `pairs` holds at least `row.len() / 2`.
        debug_assert!(pairs.len() * 2 >= row.len());
        unsafe { convert_avx512(row.as_ptr(), pairs.as_mut_ptr(), whole) };
        for (pair, two) in pairs[whole * 8..].iter_mut().zip(row[whole * 16..].chunks(2)) {
            *pair = bits(two[0]) | bits(two.get(1).copied().unwrap_or(0.0)) << 16;
        }
        return;
    }
    for (pair, two) in pairs.iter_mut().zip(row.chunks(2)) {
        *pair = bits(two[0]) | bits(two.get(1).copied().unwrap_or(0.0)) << 16;
    }
}

/// One row of the product in plain Rust; the compiler vectorises it for the features of the caller.
#[inline(always)]
unsafe fn f32_row<const FMA: bool>(factor: &Factor<f32>, row: usize, output: Output) {
    let mut sums = [0f32; PANEL];
    for i in 0..factor.inner {
        // SAFETY: inside the bounds that the caller promised.
        let (value, line) = unsafe {
            let line = &*factor.panel.add(i * PANEL).cast::<[f32; PANEL]>();
            (*factor.x.add(row * factor.stride + i), line)
        };
        for (sum, weight) in sums.iter_mut().zip(line) {
            *sum = if FMA { value.mul_add(*weight, *sum) } else { *sum + value * weight };
        }
    }
    // SAFETY: the caller's contract.
    unsafe { store_row(&sums, output) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn f32_avx2(factor: &Factor<f32>, row: usize, output: Output) {
    // SAFETY: the caller's contract.
    unsafe { f32_row::<true>(factor, row, output) }
}

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn f32_avx512<const M: usize>(factor: &Factor<f32>, output: Output) {
    let Factor { x, stride, panel, inner } = *factor;
    let mut sums = [[_mm512_setzero_ps(); 2]; M];
    for i in 0..inner {
        // SAFETY: `i < inner`, `r < M` rows, as the caller promised.
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
    // SAFETY: as above.
    unsafe { store_avx512(&sums, output) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn bf16_alone<const M: usize>(factor: &Factor<u32>, output: Output) {
    // SAFETY: the caller's contract.
    unsafe { bf16_loop::<M, false>(factor, output, Ahead::NOTHING) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn bf16_ahead<const M: usize>(factor: &Factor<u32>, output: Output, ahead: Ahead) {
    // SAFETY: the caller's contract.
    unsafe { bf16_loop::<M, true>(factor, output, ahead) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
#[inline]
unsafe fn bf16_loop<const M: usize, const PREFETCH: bool>(factor: &Factor<u32>, output: Output, ahead: Ahead) {
    let Factor { x, stride, panel, inner } = *factor;
    let pace = (1 << 16) / ahead.slower;
    let mut sums = [[_mm512_setzero_ps(); 2]; M];
    for p in 0..inner {
        if PREFETCH {
            // A prefetch never faults, and one of a line that is there already costs nothing.
            let line = ahead.panel.wrapping_add(((p * pace) >> 16) * PANEL);
            _mm_prefetch::<_MM_HINT_T1>(line.cast());
            _mm_prefetch::<_MM_HINT_T1>(line.wrapping_add(16).cast());
        }
        // SAFETY: `p < inner`, `r < M` rows, as the caller promised; the casts reinterpret 512 bits as 32 bf16.
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
    // SAFETY: as above.
    unsafe { store_avx512(&sums, output) }
}

/// As [`bf16_loop`] where the second half of the panel is empty: low ranks.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn bf16_narrow<const M: usize>(factor: &Factor<u32>, output: Output) {
    let Factor { x, stride, panel, inner } = *factor;
    let mut sums = [[_mm512_setzero_ps(); 2]; M];
    for p in 0..inner {
        // SAFETY: `p < inner`, `r < M` rows, as the caller promised; the casts reinterpret 512 bits as 32 bf16.
        unsafe {
            let left: __m512bh = std::mem::transmute(_mm512_loadu_si512(panel.add(p * PANEL).cast()));
            for (r, sum) in sums.iter_mut().enumerate() {
                let value: __m512bh = std::mem::transmute(_mm512_set1_epi32(*x.add(r * stride + p) as i32));
                sum[0] = _mm512_dpbf16_ps(sum[0], value, left);
            }
        }
    }
    // SAFETY: as above; the mask of the second half is empty.
    unsafe { store_avx512(&sums, output) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn outer_avx512<const M: usize>(
    left: *const f32,
    right: *const f32,
    strides: (usize, usize),
    rows: usize,
    output: Output,
) {
    let masks = output.masks();
    let mut sums = [[_mm512_setzero_ps(); 2]; M];
    for r in 0..rows {
        // SAFETY: the masks keep reads of `right` inside its `columns` values; `left` has M values a row.
        unsafe {
            let row = right.add(r * strides.1);
            let values = [_mm512_maskz_loadu_ps(masks[0], row), _mm512_maskz_loadu_ps(masks[1], row.wrapping_add(16))];
            // The next strip of the row; a prefetch never faults.
            _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(PANEL).cast());
            _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(PANEL + 16).cast());
            for (m, sum) in sums.iter_mut().enumerate() {
                let value = _mm512_set1_ps(*left.add(r * strides.0 + m));
                sum[0] = _mm512_fmadd_ps(value, values[0], sum[0]);
                sum[1] = _mm512_fmadd_ps(value, values[1], sum[1]);
            }
        }
    }
    // SAFETY: as above.
    unsafe { store_avx512(&sums, output) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn store_avx512<const M: usize>(sums: &[[__m512; 2]; M], output: Output) {
    for (r, sum) in sums.iter().enumerate() {
        for (half, mask) in output.masks().into_iter().enumerate() {
            // SAFETY: the mask keeps reads and writes inside the `columns` values of this row.
            unsafe {
                // Wrapping: the second half of a narrow panel begins beyond the row, where its empty mask touches nothing.
                let at = output.at.wrapping_add(r * output.stride + half * 16);
                let value = match output.accumulate {
                    true => _mm512_add_ps(sum[half], _mm512_maskz_loadu_ps(mask, at)),
                    false => sum[half],
                };
                _mm512_mask_storeu_ps(at, mask, value);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Output {
    /// Which lanes of the panel's two registers are written.
    fn masks(&self) -> [__mmask16; 2] {
        [mask(self.columns.min(16)), mask(self.columns.saturating_sub(16).min(16))]
    }
}

#[cfg(target_arch = "x86_64")]
fn mask(columns: usize) -> __mmask16 {
    ((1u32 << columns) - 1) as __mmask16
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn convert_avx512(row: *const f32, pairs: *mut u32, blocks: usize) {
    for b in 0..blocks {
        // SAFETY: `blocks * 16` values are readable and `blocks * 8` pairs writable.
        unsafe {
            let narrow: __m256i = std::mem::transmute(_mm512_cvtneps_pbh(_mm512_loadu_ps(row.add(b * 16))));
            _mm256_storeu_si256(pairs.add(b * 8).cast(), narrow);
        }
    }
}

/// Defines `fn name(args)` that runs the `#[inline(always)]` function `body` compiled for the best instruction set found.
macro_rules! vectorised {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? => $body:path) => {
        $(#[$doc])*
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f")]
                fn wide($($arg: $ty),*) $(-> $ret)? { $body($($arg),*) }
                #[target_feature(enable = "avx2,fma")]
                fn middle($($arg: $ty),*) $(-> $ret)? { $body($($arg),*) }
                match $crate::kernels::tile::Isa::detect() {
                    // SAFETY: the instructions were detected.
                    $crate::kernels::tile::Isa::Avx512Bf16 | $crate::kernels::tile::Isa::Avx512 => return unsafe { wide($($arg),*) },
                    // SAFETY: as above.
                    $crate::kernels::tile::Isa::Avx2 => return unsafe { middle($($arg),*) },
                    $crate::kernels::tile::Isa::Portable => {}
                }
            }
            $body($($arg),*)
        }
    };
}
pub(super) use vectorised;
