//! The rewriter that returns the query unchanged: the baseline of every results table.

use querywright_types::{Deadline, Query, Result, Rewrite, Rewriter};

/// Returns the user's words unchanged, as a query of plain words.
#[derive(Debug, Clone, Copy, Default)]
pub struct Identity;

impl Rewriter for Identity {
    fn name(&self) -> &str {
        "identity"
    }

    fn rewrite(&self, queries: &[Query], _deadline: Deadline) -> Vec<Result<Rewrite>> {
        queries.iter().map(|query| Ok(Rewrite::plain(query.text.clone()))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_query_is_returned_unchanged_even_after_the_deadline() {
        let queries = [Query::text("a AND b"), Query::text("")];
        let past = Deadline::after(std::time::Duration::ZERO);
        let texts: Vec<Rewrite> = Identity.rewrite(&queries, past).into_iter().map(|r| r.unwrap()).collect();
        assert_eq!(texts, [Rewrite::plain("a AND b"), Rewrite::plain("")]);
    }
}
