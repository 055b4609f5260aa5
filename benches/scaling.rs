//! How a GRPO step with SmolLM2-135M scales: seconds by prompts, completion length, prompt length and threads, one of
//! them varied at a time, and milliseconds a token, which should stay constant. Medians of three.
//!
//!     cargo bench --bench scaling

use std::time::Instant;

use querywright::model::Precision;

mod workload;
use workload::{Model, Shape, Step};

fn main() -> anyhow::Result<()> {
    let model = Model::load(Precision::Auto)?;
    let base = Shape { prompts: 4, completions: 8, length: 16, prompt: 48 };
    println!("| what | prompts | completions | length | prompt | threads | tokens | seconds | ms a token |");
    println!("|---|---|---|---|---|---|---|---|---|");
    let all = rayon::current_num_threads();
    for prompts in [2, 4, 8, 16] {
        row(&model, "batch", Shape { prompts, ..base }, all)?;
    }
    for length in [8, 16, 32, 64] {
        row(&model, "completion", Shape { length, ..base }, all)?;
    }
    for prompt in [24, 48, 96, 192] {
        row(&model, "prompt", Shape { prompt, ..base }, all)?;
    }
    for threads in 1..=all {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
        pool.install(|| row(&model, "threads", base, threads))?;
    }
    Ok(())
}

fn row(model: &Model, what: &str, shape: Shape, threads: usize) -> anyhow::Result<()> {
    let mut step = Step::new(model)?;
    step.run(shape)?;
    let mut seconds = Vec::new();
    for _ in 0..3 {
        let start = Instant::now();
        step.run(shape)?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    let (Shape { prompts, completions, length, prompt }, tokens) = (shape, shape.tokens());
    let each = seconds[1] * 1e3 / tokens as f64;
    println!(
        "| {what} | {prompts} | {completions} | {length} | {prompt} | {threads} | {tokens} | {:.3} | {each:.2} |",
        seconds[1]
    );
    Ok(())
}
