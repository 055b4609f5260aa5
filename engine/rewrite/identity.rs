//! The rewriter that changes nothing: the raw query as a baseline.

use crate::error::Result;
use crate::types::{Deadline, Query, Rewrite, Rewriter};

/// Gives every query back as it came in.
#[derive(Debug, Clone, Copy, Default)]
pub struct Identity;

impl Rewriter for Identity {
    fn name(&self) -> &str {
        "identity"
    }

    fn rewrite(&self, queries: &[Query], _: Deadline) -> Vec<Result<Rewrite>> {
        queries.iter().map(|q| Ok(Rewrite::plain(q.text.clone()))).collect()
    }
}
