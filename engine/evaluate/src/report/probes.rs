//! The probes as the page shows them.

use serde::Serialize;

use crate::{Probe, ProbeRate, Probes};

#[derive(Serialize)]
pub(super) struct ProbesView<'a> {
    legend: String,
    names: Vec<&'static str>,
    rows: Vec<RowView<'a>>,
    examples: Vec<ExampleView<'a>>,
}

#[derive(Serialize)]
struct RowView<'a> {
    system: &'a str,
    cells: Vec<CellView>,
}

#[derive(Serialize)]
struct CellView {
    rate: String,
    interval: String,
    beside: String,
    verdict: &'static str,
}

#[derive(Serialize)]
struct ExampleView<'a> {
    probe: &'static str,
    system: &'a str,
    query: &'a str,
    rewrite: &'a str,
    found: &'a str,
}

/// A row a system, a column a probe, and the examples of the last system.
pub(super) fn probes(probes: &Probes) -> ProbesView<'_> {
    let names =
        probes.systems.first().map_or_else(Vec::new, |first| first.rates.iter().map(|r| r.probe.label()).collect());
    let rows = probes
        .systems
        .iter()
        .map(|system| RowView { system: &system.system, cells: system.rates.iter().map(cell).collect() });
    let last = probes.systems.iter().rev().take(1);
    // An echo is a query that is shown twice.
    let rates = last.flat_map(|system| system.rates.iter().map(|rate| (system.system.as_str(), rate)));
    let examples = rates.filter(|(_, rate)| rate.probe != Probe::Echo).flat_map(|(system, rate)| {
        rate.examples.iter().map(move |example| ExampleView {
            probe: rate.probe.label(),
            system,
            query: &example.query,
            rewrite: &example.rewrite,
            found: &example.found,
        })
    });
    ProbesView { legend: probes.legend(), names, rows: rows.collect(), examples: examples.collect() }
}

fn cell(rate: &ProbeRate) -> CellView {
    let shown = rate.shown();
    let (share, interval) = shown.split_once(' ').unwrap_or((&shown, ""));
    CellView {
        rate: share.into(),
        interval: interval.into(),
        beside: rate.beside(),
        // More of what is looked for is worse. A colour stands for a significant difference.
        verdict: match rate.against {
            Some(against) if against.p_holm < 0.05 && against.difference > 0.0 => "worse",
            Some(against) if against.p_holm < 0.05 && against.difference < 0.0 => "better",
            _ => "",
        },
    }
}
