//! The tile of 8-bit weights: few rows, for streams that wait for memory alone.

use super::{Isa, Output, PANEL, store_row};

/// Values along the inner dimension that share a scale, in 8-bit weights.
pub(in crate::kernels) const BLOCK: usize = 128;

/// As [`tile_f32`](super::tile_f32) with 8-bit weights: `panel` holds the weights, and a scale a column for each block of them.
///
/// # Safety
/// As [`tile_f32`](super::tile_f32) for rows and output; the panel's slices hold `inner` rows and their blocks' scales.
pub(in crate::kernels) unsafe fn tile_int8(
    isa: Isa,
    (x, stride): (*const f32, usize),
    panel: (&[i8], &[f32]),
    inner: usize,
    rows: usize,
    output: Output,
) {
    for first in (0..rows).step_by(MOST) {
        // SAFETY: the caller's contract is passed on.
        unsafe {
            let x = x.add(first * stride);
            let output = Output { at: output.at.add(first * output.stride), ..output };
            match rows - first {
                1 => few::<1>(isa, (x, stride), panel, inner, output),
                2 => few::<2>(isa, (x, stride), panel, inner, output),
                3 => few::<3>(isa, (x, stride), panel, inner, output),
                _ => few::<MOST>(isa, (x, stride), panel, inner, output),
            }
        }
    }
}

/// Rows that are multiplied while a weight is in a register.
const MOST: usize = 4;

unsafe fn few<const M: usize>(
    isa: Isa,
    (x, stride): (*const f32, usize),
    panel: (&[i8], &[f32]),
    inner: usize,
    output: Output,
) {
    // SAFETY: the caller's contract is passed on; each variant runs only where its instructions were detected.
    unsafe {
        let x: [&[f32]; M] = std::array::from_fn(|r| std::slice::from_raw_parts(x.add(r * stride), inner));
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 | Isa::Avx512 => int8_avx512(x, panel, output),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => int8_avx2(x, panel, output),
            Isa::Portable => int8_rows::<M, false>(x, panel, output),
        }
    }
}

/// Some rows of the product with 8-bit weights in plain Rust; the compiler vectorises it for the features of the caller.
#[inline(always)]
unsafe fn int8_rows<const M: usize, const FMA: bool>(
    x: [&[f32]; M],
    (values, scales): (&[i8], &[f32]),
    output: Output,
) {
    let mut sums = [[0f32; PANEL]; M];
    let (lines, scales) = (values.as_chunks::<PANEL>().0, scales.as_chunks::<PANEL>().0);
    let inner = x[0].len();
    for ((from, lines), scales) in (0..inner).step_by(BLOCK).zip(lines.chunks(BLOCK)).zip(scales) {
        let count = lines.len().min(inner - from);
        let x: [&[f32]; M] = std::array::from_fn(|r| &x[r][from..from + count]);
        let mut block = [[0f32; PANEL]; M];
        for (i, line) in lines[..count].iter().enumerate() {
            let weights = line.map(f32::from);
            for (block, x) in block.iter_mut().zip(&x) {
                for (sum, weight) in block.iter_mut().zip(weights) {
                    *sum = if FMA { x[i].mul_add(weight, *sum) } else { *sum + x[i] * weight };
                }
            }
        }
        for (sums, block) in sums.iter_mut().zip(block) {
            for ((sum, block), scale) in sums.iter_mut().zip(block).zip(scales) {
                *sum += block * scale;
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        // SAFETY: the caller's contract.
        unsafe { store_row(sums, Output { at: output.at.add(r * output.stride), ..output }) };
    }
}

/// The compiler does not find the widening of 16 bytes to 16 floats on its own once several rows share it.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn int8_avx512<const M: usize>(x: [&[f32]; M], (values, scales): (&[i8], &[f32]), output: Output) {
    use std::arch::x86_64::*;
    let mut sums = [[_mm512_setzero_ps(); 2]; M];
    let inner = x[0].len();
    assert!(values.len() >= inner * PANEL && scales.len() >= inner.div_ceil(BLOCK) * PANEL);
    for (block, from) in (0..inner).step_by(BLOCK).enumerate() {
        let mut parts = [[_mm512_setzero_ps(); 2]; M];
        for i in from..inner.min(from + BLOCK) {
            // SAFETY: `i < inner`, and the panel holds `inner` rows of PANEL = 32 bytes (checked above).
            unsafe {
                let line = values.as_ptr().add(i * PANEL);
                let left = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(line.cast())));
                let right = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(line.add(16).cast())));
                for (x, part) in x.iter().zip(&mut parts) {
                    let value = _mm512_set1_ps(*x.get_unchecked(i));
                    part[0] = _mm512_fmadd_ps(value, left, part[0]);
                    part[1] = _mm512_fmadd_ps(value, right, part[1]);
                }
            }
        }
        // SAFETY: a block has PANEL = 32 scales (checked above).
        let scales = unsafe {
            let scales = scales.as_ptr().add(block * PANEL);
            [_mm512_loadu_ps(scales), _mm512_loadu_ps(scales.add(16))]
        };
        for (sum, part) in sums.iter_mut().zip(parts) {
            sum[0] = _mm512_fmadd_ps(part[0], scales[0], sum[0]);
            sum[1] = _mm512_fmadd_ps(part[1], scales[1], sum[1]);
        }
    }
    // SAFETY: the caller's contract.
    unsafe { super::store_avx512(&sums, output) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn int8_avx2<const M: usize>(x: [&[f32]; M], panel: (&[i8], &[f32]), output: Output) {
    // SAFETY: the caller's contract.
    unsafe { int8_rows::<M, true>(x, panel, output) }
}
