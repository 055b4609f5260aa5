//! `querywright.toml` in a folder of data: how the folder is read, where its layout leaves a choice.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use querywright_types::{Error, Result};

/// The name of the file.
pub(super) const FILE: &str = "querywright.toml";
/// Bytes of it, at most.
const MOST_BYTES: usize = 64 << 10;

/// How a folder is read.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Settings {
    /// The layout, where files of several lie in one folder.
    pub(super) layout: Option<Layout>,
    /// ESCI: `us` (default), `es` or `jp`.
    pub(super) locale: Option<Locale>,
    /// ESCI: the judgements of task 1 (`small`, default) or of all tasks (`large`).
    pub(super) version: Option<Version>,
    /// ESCI: `gains` (default), in proportion to its official gains, or `exact`, one for exact matches alone.
    pub(super) grades: Option<Grades>,
    /// Pools of items: the file of items, from this folder.
    pub(super) items: Option<PathBuf>,
    /// Ratings below are no interactions.
    pub(super) least_rating: Option<f64>,
}

/// A layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Layout {
    Folder,
    Recbole,
    Esci,
    Items,
    AmazonReviews,
    Movielens,
}

/// Where a product of ESCI is sold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(not(feature = "parquet"), allow(dead_code, reason = "ESCI is read with the feature alone"))]
pub(super) enum Locale {
    #[default]
    Us,
    Es,
    Jp,
}

/// Which judgements of ESCI are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(not(feature = "parquet"), allow(dead_code, reason = "ESCI is read with the feature alone"))]
pub(super) enum Version {
    #[default]
    Small,
    Large,
}

/// What the labels of ESCI become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(not(feature = "parquet"), allow(dead_code, reason = "ESCI is read with the feature alone"))]
pub(super) enum Grades {
    /// Exact 100, substitute 10, complement 1, irrelevant 0: the official gains 1.0, 0.1, 0.01 and 0.0 in proportion.
    #[default]
    Gains,
    /// Exact 1, the others 0.
    Exact,
}

impl Settings {
    /// Those of a folder; the defaults where it has no such file.
    pub(super) fn of(folder: &Path) -> Result<Self> {
        if folder.is_file() {
            return Err(Error::data(
                folder,
                None,
                "a file where a data set's folder belongs",
                "give the folder that it is in",
            ));
        }
        let path = folder.join(FILE);
        let mut text = String::new();
        match File::open(&path).and_then(|file| file.take(MOST_BYTES as u64 + 1).read_to_string(&mut text)) {
            Ok(read) if read > MOST_BYTES => {
                let found = format!("it has more than {MOST_BYTES} bytes");
                return Err(Error::data(&path, None, found, "this is another file under that name"));
            }
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => return Err(Error::read(&path, e)),
        }
        let settings: Self = toml::from_str(&text).map_err(|e| {
            let line = e.span().map(|span| text[..span.start].matches('\n').count() as u64 + 1);
            let remedy = "keys are layout, locale, version, grades, items and least_rating (docs/data-formats.md)";
            Error::data(&path, line, e.message().to_owned(), remedy)
        })?;
        if settings.least_rating.is_some_and(|least| !least.is_finite()) {
            return Err(Error::data(&path, None, "least_rating is no number", "give one such as 4.0"));
        }
        Ok(settings)
    }

    /// An error where a key is set that this layout does not read.
    pub(super) fn only(&self, folder: &Path, layout: &str, read: &[&str]) -> Result<()> {
        let keys = [
            ("locale", self.locale.is_some()),
            ("version", self.version.is_some()),
            ("grades", self.grades.is_some()),
            ("items", self.items.is_some()),
            ("least_rating", self.least_rating.is_some()),
        ];
        match keys.into_iter().find(|(key, set)| *set && !read.contains(key)) {
            Some((key, _)) => {
                let found = format!("{key} is set, and {layout} has nothing that it could choose");
                Err(Error::data(folder.join(FILE), None, found, "take the key out"))
            }
            None => Ok(()),
        }
    }
}
