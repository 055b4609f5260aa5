//! Splits that a data set lacks, made from the queries of one that it has.

use serde::{Deserialize, Serialize};

use querywright_data::catalog::Dataset;
use querywright_types::{Error, Result};

use super::DataConfig;

/// `[data.resplit]`: judged queries are dealt to the splits train, dev and test by a hash of their ids. Shares are in
/// percent and sum to 100; a split with 0 stays as it is, and its queries are dealt to no other.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ResplitConfig {
    /// The split whose queries are dealt. Default: all judged queries.
    pub from: Option<String>,
    /// Percent of them to train on; above 0.
    pub train: u32,
    /// Percent of them to choose the best adapter by.
    pub dev: u32,
    /// Percent of them to test on.
    pub test: u32,
}

impl ResplitConfig {
    pub(super) fn validate(&self) -> Result<()> {
        let sum = u64::from(self.train) + u64::from(self.dev) + u64::from(self.test);
        if sum != 100 || self.train == 0 {
            let found = format!("train {}, dev {}, test {} percent", self.train, self.dev, self.test);
            return Err(Error::argument("data.resplit", found, "give shares that sum to 100, as 80, 10 and 10"));
        }
        Ok(())
    }
}

impl DataConfig {
    /// The data set with the splits that [`resplit`](Self::resplit) makes.
    ///
    /// # Errors
    /// When there is no split to take the queries from, or there are too few.
    pub fn with_splits(&self, dataset: Dataset) -> Result<Dataset> {
        match &self.resplit {
            Some(made) => dataset.deal(made.from.as_deref(), [made.train, made.dev, made.test]),
            None => Ok(dataset),
        }
    }
}
