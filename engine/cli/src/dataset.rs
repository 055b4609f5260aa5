//! Opening data sets, and saying what is doubtful about them.

use anyhow::Result;
use querywright::catalog::{Dataset, OpenOptions, demo};
use querywright::sources::{self, PullOptions};

use crate::open;

/// A data set as the command line names it, with its warnings on standard error. `strict` refuses absent documents and
/// repeated judgements, naming all.
pub fn open(name: &str, strict: bool) -> Result<Dataset> {
    let dataset = if strict && name != demo::NAME {
        let path = sources::data(name, &PullOptions::default())?;
        Dataset::open_with(path, OpenOptions::default().strict(true))?
    } else {
        open::dataset(name)?
    };
    for warning in &dataset.warnings {
        tell!("warning: {warning}");
    }
    Ok(dataset)
}
