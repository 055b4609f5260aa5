//! Means with their intervals, one system under the other.

use std::fmt::Write;

use super::plot::escape;
use super::scale::Scale;
use crate::table::interval;
use crate::{MeasureComparison, Row};

const WIDTH: f64 = 1180.0;
const ROW: f64 = 34.0;
const TOP: f64 = 12.0;

/// An `<svg>` element as high as it has systems.
pub(super) fn forest(measure: &MeasureComparison, reference: &str) -> String {
    // What is shown once more is in the table alone.
    let rows: Vec<&Row> = measure.rows.iter().filter(|row| row.same_as.is_none()).collect();
    let longest = rows.iter().map(|row| row.system.chars().count()).max().unwrap_or(0);
    let left = (longest as f64 * 7.2 + 28.0).clamp(90.0, WIDTH / 2.0);
    let bottom = TOP + rows.len() as f64 * ROW;
    let low = rows.iter().map(|row| row.mean.low).fold(f64::INFINITY, f64::min);
    let high = rows.iter().map(|row| row.mean.high).fold(f64::NEG_INFINITY, f64::max);
    let x = Scale::new((low, high), (left, WIDTH - 24.0), 6, true);
    let height = bottom + 26.0;
    let mut out = format!(
        "<svg class=\"plot forest\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{} of each system\">",
        measure.measure
    );
    for (value, label) in x.ticks() {
        let at = x.place(value);
        let _ = write!(out, "<path class=\"grid\" d=\"M{at:.1} {TOP}V{bottom:.1}\"/>");
        let _ = write!(out, "<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>", bottom + 18.0);
    }
    for (place, row) in rows.iter().enumerate() {
        let y = TOP + (place as f64 + 0.5) * ROW;
        let (name, mean) = (escape(&row.system), &row.mean);
        let class = if row.system == reference { "a" } else { "b" };
        let _ = write!(
            out,
            "<g class=\"{class}\"><text class=\"name\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{name}</text>\
             <path class=\"whisker\" d=\"M{:.1} {y:.1}H{:.1}\"/><circle class=\"dot\" cx=\"{:.1}\" cy=\"{y:.1}\" r=\"6\"/>\
             <path class=\"reach\" d=\"M{left:.1} {y:.1}H{:.1}\"><title>{name}: {}</title></path></g>",
            left - 14.0,
            y + 4.5,
            x.place(mean.low),
            x.place(mean.high),
            x.place(mean.mean),
            WIDTH - 24.0,
            interval(mean, false)
        );
    }
    out.push_str("</svg>");
    out
}
