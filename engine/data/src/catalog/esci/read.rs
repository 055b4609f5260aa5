//! The rows of ESCI's files.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use super::super::dataset::Dataset;
use super::super::documents::{Catalog, CatalogBuilder};
use super::super::lines::quoted;
use super::super::parquet::{self, Holds, Row};
use super::super::paths::name_of;
use super::super::qrels::Judging;
use super::super::records::at_line;
use super::super::searches::Searches;
use super::super::settings::{Grades, Locale, Settings, Version};
use super::super::warning::Warnings;
use querywright_types::{Error, Query, Result};

/// The columns of products, with the fields that they become.
const FIELDS: [(&str, &str); 5] = [
    ("product_title", "title"),
    ("product_description", "text"),
    ("product_bullet_point", "bullets"),
    ("product_brand", "brand"),
    ("product_color", "color"),
];

/// Where `read_examples` finds what; the last is the version that is read.
const COLUMNS: [(&str, Holds); 6] = [
    ("query_id", Holds::Numbers),
    ("query", Holds::Texts),
    ("product_id", Holds::Texts),
    ("product_locale", Holds::Texts),
    ("esci_label", Holds::Texts),
    ("split", Holds::Texts),
];

/// The data set of the files of examples and products.
pub(super) fn dataset(
    path: &Path,
    [examples, products]: [&Path; 2],
    settings: &Settings,
    strict: bool,
) -> Result<Dataset> {
    let locale = match settings.locale.unwrap_or_default() {
        Locale::Us => "us",
        Locale::Es => "es",
        Locale::Jp => "jp",
    };
    let catalog = read_products(products, locale)?;
    let mut found =
        Examples { judging: Judging::new(examples, &catalog, strict), asked: HashMap::new(), queries: Vec::new() };
    found.read(examples, settings, locale)?;
    let Examples { judging, asked, mut queries } = found;
    let (mut qrels, order) = judging.finish();
    if settings.grades == Some(Grades::Exact) {
        // As the authors of Rec-R1 do: where nothing is exact there is nothing to find.
        let relevant = |id: &str| qrels.get(id).is_some_and(|judged| judged.relevant() > 0);
        let none: HashSet<String> = order.iter().filter(|id| !relevant(id)).cloned().collect();
        queries.retain(|query| !none.contains(&query.id));
        none.iter().for_each(|id| qrels.remove(id));
    }
    let mut splits: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for query in &queries {
        let split = query
            .id
            .parse()
            .ok()
            .and_then(|id: i64| asked.get(&id))
            .map_or("train", |test| if *test { "test" } else { "train" });
        splits.entry(split.to_owned()).or_default().push(query.id.clone());
    }
    if queries.is_empty() {
        let found = format!("no judgement is of the locale {locale} and the version");
        return Err(Error::data(examples, None, found, "choose others in querywright.toml"));
    }
    Searches { name: name_of(path), catalog, queries, qrels, splits, warnings: Warnings::default() }.finish(path)
}

/// The judgements while they are read.
struct Examples<'a> {
    judging: Judging<'a>,
    /// Whether a query is in test, by its number.
    asked: HashMap<i64, bool>,
    queries: Vec<Query>,
}

impl Examples<'_> {
    fn read(&mut self, path: &Path, settings: &Settings, locale: &str) -> Result<()> {
        let version = match settings.version.unwrap_or_default() {
            Version::Small => "small_version",
            Version::Large => "large_version",
        };
        let mut columns = COLUMNS.to_vec();
        columns.push((version, Holds::Numbers));
        let grades = settings.grades.unwrap_or_default();
        parquet::each(path, &columns, |row| {
            let read = row.text(3)? == locale && row.number(COLUMNS.len()) == Some(1);
            if read { self.add(&row, grades) } else { Ok(()) }
        })
    }

    fn add(&mut self, row: &Row<'_>, grades: Grades) -> Result<()> {
        let line = &row.line;
        let Some(number) = row.number(0).filter(|number| *number >= 0) else {
            return Err(line.refuse("there is no query_id", "a query_id is a whole number from 0 on"));
        };
        let (text, product, label, split) = (row.text(1)?.trim(), row.text(2)?, row.text(4)?, row.text(5)?);
        if text.is_empty() || product.is_empty() {
            return Err(line.refuse("the query or the product_id is empty", "give the row both"));
        }
        let gains = match label {
            "E" | "Exact" => [100, 1],
            "S" | "Substitute" => [10, 0],
            "C" | "Complement" => [1, 0],
            "I" | "Irrelevant" => [0, 0],
            other => {
                return Err(line.refuse(format!("the esci_label is {}", quoted(other)), "a label is E, S, C or I"));
            }
        };
        let test = match split {
            "train" => false,
            "test" => true,
            other => return Err(line.refuse(format!("the split is {}", quoted(other)), "a split is train or test")),
        };
        let id = number.to_string();
        match self.asked.get(&number) {
            Some(before) if *before != test => {
                let found = format!("the query {id} is in both train and test");
                return Err(line.refuse(found, "a query belongs to one split"));
            }
            Some(_) => {}
            None => {
                self.asked.insert(number, test);
                self.queries.push(Query::new(id.clone(), text));
            }
        }
        self.judging.add(line, &id, product, gains[usize::from(grades == Grades::Exact)])
    }
}

fn read_products(path: &Path, locale: &str) -> Result<Catalog> {
    let mut columns = vec![("product_id", Holds::Texts), ("product_locale", Holds::Texts)];
    columns.extend(FIELDS.iter().map(|(column, _)| (*column, Holds::Texts)));
    let mut builder = CatalogBuilder::new();
    parquet::each(path, &columns, |row| {
        if row.text(1)? != locale {
            return Ok(());
        }
        let values = (2..).zip(FIELDS).map(|(column, (_, field))| Ok((field, row.text(column)?.trim())));
        let fields = values.collect::<Result<Vec<_>>>()?;
        builder.push(row.text(0)?, fields).map(drop).map_err(|e| at_line(e, &row.line))
    })?;
    let catalog = builder.finish();
    match catalog.is_empty() {
        true => Err(Error::data(path, None, format!("no product is of the locale {locale}"), "choose another locale")),
        false => Ok(catalog),
    }
}
