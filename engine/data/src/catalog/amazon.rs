//! Amazon Reviews 2023 (McAuley-Lab): what is known of items (`meta_NAME.jsonl`) and who had them when.
//!
//! Interactions are the authors' splits (`NAME.train.csv`, `NAME.valid.csv`, `NAME.test.csv`, by time or leave-one-out, with
//! or without the column `history`), else all ratings (`NAME.csv`), else the reviews themselves (`NAME.jsonl`). The
//! last two are split leave-one-out. The catalogue holds the items that somebody had and of which there is a record;
//! interactions with others are left out, as the authors do.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::csv::Table;
use super::dataset::Dataset;
use super::documents::{Catalog, CatalogBuilder};
use super::json::Json;
use super::lines::{Line, Lines, NAMED, quoted};
use super::paths::{files, find, name_of, stem};
use super::records::{at_line, texts};
use super::sequences::{Event, Part, Row, Task, Users};
use super::settings::Settings;
use super::warning::{Warning, WarningKind, Warnings};
use querywright_types::{Error, Result};

/// How the files of items begin.
const META: &str = "meta_";
/// What is searched of an item, in this order; the rest are numbers, addresses and pictures.
const FIELDS: [&str; 5] = ["title", "store", "features", "description", "categories"];
/// The columns of a file without a header, as the authors' scripts write it.
const COLUMNS: [&str; 5] = ["user_id", "parent_asin", "rating", "timestamp", "history"];

/// Whether a folder holds such data.
pub(super) fn is_here(path: &Path) -> bool {
    files(path, "jsonl", &mut Warnings::default())
        .is_ok_and(|files| files.iter().any(|file| stem(file).starts_with(META)))
}

/// Opens a folder of it.
pub(super) fn open(path: &Path, settings: &Settings) -> Result<Dataset> {
    let mut warnings = Warnings::default();
    let meta = meta(path, &mut warnings)?;
    let name = stem(&meta).trim_start_matches(META).to_owned();
    let mut found = Interactions { least: settings.least_rating, ..Interactions::default() };
    let interactions = found.read(path, &name, &mut warnings)?;
    let catalog = read_items(&meta, &found.items, &mut warnings)?;
    let Interactions { items, mut users, rows, .. } = found;
    let mut dropped = |user: &str, number: u32| {
        let example = format!("{user} {}", items.name(number));
        warnings.add(Warning::new(WarningKind::ItemsWithoutText, &interactions, example));
    };
    let ordinal = |number: u32| catalog.ordinal(items.name(number));
    users.with_items(ordinal, &mut dropped);
    let rows: Vec<Row> = rows
        .into_iter()
        .filter_map(|row| match ordinal(row.target) {
            Some(target) => {
                let mut history = Vec::with_capacity(row.history.len());
                for number in &row.history {
                    match ordinal(*number) {
                        Some(item) => history.push(item),
                        None => dropped(&row.user, *number),
                    }
                }
                Some(Row { history, target, ..row })
            }
            None => {
                dropped(&row.user, row.target);
                None
            }
        })
        .collect();
    users.first_of_each_item(|user, item| {
        let example = format!("{user} {}", catalog.id(item));
        warnings.add(Warning::new(WarningKind::LaterReviews, &interactions, example));
    });
    let task = Task { name: name_of(path), folder: path, interactions: &interactions, catalog, warnings };
    task.of(users, rows)
}

/// The one file of items.
fn meta(path: &Path, warnings: &mut Warnings) -> Result<PathBuf> {
    let mut found = files(path, "jsonl", warnings)?;
    found.retain(|file| stem(file).starts_with(META));
    let name = name_of(path);
    if found.len() > 1 {
        found.retain(|file| stem(file).strip_prefix(META) == Some(name.as_str()));
    }
    found.pop().ok_or_else(|| {
        let remedy = format!("keep one category a folder, or call the right file {META}{name}.jsonl");
        Error::data(path, None, format!("there are several files {META}NAME.jsonl"), remedy)
    })
}

/// Ids of items, numbered in the order in which they come.
#[derive(Default)]
struct Items {
    numbers: HashMap<String, u32>,
    names: Vec<String>,
}

impl Items {
    fn number(&mut self, id: &str) -> u32 {
        if let Some(number) = self.numbers.get(id) {
            return *number;
        }
        // More than four billion ids are more than memory holds.
        let number = self.names.len() as u32;
        self.numbers.insert(id.to_owned(), number);
        self.names.push(id.to_owned());
        number
    }

    fn name(&self, number: u32) -> &str {
        self.names.get(number as usize).map_or("", String::as_str)
    }
}

/// Who had what, with numbers in place of ordinals: the file of items is larger and is read after.
#[derive(Default)]
struct Interactions {
    items: Items,
    users: Users,
    rows: Vec<Row>,
    least: Option<f64>,
}

impl Interactions {
    /// Reads the interactions of a category from the files that there are; gives the file, or the folder where there are
    /// several, which errors and warnings name.
    fn read(&mut self, path: &Path, name: &str, warnings: &mut Warnings) -> Result<PathBuf> {
        let mut any = false;
        for part in ["train", "valid", "test"] {
            if let Some(file) = find(path, &format!("{name}.{part}.csv"), warnings) {
                self.read_table(&file, Part::of_name(part))?;
                any = true;
            }
        }
        if any {
            return Ok(path.to_path_buf());
        }
        if let Some(file) = find(path, &format!("{name}.csv"), warnings) {
            self.read_table(&file, None)?;
            return Ok(file);
        }
        let file = find(path, &format!("{name}.jsonl"), warnings).ok_or_else(|| {
            let found = format!("there is {META}{name}.jsonl, and nothing that says who had these items");
            let remedy =
                format!("add {name}.train.csv, {name}.valid.csv and {name}.test.csv, or {name}.csv, or {name}.jsonl");
            Error::data(path, None, found, remedy)
        })?;
        self.read_reviews(&file)?;
        Ok(file)
    }

    fn add(&mut self, line: &Line<'_>, (user, item): (&str, &str), time: f64, part: Option<Part>) -> Result<()> {
        for (name, value) in [("user_id", user), ("parent_asin", item)] {
            if value.is_empty() {
                return Err(line.refuse(format!("{name} is empty"), "give every interaction a user and an item"));
            }
        }
        let item = self.items.number(item);
        self.users.push(user, Event { time, item, part });
        Ok(())
    }

    fn read_table(&mut self, path: &Path, part: Option<Part>) -> Result<()> {
        let table =
            Table::open(path, "the header user_id,parent_asin,rating,timestamp, then one rating a line", &COLUMNS)?;
        let [user, item, time] = ["user_id", "parent_asin", "timestamp"].map(|name| table.column(name));
        let (user, item, time) = (user?, item?, time?);
        let (rating, history) = (table.find("rating"), table.find("history"));
        if self.least.is_some() && (rating.is_none() || (history.is_some() && part.is_some())) {
            let found = "least_rating is set, and this file does not have the ratings of all that its histories hold";
            return Err(Error::data(path, None, found, "take the key out, or use files without the column history"));
        }
        table.each(|row| {
            let number = |name: &str, column: usize| {
                let text = row.get(column);
                let number = text.trim().parse::<f64>().ok().filter(|number| number.is_finite());
                let refuse = || row.line.refuse(format!("the {name} is {}", quoted(text)), "it must be a number");
                number.ok_or_else(refuse)
            };
            let at = number("timestamp", time)?;
            let rating = rating.map(|rating| number("rating", rating)).transpose()?;
            if self.least.is_some_and(|least| rating.is_some_and(|rating| rating < least)) {
                return Ok(());
            }
            let (Some(history), Some(part)) = (history, part) else {
                return self.add(&row.line, (row.get(user), row.get(item)), at, part);
            };
            if row.get(user).is_empty() || row.get(item).is_empty() {
                let found = "user_id or parent_asin is empty";
                return Err(row.line.refuse(found, "give every interaction a user and an item"));
            }
            let history = row.get(history).split_whitespace().map(|id| self.items.number(id)).collect();
            let target = self.items.number(row.get(item));
            self.rows.push(Row { user: row.get(user).to_owned(), part, history, target });
            Ok(())
        })
    }

    fn read_reviews(&mut self, path: &Path) -> Result<()> {
        const REMEDY: &str = "a review has a user_id, a parent_asin, a rating and a timestamp";
        Lines::open(path, "one review a line, a JSON object")?.each(NAMED, |line| {
            let review: Review<'_> = serde_json::from_str(line.text).map_err(|e| {
                let message = e.to_string();
                line.refuse(message.split(" at line ").next().unwrap_or_default(), REMEDY)
            })?;
            if self.least.is_some_and(|least| review.rating < least) {
                return Ok(());
            }
            self.add(&line, (&review.user_id, &review.parent_asin), review.timestamp as f64, None)
        })
    }
}

/// What is read of a review.
#[derive(Deserialize)]
struct Review<'a> {
    #[serde(borrow)]
    user_id: Cow<'a, str>,
    #[serde(borrow)]
    parent_asin: Cow<'a, str>,
    rating: f64,
    #[serde(alias = "sort_timestamp", alias = "sortTimestamp")]
    timestamp: i64,
}

/// The items that somebody had, in the order of the file.
fn read_items(path: &Path, items: &Items, warnings: &mut Warnings) -> Result<Catalog> {
    const REMEDY: &str = "every line must be one JSON object with a \"parent_asin\"";
    let mut builder = CatalogBuilder::new();
    let mut known = vec![false; items.names.len()];
    Lines::open(path, "one item a line, a JSON object")?.each(NAMED, |line| {
        let value = Json::parse(line.text).map_err(|found| line.refuse(found, REMEDY))?;
        let Json::Object(values) = value else { return Err(line.refuse(format!("found {}", value.kind()), REMEDY)) };
        let value = |name: &str| values.iter().find_map(|(key, value)| (key == name).then_some(value));
        let id = match value("parent_asin") {
            Some(Json::Text(id)) if !id.is_empty() => id,
            Some(other) => return Err(line.refuse(format!("\"parent_asin\" is {}", other.kind()), REMEDY)),
            None => return Err(line.refuse("there is no \"parent_asin\"", REMEDY)),
        };
        let Some(number) = items.numbers.get(id) else { return Ok(()) };
        if std::mem::replace(&mut known[*number as usize], true) {
            warnings.add(Warning::new(WarningKind::RepeatedItemRecords, path, id));
            return Ok(());
        }
        let fields = FIELDS.into_iter().map(|name| (name, value(name).map(texts).unwrap_or_default()));
        builder.push(id, fields).map(drop).map_err(|e| at_line(e, &line))
    })?;
    Ok(builder.finish())
}

#[cfg(test)]
mod tests;
