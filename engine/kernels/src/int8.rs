//! The tile of 8-bit weights: few rows, for streams that wait for memory alone.
//!
//! Where the processor multiplies bytes (AVX512-VNNI), activations are held in bytes as well, two a value: 15 bits
//! relative to the largest value of a block, more than bf16 keeps. A block's sum is then exact in 32 bits. On other
//! processors weights are widened to single precision.

use super::isa::Isa;
use super::tile::{Output, PANEL};

/// Values along the inner dimension that share a scale, in 8-bit weights.
pub(super) const BLOCK: usize = 128;

/// A panel of 8-bit weights, from a line on that begins a block.
#[derive(Clone, Copy)]
pub(super) struct Int8Panel<'a> {
    /// Lines of [`PANEL`] weights; with `sums`, groups of four lines, the four weights of a column side by side.
    pub(super) weights: &'a [i8],
    /// For each block a scale a column.
    pub(super) scales: &'a [f32],
    /// For each scale the sum of its weights, where products are formed in bytes.
    pub(super) sums: Option<&'a [i16]>,
}

/// As [`tile_f32`](super::tile::tile_f32) with 8-bit weights, of which the first `inner` lines are multiplied.
///
/// # Safety
/// The instructions of `isa` were detected.
pub(super) unsafe fn tile_int8(
    isa: Isa,
    (x, stride): (&[f32], usize),
    panel: Int8Panel<'_>,
    inner: usize,
    output: Output,
) {
    let rows = output.rows();
    assert!(
        rows > 0 && x.len() >= (rows - 1) * stride + inner,
        "{rows} rows of {inner}, {stride} apart, in {}",
        x.len()
    );
    assert!(
        panel.weights.len() >= inner * PANEL && panel.scales.len() >= inner.div_ceil(BLOCK) * PANEL,
        "{inner} lines in a panel of {} weights and {} scales",
        panel.weights.len(),
        panel.scales.len()
    );
    for first in (0..rows).step_by(MOST) {
        let (x, output) = ((&x[first * stride..], stride), output.skip_rows(first));
        // SAFETY: the instructions were detected; rows and panel were asserted above.
        unsafe {
            match rows - first {
                1 => few::<1>(isa, x, panel, inner, output),
                2 => few::<2>(isa, x, panel, inner, output),
                3 => few::<3>(isa, x, panel, inner, output),
                _ => few::<MOST>(isa, x, panel, inner, output),
            }
        }
    }
}

/// Bytes of weights that are prefetched into the nearest cache ahead of their use.
#[cfg(target_arch = "x86_64")]
const AHEAD: usize = 8192;

/// Rows that are multiplied while a weight is in a register.
const MOST: usize = 4;

unsafe fn few<const M: usize>(
    isa: Isa,
    (x, stride): (&[f32], usize),
    panel: Int8Panel<'_>,
    inner: usize,
    output: Output,
) {
    let x: [&[f32]; M] = std::array::from_fn(|r| &x[r * stride..][..inner]);
    // SAFETY: each variant runs only where its instructions were detected; `tile_int8` asserted the panel.
    unsafe {
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
fn int8_rows<const M: usize, const FMA: bool>(x: [&[f32]; M], panel: Int8Panel<'_>, output: Output) {
    let mut sums = [[0f32; PANEL]; M];
    let (lines, scales) = (panel.weights.as_chunks::<PANEL>().0, panel.scales.as_chunks::<PANEL>().0);
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
        output.skip_rows(r).store_row(sums);
    }
}

/// The compiler does not find the widening of 16 bytes to 16 floats on its own once several rows share it.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn int8_avx512<const M: usize>(x: [&[f32]; M], panel: Int8Panel<'_>, output: Output) {
    use std::arch::x86_64::*;
    let Int8Panel { weights, scales, .. } = panel;
    let mut sums = [[_mm512_setzero_ps(); 2]; M];
    let inner = x[0].len();
    for (block, from) in (0..inner).step_by(BLOCK).enumerate() {
        let mut parts = [[_mm512_setzero_ps(); 2]; M];
        for i in from..inner.min(from + BLOCK) {
            // SAFETY: `i < inner`, the length of each row of x; `tile_int8` asserted `inner` lines of PANEL = 32 bytes.
            unsafe {
                let line = weights.as_ptr().add(i * PANEL);
                let left = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(line.cast())));
                let right = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(line.add(16).cast())));
                for (x, part) in x.iter().zip(&mut parts) {
                    let value = _mm512_set1_ps(*x.get_unchecked(i));
                    part[0] = _mm512_fmadd_ps(value, left, part[0]);
                    part[1] = _mm512_fmadd_ps(value, right, part[1]);
                }
            }
        }
        // SAFETY: a block has PANEL = 32 scales, as `tile_int8` asserted.
        let scales = unsafe {
            let scales = scales.as_ptr().add(block * PANEL);
            [_mm512_loadu_ps(scales), _mm512_loadu_ps(scales.add(16))]
        };
        for (sum, part) in sums.iter_mut().zip(parts) {
            sum[0] = _mm512_fmadd_ps(part[0], scales[0], sum[0]);
            sum[1] = _mm512_fmadd_ps(part[1], scales[1], sum[1]);
        }
    }
    output.store_avx512(&sums);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn int8_avx2<const M: usize>(x: [&[f32]; M], panel: Int8Panel<'_>, output: Output) {
    int8_rows::<M, true>(x, panel, output);
}

/// Rows of activations in bytes: a value is `scale · (128 · high + low - MIDDLE)`, the scale that of its block.
#[derive(Debug)]
pub(super) struct Bytes {
    high: Vec<u8>,
    low: Vec<u8>,
    /// One a block, row by row.
    scales: Vec<f32>,
    /// Bytes of a row: whole fours.
    width: usize,
    blocks: usize,
}

/// What stands for 0.
const MIDDLE: i32 = 1 << 14;

impl Bytes {
    /// From rows of `width` values.
    pub(super) fn new<'a>(rows: impl ExactSizeIterator<Item = &'a [f32]>, width: usize) -> Self {
        let (count, wide, blocks) = (rows.len(), width.next_multiple_of(4), width.div_ceil(BLOCK));
        let mut bytes = Self {
            // Padding meets weights of zero.
            high: vec![0; count * wide],
            low: vec![0; count * wide],
            scales: vec![0.0; count * blocks],
            width: wide,
            blocks,
        };
        for (r, row) in rows.enumerate() {
            let own = r * wide..r * wide + width;
            let (high, low) = (bytes.high[own.clone()].chunks_mut(BLOCK), bytes.low[own].chunks_mut(BLOCK));
            let scales = &mut bytes.scales[r * blocks..];
            for (((x, high), low), scale) in row.chunks(BLOCK).zip(high).zip(low).zip(scales) {
                *scale = in_bytes(x, high, low);
            }
        }
        bytes
    }
}

/// Writes a block in bytes and gives its scale; not a number where a value is not finite, so that the products are not
/// either.
fn in_bytes(x: &[f32], high: &mut [u8], low: &mut [u8]) -> f32 {
    /// Added to a number below 2^22, this leaves its nearest whole number in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    let largest = x.iter().fold(0f32, |largest, v| largest.max(v.abs()));
    let finite = x.iter().all(|v| v.is_finite());
    let factor = if largest > 0.0 && finite { (MIDDLE - 1) as f32 / largest } else { 0.0 };
    for ((v, high), low) in x.iter().zip(high).zip(low) {
        let whole = (v * factor + ROUND).to_bits() as i32 - ROUND.to_bits() as i32 + MIDDLE;
        (*high, *low) = ((whole >> 7) as u8, (whole & 127) as u8);
    }
    if finite { largest / (MIDDLE - 1) as f32 } else { f32::NAN }
}

/// Rows from `row` on, from value `from` on (which begins a block), times a panel whose weights lie in groups of four.
///
/// # Safety
/// AVX512-VNNI was detected.
#[cfg(target_arch = "x86_64")]
pub(super) unsafe fn tile_bytes(
    (bytes, row, from): (&Bytes, usize, usize),
    panel: (&[i8], &[f32], &[i16]),
    inner: usize,
    output: Output,
) {
    let rows = output.rows();
    for first in (0..rows).step_by(MOST) {
        let (x, output) = ((bytes, row + first, from), output.skip_rows(first));
        // SAFETY: the instructions were detected.
        unsafe {
            match rows - first {
                1 => bytes_avx512::<1>(x, panel, inner, output),
                2 => bytes_avx512::<2>(x, panel, inner, output),
                3 => bytes_avx512::<3>(x, panel, inner, output),
                _ => bytes_avx512::<MOST>(x, panel, inner, output),
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn bytes_avx512<const M: usize>(
    (bytes, row, from): (&Bytes, usize, usize),
    (weights, scales, sums_of_weights): (&[i8], &[f32], &[i16]),
    inner: usize,
    output: Output,
) {
    use std::arch::x86_64::*;
    let (blocks, fours) = (inner.div_ceil(BLOCK), inner.div_ceil(4));
    assert!(
        weights.len() >= fours * 4 * PANEL && scales.len().min(sums_of_weights.len()) >= blocks * PANEL,
        "{inner} lines in a panel of {} weights and {} scales",
        weights.len(),
        scales.len()
    );
    let own = |r: usize| (row + r) * bytes.width + from..(row + r + 1) * bytes.width;
    let high: [&[u8]; M] = std::array::from_fn(|r| &bytes.high[own(r)]);
    let low: [&[u8]; M] = std::array::from_fn(|r| &bytes.low[own(r)]);
    assert!(high.iter().chain(&low).all(|row| row.len() >= fours * 4), "rows of fewer than {inner} bytes");
    let mut sums = [[_mm512_setzero_ps(); 2]; M];
    for block in 0..blocks {
        let mut parts = [[_mm512_setzero_si512(); 4]; M];
        for four in block * BLOCK / 4..fours.min((block + 1) * BLOCK / 4) {
            // SAFETY: `four < fours`: the panel holds as many fours of 32 columns, each row as many fours (asserted above).
            unsafe {
                let line = weights.as_ptr().add(four * 4 * PANEL);
                // A hint may point behind the end. The processor's own prefetcher stops at each page of 4 KiB.
                _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(AHEAD));
                _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(AHEAD + 64));
                let (left, right) = (_mm512_loadu_si512(line.cast()), _mm512_loadu_si512(line.add(64).cast()));
                for ((high, low), part) in high.iter().zip(&low).zip(&mut parts) {
                    let high = _mm512_set1_epi32(high.as_ptr().add(four * 4).cast::<i32>().read_unaligned());
                    let low = _mm512_set1_epi32(low.as_ptr().add(four * 4).cast::<i32>().read_unaligned());
                    part[0] = _mm512_dpbusd_epi32(part[0], high, left);
                    part[1] = _mm512_dpbusd_epi32(part[1], high, right);
                    part[2] = _mm512_dpbusd_epi32(part[2], low, left);
                    part[3] = _mm512_dpbusd_epi32(part[3], low, right);
                }
            }
        }
        for half in 0..2 {
            // SAFETY: a block has PANEL = 32 scales and sums (asserted above).
            let (scale, middle) = unsafe {
                let at = block * PANEL + half * 16;
                let sums = _mm512_cvtepi16_epi32(_mm256_loadu_si256(sums_of_weights.as_ptr().add(at).cast()));
                (_mm512_loadu_ps(scales.as_ptr().add(at)), _mm512_slli_epi32::<14>(sums))
            };
            for (r, (sum, part)) in sums.iter_mut().zip(&parts).enumerate() {
                // At most 128 · 127 · 16,383 in size: it fits.
                let whole = _mm512_add_epi32(_mm512_slli_epi32::<7>(part[half]), part[2 + half]);
                let exact = _mm512_cvtepi32_ps(_mm512_sub_epi32(whole, middle));
                let own = bytes.scales[(row + r) * bytes.blocks + from / BLOCK + block];
                sum[half] = _mm512_fmadd_ps(exact, _mm512_mul_ps(_mm512_set1_ps(own), scale), sum[half]);
            }
        }
    }
    output.store_avx512(&sums);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_comes_back_from_its_bytes() {
        let row: Vec<f32> = (0..301).map(|i| ((i * 37) % 101) as f32 / 7.0 - 6.0).collect();
        let bytes = Bytes::new([row.as_slice()].into_iter(), row.len());
        for (i, v) in row.iter().enumerate() {
            let scale = bytes.scales[i / BLOCK];
            let whole = (i32::from(bytes.high[i]) << 7) + i32::from(bytes.low[i]) - MIDDLE;
            assert!((whole as f32 * scale - v).abs() <= 0.51 * scale, "{i}: {v}");
        }
        let zeros = Bytes::new([[0f32; 8].as_slice()].into_iter(), 8);
        assert!(zeros.scales[0] == 0.0 && zeros.high.iter().all(|h| *h == 128));
        let broken = Bytes::new([[1f32, f32::NAN, 2.0].as_slice()].into_iter(), 3);
        assert!(broken.scales[0].is_nan(), "a value that is not finite stays so");
    }
}
