//! One system over a set of judged queries.

use std::time::Instant;

use super::confidence::is_below;
use querywright_data::catalog::{Catalog, Run};
use querywright_data::metrics::{Measure, trec_order};
use querywright_stack::{Ranked, rank_all};
use querywright_types::{Error, Hit, Judgements, Kept, Observe, Query, Ranking, Result, Retriever, Rewrite, Rewriter};

/// Hits asked for when a measure looks at the whole ranking: the depth of TREC runs.
const WHOLE_RANKING: usize = 1000;

/// A rewriter in front of a retriever, measured query by query.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct System {
    /// What tables call it: the rewriter's name, unless it was [`named`](Self::named) otherwise.
    pub name: String,
    /// The rewriter's own name.
    pub rewriter: String,
    /// The retriever's name.
    pub retriever: String,
    /// Per measure one value a query, in the order of the queries.
    pub scores: Vec<(Measure, Vec<f64>)>,
    /// Seconds for the whole set: rewriting and retrieval, not scoring.
    pub seconds: f64,
    /// Queries that fell back to the original text, because there was no usable rewrite.
    pub fallbacks: usize,
    /// Queries that the rewriter left as they are without a model: it wrote nothing, or was not sure enough.
    pub kept: usize,
    /// Queries whose retrieval failed, which count 0 as a search that shows nothing, or whose rewriter's own search did,
    /// which count as the raw query.
    pub faults: usize,
    /// Mean length of what was searched for, in words.
    pub mean_query_words: f64,
}

/// A measured system, with its rewrites and rankings.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Evaluated {
    /// The figures.
    pub system: System,
    /// The rankings, in trec_eval's order. Queries whose retrieval failed are missing, as in a run file.
    pub run: Run,
    /// What was searched for, in the order of the queries.
    pub rewrites: Vec<Rewrite>,
    /// What is shown of each rewrite: its text, and the ids of the documents that it puts first.
    pub shown: Vec<String>,
    /// Why the first query that fell back did; none where none did.
    pub first_fallback: Option<Error>,
}

/// The means of a system: what `eval --json` prints.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct Summary {
    /// How many queries.
    pub queries: usize,
    /// The mean of each measure, by its name, in the order asked for.
    pub measures: serde_json::Map<String, serde_json::Value>,
    /// The rewriter's name.
    pub rewriter: String,
    /// The retriever's name.
    pub retriever: String,
    /// Seconds for the whole set.
    pub seconds: f64,
    /// Queries that fell back to the original text.
    pub fallbacks: usize,
    /// Queries that the rewriter left as they are without a model.
    pub kept: usize,
    /// Queries whose retrieval failed.
    pub faults: usize,
    /// Mean length of what was searched for, in words.
    pub mean_query_words: f64,
}

/// What systems are measured on, and by which measures.
#[derive(Debug, Clone, Copy)]
pub struct Evaluation<'a> {
    /// Names the hits; trec_eval's order of equal scores needs their ids.
    pub catalog: &'a Catalog,
    /// The queries with their judgements.
    pub queries: &'a [(&'a Query, &'a Judgements)],
    /// What every ranking is scored by.
    pub measures: &'a [Measure],
    /// Queries that are rewritten at once.
    pub batch: usize,
}

impl Evaluation<'_> {
    /// Runs `rewriter` and `retriever` over the queries and scores every ranking. As many hits are asked for as the
    /// deepest of the measures looks at; 1,000 when one looks at the whole ranking. `observer` is told how many queries
    /// are done.
    ///
    /// # Errors
    /// When there is no query or no measure, the rewriter's device fails, or a ranking is missing.
    pub fn run(&self, rewriter: &dyn Rewriter, retriever: &dyn Retriever, observer: &dyn Observe) -> Result<Evaluated> {
        if self.queries.is_empty() {
            return Err(Error::argument("queries", "there is no judged query", "evaluate a split that has some"));
        }
        let Some(depth) = self.measures.iter().map(|m| m.cutoff().unwrap_or(WHOLE_RANKING)).max() else {
            return Err(Error::argument("measures", "there is none", "name at least one, such as nDCG@10"));
        };
        let texts: Vec<&Query> = self.queries.iter().map(|(query, _)| *query).collect();
        let start = Instant::now();
        let ranked = rank_all(rewriter, retriever, &texts, depth, self.batch, observer);
        let seconds = start.elapsed().as_secs_f64();
        if ranked.len() != texts.len() {
            let found = format!("{} rankings for {} queries", ranked.len(), texts.len());
            return Err(Error::bug("evaluate::system", found));
        }
        let mut evaluated = self.score(rewriter.name(), ranked)?;
        evaluated.system.retriever = retriever.card().name.clone();
        evaluated.system.seconds = seconds;
        Ok(evaluated)
    }

    /// Scores the rankings, one a query; retriever and seconds are left open.
    fn score(&self, name: &str, ranked: Vec<Ranked>) -> Result<Evaluated> {
        let mut run = Run::new(name.split_whitespace().collect::<Vec<_>>().join("-"));
        let mut scores: Vec<(Measure, Vec<f64>)> =
            self.measures.iter().map(|m| (*m, Vec::with_capacity(self.queries.len()))).collect();
        let mut rewrites = Vec::with_capacity(self.queries.len());
        let (mut fallbacks, mut faults, mut first_fallback) = (0, 0, None);
        for ((query, judgements), ranked) in self.queries.iter().zip(ranked) {
            fallbacks += usize::from(ranked.fallback.is_some());
            if let Some(error @ Error::Device { .. }) = ranked.fallback {
                // A rewriter that has lost its device has no scores of its own.
                return Err(error);
            }
            // What is ranked then is the raw query, not the rewriter's.
            faults += usize::from(ranked.ranking.is_ok() && ranked.fallback.as_ref().is_some_and(Error::is_fault));
            first_fallback = first_fallback.or(ranked.fallback);
            rewrites.push(ranked.rewrite);
            let order = match ranked.ranking {
                Ok(ranking) => {
                    let order = trec_order(&ranking, |doc| self.catalog.id(doc));
                    run.rankings.insert(query.id.clone(), reordered(&ranking, &order));
                    order
                }
                Err(_) => {
                    faults += 1;
                    Vec::new()
                }
            };
            for (measure, values) in &mut scores {
                values.push(measure.score(&order, judgements));
            }
        }
        let shown = rewrites.iter().map(|rewrite| self.shown(rewrite)).collect();
        let system = System {
            name: name.to_owned(),
            rewriter: name.to_owned(),
            retriever: String::new(),
            scores,
            seconds: 0.0,
            fallbacks,
            kept: rewrites.iter().filter(|rewrite| rewrite.kept.is_some()).count(),
            faults,
            mean_query_words: mean_words(&rewrites),
        };
        Ok(Evaluated { system, run, rewrites, shown, first_fallback })
    }

    fn shown(&self, rewrite: &Rewrite) -> String {
        let Some(order) = rewrite.order.as_ref().filter(|order| !order.first.is_empty()) else {
            return rewrite.text.clone();
        };
        let known = order.first.iter().filter(|doc| (**doc as usize) < self.catalog.len());
        let ids: Vec<&str> = known.map(|doc| self.catalog.id(*doc)).collect();
        format!("{} -> {}", rewrite.text, ids.join(", "))
    }

    /// What serving with a least confidence comes to: `trained` where the model was that sure, else `without`, which is what
    /// a query is without the model. Both were measured here. No model is asked again, so it costs nothing; what serving
    /// costs is what `trained` does.
    ///
    /// # Errors
    /// [`Error::Argument`] when one of them was measured on other queries or by other measures.
    pub fn gated(&self, trained: &Evaluated, without: &Evaluated, least: f64) -> Result<Evaluated> {
        let count = self.queries.len();
        if [trained, without].iter().any(|system| system.rewrites.len() != count) {
            let found = format!("{} and {} for {count}", trained.rewrites.len(), without.rewrites.len());
            return Err(Error::argument("gated", found, "measure both systems on the same queries"));
        }
        let unsure: Vec<bool> = trained.rewrites.iter().map(|rewrite| is_unsure(rewrite, least)).collect();
        let mut scores = Vec::with_capacity(self.measures.len());
        for measure in self.measures {
            let (Some(with), Some(base)) = (trained.system.values(*measure), without.system.values(*measure)) else {
                let remedy = "measure both systems with the same measures";
                return Err(Error::argument("gated", format!("no values of {measure}"), remedy));
            };
            let own = unsure.iter().zip(with.iter().zip(base));
            scores.push((*measure, own.map(|(unsure, (with, base))| if *unsure { *base } else { *with }).collect()));
        }
        let mut run = Run::new(trained.run.tag.clone());
        let mut rewrites = Vec::with_capacity(count);
        for (place, (query, _)) in self.queries.iter().enumerate() {
            let unsure = unsure.get(place).is_some_and(|unsure| *unsure);
            let from = if unsure { without } else { trained };
            if let Some(ranking) = from.run.rankings.get(&query.id) {
                run.rankings.insert(query.id.clone(), ranking.clone());
            }
            let rewrite = from.rewrites.get(place).cloned().unwrap_or_else(|| Rewrite::plain(query.text.clone()));
            rewrites.push(if unsure { rewrite.with_kept(Kept::LowConfidence) } else { rewrite });
        }
        let system = System {
            scores,
            kept: rewrites.iter().filter(|rewrite| rewrite.kept.is_some()).count(),
            faults: count - run.rankings.len(),
            mean_query_words: mean_words(&rewrites),
            ..trained.system.clone()
        };
        let shown = rewrites.iter().map(|rewrite| self.shown(rewrite)).collect();
        Ok(Evaluated { system, run, rewrites, shown, first_fallback: trained.first_fallback.clone() })
    }
}

/// Whether a model that must be this sure is not. What no model wrote is as it is.
pub(super) fn is_unsure(rewrite: &Rewrite, least: f64) -> bool {
    rewrite.kept.is_none() && is_below(rewrite.confidence, least)
}

fn mean_words(rewrites: &[Rewrite]) -> f64 {
    let words: usize = rewrites.iter().map(|rewrite| rewrite.text.split_whitespace().count()).sum();
    words as f64 / rewrites.len().max(1) as f64
}

/// The hits in the order that was scored, so that the run file, read by trec_eval, gives the same figures.
fn reordered(ranking: &Ranking, order: &[u32]) -> Ranking {
    let mut hits: Vec<Hit> = ranking.hits.clone();
    let places: std::collections::HashMap<u32, usize> = order.iter().enumerate().map(|(i, doc)| (*doc, i)).collect();
    // Stable over descending scores: of a document that stands twice the better score is kept, as in `order`.
    hits.sort_by(|a, b| places.get(&a.doc).cmp(&places.get(&b.doc)).then(b.score.total_cmp(&a.score)));
    hits.dedup_by_key(|hit| hit.doc);
    Ranking { hits }
}

impl System {
    /// The same under another name, such as "zero-shot" or "trained".
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// The values of a measure, one a query; none when it was not asked for.
    pub fn values(&self, measure: Measure) -> Option<&[f64]> {
        self.scores.iter().find(|(known, _)| *known == measure).map(|(_, values)| values.as_slice())
    }

    /// The mean of a measure; none when it was not asked for.
    pub fn mean(&self, measure: Measure) -> Option<f64> {
        self.values(measure).map(mean)
    }

    /// How many queries were measured.
    pub fn queries(&self) -> usize {
        self.scores.first().map_or(0, |(_, values)| values.len())
    }

    /// The means alone.
    pub fn summary(&self) -> Summary {
        Summary {
            queries: self.queries(),
            measures: self.scores.iter().map(|(m, values)| (m.to_string(), mean(values).into())).collect(),
            rewriter: self.rewriter.clone(),
            retriever: self.retriever.clone(),
            seconds: self.seconds,
            fallbacks: self.fallbacks,
            kept: self.kept,
            faults: self.faults,
            mean_query_words: self.mean_query_words,
        }
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use querywright_data::catalog::CatalogBuilder;
    use querywright_types::{Deadline, Fault, FaultKind, Progress, Request, RetrieverCard};

    /// Upper-cases a query; has no rewrite for one of them.
    struct Shout;

    impl Rewriter for Shout {
        fn name(&self) -> &str {
            "shout loud"
        }

        fn rewrite(&self, queries: &[Query], _: Deadline) -> Vec<Result<Rewrite>> {
            let one = |q: &Query| match q.text == "unwritable" {
                true => Err(Error::Format("empty".into())),
                false => Ok(Rewrite::plain(q.text.to_uppercase())),
            };
            queries.iter().map(one).collect()
        }
    }

    /// Gives fixed rankings; fails for "BROKEN".
    struct Fixed(RetrieverCard);

    impl Retriever for Fixed {
        fn card(&self) -> &RetrieverCard {
            &self.0
        }

        fn retrieve(&self, requests: &[Request], _: Deadline) -> Vec<Result<Ranking, Fault>> {
            let answer = |request: &Request| {
                assert_eq!(request.k, 5);
                let hits = match request.text.as_str() {
                    "FIRST TRY" => vec![(1, 2.0), (0, 1.0)],
                    "TIED" => vec![(0, 1.0), (1, 1.0)],
                    "BROKEN" => {
                        return Err(Fault::new("fixed", FaultKind::Network, "gone"));
                    }
                    _ => vec![],
                };
                Ok(Ranking { hits: hits.into_iter().map(|(doc, score)| Hit { doc, score }).collect() })
            };
            requests.iter().map(answer).collect()
        }
    }

    fn fixed() -> Fixed {
        Fixed(RetrieverCard::new("fixed", "0").with_version("1").with_content("things"))
    }

    fn catalog() -> Catalog {
        let mut builder = CatalogBuilder::new();
        for id in ["a", "b"] {
            builder.push(id, [("title", id)]).unwrap();
        }
        builder.finish()
    }

    #[test]
    fn every_query_is_scored_in_order_and_failures_count_zero_and_are_counted() {
        let texts = ["first try", "tied", "broken", "unwritable"];
        let queries: Vec<Query> = texts.iter().enumerate().map(|(i, t)| Query::new(format!("q{i}"), *t)).collect();
        let judged = Judgements::new(vec![(1, 1)]);
        let pairs: Vec<(&Query, &Judgements)> = queries.iter().map(|q| (q, &judged)).collect();
        let measures: Vec<Measure> = ["RR@5", "P@1"].iter().map(|m| m.parse().unwrap()).collect();
        let done = std::cell::RefCell::new(vec![]);
        let catalog = catalog();
        let evaluation = Evaluation { catalog: &catalog, queries: &pairs, measures: &measures, batch: 3 };
        let got = evaluation.run(&Shout, &fixed(), &|p: Progress<'_>| done.borrow_mut().push(p.done)).unwrap();
        // Of the tied pair trec_eval takes "b", the greater id, first.
        assert_eq!(got.system.values(measures[0]).unwrap(), [1.0, 1.0, 0.0, 0.0]);
        assert_eq!((got.system.faults, got.system.fallbacks), (1, 1));
        assert_eq!(got.system.mean_query_words, 1.25);
        assert_eq!(done.into_inner(), [3, 4]);
        assert_eq!(got.run.tag, "shout-loud");
        assert_eq!(got.run.rankings.keys().collect::<Vec<_>>(), ["q0", "q1", "q3"]);
        assert_eq!(got.run.rankings["q1"].hits.iter().map(|h| h.doc).collect::<Vec<_>>(), [1, 0]);
        let json = serde_json::to_value(got.system.summary()).unwrap();
        assert_eq!(json["measures"].to_string(), r#"{"RR@5":0.5,"P@1":0.5}"#);
        assert_eq!((json["queries"].as_u64(), json["retriever"].as_str()), (Some(4), Some("fixed")));
    }

    /// Is sure of what ends in an exclamation mark, and writes nothing for one query.
    struct Sure;

    impl Rewriter for Sure {
        fn name(&self) -> &str {
            "sure"
        }

        fn rewrite(&self, queries: &[Query], _: Deadline) -> Vec<Result<Rewrite>> {
            let one = |q: &Query| match q.text.as_str() {
                "unwritable" => Err(Error::Format("empty".into())),
                "nothing" => Ok(Rewrite::plain("nothing").with_confidence(-9.0).with_kept(Kept::Nothing)),
                text => {
                    let sure = if text.ends_with('!') { -0.25 } else { -2.0 };
                    Ok(Rewrite::plain(format!("first {}", text.trim_end_matches('!'))).with_confidence(sure))
                }
            };
            queries.iter().map(one).collect()
        }
    }

    #[test]
    fn with_a_least_confidence_each_query_has_the_model_s_answer_or_the_one_without_it() {
        let texts = ["try!", "try", "nothing", "unwritable", "BROKEN"];
        let queries: Vec<Query> = texts.iter().enumerate().map(|(i, t)| Query::new(format!("q{i}"), *t)).collect();
        let judged = Judgements::new(vec![(1, 1)]);
        let pairs: Vec<(&Query, &Judgements)> = queries.iter().map(|q| (q, &judged)).collect();
        let (measures, catalog) = (["RR@5".parse().unwrap()], catalog());
        let evaluation = Evaluation { catalog: &catalog, queries: &pairs, measures: &measures, batch: 8 };
        let run = |rewriter: &dyn Rewriter| evaluation.run(rewriter, &fixed(), &()).unwrap();
        let (trained, without) = (run(&Sure), run(&querywright_stack::Identity));
        let got = evaluation.gated(&trained, &without, -1.0).unwrap();
        let searched: Vec<&str> = got.rewrites.iter().map(|rewrite| rewrite.text.as_str()).collect();
        assert_eq!(searched, ["first try", "try", "nothing", "unwritable", "BROKEN"]);
        // "try" and "BROKEN" for the confidence, "nothing" because the model said so.
        assert_eq!((got.system.kept, got.system.fallbacks, got.system.faults), (3, 1, 1));
        assert_eq!(got.rewrites[1].kept, Some(Kept::LowConfidence));
        assert_eq!(got.run.rankings.len(), 4);
        let all = evaluation.gated(&trained, &without, -5.0).unwrap();
        assert_eq!((&all.rewrites, all.system.kept), (&trained.rewrites, 1));
        let fewer = Evaluation { queries: &pairs[1..], ..evaluation };
        assert!(fewer.gated(&trained, &without, -1.0).unwrap_err().to_string().contains("the same queries"));
    }

    /// Puts document 0 first.
    struct Orders;

    impl Rewriter for Orders {
        fn name(&self) -> &str {
            "orders"
        }

        fn rewrite(&self, queries: &[Query], _: Deadline) -> Vec<Result<Rewrite>> {
            let order = || querywright_types::Order::new(vec![0], 2);
            queries.iter().map(|q| Ok(Rewrite::plain(q.text.clone()).with_order(order()))).collect()
        }
    }

    #[test]
    fn an_order_is_measured_and_shown_by_ids_although_trec_eval_orders_equal_scores_by_itself() {
        let (query, judged) = (Query::new("q", "TIED"), Judgements::new(vec![(0, 1)]));
        let (pairs, measures, catalog) = ([(&query, &judged)], ["RR@5".parse().unwrap()], catalog());
        let evaluation = Evaluation { catalog: &catalog, queries: &pairs, measures: &measures, batch: 8 };
        let run = |rewriter: &dyn Rewriter| evaluation.run(rewriter, &fixed(), &()).unwrap();
        let (ordered, plain) = (run(&Orders), run(&querywright_stack::Identity));
        assert_eq!((ordered.shown, plain.shown), (vec!["TIED -> a".to_owned()], vec!["TIED".to_owned()]));
        let value = |found: &System| found.values(measures[0]).unwrap()[0];
        assert_eq!((value(&ordered.system), value(&plain.system)), (1.0, 0.5));
    }

    #[test]
    fn nothing_to_measure_is_refused() {
        let catalog = catalog();
        let refused = |queries: &[(&Query, &Judgements)], measures: &[Measure]| {
            let evaluation = Evaluation { catalog: &catalog, queries, measures, batch: 1 };
            evaluation.run(&Shout, &fixed(), &()).unwrap_err().to_string()
        };
        let (query, judged) = (Query::text("x"), Judgements::default());
        assert!(refused(&[], &[Measure::NDCG_10]).contains("no judged query"));
        assert!(refused(&[(&query, &judged)], &[]).contains("nDCG@10"));
    }
}
