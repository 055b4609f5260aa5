//! Pools of items with queries, as the authors of BLaIR, of Amazon-C4 and of Rec-R1 write them.
//!
//! | file | rows |
//! |---|---|
//! | `sampled_item_metadata_*.jsonl`, `*_items_filtered.jsonl`, here or in `raw` | `item_id`, `category`, `metadata`, perhaps `title` |
//! | `train.csv`, `test.csv` | `qid`, `query`, `item_id` and others |
//! | `train.json`, `test.json`, `CATEGORY.json`, here or in `test_subset` | `query` and one or several `item_id` |
//! | `train.json`, `val.json`, `test.json` | `user_id`, `history_list`, `target` |
//!
//! What is searched is `metadata`, as in their indexes. Rows of one file with the same query are one query.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

use serde_json::value::RawValue;

use super::csv::Table;
use super::dataset::Dataset;
use super::documents::{Catalog, CatalogBuilder};
use super::json::Json;
use super::lines::{Faults, Line, Lines, NAMED, quoted};
use super::paths::{files, has_extension, name_of, stem};
use super::qrels::{Judging, Qrels};
use super::records::{at_line, texts};
use super::searches::Searches;
use super::sequences::{Part, Row, Task};
use super::settings::{FILE, Settings};
use super::warning::{Warning, WarningKind, Warnings};
use querywright_types::{Error, Ordinal, Query, Result};

/// Where else than in the folder itself the file of items may lie, and the files of queries.
const RAW: &str = "raw";
const QUERIES: &str = "test_subset";
/// The category file that is part of no test.
const OTHERS: &str = "others";

/// Whether a folder holds a pool of items.
pub(super) fn is_here(path: &Path) -> bool {
    item_files(path, &mut Warnings::default()).is_ok_and(|files| !files.is_empty())
}

/// The files of items, by their names.
fn item_files(path: &Path, warnings: &mut Warnings) -> Result<Vec<PathBuf>> {
    let named = |file: &PathBuf| {
        let stem = stem(file);
        stem.starts_with("sampled_item_metadata") || stem.ends_with("_items_filtered")
    };
    let mut found = Vec::new();
    for folder in [path.to_path_buf(), path.join(RAW)].into_iter().filter(|folder| folder.is_dir()) {
        found.extend(files(&folder, "jsonl", warnings)?.into_iter().filter(named));
    }
    Ok(found)
}

/// Opens a folder of it. `strict` refuses queries with items that are not there, and those that are named twice.
pub(super) fn open(path: &Path, settings: &Settings, strict: bool) -> Result<Dataset> {
    let mut warnings = Warnings::default();
    let items = match &settings.items {
        Some(items) => path.join(items),
        None => match &item_files(path, &mut warnings)?[..] {
            [only] => only.clone(),
            several => {
                let found = format!("there are {} files of items in this folder", several.len());
                let remedy = format!("name the right one in {FILE}: items = \"FILE.jsonl\"");
                return Err(Error::data(path, None, found, remedy));
            }
        },
    };
    let queries = query_files(path, &items, &mut warnings)?;
    let pool = Pool::read(&items, &mut warnings)?;
    let mut found = Found { pool, strict, several: queries.len() > 1, ..Found::default() };
    for file in &queries {
        found.read(file, &mut warnings)?;
    }
    if !found.rows.is_empty() {
        if !found.queries.is_empty() {
            let remedy = "keep files of queries and files of histories in folders of their own";
            return Err(Error::data(path, None, "some files hold queries, and some hold histories", remedy));
        }
        let Found { pool, rows, .. } = found;
        return Task { name: name_of(path), folder: path, interactions: path, catalog: pool.catalog, warnings }
            .of_rows(rows);
    }
    let splits = found.splits();
    let Found { pool, queries, qrels, .. } = found;
    Searches { name: name_of(path), catalog: pool.catalog, queries, qrels, splits, warnings }.finish(path)
}

/// The files of queries: JSON before comma-separated values, of which the former are made.
fn query_files(path: &Path, items: &Path, warnings: &mut Warnings) -> Result<Vec<PathBuf>> {
    for (folder, extension) in [(path, "json"), (path, "jsonl"), (path, "csv"), (&path.join(QUERIES), "json")] {
        let mut found = if folder.is_dir() { files(folder, extension, warnings)? } else { Vec::new() };
        found.retain(|file| file != items);
        if extension == "jsonl" {
            let others = item_files(path, warnings)?;
            found.retain(|file| !others.contains(file) && Part::of_name(&stem(file)).is_some());
        }
        if found.is_empty() {
            continue;
        }
        let part = |file: &PathBuf| Part::of_name(&stem(file).to_lowercase());
        let hidden = match extension {
            "csv" => Vec::new(),
            _ => files(path, "csv", warnings)?,
        };
        let hidden =
            hidden.into_iter().find(|csv| part(csv).is_some() && !found.iter().any(|file| part(file) == part(csv)));
        if let Some(hidden) = hidden {
            let said = "it would not be read: JSON files go before it, and none of them is of this split";
            return Err(Error::data(hidden, None, said, "move the one or the others away"));
        }
        return Ok(found);
    }
    let remedy = "Amazon-C4 has test.csv, Rec-R1 train.json and test.json: put them beside the file of items, or name that \
                  one in querywright.toml: items = \"../raw/FILE.jsonl\"";
    Err(Error::data(path, None, "there are items, and no queries: neither .json nor .csv files", remedy))
}

/// The items, with their categories.
#[derive(Default)]
struct Pool {
    catalog: Catalog,
    names: Vec<String>,
    /// Of each item, its place in `names`.
    categories: Vec<u32>,
}

impl Pool {
    fn read(path: &Path, warnings: &mut Warnings) -> Result<Self> {
        const REMEDY: &str = "an item is a JSON object with an \"item_id\" and its text under \"metadata\"";
        let mut builder = CatalogBuilder::new();
        let (mut names, mut categories) = (Vec::<String>::new(), Vec::new());
        let mut numbers: HashMap<String, u32> = HashMap::new();
        let mut known = HashSet::new();
        Lines::open(
            path,
            "one item a line, such as {\"item_id\": \"B0\", \"category\": \"Baby\", \"metadata\": \"…\"}",
        )?
        .each(NAMED, |line| {
            let values = object(&line, REMEDY)?;
            // The authors' own script calls it `item`.
            let id = match value(&values, "item_id").or_else(|| value(&values, "item")) {
                None => return Err(line.refuse("there is no \"item_id\"", REMEDY)),
                Some(id) => id.id().filter(|id| !id.is_empty()).ok_or_else(|| {
                    line.refuse(
                        format!("\"item_id\" is {}", if id.id().is_some() { "empty" } else { id.kind() }),
                        REMEDY,
                    )
                })?,
            };
            let Some(metadata) = value(&values, "metadata").map(texts) else {
                return Err(line.refuse("there is no \"metadata\"", REMEDY));
            };
            if !known.insert(id.to_owned()) {
                warnings.add(Warning::new(WarningKind::RepeatedItemRecords, path, id));
                return Ok(());
            }
            let title = value(&values, "title").map(texts).unwrap_or_default();
            // A text that begins with the title has it once, not twice.
            let text = match metadata.strip_prefix(title.as_str()) {
                Some(rest) if !rest.starts_with(char::is_alphanumeric) => rest,
                _ => &metadata,
            }
            .trim();
            builder.push(id, [("title", title.as_str()), ("text", text)]).map_err(|e| at_line(e, &line))?;
            let category = value(&values, "category").map(texts).unwrap_or_default();
            let number = *numbers.entry(category).or_insert_with_key(|category| {
                names.push(category.clone());
                names.len() as u32 - 1
            });
            categories.push(number);
            Ok(())
        })?;
        Ok(Self { catalog: builder.finish(), names, categories })
    }

    /// The category of an item, as the name of a split.
    fn category(&self, item: Ordinal) -> Option<String> {
        let name = self.names.get(*self.categories.get(item as usize)? as usize)?;
        Some(split_name(name)).filter(|name| !name.is_empty() && Part::of_name(name).is_none())
    }
}

/// Letters and digits in lower case, with `_` between.
fn split_name(text: &str) -> String {
    let lower = text.to_lowercase();
    lower.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect::<Vec<_>>().join("_")
}

/// What the files of queries hold.
#[derive(Default)]
struct Found {
    pool: Pool,
    strict: bool,
    /// Whether there are several files, which may number their queries alike.
    several: bool,
    queries: Vec<Query>,
    qrels: Qrels,
    rows: Vec<Row>,
    /// By the name of each file, its queries.
    of_files: BTreeMap<String, Vec<String>>,
    /// By category, the queries of test.
    of_categories: BTreeMap<String, BTreeSet<String>>,
}

/// A query of a row.
struct Asked<'a> {
    id: Option<&'a str>,
    text: &'a str,
    items: Vec<&'a str>,
}

const ROW: &str =
    "a row has a \"query\" and its \"item_id\", or a \"user_id\" with a \"history_list\" and a \"target\"";

/// The queries of one file while it is read.
struct Asking<'a> {
    pool: &'a Pool,
    judging: Judging<'a>,
    /// What stands before the ids of the file.
    prefix: String,
    /// The ids by text.
    known: HashMap<String, String>,
    taken: HashSet<String>,
    queries: &'a mut Vec<Query>,
    ids: &'a mut Vec<String>,
    /// Of a file of test.
    categories: Option<&'a mut BTreeMap<String, BTreeSet<String>>>,
}

impl Asking<'_> {
    fn add(&mut self, line: &Line<'_>, asked: &Asked<'_>) -> Result<()> {
        let text = asked.text.trim();
        if text.is_empty() || asked.items.iter().any(|item| item.is_empty()) || asked.items.is_empty() {
            return Err(line.refuse("the query or the item_id is empty", ROW));
        }
        let id = match self.known.get(text) {
            Some(id) => id.clone(),
            None => {
                let id = asked.id.map_or_else(|| (self.known.len() + 1).to_string(), str::to_owned);
                let id = format!("{}{id}", self.prefix);
                if !self.taken.insert(id.clone()) {
                    let found = format!("the query id {} was there before", quoted(&id));
                    return Err(line.refuse(found, "give every query one of its own"));
                }
                self.known.insert(text.to_owned(), id.clone());
                self.queries.push(Query::new(id.clone(), text));
                self.ids.push(id.clone());
                id
            }
        };
        for item in &asked.items {
            self.judging.add(line, &id, item, 1)?;
            let category = self.pool.catalog.ordinal(item).and_then(|item| self.pool.category(item));
            if let (Some(categories), Some(category)) = (self.categories.as_deref_mut(), category) {
                categories.entry(category).or_default().insert(id.clone());
            }
        }
        Ok(())
    }

    fn read_table(&mut self, path: &Path) -> Result<()> {
        let table = Table::open(path, "the header qid,query,item_id, then one query a line", &[])?;
        let (text, item, id) = (table.column("query")?, table.column("item_id")?, table.find("qid"));
        table.each(|row| {
            let id = id.map(|id| row.get(id)).filter(|id| !id.is_empty());
            self.add(&row.line, &Asked { id, text: row.get(text), items: vec![row.get(item)] })
        })
    }

    fn read_object(&mut self, line: &Line<'_>, values: &[(String, Json)]) -> Result<()> {
        let Some(Json::Text(text)) = value(values, "query") else {
            return Err(line.refuse("there is no \"query\" that is a string", ROW));
        };
        let items = match value(values, "item_id") {
            Some(Json::List(items)) => items.iter().map(Json::id).collect::<Option<Vec<_>>>(),
            Some(item) => item.id().map(|item| vec![item]),
            None => None,
        };
        let Some(items) = items else {
            return Err(line.refuse("there is no \"item_id\" that is an id or a list of ids", ROW));
        };
        self.add(line, &Asked { id: value(values, "qid").and_then(Json::id), text, items })
    }
}

impl Found {
    fn read(&mut self, path: &Path, warnings: &mut Warnings) -> Result<()> {
        let name = stem(path);
        let part = Part::of_name(&name.to_lowercase());
        let split = part.map_or_else(|| split_name(&name), |part| part.name().to_owned());
        let mut asking = Asking {
            pool: &self.pool,
            judging: Judging::new(path, &self.pool.catalog, self.strict),
            prefix: if self.several { format!("{name}.") } else { String::new() },
            known: HashMap::new(),
            taken: HashSet::new(),
            queries: &mut self.queries,
            ids: self.of_files.entry(split).or_default(),
            categories: (part == Some(Part::Test)).then_some(&mut self.of_categories),
        };
        if has_extension(path, "csv") {
            asking.read_table(path)?;
        } else {
            objects(path, |line| {
                let values = object(line, ROW)?;
                let Some(target) = value(&values, "target") else { return asking.read_object(line, &values) };
                let Some(part) = part else {
                    let remedy = "files of histories are called train, val and test";
                    return Err(line.refuse(format!("the file is called {name}"), remedy));
                };
                read_row(line, &values, (part, target), &self.pool.catalog, (&mut self.rows, &mut *warnings))
            })?;
        }
        let (read, _) = asking.judging.finish();
        // The ids of two files differ by the file's name.
        match self.qrels.append(read) {
            None => Ok(()),
            Some(query) => Err(Error::bug("items", format!("the query {query} is in two files"))),
        }
    }

    /// The splits: those of the files; test, where no file is called so, of all category files but `others`; and those of
    /// test by category, where there are no such files.
    fn splits(&mut self) -> BTreeMap<String, Vec<String>> {
        let mut splits = std::mem::take(&mut self.of_files);
        let categories = || splits.iter().filter(|(name, _)| Part::of_name(name).is_none() && name.as_str() != OTHERS);
        if !splits.contains_key("test") {
            let test: Vec<String> = categories().flat_map(|(_, ids)| ids.iter().cloned()).collect();
            splits.insert("test".to_owned(), test);
        } else if categories().next().is_none() && self.of_categories.len() > 1 {
            let order: HashMap<&str, usize> =
                self.queries.iter().enumerate().map(|(at, q)| (q.id.as_str(), at)).collect();
            for (category, ids) in std::mem::take(&mut self.of_categories) {
                let mut ids: Vec<String> = ids.into_iter().collect();
                ids.sort_by_key(|id| order.get(id.as_str()).copied());
                splits.insert(category, ids);
            }
        }
        splits
    }
}

/// A row with a history.
fn read_row(
    line: &Line<'_>,
    values: &[(String, Json)],
    (part, target): (Part, &Json),
    catalog: &Catalog,
    (rows, warnings): (&mut Vec<Row>, &mut Warnings),
) -> Result<()> {
    let user = value(values, "user_id").and_then(Json::id).filter(|id| !id.is_empty());
    let user = user.ok_or_else(|| line.refuse("there is no \"user_id\"", ROW))?;
    let history = match value(values, "history_list").or_else(|| value(values, "history")) {
        Some(Json::List(items)) => items,
        _ => return Err(line.refuse("there is no \"history_list\" that is a list", ROW)),
    };
    let mut known = |item: &Json| -> Result<Option<Ordinal>> {
        let id = item_of(item).ok_or_else(|| line.refuse(format!("an item is {}", item.kind()), ROW))?;
        let found = catalog.ordinal(id);
        if found.is_none() {
            let example = format!("{user} {id}");
            warnings.add(Warning::new(WarningKind::ItemsWithoutText, line.path(), example));
        }
        Ok(found)
    };
    let history = history.iter().map(&mut known).collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
    if let Some(target) = known(target)? {
        rows.push(Row { user: user.to_owned(), part, history, target });
    }
    Ok(())
}

/// An item by its id, or as the review of it.
fn item_of(item: &Json) -> Option<&str> {
    match item {
        Json::Object(values) => value(values, "parent_asin")?.id(),
        other => other.id(),
    }
}

fn value<'a>(values: &'a [(String, Json)], name: &str) -> Option<&'a Json> {
    values.iter().find_map(|(key, value)| (key == name).then_some(value))
}

/// The keys and values of a line.
fn object(line: &Line<'_>, remedy: &str) -> Result<Vec<(String, Json)>> {
    match Json::parse(line.text).map_err(|found| line.refuse(found, remedy))? {
        Json::Object(values) => Ok(values),
        other => Err(line.refuse(format!("found {}", other.kind()), remedy)),
    }
}

/// Hands each object of a file to `take`: one a line (`.jsonl`), or those of one list.
fn objects(path: &Path, mut take: impl FnMut(&Line<'_>) -> Result<()>) -> Result<()> {
    if has_extension(path, "jsonl") {
        return Lines::open(path, "one JSON object a line")?.each(NAMED, |line| take(&line));
    }
    let text = Lines::open(path, "a JSON list of objects")?.whole()?;
    let rows: Vec<&RawValue> = serde_json::from_str(&text).map_err(|e| {
        let message = e.to_string();
        let found = message.split(" at line ").next().unwrap_or_default().to_owned();
        Error::data(path, Some(e.line() as u64), found, "the file must be one JSON list of objects")
    })?;
    let mut faults = Faults::new(NAMED);
    let (mut number, mut seen) = (1, 0);
    for row in rows {
        let at = row.get().as_ptr() as usize - text.as_ptr() as usize;
        number +=
            text.as_bytes().get(seen..at).unwrap_or_default().iter().filter(|byte| **byte == b'\n').count() as u64;
        seen = at;
        faults.note(take(&Line::at(path, number, row.get())))?;
    }
    faults.finish()
}

#[cfg(test)]
mod tests;
