//! The most frequent items: what recommends without knowing anything of who asks.

use crate::bm25::best;
use crate::each::each;
use crate::sequences::{Training, check, relevant, training_digest};
use querywright_data::catalog::Catalog;
use querywright_data::digest::sha256_of;
use querywright_types::{Deadline, Fault, Ordinal, QueryLanguage, Ranking, Request, Result, Retriever, RetrieverCard};

/// Ranks items by how often they are in a history or among the relevant items of training queries, whatever is asked.
/// Items that no training query has are not found.
#[derive(Debug, Clone)]
pub struct Popularity {
    /// The items that any training query has, with their counts, the most frequent first.
    items: Vec<(Ordinal, f64)>,
    card: RetrieverCard,
}

impl Popularity {
    /// Counts items. `training` must hold no query that the counts are measured on.
    ///
    /// # Errors
    /// [`Error::Argument`](querywright_types::Error::Argument) for an item that the catalogue lacks.
    pub fn learn(catalog: &Catalog, training: &Training<'_>) -> Result<Self> {
        check(catalog, training)?;
        let mut counts = vec![0_u32; catalog.len()];
        for (query, judgements) in training {
            for item in query.history.iter().copied().chain(relevant(judgements)) {
                counts[item as usize] += 1;
            }
        }
        let mut items: Vec<(Ordinal, f64)> =
            (0..).zip(counts).filter(|(_, count)| *count > 0).map(|(item, count)| (item, f64::from(count))).collect();
        // Stable: of equal counts the lower ordinal goes first.
        items.sort_by(|a, b| b.1.total_cmp(&a.1));
        let digest = sha256_of(&["popularity", "1", catalog.digest(), &training_digest(training)]);
        let card = RetrieverCard::new("popularity", digest)
            .with_version(env!("CARGO_PKG_VERSION"))
            .with_languages([QueryLanguage::Plain, QueryLanguage::Boolean, QueryLanguage::Natural])
            .with_text(false)
            .with_documents(catalog.len());
        Ok(Self { items, card })
    }

    fn search(&self, request: &Request) -> Ranking {
        // No more can be excluded than the request lists.
        let enough = request.k.saturating_add(request.exclude.len()).min(self.items.len());
        best(self.items[..enough].to_vec(), request)
    }
}

impl Retriever for Popularity {
    fn card(&self) -> &RetrieverCard {
        &self.card
    }

    fn retrieve(&self, requests: &[Request], deadline: Deadline) -> Vec<Result<Ranking, Fault>> {
        let search = |request: &Request| deadline.check_for(&self.card.name).map(|()| self.search(request));
        each(requests, search)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sequences::tests::{borrowed, catalog, queries};
    use querywright_types::{Error, FaultKind, retrieve};

    fn learned(of: &[(&[Ordinal], Ordinal)]) -> Result<Popularity> {
        Popularity::learn(&catalog(5), &borrowed(&queries(of)))
    }

    #[test]
    fn items_are_ranked_by_how_often_training_queries_have_them() {
        let popularity = learned(&[(&[3, 3, 3], 1), (&[2], 1), (&[], 0)]).unwrap();
        let request = Request::plain("anything", 9);
        let requests = [request.clone(), request.clone().with_k(2), request.clone().with_k(2).with_exclude([1, 2])];
        let found: Vec<Vec<(Ordinal, f32)>> = retrieve(&popularity, &requests, Deadline::NONE)
            .into_iter()
            .map(|ranking| ranking.unwrap().hits.iter().map(|hit| (hit.doc, hit.score)).collect())
            .collect();
        assert_eq!(found[0], [(3, 3.0), (1, 2.0), (0, 1.0), (2, 1.0)]);
        assert_eq!(found[1], [(3, 3.0), (1, 2.0)]);
        assert_eq!(found[2], [(3, 3.0), (0, 1.0)]);
        let late = popularity.retrieve(&[request], Deadline::after(std::time::Duration::ZERO));
        assert_eq!(late[0].as_ref().unwrap_err().kind, FaultKind::Timeout);
    }

    #[test]
    fn the_card_tells_other_training_queries_apart_and_says_that_texts_are_not_read() {
        let [one, other] = [&[(&[3][..], 1)][..], &[(&[1][..], 3)]].map(|of| learned(of).unwrap());
        assert_ne!(one.card().digest, other.card().digest);
        assert!(!one.card().reads_text && !one.card().reads_history && one.card().documents == Some(5));
    }

    #[test]
    fn items_that_the_catalogue_lacks_are_refused() {
        for of in [&[(&[5][..], 1)][..], &[(&[1][..], 7)]] {
            let refused = learned(of).unwrap_err();
            assert!(
                matches!(refused, Error::Argument { .. }) && refused.to_string().contains("there are 5"),
                "{refused}"
            );
        }
        assert!(learned(&[]).unwrap().items.is_empty());
    }
}
