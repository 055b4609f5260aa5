//! RecBole's atomic files: interactions (`NAME.inter`) and items (`NAME.item`) as a sequential task.
//!
//! Both are tab-separated under a header of typed names (`user_id:token`, `timestamp:float`). [`sequences`](super::sequences)
//! makes the queries. Where files give the splits (`NAME.train.inter`, `NAME.valid.inter`, `NAME.test.inter`, RecBole's
//! `benchmark_filename`), these are read; their rows may give histories (`item_id_list:token_seq`).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::dataset::Dataset;
use super::documents::{Catalog, CatalogBuilder};
use super::lines::{Line, Lines, NAMED, quoted};
use super::paths::{files, find, name_of, stem};
use super::records::at_line;
use super::sequences::{Event, Part, Row, Task, Users};
use super::warning::Warnings;
use querywright_types::{Error, Ordinal, Result, nearest};

/// Opens a folder that holds a `.inter` file.
pub(super) fn open(path: &Path) -> Result<Dataset> {
    let name = name_of(path);
    let mut warnings = Warnings::default();
    let found = files(path, "inter", &mut warnings)?;
    let (interactions, base, parts) = choose(path, &name, &found)?;
    let items = format!("{base}.item");
    let items = find(path, &items, &mut warnings).unwrap_or_else(|| path.join(&items));
    let catalog = read_items(&items)?;
    let (mut users, mut rows) = (Users::default(), Vec::new());
    for (file, part) in &parts {
        read_interactions(file, *part, &catalog, &mut users, &mut rows)?;
    }
    let task = Task { name, folder: path, interactions, catalog, warnings };
    task.of(users, rows)
}

/// Files with the splits that their names give them.
type Parts<'a> = Vec<(&'a Path, Option<Part>)>;

/// Of the files of interactions those that are read: one, or one for each split. With what errors name, and the name that
/// the file of items has.
fn choose<'a>(path: &'a Path, name: &str, found: &'a [PathBuf]) -> Result<(&'a Path, String, Parts<'a>)> {
    let split = |file: &PathBuf| {
        let stem = stem(file);
        let (base, part) = stem.rsplit_once('.')?;
        Some((base.to_owned(), Part::of_name(part)?))
    };
    let whole = found.iter().filter(|file| split(file).is_none()).collect::<Vec<_>>();
    match &whole[..] {
        // Beside files of splits one of another name may be of another set.
        [only] if found.len() == 1 || stem(only) == name => {
            return Ok((only.as_path(), stem(only), vec![(only.as_path(), None)]));
        }
        [] => {}
        several => {
            let named = several.iter().find(|file| stem(file) == name).ok_or_else(|| {
                let found = format!("there are {} .inter files in this folder", found.len());
                Error::data(path, None, found, format!("keep one, or name the right one {name}.inter"))
            })?;
            return Ok((named.as_path(), name.to_owned(), vec![(named.as_path(), None)]));
        }
    }
    let parts: Vec<_> = found.iter().filter_map(|file| Some((file.as_path(), split(file)?))).collect();
    let bases: BTreeSet<&str> = parts.iter().map(|(_, (base, _))| base.as_str()).collect();
    let base = match (bases.len(), bases.first()) {
        (1, Some(base)) => (*base).to_owned(),
        _ => name.to_owned(),
    };
    let mut parts: Parts<'_> =
        parts.iter().filter(|(_, (of, _))| *of == base).map(|(file, (_, part))| (*file, Some(*part))).collect();
    // Without times the order of the files is the order of events.
    parts.sort_by_key(|(_, part)| *part);
    match parts.is_empty() {
        true => Err(Error::data(
            path,
            None,
            format!("there are .train.inter files of {} data sets in this folder", bases.len()),
            format!("keep those of one, or name the right ones {name}.train.inter"),
        )),
        false => Ok((path, base, parts)),
    }
}

/// Adds the interactions of a file to the users; those with a history to the rows.
fn read_interactions(
    path: &Path,
    part: Option<Part>,
    catalog: &Catalog,
    users: &mut Users,
    rows: &mut Vec<Row>,
) -> Result<()> {
    let mut lines = Lines::open(path, "a header such as user_id:token, item_id:token, timestamp:float, with tabs")?;
    let header = match lines.next()? {
        Some(line) => Header::read(&line)?,
        None => return Ok(()),
    };
    let (user, item) = (header.column("user_id")?, header.column("item_id")?);
    // Without times the order of the file is the order of events.
    let time = header.find("timestamp");
    let list = header.find("item_id_list").filter(|_| part.is_some());
    let known = |line: &Line<'_>, id: &str| {
        catalog.ordinal(id).ok_or_else(|| {
            let found = format!("the item {} is not in the .item file", quoted(id));
            line.refuse(found, "add the item there, or remove the line")
        })
    };
    lines.each(NAMED, |line| {
        let row = header.row(&line)?;
        let ordinal = known(&line, row[item])?;
        let time = match time.map(|time| (row[time], row[time].trim().parse::<f64>())) {
            None => 0.0,
            Some((_, Ok(time))) if time.is_finite() => time,
            Some((found, _)) => {
                return Err(line.refuse(format!("the timestamp is {}", quoted(found)), "a timestamp is a number"));
            }
        };
        if row[user].is_empty() {
            return Err(line.refuse("the user id is empty", "give every interaction a user"));
        }
        match (list, part) {
            (Some(list), Some(part)) => {
                let history: Result<Vec<Ordinal>> = row[list].split_whitespace().map(|id| known(&line, id)).collect();
                rows.push(Row { user: row[user].to_owned(), part, history: history?, target: ordinal });
            }
            _ => users.push(row[user], Event { time, item: ordinal, part }),
        }
        Ok(())
    })
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
    use crate::catalog::WarningKind;

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

    /// The files of a data set `x` whose splits are given; `history` is the column of histories, or nothing.
    fn given(history: bool) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let items = "item_id:token\ttitle:token_seq\ni1\tA\ni2\tB\ni3\tC\n";
        std::fs::write(folder.path().join("x.item"), items).unwrap();
        for (part, item, before) in [("train", "i1", ""), ("valid", "i2", "i1"), ("test", "i3", "i1 i2")] {
            let text = match history {
                true => format!("user_id:token\titem_id_list:token_seq\titem_id:token\nu1\t{before}\t{item}\n"),
                false => format!("user_id:token\titem_id:token\nu1\t{item}\n"),
            };
            std::fs::write(folder.path().join(format!("x.{part}.inter")), text).unwrap();
        }
        folder
    }

    #[test]
    fn splits_that_files_give_are_kept_with_and_without_histories() {
        for history in [false, true] {
            let data = Dataset::open(given(history).path()).unwrap();
            let sizes = ["train", "dev", "test"].map(|split| data.split(split).map_or(0, |queries| queries.len()));
            // The first interaction has nothing before it.
            assert_eq!(sizes, [0, 1, 1], "with histories: {history}");
            let test = data.split("test").unwrap()[0];
            assert_eq!((&test.history[..], data.qrels.get(&test.id).unwrap().grade(2)), (&[0, 1][..], Some(1)));
        }
    }

    #[test]
    fn malformed_twins_of_given_splits_are_refused() {
        let folder = given(true);
        let test = folder.path().join("x.test.inter");
        std::fs::write(&test, "user_id:token\titem_id_list:token_seq\titem_id:token\nu1\ti1 i9\ti3\n").unwrap();
        let error = Dataset::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("x.test.inter:2: the item \"i9\" is not in the .item file"), "{error}");
        std::fs::rename(&test, folder.path().join("y.test.inter")).unwrap();
        let error = Dataset::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("there are .train.inter files of 2 data sets"), "{error}");
    }
}
