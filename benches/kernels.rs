//! The packed matrix product in f32 and bf16 against candle's own f32 product, at the shapes of SmolLM2-135M's
//! feed-forward block: 8 rows (decoding a few streams), 64 (many), 1,024 (training). Throughput is in operations:
//! 2 x rows x inner x outer.

use candle_core::{Device, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use querywright::kernels::{PackedMatrix, Precision};

fn products(c: &mut Criterion) {
    let (inner, outer) = (576, 1536);
    let mut group = c.benchmark_group("product 576 x 1536");
    let noise = |n: usize| (0..n).map(|i| ((i * 7919) % 1000) as f32 / 500.0 - 1.0).collect::<Vec<f32>>();
    let weight = noise(inner * outer);
    for rows in [8, 64, 1024] {
        group.throughput(Throughput::Elements((2 * rows * inner * outer) as u64));
        let x = noise(rows * inner);
        for (name, precision) in [("f32", Precision::F32), ("bf16", Precision::Auto)] {
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

criterion_group!(benches, products);
criterion_main!(benches);
