//! Which layout a folder has.

use std::path::Path;

use super::dataset::Dataset;
use super::options::OpenOptions;
use super::paths::has_extension;
use super::{folder, recbole};
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
        let entries = std::fs::read_dir(path).map_err(|e| Error::read(path, e))?;
        let mut interactions = false;
        for entry in entries {
            let entry = entry.map_err(|e| Error::read(path, e))?;
            interactions |= has_extension(&entry.path(), "inter");
        }
        if ["corpus.jsonl", "corpus.jsonl.gz"].iter().any(|name| path.join(name).exists()) {
            folder::open(path, options)
        } else if interactions {
            recbole::open(path)
        } else {
            Err(Error::data(
                path,
                None,
                "there is neither corpus.jsonl nor a .inter file in this folder",
                "a data folder holds corpus.jsonl, queries.jsonl, qrels.tsv and lists such as test.txt; a BEIR folder \
                 holds corpus.jsonl, queries.jsonl and qrels/test.tsv; a RecBole folder holds NAME.inter and NAME.item \
                 (any of them may be compressed by gzip, as corpus.jsonl.gz)",
            ))
        }
    }
}
