//! A comparison as a table: aligned for the terminal, and in Markdown.

use std::fmt::Write;

use super::{Comparison, MeasureComparison, Row};
use querywright_data::metrics::significance::Interval;

/// One table: its header and its rows, the first column being names.
struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Comparison {
    /// Tables for a terminal, one a measure, and what the systems cost.
    pub fn text(&self) -> String {
        self.written(|table| table.aligned())
    }

    /// The same in Markdown.
    pub fn markdown(&self) -> String {
        self.written(|table| table.markdown())
    }

    fn written(&self, write: impl Fn(&Table) -> String) -> String {
        let mut out = String::new();
        for measure in &self.measures {
            out.push_str(&write(&self.table(measure)));
            out.push('\n');
        }
        out.push_str(&write(&self.cost_table()));
        let _ = writeln!(out, "\n{}", self.legend());
        out
    }

    /// How to read the tables.
    pub(super) fn legend(&self) -> String {
        format!(
            "{} queries; in brackets 95% bootstrap intervals; differences are to {}; p-values are two-sided and \
             corrected by Holm: paired t-test, Fisher randomisation.",
            self.queries, self.reference
        )
    }

    fn table(&self, measure: &MeasureComparison) -> Table {
        let header = [
            "system",
            &measure.measure.to_string(),
            &format!("difference to {}", self.reference),
            "p (t-test)",
            "p (randomisation)",
            "wins/ties/losses",
        ];
        let rows = measure.rows.iter().map(|row| {
            let mut cells = vec![row.label(), interval(&row.mean, false)];
            // The tests of a row that is another one's stand there.
            cells.extend(match row.against.as_ref().filter(|_| row.same_as.is_none()) {
                Some(a) => [
                    interval(&a.difference, true),
                    probability(a.t_test_p_holm),
                    probability(a.randomisation_p_holm),
                    format!("{}/{}/{}", a.wins, a.ties, a.losses),
                ],
                None => std::array::from_fn(|_| "–".to_owned()),
            });
            cells
        });
        Table { header: header.map(str::to_owned).to_vec(), rows: rows.collect() }
    }

    fn cost_table(&self) -> Table {
        let header = ["system", "words a query", "ms a query", "fallbacks", "kept", "faults"];
        let row = |cost: &super::Cost| {
            vec![
                cost.system.clone(),
                format!("{:.1}", cost.mean_query_words),
                milliseconds(cost.milliseconds_per_query),
                cost.fallbacks.to_string(),
                cost.kept.to_string(),
                cost.faults.to_string(),
            ]
        };
        Table { header: header.map(str::to_owned).to_vec(), rows: self.costs.iter().map(row).collect() }
    }
}

impl Row {
    /// The system's name, with the one that it is.
    pub(super) fn label(&self) -> String {
        match &self.same_as {
            Some(system) => format!("{} = {system}", self.system),
            None => self.system.clone(),
        }
    }
}

impl Table {
    /// Columns side by side, two spaces between; names to the left, figures to the right.
    fn aligned(&self) -> String {
        let width = |column: usize| {
            let cells = std::iter::once(&self.header).chain(&self.rows);
            cells.filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.header.len()).map(width).collect();
        let line = |cells: &[String]| {
            let mut line = String::new();
            for (i, (cell, width)) in cells.iter().zip(&widths).enumerate() {
                let _ = match i {
                    0 => write!(line, "{cell:<width$}"),
                    _ => write!(line, "  {cell:>width$}"),
                };
            }
            line.truncate(line.trim_end().len());
            line + "\n"
        };
        let rule = "─".repeat(widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1)) + "\n";
        line(&self.header) + &rule + &self.rows.iter().map(|row| line(row)).collect::<String>()
    }

    fn markdown(&self) -> String {
        let line = |cells: &[String]| {
            let escaped: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
            format!("| {} |\n", escaped.join(" | "))
        };
        let rule = format!("|---{}|\n", "|---:".repeat(self.header.len().saturating_sub(1)));
        line(&self.header) + &rule + &self.rows.iter().map(|row| line(row)).collect::<String>()
    }
}

/// `0.3512 [0.3312, 0.3712]`, with signs for a difference.
pub(super) fn interval(interval: &Interval, signed: bool) -> String {
    let number = |value: f64| match signed {
        true => minus(format!("{value:+.4}")),
        false => minus(format!("{value:.4}")),
    };
    format!("{} [{}, {}]", number(interval.mean), number(interval.low), number(interval.high))
}

/// A p-value with four decimals; what is smaller is only said to be so.
pub(super) fn probability(p: f64) -> String {
    if p < 1e-4 { "<0.0001".to_owned() } else { format!("{p:.4}") }
}

/// Three significant digits or so.
pub(super) fn milliseconds(value: f64) -> String {
    match value {
        v if v < 10.0 => format!("{v:.2}"),
        v if v < 100.0 => format!("{v:.1}"),
        v => format!("{v:.0}"),
    }
}

/// A minus sign as wide as a plus; a zero that was rounded from below has none.
fn minus(number: String) -> String {
    match number.strip_prefix('-') {
        Some(digits) if digits.chars().any(|c| c.is_ascii_digit() && c != '0') => format!("−{digits}"),
        Some(digits) => digits.to_owned(),
        None => number,
    }
}

#[cfg(test)]
mod tests {
    use super::super::comparison::tests::made_up;
    use super::*;

    fn comparison() -> Comparison {
        let raw: Vec<f64> = (0..40).map(|i| f64::from(i % 5) / 10.0).collect();
        let worse: Vec<f64> = raw.iter().enumerate().map(|(i, v)| v - 0.01 - (i % 2) as f64 / 100.0).collect();
        Comparison::of(&[made_up("raw", &raw), made_up("a|b", &worse)], "raw").unwrap()
    }

    #[test]
    fn the_columns_of_a_terminal_table_line_up() {
        let text = comparison().text();
        let table: Vec<&str> = text.lines().take(4).collect();
        assert!(table[0].starts_with("system  ") && table[0].contains("difference to raw"), "{text}");
        let ends = |line: &str| line.chars().count();
        assert_eq!(ends(table[0]), ends(table[1]), "{text}");
        assert_eq!(ends(table[2]), ends(table[3]), "{text}");
        assert!(table[3].contains("−0.0150 [−0.0165, −0.0135]"), "{text}");
        assert!(table[3].ends_with("0/0/40") && table[3].contains("<0.0001"), "{text}");
        assert!(text.contains("40 queries") && text.contains("12.5"), "{text}");
    }

    #[test]
    fn markdown_has_as_many_cells_in_every_line_and_escapes_bars() {
        let text = comparison().markdown();
        assert!(text.contains("| a\\|b |"), "{text}");
        let bars = |line: &str| line.replace("\\|", "").matches('|').count();
        assert!(text.lines().take(4).all(|line| bars(line) == 7), "{text}");
        assert!(text.contains("|---|---:|---:|---:|---:|---:|\n"), "{text}");
    }

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!(probability(0.00001), "<0.0001");
        assert_eq!(probability(0.01234), "0.0123");
        assert_eq!(minus("-0.0000".into()), "0.0000");
        assert_eq!(
            (milliseconds(1.2345), milliseconds(56.78), milliseconds(1234.5)),
            ("1.23".into(), "56.8".into(), "1234".into())
        );
    }
}
