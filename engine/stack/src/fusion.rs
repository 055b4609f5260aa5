//! Reciprocal rank fusion: one ranking out of several retrievers' (Cormack, Clarke and Büttcher, SIGIR 2009).
//!
//! A document's score is the sum over the retrievers of `1 / (60 + rank)`, ranks counted from 1; a retriever that does
//! not return it adds nothing. Scores of different retrievers need not be comparable.

use std::collections::HashMap;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use querywright_types::{
    Deadline, Error, Fault, Hit, Ordinal, QueryLanguage, Ranking, Request, Result, Retriever, RetrieverCard, hex,
    retrieve,
};

/// The constant of the formula: how little the first ranks stand out.
const K: f64 = 60.0;

/// How deep each retriever is asked at least, whatever the request's k.
const LEAST_DEPTH: usize = 100;

/// Several retrievers over the same catalogue, as one.
pub struct Fusion {
    retrievers: Vec<Arc<dyn Retriever>>,
    card: RetrieverCard,
}

impl std::fmt::Debug for Fusion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fusion").field("card", &self.card).finish_non_exhaustive()
    }
}

impl Fusion {
    /// Fuses retrievers, which must rank the same catalogue. The card offers the languages and fields that all of them
    /// read, in the first one's order of preference.
    ///
    /// # Errors
    /// [`Error::Argument`] for an empty list.
    pub fn new(retrievers: Vec<Arc<dyn Retriever>>) -> Result<Self> {
        let Some(first) = retrievers.first().map(|r| r.card().clone()) else {
            return Err(Error::argument("retrievers", "an empty list", "name at least one retriever to fuse"));
        };
        let cards = || retrievers.iter().map(|r| r.card());
        let mut languages = first.languages;
        languages.retain(|language| cards().all(|card| card.languages.contains(language)));
        if languages.is_empty() {
            // Every retriever takes a text in a language that it does not speak as plain words.
            languages.push(QueryLanguage::Plain);
        }
        let mut fields = first.fields;
        fields.retain(|field| cards().all(|card| card.fields.contains(field)));
        let mut hasher = Sha256::new();
        for card in cards() {
            hasher.update(format!("{}:{}", card.digest.len(), card.digest));
        }
        let name = format!("rrf({})", cards().map(|card| card.name.as_str()).collect::<Vec<_>>().join(","));
        let digest = hex(hasher.finalize());
        let mut card = RetrieverCard::new(name, digest)
            .with_version(env!("CARGO_PKG_VERSION"))
            .with_languages(languages)
            .with_fields(fields)
            .with_history(cards().any(|card| card.reads_history))
            .with_content(first.content);
        card.documents = first.documents;
        Ok(Self { retrievers, card })
    }
}

impl Retriever for Fusion {
    fn card(&self) -> &RetrieverCard {
        &self.card
    }

    /// A request fails where any retriever fails: a fusion of the others would be another ranking under the same name.
    fn retrieve(&self, requests: &[Request], deadline: Deadline) -> Vec<Result<Ranking, Fault>> {
        let deeper: Vec<Request> = requests.iter().map(|r| r.clone().with_k(r.k.max(LEAST_DEPTH))).collect();
        let mut answers: Vec<_> = self.retrievers.iter().map(|r| retrieve(r, &deeper, deadline).into_iter()).collect();
        requests
            .iter()
            .map(|request| {
                // Every retriever's answer is taken before any is judged, so that the next request meets its own.
                let rankings: Vec<_> = answers.iter_mut().filter_map(Iterator::next).collect();
                Ok(reciprocal_rank_fusion(&rankings.into_iter().collect::<Result<Vec<_>, _>>()?, request.k))
            })
            .collect()
    }
}

/// Fuses rankings of the same catalogue: the best `k`; of equal scores the lower ordinal goes first.
pub fn reciprocal_rank_fusion(rankings: &[Ranking], k: usize) -> Ranking {
    let mut sums: HashMap<Ordinal, f64> = HashMap::new();
    for ranking in rankings {
        for (rank, hit) in ranking.hits.iter().enumerate() {
            *sums.entry(hit.doc).or_default() += 1.0 / (K + 1.0 + rank as f64);
        }
    }
    let mut hits: Vec<Hit> = sums.into_iter().map(|(doc, score)| Hit { doc, score: score as f32 }).collect();
    hits.sort_unstable_by(|a, b| b.score.total_cmp(&a.score).then(a.doc.cmp(&b.doc)));
    hits.truncate(k);
    Ranking { hits }
}

#[cfg(test)]
mod tests {
    use querywright_types::FaultKind;

    use super::*;

    /// Answers every request with the same documents.
    struct Fixed {
        card: RetrieverCard,
        answer: Result<Vec<Ordinal>, Fault>,
    }

    impl Retriever for Fixed {
        fn card(&self) -> &RetrieverCard {
            &self.card
        }

        fn retrieve(&self, requests: &[Request], _: Deadline) -> Vec<Result<Ranking, Fault>> {
            let ranking =
                |docs: Vec<Ordinal>| Ranking { hits: docs.into_iter().map(|doc| Hit { doc, score: 1.0 }).collect() };
            requests.iter().map(|_| self.answer.clone().map(ranking)).collect()
        }
    }

    fn fixed(name: &str, languages: &[QueryLanguage], answer: Result<Vec<Ordinal>, Fault>) -> Arc<dyn Retriever> {
        let card = RetrieverCard::new(name, name)
            .with_languages(languages.iter().copied())
            .with_fields([name, "title"])
            .with_history(name == "b");
        Arc::new(Fixed { card, answer })
    }

    fn request(k: usize) -> Request {
        Request::plain("x", k)
    }

    #[test]
    fn a_document_ranked_twice_beats_one_ranked_higher_once() {
        use QueryLanguage::{Boolean, Natural, Plain};
        let a = fixed("a", &[Boolean, Plain], Ok(vec![5, 3, 1]));
        let b = fixed("b", &[Plain, Natural], Ok(vec![9, 3]));
        let fusion = Fusion::new(vec![a, b]).unwrap();
        let rankings = fusion.retrieve(&[request(3), request(1)], Deadline::NONE);
        let hits = &rankings[0].as_ref().unwrap().hits;
        assert_eq!(hits.iter().map(|h| h.doc).collect::<Vec<_>>(), [3, 5, 9], "ties go to the lower ordinal");
        assert!((f64::from(hits[0].score) - 2.0 / 62.0).abs() < 1e-6);
        assert!((f64::from(hits[1].score) - 1.0 / 61.0).abs() < 1e-6);
        assert_eq!(rankings[1].as_ref().unwrap().hits.len(), 1);
        let card = fusion.card();
        assert_eq!((card.name.as_str(), card.languages.as_slice()), ("rrf(a,b)", [Plain].as_slice()));
        assert_eq!((card.fields.as_slice(), card.reads_history), (["title".to_owned()].as_slice(), true));
    }

    #[test]
    fn one_retrievers_fault_is_the_fusions_fault() {
        let broken = Fault::new("b", FaultKind::Timeout, "late");
        let a = fixed("a", &[QueryLanguage::Plain], Ok(vec![1]));
        let b = fixed("b", &[QueryLanguage::Natural], Err(broken.clone()));
        let fusion = Fusion::new(vec![a, b]).unwrap();
        assert_eq!(fusion.retrieve(&[request(5)], Deadline::NONE), [Err(broken)]);
        assert_eq!(fusion.card().languages, [QueryLanguage::Plain]);
    }

    /// Fails the first request only.
    struct FailsOnce(RetrieverCard, Fault);

    impl Retriever for FailsOnce {
        fn card(&self) -> &RetrieverCard {
            &self.0
        }

        fn retrieve(&self, requests: &[Request], _: Deadline) -> Vec<Result<Ranking, Fault>> {
            let hit = |n: usize| Ranking { hits: vec![Hit { doc: n as Ordinal, score: 1.0 }] };
            (0..requests.len()).map(|n| if n == 0 { Err(self.1.clone()) } else { Ok(hit(n)) }).collect()
        }
    }

    #[test]
    fn a_fault_of_one_request_does_not_shift_the_answers_of_the_others() {
        let fault = Fault::new("a", FaultKind::Network, "reset");
        let card = fixed("a", &[QueryLanguage::Plain], Ok(vec![])).card().clone();
        let a = || Arc::new(FailsOnce(card.clone(), fault.clone())) as Arc<dyn Retriever>;
        let rankings =
            Fusion::new(vec![a(), a()]).unwrap().retrieve(&[request(5), request(5), request(5)], Deadline::NONE);
        assert!(rankings[0].is_err());
        assert_eq!(rankings[1].as_ref().unwrap().hits[0].doc, 1);
        assert_eq!(rankings[2].as_ref().unwrap().hits, [Hit { doc: 2, score: (2.0 / 61.0) as f32 }]);
    }

    #[test]
    fn fusing_nothing_is_refused() {
        assert!(Fusion::new(vec![]).is_err_and(|e| e.to_string().contains("at least one retriever")));
    }
}
