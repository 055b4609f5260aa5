//! Querywright's part of `cargo xtask peers`, which compares SmolLM2-135M with TRL (a GRPO step) and llama.cpp (prefill,
//! decoding) on the same shapes. Each measurement is a line of JSON.
//!
//!     cargo bench --bench peers -- grpo_step|decode_64|prefill_512|decode_1

use std::time::Instant;

use querywright::model::Precision;

mod workload;
use workload::{Model, Shape, Step};

fn main() -> anyhow::Result<()> {
    let names: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    for name in names {
        let precision = if name == "decode_1" { Precision::Int8 } else { Precision::Auto };
        let model = Model::load(precision)?;
        let (unit, readings) = match name.as_str() {
            "grpo_step" => {
                let mut step = Step::new(&model)?;
                step.run(Shape::PEER)?;
                ("seconds", timed(5, || step.run(Shape::PEER).map(|_| 1))?)
            }
            "decode_64" => ("seconds a token", decoding(&model, 64, 17)?),
            "prefill_512" => ("seconds a token", timed(7, || model.prefill(512).map(|_| 512))?),
            "decode_1" => ("seconds a token", decoding(&model, 1, 65)?),
            other => anyhow::bail!("{other} is not measured; there are grpo_step, decode_64, prefill_512, decode_1"),
        };
        println!("{}", serde_json::json!({ "name": name, "unit": unit, "readings": readings, "peak_kib": peak() }));
    }
    Ok(())
}

/// Seconds a token, without the first: the difference between generating `length` tokens and a single one.
fn decoding(model: &Model, streams: usize, length: usize) -> anyhow::Result<Vec<f64>> {
    let whole = timed(5, || model.decode(streams, length).map(|_| 1))?;
    let first = timed(5, || model.decode(streams, 1).map(|_| 1))?;
    Ok(whole.iter().zip(first).map(|(w, f)| (w - f) / (streams * (length - 1)) as f64).collect())
}

/// Seconds a unit of work in each of `times` repetitions, after one for warm-up.
fn timed(times: usize, mut work: impl FnMut() -> anyhow::Result<usize>) -> anyhow::Result<Vec<f64>> {
    work()?;
    (0..times)
        .map(|_| {
            let start = Instant::now();
            let units = work()?;
            Ok(start.elapsed().as_secs_f64() / units as f64)
        })
        .collect()
}

/// The peak resident memory of this process, in KiB.
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.trim().parse().ok())
}
