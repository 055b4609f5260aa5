//! The tile of 8-bit weights: one row at a time, for the stream that waits for memory alone.

use super::{Isa, Output, PANEL, store_row};

/// Values along the inner dimension that share a scale, in 8-bit weights.
pub(in crate::kernels) const BLOCK: usize = 64;

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
    for r in 0..rows {
        // SAFETY: the caller's contract is passed on; each variant runs only where its instructions were detected.
        unsafe {
            let x = std::slice::from_raw_parts(x.add(r * stride), inner);
            let output = Output { at: output.at.add(r * output.stride), ..output };
            match isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512Bf16 | Isa::Avx512 => int8_avx512(x, panel, output),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => int8_avx2(x, panel, output),
                Isa::Portable => int8_row::<false>(x, panel, output),
            }
        }
    }
}

/// One row of the product with 8-bit weights in plain Rust; the compiler vectorises it for the features of the caller.
#[inline(always)]
unsafe fn int8_row<const FMA: bool>(x: &[f32], (values, scales): (&[i8], &[f32]), output: Output) {
    let mut sums = [0f32; PANEL];
    let (lines, scales) = (values.as_chunks::<PANEL>().0, scales.as_chunks::<PANEL>().0);
    for ((x, lines), scales) in x.chunks(BLOCK).zip(lines.chunks(BLOCK)).zip(scales) {
        let mut block = [0f32; PANEL];
        for (x, line) in x.iter().zip(lines) {
            for (sum, weight) in block.iter_mut().zip(line) {
                let weight = f32::from(*weight);
                *sum = if FMA { x.mul_add(weight, *sum) } else { *sum + x * weight };
            }
        }
        for ((sum, block), scale) in sums.iter_mut().zip(block).zip(scales) {
            *sum += block * scale;
        }
    }
    // SAFETY: the caller's contract.
    unsafe { store_row(&sums, output) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn int8_avx512(x: &[f32], panel: (&[i8], &[f32]), output: Output) {
    // SAFETY: the caller's contract.
    unsafe { int8_row::<true>(x, panel, output) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn int8_avx2(x: &[f32], panel: (&[i8], &[f32]), output: Output) {
    // SAFETY: the caller's contract.
    unsafe { int8_row::<true>(x, panel, output) }
}
