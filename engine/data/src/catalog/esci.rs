//! ESCI, the Shopping Queries Dataset of Amazon: queries with graded products, in two Parquet files.
//!
//! `shopping_queries_dataset_examples.parquet` holds the judgements (`query_id`, `query`, `product_id`, `product_locale`,
//! `esci_label`, `small_version`, `large_version`, `split`), `shopping_queries_dataset_products.parquet` the products. One
//! locale is read (`us`), and the judgements of the small version, those of its task 1, the ranking; [`Settings`] choose
//! others. The catalogue is all products of the locale.

#[cfg(feature = "parquet")]
mod read;

use std::path::{Path, PathBuf};

use super::dataset::Dataset;
use super::settings::Settings;
use querywright_types::{Error, Result};

/// The file of judgements, and that of products.
const EXAMPLES: &str = "shopping_queries_dataset_examples.parquet";
const PRODUCTS: &str = "shopping_queries_dataset_products.parquet";
/// Where they lie in their repository.
const FOLDER: &str = "shopping_queries_dataset";

/// Whether a folder, or a copy of the repository, holds one of the files.
pub(super) fn is_here(path: &Path) -> bool {
    folder(path).is_some()
}

fn folder(path: &Path) -> Option<PathBuf> {
    let holds = |folder: &PathBuf| [EXAMPLES, PRODUCTS].iter().any(|name| folder.join(name).is_file());
    [path.to_path_buf(), path.join(FOLDER)].into_iter().find(holds)
}

/// Opens a folder of it.
pub(super) fn open(path: &Path, settings: &Settings, strict: bool) -> Result<Dataset> {
    let [examples, products] = [EXAMPLES, PRODUCTS].map(|name| folder(path).unwrap_or(path.to_path_buf()).join(name));
    if let Some(missing) = [&examples, &products].into_iter().find(|file| !file.is_file()) {
        let remedy = format!("{EXAMPLES} and {PRODUCTS} belong together: querywright data pull esci fetches both");
        return Err(Error::data(missing, None, "the file is missing", remedy));
    }
    read_both(path, [&examples, &products], settings, strict)
}

#[cfg(feature = "parquet")]
fn read_both(path: &Path, files: [&Path; 2], settings: &Settings, strict: bool) -> Result<Dataset> {
    read::dataset(path, files, settings, strict)
}

#[cfg(not(feature = "parquet"))]
fn read_both(path: &Path, _files: [&Path; 2], _settings: &Settings, _strict: bool) -> Result<Dataset> {
    let remedy = "build with the feature `parquet`; the command line has it";
    Err(Error::data(path, None, "ESCI is in Parquet, and this program was built without its reader", remedy))
}

#[cfg(all(test, feature = "parquet"))]
mod tests;
