//! A line plot as SVG: axes, legend, the last value, and a tooltip for the points.

use std::fmt::Write;

use super::scale::{Scale, short};

/// Width of a plot, in pixels.
pub(super) const WIDTH: f64 = 400.0;
/// Height of a plot, in pixels.
pub(super) const HEIGHT: f64 = 240.0;
const LEFT: f64 = 48.0;
const RIGHT: f64 = WIDTH - 16.0;
const TOP: f64 = 58.0;
const BOTTOM: f64 = HEIGHT - 36.0;
/// More points than a plot has pixels to show are joined by their means.
const POINTS: usize = 600;
/// Points with a tooltip, at most.
const TOOLTIPS: usize = 200;

/// How a series is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// A thin, pale line: values as measured, where a smoothed line lies over them.
    Pale,
    /// A line.
    Line,
    /// A line with a ring at every point: few, expensive measurements.
    Rings,
}

/// Points by step.
#[derive(Debug, Clone)]
pub(super) struct Series {
    pub(super) label: String,
    pub(super) mark: Mark,
    pub(super) points: Vec<(f64, f64)>,
}

/// Series over one pair of axes.
#[derive(Debug, Clone)]
pub(super) struct Plot {
    pub(super) title: String,
    /// What the values are: "nats a token".
    pub(super) unit: String,
    pub(super) series: Vec<Series>,
    /// The class that gives the colour: "a", "b" or "c".
    pub(super) colour: char,
}

impl Plot {
    /// An `<svg>` element of [`WIDTH`] by [`HEIGHT`].
    pub(super) fn svg(&self) -> String {
        let all = || self.series.iter().flat_map(|s| &s.points);
        let range = |values: &mut dyn Iterator<Item = f64>| {
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)))
        };
        let (mut low, high) = range(&mut all().map(|p| p.1));
        // Shares and norms are read against 0, unless 0 is far off.
        if low > 0.0 && low < 0.6 * high {
            low = 0.0;
        }
        let x = Scale::new(range(&mut all().map(|p| p.0)), (LEFT, RIGHT), 6, false);
        let y = Scale::new((low, high), (BOTTOM, TOP), 4, true);
        let mut out = format!(
            "<svg class=\"plot {}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
             aria-label=\"{title}\"><text class=\"title\" x=\"12\" y=\"24\">{title}</text>",
            self.colour,
            title = escape(&self.title),
        );
        self.legend(&mut out);
        axes(&mut out, &x, &y);
        for series in &self.series {
            draw(&mut out, series, &x, &y);
        }
        out.push_str("</svg>");
        out
    }

    /// Under the title what the values are and how each series is drawn; on the right the last value.
    fn legend(&self, out: &mut String) {
        let mut x = 12.0;
        // System fonts are about 5.6 pixels a character at this size; a gap of a few pixels takes up the rest.
        let width = |text: &str| text.chars().count() as f64 * 5.6;
        let _ = write!(out, "<text x=\"{x}\" y=\"42\">{}</text>", escape(&self.unit));
        x += width(&self.unit) + 14.0;
        for series in self.series.iter().filter(|_| self.series.len() > 1) {
            let class = class(series.mark);
            let _ = write!(out, "<path class=\"{class}\" d=\"M{x:.1} 38h14\"/>");
            x += 19.0;
            let _ = write!(out, "<text x=\"{x:.1}\" y=\"42\">{}</text>", escape(&series.label));
            x += width(&series.label) + 14.0;
        }
        if let Some((step, value)) = self.series.last().and_then(|s| s.points.last()) {
            let text = short(*value);
            let _ = write!(
                out,
                "<text class=\"last\" x=\"{RIGHT}\" y=\"24\" text-anchor=\"end\">{text}<title>at step {step}</title></text>"
            );
        }
    }
}

fn axes(out: &mut String, x: &Scale, y: &Scale) {
    for (value, label) in y.ticks() {
        let at = y.place(value);
        let class = if value == 0.0 { "base" } else { "grid" };
        let _ = write!(out, "<path class=\"{class}\" d=\"M{LEFT} {at:.1}H{RIGHT}\"/>");
        let _ = write!(out, "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>", LEFT - 7.0, at + 3.5);
    }
    // Between two steps there is none: labels that are not whole numbers are left out.
    for (value, label) in x.ticks().into_iter().filter(|(value, _)| (value - value.round()).abs() < 1e-9) {
        let at = x.place(value);
        let _ = write!(out, "<path class=\"grid\" d=\"M{at:.1} {BOTTOM}v4\"/>");
        let _ = write!(out, "<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>", BOTTOM + 16.0);
    }
    let middle = (LEFT + RIGHT) / 2.0;
    let _ = write!(out, "<text x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\">step</text>", BOTTOM + 30.0);
}

fn draw(out: &mut String, series: &Series, x: &Scale, y: &Scale) {
    let points = thinned(&series.points, POINTS);
    let mut path = String::new();
    for (i, (step, value)) in points.iter().enumerate() {
        let _ = write!(path, "{}{:.1} {:.1}", if i == 0 { "M" } else { "L" }, x.place(*step), y.place(*value));
    }
    let _ = write!(out, "<path class=\"{}\" d=\"{path}\"/>", class(series.mark));
    if series.mark == Mark::Pale {
        return;
    }
    let every = points.len().div_ceil(TOOLTIPS).max(1);
    let with_tooltip = points.iter().enumerate().filter(|(i, _)| i % every == 0 || i + 1 == points.len());
    for (_, (step, value)) in with_tooltip {
        let (class, radius) = if series.mark == Mark::Rings { ("ring", 3.5) } else { ("hit", 5.0) };
        let _ = write!(
            out,
            "<circle class=\"{class}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"{radius}\"><title>step {step:.0}: {}</title></circle>",
            x.place(*step),
            y.place(*value),
            short(*value)
        );
    }
}

fn class(mark: Mark) -> &'static str {
    match mark {
        Mark::Pale => "line pale",
        Mark::Line | Mark::Rings => "line",
    }
}

/// Neighbours joined by their means until there are at most `count` points.
fn thinned(points: &[(f64, f64)], count: usize) -> Vec<(f64, f64)> {
    let join = |part: &[(f64, f64)]| {
        let sum = part.iter().fold((0.0, 0.0), |sum, p| (sum.0 + p.0, sum.1 + p.1));
        (sum.0 / part.len() as f64, sum.1 / part.len() as f64)
    };
    points.chunks(points.len().div_ceil(count).max(1)).map(join).collect()
}

/// Text with the special characters of HTML and XML escaped.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // Control characters may not stand in XML at all.
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(points: Vec<(f64, f64)>) -> Plot {
        let series = Series { label: "a<b".into(), mark: Mark::Rings, points };
        Plot { title: "T & \"co\"".into(), unit: "nats".into(), series: vec![series.clone(), series], colour: 'a' }
    }

    #[test]
    fn every_ring_has_a_tooltip_with_its_step_and_value() {
        let svg = plot(vec![(0.0, 0.25), (20.0, 0.5)]).svg();
        assert!(svg.contains("<title>step 0: 0.250</title>") && svg.contains("<title>step 20: 0.500</title>"), "{svg}");
        assert!(svg.contains("T &amp; &quot;co&quot;") && svg.contains("a&lt;b") && !svg.contains("a<b"), "{svg}");
    }

    #[test]
    fn points_stay_inside_the_plot_whatever_the_values() {
        for points in [vec![], vec![(3.0, 0.0)], vec![(1.0, -5.0), (2.0, 1e9)], vec![(0.0, 1e-7), (9.0, 2e-7)]] {
            let svg = plot(points).svg();
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            for part in svg.split("cy=\"").skip(1) {
                let y: f64 = part.split('"').next().unwrap().parse().unwrap();
                assert!((TOP - 0.1..=BOTTOM + 0.1).contains(&y), "{y}");
            }
        }
    }

    #[test]
    fn a_long_curve_is_thinned_by_means() {
        let points: Vec<(f64, f64)> = (0..1000).map(|i| (f64::from(i), f64::from(i % 2))).collect();
        let thin = thinned(&points, 500);
        assert_eq!((thin.len(), thin[0], thin[499]), (500, (0.5, 0.5), (998.5, 0.5)));
        assert_eq!(thinned(&points, 1000), points);
        assert!(thinned(&[], 10).is_empty());
    }
}
