//! What a first search proposes for a query, before a model is asked.

use querywright_types::{Deadline, Query, Result};

/// Proposes what a rewrite may be made of: words of the documents that a first search finds. For
/// [`Task::Recommend`](crate::Task::Recommend) prompts take whole titles.
pub trait Candidates: Send + Sync {
    /// The candidates, the best first. A word that a model cannot write is passed over.
    ///
    /// # Errors
    /// A source that fails or is late; then the query is not answered.
    fn propose(&self, query: &Query, deadline: Deadline) -> Result<Vec<String>>;
}

/// A source that takes microseconds needs no deadline: it is not asked once that has passed.
impl<F: Fn(&Query) -> Result<Vec<String>> + Send + Sync> Candidates for F {
    fn propose(&self, query: &Query, deadline: Deadline) -> Result<Vec<String>> {
        deadline.check()?;
        self(query)
    }
}
