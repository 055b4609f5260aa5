//! What a model over sequences learns from: items by number, and histories with what came next.

use std::collections::HashMap;

use querywright_data::metrics::Measure;
use querywright_retrieve::{Training, events};
use querywright_types::{Hit, Judgements, Ordinal, Query, Ranking, Request, Rewrite};

/// What early stopping looks at.
pub(crate) const MEASURE: Measure = Measure::NDCG_10;

/// The items that training sequences have. The model knows no other.
#[derive(Debug, Clone)]
pub(crate) struct Items {
    /// By their number in the model, in ascending order.
    known: Vec<Ordinal>,
    numbers: HashMap<Ordinal, u32>,
}

impl Items {
    pub(crate) fn of(training: &Training<'_>) -> Self {
        let all = |(query, judgements): &(&Query, &Judgements)| -> Vec<Ordinal> {
            let relevant = judgements.iter().filter(|(_, grade)| *grade > 0).map(|(item, _)| item);
            query.history.iter().copied().chain(relevant).collect()
        };
        let mut known: Vec<Ordinal> = training.iter().flat_map(all).collect();
        known.sort_unstable();
        known.dedup();
        let numbers = known.iter().copied().zip(0..).collect();
        Self { known, numbers }
    }

    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    /// The numbers of the items of a history that are known, the last `length` of them.
    pub(crate) fn numbers(&self, history: &[Ordinal], length: usize) -> Vec<u32> {
        let mut numbers: Vec<u32> = history.iter().rev().filter_map(|item| self.number(*item)).take(length).collect();
        numbers.reverse();
        numbers
    }

    pub(crate) fn number(&self, item: Ordinal) -> Option<u32> {
        self.numbers.get(&item).copied()
    }

    /// The best items by their scores, which are in the order of the numbers.
    pub(crate) fn ranking(&self, scores: &[f32], request: &Request) -> Ranking {
        Ranking::best(self.known.iter().zip(scores).map(|(doc, score)| Hit { doc: *doc, score: *score }), request)
    }
}

/// A history and the item that came next.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Example<'a> {
    pub(crate) before: &'a [Ordinal],
    pub(crate) next: Ordinal,
}

/// Every item of the training sequences but the first of each, once, after those before it. An item that its history has is
/// none where the history is excluded from rankings: to learn it would be to learn what never counts.
pub(crate) fn examples<'a>(training: &Training<'a>) -> Vec<Example<'a>> {
    let mut examples = Vec::new();
    events(training, |event| {
        if !event.before.is_empty() && (event.repeats || !event.before.contains(&event.item)) {
            examples.push(Example { before: event.before, next: event.item });
        }
    });
    examples
}

/// A development query: what it asks, and what would be right.
pub(crate) struct Question<'a> {
    pub(crate) history: Vec<u32>,
    request: Request,
    judgements: &'a Judgements,
}

impl Question<'_> {
    /// What a ranking by these scores is worth.
    pub(crate) fn score(&self, items: &Items, scores: &[f32]) -> f64 {
        let ranked: Vec<Ordinal> = items.ranking(scores, &self.request).hits.iter().map(|hit| hit.doc).collect();
        MEASURE.score(&ranked, self.judgements)
    }
}

/// The development queries whose histories the model can read, sorted by the length of what it reads.
pub(crate) fn questions<'a>(development: &Training<'a>, items: &Items, length: usize) -> Vec<Question<'a>> {
    let question = |(query, judgements): &(&'a Query, &'a Judgements)| {
        let history = items.numbers(&query.history, length);
        let request = Request::new(query, &Rewrite::plain(""), MEASURE.cutoff().unwrap_or(10));
        (!history.is_empty()).then_some(Question { history, request, judgements })
    };
    let mut questions: Vec<Question<'a>> = development.iter().filter_map(question).collect();
    questions.sort_by_key(|question| question.history.len());
    questions
}

#[cfg(test)]
mod tests {
    use super::*;

    fn training(of: &[(&[Ordinal], Ordinal)], repeats: bool) -> Vec<(Query, Judgements)> {
        let query = |(history, item): &(&[Ordinal], Ordinal)| {
            let query = Query::text("").with_history(history.iter().copied()).with_repeats(repeats);
            (query, Judgements::new(vec![(*item, 1), (99, 0)]))
        };
        of.iter().map(query).collect()
    }

    fn borrowed(of: &[(Query, Judgements)]) -> Vec<(&Query, &Judgements)> {
        of.iter().map(|(query, judgements)| (query, judgements)).collect()
    }

    #[test]
    fn each_item_after_the_first_is_learned_once_after_those_before_it() {
        let training = training(&[(&[4, 2], 7), (&[4, 2, 7], 2), (&[], 5)], false);
        let training = borrowed(&training);
        let of: Vec<(&[Ordinal], Ordinal)> = examples(&training).iter().map(|e| (e.before, e.next)).collect();
        // 7 is asked for by itself, 2 comes after itself and is excluded, and nothing came before 5.
        assert_eq!(of, [(&[4, 2][..], 7), (&[4], 2)]);
        let items = Items::of(&training);
        assert_eq!(items.known, [2, 4, 5, 7], "nothing that is only judged irrelevant");
        assert_eq!(items.numbers(&[9, 7, 4, 99, 2, 7], 3), [1, 0, 3], "the last three that are known");
    }

    #[test]
    fn an_item_that_users_come_back_to_is_learned_where_it_can_be_found_again() {
        let training = training(&[(&[4, 2, 4], 2)], true);
        let of: Vec<Ordinal> = examples(&borrowed(&training)).iter().map(|example| example.next).collect();
        assert_eq!(of.len(), 3, "{of:?}");
    }
}
