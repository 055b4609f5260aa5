//! Progress on a terminal: bars with rate and time left. Where the output is no terminal, a line now and then.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};
use querywright::metrics::Measure;
use querywright::train::Observer;
use querywright::train::log::{StepMetrics, name};
use querywright::types::{Observe, Progress, printable};

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// A bar over things whose number is known; hidden where nobody watches.
pub struct Bar(ProgressBar);

impl Bar {
    /// Over `length` things; 0 where the work itself will say how many.
    pub fn new(length: u64, what: &str, unit: &str) -> Self {
        let template = format!("{{prefix}} [{{bar:30}}] {{pos}}/{{len}} {unit}, {{per_sec}}, {{eta}} left {{msg}}");
        let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
        let bar = bar.with_finish(ProgressFinish::AndClear);
        bar.set_style(style(&template).progress_chars("=> "));
        bar.set_prefix(printable(what));
        Self(bar)
    }

    pub fn finish(self) {
        self.0.finish_and_clear();
    }
}

impl Observe for Bar {
    fn progress(&self, progress: Progress<'_>) {
        if let Some(total) = progress.total {
            self.0.set_length(total);
        }
        self.0.set_position(progress.done);
    }
}

/// A sign of life for work of unknown length.
pub struct Spinner(ProgressBar);

impl Spinner {
    pub fn new(what: String) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        bar.set_style(style("{spinner} {msg}"));
        bar.set_message(printable(&what));
        bar.enable_steady_tick(Duration::from_millis(120));
        Self(bar)
    }

    pub fn finish(self) {
        self.0.finish_and_clear();
    }
}

impl Observe for Spinner {
    /// Stages of a download, and the bytes of its files.
    fn progress(&self, progress: Progress<'_>) {
        let Progress { stage, done, total, .. } = progress;
        let Some(total) = total else {
            if !std::io::stderr().is_terminal() {
                tell!("{stage}");
            }
            self.0.set_message(printable(stage));
            return;
        };
        self.0.set_message(printable(&format!("{stage}: {} of {} MB", done / 1_000_000, total / 1_000_000)));
    }
}

/// What a run learns, and from where.
pub struct Goal {
    /// The measure that is learned.
    pub measure: Measure,
    /// What a query is without the model: "the tuned base", "the raw query".
    pub base: &'static str,
    /// Its mean on the development queries; none where the retriever failed.
    pub on_dev: Option<f64>,
}

impl Goal {
    /// What a value is over the base.
    fn over(&self, gain: f64) -> String {
        format!("{gain:+.3} {} over {}", self.measure, self.base)
    }
}

/// Watches a training run.
pub struct Watcher {
    bar: ProgressBar,
    goal: Goal,
    terminal: bool,
    last_line: Option<Instant>,
}

/// Without a terminal: a line at most this often.
const QUIET: Duration = Duration::from_secs(20);

impl Watcher {
    pub fn new(steps: u64, goal: Goal) -> Self {
        let bar = Bar::new(steps, "training", "steps").0;
        Self { bar, goal, terminal: std::io::stderr().is_terminal(), last_line: None }
    }

    fn line(&self, text: &str) {
        if self.terminal {
            self.bar.println(printable(text));
        } else {
            tell!("{text}");
        }
    }
}

impl Observe for Watcher {
    fn note(&self, text: &str) {
        self.line(text);
    }
}

impl Observer for Watcher {
    fn step(&mut self, metrics: &StepMetrics, max_steps: u64) {
        let shown = [
            ("reward", name::REWARD),
            ("margin", name::REWARDS_MARGINS),
            ("entropy", name::ENTROPY),
            ("kl", name::KL),
            ("length", name::MEAN_LENGTH),
        ];
        let values = shown.iter().filter_map(|(label, key)| Some(format!("{label} {:.3}", metrics.get(key)?)));
        let gain = metrics.get(name::GAIN).map(|gain| self.goal.over(gain));
        let live = gain.into_iter().chain(values).collect::<Vec<_>>().join("  ");
        self.bar.set_position(metrics.step);
        self.bar.set_message(live.clone());
        let due = self.last_line.is_none_or(|last| last.elapsed() >= QUIET) || metrics.step == max_steps;
        if !self.terminal && due {
            tell!("step {}/{max_steps}  {live}  {:.1} s", metrics.step, metrics.get(name::STEP_TIME).unwrap_or(0.0));
            self.last_line = Some(Instant::now());
        }
        if metrics.step == max_steps {
            self.bar.finish_and_clear();
        }
    }

    fn evaluated(&mut self, step: u64, score: f64, best: bool) {
        let over = self.goal.on_dev.map(|base| format!(", {}", self.goal.over(score - base)));
        let best = if best { ", the best so far" } else { "" };
        self.line(&format!("step {step}: {score:.4} on the development queries{}{best}", over.unwrap_or_default()));
    }

    fn resumed(&mut self, step: u64) {
        self.bar.set_position(step);
        self.bar.reset_eta();
        self.line(&format!("continuing after step {step}"));
    }
}
