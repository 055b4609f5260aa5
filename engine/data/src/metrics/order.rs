//! trec_eval's order of a ranking.

use querywright_types::{Ordinal, Ranking};

/// The documents of a ranking in the order in which trec_eval looks at them: score descending, equal scores by
/// document id descending (byte by byte). The order of the hits themselves counts for nothing, as the rank column of
/// a run file counts for nothing there.
///
/// Scores are compared as `f32`, which is how trec_eval and pytrec_eval hold them: two scores that differ only in
/// double precision are a tie there and here. Of a document that occurs twice the better place counts.
pub fn trec_order<'a>(ranking: &Ranking, id_of: impl Fn(Ordinal) -> &'a str) -> Vec<Ordinal> {
    let mut hits = ranking.hits.clone();
    // Adding 0 turns -0 into +0, which are equal to trec_eval but not to a total order.
    hits.sort_by(|a, b| (b.score + 0.0).total_cmp(&(a.score + 0.0)).then_with(|| id_of(b.doc).cmp(id_of(a.doc))));
    let mut seen = std::collections::HashSet::with_capacity(hits.len());
    hits.into_iter().map(|hit| hit.doc).filter(|doc| seen.insert(*doc)).collect()
}
