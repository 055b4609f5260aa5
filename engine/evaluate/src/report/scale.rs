//! Axes: from values to positions, with ticks at round numbers.

/// What is smaller is written with a power of ten.
const SMALL: f64 = 1e-3;

/// A linear axis.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Scale {
    low: f64,
    high: f64,
    step: f64,
    from: f64,
    to: f64,
}

impl Scale {
    /// An axis over the values from `low` to `high`, from position `from` to position `to`. The ends are widened to
    /// ticks when `widen` is set. Wants about `ticks` ticks.
    pub(super) fn new((low, high): (f64, f64), (from, to): (f64, f64), ticks: usize, widen: bool) -> Self {
        let (mut low, mut high) = if low.is_finite() && high.is_finite() { (low, high) } else { (0.0, 1.0) };
        if high - low <= f64::EPSILON * high.abs().max(low.abs()) {
            let room = if high == 0.0 { 1.0 } else { high.abs() / 2.0 };
            (low, high) = (low - room, high + room);
        }
        let step = round_step((high - low) / ticks.max(1) as f64);
        if widen {
            (low, high) = ((low / step + 1e-9).floor() * step, (high / step - 1e-9).ceil() * step);
        }
        Self { low, high, step, from, to }
    }

    /// The position of a value.
    pub(super) fn place(&self, value: f64) -> f64 {
        self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    /// Values of the ticks with their labels.
    pub(super) fn ticks(&self) -> Vec<(f64, String)> {
        let first = (self.low / self.step - 1e-9).ceil() as i64;
        let last = (self.high / self.step + 1e-9).floor() as i64;
        (first..=last).map(|i| i as f64 * self.step).map(|v| (v, label(v, self.step))).collect()
    }
}

/// The next of 1, 2, 2.5, 5 times a power of ten that is not below `wanted`.
fn round_step(wanted: f64) -> f64 {
    let power = 10f64.powf(wanted.log10().floor());
    // Very small steps are labelled with one digit, which 2.5 would not fit.
    let fits = |m: &f64| m * power >= wanted * (1.0 - 1e-9) && (*m != 2.5 || power >= SMALL);
    [1.0, 2.0, 2.5, 5.0].into_iter().find(fits).unwrap_or(10.0) * power
}

/// As many decimals as the step needs; thousands as "12k"; very small ones as powers of ten.
fn label(value: f64, step: f64) -> String {
    if value == 0.0 {
        return "0".into();
    }
    if step < SMALL {
        return scientific(value);
    }
    if step >= 500.0 {
        let decimals = if step % 1000.0 == 0.0 { 0 } else { 1 };
        return minus(format!("{:.decimals$}k", value / 1000.0));
    }
    let decimals = (0..4).find(|d| (step * 10f64.powi(*d)).fract().abs() < 1e-6).unwrap_or(4) as usize;
    minus(format!("{value:.decimals$}"))
}

/// A value with about four significant digits.
pub(super) fn short(value: f64) -> String {
    let size = value.abs();
    minus(match size {
        _ if size == 0.0 => "0".into(),
        _ if size < SMALL => return scientific(value),
        _ if size < 10.0 => format!("{value:.3}"),
        _ if size < 100.0 => format!("{value:.2}"),
        _ if size < 1000.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    })
}

/// One decimal and a power of ten, the decimal left out where it is 0: `1.2e−4`, `3e−5`.
fn scientific(value: f64) -> String {
    minus(format!("{value:.1e}").replace(".0e", "e").replace("e-", "e−"))
}

/// A real minus sign.
fn minus(text: String) -> String {
    match text.strip_prefix('-') {
        Some(rest) => format!("−{rest}"),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(low: f64, high: f64) -> Vec<String> {
        Scale::new((low, high), (0.0, 100.0), 5, true).ticks().into_iter().map(|t| t.1).collect()
    }

    #[test]
    fn ticks_are_round_and_enclose_the_values() {
        assert_eq!(labels(0.03, 0.97), ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(labels(-1.2, 0.4), ["−1.5", "−1.0", "−0.5", "0", "0.5"]);
        assert_eq!(labels(1.0, 11_000.0), ["0", "2.5k", "5.0k", "7.5k", "10.0k", "12.5k"]);
        assert_eq!(labels(0.0, 4e-5), ["0", "1e−5", "2e−5", "3e−5", "4e−5"]);
        assert_eq!(labels(0.0, 8.5e-4), ["0", "2e−4", "4e−4", "6e−4", "8e−4", "1e−3"]);
        assert_eq!(labels(12.0, 61.0), ["10", "20", "30", "40", "50", "60", "70"]);
    }

    #[test]
    fn a_constant_an_absent_and_a_zero_curve_still_have_an_axis() {
        for (low, high) in [(0.5, 0.5), (0.0, 0.0), (-3.0, -3.0), (f64::INFINITY, f64::NEG_INFINITY)] {
            let scale = Scale::new((low, high), (0.0, 100.0), 4, true);
            assert!(scale.ticks().len() >= 3, "{scale:?}");
            let middle = if low.is_finite() { scale.place(low) } else { 50.0 };
            assert!((0.0..=100.0).contains(&middle), "{scale:?}");
        }
    }

    #[test]
    fn the_ends_of_an_axis_are_its_places() {
        let scale = Scale::new((0.0, 10.0), (200.0, 20.0), 5, false);
        assert_eq!((scale.place(0.0), scale.place(10.0), scale.place(5.0)), (200.0, 20.0, 110.0));
    }

    #[test]
    fn values_are_written_with_about_four_digits() {
        let texts = [0.0, 0.0004, 0.5, -12.345, 123.456, 4567.8].map(short);
        assert_eq!(texts, ["0", "4e−4", "0.500", "−12.35", "123.5", "4568"]);
    }
}
