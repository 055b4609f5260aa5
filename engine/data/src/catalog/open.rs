//! Which layout a folder has.

use std::path::Path;

use super::dataset::Dataset;
use super::options::OpenOptions;
use super::paths::has_extension;
use super::settings::{Layout, Settings};
use super::{amazon, esci, folder, items, movielens, recbole};
use querywright_types::{Error, Result};

impl Dataset {
    /// Opens a folder of any of the layouts in the [module's table](super).
    ///
    /// # Errors
    /// When the folder has none of these layouts, or a file is missing, empty or malformed, ids repeat, or lists or
    /// histories name what is not there. The error names the file, the line and up to nine more bad lines of the file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, OpenOptions::default())
    }

    /// The same, read as `options` say.
    ///
    /// # Errors
    /// Those of [`open`](Self::open), and what the options refuse.
    pub fn open_with(path: impl AsRef<Path>, options: OpenOptions) -> Result<Self> {
        let path = path.as_ref();
        let settings = Settings::of(path)?;
        let layout = match (settings.layout, &settings.items) {
            (Some(layout), _) => layout,
            // The items lie elsewhere.
            (None, Some(_)) => Layout::Items,
            (None, None) => layout_of(path)?,
        };
        let only = |layout: &str, keys: &[&str]| settings.only(path, layout, keys);
        match layout {
            Layout::Folder => only("this layout", &[]).and_then(|()| folder::open(path, options)),
            Layout::Recbole => only("RecBole", &[]).and_then(|()| recbole::open(path)),
            Layout::Esci => {
                only("ESCI", &["locale", "version", "grades"])?;
                esci::open(path, &settings, options.strict)
            }
            Layout::Items => {
                only("a pool of items", &["items"]).and_then(|()| items::open(path, &settings, options.strict))
            }
            Layout::AmazonReviews => {
                only("Amazon Reviews", &["least_rating"]).and_then(|()| amazon::open(path, &settings))
            }
            Layout::Movielens => only("MovieLens", &["least_rating"]).and_then(|()| movielens::open(path, &settings)),
        }
    }
}

/// The layout of a folder, by its files.
fn layout_of(path: &Path) -> Result<Layout> {
    let entries = std::fs::read_dir(path).map_err(|e| Error::read(path, e))?;
    let mut interactions = false;
    for entry in entries {
        let entry = entry.map_err(|e| Error::read(path, e))?;
        interactions |= has_extension(&entry.path(), "inter");
    }
    let corpus = ["corpus.jsonl", "corpus.jsonl.gz"].iter().any(|name| path.join(name).exists());
    let known = [
        (corpus, Layout::Folder),
        (interactions, Layout::Recbole),
        (esci::is_here(path), Layout::Esci),
        (movielens::is_here(path), Layout::Movielens),
        (amazon::is_here(path), Layout::AmazonReviews),
        (items::is_here(path), Layout::Items),
    ];
    known.into_iter().find_map(|(here, layout)| here.then_some(layout)).ok_or_else(|| {
        Error::data(
            path,
            None,
            "there is neither corpus.jsonl nor a .inter file in this folder, nor what any other layout begins with",
            "a data folder holds corpus.jsonl, queries.jsonl, qrels.tsv and lists such as test.txt; a BEIR folder \
             holds corpus.jsonl, queries.jsonl and qrels/test.tsv; a RecBole folder holds NAME.inter and NAME.item \
             (any of them may be compressed by gzip, as corpus.jsonl.gz); ESCI, Amazon-C4, Amazon Reviews, MovieLens \
             and the files of Rec-R1 are read as their authors publish them (docs/data-formats.md)",
        )
    })
}
