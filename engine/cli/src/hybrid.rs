//! `hybrid` and `hybrid-scores`: BM25 and vectors in one ranking, with a weight that tuning finds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use querywright::encode::{DenseConfig, HybridFusion};
use querywright::evaluate::FusionWeight;
use querywright::rewrite::RewriterFile;
use querywright::stack::{Fusion, FusionMethod};
use querywright::types::{
    Deadline, DocumentName, Fault, FaultKind, Ordinal, QueryLanguage, Ranking, Request, Retriever, RetrieverCard,
    retrieve,
};
use querywright::{Error, Result};

/// The weight of the vectors' ranking where none is given: as BM25's.
pub const DEFAULT: f64 = 1.0;
/// The weights that tuning tries beside the one that it begins with.
const TRIED: [f64; 11] = [0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 3.0, 5.0, 10.0];
/// The key of the weight in a configuration.
pub const KEY: &str = "retriever.dense.hybrid";

/// The method and the weight of `hybrid`, `hybrid-scores` or `hybrid=0.5`; none for other names. One that is given stays,
/// the other is tuned where something is learned.
pub fn named(text: &str) -> Result<Option<DenseConfig>> {
    let (name, given) = text.split_once('=').map_or((text, None), |(name, given)| (name, Some(given)));
    let fusion = match name {
        "hybrid" => HybridFusion::Ranks,
        "hybrid-scores" => HybridFusion::Scores,
        _ => return Ok(None),
    };
    let weight = match given {
        None => DEFAULT,
        Some(given) => {
            let parsed = given.parse::<f64>().ok().filter(|weight| (0.001..=1000.0).contains(weight));
            parsed.ok_or_else(|| {
                let remedy =
                    format!("give the weight of the vectors' ranking beside BM25's, from 0.001 to 1000, as {name}=0.5");
                Error::argument(format!("--retriever {name}"), format!("the weight is \"{given}\""), remedy)
            })?
        }
    };
    Ok(Some(DenseConfig { hybrid: Some(weight), fusion, tune_hybrid: given.is_none(), ..DenseConfig::default() }))
}

/// BM25 and vectors over the same catalogue.
#[derive(Clone)]
pub struct Hybrid {
    words: Arc<dyn Retriever>,
    vectors: Arc<dyn Retriever>,
    fusion: HybridFusion,
    /// The weight of the vectors' ranking against 1 for BM25's.
    weight: f64,
    /// Whether tuning may change the weight.
    tuned: bool,
}

impl Hybrid {
    /// As a configuration with a weight says.
    pub fn new(words: Arc<dyn Retriever>, vectors: Arc<dyn Retriever>, config: &DenseConfig) -> Self {
        let weight = config.hybrid.unwrap_or(DEFAULT);
        Self { words, vectors, fusion: config.fusion, weight, tuned: config.tune_hybrid }
    }

    /// One ranking of both.
    pub fn fused(&self) -> Result<Arc<dyn Retriever>> {
        let method = match self.fusion {
            HybridFusion::Scores => FusionMethod::Scores,
            _ => FusionMethod::default(),
        };
        let parts = vec![(self.words.clone(), 1.0), (self.vectors.clone(), self.weight)];
        Ok(Arc::new(Fusion::weighted(parts, method)?))
    }

    /// The same with another weight.
    pub fn with(self, weight: f64) -> Self {
        Self { weight, ..self }
    }

    /// The same, which ranks by vectors once for a request, however often it is asked. What it answered stays in memory.
    pub fn remembering(self) -> Self {
        Self { vectors: Arc::new(Remembered { retriever: self.vectors, answers: Mutex::default() }), ..self }
    }

    /// What tuning may try; none where the weight was given.
    pub fn tunable(&self) -> Option<FusionWeight> {
        let weight = FusionWeight { key: KEY.to_owned(), start: self.weight, values: TRIED.to_vec() };
        self.tuned.then_some(weight)
    }

    /// Keeps the weight in a file, under the name of the way in which the rankings become one: it means nothing for the
    /// other.
    pub fn write(&self, file: &mut RewriterFile) {
        let (weight, other) = match self.fusion {
            HybridFusion::Scores => (&mut file.hybrid_scores, &mut file.hybrid),
            _ => (&mut file.hybrid, &mut file.hybrid_scores),
        };
        (*weight, *other) = (Some(self.weight), None);
    }
}

/// The weight that a file has for this way of fusing.
pub fn in_file(file: &RewriterFile, fusion: HybridFusion) -> Option<f64> {
    match fusion {
        HybridFusion::Scores => file.hybrid_scores,
        _ => file.hybrid,
    }
}

/// A retriever whose answers are remembered. To encode a query takes milliseconds, and tuning asks for the same ones with
/// every weight.
struct Remembered {
    retriever: Arc<dyn Retriever>,
    answers: Mutex<HashMap<Asked, Ranking>>,
}

/// All that decides an answer.
type Asked = (String, QueryLanguage, Vec<Ordinal>, Vec<Ordinal>, usize);

fn asked(request: &Request) -> Asked {
    let Request { text, language, history, exclude, k, .. } = request;
    (text.clone(), *language, history.clone(), exclude.clone(), *k)
}

impl Retriever for Remembered {
    fn card(&self) -> &RetrieverCard {
        self.retriever.card()
    }

    fn retrieve(&self, requests: &[Request], deadline: Deadline) -> Vec<std::result::Result<Ranking, Fault>> {
        let known = || self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let held: Vec<Option<Ranking>> = {
            let known = known();
            requests.iter().map(|request| known.get(&asked(request)).cloned()).collect()
        };
        let unknown = requests.iter().zip(&held).filter(|(_, held)| held.is_none());
        let new: Vec<Request> = unknown.map(|(request, _)| request.clone()).collect();
        let mut answers = retrieve(&self.retriever, &new, deadline).into_iter();
        let mut known = known();
        let missing = || Err(Fault::new("hybrid", FaultKind::Contract, "a request without an answer"));
        let mut answer = |request: &Request| -> std::result::Result<Ranking, Fault> {
            // A fault is not remembered.
            let ranking = answers.next().unwrap_or_else(missing)?;
            known.insert(asked(request), ranking.clone());
            Ok(ranking)
        };
        held.into_iter().zip(requests).map(|(held, request)| held.map_or_else(|| answer(request), Ok)).collect()
    }

    fn document(&self, document: Ordinal) -> Option<DocumentName> {
        self.retriever.document(document)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use querywright::types::Hit;

    use super::*;

    /// Ranks the documents that it is given, counts what it is asked, and fails where the text is "fault".
    struct Counted(RetrieverCard, Vec<Hit>, AtomicUsize);

    impl Counted {
        fn new(name: &str, hits: &[(Ordinal, f32)]) -> Arc<Self> {
            let hits = hits.iter().map(|(doc, score)| Hit { doc: *doc, score: *score }).collect();
            Arc::new(Self(RetrieverCard::new(name, name), hits, AtomicUsize::new(0)))
        }
    }

    impl Retriever for Counted {
        fn card(&self) -> &RetrieverCard {
            &self.0
        }

        fn retrieve(&self, requests: &[Request], _: Deadline) -> Vec<std::result::Result<Ranking, Fault>> {
            self.2.fetch_add(requests.len(), Ordering::Relaxed);
            let answer = |request: &Request| match request.text.as_str() {
                "fault" => Err(Fault::new("dense", FaultKind::Index, "broken")),
                _ => Ok(Ranking { hits: self.1.iter().take(request.k).copied().collect() }),
            };
            requests.iter().map(answer).collect()
        }
    }

    #[test]
    fn a_name_says_how_rankings_are_fused_and_a_weight_that_is_given_stays() {
        let of = |text: &str| {
            let config = named(text).unwrap().unwrap();
            (config.hybrid, config.fusion, config.tune_hybrid)
        };
        assert_eq!(of("hybrid"), (Some(1.0), HybridFusion::Ranks, true));
        assert_eq!(of("hybrid=0.5"), (Some(0.5), HybridFusion::Ranks, false));
        assert_eq!(of("hybrid-scores"), (Some(1.0), HybridFusion::Scores, true));
        assert_eq!(of("hybrid-scores=2"), (Some(2.0), HybridFusion::Scores, false));
        for other in ["hybrids", "dense", "hybrid-score=1", "bm25"] {
            assert_eq!(named(other).unwrap(), None, "{other}");
        }
        for wrong in ["hybrid-scores=", "hybrid=0", "hybrid-scores=NaN", "hybrid=inf", "hybrid-scores=-1"] {
            let refused = named(wrong).unwrap_err().to_string();
            assert!(refused.contains("from 0.001 to 1000"), "{refused}");
        }
    }

    #[test]
    fn the_weight_of_one_way_of_fusing_is_not_taken_for_the_other() {
        let (words, vectors) = (Counted::new("bm25", &[(1, 9.0), (2, 1.0)]), Counted::new("dense", &[(2, 0.9)]));
        let hybrid = |name: &str| Hybrid::new(words.clone(), vectors.clone(), &named(name).unwrap().unwrap());
        let mut file = RewriterFile::new(querywright::rewrite::Serve::Tuned);
        hybrid("hybrid-scores").with(0.35).write(&mut file);
        assert_eq!(in_file(&file, HybridFusion::Scores), Some(0.35));
        assert_eq!(in_file(&file, HybridFusion::Ranks), None);
        hybrid("hybrid=3").write(&mut file);
        assert_eq!((file.hybrid, file.hybrid_scores), (Some(3.0), None));
        let first = |hybrid: Hybrid| {
            let fused = hybrid.fused().unwrap();
            retrieve(&fused, &[Request::plain("x", 1)], Deadline::NONE)[0].clone().unwrap().hits[0].doc
        };
        assert_eq!((first(hybrid("hybrid-scores=0.5")), first(hybrid("hybrid-scores=2"))), (1, 2));
        assert!(hybrid("hybrid=2").tunable().is_none() && hybrid("hybrid").tunable().is_some());
        let name = hybrid("hybrid-scores=2").fused().unwrap().card().name.clone();
        assert_eq!(name, "scores(bm25,dense^2)");
    }

    #[test]
    fn vectors_are_asked_once_for_a_request_and_again_after_a_fault() {
        let (words, vectors) = (Counted::new("bm25", &[(1, 9.0)]), Counted::new("dense", &[(2, 0.9), (1, 0.3)]));
        let hybrid = Hybrid::new(words, vectors.clone(), &named("hybrid").unwrap().unwrap()).remembering();
        let asked = |texts: &[&str], weight: f64| {
            let requests: Vec<Request> = texts.iter().map(|text| Request::plain(*text, 5)).collect();
            let before = vectors.2.load(Ordering::Relaxed);
            let answers = retrieve(&hybrid.clone().with(weight).fused().unwrap(), &requests, Deadline::NONE);
            (
                answers.iter().map(|answer| answer.is_ok()).collect::<Vec<_>>(),
                vectors.2.load(Ordering::Relaxed) - before,
            )
        };
        // The fault is of the first part, too: what matters is how often the vectors are asked.
        assert_eq!(asked(&["a", "fault", "b"], 1.0), (vec![true, false, true], 3));
        assert_eq!(asked(&["b", "a", "c"], 0.5), (vec![true; 3], 1));
        assert_eq!(asked(&["fault", "a"], 2.0), (vec![false, true], 1));
    }
}
