//! One ranking out of several retrievers' over the same catalogue.
//!
//! A document's score is the sum of its parts, one a retriever, times the weights of the retrievers; a retriever that
//! does not return it adds nothing. There are two kinds of parts:
//!
//! - [`FusionMethod::ReciprocalRank`]: `1 / (constant + rank)`, ranks counted from 1 (Cormack, Clarke and Büttcher,
//!   SIGIR 2009). Scores of different retrievers need not be comparable.
//! - [`FusionMethod::Scores`]: the score as a share of the best of its ranking (Bruch, Gai and Ingber, TOIS 2023). How
//!   far ahead the first ones are counts.

use std::collections::HashMap;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use querywright_types::{
    Deadline, DocumentName, Error, Fault, Hit, Ordinal, QueryLanguage, Ranking, Request, Result, Retriever,
    RetrieverCard, hex, retrieve,
};

/// The constant of reciprocal rank fusion by default: how little the first ranks stand out.
const CONSTANT: f64 = 60.0;

/// How deep each retriever is asked at least, whatever the request's k.
const LEAST_DEPTH: usize = 100;

/// What weights may be: sums then keep their digits in single precision.
const WEIGHTS: std::ops::RangeInclusive<f64> = 1e-3..=1e3;

/// What the constant of reciprocal rank fusion may be: neighbouring ranks then keep different scores.
const CONSTANTS: std::ops::RangeInclusive<f64> = 0.0..=1e3;

/// How rankings become one.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum FusionMethod {
    /// By ranks.
    ReciprocalRank {
        /// What is added to each rank, from 0 to 1,000. The usual 60 lets what stands in every ranking win; with 5 the
        /// first ranks of a single one do.
        constant: f64,
    },
    /// By scores. They count from 0, or from the lowest of a ranking that has some below 0. Better than ranks where a
    /// retriever's scores say how sure it is.
    Scores,
}

impl Default for FusionMethod {
    fn default() -> Self {
        Self::ReciprocalRank { constant: CONSTANT }
    }
}

/// Several retrievers over the same catalogue, as one.
pub struct Fusion {
    retrievers: Vec<Arc<dyn Retriever>>,
    weights: Vec<f64>,
    method: FusionMethod,
    card: RetrieverCard,
}

impl std::fmt::Debug for Fusion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fusion").field("card", &self.card).finish_non_exhaustive()
    }
}

impl Fusion {
    /// Fuses retrievers, which must rank the same catalogue, by reciprocal rank with the constant 60 and equal weights.
    /// The card offers the languages and fields that all of them read, in the first one's order of preference; those
    /// that read no text are not asked.
    ///
    /// # Errors
    /// Those of [`weighted`](Self::weighted).
    pub fn new(retrievers: Vec<Arc<dyn Retriever>>) -> Result<Self> {
        let parts = retrievers.into_iter().map(|retriever| (retriever, 1.0)).collect();
        Self::weighted(parts, FusionMethod::default())
    }

    /// Fuses retrievers with a weight each.
    ///
    /// # Errors
    /// [`Error::Argument`] for an empty list, for a weight outside 0.001 to 1,000 (leave out what is to have none),
    /// for a constant outside 0 to 1,000, and where the retrievers count different numbers of documents.
    pub fn weighted(parts: Vec<(Arc<dyn Retriever>, f64)>, method: FusionMethod) -> Result<Self> {
        check(&parts, method)?;
        let card = fused_card(&parts, method)?;
        let (retrievers, weights) = parts.into_iter().unzip();
        Ok(Self { retrievers, weights, method, card })
    }
}

fn check(parts: &[(Arc<dyn Retriever>, f64)], method: FusionMethod) -> Result<()> {
    if let FusionMethod::ReciprocalRank { constant } = method
        && !CONSTANTS.contains(&constant)
    {
        return Err(Error::argument("constant", format!("found {constant}"), "give a number from 0 to 1000"));
    }
    let mut counted: Option<(&str, usize)> = None;
    for (retriever, weight) in parts {
        let card = retriever.card();
        if !WEIGHTS.contains(weight) {
            let remedy = "give a number from 0.001 to 1000, or leave the retriever out";
            return Err(Error::argument("weight", format!("found {weight} for {}", card.name), remedy));
        }
        match (counted, card.documents) {
            (Some((first, count)), Some(documents)) if count != documents => {
                let found = format!("{first} counts {count} documents, and {} {documents}", card.name);
                return Err(Error::argument("retrievers", found, "fuse retrievers of the same catalogue"));
            }
            (None, Some(documents)) => counted = Some((&card.name, documents)),
            _ => {}
        }
    }
    Ok(())
}

/// The card of a fusion.
fn fused_card(parts: &[(Arc<dyn Retriever>, f64)], method: FusionMethod) -> Result<RetrieverCard> {
    let cards = || parts.iter().map(|part| part.0.card());
    let Some(first) = cards().next() else {
        return Err(Error::argument("retrievers", "an empty list", "name at least one retriever to fuse"));
    };
    // What reads no text is as good with any.
    let readers = || cards().filter(|card| card.reads_text);
    let mut languages = readers().next().map(|card| card.languages.clone()).unwrap_or_default();
    languages.retain(|language| readers().all(|card| card.languages.contains(language)));
    if languages.is_empty() {
        // Every retriever takes a text in a language that it does not speak as plain words.
        languages.push(QueryLanguage::Plain);
    }
    let mut fields = readers().next().map(|card| card.fields.clone()).unwrap_or_default();
    fields.retain(|field| readers().all(|card| card.fields.contains(field)));
    let mut hasher = Sha256::new();
    for card in cards() {
        hasher.update(format!("{}:{}", card.digest.len(), card.digest));
    }
    let plain = method == FusionMethod::default() && parts.iter().all(|part| part.1 == 1.0);
    if !plain {
        let weights: Vec<f64> = parts.iter().map(|part| part.1).collect();
        hasher.update(format!("{method:?} {weights:?}"));
    }
    let names = parts.iter().map(|(retriever, weight)| match *weight == 1.0 {
        true => retriever.card().name.clone(),
        false => format!("{}^{weight}", retriever.card().name),
    });
    let how = if method == FusionMethod::Scores { "scores" } else { "rrf" };
    let name = format!("{how}({})", names.collect::<Vec<_>>().join(","));
    let mut card = RetrieverCard::new(name, hex(hasher.finalize()))
        .with_version(env!("CARGO_PKG_VERSION"))
        .with_languages(languages)
        .with_fields(fields)
        .with_text(readers().next().is_some())
        .with_history(cards().any(|card| card.reads_history))
        .with_content(readers().next().unwrap_or(first).content.clone());
    card.documents = cards().find_map(|card| card.documents);
    Ok(card)
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
                let rankings = rankings.into_iter().collect::<Result<Vec<_>, _>>()?;
                let weighted: Vec<_> = self.weights.iter().copied().zip(&rankings).collect();
                Ok(fuse(&weighted, self.method, request.k))
            })
            .collect()
    }

    /// What the first of the retrievers that knows it calls it.
    fn document(&self, document: Ordinal) -> Option<DocumentName> {
        self.retrievers.iter().find_map(|retriever| retriever.document(document))
    }
}

/// Fuses rankings of the same catalogue by reciprocal rank with the constant 60: the best `k`; of equal scores the
/// lower ordinal goes first.
pub fn reciprocal_rank_fusion(rankings: &[Ranking], k: usize) -> Ranking {
    let weighted: Vec<(f64, &Ranking)> = rankings.iter().map(|ranking| (1.0, ranking)).collect();
    fuse(&weighted, FusionMethod::default(), k)
}

/// Fuses rankings of the same catalogue, each with a weight above 0: the best `k`; of equal scores the lower ordinal
/// goes first. Where one alone has hits, its order stays, also that of equal scores.
pub fn fuse(rankings: &[(f64, &Ranking)], method: FusionMethod, k: usize) -> Ranking {
    let mut sums: HashMap<Ordinal, f64> = HashMap::new();
    for (weight, ranking) in rankings {
        let scale = Scale::of(ranking);
        for (rank, hit) in ranking.hits.iter().enumerate() {
            *sums.entry(hit.doc).or_default() += match method {
                FusionMethod::ReciprocalRank { constant } => weight / (constant + 1.0 + rank as f64),
                FusionMethod::Scores => weight * scale.share(hit.score),
            };
        }
    }
    let fused = |doc: Ordinal, sum: f64| Hit { doc, score: sum as f32 };
    let mut hits: Vec<Hit> = match answered(rankings) {
        Some(ranking) => ranking.hits.iter().map(|hit| fused(hit.doc, sums[&hit.doc])).collect(),
        None => {
            let mut hits: Vec<Hit> = sums.into_iter().map(|(doc, sum)| fused(doc, sum)).collect();
            hits.sort_unstable_by(|a, b| b.score.total_cmp(&a.score).then(a.doc.cmp(&b.doc)));
            hits
        }
    };
    hits.truncate(k);
    Ranking { hits }
}

/// The ranking that alone has hits.
fn answered<'r>(rankings: &[(f64, &'r Ranking)]) -> Option<&'r Ranking> {
    let mut with_hits = rankings.iter().map(|(_, ranking)| *ranking).filter(|ranking| !ranking.hits.is_empty());
    with_hits.next().filter(|_| with_hits.next().is_none())
}

/// The scores of a ranking, from what counts as 0 to the best.
struct Scale {
    lowest: f64,
    best: f64,
}

impl Scale {
    fn of(ranking: &Ranking) -> Self {
        let score = |hit: Option<&Hit>| hit.map_or(0.0, |hit| f64::from(hit.score));
        Self { lowest: score(ranking.hits.last()).min(0.0), best: score(ranking.hits.first()) }
    }

    /// A score as a share of the best. Scores that are all equal are all the best.
    fn share(&self, score: f32) -> f64 {
        if self.best > self.lowest { (f64::from(score) - self.lowest) / (self.best - self.lowest) } else { 1.0 }
    }
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

    fn ranking(hits: &[(Ordinal, f32)]) -> Ranking {
        Ranking { hits: hits.iter().map(|(doc, score)| Hit { doc: *doc, score: *score }).collect() }
    }

    fn fused(rankings: &[(f64, &[(Ordinal, f32)])], method: FusionMethod, k: usize) -> Vec<(Ordinal, f32)> {
        let owned: Vec<Ranking> = rankings.iter().map(|(_, hits)| ranking(hits)).collect();
        let weighted: Vec<(f64, &Ranking)> = rankings.iter().map(|part| part.0).zip(&owned).collect();
        fuse(&weighted, method, k).hits.iter().map(|hit| (hit.doc, hit.score)).collect()
    }

    const A: &[(Ordinal, f32)] = &[(5, 8.0), (3, 6.0), (1, 2.0)];
    const B: &[(Ordinal, f32)] = &[(9, 0.4), (3, 0.1)];

    #[test]
    fn ranks_count_by_the_weights_of_their_rankings() {
        let by_rank = |constant, a, b| fused(&[(a, A), (b, B)], FusionMethod::ReciprocalRank { constant }, 9);
        // 5: 1/2, 3: 1/3 + 2/3, 1: 1/4, 9: 2/2.
        assert_eq!(by_rank(1.0, 1.0, 2.0), [(3, 1.0), (9, 1.0), (5, 0.5), (1, 0.25)]);
        assert_eq!(by_rank(1.0, 4.0, 1.0).iter().map(|hit| hit.0).collect::<Vec<_>>(), [5, 3, 1, 9]);
        let even = Ranking { hits: fuse(&[(1.0, &ranking(A)), (1.0, &ranking(B))], FusionMethod::default(), 9).hits };
        assert_eq!(even, reciprocal_rank_fusion(&[ranking(A), ranking(B)], 9));
    }

    #[test]
    fn scores_count_as_shares_of_the_best_of_their_ranking() {
        let by_score =
            |a: &[(Ordinal, f32)], b: &[(Ordinal, f32)]| fused(&[(1.0, a), (0.5, b)], FusionMethod::Scores, 9);
        // 5: 1, 3: 6/8 + 0.5 * 0.1/0.4, 1: 2/8, 9: 0.5.
        let hits = by_score(A, B);
        assert_eq!(hits.iter().map(|hit| hit.0).collect::<Vec<_>>(), [5, 3, 9, 1]);
        assert!((hits[1].1 - 0.875).abs() < 1e-6 && hits[3].1 == 0.25);
        // Below 0 the lowest counts as 0: 2 has 1, 4 has 1/4, 6 has nothing.
        assert_eq!(by_score(&[(2, 1.0), (4, -2.0), (6, -3.0)], &[(6, 7.0)]), [(2, 1.0), (6, 0.5), (4, 0.25)]);
        // All equal, and at the ends of what a score can be.
        assert_eq!(by_score(&[(2, 0.0), (4, 0.0)], &[(6, -1.0)]), [(2, 1.0), (4, 1.0), (6, 0.5)]);
        assert_eq!(by_score(&[(2, f32::MAX), (4, f32::MIN)], &[(4, 1.0)]), [(2, 1.0), (4, 0.5)]);
    }

    #[test]
    fn where_one_retriever_alone_answers_its_order_stays() {
        let ties: &[(Ordinal, f32)] = &[(7, 2.0), (4, 1.0), (2, 1.0), (9, 0.0)];
        for method in [FusionMethod::Scores, FusionMethod::default(), FusionMethod::ReciprocalRank { constant: 0.0 }] {
            for weighted in [&[(0.3, ties), (2.0, &[][..])], &[(1.0, &[][..]), (0.7, ties)]] {
                let docs: Vec<Ordinal> = fused(weighted, method, 3).into_iter().map(|hit| hit.0).collect();
                assert_eq!(docs, [7, 4, 2], "{method:?}");
            }
            assert!(fused(&[(1.0, &[]), (1.0, &[])], method, 3).is_empty());
        }
        let (a, b) = (fixed("a", &[], Ok(vec![8, 6])), fixed("b", &[], Ok(vec![])));
        let fusion = Fusion::weighted(vec![(a, 0.5), (b, 3.0)], FusionMethod::Scores).unwrap();
        let hits = retrieve(&fusion, &[request(5)], Deadline::NONE).remove(0).unwrap().hits;
        assert_eq!(hits.iter().map(|hit| hit.doc).collect::<Vec<_>>(), [8, 6]);
    }

    /// A retriever that reads histories alone.
    fn sequences(documents: usize) -> Arc<dyn Retriever> {
        let card = RetrieverCard::new("next", "n").with_text(false).with_history(true).with_documents(documents);
        Arc::new(Fixed { card, answer: Ok(vec![1]) })
    }

    #[test]
    fn what_reads_no_text_takes_no_language_and_no_field_away() {
        use QueryLanguage::{Boolean, Plain};
        let a = || fixed("a", &[Boolean, Plain], Ok(vec![1]));
        for parts in [vec![(a(), 1.0), (sequences(4), 0.5)], vec![(sequences(4), 0.5), (a(), 1.0)]] {
            let fusion = Fusion::weighted(parts, FusionMethod::Scores).unwrap();
            let card = fusion.card();
            assert_eq!((card.languages.as_slice(), card.fields.len()), ([Boolean, Plain].as_slice(), 2));
            assert!(card.reads_text && card.reads_history && card.documents == Some(4));
            assert!(["scores(a,next^0.5)", "scores(next^0.5,a)"].contains(&card.name.as_str()), "{}", card.name);
        }
        let blind = Fusion::new(vec![sequences(4)]).unwrap();
        assert!(!blind.card().reads_text && blind.card().languages == [Plain]);
    }

    #[test]
    fn weights_and_method_are_in_the_digest() {
        let digest = |weight, method| {
            let parts = vec![(fixed("a", &[], Ok(vec![])), 1.0), (fixed("b", &[], Ok(vec![])), weight)];
            Fusion::weighted(parts, method).unwrap().card().digest.clone()
        };
        let other = FusionMethod::ReciprocalRank { constant: 5.0 };
        let digests = [digest(1.0, FusionMethod::default()), digest(2.0, FusionMethod::default()), digest(1.0, other)];
        assert!(digests[0] != digests[1] && digests[0] != digests[2] && digests[1] != digests[2]);
        assert!(!digests.contains(&digest(1.0, FusionMethod::Scores)));
        let plain = Fusion::new(vec![fixed("a", &[], Ok(vec![])), fixed("b", &[], Ok(vec![]))]).unwrap();
        assert_eq!(plain.card().digest, digests[0]);
        assert_eq!(plain.card().digest, hex(Sha256::digest(b"1:a1:b")), "as before there were weights");
    }

    #[test]
    fn settings_without_a_meaning_and_retrievers_of_other_catalogues_are_refused() {
        let refused = |parts, method, part: &str| {
            let error = Fusion::weighted(parts, method).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        let a = || fixed("a", &[], Ok(vec![]));
        for weight in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e300, 1e-300] {
            refused(vec![(a(), weight)], FusionMethod::Scores, "for a; give a number from 0.001");
        }
        for constant in [-1.0, f64::NAN, 1e9] {
            refused(vec![(a(), 1.0)], FusionMethod::ReciprocalRank { constant }, "constant: found");
        }
        let two = vec![(a(), 1.0), (sequences(4), 1.0), (sequences(5), 1.0)];
        refused(two, FusionMethod::default(), "next counts 4 documents, and next 5");
        refused(vec![], FusionMethod::Scores, "at least one retriever");
    }
}
