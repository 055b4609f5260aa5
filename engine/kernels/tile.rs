//! The inner tiles of the packed matrix product: the only place with `unsafe` vector code.
//!
//! A tile multiplies up to [`ROWS`] rows of activations with one panel of [`PANEL`] columns and keeps all sums in
//! registers. The order of summation along the inner dimension is the same for every number of rows.

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
    /// Factor of the product.
    pub(super) scale: f32,
    /// Whether to add to what is there.
    pub(super) accumulate: bool,
}

/// `output[r][j] (+)= scale * sum_i x[r][i] * panel[i][j]` for `rows` rows.
///
/// # Safety
/// `x` holds `rows` rows of `inner` values, `stride` apart; `panel` holds `inner * PANEL` values; `output` may be
/// written for `rows` rows of `output.columns` values and no other thread touches those.
pub(super) unsafe fn tile_f32(
    isa: Isa,
    x: *const f32,
    stride: usize,
    rows: usize,
    panel: *const f32,
    inner: usize,
    output: Output,
) {
    macro_rules! by_rows {
        ($body:ident) => {
            match rows {
                1 => $body::<1>(x, stride, panel, inner, output),
                2 => $body::<2>(x, stride, panel, inner, output),
                3 => $body::<3>(x, stride, panel, inner, output),
                4 => $body::<4>(x, stride, panel, inner, output),
                5 => $body::<5>(x, stride, panel, inner, output),
                6 => $body::<6>(x, stride, panel, inner, output),
                7 => $body::<7>(x, stride, panel, inner, output),
                8 => $body::<8>(x, stride, panel, inner, output),
                9 => $body::<9>(x, stride, panel, inner, output),
                10 => $body::<10>(x, stride, panel, inner, output),
                11 => $body::<11>(x, stride, panel, inner, output),
                _ => $body::<12>(x, stride, panel, inner, output),
            }
        };
    }
    // SAFETY: the caller's contract is passed on; each variant runs only where its instructions were detected.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 | Isa::Avx512 => by_rows!(f32_avx512),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                for r in 0..rows {
                    let row = Output { at: output.at.add(r * output.stride), ..output };
                    f32_avx2(x.add(r * stride), panel, inner, row);
                }
            }
            Isa::Portable => {
                for r in 0..rows {
                    let row = Output { at: output.at.add(r * output.stride), ..output };
                    f32_row::<false>(x.add(r * stride), panel, inner, row);
                }
            }
        }
    }
}

/// As [`tile_f32`] with `x` and `panel` in bf16 pairs along the inner dimension (`pairs` of them, low half first).
///
/// # Safety
/// As [`tile_f32`], counted in pairs; AVX-512 with bf16 was detected.
#[cfg(target_arch = "x86_64")]
pub(super) unsafe fn tile_bf16(
    x: *const u32,
    stride: usize,
    rows: usize,
    panel: *const u32,
    pairs: usize,
    output: Output,
) {
    // SAFETY: the caller's contract is passed on.
    unsafe {
        match rows {
            1 => bf16_avx512::<1>(x, stride, panel, pairs, output),
            2 => bf16_avx512::<2>(x, stride, panel, pairs, output),
            3 => bf16_avx512::<3>(x, stride, panel, pairs, output),
            4 => bf16_avx512::<4>(x, stride, panel, pairs, output),
            5 => bf16_avx512::<5>(x, stride, panel, pairs, output),
            6 => bf16_avx512::<6>(x, stride, panel, pairs, output),
            7 => bf16_avx512::<7>(x, stride, panel, pairs, output),
            8 => bf16_avx512::<8>(x, stride, panel, pairs, output),
            9 => bf16_avx512::<9>(x, stride, panel, pairs, output),
            10 => bf16_avx512::<10>(x, stride, panel, pairs, output),
            11 => bf16_avx512::<11>(x, stride, panel, pairs, output),
            _ => bf16_avx512::<12>(x, stride, panel, pairs, output),
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
unsafe fn f32_row<const FMA: bool>(x: *const f32, panel: *const f32, inner: usize, output: Output) {
    let mut sums = [0f32; PANEL];
    for i in 0..inner {
        // SAFETY: inside the bounds that the caller promised.
        let (value, line) = unsafe { (*x.add(i), &*panel.add(i * PANEL).cast::<[f32; PANEL]>()) };
        for (sum, weight) in sums.iter_mut().zip(line) {
            *sum = if FMA { value.mul_add(*weight, *sum) } else { *sum + value * weight };
        }
    }
    for (j, sum) in sums.iter().enumerate().take(output.columns) {
        // SAFETY: `columns` values of this row may be written.
        unsafe {
            let at = output.at.add(j);
            *at = sum * output.scale + if output.accumulate { *at } else { 0.0 };
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn f32_avx2(x: *const f32, panel: *const f32, inner: usize, output: Output) {
    // SAFETY: the caller's contract.
    unsafe { f32_row::<true>(x, panel, inner, output) }
}

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn f32_avx512<const M: usize>(x: *const f32, stride: usize, panel: *const f32, inner: usize, output: Output) {
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
unsafe fn bf16_avx512<const M: usize>(x: *const u32, stride: usize, panel: *const u32, pairs: usize, output: Output) {
    let mut sums = [[_mm512_setzero_ps(); 2]; M];
    for p in 0..pairs {
        // SAFETY: `p < pairs`, `r < M` rows, as the caller promised; the casts reinterpret 512 bits as 32 bf16.
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

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn store_avx512<const M: usize>(sums: &[[__m512; 2]; M], output: Output) {
    let scale = _mm512_set1_ps(output.scale);
    let masks: [__mmask16; 2] = [mask(output.columns.min(16)), mask(output.columns.saturating_sub(16).min(16))];
    for (r, sum) in sums.iter().enumerate() {
        for (half, mask) in masks.into_iter().enumerate() {
            // SAFETY: the mask keeps reads and writes inside the `columns` values of this row.
            unsafe {
                // Wrapping: the second half of a narrow panel begins beyond the row, where its empty mask touches nothing.
                let at = output.at.wrapping_add(r * output.stride + half * 16);
                let mut value = _mm512_mul_ps(sum[half], scale);
                if output.accumulate {
                    value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, at));
                }
                _mm512_mask_storeu_ps(at, mask, value);
            }
        }
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
