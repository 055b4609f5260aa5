//! A new order of what a search finds: what re-ranking makes of a query.

use crate::{Hit, Ordinal, Ranking, Request};

/// Documents that come first among those that are found. What is not named keeps its order behind them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Order {
    /// These come first, in this order. One that is not found is passed over.
    pub first: Vec<Ordinal>,
    /// How deep is searched for them at least: as many documents as could be named.
    pub among: usize,
}

impl Order {
    /// `first` of the `among` best documents.
    pub fn new(first: Vec<Ordinal>, among: usize) -> Self {
        Self { first, among }
    }

    /// A ranking in this order. Scores stay with the places, so that they still fall. Where those of places that are named or
    /// changed hands are equal, the upper is raised by as little as there is: no rule for equal scores undoes the order.
    pub fn apply(&self, ranking: &Ranking) -> Ranking {
        let found = |doc: &Ordinal| ranking.hits.iter().find(|hit| hit.doc == *doc).copied();
        let mut hits: Vec<Hit> = Vec::with_capacity(ranking.hits.len());
        for hit in self.first.iter().filter_map(found) {
            if !hits.iter().any(|earlier| earlier.doc == hit.doc) {
                hits.push(hit);
            }
        }
        let named = hits.len();
        let others =
            ranking.hits.iter().filter(|hit| hits.iter().take(named).all(|first| first.doc != hit.doc)).copied();
        let others: Vec<Hit> = others.collect();
        hits.extend(others);
        let moved = hits.iter().zip(&ranking.hits).rposition(|(new, old)| new.doc != old.doc);
        let Some(last) = moved.max(named.checked_sub(1)) else { return ranking.clone() };
        let mut below = ranking.hits.get(last + 1).map(|hit| hit.score);
        for (hit, place) in hits.iter_mut().zip(&ranking.hits).take(last + 1).rev() {
            hit.score = below.map_or(place.score, |below| place.score.max(below.next_up()));
            below = Some(hit.score);
        }
        if hits.iter().any(|hit| !hit.score.is_finite()) {
            // Above the largest number there is none: then the places alone count.
            hits.iter_mut().enumerate().for_each(|(place, hit)| hit.score = -(place as f32));
        }
        Ranking { hits }
    }
}

impl Request {
    /// What a retriever is asked on behalf of this request: it does not order anew, but must find what is to be ordered.
    pub(crate) fn unordered(&self) -> Self {
        let among = self.order.as_ref().map_or(0, |order| order.among);
        Self { order: None, k: self.k.max(among), ..self.clone() }
    }

    /// The answer to this request, from the answer to [`unordered`](Self::unordered).
    pub(crate) fn ordered(&self, found: &Ranking) -> Ranking {
        let mut ranking = self.order.as_ref().map_or_else(|| found.clone(), |order| order.apply(found));
        ranking.hits.truncate(self.k);
        ranking
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranking(hits: &[(Ordinal, f32)]) -> Ranking {
        Ranking { hits: hits.iter().map(|(doc, score)| Hit { doc: *doc, score: *score }).collect() }
    }

    fn docs(ranking: &Ranking) -> Vec<Ordinal> {
        ranking.hits.iter().map(|hit| hit.doc).collect()
    }

    #[test]
    fn what_is_named_comes_first_and_the_rest_keeps_its_order_and_its_scores() {
        let found = ranking(&[(4, 9.0), (1, 8.0), (7, 7.0), (2, 6.0), (5, 5.0)]);
        let ordered = Order::new(vec![7, 3, 4, 7], 4).apply(&found);
        assert_eq!(docs(&ordered), [7, 4, 1, 2, 5], "3 was not found, 7 stands once");
        let scores: Vec<f32> = ordered.hits.iter().map(|hit| hit.score).collect();
        assert_eq!(scores, [9.0, 8.0, 7.0, 6.0, 5.0], "the places keep theirs");
        for same in [vec![], vec![4], vec![4, 1], vec![3]] {
            assert_eq!(Order::new(same, 5).apply(&found), found, "nothing moved, so nothing changed");
        }
    }

    #[test]
    fn equal_scores_do_not_undo_an_order_and_those_behind_it_stay_equal() {
        let found = ranking(&[(0, 2.0), (1, 2.0), (2, 2.0), (3, 2.0), (4, 2.0)]);
        let ordered = Order::new(vec![2, 0], 3).apply(&found);
        assert_eq!(docs(&ordered), [2, 0, 1, 3, 4]);
        let scores: Vec<f32> = ordered.hits.iter().map(|hit| hit.score).collect();
        assert!(scores[0] > scores[1] && scores[1] > scores[2] && scores[2] > scores[3], "{scores:?}");
        assert!(scores[3] == 2.0 && scores[4] == 2.0 && scores[0] < 2.00001);
        let same = Order::new(vec![0, 1], 3).apply(&found);
        assert!(same.hits[0].score > same.hits[1].score && same.hits[1].score > 2.0, "named, though it stood there");
        let huge = ranking(&[(0, f32::MAX), (1, f32::MAX), (2, 1.0)]);
        let ordered = Order::new(vec![1], 2).apply(&huge);
        assert_eq!(docs(&ordered), [1, 0, 2]);
        assert_eq!(ordered.check(&Request::plain("x", 3), Some(3)), Ok(()));
    }
}
