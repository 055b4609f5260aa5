//! `plugin check`: one report on a component.

use std::path::Path;

use anyhow::Result;
use querywright::Error;
use querywright::plugin::{PluginOptions, check};

use crate::grant::{self, Grants};
use crate::open;
use crate::progress::Spinner;
use crate::terminal;

/// Requests of the data set that a plugin is tried with.
const REQUESTS: usize = 200;

pub fn run(file: &Path, data: &str, grants: &Grants, json: bool) -> Result<()> {
    let bytes = super::read(file)?;
    let dataset = open::dataset(data)?;
    let mut texts: Vec<String> = Vec::new();
    for split in dataset.split_names() {
        texts.extend(dataset.split(split)?.into_iter().map(|query| query.text.clone()));
    }
    texts.truncate(REQUESTS);
    let options = PluginOptions { manifest: querywright::plugin::Manifest::beside(file)?, ..grants.options()? };
    grant::warn(&options.grant, options.manifest.as_ref());
    let spinner = Spinner::new(format!("checking {}", file.display()));
    let report = check(&super::name(file), &bytes, &dataset.catalog, &options, &texts)?;
    spinner.finish();
    if json {
        terminal::json(&report)?;
    } else {
        say!("{} {}  ({})", report.card.name, report.card.version, file.display());
        for item in &report.items {
            match &item.failure {
                None => say!("  ok      {} ({} requests)", item.rule, item.requests),
                Some(failure) => {
                    say!("  FAILED  {}", item.rule);
                    for line in failure.lines() {
                        say!("          {line}");
                    }
                }
            }
        }
        let cost = &report.cost;
        say!("  cost    p50 and p99 over {} requests to {} documents", texts.len(), dataset.catalog.len());
        say!("          prepared in      {:10.2} s", cost.prepare_seconds);
        say!("          new instance     {:10.0} {:10.0} µs", cost.start_us[0], cost.start_us[1]);
        say!("          request          {:10.0} {:10.0} µs", cost.request_us[0], cost.request_us[1]);
        say!("          fuel             {:10.0} {:10.0}", cost.fuel[0], cost.fuel[1]);
        say!("          memory           {:10.1} MiB an instance", cost.memory_mib);
        say!("          component        {:10} bytes", report.component.bytes);
        let limits = &report.limits;
        say!("  limits  a request        {:10} ms, fuel {}", limits.call_ms, limits.fuel);
        say!("          memory           {:10} MiB an instance, {} instances", limits.memory_mib, limits.instances);
        say!("          loading          {:10} ms, fuel {} a batch", limits.load_ms, limits.load_fuel);
    }
    if report.passed {
        return Ok(());
    }
    let failed = report.items.iter().filter(|item| item.failure.is_some()).count();
    Err(Error::argument("plugin check", format!("{failed} of {} rules failed", report.items.len()), "mend the plugin")
        .into())
}
