//! How much of what a model could write was reached.

use serde::Serialize;

use super::Evaluation;
use querywright_data::metrics::{Measure, trec_order};
use querywright_types::{Deadline, Error, Request, Result, Retriever, Rewrite, retrieve};

/// The mean of a measure without a model, with it, and with the best of several rewrites of each query.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Headroom {
    /// What was measured.
    pub measure: Measure,
    /// How many queries.
    pub queries: usize,
    /// How many rewrites of each query were sampled.
    pub samples: usize,
    /// The mean without the model.
    pub without: f64,
    /// The mean of the model's answers.
    pub reached: f64,
    /// The mean of the best for each query: of the samples, the model's answer, and no model. The labels that choose are
    /// those that measure, so nothing can be learned that reaches it: an upper bound.
    pub best: f64,
}

impl Headroom {
    /// Retrieves `candidates`, several rewrites of each query. `without` the model and with its answers (`reached`) each
    /// query has a value. None where the retriever fails: a fault is no value.
    ///
    /// # Errors
    /// [`Error::Argument`] when these are not as many as the queries, or there is none.
    pub fn of(
        evaluation: &Evaluation<'_>,
        measure: Measure,
        retriever: &dyn Retriever,
        (without, reached): (&[f64], &[f64]),
        candidates: &[Vec<Rewrite>],
    ) -> Result<Option<Self>> {
        let queries = evaluation.queries;
        let lengths = [without.len(), reached.len(), candidates.len()];
        if queries.is_empty() || lengths != [queries.len(); 3] {
            let found = format!("{lengths:?} values and candidates for {} queries", queries.len());
            return Err(Error::argument("headroom", found, "give one value and one list for each query"));
        }
        let depth = measure.cutoff().unwrap_or(1000);
        let mut best: Vec<f64> = without.iter().zip(reached).map(|(without, reached)| without.max(*reached)).collect();
        let asked = || candidates.iter().enumerate().flat_map(|(place, all)| all.iter().map(move |one| (place, one)));
        let requests: Vec<Request> =
            asked().filter_map(|(place, one)| Some(Request::new(queries.get(place)?.0, one, depth))).collect();
        for (ranking, (place, _)) in retrieve(retriever, &requests, Deadline::NONE).into_iter().zip(asked()) {
            let (Ok(ranking), Some((_, judgements)), Some(best)) = (ranking, queries.get(place), best.get_mut(place))
            else {
                return Ok(None);
            };
            *best = best.max(measure.score(&trec_order(&ranking, |doc| evaluation.catalog.id(doc)), judgements));
        }
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let samples = candidates.iter().map(Vec::len).max().unwrap_or(0);
        let (without, reached, best) = (mean(without), mean(reached), mean(&best));
        Ok(Some(Self { measure, queries: queries.len(), samples, without, reached, best }))
    }

    /// The share of the way from no model to the best: 1 is all of it, below 0 the model does harm. None where there is no
    /// way to go.
    pub fn share(&self) -> Option<f64> {
        let way = self.best - self.without;
        (way > 1e-9).then(|| (self.reached - self.without) / way)
    }

    /// A sentence for a person.
    pub fn sentence(&self) -> String {
        let Self { measure, queries, samples, without, reached, best } = self;
        let Some(share) = self.share() else {
            return format!(
                "no headroom: none of {samples} samples for each of {queries} queries beats {without:.4} {measure}"
            );
        };
        format!(
            "reached {:.0}% of the headroom ({measure} {without:.4} without the model, {reached:.4} with it, {best:.4} with the \
             best of {samples} samples for each of {queries} development queries, judged on the same labels, so an upper bound)",
            100.0 * share
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use querywright_data::catalog::CatalogBuilder;
    use querywright_types::{Fault, FaultKind, Hit, Judgements, Query, Ranking, RetrieverCard};

    /// Finds the documents whose numbers stand in the text, in that order.
    struct Numbers(RetrieverCard);

    impl Retriever for Numbers {
        fn card(&self) -> &RetrieverCard {
            &self.0
        }

        fn retrieve(&self, requests: &[Request], _: Deadline) -> Vec<Result<Ranking, Fault>> {
            let hit = |(at, word): (usize, &str)| Some(Hit { doc: word.parse().ok()?, score: -(at as f32) });
            let answer = |request: &Request| match request.text.as_str() {
                "broken" => Err(Fault::new("numbers", FaultKind::Network, "gone")),
                text => Ok(Ranking { hits: text.split(' ').enumerate().filter_map(hit).collect() }),
            };
            requests.iter().map(answer).collect()
        }
    }

    #[test]
    fn headroom_is_what_the_best_of_the_samples_adds_and_a_share_of_it_is_reached() {
        let mut builder = CatalogBuilder::new();
        for i in 0..4 {
            builder.push(&format!("d{i}"), [("title", "x")]).unwrap();
        }
        let (catalog, judged) = (builder.finish(), Judgements::new(vec![(0, 1)]));
        let queries = [Query::new("a", "x"), Query::new("b", "y")];
        let pairs: Vec<(&Query, &Judgements)> = queries.iter().map(|query| (query, &judged)).collect();
        let measure: Measure = "RR@10".parse().unwrap();
        let evaluation = Evaluation { catalog: &catalog, queries: &pairs, measures: &[measure], batch: 8 };
        let numbers = Numbers(RetrieverCard::new("numbers", "0"));
        let of = |candidates: [&[&str]; 2], reached: &[f64]| {
            let candidates = candidates.map(|all| all.iter().map(|text| Rewrite::plain(*text)).collect::<Vec<_>>());
            Headroom::of(&evaluation, measure, &numbers, (&[0.0, 0.5], reached), &candidates)
        };
        let found = of([&["1 2 3 0", "1 0"], &["1"]], &[0.25, 0.5]).unwrap().unwrap();
        // The first query could have 0.5; the second keeps what it has.
        assert_eq!((found.without, found.reached, found.best, found.samples), (0.25, 0.375, 0.5, 2));
        assert_eq!(found.share(), Some(0.5));
        assert!(found.sentence().starts_with("reached 50% of the headroom (RR@10 0.2500 without"), "{found:?}");
        let all = of([&["1 2 3 0"], &[]], &[1.0, 0.5]).unwrap().unwrap();
        assert_eq!(all.share(), Some(1.0), "the model's own answer is one of those that may be best");
        let none = of([&["1"], &["2"]], &[0.0, 0.0]).unwrap().unwrap();
        assert_eq!(none.share(), None);
        assert!(none.sentence().starts_with("no headroom"), "{none:?}");
        assert_eq!(of([&["broken"], &[]], &[0.0, 0.0]).unwrap(), None);
        assert!(of([&[], &[]], &[0.0]).unwrap_err().to_string().starts_with("headroom: "));
    }
}
