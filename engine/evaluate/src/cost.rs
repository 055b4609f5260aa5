//! What a run cost, beside what it reached and beside what others say of theirs.

use std::fmt::Write;

use serde::Serialize;

use querywright_data::cost::{CostConfig, Spent};

/// A run's cost as a table.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct CostTable {
    /// The run first, then what was claimed elsewhere.
    pub rows: Vec<CostRow>,
    /// What could not be measured, and why.
    pub notes: Vec<String>,
}

/// A row; what is not known is empty.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct CostRow {
    /// What was run, and whose figures these are.
    pub run: String,
    /// What it reached.
    pub quality: String,
    /// How long it took.
    pub time: String,
    /// Tokens of prompts and of completions.
    pub tokens: String,
    /// Memory of the process at most.
    pub memory: String,
    /// Energy of the machine.
    pub energy: String,
    /// Money.
    pub money: String,
}

/// Names of the columns.
pub(super) const COLUMNS: [&str; 7] = ["run", "reached", "time", "tokens", "memory", "energy", "money"];

impl CostTable {
    /// The cost of a run that reached `quality`, by the user's prices, and the claim of Rec-R1's paper.
    pub fn of(run: &str, quality: &str, spent: &Spent, prices: &CostConfig, without_energy: Option<&str>) -> Self {
        let own = CostRow {
            run: run.to_owned(),
            quality: quality.to_owned(),
            time: format!("{:.0} s", spent.seconds),
            tokens: format!("{} + {}", spent.prompt_tokens, spent.completion_tokens),
            memory: spent.peak_memory.map_or_else(String::new, |b| format!("{:.2} GiB", b as f64 / f64::from(1 << 30))),
            energy: spent.joules.map_or_else(String::new, |joules| format!("{joules:.0} J")),
            money: match (prices.of(spent), &prices.currency) {
                (Some(money), Some(currency)) => format!("{money:.4} {currency}"),
                _ => String::new(),
            },
        };
        let mut notes = Vec::new();
        if spent.joules.is_none() {
            let why = without_energy.unwrap_or("a counter could not be read all the time, or the run was resumed");
            notes.push(format!("energy is not known: {why}"));
        }
        if spent.on_gpu {
            notes.push("memory and energy of the GPU are not included".to_owned());
        }
        if prices.of(spent).is_none() {
            notes.push("no price was given: set [cost] in the configuration".to_owned());
        }
        notes.push(
            "the rows of Rec-R1 are the claim of its paper (arXiv 2503.24289) about its own data and machines; nothing of them \
             was measured here"
                .to_owned(),
        );
        let rows = std::iter::once(own).chain(THEIRS.map(|[run, quality, time, money]| CostRow {
            run: run.into(),
            quality: quality.into(),
            time: time.into(),
            money: money.into(),
            tokens: String::new(),
            memory: String::new(),
            energy: String::new(),
        }));
        Self { rows: rows.collect(), notes }
    }

    /// The table for a terminal.
    pub fn text(&self) -> String {
        let cells: Vec<[&str; 7]> = std::iter::once(COLUMNS).chain(self.rows.iter().map(CostRow::cells)).collect();
        let width = |column: usize| {
            cells.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..COLUMNS.len()).map(width).collect();
        let mut out = String::from("cost of training\n");
        for row in &cells {
            let line: Vec<String> = row
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{:<width$}", if cell.is_empty() { "–" } else { *cell }))
                .collect();
            let _ = writeln!(out, "{}", line.join("  ").trim_end());
        }
        for note in &self.notes {
            let _ = writeln!(out, "({note})");
        }
        out
    }
}

impl CostRow {
    pub(super) fn cells(&self) -> [&str; 7] {
        [&self.run, &self.quality, &self.time, &self.tokens, &self.memory, &self.energy, &self.money]
    }
}

/// The claim of Rec-R1's paper: run, reached, time, money.
const THEIRS: [[&str; 4]; 2] = [
    ["Rec-R1 (its paper's claim)", "as its SFT pipeline", "about 210 s", "about 0.48 USD"],
    ["SFT pipeline (its paper's claim)", "", "about 7.5 h", "about 15.60 USD"],
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_stands_beside_the_paper_s_claim_which_is_called_theirs_and_what_is_unknown_is_said_to_be() {
        let mut spent = Spent::default();
        (spent.seconds, spent.prompt_tokens, spent.completion_tokens) = (90.0, 3000, 40);
        let table = CostTable::of("trained", "nDCG@10 0.4", &spent, &CostConfig::default(), Some("no counters"));
        let text = table.text();
        assert!(text.contains("trained") && text.contains("90 s") && text.contains("3000 + 40"), "{text}");
        assert!(text.contains("energy is not known: no counters") && text.contains("no price was given"), "{text}");
        assert_eq!(text.matches("(its paper's claim)").count(), 2);
        assert!(text.contains("nothing of them was measured here"), "{text}");
        let prices = CostConfig { currency: Some("EUR".into()), cpu_hour: Some(4.0), ..CostConfig::default() };
        (spent.joules, spent.peak_memory) = (Some(12.0), Some(1 << 30));
        let table = CostTable::of("trained", "", &spent, &prices, None);
        assert_eq!(table.rows[0].cells(), ["trained", "", "90 s", "3000 + 40", "1.00 GiB", "12 J", "0.1000 EUR"]);
        assert_eq!(table.notes.len(), 1);
    }
}
