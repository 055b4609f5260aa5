//! SmolLM2-135M end to end: prefill of 512 tokens, decoding of 1 and of 64 streams, a GRPO step of 8 prompts x 8
//! completions x 32 tokens. Throughput is in tokens. `cargo xtask peers` compares the same with TRL and llama.cpp.
//!
//!     cargo bench --bench model

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use querywright::model::Precision;

mod workload;
use workload::{Model, Shape, Step};

fn model(c: &mut Criterion) {
    let mut group = c.benchmark_group("SmolLM2-135M");
    group.sample_size(10);
    let run = |precision| Model::load(precision).inspect_err(|e| println!("skipped: {e:#}")).ok();
    if let Some(model) = run(Precision::Auto) {
        group.throughput(Throughput::Elements(512));
        group.bench_function("prefill 512", |b| b.iter(|| model.prefill(512)));
        group.throughput(Throughput::Elements(64 * 16));
        group.bench_function("decode 64 streams", |b| b.iter(|| model.decode(64, 16)));
        group.throughput(Throughput::Elements(Shape::PEER.tokens() as u64));
        let Ok(mut step) = Step::new(&model) else { return };
        group.bench_function("GRPO step", |b| b.iter(|| step.run(Shape::PEER)));
    }
    if let Some(model) = run(Precision::Int8) {
        group.throughput(Throughput::Elements(64));
        group.bench_function("decode 1 stream, 8 bit", |b| b.iter(|| model.decode(1, 64)));
    }
    group.finish();
}

criterion_group!(benches, model);
criterion_main!(benches);
