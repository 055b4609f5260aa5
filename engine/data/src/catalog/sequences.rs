//! What users had over time, as a sequential task: find the next item, given those before.
//!
//! Each item of a user but the first is the target of a query. Where the files say nothing of splits they are
//! leave-one-out, as RecBole and the authors of Amazon Reviews make them: the last item of a user is in test, the one
//! before in dev, those before that in train.
//!
//! Items that a user comes back to are targets as any other. Where any user does, nothing of a history is excluded from
//! the rankings of the whole data set, as RecBole excludes nothing in sequential tasks: to exclude all but the target would
//! give it away. Where no user has an item twice, the history is excluded.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::dataset::Dataset;
use super::documents::Catalog;
use super::qrels::Qrels;
use super::warning::{Warning, WarningKind, Warnings};
use querywright_types::{Error, Judgements, Ordinal, Query, Result};

/// How many earlier items the history of a query holds at most.
const HISTORY: usize = 10;
/// How many titles, of the last items, make the text of a query.
const TITLES: usize = 5;
/// How many training queries are made at most: those with the shortest pasts are left out first.
const MOST_TRAINING: usize = 2_000_000;

/// A split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Part {
    Train,
    Dev,
    Test,
}

impl Part {
    const ALL: [Self; 3] = [Self::Train, Self::Dev, Self::Test];

    /// The split as other projects call it too: `train`, `valid`, `val`, `validation`, `dev`, `test`.
    pub(super) fn of_name(name: &str) -> Option<Self> {
        match name {
            "train" => Some(Self::Train),
            "valid" | "val" | "validation" | "dev" => Some(Self::Dev),
            "test" => Some(Self::Test),
            _ => None,
        }
    }

    /// Its name here.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Dev => "dev",
            Self::Test => "test",
        }
    }
}

/// An item that a user had.
#[derive(Debug, Clone, Copy)]
pub(super) struct Event {
    pub(super) time: f64,
    pub(super) item: Ordinal,
    /// The split that the file gives it; none where splits are leave-one-out.
    pub(super) part: Option<Part>,
}

/// The users in the order of the file, with what they had.
#[derive(Default)]
pub(super) struct Users {
    numbers: HashMap<String, usize>,
    users: Vec<(String, Vec<Event>)>,
}

impl Users {
    /// Adds an event.
    pub(super) fn push(&mut self, user: &str, event: Event) {
        let number = match self.numbers.get(user) {
            Some(number) => *number,
            None => {
                self.numbers.insert(user.to_owned(), self.users.len());
                self.users.push((user.to_owned(), Vec::new()));
                self.users.len() - 1
            }
        };
        self.users[number].1.push(event);
    }

    /// Puts each event's item in place of its number here, where there is one; says which events are dropped.
    pub(super) fn with_items(&mut self, item: impl Fn(u32) -> Option<Ordinal>, mut dropped: impl FnMut(&str, u32)) {
        for (user, events) in &mut self.users {
            events.retain_mut(|event| match item(event.item) {
                Some(item) => {
                    event.item = item;
                    true
                }
                None => {
                    dropped(user, event.item);
                    false
                }
            });
        }
    }

    /// Keeps the earliest event of each item of a user, and says which others there were.
    pub(super) fn first_of_each_item(&mut self, mut repeated: impl FnMut(&str, Ordinal)) {
        for (user, events) in &mut self.users {
            events.sort_by(|a, b| a.time.total_cmp(&b.time));
            let mut had = HashSet::with_capacity(events.len());
            events.retain(|event| {
                let new = had.insert(event.item);
                if !new {
                    repeated(user, event.item);
                }
                new
            });
        }
    }

    /// Each user's events from the oldest to the newest. Those of the same time keep the order of the file.
    pub(super) fn ordered(mut self) -> Vec<(String, Vec<Event>)> {
        self.users.iter_mut().for_each(|(_, events)| events.sort_by(|a, b| a.time.total_cmp(&b.time)));
        self.users
    }
}

/// A target whose history the file gives.
pub(super) struct Row {
    pub(super) user: String,
    pub(super) part: Part,
    /// Oldest first.
    pub(super) history: Vec<Ordinal>,
    pub(super) target: Ordinal,
}

/// The task while its queries are made.
pub(super) struct Task<'a> {
    /// The name of the data set.
    pub(super) name: String,
    pub(super) folder: &'a Path,
    /// What errors and warnings about interactions name.
    pub(super) interactions: &'a Path,
    pub(super) catalog: Catalog,
    pub(super) warnings: Warnings,
}

/// Queries, judgements and splits.
#[derive(Default)]
struct Made {
    repeats: bool,
    queries: Vec<Query>,
    qrels: Qrels,
    splits: [Vec<String>; 3],
}

impl Made {
    fn add(&mut self, catalog: &Catalog, (part, id): (Part, String), before: &[Ordinal], target: Ordinal) {
        let history = before[before.len().saturating_sub(HISTORY)..].to_vec();
        let titles = before[before.len().saturating_sub(TITLES)..].iter().map(|item| catalog.document(*item).title());
        let text = titles.collect::<Vec<_>>().join("\n");
        self.qrels.insert(id.as_str(), Judgements::new(vec![(target, 1)]));
        self.splits[part as usize].push(id.clone());
        self.queries.push(Query::new(id, text).with_history(history).with_repeats(self.repeats));
    }
}

impl Task<'_> {
    /// The data set of what the files gave: users with their events, or targets with their histories.
    ///
    /// # Errors
    /// Where they gave both: some files have histories, and some have none. Those of the two.
    pub(super) fn of(self, users: Users, rows: Vec<Row>) -> Result<Dataset> {
        match (users.users.is_empty(), rows.is_empty()) {
            (_, true) => self.of_users(users),
            (true, false) => self.of_rows(rows),
            (false, false) => {
                let remedy = "give the files of all splits the column of histories, or none of them";
                Err(Error::data(self.interactions, None, "some files give histories, and some do not", remedy))
            }
        }
    }

    /// The data set of users with their events.
    ///
    /// # Errors
    /// When no user has two items.
    pub(super) fn of_users(mut self, users: Users) -> Result<Dataset> {
        let users = users.ordered();
        let mut made = Made { repeats: self.warn_of_repeats(&users), ..Made::default() };
        let counts = |(_, events): &(String, Vec<Event>)| training(events).count();
        let most = self.bound(&users.iter().map(counts).collect::<Vec<_>>());
        for (user, events) in &users {
            let mut left_out = training(events).count().saturating_sub(most);
            for (place, event) in events.iter().enumerate().skip(1) {
                let part = part(events, place);
                if part == Part::Train && left_out > 0 {
                    left_out -= 1;
                    continue;
                }
                let id = match (event.part, part) {
                    (None, Part::Dev | Part::Test) => format!("{user}.{}", part.name()),
                    _ => format!("{user}.{}{place}", part.name()),
                };
                // What a later split holds is not known to an earlier one.
                let before = events.iter().take(place).rev().filter(|before| before.part.is_none_or(|of| of <= part));
                let mut before: Vec<Ordinal> = before.take(HISTORY).map(|event| event.item).collect();
                before.reverse();
                if !before.is_empty() {
                    made.add(&self.catalog, (part, id), &before, event.item);
                }
            }
        }
        self.finish(made, "no user has more than one interaction", "a sequential task needs users with at least two")
    }

    /// The data set of targets with their histories. Rows without a history make no query.
    ///
    /// # Errors
    /// When no row has a history.
    pub(super) fn of_rows(mut self, rows: Vec<Row>) -> Result<Dataset> {
        let repeats = rows.iter().any(|row| row.history.contains(&row.target));
        let mut made = Made { repeats, ..Made::default() };
        let mut counts: HashMap<(&str, Part), usize> = HashMap::new();
        for row in &rows {
            if repeats && row.history.contains(&row.target) {
                let example = format!("{} {}", row.user, self.catalog.id(row.target));
                self.warnings.add(Warning::new(WarningKind::RepeatedItems, self.interactions, example));
            }
            if row.part == Part::Train && !row.history.is_empty() {
                *counts.entry((row.user.as_str(), Part::Train)).or_default() += 1;
            }
        }
        for row in rows.iter().filter(|row| row.history.is_empty() && row.part != Part::Train) {
            self.warnings.add(Warning::new(WarningKind::WithoutHistory, self.interactions, &row.user));
        }
        let most = self.bound(&counts.values().copied().collect::<Vec<_>>());
        let mut left_out: HashMap<&str, usize> =
            counts.iter().map(|((user, _), count)| (*user, count.saturating_sub(most))).collect();
        let mut numbers: HashMap<(&str, Part), usize> = HashMap::new();
        for row in rows.iter().filter(|row| !row.history.is_empty()) {
            let number = numbers.entry((row.user.as_str(), row.part)).or_default();
            *number += 1;
            let left = left_out.get_mut(row.user.as_str()).filter(|left| row.part == Part::Train && **left > 0);
            if let Some(left) = left {
                *left -= 1;
                continue;
            }
            let id = format!("{}.{}{number}", row.user, row.part.name());
            made.add(&self.catalog, (row.part, id), &row.history, row.target);
        }
        self.finish(made, "no row has a history of items that are there", "a sequential task needs what came before")
    }

    /// How many training queries a user may have at most; `counts` are those that each would have. A warning counts those
    /// that are left out.
    fn bound(&mut self, counts: &[usize]) -> usize {
        let (most, left_out) = most_for_each(counts, MOST_TRAINING);
        if left_out > 0 {
            self.warnings.add(Warning::of(WarningKind::TrainingLeftOut, self.interactions, left_out));
        }
        most
    }

    /// Whether any user has an item twice; a warning counts the interactions.
    fn warn_of_repeats(&mut self, users: &[(String, Vec<Event>)]) -> bool {
        let mut any = false;
        for (user, events) in users {
            let mut had = HashSet::with_capacity(events.len());
            for event in events.iter().filter(|event| !had.insert(event.item)) {
                any = true;
                let example = format!("{user} {}", self.catalog.id(event.item));
                self.warnings.add(Warning::new(WarningKind::RepeatedItems, self.interactions, example));
            }
        }
        any
    }

    fn finish(self, made: Made, empty: &str, remedy: &str) -> Result<Dataset> {
        if made.queries.is_empty() {
            return Err(Error::data(self.interactions, None, empty, remedy));
        }
        let splits = Part::ALL.map(Part::name).into_iter().zip(made.splits).filter(|(_, ids)| !ids.is_empty());
        let splits = splits.map(|(split, ids)| (split.to_owned(), ids));
        let dataset = Dataset::from_parts(self.name, self.catalog, made.queries, made.qrels, splits);
        let dataset = dataset.map_err(|e| match e {
            Error::Argument { found, remedy, .. } => Error::data(self.interactions, None, found, remedy),
            other => other,
        })?;
        Ok(dataset.with_warnings(self.folder, self.warnings.into_vec()))
    }
}

/// The split of a user's item.
fn part(events: &[Event], place: usize) -> Part {
    let left_one_out = match events.len() - place {
        1 => Part::Test,
        2 => Part::Dev,
        _ => Part::Train,
    };
    events[place].part.unwrap_or(left_one_out)
}

/// The places of a user's training targets.
fn training(events: &[Event]) -> impl Iterator<Item = usize> + '_ {
    (1..events.len()).filter(|place| part(events, *place) == Part::Train)
}

/// The largest number, 1 at least, to which counts can be cut so that they sum to `limit` at most, and by how much that
/// lowers their sum.
fn most_for_each(counts: &[usize], limit: usize) -> (usize, usize) {
    let sum = |most: usize| counts.iter().map(|count| *count.min(&most)).sum::<usize>();
    let total = sum(usize::MAX);
    let (mut least, mut most) = (1, counts.iter().copied().max().unwrap_or(1).max(1));
    while least < most {
        let middle = least + (most - least).div_ceil(2);
        match sum(middle) <= limit {
            true => least = middle,
            false => most = middle - 1,
        }
    }
    (least, total - sum(least))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_with_the_most_training_queries_lose_some_first() {
        assert_eq!(most_for_each(&[1, 5, 9, 2], 17), (9, 0));
        assert_eq!(most_for_each(&[1, 5, 9, 2], 16), (8, 1));
        assert_eq!(most_for_each(&[1, 5, 9, 2], 10), (3, 8));
        assert_eq!(most_for_each(&[1, 5, 9, 2], 8), (2, 10));
        assert_eq!(most_for_each(&[4, 4], 1), (1, 6));
        assert_eq!(most_for_each(&[], 1), (1, 0));
    }
}
