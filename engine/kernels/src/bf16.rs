//! Values in bf16, in pairs along the inner dimension of a product: the first one in the low half of a word.

use super::isa::Isa;

fn bits(value: f32) -> u32 {
    u32::from(half::bf16::from_f32(value).to_bits())
}

/// Two values rounded to bf16 (nearest, ties to even), the first one in the low half.
pub(super) fn bf16_pair(first: f32, second: f32) -> u32 {
    bits(first) | bits(second) << 16
}

/// Rounds a row to bf16 (nearest, ties to even) in pairs; an odd last value is paired with zero.
pub(super) fn to_bf16_pairs(row: &[f32], pairs: &mut [u32]) {
    assert!(pairs.len() >= row.len().div_ceil(2), "{} values do not fit {} pairs", row.len(), pairs.len());
    let mut done = 0;
    #[cfg(target_arch = "x86_64")]
    if Isa::detect().has_bf16() {
        done = row.len() / 16;
        // SAFETY: AVX-512 with bf16 was detected. `done * 16` values are read, at most the row's, and `done * 8` pairs
        // written, at most half as many, for which the assertion above leaves room.
        unsafe { convert_avx512(row.as_ptr(), pairs.as_mut_ptr(), done) };
    }
    for (pair, two) in pairs[done * 8..].iter_mut().zip(row[done * 16..].chunks(2)) {
        *pair = bf16_pair(two[0], two.get(1).copied().unwrap_or(0.0));
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn convert_avx512(row: *const f32, pairs: *mut u32, blocks: usize) {
    use std::arch::x86_64::*;
    for b in 0..blocks {
        // SAFETY: the caller promises `blocks * 16` readable values and `blocks * 8` writable pairs.
        unsafe {
            let rounded: __m256i = std::mem::transmute(_mm512_cvtneps_pbh(_mm512_loadu_ps(row.add(b * 16))));
            _mm256_storeu_si256(pairs.add(b * 8).cast(), rounded);
        }
    }
}
