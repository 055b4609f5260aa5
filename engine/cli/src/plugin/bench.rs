//! `plugin bench`: a plugin beside the native BM25 on the same queries.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use querywright::plugin::{Plugin, PluginOptions, Reuse};
use querywright::retrieve::Bm25Config;
use querywright::types::{Deadline, Query, Request, Retriever, Rewrite};

use crate::grant::{self, Grants};
use crate::progress::Bar;
use crate::terminal;
use crate::{bm25, open};

/// Queries that are timed at most.
const QUERIES: usize = 2_000;

pub fn run(file: &Path, data: &str, grants: &Grants, json: bool) -> Result<()> {
    let bytes = super::read(file)?;
    let dataset = open::dataset(data)?;
    let mut queries: Vec<&Query> = Vec::new();
    for split in dataset.split_names() {
        queries.extend(dataset.split(split)?);
    }
    queries.truncate(QUERIES);
    let requests: Vec<Request> =
        queries.iter().map(|query| Request::new(query, &Rewrite::plain(query.text.clone()), 10)).collect();
    let native = bm25::index(&dataset.catalog, Bm25Config::default(), None)?;
    let manifest = querywright::plugin::Manifest::beside(file)?;
    let granted = grants.options()?;
    grant::warn(&granted.grant, manifest.as_ref());
    let load = |reuse| -> Result<Plugin> {
        let options = PluginOptions { manifest: manifest.clone(), reuse, ..granted.clone() };
        let bar = Bar::new(dataset.catalog.len() as u64, "loading", "documents");
        let plugin = Plugin::from_bytes(&super::name(file), &bytes, &dataset.catalog, options, &bar)?;
        bar.finish();
        Ok(plugin)
    };
    let begun = Instant::now();
    let (kept, fresh) = (load(Reuse::UntilFault)?, load(Reuse::EachSearch)?);
    let prepared = begun.elapsed().as_secs_f64() / 2.0;
    let rows: [(&str, &dyn Retriever); 3] =
        [("native bm25", native.as_ref()), ("plugin", &kept), ("plugin, fresh instances", &fresh)];
    let found = in_turn(&rows, &requests)?;
    if json {
        let rows: Vec<serde_json::Value> = found
            .iter()
            .map(|t| serde_json::json!({ "name": t.name, "p50_us": t.p50, "p99_us": t.p99, "mean_us": t.mean }))
            .collect();
        let object = serde_json::json!({ "queries": requests.len(), "prepare_seconds": prepared, "rows": rows });
        return terminal::json(&object);
    }
    say!("{} queries, {} documents; prepared in {prepared:.2} s", requests.len(), dataset.catalog.len());
    say!("  {:<26} {:>10} {:>10} {:>10}", "microseconds a search", "p50", "p99", "mean");
    for Times { name, p50, p99, mean } in &found {
        say!("  {name:<26} {p50:>10.0} {p99:>10.0} {mean:>10.0}  {:.2}x", mean / found[0].mean);
    }
    Ok(())
}

/// Microseconds that a retriever takes for a query.
struct Times<'a> {
    name: &'a str,
    p50: f64,
    p99: f64,
    mean: f64,
}

impl<'a> Times<'a> {
    fn of(name: &'a str, mut times: Vec<f64>) -> Self {
        let mean = times.iter().sum::<f64>() / times.len().max(1) as f64;
        times.sort_by(f64::total_cmp);
        let percentile = |q: f64| times.get((times.len() as f64 * q) as usize).copied().unwrap_or(f64::NAN);
        Self { name, p50: percentile(0.5), p99: percentile(0.99), mean }
    }
}

/// Times all retrievers query by query, so that a machine that changes its pace changes it for all; the first of three
/// rounds warms up.
fn in_turn<'a>(retrievers: &[(&'a str, &dyn Retriever)], requests: &[Request]) -> Result<Vec<Times<'a>>> {
    let mut times = vec![Vec::new(); retrievers.len()];
    for round in 0..3 {
        for request in requests {
            for ((_, retriever), times) in retrievers.iter().zip(&mut times) {
                let begun = Instant::now();
                let answer = retriever.retrieve(std::slice::from_ref(request), Deadline::NONE);
                let taken = begun.elapsed().as_secs_f64() * 1e6;
                if let Some(Err(fault)) = answer.into_iter().next() {
                    return Err(querywright::Error::from(fault).into());
                }
                if round > 0 {
                    times.push(taken);
                }
            }
        }
    }
    Ok(retrievers.iter().zip(times).map(|((name, _), times)| Times::of(name, times)).collect())
}
