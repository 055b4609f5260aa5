//! What a system changes for the queries: how many it helps and hurts, and where most.

use std::fmt::Write;

use serde::Serialize;

use super::Evaluated;
use querywright_data::metrics::Measure;
use querywright_types::{Judgements, Query};

/// A query with its values under two systems.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Change {
    /// The query as it came.
    pub query: String,
    /// What the system searches for, and the ids of the documents that it puts first.
    pub rewrite: String,
    /// The measure under the other system.
    pub before: f64,
    /// The measure under the system.
    pub after: f64,
}

/// A system against another one, query by query.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Changes {
    /// The system.
    pub system: String,
    /// What it is set against.
    pub against: String,
    /// What both were measured by.
    pub measure: Measure,
    /// How many queries.
    pub queries: usize,
    /// Queries on which the system is better.
    pub improved: usize,
    /// Queries on which it is worse.
    pub hurt: usize,
    /// Those that it improves most, the greatest gain first.
    pub most_improved: Vec<Change>,
    /// Those that it hurts most, the greatest loss first.
    pub most_hurt: Vec<Change>,
}

impl Changes {
    /// How `system` does against `against`, with up to `count` examples either way. None where a value is missing; both
    /// must have been measured on `queries`.
    pub fn of(
        queries: &[(&Query, &Judgements)],
        system: &Evaluated,
        against: &Evaluated,
        measure: Measure,
        count: usize,
    ) -> Option<Self> {
        let (new, old) = (system.system.values(measure)?, against.system.values(measure)?);
        let change = |place: usize| {
            Some(Change {
                query: queries.get(place)?.0.text.clone(),
                rewrite: system.shown.get(place)?.clone(),
                before: *old.get(place)?,
                after: *new.get(place)?,
            })
        };
        let changes: Vec<Change> = (0..queries.len()).map(change).collect::<Option<_>>()?;
        let gain = |change: &&Change| change.after - change.before;
        let mut better: Vec<&Change> = changes.iter().filter(|change| gain(change) > 0.0).collect();
        let mut worse: Vec<&Change> = changes.iter().filter(|change| gain(change) < 0.0).collect();
        // Of equals the earlier query comes first.
        better.sort_by(|a, b| gain(b).total_cmp(&gain(a)));
        worse.sort_by(|a, b| gain(a).total_cmp(&gain(b)));
        let first = |changes: &[&Change]| changes.iter().take(count).map(|change| (*change).clone()).collect();
        Some(Self {
            system: system.system.name.clone(),
            against: against.system.name.clone(),
            measure,
            queries: changes.len(),
            improved: better.len(),
            hurt: worse.len(),
            most_improved: first(&better),
            most_hurt: first(&worse),
        })
    }

    /// How many queries are better and how many worse, as a sentence.
    pub fn sentence(&self) -> String {
        let share = |part: usize| format!("{:.0}%", 100.0 * part as f64 / self.queries.max(1) as f64);
        let Self { system, against, measure, queries, improved, hurt, .. } = self;
        format!(
            "{system} against {against}, {measure} of {queries} queries: {improved} better ({}), {hurt} hurt ({})",
            share(*improved),
            share(*hurt)
        )
    }

    /// The sentence and the examples, for a terminal.
    pub fn text(&self) -> String {
        let mut out = self.sentence() + "\n";
        for (heading, changes) in [("improved most", &self.most_improved), ("hurt most", &self.most_hurt)] {
            if !changes.is_empty() {
                let _ = writeln!(out, "{heading}:");
            }
            for Change { query, rewrite, before, after } in changes {
                let (query, rewrite) = (one_line(query), one_line(rewrite));
                let _ = writeln!(out, "  {before:.3} -> {after:.3}  {query}\n                  {rewrite}");
            }
        }
        out
    }
}

/// A text on one line of a terminal; a history has many.
pub(super) fn one_line(text: &str) -> String {
    const WIDTH: usize = 100;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(WIDTH) {
        Some((end, _)) => format!("{}…", line.get(..end).unwrap_or_default()),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::super::comparison::tests::evaluated;
    use super::*;

    #[test]
    fn what_was_improved_and_hurt_most_is_shown_with_the_share_of_queries_hurt() {
        let queries: Vec<Query> = (0..8).map(|i| Query::text(format!("query\n{i}"))).collect();
        let judged = Judgements::default();
        let pairs: Vec<(&Query, &Judgements)> = queries.iter().map(|q| (q, &judged)).collect();
        let raw = evaluated("raw", &[0.5; 8]);
        let trained = evaluated("trained", &[0.5, 0.75, 0.25, 1.0, 0.0, 0.75, 0.5, 0.75]);
        let got = Changes::of(&pairs, &trained, &raw, Measure::NDCG_10, 2).unwrap();
        assert_eq!((got.queries, got.improved, got.hurt), (8, 4, 2));
        let shown = |changes: &[Change]| changes.iter().map(|c| (c.rewrite.clone(), c.after)).collect::<Vec<_>>();
        assert_eq!(shown(&got.most_improved), [("trained 3".into(), 1.0), ("trained 1".into(), 0.75)]);
        assert_eq!(shown(&got.most_hurt), [("trained 4".into(), 0.0), ("trained 2".into(), 0.25)]);
        let text = got.text();
        assert!(
            text.starts_with("trained against raw, nDCG@10 of 8 queries: 4 better (50%), 2 hurt (25%)\n"),
            "{text}"
        );
        assert!(text.contains("hurt most:\n  0.500 -> 0.000  query 4\n                  trained 4\n"), "{text}");
        let same = Changes::of(&pairs, &raw, &raw, Measure::NDCG_10, 5).unwrap();
        assert_eq!((same.improved, same.hurt, same.text().lines().count()), (0, 0, 1));
        assert_eq!(Changes::of(&pairs, &raw, &trained, "P@3".parse().unwrap(), 5), None);
        assert!(one_line(&"wörd ".repeat(40)).chars().count() == 101);
    }
}
