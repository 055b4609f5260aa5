//! RecBole's atomic files: interactions (`NAME.inter`) and items (`NAME.item`) as a sequential task.
//!
//! Both are tab-separated under a header of typed names (`user_id:token`, `timestamp:float`). Every interaction of a
//! user but the first is a query: find this item, given what came before. Splits are leave-one-out: the last
//! interaction of a user is in test, the one before in dev, those before that in train.
//!
//! Items that a user comes back to are targets as any other. Where any user does, nothing of a history is excluded from
//! the rankings of the whole data set, as RecBole excludes nothing in sequential tasks: to exclude all but the target would
//! give it away. Where no user has an item twice, the history is excluded.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::dataset::Dataset;
use super::documents::{Catalog, CatalogBuilder};
use super::lines::{Line, Lines, NAMED, quoted};
use super::paths::{files, find, name_of, stem};
use super::qrels::Qrels;
use super::records::at_line;
use super::warning::{Warning, WarningKind, Warnings};
use querywright_types::{Error, Judgements, Ordinal, Query, Result, nearest};

/// How many earlier items the history of a query holds at most.
const HISTORY: usize = 10;
/// How many titles, of the last items, make the text of a query.
const TITLES: usize = 5;

/// Opens a folder that holds a `.inter` file.
pub(super) fn open(path: &Path) -> Result<Dataset> {
    let name = name_of(path);
    let mut warnings = Warnings::default();
    let found = files(path, "inter", &mut warnings)?;
    let interactions = match &found[..] {
        [only] => only,
        several => several.iter().find(|file| stem(file) == name).ok_or_else(|| {
            Error::data(
                path,
                None,
                format!("there are {} .inter files in this folder", several.len()),
                format!("keep one, or name the right one {name}.inter"),
            )
        })?,
    };
    let items = format!("{}.item", stem(interactions));
    let items = find(path, &items, &mut warnings).unwrap_or_else(|| path.join(&items));
    let catalog = read_items(&items)?;
    let users = read_interactions(interactions, &catalog)?;
    let repeats = warn_of_repeats(interactions, &catalog, &users, &mut warnings);
    let mut queries = Vec::new();
    let mut qrels = Qrels::default();
    let mut splits: [(&str, Vec<String>); 3] = [("train", vec![]), ("dev", vec![]), ("test", vec![])];
    for (user, items) in &users {
        for (place, target) in items.iter().enumerate().skip(1) {
            let (split, id) = match items.len() - place {
                1 => (2, format!("{user}.test")),
                2 => (1, format!("{user}.dev")),
                _ => (0, format!("{user}.train{place}")),
            };
            let before = &items[..place];
            let history = before[place.saturating_sub(HISTORY)..].to_vec();
            let titles = before[place.saturating_sub(TITLES)..].iter().map(|item| catalog.document(*item).title());
            let text = titles.collect::<Vec<_>>().join("\n");
            qrels.insert(id.as_str(), Judgements::new(vec![(*target, 1)]));
            splits[split].1.push(id.clone());
            queries.push(Query::new(id, text).with_history(history).with_repeats(repeats));
        }
    }
    if queries.is_empty() {
        return Err(Error::data(
            interactions,
            None,
            "no user has more than one interaction",
            "a sequential task needs users with at least two",
        ));
    }
    let splits = splits.into_iter().filter(|(_, ids)| !ids.is_empty()).map(|(split, ids)| (split.to_owned(), ids));
    let made = Dataset::from_parts(name, catalog, queries, qrels, splits).map_err(|e| match e {
        Error::Argument { found, remedy, .. } => Error::data(interactions, None, found, remedy),
        other => other,
    })?;
    Ok(made.with_warnings(path, warnings.into_vec()))
}

/// A user's items, from the oldest to the newest.
type User = (String, Vec<Ordinal>);

/// Whether any user has an item twice; a warning counts the interactions.
fn warn_of_repeats(path: &Path, catalog: &Catalog, users: &[User], warnings: &mut Warnings) -> bool {
    let mut any = false;
    for (user, items) in users {
        let mut had = HashSet::with_capacity(items.len());
        for item in items.iter().filter(|item| !had.insert(**item)) {
            any = true;
            let example = format!("{user} {}", catalog.id(*item));
            warnings.add(Warning::new(WarningKind::RepeatedItems, path, example));
        }
    }
    any
}

/// The users in the order of the file, each with their items from the oldest to the newest.
fn read_interactions(path: &Path, catalog: &Catalog) -> Result<Vec<User>> {
    let mut lines = Lines::open(path, "a header such as user_id:token, item_id:token, timestamp:float, with tabs")?;
    let header = match lines.next()? {
        Some(line) => Header::read(&line)?,
        None => return Ok(Vec::new()),
    };
    let (user, item) = (header.column("user_id")?, header.column("item_id")?);
    // Without times the order of the file is the order of events.
    let time = header.find("timestamp");
    let mut numbers: HashMap<String, usize> = HashMap::new();
    let mut users: Vec<(String, Vec<(f64, Ordinal)>)> = Vec::new();
    lines.each(NAMED, |line| {
        let row = header.row(&line)?;
        let Some(ordinal) = catalog.ordinal(row[item]) else {
            return Err(line.refuse(
                format!("the item {} is not in the .item file", quoted(row[item])),
                "add the item there, or remove the line",
            ));
        };
        let time = match time.map(|time| (row[time], row[time].trim().parse::<f64>())) {
            None => 0.0,
            Some((_, Ok(time))) if time.is_finite() => time,
            Some((found, _)) => {
                return Err(line.refuse(format!("the timestamp is {}", quoted(found)), "a timestamp is a number"));
            }
        };
        let number = match numbers.get(row[user]) {
            Some(number) => *number,
            None if row[user].is_empty() => {
                return Err(line.refuse("the user id is empty", "give every interaction a user"));
            }
            None => {
                numbers.insert(row[user].to_owned(), users.len());
                users.push((row[user].to_owned(), Vec::new()));
                users.len() - 1
            }
        };
        users[number].1.push((time, ordinal));
        Ok(())
    })?;
    let ordered = |(user, mut events): (String, Vec<(f64, Ordinal)>)| {
        // Stable: events of the same time keep the order of the file.
        events.sort_by(|a, b| a.0.total_cmp(&b.0));
        (user, events.into_iter().map(|(_, item)| item).collect())
    };
    Ok(users.into_iter().map(ordered).collect())
}

/// Every column besides the id is a field; the one that names the item becomes `title`.
fn read_items(path: &Path) -> Result<Catalog> {
    if !path.exists() {
        return Err(Error::data(
            path,
            None,
            "the file is missing",
            "a query is made of the titles of items: write a header such as item_id:token, title:token_seq, then one \
             item a line, with tabs between",
        ));
    }
    let mut lines = Lines::open(path, "a header such as item_id:token, title:token_seq, with tabs")?;
    let header = match lines.next()? {
        Some(line) => Header::read(&line)?,
        None => return Ok(Catalog::default()),
    };
    let (id, title) = (header.column("item_id")?, header.title()?);
    let mut builder = CatalogBuilder::new();
    lines.each(NAMED, |line| {
        let row = header.row(&line)?;
        let name = |column: usize| if column == title { "title" } else { header.names[column].as_str() };
        let fields = (0..row.len()).filter(|column| *column != id).map(|column| (name(column), row[column].trim()));
        builder.push(row[id], fields).map(drop).map_err(|e| at_line(e, &line))
    })?;
    Ok(builder.finish())
}

/// The header of an atomic file: names and types of its columns.
struct Header {
    path: std::path::PathBuf,
    names: Vec<String>,
    types: Vec<String>,
}

impl Header {
    fn read(line: &Line) -> Result<Self> {
        let mut header = Self { path: line.path().to_path_buf(), names: Vec::new(), types: Vec::new() };
        for column in line.text.split('\t') {
            let Some((name, kind @ ("token" | "token_seq" | "float" | "float_seq"))) = column.trim().split_once(':')
            else {
                return Err(line.refuse(
                    format!("the column {} has no type", quoted(column)),
                    "a header names every column with its type (token, token_seq, float, float_seq), such as \
                     user_id:token, with tabs between",
                ));
            };
            if header.find(name).is_some() {
                return Err(line.refuse(format!("the column {} stands twice", quoted(name)), "name every column once"));
            }
            header.names.push(name.to_owned());
            header.types.push(kind.to_owned());
        }
        Ok(header)
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|known| known == name)
    }

    fn column(&self, name: &str) -> Result<usize> {
        self.find(name).ok_or_else(|| {
            let near = nearest(name, self.names.iter().map(String::as_str));
            let hint = near.map_or(String::new(), |near| format!(" (is it {near}?)"));
            Error::data(
                &self.path,
                Some(1),
                format!("there is no column {name} among {}", self.names.join(", ")),
                format!("name the column {name}:token{hint}"),
            )
        })
    }

    /// The column that names an item: `title` or `name`, alone or as the end of the name (`movie_title`), else the
    /// first of type `token_seq`.
    fn title(&self) -> Result<usize> {
        let ends = |end: &str| self.names.iter().position(|name| name.to_lowercase().ends_with(end));
        let text = || self.types.iter().position(|kind| kind == "token_seq");
        self.find("title")
            .or_else(|| self.find("name"))
            .or_else(|| ends("title"))
            .or_else(|| ends("name"))
            .or_else(text)
            .ok_or_else(|| {
                Error::data(
                    &self.path,
                    Some(1),
                    format!("no column among {} names the item", self.names.join(", ")),
                    "call one title:token_seq",
                )
            })
    }

    /// The values of a line, as many as there are columns.
    fn row<'a>(&self, line: &Line<'a>) -> Result<Vec<&'a str>> {
        let row: Vec<&str> = line.text.split('\t').collect();
        if row.len() != self.names.len() {
            return Err(line.refuse(
                format!("found {} columns", row.len()),
                format!("expected {} with tabs between: {}", self.names.len(), self.names.join(", ")),
            ));
        }
        Ok(row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dataset(interactions: &str) -> Dataset {
        let folder = tempfile::tempdir().unwrap();
        let inter = format!("user_id:token\titem_id:token\ttimestamp:float\n{interactions}");
        std::fs::write(folder.path().join("x.inter"), inter).unwrap();
        let items = "item_id:token\ttitle:token_seq\ni1\tA\ni2\tB\ni3\tC\n";
        std::fs::write(folder.path().join("x.item"), items).unwrap();
        Dataset::open(folder.path()).unwrap()
    }

    #[test]
    fn an_item_that_a_user_comes_back_to_stays_a_target_that_can_be_found() {
        let data = dataset("u1\ti1\t1\nu1\ti2\t2\nu1\ti1\t3\nu2\ti1\t1\nu2\ti2\t2\n");
        let query = data.split("test").unwrap()[0].clone();
        assert_eq!((query.history.as_slice(), query.repeats), (&[0, 1][..], true));
        assert!(data.queries.iter().all(|query| query.repeats), "one rule for the whole data set");
        let counts: Vec<_> = data.warnings.iter().map(|w| (w.kind, w.count)).collect();
        assert_eq!(counts, [(WarningKind::RepeatedItems, 1)]);
    }

    #[test]
    fn where_nobody_comes_back_to_an_item_the_history_is_excluded() {
        let data = dataset("u1\ti1\t1\nu1\ti2\t2\nu1\ti3\t3\n");
        assert!(data.queries.iter().all(|query| !query.repeats));
        assert_eq!(data.warnings, []);
    }
}
