//! The packed matrix product against this machine's peak and against candle's own f32 product, at the shapes of
//! SmolLM2-135M's feed-forward block: 1 row (one stream), 8, 64 (many streams), 1,024 (training). Throughput is in
//! operations: 2 x rows x inner x outer. The peak is the rate of fused multiply-adds and of bf16 dot products with every
//! operand in a register, on all threads.

use candle_core::{Device, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use querywright_kernels::{PackedMatrix, Precision};

fn products(c: &mut Criterion) {
    let (inner, outer) = (576, 1536);
    let mut group = c.benchmark_group("product 576 x 1536");
    let noise = |n: usize| (0..n).map(|i| ((i * 7919) % 1000) as f32 / 500.0 - 1.0).collect::<Vec<f32>>();
    let weight = noise(inner * outer);
    for rows in [1, 8, 64, 1024] {
        group.throughput(Throughput::Elements((2 * rows * inner * outer) as u64));
        let x = noise(rows * inner);
        for (name, precision) in [("f32", Precision::F32), ("bf16", Precision::Auto), ("8 bit", Precision::Int8)] {
            let packed = PackedMatrix::pack(inner, outer, precision, |i, j| weight[i * outer + j]);
            let mut out = vec![0.0; rows * outer];
            group.bench_function(BenchmarkId::new(name, rows), |b| b.iter(|| packed.multiply(&x, &mut out)));
        }
        let (a, w) = match (
            Tensor::from_vec(x.clone(), (rows, inner), &Device::Cpu),
            Tensor::from_vec(weight.clone(), (inner, outer), &Device::Cpu),
        ) {
            (Ok(a), Ok(w)) => (a, w),
            _ => continue,
        };
        group.bench_function(BenchmarkId::new("candle f32", rows), |b| b.iter(|| a.matmul(&w)));
    }
    group.finish();
}

#[cfg(target_arch = "x86_64")]
mod peak {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    use criterion::{Criterion, Throughput};

    /// Sums in registers, as many as the product's tile has.
    const SUMS: usize = 24;
    const ROUNDS: usize = 10_000;

    #[target_feature(enable = "avx512f")]
    unsafe fn f32(start: f32) -> f32 {
        let x = _mm512_set1_ps(start);
        let mut sums: [__m512; SUMS] = std::array::from_fn(|i| _mm512_set1_ps(i as f32));
        for _ in 0..ROUNDS {
            let y = black_box(x);
            sums.iter_mut().for_each(|sum| *sum = _mm512_fmadd_ps(x, y, *sum));
        }
        sums.iter().map(|sum| _mm512_reduce_add_ps(*sum)).sum()
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn bf16(start: f32) -> f32 {
        // SAFETY: both are 512 bits of plain data.
        let x: __m512bh = unsafe { std::mem::transmute(_mm512_set1_ps(start)) };
        let mut sums: [__m512; SUMS] = std::array::from_fn(|i| _mm512_set1_ps(i as f32));
        for _ in 0..ROUNDS {
            let y = black_box(x);
            sums.iter_mut().for_each(|sum| *sum = _mm512_dpbf16_ps(*sum, x, y));
        }
        sums.iter().map(|sum| _mm512_reduce_add_ps(*sum)).sum()
    }

    pub fn rates(c: &mut Criterion) {
        let mut group = c.benchmark_group("peak");
        let threads = rayon::current_num_threads();
        let mut rate = |name: &str, lanes: usize, body: fn(f32) -> f32| {
            group.throughput(Throughput::Elements((2 * lanes * SUMS * ROUNDS * threads) as u64));
            group.bench_function(name, |b| {
                b.iter(|| rayon::broadcast(|_| body(black_box(1e-3))).into_iter().sum::<f32>());
            });
        };
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the instructions were detected.
            rate("f32", 16, |x| unsafe { f32(x) });
        }
        if is_x86_feature_detected!("avx512bf16") {
            // SAFETY: as above.
            rate("bf16", 32, |x| unsafe { bf16(x) });
        }
        group.finish();
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod peak {
    pub fn rates(_: &mut criterion::Criterion) {}
}

criterion_group!(benches, peak::rates, products);
criterion_main!(benches);
