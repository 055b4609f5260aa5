//! Which layout a folder has.

use std::path::Path;

use super::dataset::Dataset;
use super::{folder, recbole};
use querywright_types::{Error, Result};

impl Dataset {
    /// Opens a folder of any of the layouts in the [module's table](super).
    ///
    /// # Errors
    /// When the folder has none of these layouts, or a file is missing, empty or malformed, ids repeat, or
    /// judgements, lists or histories name what is not there. The error names the file and the line.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let entries = std::fs::read_dir(path).map_err(|e| Error::read(path, e))?;
        let mut interactions = false;
        for entry in entries {
            let entry = entry.map_err(|e| Error::read(path, e))?;
            interactions |= entry.path().extension().is_some_and(|extension| extension == "inter");
        }
        if path.join("corpus.jsonl").exists() {
            folder::open(path)
        } else if interactions {
            recbole::open(path)
        } else {
            Err(Error::data(
                path,
                None,
                "there is neither corpus.jsonl nor a .inter file in this folder",
                "a data folder holds corpus.jsonl, queries.jsonl, qrels.tsv and lists such as test.txt; a BEIR folder \
                 holds corpus.jsonl, queries.jsonl and qrels/test.tsv; a RecBole folder holds NAME.inter and NAME.item",
            ))
        }
    }
}
