//! How a data set is read.

/// How a data set is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct OpenOptions {
    /// Refuses judgements of documents that the corpus lacks, and judgements that stand twice, naming all of them.
    /// Default: false, such judgements are read as trec_eval reads them, with a [`Warning`](super::Warning).
    pub strict: bool,
}

impl OpenOptions {
    /// Refuses what else would be a warning about judgements.
    pub fn strict(mut self, strict: bool) -> Self {
        self.strict = strict;
        self
    }
}
