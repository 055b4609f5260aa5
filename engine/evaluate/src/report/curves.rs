//! The curves of a training run, read from its metrics.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use super::plot::{HEIGHT, Mark, Plot, Series, WIDTH};
use querywright_types::{Error, Result};

/// Metric, title and unit of each curve that is shown, in their order.
const SHOWN: [(&str, &str, &str); 8] = [
    ("reward", "Reward", "mean of a step"),
    ("entropy", "Entropy", "nats a token"),
    ("kl", "KL from the starting policy", "nats a token"),
    ("completions/mean_length", "Length of completions", "tokens"),
    ("frac_reward_zero_std", "Zero-variance groups", "share"),
    ("grad_norm", "Gradient norm", "before clipping"),
    ("sampling/sampling_logp_difference/mean", "Sampling against training", "mean |Δ log p|"),
    ("step_time", "Time of a step", "seconds"),
];

/// The style of plots, for the page and for the picture.
pub(super) const STYLE: &str = include_str!("plot.css");

/// Values by metric and step.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Curves {
    metrics: BTreeMap<String, BTreeMap<u64, f64>>,
}

impl Curves {
    /// Reads JSON lines. What is not a number is left out; a last line without its end, as a killed run leaves it, too.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::read(path, e))?;
        let mut curves = Self::default();
        for (number, line) in (1..).zip(text.split_inclusive('\n')).filter(|(_, line)| line.ends_with('\n')) {
            let refuse = |found: String| {
                Error::data(path, Some(number), found, "every line is one JSON object with a whole number \"step\"")
            };
            if line.trim().is_empty() {
                continue;
            }
            let object: serde_json::Map<String, serde_json::Value> =
                serde_json::from_str(line).map_err(|e| refuse(format!("not a JSON object: {e}")))?;
            let step = object.get("step").and_then(|step| step.as_u64());
            let step = step.ok_or_else(|| refuse("it has no step".into()))?;
            for (name, value) in object.iter().filter(|(name, _)| *name != "step") {
                if let Some(value) = value.as_f64() {
                    curves.metrics.entry(name.clone()).or_default().insert(step, value);
                }
            }
        }
        Ok(curves)
    }

    /// How many steps were made.
    pub(super) fn steps(&self) -> u64 {
        self.metrics.values().filter_map(|values| values.keys().next_back()).copied().max().unwrap_or(0)
    }

    /// Seconds of all steps together.
    pub(super) fn seconds(&self) -> Option<f64> {
        self.metrics.get("step_time").map(|times| times.values().sum())
    }

    /// The last value of a metric.
    pub(super) fn last(&self, name: &str) -> Option<f64> {
        self.metrics.get(name)?.values().next_back().copied()
    }

    /// The plots: evaluations first, then the metrics of the steps.
    pub(super) fn plots(&self) -> Vec<Plot> {
        let mut plots = Vec::new();
        for (name, values) in &self.metrics {
            if let Some(measure) = name.strip_prefix("eval_") {
                let points = points(values);
                let series = Series { label: "evaluation".into(), mark: Mark::Rings, points };
                let unit = "on the development queries".into();
                plots.push(Plot { title: measure.to_owned(), unit, series: vec![series], colour: 'b' });
            }
        }
        for (name, title, unit) in SHOWN {
            let Some(values) = self.metrics.get(name) else { continue };
            let measured = points(values);
            let reach = measured.len() / 20;
            let smooth = smoothed(&measured, reach);
            let mut series = vec![Series { label: "each step".into(), mark: Mark::Pale, points: measured }];
            match reach {
                0 => series[0].mark = Mark::Line,
                _ => series.push(Series { label: "smoothed".into(), mark: Mark::Line, points: smooth }),
            }
            plots.push(Plot { title: title.into(), unit: unit.into(), series, colour: 'a' });
        }
        plots
    }

    /// All plots in one picture that stands alone; none when there is nothing to plot.
    pub(super) fn picture(&self) -> Option<String> {
        const COLUMNS: usize = 3;
        let plots = self.plots();
        if plots.is_empty() {
            return None;
        }
        let width = WIDTH * plots.len().min(COLUMNS) as f64;
        let height = HEIGHT * plots.len().div_ceil(COLUMNS) as f64;
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\">\
             <style>{STYLE}</style><rect class=\"page\" width=\"100%\" height=\"100%\"/>"
        );
        for (i, plot) in plots.iter().enumerate() {
            let (x, y) = ((i % COLUMNS) as f64 * WIDTH, (i / COLUMNS) as f64 * HEIGHT);
            let _ = write!(out, "<g transform=\"translate({x} {y})\">{}</g>", plot.svg());
        }
        out.push_str("</svg>\n");
        Some(out)
    }
}

fn points(values: &BTreeMap<u64, f64>) -> Vec<(f64, f64)> {
    values.iter().map(|(step, value)| (*step as f64, *value)).collect()
}

/// Each value becomes the mean of its neighbours up to `reach` places away, the nearer the heavier (a triangle). Unlike a
/// running mean it does not lag behind.
fn smoothed(points: &[(f64, f64)], reach: usize) -> Vec<(f64, f64)> {
    let one = |place: usize, step: f64| {
        let (from, to) = (place.saturating_sub(reach), (place + reach + 1).min(points.len()));
        let (mut sum, mut weights) = (0.0, 0.0);
        for (other, (_, value)) in points.iter().enumerate().take(to).skip(from) {
            let weight = (reach + 1 - place.abs_diff(other)) as f64;
            sum += weight * value;
            weights += weight;
        }
        (step, sum / weights)
    };
    points.iter().enumerate().map(|(place, (step, _))| one(place, *step)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> Result<Curves> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        std::fs::write(&path, text).unwrap();
        Curves::read(&path)
    }

    #[test]
    fn metrics_are_read_by_name_and_step_and_a_cut_line_is_left_out() {
        let text = "{\"step\":0,\"eval_nDCG@10\":0.25}\n\n{\"step\":1,\"reward\":0.5,\"kl\":null,\"step_time\":2.0}\n\
                    {\"step\":2,\"reward\":0.75,\"step_time\":3.5}\n{\"step\":3,\"rew";
        let curves = written(text).unwrap();
        assert_eq!((curves.steps(), curves.seconds(), curves.last("reward")), (2, Some(5.5), Some(0.75)));
        assert_eq!(curves.last("kl"), None);
        let titles: Vec<String> = curves.plots().into_iter().map(|plot| plot.title).collect();
        assert_eq!(titles, ["nDCG@10", "Reward", "Time of a step"]);
    }

    #[test]
    fn a_line_without_metrics_is_refused_with_its_number() {
        let error = written("{\"step\":1}\n[1]\n").unwrap_err().to_string();
        assert!(error.contains("metrics.jsonl:2"), "{error}");
        let error = written("{\"reward\":1}\n").unwrap_err().to_string();
        assert!(error.contains(":1: it has no step"), "{error}");
        assert!(Curves::read(Path::new("/nowhere/metrics.jsonl")).is_err());
    }

    #[test]
    fn smoothing_keeps_a_straight_line_and_weighs_neighbours_by_a_triangle() {
        let line: Vec<(f64, f64)> = (0..9).map(|i| (f64::from(i), f64::from(2 * i))).collect();
        assert!(smoothed(&line, 2)[2..7].iter().zip(&line[2..7]).all(|(s, l)| (s.1 - l.1).abs() < 1e-12));
        let peak: Vec<f64> =
            smoothed(&[(0.0, 0.0), (1.0, 0.0), (2.0, 4.0), (3.0, 0.0), (4.0, 0.0)], 1).iter().map(|p| p.1).collect();
        assert_eq!(peak, [0.0, 1.0, 2.0, 1.0, 0.0]);
        assert_eq!(smoothed(&line, 0), line);
    }

    #[test]
    fn the_picture_holds_every_plot_and_links_to_no_other_file() {
        let lines: String =
            (1..=40).map(|i| format!("{{\"step\":{i},\"reward\":{},\"entropy\":1}}\n", i % 3)).collect();
        let picture = written(&lines).unwrap().picture().unwrap();
        assert_eq!(picture.matches("<svg").count(), 3);
        assert_eq!(picture.matches("http").count(), 1, "the namespace alone");
        assert!(Curves::default().picture().is_none());
    }
}
