//! The page: the template and the values that fill it.

use minijinja::{AutoEscape, Environment};
use serde::Serialize;

use super::Report;
use super::curves::{Curves, STYLE};
use super::forest::forest;
use super::probes::{ProbesView, probes};
use super::scale::short;
use crate::cost::COLUMNS;
use crate::table::{interval, milliseconds, probability};
use crate::{Change, Changes, Comparison, Cost, CostRow, CostTable, Headroom, MeasureComparison, Row, Sample};
use querywright_types::{Error, Result};

/// The template escapes everything but the plots and the style, which come from this crate.
#[derive(Serialize)]
struct Page<'a> {
    title: &'a str,
    subtitle: &'a str,
    style: String,
    tiles: Vec<Tile>,
    legend: String,
    reference: &'a str,
    tables: Vec<TableView>,
    costs: Vec<CostView<'a>>,
    changes: Option<ChangesView<'a>>,
    probes: Option<ProbesView<'a>>,
    spent: Option<SpentView<'a>>,
    plots: Vec<String>,
    samples: Option<SamplesView<'a>>,
    versions: &'a [(String, String)],
    config: Option<&'a str>,
}

/// A figure at the top of the page.
#[derive(Serialize)]
struct Tile {
    name: String,
    value: String,
    more: String,
}

#[derive(Serialize)]
struct TableView {
    measure: String,
    forest: String,
    rows: Vec<RowView>,
}

#[derive(Serialize)]
struct RowView {
    system: String,
    mean: String,
    interval: String,
    difference: Option<String>,
    verdict: &'static str,
    t_test: String,
    randomisation: String,
    wins: String,
}

#[derive(Serialize)]
struct CostView<'a> {
    system: &'a str,
    words: String,
    milliseconds: String,
    fallbacks: usize,
    kept: usize,
    faults: usize,
}

#[derive(Serialize)]
struct SpentView<'a> {
    names: [&'static str; 7],
    rows: Vec<[&'a str; 7]>,
    notes: &'a [String],
}

#[derive(Serialize)]
struct ChangesView<'a> {
    sentences: Vec<String>,
    lists: Vec<(&'static str, Vec<ChangeView<'a>>)>,
    system: &'a str,
    against: &'a str,
}

#[derive(Serialize)]
struct ChangeView<'a> {
    query: &'a str,
    rewrite: &'a str,
    before: String,
    after: String,
    verdict: &'static str,
}

#[derive(Serialize)]
struct SamplesView<'a> {
    first: &'a str,
    last: &'a str,
    shown: Vec<SampleView<'a>>,
}

#[derive(Serialize)]
struct SampleView<'a> {
    query: &'a str,
    rewrites: Vec<RewriteView<'a>>,
}

#[derive(Serialize)]
struct RewriteView<'a> {
    system: &'a str,
    text: &'a str,
    score: String,
    verdict: &'static str,
}

/// Renders the page.
pub(super) fn page(report: &Report, curves: &Curves) -> Result<String> {
    let comparison = report.comparison.as_ref();
    let context = Page {
        title: &report.title,
        subtitle: &report.subtitle,
        style: format!("{STYLE}{}", include_str!("page.css")),
        tiles: tiles(comparison, curves),
        legend: comparison.map(Comparison::legend).unwrap_or_default(),
        reference: comparison.map_or("", |c| &c.reference),
        tables: comparison.map(tables).unwrap_or_default(),
        costs: comparison.map(|c| c.costs.iter().map(cost).collect()).unwrap_or_default(),
        changes: report.changes.as_ref().map(|found| changes(found, report.headroom.as_ref())),
        probes: report.probes.as_ref().map(probes),
        spent: report.cost.as_ref().map(spent),
        plots: curves.plots().iter().map(super::plot::Plot::svg).collect(),
        samples: samples(&report.samples),
        versions: &report.versions,
        config: report.config.as_deref(),
    };
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment
        .render_str(include_str!("page.html"), context)
        .map_err(|e| Error::bug("evaluate::report::page", format!("the template: {e:#}")))
}

/// The first measure of every system, then the length of the training run.
fn tiles(comparison: Option<&Comparison>, curves: &Curves) -> Vec<Tile> {
    let mut tiles = Vec::new();
    if let Some(measure) = comparison.and_then(|c| c.measures.first()) {
        tiles.extend(measure.rows.iter().map(|row| Tile {
            name: format!("{} {}", row.label(), measure.measure),
            value: format!("{:.3}", row.mean.mean),
            more: format!("{:.3} to {:.3}", row.mean.low, row.mean.high),
        }));
    }
    if let Some(seconds) = curves.seconds() {
        let tokens = curves.last("num_tokens").map(|n| format!(", {} tokens", thousands(n)));
        tiles.push(Tile {
            name: "training".into(),
            value: duration(seconds),
            more: format!("{} steps{}", curves.steps(), tokens.unwrap_or_default()),
        });
    }
    tiles
}

fn tables(comparison: &Comparison) -> Vec<TableView> {
    let table = |measure: &MeasureComparison| TableView {
        measure: measure.measure.to_string(),
        forest: forest(measure, &comparison.reference),
        rows: measure.rows.iter().map(row).collect(),
    };
    comparison.measures.iter().map(table).collect()
}

fn row(row: &Row) -> RowView {
    let figures = interval(&row.mean, false);
    let (mean, interval_text) = figures.split_once(' ').unwrap_or((&figures, ""));
    let against = row.against.as_ref().filter(|_| row.same_as.is_none());
    let text = |of: &dyn Fn(&crate::Against) -> String| against.map(of).unwrap_or_default();
    RowView {
        system: row.label(),
        mean: mean.into(),
        interval: interval_text.into(),
        difference: against.map(|a| interval(&a.difference, true)),
        // A colour stands for a significant difference, not for its sign alone.
        verdict: match against {
            Some(a) if a.randomisation_p_holm < 0.05 => verdict(a.difference.mean),
            _ => "",
        },
        t_test: text(&|a| probability(a.t_test_p_holm)),
        randomisation: text(&|a| probability(a.randomisation_p_holm)),
        wins: text(&|a| format!("{} / {} / {}", a.wins, a.ties, a.losses)),
    }
}

fn cost(cost: &Cost) -> CostView<'_> {
    CostView {
        system: &cost.system,
        words: format!("{:.1}", cost.mean_query_words),
        milliseconds: milliseconds(cost.milliseconds_per_query),
        fallbacks: cost.fallbacks,
        kept: cost.kept,
        faults: cost.faults,
    }
}

fn spent(table: &CostTable) -> SpentView<'_> {
    SpentView { names: COLUMNS, rows: table.rows.iter().map(CostRow::cells).collect(), notes: &table.notes }
}

fn changes<'a>(changes: &'a Changes, headroom: Option<&Headroom>) -> ChangesView<'a> {
    let view = |change: &'a Change| ChangeView {
        query: &change.query,
        rewrite: &change.rewrite,
        before: format!("{:.3}", change.before),
        after: format!("{:.3}", change.after),
        verdict: verdict(change.after - change.before),
    };
    let lists = [("Improved most", &changes.most_improved), ("Hurt most", &changes.most_hurt)];
    let lists = lists.into_iter().filter(|(_, list)| !list.is_empty());
    ChangesView {
        sentences: std::iter::once(changes.sentence()).chain(headroom.map(Headroom::sentence)).collect(),
        lists: lists.map(|(name, list)| (name, list.iter().map(view).collect())).collect(),
        system: &changes.system,
        against: &changes.against,
    }
}

fn samples(samples: &[Sample]) -> Option<SamplesView<'_>> {
    let (first, last) = samples.first().and_then(|s| Some((s.rewrites.first()?, s.rewrites.last()?)))?;
    let shown = samples.iter().map(|sample| {
        let before = sample.rewrites.first().map_or(0.0, |r| r.score);
        let rewrites = sample.rewrites.iter().map(|r| RewriteView {
            system: &r.system,
            text: &r.text,
            score: format!("{:.3}", r.score),
            verdict: verdict(r.score - before),
        });
        SampleView { query: &sample.query, rewrites: rewrites.collect() }
    });
    Some(SamplesView { first: &first.system, last: &last.system, shown: shown.collect() })
}

fn verdict(difference: f64) -> &'static str {
    match difference {
        d if d > 0.0 => "better",
        d if d < 0.0 => "worse",
        _ => "",
    }
}

/// `1 h 02 min`, `3 min 05 s`, `12.3 s`.
fn duration(seconds: f64) -> String {
    let whole = seconds.round().max(0.0) as u64;
    match whole {
        0..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole / 60 % 60),
    }
}

/// `950`, `12k`, `3.4M`.
fn thousands(value: f64) -> String {
    match value {
        v if v < 1e4 => short(v.round()),
        v if v < 1e6 => format!("{:.0}k", v / 1e3),
        v => format!("{:.1}M", v / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_counts_are_written_for_people() {
        assert_eq!([5.04, 185.2, 3725.0].map(duration), ["5.0 s", "3 min 05 s", "1 h 02 min"]);
        assert_eq!([12_400.0, 3.44e6].map(thousands), ["12k", "3.4M"]);
    }
}
